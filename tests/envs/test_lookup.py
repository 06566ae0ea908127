"""Names of environments and wrappers, modules that register ids, and packages that are extras."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import SyncVectorEnv

from a3c.envs import lookup
from a3c.envs.lookup import find_wrapper, import_registering
from a3c.envs.make import EnvSource, examine
from a3c.errors import UnknownEnvironment, UsageError
from scripted_env import Script, ScriptedEnv


class Sized(ScriptedEnv):
    """Takes keyword arguments, and can be rendered."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, size=1, render_mode=None, colour=7) -> None:
        super().__init__(Script([1.0] * 9))
        self.render_mode = render_mode
        self.colour = colour
        self.observation_space = spaces.Box(-9, 9, (size,), np.float32)

    def _observation(self):
        return np.full(self.observation_space.shape, self.steps, np.float32)

    def render(self):
        return np.full((2, 2, 3), self.colour, np.uint8)


class Doubled(gym.ObservationWrapper):
    def observation(self, observation):
        return observation * 2


class PlusOne(gym.ObservationWrapper):
    def observation(self, observation):
        return observation + 1


class Times(gym.ObservationWrapper):
    def __init__(self, env, factor):
        super().__init__(env)
        self.factor = factor

    def observation(self, observation):
        return observation * self.factor


@pytest.fixture
def registry():
    """Restores what is registered."""
    before = dict(gym.registry)
    yield gym.registry
    gym.registry.clear()
    gym.registry.update(before)
    lookup._register.cache_clear()


@pytest.mark.parametrize("env", [Sized, f"{__name__}:Sized", lambda **kwargs: Sized(**kwargs), "Sized-v0"])
def test_keyword_arguments_for_every_kind(registry, env):
    gym.register("Sized-v0", Sized)
    assert examine(EnvSource(env, env_kwargs={"size": 3})).observation_space.shape == (3,)
    source = EnvSource(env, env_kwargs={"size": 3}, max_episode_steps=2)
    assert source.make_vector(2).reset()[0].shape == (2, 3)
    env = source.make(render_mode="rgb_array")
    assert env.reset()[0].shape == (3,)
    assert env.render().tolist() == [[[7] * 3] * 2] * 2
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


def test_keyword_arguments_reach_gymnasiums_own():
    assert EnvSource("FrozenLake-v1", env_kwargs={"map_name": "8x8"}).make().observation_space == spaces.Discrete(64)
    envs = EnvSource("CartPole-v1", env_kwargs={"sutton_barto_reward": True}).make_vector(8)
    assert isinstance(envs, SyncVectorEnv)
    envs.reset(seed=0)
    assert (envs.step(np.zeros(8, np.int64))[1] == 0).all()


@pytest.mark.parametrize(
    "env", [f"{__name__}:ScriptedEnv", lambda: Sized(), lambda render_mode=None: Sized(), "Dumb-v0", "Deaf-v0"]
)
def test_what_cannot_be_rendered(registry, env):
    class Deaf(Sized):
        def __init__(self) -> None:
            super().__init__()

    gym.register("Dumb-v0", lambda: Sized())
    gym.register("Deaf-v0", lambda render_mode=None: Deaf())
    with pytest.raises(UsageError, match="cannot be rendered: it takes no render_mode='rgb_array'"):
        EnvSource(env).make(render_mode="rgb_array")


def test_wrappers_in_their_order_and_outside_the_time_limit():
    def first(*wrappers):
        env = EnvSource(Sized, max_episode_steps=3, wrappers=wrappers).make()
        env.reset()
        return [float(env.step(0)[0][0]) for _ in range(2)]

    assert first() == [1, 2]
    assert first(Doubled, PlusOne) == [3, 5]
    assert first(PlusOne, Doubled) == [4, 6]
    assert first(f"{__name__}:Doubled", lambda env: PlusOne(env)) == [3, 5]
    limited = EnvSource(Sized, max_episode_steps=3, wrappers=(lambda env: gym.wrappers.MaxAndSkipObservation(env, 2),))
    env = limited.make()
    env.reset()
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


def test_gymnasiums_wrappers_by_name():
    source = EnvSource("FrozenLake-v1", wrappers=("FlattenObservation",))
    assert examine(source).observation_space.shape == (16,)
    assert source.make_vector(3).reset()[0].shape == (3, 16)
    assert find_wrapper("FlattenObservation") is gym.wrappers.FlattenObservation


def test_wrappers_go_around_single_environments():
    assert isinstance(EnvSource("CartPole-v1").make_vector(8).unwrapped, CartPoleVectorEnv)
    assert isinstance(EnvSource("CartPole-v1", wrappers=(Doubled,)).make_vector(8), SyncVectorEnv)


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("FlatenObservation", "no wrapper 'FlatenObservation' in gymnasium.wrappers; did you mean FlattenObservation"),
        ("Zzzz", r"no wrapper 'Zzzz' in gymnasium.wrappers; one of your own is package.module:Wrapper"),
        ("no_such_module:Wrapper", "wrapper 'no_such_module:Wrapper': cannot import 'no_such_module'"),
        (f"{__name__}:NoSuch", "has no 'NoSuch'"),
    ],
)
def test_a_wrapper_that_there_is_not(wrapper, message):
    source = EnvSource("CartPole-v1", wrappers=(wrapper,))
    for attempt in (source.check_exists, source.make, lambda: source.make_vector(8)):
        with pytest.raises(UsageError, match=message):
            attempt()


