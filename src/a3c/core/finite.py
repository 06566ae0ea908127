"""Finding the first number that is not one."""

import torch
from torch import Tensor

from a3c.types import Loss, Rollout

_GREATEST = 1e150  # beyond, a square is infinite, and with it the moments


def first_non_finite(rollout: Rollout, loss: Loss, gradient: Tensor) -> str | None:
    """Name the first of observation, reward, loss terms and gradient that holds a NaN, an infinity or the like.

    None if all are finite and below 1e150, and so is the gradient's norm, which says the same of each of its numbers.
    Rewards count only where they belong to a real transition.
    """
    observations = rollout.observations if isinstance(rollout.observations, dict) else {"": rollout.observations}
    rewards = rollout.rewards.where(rollout.real, 0.0)
    # A norm is finite only if every number is, and so is a sum of numbers: mostly that is all there is to see.
    norms = [torch.linalg.vector_norm(part) for part in observations.values() if part.is_floating_point()]
    norms += [torch.linalg.vector_norm(rewards), torch.linalg.vector_norm(gradient)]
    if abs(loss.policy + loss.value + loss.entropy) + sum(map(float, norms)) < _GREATEST:
        return None
    terms = (
        *((f"observation {path!r}" if path else "observation", part) for path, part in observations.items()),
        ("reward", rewards),
        ("policy loss", loss.policy),
        ("value loss", loss.value),
        ("entropy", loss.entropy),
        ("gradient", norms[-1]),
    )
    for name, tensor in terms:
        if isinstance(tensor, float):
            if not abs(tensor) < _GREATEST:
                return name
        elif tensor.is_floating_point() and not bool((tensor.abs() < _GREATEST).all()):
            return name
    return None
