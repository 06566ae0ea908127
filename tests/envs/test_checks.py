"""What an environment must keep to, and the one clear error for each way of breaking it."""

from __future__ import annotations

import logging
import re
import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from a3c.envs.checks import Checked, Interface, check_spaces, observation_check, with_interface
from a3c.envs.make import EnvSource, examine
from a3c.errors import UnsupportedEnvironment
from scripted_env import Script, ScriptedEnv

BOX, DISCRETE = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
NESTED = spaces.Dict(a=BOX, b=spaces.Tuple([DISCRETE, spaces.Dict(c=spaces.MultiBinary(3))]))


class Says(gym.Env):
    """Gives the results that it is told to give."""

    def __init__(self, reset=None, step=None, space=BOX) -> None:
        self.observation_space, self.action_space = space, DISCRETE
        self.results = (space.sample(), {}) if reset is None else reset, step

    def reset(self, *, seed=None, options=None):
        return self.results[0]

    def step(self, action):
        return self.results[1]


def taking(reset, step, reward=0.0, space=BOX):
    """The step of a checked environment that gives these observations at its reset and its step."""
    env = Checked(Says((reset, {}), (step, reward, False, False, {}), space), "Odd-v0")
    env.reset()
    return env.step(0)


@pytest.mark.parametrize(
    "space",
    [
        BOX,
        spaces.Box(0, 255, (84, 84, 3), np.uint8),
        spaces.Box(0, 1, (2,), np.bool_),
        spaces.Box(-np.inf, np.inf, (), np.float64),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiBinary([2, 2]),
        spaces.Tuple([BOX, DISCRETE]),
        NESTED,
    ],
)
def test_what_is_handled(space):
    check_spaces("Fine-v0", space, DISCRETE)
    check_spaces("Fine-v0", BOX, space)
    check = observation_check(space, "the observation")
    for _ in range(20):
        check(space.sample())


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Graph(BOX, None),
        spaces.Sequence(BOX),
        spaces.OneOf([BOX, DISCRETE]),
    ],
)
def test_a_space_that_is_not_handled_is_named_with_its_place(space):
    kind = type(space).__name__
    with pytest.raises(UnsupportedEnvironment) as raised:
        check_spaces("Odd-v0", spaces.Dict(a=BOX, b=spaces.Tuple([DISCRETE, space])), DISCRETE)
    assert str(raised.value).startswith(f"the observation space of 'Odd-v0' has a {kind} space at 'b/1' ({space})")
    with pytest.raises(UnsupportedEnvironment) as raised:
        check_spaces("Odd-v0", BOX, space)
    assert str(raised.value).startswith(f"the action space of 'Odd-v0' has a {kind} space ({space})")


@pytest.mark.parametrize(("low", "high"), [([1.0, 1.0], [-1.0, 2.0]), ([0.0, np.nan], [1.0, 1.0])])
def test_a_box_with_swapped_bounds_is_named(low, high):
    box = spaces.Box(-1, 1, (2,))
    box.low, box.high = np.array(low, np.float32), np.array(high, np.float32)
    with pytest.raises(UnsupportedEnvironment, match=r"the action space of 'Odd-v0' has a Box whose low .* at 'arm'"):
        check_spaces("Odd-v0", BOX, spaces.Dict(arm=box))


