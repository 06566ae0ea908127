"""Making environments: from what, native or not, with which time limit and seeds; and what is refused."""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from a3c.envs.make import EnvSource, check_spaces, examine, reset_seed
from a3c.errors import UnknownEnvironment, UnsupportedEnvironment, UsageError
from scripted_env import Script, ScriptedEnv

FEW, MANY = 2, 8


class Endless(ScriptedEnv):
    """An environment of this module: a thousand steps of reward 1."""

    def __init__(self) -> None:
        super().__init__(Script([1.0] * 1000))


class SameStepVectorEnv(CartPoleVectorEnv):
    """A native vector environment in a mode that hides the final observation."""

    metadata = CartPoleVectorEnv.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
    closed_ones = 0

    def close(self, **options) -> None:
        SameStepVectorEnv.closed_ones += 1
        super().close(**options)


@pytest.fixture
def register():
    """Registers an environment id for one test."""
    ids = []

    def register_one(env_id: str, **options) -> str:
        gym.register(env_id, **options)
        ids.append(env_id)
        return env_id

    yield register_one
    for env_id in ids:
        del gym.registry[env_id]


def steps_to_first_end(envs, limit=60) -> list[int]:
    """Alternate the two actions, which keeps a CartPole up for a while; when each lane is truncated first."""
    envs.reset(seed=0)
    ends = [None] * envs.num_envs
    for step in range(1, limit):
        *_, terminated, truncated, _ = envs.step(np.full(envs.num_envs, step % 2))
        for lane in range(envs.num_envs):
            if ends[lane] is None and truncated[lane]:
                assert not terminated[lane]
                ends[lane] = step
    return ends


def test_native_where_there_is_such_and_enough_environments_to_be_worth_it():
    many, few = EnvSource("CartPole-v1").make_vector(MANY), EnvSource("CartPole-v1").make_vector(FEW)
    assert isinstance(many.unwrapped, CartPoleVectorEnv)
    assert isinstance(few, SyncVectorEnv)
    assert isinstance(EnvSource("gymnasium:CartPole-v1").make_vector(MANY).unwrapped, CartPoleVectorEnv)
    assert isinstance(EnvSource("Acrobot-v1").make_vector(MANY), SyncVectorEnv)
    for envs, count in ((many, MANY), (few, FEW)):
        assert envs.num_envs == count
        assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP


def test_a_native_environment_in_another_autoreset_mode_is_not_taken(register):
    env_id = register(
        "SameStep-v0",
        entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        vector_entry_point=SameStepVectorEnv,
        max_episode_steps=50,
    )
    before = SameStepVectorEnv.closed_ones
    assert isinstance(EnvSource(env_id).make_vector(MANY), SyncVectorEnv)
    assert SameStepVectorEnv.closed_ones > before  # once, or in older Gymnasiums again when it is collected


class OwnVectorEnv(CartPoleVectorEnv):
    """A person's own; `step_made_wrong` spoils what a step gives."""

    step_made_wrong = staticmethod(lambda step: step)

    def step(self, actions):
        return self.step_made_wrong(super().step(actions))


@pytest.mark.parametrize(
    ("place", "wrong", "words"),
    [
        (None, None, None),
        (0, np.zeros(4, np.float32), "the batch of observations of 'Own-v0' is not of its space"),
        (0, np.zeros((MANY, 4), np.complex64), f"got an array ({MANY}, 4) of complex64"),
        (1, 0.5, f"`rewards` of a step of 'Own-v0' is a float: an array ({MANY},) of numbers is wanted"),
        (2, np.zeros((MANY, 1), bool), f"`terminated` of a step of 'Own-v0' is an array ({MANY}, 1) of bool"),
        (3, np.zeros(MANY), f"`truncated` of a step of 'Own-v0' is an array ({MANY},) of float64"),
        (4, None, "step of 'Own-v0' returned a tuple of 4"),
    ],
)
def test_a_vector_environment_of_ones_own_is_held_to_its_word(register, monkeypatch, place, wrong, words):
    env_id = register(
        "Own-v0",
        entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        vector_entry_point=OwnVectorEnv,
        max_episode_steps=50,
    )

    def spoilt(step):
        return step[:4] if place == 4 else (*step[:place], wrong, *step[place + 1 :]) if words else step

    monkeypatch.setattr(OwnVectorEnv, "step_made_wrong", staticmethod(spoilt))
    envs = EnvSource(env_id).make_vector(MANY)
    assert isinstance(envs.unwrapped, OwnVectorEnv)
    envs.reset(seed=0)
    with contextlib.nullcontext() if words is None else pytest.raises(UnsupportedEnvironment, match=re.escape(words)):
        envs.step(np.zeros(MANY, np.int64))
    envs.close()


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("limit", [5, 9])
def test_the_time_limit_is_honoured_native_or_not(count, limit):
    source = EnvSource("CartPole-v1", max_episode_steps=limit)
    assert steps_to_first_end(source.make_vector(count)) == [limit] * count


