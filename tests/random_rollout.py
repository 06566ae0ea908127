"""Rollouts of random numbers that keep to the rules of NEXT_STEP autoreset."""

from __future__ import annotations

import torch

from a3c.types import Rollout


def random_rollout(
    seed: int,
    length: int = 6,
    lanes: int = 3,
    actions: int = 3,
    *,
    observation_shape: tuple[int, ...] = (2,),
    end_probability: float = 0.3,
    dtype: torch.dtype = torch.float64,
) -> Rollout:
    """T = `length` rows of B = `lanes` environments whose episodes end at random, either way."""
    generator = torch.Generator().manual_seed(seed)

    def coin(probability: float) -> torch.Tensor:
        return torch.rand(length, lanes, generator=generator) < probability

    ends, by_time = coin(end_probability), coin(0.5)
    episode_start = torch.zeros(length + 1, lanes, dtype=torch.bool)
    episode_start[0] = torch.rand(lanes, generator=generator) < 0.5
    done = torch.zeros(length, lanes, dtype=torch.bool)
    for t in range(length):
        if t:
            episode_start[t + 1] = done[t - 1]
        done[t] = ends[t] & ~episode_start[t + 1]
    rewards = torch.randn(length, lanes, generator=generator, dtype=dtype)
    return Rollout(
        observations=torch.randn(length + 1, lanes, *observation_shape, generator=generator, dtype=dtype),
        actions=torch.randint(actions, (length, lanes), generator=generator),
        rewards=torch.where(episode_start[1:], 0.0, rewards),
        terminated=done & ~by_time,
        truncated=done & by_time,
        episode_start=episode_start,
    )