@pytest.mark.parametrize(
    ("space", "value", "where", "got"),
    [
        (BOX, np.zeros(3, np.float32), "", r"an array \(3,\) of float32"),
        (BOX, np.zeros((2, 1), np.float32), "", r"an array \(2, 1\) of float32"),
        (BOX, 0.5, "", "a float"),
        (BOX, [0.1], "", "a list of 1"),
        (BOX, [[0.1], [0.1, 0.2]], "", "a list of 2"),
        (BOX, None, "", "None"),
        (BOX, {"x": np.zeros(2, np.float32)}, "", "a dict"),
        (BOX, np.zeros(2, np.complex64), "", r"an array \(2,\) of complex64"),
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2, np.float32), "", r"an array \(2,\) of float32"),
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2, np.int64), "", r"an array \(2,\) of int64"),
        (DISCRETE, 2, "", "the value 2"),
        (DISCRETE, np.int64(-1), "", "the value -1"),
        (spaces.Discrete(3, start=5), 0, "", "the value 0"),
        (DISCRETE, 1.0, "", "a float"),
        (DISCRETE, np.array([1]), "", r"an array \(1,\) of int64"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "", r"the values \[1, 3\]"),
        (spaces.MultiDiscrete([2, 3], start=[1, 1]), np.array([0, 1]), "", r"the values \[0, 1\]"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 1, 1]), "", r"an array \(3,\) of int64"),
        (spaces.MultiBinary(2), np.zeros(3, np.int8), "", r"an array \(3,\) of int8"),
        (spaces.Tuple([BOX, DISCRETE]), (np.zeros(2, np.float32),), "", "a tuple of 1"),
        (spaces.Tuple([BOX, DISCRETE]), (np.zeros(2, np.float32), 7), " at '1'", "the value 7"),
        (spaces.Dict(a=BOX), np.zeros(2, np.float32), "", r"an array \(2,\) of float32"),
        (spaces.Dict(a=BOX), {}, "", r"the keys \[\]"),
        (spaces.Dict(a=BOX), {"a": np.zeros(2, np.float32), "b": 1}, "", r"the keys \['a', 'b'\]"),
        (NESTED, NESTED.sample() | {"b": (1, {"c": np.zeros(2, np.int8)})}, " at 'b/1/c'", r"an array \(2,\) of int8"),
    ],
)
def test_an_observation_that_is_not_of_its_space(space, value, where, got):
    for observations in ((value, space.sample()), (space.sample(), value)):
        with pytest.raises(UnsupportedEnvironment) as raised:
            taking(*observations, space=space)
        found = str(raised.value)
        assert found.startswith(f"the observation of 'Odd-v0'{where} is not of its space ")
        assert re.search(f"{got}$", found)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (BOX, np.array([1e6, np.nan], np.float32)),  # out of bounds, and not finite
        (BOX, np.zeros(2, np.float64)),
        (BOX, np.zeros(2, np.int64)),
        (BOX, [0.1, 0.2]),
        (spaces.Box(0, 9, (2,), np.int64), np.zeros(2, np.uint8)),
        (DISCRETE, np.array(1)),
        (DISCRETE, True),
        (spaces.MultiDiscrete([2, 3]), [1, 2]),
        (spaces.MultiBinary(2), np.array([True, False])),
        (spaces.Tuple([BOX, DISCRETE]), [np.zeros(2, np.float32), 1]),
    ],
)
def test_an_observation_that_is_close_enough(space, value):
    assert taking(value, value, space=space)[0] is value


@pytest.mark.parametrize("reward", [1, 1.0, True, np.float32(1), np.int8(1), np.array(1.0), np.bool_(True)])
def test_rewards_that_are_numbers(reward):
    assert taking(BOX.sample(), BOX.sample(), reward)[1] == 1.0
    assert np.isnan(taking(BOX.sample(), BOX.sample(), np.nan)[1])


@pytest.mark.parametrize(
    ("reward", "got"),
    [
        (None, "None"),
        ("1.0", "a str"),
        (1j, "a complex"),
        (np.complex64(1), "an array"),
        (np.array([1.0]), r"an array \(1,\) of float64"),
        ([1.0], "a list of 1"),
    ],
)
def test_rewards_that_are_none(reward, got):
    with pytest.raises(UnsupportedEnvironment, match=f"the reward of 'Odd-v0' is {got}.*a number is wanted"):
        taking(BOX.sample(), BOX.sample(), reward)


