"""λ-returns: n-step returns, GAE targets, termination and truncation in one recursion."""

import torch
from torch import Tensor


def lambda_returns(rewards: Tensor, discounts: Tensor, next_values: Tensor, lambda_: Tensor | float = 1.0) -> Tensor:
    """λ-return at every step of a rollout.

        G_t = r_t + γ_t ((1 - λ_t) v_{t+1} + λ_t G_{t+1}),    G_T = v_T

    Special cases, none of them a branch:
        γ_t = 0   step t terminated: G_t = r_t, whatever follows.
        λ_t = 0   step t was truncated: G_t = r_t + γ_t v_{t+1}, whatever follows.
        λ   = 1   the n-step return of A3C: R <- r + γR, begun at R = v_T.
        else      the targets of generalised advantage estimation: G_t - v_t is its advantage.

    A cut is exact: what lies behind γ_t = 0 or λ_t = 0 has no influence, not even if it is NaN.

    Args:
        rewards: r, [T, ...].
        discounts: γ at each step, [T, ...].
        next_values: v_{t+1}, [T, ...]; the value of the observation that step t led to. Gradients flow
            through it: detach it to use the returns as targets.
        lambda_: λ at each step, [T, ...], or one number.

    Returns:
        G, [T, ...].

    Source: Sutton & Barto 2018, eq. 12.18; A3C's special case is Mnih et al. 2016, algorithm S3.
    """
    lambda_ = torch.as_tensor(lambda_, dtype=rewards.dtype, device=rewards.device).expand_as(rewards)
    assert rewards.shape == discounts.shape == next_values.shape, (
        f"rewards {rewards.shape}, discounts {discounts.shape}, next_values {next_values.shape} must agree"
    )
    bootstrap_weights = discounts * (1 - lambda_)  # [T, ...]
    chain_weights = discounts * lambda_  # [T, ...]
    bootstrapped = rewards + _cut(bootstrap_weights, next_values)  # [T, ...]
    if not len(rewards):
        return bootstrapped
    returns = []
    following = next_values[-1]  # [...]
    rows = zip(bootstrapped.unbind(), chain_weights.unbind(), (chain_weights == 0).unbind(), strict=True)
    for reward, weight, cut in reversed(list(rows)):
        following = torch.where(cut, reward, torch.addcmul(reward, weight, following))
        returns.append(following)
    return torch.stack(returns[::-1])


def _cut(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value, and 0 where the weight is 0 (NaN times 0 is NaN)."""
    return torch.where(weight == 0, 0.0, weight * value)