def test_a_time_limit_is_put_around_a_callable_too():
    source = EnvSource(Endless, max_episode_steps=4)
    assert steps_to_first_end(source.make_vector(FEW)) == [4] * FEW
    assert steps_to_first_end(EnvSource(Endless).make_vector(FEW)) == [None] * FEW


def test_a_registered_limit_holds_where_none_is_named(register):
    env_id = register("Short-v0", entry_point=Endless, max_episode_steps=6)
    assert steps_to_first_end(EnvSource(env_id).make_vector(FEW)) == [6] * FEW


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("gymnasium:CartPole-v1", "gymnasium:CartPole-v1"),
        (f"{__name__}:Endless", f"{__name__}:Endless"),
        (Endless, "Endless"),
        (functools.partial(gym.make, "CartPole-v1"), "partial"),
    ],
)
def test_sources(env, name):
    source = EnvSource(env)
    assert source.name == name
    facts = examine(source)
    assert facts.name == name
    assert isinstance(facts.action_space, spaces.Discrete)
    assert facts.reward_threshold == (None if "Endless" in name else 475.0)


def test_a_source_can_be_sent_to_another_process():
    source = EnvSource(Endless, max_episode_steps=3)
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_source_takes_its_registration_to_another_process(register):
    env_id = register("Sent-v0", entry_point=Endless, max_episode_steps=6)
    sent = pickle.dumps(EnvSource(env_id))
    spec = gym.registry.pop(env_id)  # as in a process that has not run the caller's script
    source = pickle.loads(sent)
    assert source == EnvSource(env_id)
    assert gym.registry[env_id] == spec
    assert steps_to_first_end(source.make_vector(FEW)) == [6] * FEW


def test_a_registration_that_is_there_already_stays(register):
    env_id = register("Sent-v0", entry_point=Endless)
    sent = pickle.dumps(EnvSource(env_id))
    here = gym.registry[env_id] = gym.envs.registration.EnvSpec(env_id, Endless, max_episode_steps=6)
    pickle.loads(sent)
    assert gym.registry[env_id] is here


def test_each_environment_of_a_vector_is_its_own():
    envs = EnvSource(Endless).make_vector(3)
    assert len({id(env.unwrapped) for env in envs.envs}) == 3


@pytest.mark.parametrize("count", [FEW, MANY])
def test_seeds_in_the_form_that_the_environment_takes(count):
    def first_observations(seeds: list[int], seed: int) -> np.ndarray:
        envs = EnvSource("CartPole-v1").make_vector(count)
        return envs.reset(seed=reset_seed(envs, seeds, seed))[0].copy()

    seeds = [10 * lane + 1 for lane in range(count)]
    first = first_observations(seeds, 5)
    assert (first_observations(seeds, 5) == first).all()
    assert len(np.unique(first, axis=0)) == count  # no two lanes alike
    others = first_observations([seed + 1 for seed in seeds], 6)
    assert not (others == first).any()