@pytest.mark.parametrize("wrap", [Interface, Checked])
@pytest.mark.parametrize(
    ("result", "got"),
    [
        ((BOX.sample(), 0.0, False, {}), "a tuple of 4"),
        ([BOX.sample(), 0.0, False, False, {}], "a list of 5"),
        (None, "None"),
    ],
)
def test_a_step_of_another_interface(wrap, result, got):
    env = wrap(Says(step=result), "Old-v0")
    env.reset()
    with pytest.raises(UnsupportedEnvironment, match=f"step of 'Old-v0' returned {got}.*gym before 0.26"):
        env.step(0)


@pytest.mark.parametrize("wrap", [Interface, Checked])
@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize(
    ("end", "got"),
    [
        ({"lives": 3}, "a dict"),  # gym before 0.26, its four values padded to five: obs, reward, done, info, {}
        ({}, "a dict"),
        (None, "None"),
        ("no", "'no'"),
        (np.nan, "nan"),
        (1.0, "1.0"),
        (2, "2"),
        (np.int64(-1), r"an array \(\) of int64"),
        (np.array([True]), r"an array \(1,\) of bool"),
    ],
)
def test_an_end_that_is_neither_true_nor_false(wrap, place, end, got):
    result = [BOX.sample(), 0.0, False, False, {}]
    result[place] = end
    env = wrap(Says(step=tuple(result)), "Old-v0")
    env.reset()
    which = ["terminated", "truncated"][place - 2]
    with pytest.raises(UnsupportedEnvironment, match=f"`{which}` of a step of 'Old-v0' is {got}: true or false"):
        env.step(0)


@pytest.mark.parametrize("wrap", [Interface, Checked])
@pytest.mark.parametrize("kind", [bool, int, np.bool_, np.int8, np.array])
def test_ends_that_are_true_or_false(wrap, kind):
    for ends in ((True, False), (False, True)):
        env = wrap(Says(step=(BOX.sample(), 0.0, *map(kind, ends), {})), "Fine-v0")
        env.reset()
        found = env.step(0)[2:4]
        assert found == ends
        assert list(map(type, found)) == [bool, bool]


@pytest.mark.parametrize("wrap", [Interface, Checked])
@pytest.mark.parametrize(("info", "got"), [(None, "None"), ([], "a list of 0"), ("text", "a str")])
def test_an_info_that_is_no_mapping(wrap, info, got):
    env = wrap(Says(step=(BOX.sample(), 0.0, False, False, info)), "Odd-v0")
    env.reset()
    with pytest.raises(UnsupportedEnvironment, match=f"the info of a step of 'Odd-v0' is {got}: a dict is wanted"):
        env.step(0)
    env = wrap(Says(step=(BOX.sample(), 0.0, False, False, types.MappingProxyType({"x": 1}))), "Fine-v0")
    env.reset()
    assert env.step(0)[-1]["x"] == 1


@pytest.mark.parametrize("wrap", [Interface, Checked])
@pytest.mark.parametrize(
    ("result", "got"),
    [
        (np.zeros(2, np.float32), r"an array \(2,\) of float32"),
        ((np.zeros(2), np.zeros(2)), "a tuple of 2"),
        ((np.zeros(2, np.float32),), "a tuple of 1"),
    ],
)
def test_a_reset_of_another_interface(wrap, result, got):
    with pytest.raises(UnsupportedEnvironment, match=rf"reset of 'Old-v0' returned {got}: \(observation, info\)"):
        wrap(Says(result), "Old-v0").reset()


class OldReset(Says):
    def reset(self):
        return np.zeros(2, np.float32)


class Raises(Says):
    def reset(self, *, seed=None, options=None):
        raise TypeError("something else")


def test_a_reset_without_a_seed():
    with pytest.raises(UnsupportedEnvironment, match=r"reset of 'OldReset' takes no seed and options"):
        examine(EnvSource(OldReset))
    with pytest.raises(TypeError, match="something else"):
        Interface(Raises(), "x").reset()


