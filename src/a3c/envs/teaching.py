"""Tiny environments that show one thing each: name them `a3c.envs.teaching:Recall`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class Recall(gym.Env[NDArray[np.float32], np.int64]):
    """A cue is shown at the first step only; some steps later the action must name it.

    Observation, [cues + 1]: the cue, one-hot, at the first step, zeros later; and 1 at the last step, when the choice
    is asked for. Action: one of the cues; only the last one counts. Reward: 1 for the right choice, -1 for a wrong
    one. Without memory nothing beats guessing: a mean return of 2 / cues - 1.

    Args:
        cues: how many there are.
        delay: steps between the cue and the choice.
    """

    def __init__(self, cues: int = 2, delay: int = 6) -> None:
        self.cues, self.delay = cues, delay
        self.observation_space = gym.spaces.Box(0.0, 1.0, (cues + 1,), np.float32)
        self.action_space = gym.spaces.Discrete(cues)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a cue and show it."""
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(self.cues)), 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """The choice counts at the last step."""
        last = self.steps == self.delay
        reward = (1.0 if int(action) == self.cue else -1.0) if last else 0.0
        self.steps += 1
        return self._observe(), reward, last, False, {}

    def _observe(self) -> NDArray[np.float32]:
        observation = np.zeros(self.cues + 1, np.float32)
        if self.steps == 0:
            observation[self.cue] = 1.0
        observation[-1] = self.steps == self.delay
        return observation


class MaskedRecall(gym.Env[dict[str, Any], np.int64]):
    """Recall with a Dict observation and an action mask: memory, masks and nested observations at once.

    The observation is {"cue": Discrete, "clock": {"left": Box}, "action_mask": [cues + 1]}. The cue is shown as 1 to
    `cues` at the first step and 0 later. Action 0 is to wait; the others name a cue. At each step but the last only
    waiting is allowed; at the last all cues but a random one, always a wrong one, and not waiting. A forbidden action
    ends the episode with reward -5; the right choice gives 1, a wrong one -1.

    Args:
        cues: how many there are, 3 at least.
        delay: steps between the cue and the choice.
    """

    def __init__(self, cues: int = 3, delay: int = 4) -> None:
        self.cues, self.delay = cues, delay
        self.observation_space = gym.spaces.Dict(
            {
                "cue": gym.spaces.Discrete(cues + 1),
                "clock": gym.spaces.Dict({"left": gym.spaces.Box(0.0, 1.0, (), np.float32)}),
                "action_mask": gym.spaces.Box(0, 1, (cues + 1,), np.int8),
            }
        )
        self.action_space = gym.spaces.Discrete(cues + 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw a cue, and the wrong choice that will be forbidden."""
        super().reset(seed=seed)
        self.cue, self.steps = 1 + int(self.np_random.integers(self.cues)), 0
        self.forbidden = 1 + (self.cue - 1 + int(self.np_random.integers(1, self.cues))) % self.cues
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """A choice at the last step, waiting before it."""
        last = self.steps == self.delay
        allowed = bool(self._mask()[int(action)])
        reward = -5.0 if not allowed else 0.0 if not last else 1.0 if int(action) == self.cue else -1.0
        self.steps += 1
        return self._observe(), reward, last or not allowed, False, {}

    def _mask(self) -> NDArray[np.int8]:
        mask = np.zeros(self.cues + 1, np.int8)  # all 0 once the episode is over, as many environments have it
        if self.steps < self.delay:
            mask[0] = 1
        elif self.steps == self.delay:
            mask[1:] = 1
            mask[self.forbidden] = 0
        return mask

    def _observe(self) -> dict[str, Any]:
        return {
            "cue": np.int64(self.cue if self.steps == 0 else 0),
            "clock": {"left": np.array(max(0.0, 1.0 - self.steps / self.delay), np.float32)},
            "action_mask": self._mask(),
        }