def test_a_list_for_single_environments_and_one_int_for_a_native_one():
    few, many = EnvSource("CartPole-v1").make_vector(FEW), EnvSource("CartPole-v1").make_vector(MANY)
    assert reset_seed(few, [3, 4], 9) == [3, 4]
    assert reset_seed(many, list(range(MANY)), 9) == 9


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("CartPole", "CartPole-v1"),
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("CARTPOLE-V1", "CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
        ("Acrobat-v1", "Acrobot-v1"),
    ],
)
def test_an_unknown_id_is_answered_with_near_ones(env_id, near):
    for attempt in (EnvSource(env_id).make, lambda: EnvSource(env_id).make_vector(MANY)):
        with pytest.raises(UnknownEnvironment, match=f"no environment '{env_id}'.*did you mean.*{near}"):
            attempt()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("", "there is no environment ''"),
        ("Zzzzzzzzzzzz-v3", "pprint_registry"),
        ("no_such_module:Env-v0", "cannot import 'no_such_module'"),
        ("no_such_module:Env", "cannot import 'no_such_module'"),
        ("no_such_package.module:Env", r"cannot import 'no_such_package.module'"),
        ("json:NoSuchEnv", "module 'json' has no 'NoSuchEnv'"),
        (".x:Foo", r"cannot import '\.x' \(TypeError: "),
        (":Foo", "environment ':Foo' names no code: write package.module:name"),
        ("raises_on_import:Env", r"cannot import 'raises_on_import' \(ZeroDivisionError: "),
        ("gymnasium:CartPol-v1", r"did you mean CartPole-v1"),
        ("Nobodys/Pong-v5", r"Namespace Nobodys not found\. .*name that, too: MODULE:Nobodys/Pong-v5"),
    ],
)
def test_a_name_that_leads_nowhere(env_id, message):
    with pytest.raises(UnknownEnvironment, match=message) as raised:
        EnvSource(env_id).make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [("raise RuntimeError('one\\n\\ntwo')", "RuntimeError: one two"), ("raise SystemExit(0)", "SystemExit: 0")],
)
def test_a_module_in_the_current_directory_that_raises(tmp_path, monkeypatch, source, reason):
    (tmp_path / "raises_here.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UnknownEnvironment) as raised:
        EnvSource("raises_here:Env").check_exists()
    assert str(raised.value) == (
        f"environment 'raises_here:Env': cannot import 'raises_here' ({reason}, raises_here.py line 1); "
        "it is looked for in the current directory and among installed packages"
    )


def test_a_module_is_found_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "found_here.py").write_text("from scripted_env import ScriptedEnv as Env\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    EnvSource("found_here:Env").check_exists()
    assert str(tmp_path) in sys.path


def test_whatever_making_an_environment_raises_names_it():
    def broken():
        raise RuntimeError("no display")

    message = r"'broken' cannot be made here \(RuntimeError: no display, test_envs.py line \d+\)"
    with pytest.raises(UnsupportedEnvironment, match=message) as e:
        examine(EnvSource(broken))
    assert isinstance(e.value.__cause__, RuntimeError)


def test_an_environment_whose_package_is_missing(register):
    def wants_too_much():
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    env_id = register("Wants-v0", entry_point=wants_too_much)
    with pytest.raises(UsageError, match="'Wants-v0' wants a package that is missing: Box2D is not installed"):
        EnvSource(env_id).make()


@pytest.mark.parametrize("env", [dict, "json:JSONDecoder", lambda: None])
def test_a_callable_that_makes_no_environment(env):
    with pytest.raises(UsageError, match=r"which is no gymnasium\.Env"):
        EnvSource(env).make()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_boxes_of_numbers_are_handled(dtype):
    check_spaces("Fine-v0", spaces.Box(0, 100, (2, 3), dtype), spaces.Discrete(3, start=-1))


def test_an_environment_without_a_space():
    class Bare(ScriptedEnv):
        def __init__(self) -> None:
            self.action_space = spaces.Discrete(2)

    with pytest.raises(UnsupportedEnvironment, match="environment 'Bare' has no observation_space: set one"):
        examine(EnvSource(Bare))


def test_an_environment_that_fails_to_close():
    class Stuck(ScriptedEnv):
        def __init__(self) -> None:
            super().__init__(Script([1.0]))

        def close(self) -> None:
            raise RuntimeError("no such window")

    with pytest.raises(UnsupportedEnvironment, match=r"'Stuck' cannot be closed \(RuntimeError: no such window"):
        examine(EnvSource(Stuck))


def test_inspecting_closes_the_environment_even_if_it_is_refused():
    closed = []

    class Odd(ScriptedEnv):
        def __init__(self) -> None:
            super().__init__(Script([1.0]))
            self.action_space = spaces.Text(5)

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(UnsupportedEnvironment, match="the action space of 'Odd' has a Text space"):
        examine(EnvSource(Odd))
    assert closed == [True]


def test_one_object_is_not_stepped_as_two_environments():
    one = Endless()
    source = EnvSource(lambda: one)
    with pytest.raises(UnsupportedEnvironment, match="the same Endless object was returned for two environments"):
        source.make_vector(2)
    envs = source.make_vector(1)
    with pytest.raises(UnsupportedEnvironment, match="return a new one from each call"):
        source.make_vector(1)  # another worker's, in the same process
    envs.close()
    source.make_vector(1).close()