@pytest.mark.parametrize(
    ("wrapper", "instead"),
    [
        ("NormalizeObservation", "take --normalise-observations"),
        ("NormalizeReward", "take --scale-rewards"),
        (gym.wrappers.NormalizeReward, "take --scale-rewards"),
    ],
)
def test_a_wrapper_whose_statistics_would_be_lost(wrapper, instead):
    with pytest.raises(UsageError, match=f"no checkpoint holds: {instead}"):
        EnvSource("CartPole-v1", wrappers=(wrapper,)).check_exists()


def test_a_function_that_puts_such_a_wrapper_around():
    def normalised(env):
        return gym.wrappers.TransformReward(gym.wrappers.NormalizeReward(env), lambda reward: reward)

    with pytest.raises(UsageError, match="wrapper NormalizeReward .* take --scale-rewards"):
        EnvSource("CartPole-v1", wrappers=(Doubled, normalised)).make()


def test_a_wrapper_that_wants_more_than_the_environment():
    with pytest.raises(UsageError, match=r"wrapper 'FrameStackObservation' wants stack_size, too: write NAME:JSON"):
        EnvSource("CartPole-v1", wrappers=("FrameStackObservation",)).make()


def test_a_wrappers_arguments():
    wrappers = ('FrameStackObservation: {"stack_size": 3}', f'{__name__}:Times:{{"factor": 3}}')
    source = EnvSource("FrozenLake-v1", wrappers=("FlattenObservation", *wrappers))
    source.check_exists()
    assert examine(source).observation_space.shape == (3, 16)
    assert source.make().reset(seed=1)[0].max() == 3


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (
            "FrameStackObservation:{stack_size: 3}",
            "the arguments of wrapper 'FrameStackObservation' are no JSON object",
        ),
        ('FrameStackObservation:{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ('vector:{"a": 1}', "there is no wrapper 'vector' in gymnasium.wrappers"),
        ("x" * 1000, r"there is no wrapper 'x{200} \.\.\.' in gymnasium.wrappers"),
        ('FrameStackObservation:{"stack": 3}', "has no argument 'stack': it takes stack_size, padding_type"),
        ('NoSuch:{"stack_size": 3}', "there is no wrapper 'NoSuch' in gymnasium.wrappers"),
        ('NormalizeObservation:{"epsilon": 0.1}', "take --normalise-observations"),
    ],
    ids=lambda text: text[:50],
)
def test_arguments_that_a_wrapper_does_not_take(wrapper, message):
    with pytest.raises(UsageError, match=message):
        examine(EnvSource("CartPole-v1", wrappers=(wrapper,)))


def test_a_wrapper_that_makes_no_environment():
    with pytest.raises(UsageError, match=r"wrapper .* made a NoneType, which is no gymnasium\.Env"):
        EnvSource("CartPole-v1", wrappers=(lambda env: None,)).make()


