"""The actor-critic loss of A3C, on a whole rollout at once."""

from typing import Any, Literal, cast

import torch
from torch import Tensor

from a3c.core.returns import lambda_returns
from a3c.types import Loss, PolicyDistribution, PolicyValue, Rollout

Reduction = Literal["mean", "sum"]


def actor_critic_loss(
    outputs: PolicyValue,
    rollout: Rollout,
    rewards: Tensor,
    distribution: PolicyDistribution,
    *,
    discount: float,
    lambda_: float,
    entropy_coef: float,
    value_coef: float,
    reduction: Reduction,
) -> Loss:
    """Policy gradient, value regression and entropy bonus over a rollout's real transitions.

        L = Σ_t [ -log π(a_t|s_t) (R_t - V(s_t))  +  c_v (R_t - V(s_t))²  -  β H(π(s_t)) ]

    R is the λ-return; neither it nor the advantage carries a gradient, so the policy term never reaches the
    value head and the bootstrap value is a constant. With λ = 1 this is Mnih et al. 2016, algorithm S3, and
    c_v = 0.5 is the half that its authors put on the value gradient.

    Args:
        outputs: policy parameters [T+1, B, D] and values [T+1, B] of the rollout's observations.
        rollout: what happened.
        rewards: what to learn from, [T, B]: the rollout's rewards, or these scaled or clipped.
        distribution: how the policy parameters are read.
        discount: γ.
        lambda_: λ.
        entropy_coef: β.
        value_coef: c_v.
        reduction: "sum" over the real transitions (the paper's) or their "mean".

    Returns:
        The total and its three terms, each reduced alike; `value` is without c_v, `entropy` without β. A gradient
        flows from the total to the outputs. It is not found by autograd but written down:

            ∂L/∂p_t = -(R_t - V(s_t)) ∂ log π(a_t|s_t)/∂p_t - β ∂H/∂p_t,    ∂L/∂V(s_t) = -2 c_v (R_t - V(s_t))

        where p_t are the policy's parameters: some twenty nodes of a graph less.
    """
    assert outputs.values.shape == rollout.episode_start.shape, f"values {outputs.values.shape} of T+1 rows of B"
    values, real = outputs.values.detach(), rollout.real.to(outputs.values.device)  # [T+1, B], [T, B]
    discounts = discount * (~rollout.terminated).to(values)  # [T, B]; a terminal state has no future
    lambdas = lambda_ * (~rollout.truncated).to(values)  # [T, B]; a time limit bootstraps
    returns = lambda_returns(rewards.to(values), discounts, values[1:], lambdas)  # R, [T, B]
    # What is not real is selected away before it is multiplied by a weight of 0: 0 times NaN is NaN.
    errors = torch.where(real, returns - values[:-1], 0.0)  # R - V(s_t), [T, B]
    parameters = torch.where(real.unsqueeze(-1), outputs.policy[:-1].detach(), 0.0)  # [T, B, D]
    log_prob, entropy, of_log_prob, of_entropy = distribution.gradients(parameters, rollout.actions.to(values.device))
    weights = real.to(values)  # [T, B]
    if reduction == "mean":
        weights /= weights.sum()
    weighted_errors = weights * errors
    policy_loss = -_dot(weighted_errors, log_prob)
    value_loss = _dot(weighted_errors, errors)
    entropy = _dot(weights, entropy)
    total = policy_loss + value_coef * value_loss - entropy_coef * entropy
    of_policy, of_values = torch.zeros_like(outputs.policy), torch.zeros_like(values)  # the last rows stay 0
    of_policy[:-1] = -(weighted_errors.unsqueeze(-1) * of_log_prob).addcmul_(
        weights.unsqueeze(-1), of_entropy, value=entropy_coef
    )
    of_values[:-1] = -2 * value_coef * weighted_errors
    return Loss(_with_gradients(total, outputs, of_policy, of_values), policy_loss, value_loss, entropy)


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    """Σ w x, []."""
    return torch.dot(weights.reshape(-1), values.reshape(-1))


def _with_gradients(total: Tensor, outputs: PolicyValue, of_policy: Tensor, of_values: Tensor) -> Tensor:
    """The total, [], with these gradients with respect to the outputs."""
    return cast(Tensor, _Known.apply(outputs.policy, outputs.values, total, of_policy, of_values))  # type: ignore[no-untyped-call]


class _Known(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, policy: Tensor, values: Tensor, total: Tensor, *gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        of_policy, of_values = ctx.saved_tensors
        return outer * of_policy, outer * of_values, None, None, None