@pytest.mark.parametrize(
    "wrappers", [(), ("RecordEpisodeStatistics",), ("FlattenObservation", "RecordEpisodeStatistics")]
)
def test_the_interface_is_checked_within_all_wrappers(wrappers):
    def old():
        return gym.wrappers.TimeLimit(Says(step=(BOX.sample(), 0.0, False, {})), 5)

    envs = EnvSource(old, max_episode_steps=3, wrappers=wrappers).make_vector(2)
    envs.reset()
    with pytest.raises(UnsupportedEnvironment, match="step of 'old' returned a tuple of 4"):
        envs.step(np.zeros(2, np.int64))


def test_the_core_is_wrapped_once():
    env = gym.make("CartPole-v1")
    for _ in range(2):
        assert with_interface(env, "CartPole-v1") is env
    chain = []
    while isinstance(env, gym.Wrapper):
        chain.append(type(env))
        env = env.env
    assert chain.count(Interface) == 1
    assert chain[-1] is Interface


def test_a_wrappers_own_mistakes_are_found_too():
    class Forgets(gym.Wrapper):
        def step(self, action):
            observation, reward, terminated, truncated, info = self.env.step(action)
            return observation[:1], reward, terminated, truncated, info

    envs = EnvSource("CartPole-v1", wrappers=(Forgets,)).make_vector(1)
    envs.reset(seed=0)
    with pytest.raises(UnsupportedEnvironment, match=r"of 'CartPole-v1' is not of its space.*an array \(1,\)"):
        envs.step(np.zeros(1, np.int64))


def test_a_break_of_the_word_in_the_middle_of_a_run():
    class Changes(ScriptedEnv):
        def _observation(self):
            return np.zeros(2 if self.steps < 3 else 3, np.float32)

    envs = EnvSource(lambda: Changes(Script([1.0] * 9))).make_vector(1)
    envs.reset()
    for _ in range(2):
        envs.step(np.zeros(1, np.int64))
    with pytest.raises(UnsupportedEnvironment, match=r"declared|not of its space"):
        envs.step(np.zeros(1, np.int64))


def test_a_vector_environment_gathers_no_infos_but_one_environment_keeps_them():
    class Talks(ScriptedEnv):
        def step(self, action):
            *rest, info = super().step(action)
            # A key whose value changes its type from step to step: Gymnasium fails to gather it.
            return *rest, info | {"x": "text" if self.steps % 2 else np.zeros(2), "life_lost": self.steps == 2}

    def make():
        return Talks(Script([1.0] * 9))

    envs = EnvSource(make).make_vector(2)
    assert isinstance(envs, SyncVectorEnv)
    envs.reset()
    infos = [envs.step(np.zeros(2, np.int64))[-1] for _ in range(3)]
    assert [set(info) for info in infos] == [{"life_lost", "_life_lost"}] * 3
    assert [info["life_lost"].tolist() for info in infos] == [[False] * 2, [True] * 2, [False] * 2]
    assert infos[0]["life_lost"].dtype == np.bool_
    env = EnvSource(make).make()
    env.reset()
    assert env.step(0)[-1]["x"] == "text"


def test_frames_become_bytes():
    class Draws(Says):
        render_mode = "rgb_array"
        frame = np.array([[[0.0, 0.5, 1.0]]])

        def render(self):
            return self.frame

    env = Checked(Draws(), "Draws")
    assert env.render().tolist() == [[[0, 128, 255]]]
    assert env.render().dtype == np.uint8
    env.unwrapped.frame = np.array([[[1, 2, 3]]], np.uint8)
    assert env.render() is env.unwrapped.frame


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_gymnasiums_own_environments_pass(env_id, caplog):
    caplog.set_level(logging.WARNING)
    facts = examine(EnvSource(env_id))
    envs = facts.source.make_vector(3)
    assert envs.single_observation_space == facts.observation_space
    envs.reset(seed=1)
    for _ in range(50):
        envs.step(envs.action_space.sample())
    assert not caplog.records
