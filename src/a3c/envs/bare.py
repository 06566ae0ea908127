"""Bare environments: as they come, with nothing of ours around them, stepped for the sake of the time that it takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space, iterate


class BareVector:
    """A native vector environment, stepped or reset as one."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        self.envs = [envs]
        self._done = np.zeros(envs.num_envs, np.bool_)

    def reset(self, seed: Any) -> None:
        """Begin, with the seed that such a vector takes."""
        self.envs[0].reset(seed=seed)
        self._done = np.zeros_like(self._done)

    def step(self, actions: Any) -> int:
        """One step; how many environments took it and were not merely reset."""
        stepped = len(self._done) - int(self._done.sum())
        _, _, terminated, truncated, _ = self.envs[0].step(actions)
        self._done = terminated | truncated
        return stepped

    def close(self) -> None:
        """Close it."""
        self.envs[0].close()


class BareLanes:
    """Single environments, one after another."""

    def __init__(self, envs: list[gym.Env[Any, Any]]) -> None:
        self.envs = envs
        self._actions = batch_space(envs[0].action_space, len(envs))
        self._done = [False] * len(envs)

    def reset(self, seed: Any) -> None:
        """Begin, with a seed for each."""
        for env, own in zip(self.envs, seed, strict=True):
            env.reset(seed=own)
        self._done = [False] * len(self.envs)

    def step(self, actions: Any) -> int:
        """Step each environment that has not ended, reset the others; how many were stepped."""
        stepped = self._done.count(False)
        for i, (env, action) in enumerate(zip(self.envs, iterate(self._actions, actions), strict=True)):
            if self._done[i]:
                env.reset()
                self._done[i] = False
            else:
                _, _, terminated, truncated, _ = env.step(action)
                self._done[i] = bool(terminated or truncated)
        return stepped

    def close(self) -> None:
        """Close them all."""
        for env in self.envs:
            env.close()
