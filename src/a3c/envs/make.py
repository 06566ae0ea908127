"""Making vector environments in NEXT_STEP autoreset mode."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from a3c.errors import A3CError, UnknownEnvironment, UnsupportedEnvironment, UsageError

EnvFactory = Callable[[], gym.Env[Any, Any]]
AnyVectorEnv = VectorEnv[Any, Any, Any]

# Below this many environments a Python loop over single ones is at least as fast as CartPole's native vector
# environment (benchmarks/vectorisation.py).
_NATIVE_FROM_ENVS = 6


@dataclass(frozen=True)
class EnvSource:
    """Where environments come from: a registered id, `package.module:Class`, or a callable.

    Picklable if its callable is (cloudpickle takes those of a script or a notebook by value).

    Args:
        env: what names or makes one environment.
        max_episode_steps: a time limit in place of the environment's own.
    """

    env: str | EnvFactory
    max_episode_steps: int | None = None

    @property
    def name(self) -> str:
        """The environment's id, or its callable's name."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", type(self.env).__name__)

    @property
    def registered(self) -> bool:
        """Whether `env` is an id that Gymnasium makes."""
        return isinstance(self.env, str) and not _is_class_path(self.env)

    def __getstate__(self) -> dict[str, Any]:
        # A worker's registry is fresh: it knows nothing of what the caller's script has registered.
        # Not so for "module:Env-v0", whose module registers it there as here.
        spec = gym.registry.get(self.env) if isinstance(self.env, str) else None
        return self.__dict__ | {"spec": spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        spec = state.pop("spec")
        self.__dict__.update(state)
        if spec is None or spec.id in gym.registry:
            return
        if isinstance(spec.entry_point, str):
            with contextlib.suppress(Exception):  # its module may register the id itself; gym.make reports failures
                importlib.import_module(spec.entry_point.partition(":")[0])
        gym.registry.setdefault(spec.id, spec)

    def check_exists(self) -> None:
        """Raise UnknownEnvironment if `env` is a name that leads nowhere. Makes no environment."""
        if self.registered:
            _spec(cast(str, self.env))
        elif isinstance(self.env, str):
            _import(self.env)

    def make(self) -> gym.Env[Any, Any]:
        """One environment.

        Raises UnknownEnvironment for a name that leads nowhere, UsageError for one that cannot be made here.
        """
        if isinstance(self.env, str) and not _is_class_path(self.env):
            _spec(self.env)
            try:
                return gym.make(self.env, **self._time_limit())
            except gym.error.DependencyNotInstalled as error:
                raise UsageError(f"environment {self.env!r} wants a package that is missing: {error}") from None
        factory = _import(self.env) if isinstance(self.env, str) else self.env
        env = factory()
        if not isinstance(env, gym.Env):
            raise UsageError(
                f"environment {self.name!r} made a {type(env).__name__}, which is no gymnasium.Env; "
                "name a class or a callable that returns one"
            )
        if self.max_episode_steps is not None:
            return gym.wrappers.TimeLimit(env, self.max_episode_steps)
        return env

    def make_vector(self, count: int) -> AnyVectorEnv:
        """`count` environments in one, in NEXT_STEP mode: native if there is such and it is the faster."""
        if self.registered and count >= _NATIVE_FROM_ENVS:
            spec = _spec(cast(str, self.env))
            if spec.vector_entry_point is not None and not spec.additional_wrappers:
                native: AnyVectorEnv = gym.make_vec(
                    spec, num_envs=count, vectorization_mode="vector_entry_point", **self._time_limit()
                )
                if native.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP:
                    return native
                native.close()
        return SyncVectorEnv([self.make] * count, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)

    def _time_limit(self) -> dict[str, Any]:
        return {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}


@dataclass(frozen=True)
class EnvFacts:
    """What training needs to know of an environment before it starts."""

    name: str
    observation_space: spaces.Box
    action_space: spaces.Discrete
    reward_threshold: float | None


def inspect(source: EnvSource) -> EnvFacts:
    """Make one environment, read its spaces and reward threshold, close it.

    Raises:
        UnknownEnvironment: its name leads nowhere.
        UnsupportedEnvironment: it cannot be made, or a space is not handled; the message names which.
    """
    with making(source):
        env = source.make()
    try:
        observation_space, action_space = env.observation_space, env.action_space
        check_spaces(source.name, observation_space, action_space)
        threshold = getattr(env.spec, "reward_threshold", None) if env.spec is not None else None
        return EnvFacts(
            source.name,
            cast(spaces.Box, observation_space),
            cast(spaces.Discrete, action_space),
            None if threshold is None else float(threshold),
        )
    finally:
        env.close()


@contextlib.contextmanager
def making(source: EnvSource) -> Iterator[None]:
    """Turn whatever making an environment raises into an UnsupportedEnvironment that names it."""
    try:
        yield
    except A3CError:
        raise
    except Exception as error:
        raise UnsupportedEnvironment(f"environment {source.name!r} cannot be made here ({_reason(error)})") from error


def check_spaces(name: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raise UnsupportedEnvironment unless observations are a numeric Box and actions a Discrete."""
    if not isinstance(observation_space, spaces.Box) or observation_space.dtype == np.bool_:
        raise UnsupportedEnvironment(
            f"the observation space of {name!r} is {observation_space}, and only Box is handled so far; "
            "flatten it with gymnasium.wrappers.FlattenObservation in a callable of your own"
        )
    if not isinstance(action_space, spaces.Discrete):
        raise UnsupportedEnvironment(
            f"the action space of {name!r} is {action_space}, and only Discrete is handled so far; "
            "map it to a Discrete one with a gymnasium.ActionWrapper in a callable of your own"
        )


def reset_seed(envs: AnyVectorEnv, environments: list[int], vector_environment: int) -> int | list[int]:
    """The seed that `envs` takes at reset: a list with one for each environment, or one int for all.

    Native vector environments draw all their episodes from one stream and take one int.
    """
    return environments if isinstance(envs.unwrapped, SyncVectorEnv) else vector_environment


def _is_class_path(env: str) -> bool:
    # "ALE/Pong-v5" and "module:Env-v0" are Gymnasium ids; "package.module:Class" is not registered.
    return ":" in env and env.split(":")[-1].isidentifier()


def _spec(name: str) -> gym.envs.registration.EnvSpec:
    module_name, _, env_id = name.rpartition(":")
    if module_name:
        _import_module(name, module_name)  # it registers its environments
    try:
        return gym.spec(env_id)
    except gym.error.DeprecatedEnv as error:
        raise UnknownEnvironment(f"environment {env_id!r} is out of date: {error}") from None
    except gym.error.NamespaceNotFound as error:
        raise UnknownEnvironment(
            f"there is no environment {env_id!r}: {error} If a package registers it, name that, too: MODULE:{env_id}"
        ) from None
    except (gym.error.Error, ModuleNotFoundError, ValueError) as error:
        near = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.5)
        if not near:
            lowered = {name.lower(): name for name in gym.registry}
            near = [lowered[n] for n in difflib.get_close_matches(env_id.lower(), lowered, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "see gymnasium.pprint_registry() for those there are"
        detail = f" ({error})" if isinstance(error, ModuleNotFoundError) else ""
        raise UnknownEnvironment(f"there is no environment {env_id!r}{detail}; {hint}") from None


def _import(path: str) -> EnvFactory:
    module_name, _, attribute = path.rpartition(":")
    try:
        return cast(EnvFactory, getattr(_import_module(path, module_name), attribute))
    except AttributeError:
        raise UnknownEnvironment(f"environment {path!r}: module {module_name!r} has no {attribute!r}") from None


def _import_module(path: str, module_name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # `python -m a3c` looks there first, an installed command not at all
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        raise UnknownEnvironment(f"environment {path!r}: cannot import {module_name!r} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """The error's class and text, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
