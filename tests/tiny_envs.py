"""Environments that are learned in a moment, and ones that misbehave."""

import contextlib
import os
import signal
import time

import gymnasium as gym
import numpy as np


class Corridor(gym.Env):
    """Walk right to the end: +1 for each step right, -1 for each left; 8 steps an episode."""

    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        reward = 1.0 if action == 1 else -1.0
        return self._observe(), reward, self.steps == 8, False, {}

    def _observe(self):
        return np.array([self.steps / 8, 1.0], np.float32)


class Exploding(Corridor):
    """Raises in the fifth episode."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        if self.episodes == 5:
            raise RuntimeError("the corridor collapsed")
        return super().reset(seed=seed, options=options)


class ExplodesOnce(Corridor):
    """The first of all of those that are told of the same file that comes to its fifth episode raises there."""

    def __init__(self, file):
        self.file, self.episodes = file, 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        if self.episodes == 5:
            with contextlib.suppress(FileExistsError):
                open(self.file, "x").close()
                raise RuntimeError("the corridor collapsed")
        return super().reset(seed=seed, options=options)


class Killed(Corridor):
    """Is killed by the kernel in the fifth episode."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        if self.episodes == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(seed=seed, options=options)


class Greedy(Corridor):
    """Takes more memory than there is in the fifth episode."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        if self.episodes == 5:
            np.ones(2**60, np.uint8)
        return super().reset(seed=seed, options=options)


class Slow(Corridor):
    """20 ms a step."""

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


class Stuck(Corridor):
    """Makes no step any more from the fifth episode on."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        if self.episodes == 5:
            time.sleep(600)
        return super().reset(seed=seed, options=options)


class SometimesNaN(Corridor):
    """One reward in about a hundred is NaN."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.np_random.random() < 0.01:
            reward = float("nan")
        return observation, reward, terminated, truncated, info


class AlwaysNaN(Corridor):
    """Every observation is NaN."""

    def _observe(self):
        return np.full(2, np.nan, np.float32)


class NaNAtLast(Corridor):
    """Every observation is NaN from the tenth episode on."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed, options=options)

    def _observe(self):
        return super()._observe() if self.episodes < 10 else np.full(2, np.nan, np.float32)


class FarAwayAtLast(NaNAtLast):
    """Every observation is infinite from the tenth episode on."""

    def _observe(self):
        return Corridor._observe(self) if self.episodes < 10 else np.full(2, np.inf, np.float32)


class InfiniteAtLast(NaNAtLast):
    """Every reward is infinite from the tenth episode on."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward if self.episodes < 10 else -float("inf"), *rest

    def _observe(self):
        return Corridor._observe(self)


class WithText(Corridor):
    """A Text observation somewhere inside, which is not handled."""

    observation_space = gym.spaces.Dict({"x": Corridor.observation_space, "note": gym.spaces.Text(8)})


class WithGraphAction(Corridor):
    """A Graph action, which is not handled."""

    action_space = gym.spaces.Graph(gym.spaces.Box(0.0, 1.0), None)


class NotAsDeclared(Corridor):
    """Observations of another shape than the space says."""

    observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)


class Turncoat(Corridor):
    """Keeps to the interface for nine episodes."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        step = super().step(action)
        return step if self.episodes < 10 else self.break_word(step)


class FourValues(Turncoat):
    """Then its `step` is the old gym's."""

    def break_word(self, step):
        observation, reward, terminated, _, info = step
        return observation, reward, terminated, info


class Grows(Turncoat):
    """Then its observations are of another shape than the space says."""

    def break_word(self, step):
        return np.zeros(3, np.float32), *step[1:]


class Complex(Turncoat):
    """Then its observations are of a dtype that the space's cannot hold."""

    def break_word(self, step):
        return step[0].astype(np.complex64), *step[1:]


class SpeaksInWords(Turncoat):
    """Then its rewards are words."""

    def break_word(self, step):
        return step[0], "well done", *step[2:]
