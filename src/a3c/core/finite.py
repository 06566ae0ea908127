"""Finding the first number that is not one."""

import numpy as np
import torch
from torch import Tensor

from a3c.core.losses import Loss
from a3c.types import Rollout

_GREATEST = 1e150  # beyond, a square is infinite, and with it the moments


def first_non_finite(rollout: Rollout, loss: Loss, gradient: Tensor) -> str | None:
    """Name the first of observation, reward, loss terms and gradient that holds a NaN, an infinity or the like.

    None if all are finite and below 1e150, and so is the gradient's norm, which says the same of each of its numbers.
    Rewards count only where they belong to a real transition.
    """
    observations = rollout.observations if isinstance(rollout.observations, dict) else {"": rollout.observations}
    # A sum of squares is finite only if every number is, and so is a sum of such: mostly that is all there is to see.
    numbers = [*observations.values(), rollout.rewards, gradient]
    squares = [_sum_of_squares(tensor) for tensor in numbers if tensor.is_floating_point()]
    if abs(loss.policy + loss.value + loss.entropy) + sum(squares) < _GREATEST:
        return None
    rewards = torch.from_numpy(np.where(rollout.real.numpy(), rollout.rewards.numpy(), 0))
    terms = (
        *((f"observation {path!r}" if path else "observation", part) for path, part in observations.items()),
        ("reward", rewards),
        ("policy loss", loss.policy),
        ("value loss", loss.value),
        ("entropy", loss.entropy),
        ("gradient", torch.linalg.vector_norm(gradient)),
    )
    for name, tensor in terms:
        if isinstance(tensor, float):
            if not abs(tensor) < _GREATEST:
                return name
        elif tensor.is_floating_point() and not bool((tensor.abs() < _GREATEST).all()):
            return name
    return None


def _sum_of_squares(tensor: Tensor) -> float:
    if not tensor.is_cpu:
        norm = float(torch.linalg.vector_norm(tensor))
        return norm * norm
    numbers = tensor.numpy().ravel(order="K")  # whatever the order, without a copy
    return float(np.vdot(numbers, numbers))