def test_modules_that_register_on_import(registry, tmp_path, monkeypatch):
    code = "import gymnasium\ngymnasium.register('Imported-v0', 'scripted_env:ScriptedEnv')\n"
    (tmp_path / "registers_on_import.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = EnvSource("Imported-v0", imports=("registers_on_import",))
    sent = pickle.dumps(source)
    for use in (source.check_exists, lambda: pickle.loads(sent)):
        monkeypatch.delitem(sys.modules, "registers_on_import", raising=False)
        registry.pop("Imported-v0", None)
        use()
        assert "Imported-v0" in registry
    monkeypatch.delitem(sys.modules, "registers_on_import")
    assert EnvSource("Imported-v0", imports=("registers_on_import",)) == pickle.loads(sent)


def test_a_module_that_cannot_be_imported():
    source = EnvSource("CartPole-v1", imports=("no_such_module",))
    for attempt in (source.check_exists, source.make, lambda: source.make_vector(8)):
        with pytest.raises(UnknownEnvironment, match="import 'no_such_module': cannot import 'no_such_module'"):
            attempt()
    assert pickle.loads(pickle.dumps(source)) == source  # the reason comes where it is used


registered = []


def register_plugin():
    registered.append(1)
    gym.register("Game-v0", Sized)


def breaks():
    raise RuntimeError("no such luck")


@pytest.fixture
def plugins(registry, monkeypatch):
    """Packages that declare how they register their environments: Toys, works; Broken, does not."""
    found = [EntryPoint("Toys", f"{__name__}:register_plugin", lookup._PLUGINS)]
    found.append(EntryPoint("Broken", f"{__name__}:breaks", lookup._PLUGINS))
    monkeypatch.setattr(
        lookup,
        "entry_points",
        lambda group, name=None: [p for p in found if name in (None, p.name) and p.group == group],
    )
    registered.clear()


def test_a_namespace_is_registered_by_its_package(plugins):
    for _ in range(2):
        EnvSource("Toys/Game-v0").check_exists()
    assert registered == [1]
    assert examine(EnvSource("Toys/Game-v0")).observation_space.shape == (1,)
    with pytest.raises(UnknownEnvironment, match="cannot register its environments .RuntimeError: no such luck"):
        EnvSource("Broken/Game-v0").check_exists()


def test_an_import_registers_what_its_package_declares(plugins, monkeypatch):
    monkeypatch.setattr(lookup, "_namespaces", lambda: {"Broken"})
    import_registering(__name__, "x")
    assert registered == [1]
    assert "Toys/Game-v0" in gym.registry


def test_a_package_without_a_namespace_is_registered_once(registry, monkeypatch):
    plugin = EntryPoint("__root__", f"{__name__}:register_plugin", lookup._PLUGINS)
    monkeypatch.setattr(lookup, "entry_points", lambda group, name=None: [plugin])
    registered.clear()
    for what in ("one asks", "another asks"):
        import_registering(__name__, what)
    assert registered == [1]
    assert "Game-v0" in registry


def test_an_unknown_namespace():
    with pytest.raises(UnknownEnvironment, match=r"Namespace Nobodys not found\. .*MODULE:Nobodys/Game-v0"):
        EnvSource("Nobodys/Game-v0").check_exists()


class TestMinAtar:
    @pytest.fixture(autouse=True)
    def _installed(self, registry):
        pytest.importorskip("minatar")
        for name in [name for name in registry if name.startswith("MinAtar/")]:
            del registry[name]

    @pytest.mark.parametrize(
        "source",
        [
            EnvSource("MinAtar/Breakout-v1"),
            EnvSource("minatar:MinAtar/Breakout-v1"),
            EnvSource("MinAtar/Breakout-v1", imports=("minatar",)),
        ],
    )
    def test_registered_unasked_or_asked(self, source):
        facts = examine(source)
        assert facts.observation_space == spaces.Box(0, 1, (10, 10, 4), np.bool_)
        assert facts.action_space == spaces.Discrete(3)
        examine(source)

    def test_seeds_and_keyword_arguments(self):
        def play(seed, **kwargs):
            envs = EnvSource("MinAtar/SpaceInvaders-v1", env_kwargs=kwargs).make_vector(2)
            envs.reset(seed=[seed, seed + 1])
            actions = np.random.default_rng(0)
            return np.array([envs.step(actions.integers(4, size=2))[0].copy() for _ in range(100)])

        assert (play(3) == play(3)).all()
        assert (play(3) != play(4)).any()  # actions stick by default
        assert (play(3, sticky_action_prob=0.0) == play(4, sticky_action_prob=0.0)).all()

    def test_frames(self):
        env = EnvSource("MinAtar/Freeway-v1").make(render_mode="rgb_array")
        env.reset(seed=0)
        assert env.render().shape == (10, 10, 3)
        assert env.render().dtype == np.uint8
        assert env.render().max() > 1

    def test_without_its_package(self, monkeypatch):
        monkeypatch.setattr(lookup, "entry_points", lambda **_: [])
        with pytest.raises(UsageError, match=r"'MinAtar/Breakout-v1' wants .* pip install \"a3c\[minatar\]\""):
            EnvSource("MinAtar/Breakout-v1").check_exists()


@pytest.mark.parametrize(("env_id", "package"), [("LunarLander-v3", "Box2D"), ("Hopper-v5", "mujoco")])
def test_other_packages_environments_play(env_id, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    envs = examine(EnvSource(env_id)).source.make_vector(2)
    observation, _ = envs.reset(seed=[1, 2])
    assert (observation[0] != observation[1]).any()
    for _ in range(5):
        observation, *_ = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(observation)
    assert not list(tmp_path.iterdir())  # where MuJoCo would write down its warnings


def test_a_warning_of_mujoco_is_said_once(tmp_path):
    pytest.importorskip("mujoco")
    code = """
import mujoco, numpy
from a3c.envs.make import EnvSource
env = EnvSource("HalfCheetah-v5").make()
for _ in range(3):
    env.reset(seed=0)
    env.unwrapped.data.qpos[0] = numpy.nan
    mujoco.mj_step(env.unwrapped.model, env.unwrapped.data)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stderr.count("MuJoCo: ") == 1
    assert "unstable" in result.stderr
    assert "settotalmass" not in result.stderr  # Gymnasium's own model has it
    assert not list(tmp_path.iterdir())


def test_no_package_is_imported_before_it_is_needed():
    packages = ("ale_py", "envpool", "minatar", "mujoco", "torch")
    code = f"import sys, a3c.envs.make; print([name for name in {packages} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
