"""λ-returns: n-step returns, GAE targets, termination and truncation in one recursion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def lambda_returns(rewards: Array, discounts: Array, next_values: Array, lambda_: Array | float = 1.0) -> Array:
    """λ-return at every step of a rollout.

        G_t = r_t + γ_t ((1 - λ_t) v_{t+1} + λ_t G_{t+1}),    G_T = v_T

    Special cases, none of them a branch:
        γ_t = 0   step t terminated: G_t = r_t, whatever follows.
        λ_t = 0   step t was truncated: G_t = r_t + γ_t v_{t+1}, whatever follows.
        λ   = 1   the n-step return of A3C: R <- r + γR, begun at R = v_T.
        else      the targets of generalised advantage estimation: G_t - v_t is its advantage.

    A cut is exact: what lies behind γ_t = 0 or λ_t = 0 has no influence, not even if it is NaN. Targets are numbers,
    not functions, so these are plain arrays: no gradient can flow through them.

    Args:
        rewards: r, [T, ...].
        discounts: γ at each step, [T, ...].
        next_values: v_{t+1}, [T, ...]; the value of the observation that step t led to.
        lambda_: λ at each step, [T, ...], or one number.

    Returns:
        G, [T, ...].

    Source: Sutton & Barto 2018, eq. 12.18; A3C's special case is Mnih et al. 2016, algorithm S3.
    """
    assert rewards.shape == discounts.shape == next_values.shape, (
        f"rewards {rewards.shape}, discounts {discounts.shape}, next_values {next_values.shape} must agree"
    )
    chain_weights = discounts * lambda_  # [T, ...]
    with np.errstate(invalid="ignore", over="ignore"):  # infinity times 0, selected away
        # What each step bootstraps, [T, ...]: for λ = 1 that is nothing, but where it was truncated.
        bootstrap_weights = discounts - chain_weights
        if np.count_nonzero(bootstrap_weights):
            returns = rewards + _cut(bootstrap_weights, next_values)
        else:
            returns = rewards.astype(np.result_type(rewards, bootstrap_weights, next_values))
        shape, rows = returns.shape, (len(returns), math.prod(returns.shape[1:]))
        returns, chain_weights = returns.reshape(rows), chain_weights.reshape(rows)
        times = np.multiply if np.count_nonzero(chain_weights) == chain_weights.size else _cut  # mostly none is 0
        following = next_values[-1:].reshape(-1)
        for row, weights in zip(returns[::-1], chain_weights[::-1], strict=True):
            row += times(weights, following)
            following = row
    return returns.reshape(shape)


def _cut(weights: Array, values: Array) -> Array:
    """weights * values, and 0 where the weight is 0 (NaN times 0 is NaN)."""
    weighted: Array = weights * values
    if np.count_nonzero(weights) < weights.size:
        weighted[weights == 0] = 0
    return weighted
