"""Single environments side by side, beside Gymnasium's own vector of the same."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from a3c.envs.checks import Checked, direct, with_interface
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


class OwnLimit(gym.wrappers.TimeLimit):
    pass


class OwnOrder(gym.wrappers.OrderEnforcing):
    pass


def lane(env):
    return Checked(with_interface(env, "it"), "it")


def test_only_what_does_nothing_else_is_stepped_around():
    registered = EnvSource("CartPole-v1", action_mask=False)._make_lane()
    assert direct(registered) == (registered.unwrapped, 500)
    own = EnvSource(Walk, max_episode_steps=5, action_mask=False)._make_lane()
    assert direct(own) == (own.unwrapped, 5)
    clipped = EnvSource("CartPole-v1", wrappers=('ClipReward:{"max_reward": 0.5}',), action_mask=False)._make_lane()
    limit, order = gym.wrappers.TimeLimit, gym.wrappers.OrderEnforcing
    whole = [
        clipped,
        lane(OwnLimit(order(Walk()), 3)),
        lane(limit(OwnOrder(Walk()), 3)),
        lane(limit(limit(Walk(), 3), 5)),
        lane(order(limit(Walk(), 3))),
        Checked(limit(order(Walk()), 3), "no interface"),
    ]
    assert [direct(env) for env in whole] == [(env.env, None) for env in whole]


def test_a_step_that_a_reset_puts_in_its_place_is_taken():
    class ByStates(Walk):
        def reset(self, *, seed=None, options=None):
            self.step = self.first
            return super().reset(seed=seed)

        def first(self, action):
            self.step = super().step
            return self.observation(), 7.0, False, False, {}

    envs = EnvSource(ByStates, max_episode_steps=5).make_vector(2)
    envs.reset(seed=1)
    rewards = [envs.step(np.ones(2, np.int64))[1].tolist() for _ in range(3)]
    assert rewards == [[7.0, 7.0], [1.0, 1.0], [2.0, 2.0]]


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded):
        EnvSource(Walk, max_episode_steps=5).make_vector(2).step(np.zeros(2, np.int64))


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
