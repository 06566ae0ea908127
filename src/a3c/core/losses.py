"""The actor-critic loss of A3C, on a whole rollout at once."""

from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from a3c.core.returns import lambda_returns
from a3c.types import Outputs, PolicyDistribution, Rollout

Array = NDArray[Any]
Reduction = Literal["mean", "sum"]


class Loss(NamedTuple):
    """The actor-critic loss, its terms, each reduced over the real transitions, and its gradient at the outputs."""

    policy: float
    value: float  # without c_v
    entropy: float  # without β
    objective: float  # L, which sums the three with their coefficients
    outputs: Outputs
    of_outputs: tuple[Array, Array]  # ∂L/∂policy [T, B, D] and ∂L/∂values [T, B] of the first T rows; else 0

    @property
    def total(self) -> Tensor:
        """L, [], in autograd's graph: a gradient flows to the outputs."""
        return cast(Tensor, _Known.apply(*self.outputs, self.objective, self.of_outputs))  # type: ignore[no-untyped-call]

    def terms(self) -> dict[str, float]:
        """The three terms, named as they are logged."""
        return {"policy_loss": self.policy, "value_loss": self.value, "entropy": self.entropy}


def actor_critic_loss(
    outputs: Outputs,
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
        L and its three terms, each reduced alike, and L's gradient with respect to the outputs. It is not found by
        autograd but written down:

            ∂L/∂p_t = -(R_t - V(s_t)) ∂ log π(a_t|s_t)/∂p_t - β ∂H/∂p_t,    ∂L/∂V(s_t) = -2 c_v (R_t - V(s_t))

        where p_t are the policy's parameters: some forty nodes of a graph less.
    """
    # All of it is worked out where the rollout lies, in arrays: that is fewer calls, and cheaper ones.
    policy, values = outputs.on_host()  # [T+1, B, D], [T+1, B]
    assert values.shape == rollout.episode_start.shape, f"values {values.shape} of T+1 rows of B"
    assert rollout.terminated.dtype == rollout.truncated.dtype == torch.bool, "flags are true or false"
    number = values.dtype.type
    entropy_coef, value_coef = float(entropy_coef), float(value_coef)  # a np.float64 would make arrays float64
    real, terminated, truncated = (flag.numpy() for flag in (rollout.real, rollout.terminated, rollout.truncated))
    discounts = ~terminated * number(discount)  # [T, B]; a terminal state has no future
    lambdas = ~truncated * number(lambda_)  # [T, B]; a time limit bootstraps
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # R, advantages, and log π and H with their derivatives.
        returns = lambda_returns(rewards.numpy().astype(values.dtype), discounts, values[1:], lambdas)  # R, [T, B]
        errors, parameters, actions = returns - values[:-1], policy[:-1], rollout.actions.numpy()
        if (transitions := np.count_nonzero(real)) < real.size:
            # What is not real is selected away before it is multiplied by a weight of 0: 0 times NaN is NaN.
            errors, parameters, actions = (_where(real, numbers) for numbers in (errors, parameters, actions))
        log_prob, entropies, of_log_prob, of_entropy = distribution.gradients(parameters, actions)
        # L and its terms.
        weights = real / number(transitions if reduction == "mean" else 1)  # [T, B]
        weighted_errors = weights * errors
        policy_loss = -float(np.vdot(weighted_errors, log_prob))
        value_loss = float(np.vdot(weighted_errors, errors))
        entropy = float(np.vdot(weights, entropies))
        # ∂L/∂p and ∂L/∂V, [T, B, D] and [T, B].
        of_policy = -weighted_errors[..., None] * of_log_prob
        of_policy -= (entropy_coef * weights)[..., None] * of_entropy
        of_values = (-2 * value_coef) * weighted_errors
    total = policy_loss + value_coef * value_loss - entropy_coef * entropy
    return Loss(policy_loss, value_loss, entropy, total, outputs, (of_policy, of_values))


def _where(real: Array, numbers: Array) -> Array:
    """The numbers [T, B, ...] of real transitions, and 0 elsewhere."""
    return np.where(real.reshape(real.shape + (1,) * (numbers.ndim - 2)), numbers, numbers.dtype.type(0))


class _Known(torch.autograd.Function):
    """A number whose gradients with respect to the outputs' first T rows are known; it ignores the last one."""

    @staticmethod
    def forward(ctx: Any, policy: Tensor, values: Tensor, loss: float, gradients: tuple[Array, Array]) -> Tensor:
        ctx.of_outputs, ctx.device = gradients, policy.device
        return torch.from_numpy(np.array(loss, gradients[1].dtype)).to(ctx.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        of_policy, of_values = (torch.from_numpy(gradient).to(ctx.device) for gradient in ctx.of_outputs)
        return outer * _with_last_row(of_policy), outer * _with_last_row(of_values), None, None


def _with_last_row(gradient: Tensor) -> Tensor:
    """[T+1, ...] from [T, ...]: 0 for the row that is only bootstrapped from."""
    return torch.cat([gradient, torch.zeros_like(gradient[:1])])
