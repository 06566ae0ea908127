"""Single environments side by side, beside Gymnasium's own vector of the same."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from a3c.envs.checks import Checked, direct
from a3c.envs.lanes import Lanes
from a3c.envs.make import EnvSource
from a3c.errors import UnsupportedEnvironment
from a3c.types import LIFE_LOST


class Walk(gym.Env):
    """A random walk that gives its steps in one of several forms; ends at +-3."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, form="plain"):
        self.form = form

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self.observation(), {}

    def observation(self):
        values = [self.place, self.np_random.random()]
        return values if self.form == "list" else np.array(values, np.float64 if self.form == "wide" else np.float32)

    def step(self, action):
        self.place += 2 * int(action) - 1
        over, reward = abs(self.place) == 3, float(self.place)
        if self.form == "numpy":
            over, reward = np.bool_(over), np.float32(reward)
        if self.form == "whole":
            over, reward = int(over), int(reward)
        info = {LIFE_LOST: self.place == 2, "rest": "of no use"} if self.form == "lives" else {}
        return self.observation(), reward, over, False, info


FORMS = ["plain", "list", "wide", "numpy", "whole", "lives"]


def sources():
    for form in FORMS:
        yield pytest.param(EnvSource(lambda form=form: Walk(form), max_episode_steps=5), id=form)
    yield pytest.param(EnvSource(Walk), id="no time limit")
    yield pytest.param(EnvSource("CartPole-v1", max_episode_steps=12), id="registered")
    yield pytest.param(EnvSource("Pendulum-v1", max_episode_steps=9, wrappers=("RescaleAction:{\"min_action\": -1, "
                                 "\"max_action\": 1}",)), id="wrapped")  # fmt: skip


@pytest.mark.parametrize("source", list(sources()))
def test_steps_are_those_of_gymnasiums_vector(source):
    source = EnvSource(source.env, source.max_episode_steps, wrappers=source.wrappers, action_mask=False)
    ours = Lanes(source._make_lane, 3)
    theirs = SyncVectorEnv([source._make_lane] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    ours.action_space.seed(1)
    seen, ends = [], 0
    for envs in (ours, theirs):
        ours.action_space.seed(1)
        rows = [copy.deepcopy(envs.reset(seed=[1, 2, 3]))]
        for t in range(60):
            if t == 7:  # one of them begins anew in the middle
                rows.append(copy.deepcopy(envs.reset(options={"reset_mask": np.array([False, True, False])})))
            rows.append(copy.deepcopy(envs.step(ours.action_space.sample())))
        seen.append(rows)
    for own, gymnasiums in zip(*seen, strict=True):
        for a, b in zip(own, gymnasiums, strict=True):
            if isinstance(a, dict):
                assert a.keys() == b.keys()
                assert all((a[key] == b[key]).all() for key in a)
            else:
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype
        ends += sum(int(flags.sum()) for flags in own[2:4])
    assert ends > 3


def test_only_what_does_nothing_else_is_stepped_around():
    limited = gym.make("CartPole-v1", disable_env_checker=True)
    step, limit = direct(EnvSource("CartPole-v1", action_mask=False)._make_lane())
    assert (step.__self__.__class__, limit) == (type(limited.unwrapped), 500)
    step, limit = direct(EnvSource(Walk, max_episode_steps=5, action_mask=False)._make_lane())
    assert (step.__self__.__class__, limit) == (Walk, 5)
    wrapped = EnvSource("CartPole-v1", wrappers=('ClipReward:{"max_reward": 0.5}',), action_mask=False)._make_lane()
    step, limit = direct(wrapped)
    assert step.__self__ is wrapped.env
    assert limit is None

    class Own(gym.wrappers.TimeLimit):
        pass

    own = Checked(Own(Walk(), 3), "own")
    step, limit = direct(own)
    assert step.__self__ is own.env
    assert limit is None


@pytest.mark.parametrize(
    "result",
    [
        None,
        (1, 2),
        (np.zeros(3), 0.0, False, False, {}),
        (np.zeros(2), "1", False, False, {}),
        (np.zeros(2), 0.0, "no", False, {}),
        (np.zeros(2), 0.0, False, False, None),
    ],
    ids=repr,
)
def test_what_is_no_step_is_said(result):
    class Odd(Walk):
        def step(self, action):
            return result

    envs = EnvSource(Odd, max_episode_steps=5).make_vector(2)
    envs.reset(seed=1)
    with pytest.raises(UnsupportedEnvironment, match="Odd"):
        envs.step(np.zeros(2, np.int64))
