"""An environment that plays a given script, for tests that know every number in advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Script(NamedTuple):
    """One episode: its rewards, one for each step, and how it ends."""

    rewards: Sequence[float]
    end: Literal["terminated", "truncated"] = "terminated"


def episode_and_step(episode: int, step: int) -> list[float]:
    return [episode, step]


class ScriptedEnv(gym.Env[Any, Any]):
    """Plays the episodes in turn and begins again with the first; records the seeds and actions it is given."""

    def __init__(
        self,
        *episodes: Script,
        observe: Callable[[int, int], Any] = episode_and_step,
        actions: int = 2,
        first_action: int = 0,
    ) -> None:
        shape = np.asarray(observe(0, 0)).shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = spaces.Discrete(actions, start=first_action)
        self.episodes, self.observe = episodes, observe
        self.episode, self.steps = -1, 0
        self.seeds: list[int | None] = []
        self.actions: list[int] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(int(action))
        rewards, end = self.episodes[self.episode % len(self.episodes)]
        reward = rewards[self.steps]
        self.steps += 1
        done = self.steps == len(rewards)
        return self._observation(), reward, done and end == "terminated", done and end == "truncated", {}

    def _observation(self) -> Any:
        return np.asarray(self.observe(self.episode, self.steps), np.float32)


def vectorise(*envs: gym.Env[Any, Any], mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> SyncVectorEnv:
    """The environments as one vector environment."""
    return SyncVectorEnv([lambda env=env: env for env in envs], copy=False, autoreset_mode=mode)
