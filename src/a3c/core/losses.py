"""The actor-critic loss of A3C, on a whole rollout at once."""

from typing import Literal

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
        The total and its three terms, each reduced alike; `value` is without c_v, `entropy` without β.
    """
    assert outputs.values.shape == rollout.episode_start.shape, f"values {outputs.values.shape} of T+1 rows of B"
    values, real = outputs.values, rollout.real.to(outputs.values.device)  # [T+1, B], [T, B]
    discounts = discount * (~rollout.terminated).to(values)  # [T, B]; a terminal state has no future
    lambdas = lambda_ * (~rollout.truncated).to(values)  # [T, B]; a time limit bootstraps
    returns = lambda_returns(rewards.to(values), discounts, values[1:].detach(), lambdas)  # R, [T, B]
    # Selected before any product, for the gradient's sake: 0 times NaN is NaN on the way back, too.
    errors = torch.where(real, returns - values[:-1], 0.0)  # R - V(s_t), [T, B]
    parameters = torch.where(real.unsqueeze(-1), outputs.policy[:-1], 0.0)  # [T, B, D]
    policy = -distribution.log_prob(parameters, rollout.actions.to(values.device)) * errors.detach()  # [T, B]
    policy_loss, value_loss, entropy = (
        reduce(term, real, reduction) for term in (policy, errors.square(), distribution.entropy(parameters))
    )
    total = policy_loss + value_coef * value_loss - entropy_coef * entropy
    return Loss(total, policy_loss, value_loss.detach(), entropy.detach())


def reduce(values: Tensor, real: Tensor, reduction: Reduction) -> Tensor:
    """Sum or mean of `values` [T, B] where `real` [T, B] holds.

    What is not real is selected away, so that a NaN there does no harm.
    """
    total = torch.where(real, values, 0.0).sum()
    return total / real.sum() if reduction == "mean" else total
