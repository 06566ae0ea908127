"""Making environments: one, or a vector of them in NEXT_STEP autoreset mode."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from a3c.envs import atari, envpool, mujoco_warnings
from a3c.envs.action_mask import ActionMask, flat_mask, has_mask, mask_size
from a3c.envs.atari import AtariOptions
from a3c.envs.bare import BareLanes, BareVector
from a3c.envs.checks import Checked, CheckedVector, check_spaces, unchecked, with_interface
from a3c.envs.lanes import Lanes
from a3c.envs.lookup import (
    find_class,
    find_spec,
    find_wrapper,
    import_registering,
    is_class_path,
    missing_extra,
    refuse_own_normalisation,
)
from a3c.errors import A3CError, UnsupportedEnvironment, UsageError
from a3c.own_code import reason
from a3c.spaces.parts import ACTION_MASK, Space
from a3c.types import LIFE_LOST

EnvFactory = Callable[..., gym.Env[Any, Any]]
Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
AnyVectorEnv = VectorEnv[Any, Any, Any]

# Below this many environments a Python loop over single ones is at least as fast as CartPole's native vector
# environment (benchmarks/vectorisation.py).
_NATIVE_FROM_ENVS = 6

_TAKEN_AT_THEIR_WORD = ("a3c", "ale_py", "envpool", "gymnasium")  # whose vector environments are not checked

_EXTRAS = ("box2d", "mujoco")  # Gymnasium's by these names are ours, too


@dataclass(frozen=True)
class EnvSource:
    """Where environments come from and what is put around each.

    Picklable if its callables are (cloudpickle takes those of a script or a notebook by value), and then makes the same
    environments in another process: it takes its id's registration along.

    Args:
        env: what names or makes one environment: an id that Gymnasium knows; MODULE:ID, where the module registers the
            id; `package.module:Class`; a callable; or "envpool:TASK". ALE's and MinAtar's ids are registered unasked.
        max_episode_steps: a time limit, in place of a registered environment's own.
        env_kwargs: keyword arguments for making it: of `gymnasium.make`, the class, the callable, or EnvPool's options.
        wrappers: callables `env -> env`, `package.module:Wrapper`, or names in gymnasium.wrappers, where a name may be
            followed by keyword arguments, NAME:JSON; put around each single environment in this order, outside the
            time limit. With wrappers or `env_kwargs`, environments that exist natively as a vector are made one by one
            all the same, which is slower.
        imports: modules to import first, because they register environments.
        atari: how Atari games are played.
        action_mask: whether `info["action_mask"]` is folded into the observation. None: if the first reset's info has
            one, which `examine` finds out; True where a later one may.

    Raises UsageError for an environment in place of what makes one.
    """

    env: str | EnvFactory
    max_episode_steps: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str | Wrap, ...] = ()
    imports: tuple[str, ...] = ()
    atari: AtariOptions = field(default_factory=AtariOptions)
    action_mask: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.env, gym.Env | VectorEnv):
            raise UsageError(
                f"{type(self.env).__name__} is an environment, and each worker makes its own: pass what makes one, "
                "such as its class, or `lambda: make_it(...)`"
            )

    @property
    def name(self) -> str:
        """The environment's id, or its callable's name."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", type(self.env).__name__)

    @property
    def pooled(self) -> bool:
        """Whether EnvPool makes it."""
        return isinstance(self.env, str) and self.env.startswith(envpool.PREFIX)

    @property
    def registered(self) -> bool:
        """Whether `env` is an id that Gymnasium makes."""
        return isinstance(self.env, str) and not self.pooled and not is_class_path(self.env)

    @property
    def is_atari(self) -> bool:
        """Whether it is one of ALE's games, or EnvPool's of them."""
        return envpool.is_atari(self.name) or (self.registered and atari.is_atari(find_spec(self.name)))

    def __getstate__(self) -> dict[str, Any]:
        # A worker's registry is fresh: it knows nothing of what the caller's script has registered.
        # Not so for "module:Env-v0", whose module registers it there as here.
        spec = gym.registry.get(self.env) if isinstance(self.env, str) else None
        return self.__dict__ | {"spec": spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        spec = state.pop("spec")
        self.__dict__.update(state)
        with contextlib.suppress(A3CError):  # making an environment tries again and reports failures
            self._import()
        if spec is None or spec.id in gym.registry:
            return
        if isinstance(spec.entry_point, str):
            with contextlib.suppress(Exception):  # its module may register the id itself; gym.make reports failures
                importlib.import_module(spec.entry_point.partition(":")[0])
        gym.registry.setdefault(spec.id, spec)

    def check_exists(self) -> None:
        """Raise UnknownEnvironment or UsageError if a name leads nowhere. Makes no environment."""
        self._import()
        if self.pooled:
            envpool.check_exists(self.name)
        elif self.registered:
            find_spec(self.name)
        elif isinstance(self.env, str):
            find_class(self.env)
        for wrapper in self.wrappers:
            find_wrapper(wrapper)

    def make(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """One environment, the same to an agent as one of `make_vector`.

        Args:
            render_mode: Gymnasium's, "rgb_array" for frames [H, W, 3] uint8 from `render()`.

        Raises:
            UnknownEnvironment: a name leads nowhere.
            UsageError: it cannot be made here, or not rendered.
        """
        return Checked(self._decided()._masked(render_mode), self.name)

    def make_vector(self, count: int) -> AnyVectorEnv:
        """`count` environments in one, in NEXT_STEP mode: native if there is such and it is the faster."""
        native = self._native(count)
        if native is None:
            return Lanes(self._decided()._make_lane, count)
        package = type(native.unwrapped).__module__.partition(".")[0]
        return native if package in _TAKEN_AT_THEIR_WORD else CheckedVector(native, self.name)

    def make_bare(self, count: int) -> BareVector | BareLanes:
        """`count` environments with nothing of ours around them: what a measurement compares with."""
        if (native := self._native(count)) is not None:
            return BareVector(native)
        return BareLanes([unchecked(self._decided()._masked()) for _ in range(count)])

    def _decided(self) -> EnvSource:
        return self if self.action_mask is not None else examine(self).source

    def _make_lane(self) -> Checked:
        return Checked(self._masked(), self.name, infos=(LIFE_LOST,))

    def _native(self, count: int) -> AnyVectorEnv | None:
        """A native vector environment, or None if there is none, or it cannot do what is asked, or is the slower."""
        self._import()
        if self.pooled:
            return self._pool(count)
        if not self.registered or self.wrappers or self.env_kwargs or self.action_mask:
            return None
        spec = find_spec(self.name)
        if atari.is_atari(spec):
            playable = atari.plays_natively(spec)
            return atari.make_games(spec, self.atari, count, self.max_episode_steps) if playable else None
        if count < _NATIVE_FROM_ENVS or spec.vector_entry_point is None or spec.additional_wrappers:
            return None
        native: AnyVectorEnv = gym.make_vec(
            spec, num_envs=count, vectorization_mode="vector_entry_point", **self._time_limit()
        )
        if native.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP:
            return native
        native.close()
        return None

    def _masked(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        env = self._wrapped(render_mode)
        return ActionMask(env, self.name) if self.action_mask and not has_mask(env.observation_space) else env

    def _wrapped(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        self._import()
        env = self._bare(render_mode)
        if render_mode is not None and env.render_mode != render_mode:
            env.close()
            raise self._not_rendered(render_mode)
        for wrapper in self.wrappers:
            wrapped = self._an_env(_wrap(env, find_wrapper(wrapper), wrapper), f"wrapper {wrapper!r}")
            _refuse_normalisation(wrapped, env)
            env = wrapped
        return env

    def _bare(self, render_mode: str | None) -> gym.Env[Any, Any]:
        if self.pooled:
            return envpool.Single(self._pool(1, render_mode))
        if self.registered:
            return self._make_registered(render_mode)
        factory = find_class(self.env) if isinstance(self.env, str) else self.env
        kwargs = dict(self.env_kwargs)
        if render_mode is not None and _takes(factory, "render_mode"):
            kwargs["render_mode"] = render_mode
        env = with_interface(self._an_env(factory(**kwargs), f"environment {self.name!r}"), self.name)
        if self.max_episode_steps is not None:
            return gym.wrappers.TimeLimit(env, self.max_episode_steps)
        return env

    def _make_registered(self, render_mode: str | None) -> gym.Env[Any, Any]:
        spec = find_spec(self.name)
        try:
            if atari.is_atari(spec):
                return atari.make_game(spec, self.atari, self.max_episode_steps, self.env_kwargs, render_mode)
            kwargs = dict(self.env_kwargs) | self._time_limit()
            if render_mode is not None:
                kwargs["render_mode"] = render_mode
            mujoco_warnings.say_once(spec)
            # Gymnasium's passive checker warns where Interface and Checked refuse.
            return with_interface(gym.make(spec, disable_env_checker=True, **kwargs), self.name)
        except gym.error.DependencyNotInstalled as error:
            raise missing_package(self.name, error) from None
        except TypeError as error:
            if render_mode is None or "'render_mode'" not in str(error):
                raise
            raise self._not_rendered(render_mode) from error

    def _pool(self, count: int, render_mode: str | None = None) -> AnyVectorEnv:
        if self.wrappers:
            raise UsageError(
                f"{self.name!r} takes no wrappers: they go around single environments, and EnvPool has none; "
                "its own options are env_kwargs"
            )
        return envpool.make_pool(self.name, count, self.atari, self.max_episode_steps, self.env_kwargs, render_mode)

    def _import(self) -> None:
        for module in self.imports:
            import_registering(module, f"import {module!r}")

    def _not_rendered(self, render_mode: str) -> UsageError:
        return UsageError(
            f"environment {self.name!r} cannot be rendered: it takes no render_mode={render_mode!r}; give its class "
            "that argument, and a `render` that then returns frames [H, W, 3] of bytes"
        )

    def _an_env(self, env: Any, what: str) -> gym.Env[Any, Any]:
        if not isinstance(env, gym.Env):
            raise UsageError(
                f"{what} made a {type(env).__name__}, which is no gymnasium.Env; "
                "name a class or a callable that returns one"
            )
        return env

    def _time_limit(self) -> dict[str, Any]:
        return {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}


@dataclass(frozen=True)
class EnvFacts:
    """What training needs to know of an environment before it starts.

    Args:
        name: the source's.
        observation_space: of one environment; a mask is its part "action_mask".
        action_space: of one environment.
        reward_threshold: the return from which on it counts as solved, if its registration or it itself names one.
        source: the source, with `action_mask` decided: what workers are to be given.
    """

    name: str
    observation_space: Space
    action_space: Space
    reward_threshold: float | None
    source: EnvSource


def examine(source: EnvSource) -> EnvFacts:
    """Make one environment, read its spaces and reward threshold, see if it masks its actions, close it.

    Raises:
        UnknownEnvironment: its name leads nowhere.
        UnsupportedEnvironment: it cannot be made, or a space is not handled; the message names which.
    """
    with making(source):
        env = source._wrapped()
        for space in ("observation_space", "action_space"):
            if getattr(env, space, None) is None:
                raise UnsupportedEnvironment(f"environment {source.name!r} has no {space}: set one in its __init__")
    try:
        check_spaces(source.name, env.observation_space, env.action_space)
        if source.action_mask is None:
            source = replace(source, action_mask=_masks(source, env))
        if source.action_mask and not has_mask(env.observation_space):
            env = ActionMask(env, source.name)
        check_spaces(source.name, env.observation_space, env.action_space)
        threshold = getattr(env.spec or env.unwrapped, "reward_threshold", None)
        return EnvFacts(
            source.name,
            env.observation_space,
            env.action_space,
            None if threshold is None else float(threshold),
            source,
        )
    finally:
        with making(source, "closed"):
            env.close()


@contextlib.contextmanager
def making(source: EnvSource, what: str = "made here") -> Iterator[None]:
    """Turn whatever making an environment (or playing it) raises into an UnsupportedEnvironment that names it."""
    try:
        yield
    except A3CError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise missing_package(source.name, error) from error
    except Exception as error:
        arguments = what == "made here" and isinstance(error, TypeError) and "argument" in str(error)
        fix = "; what it is made with is --env-kwargs" if arguments else ""
        raise UnsupportedEnvironment(f"environment {source.name!r} cannot be {what} ({reason(error)}){fix}") from error


def missing_package(name: str, error: gym.error.DependencyNotInstalled) -> UsageError:
    """Which package an environment wants, by our extra's name where there is such."""
    for extra in _EXTRAS:
        if f"gymnasium[{extra}]" in str(error):
            return missing_extra(f"environment {name!r}", extra)
    return UsageError(f"environment {name!r} wants a package that is missing: {error}")


def reset_seed(envs: AnyVectorEnv, environments: list[int], vector_environment: int) -> int | list[int]:
    """The seed that `envs` takes at reset: a list with one for each environment, or one int for all.

    Native vector environments draw all their episodes from one stream and take one int.
    """
    return environments if isinstance(envs.unwrapped, SyncVectorEnv) else vector_environment


def _masks(source: EnvSource, env: gym.Env[Any, Any]) -> bool:
    """Whether infos tell an action mask that is not in the observation already.

    Raises UnsupportedEnvironment if the first one does not fit the actions.
    """
    if source.pooled or has_mask(env.observation_space):
        return False
    try:
        _, info = Checked(env, source.name).reset()
    except A3CError:
        raise
    except Exception as error:
        raise UnsupportedEnvironment(f"environment {source.name!r} cannot be reset ({reason(error)})") from error
    if ACTION_MASK not in info:
        return False
    mask_size(source.name, env.action_space)  # that all actions are choices: else sizes say nothing
    flat_mask(source.name, env.action_space, info[ACTION_MASK])
    return True


def _wrap(env: gym.Env[Any, Any], wrap: Wrap, name: str | Wrap) -> Any:
    try:
        required = [
            parameter.name
            for parameter in inspect.signature(wrap).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
    except (TypeError, ValueError):
        required = []
    if len(required) > 1:
        raise UsageError(
            f"wrapper {name!r} wants {', '.join(required[1:])}, too: write NAME:JSON, such as "
            "'FrameStackObservation:{\"stack_size\": 4}', or name a function of yours that takes an environment and "
            "wraps it, package.module:function"
        )
    return wrap(env)


def _refuse_normalisation(wrapped: gym.Env[Any, Any], inner: gym.Env[Any, Any]) -> None:
    """Raise UsageError if a wrapper that is a function has put one around it that keeps statistics of its own."""
    while wrapped is not inner and isinstance(wrapped, gym.Wrapper):
        refuse_own_normalisation(wrapped)
        wrapped = wrapped.env


def _takes(factory: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
