"""EnvPool's vector environments, by the prefix "envpool:": "envpool:CartPole-v1", "envpool:Pong-v5".

EnvPool steps all environments of a worker in C++. It is in NEXT_STEP mode by its nature: the step after an episode's
end ignores the action and gives the next episode's first observation. envpool is imported when it is named.

Where an episode ends by itself in the very step of its time limit, EnvPool reports the limit only. Its Atari games
say both apart.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from a3c.envs.atari import AtariOptions, LostLives
from a3c.envs.lookup import missing_extra
from a3c.errors import UnknownEnvironment, UnsupportedEnvironment

PREFIX = "envpool:"
_ATARI_OPTION = "zero_discount_on_life_loss"  # of every Atari game and of nothing else


def check_exists(name: str) -> None:
    """Raise UsageError if EnvPool is not installed, UnknownEnvironment if it has no environment of this name."""
    tasks = _import_envpool().list_all_envs()
    task = name.removeprefix(PREFIX)
    if task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(PREFIX + task for task in near)}?" if near else "see envpool.list_all_envs()"
        raise UnknownEnvironment(f"there is no environment {name!r}; {hint}")


def is_atari(name: str) -> bool:
    """Whether `name` is one of EnvPool's Atari games; False where EnvPool is not installed or has no such task."""
    if not name.startswith(PREFIX) or importlib.util.find_spec("envpool") is None:
        return False
    return name.removeprefix(PREFIX) in _import_envpool().list_all_envs() and _ATARI_OPTION in _config_of(name)


def make_pool(
    name: str,
    count: int,
    options: AtariOptions,
    max_episode_steps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
) -> VectorEnv[Any, Any, Any]:
    """`count` environments of EnvPool, on one thread.

    Atari games are played as `options` say, with EnvPool's own preprocessing of the same kind (no sticky actions unless
    they are asked for).
    """
    check_exists(name)
    settings = dict(env_kwargs or {})
    if max_episode_steps is not None:
        settings["max_episode_steps"] = max_episode_steps
    atari = _ATARI_OPTION in _config_of(name)
    if atari:
        settings = {
            "reward_clip": False,
            "episodic_life": False,
            "repeat_action_probability": options.stickiness(0.0),
            "full_action_space": options.full_action_set,
            "use_fire_reset": options.fire_at_reset,
        } | settings
    pool = EnvPool(name, count, settings, render_mode)
    return LostLives(pool) if atari and options.reports_lives else pool


class EnvPool(VectorEnv[Any, Any, Any]):
    """An EnvPool as a Gymnasium vector environment.

    EnvPool takes its seed when it is made; so a reset with a seed makes it anew. Environment i gets the i-th after it.

    Args:
        name: "envpool:" and the name of a task.
        count: how many environments.
        settings: EnvPool's options for this task.
        render_mode: "rgb_array" for frames of the first environment, or None.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self, name: str, count: int, settings: Mapping[str, Any] | None = None, render_mode: str | None = None
    ) -> None:
        self.name, self.task, self.num_envs = name, name.removeprefix(PREFIX), count
        self.settings, self.render_mode = dict(settings or {}), render_mode
        self._pool: Any = None
        with _quiet_spaces():
            spec = _import_envpool().make_spec(self.task, num_envs=count, **self.settings)
            observation_space, action_space = spec.gymnasium_observation_space, spec.gymnasium_action_space
        for what, space in (("observation", observation_space), ("action", action_space)):
            if not isinstance(space, gym.Space):
                raise UnsupportedEnvironment(f"the {what} space of {name!r} is {space}, which is not Gymnasium's")
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, count)
        self.action_space = batch_space(action_space, count)
        self.reward_threshold = spec.config._asdict().get("reward_threshold")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """New episodes in all environments; with a seed, or the first time, in new environments."""
        if seed is not None or self._pool is None:
            self.close_extras()
            seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
            self._pool = _import_envpool().make_gymnasium(
                self.task,
                num_envs=self.num_envs,
                batch_size=self.num_envs,
                num_threads=1,  # each worker has its own core
                seed=seed % (2**31 - self.num_envs),
                render_mode=self.render_mode,
                **self.settings,
            )
        with _quiet_spaces():
            observations, info = self._pool.reset()
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of each environment; where an episode has ended, the first observation of the next."""
        observations, rewards, terminated, truncated, info = self._pool.step(actions)
        if "terminated" in info:
            terminated = np.asarray(info["terminated"], np.bool_)
        return observations, rewards, terminated, truncated & ~terminated, info

    def render(self) -> Any:
        """Frames [1, H, W, 3], of the first environment."""
        return self._pool.render()

    def close_extras(self, **kwargs: Any) -> None:
        """End EnvPool's thread."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class Single(gym.Env[Any, Any]):
    """The only environment of a vector environment of one, for those that exist natively only."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        self.envs = envs
        self.render_mode = envs.render_mode
        self.reward_threshold = getattr(envs.unwrapped, "reward_threshold", None)
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation."""
        observations, info = self.envs.reset(seed=seed, options=options)
        return _first(observations), _first(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The next observation, reward, ends and info."""
        observations, rewards, terminated, truncated, info = self.envs.step(np.asarray(action)[None])
        return _first(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def render(self) -> Any:
        """A frame [H, W, 3]."""
        return cast(Any, self.envs.render())[0]

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()


@contextlib.contextmanager
def _quiet_spaces() -> Iterator[None]:
    """No warnings of bounds that float32 rounds, which EnvPool's spaces are full of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _config_of(name: str) -> tuple[str, ...]:
    """The names of a task's options."""
    options: tuple[str, ...] = _import_envpool().make_spec(name.removeprefix(PREFIX)).config._fields
    return options


def _first(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _first(value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_first(value) for value in batch)
    return batch[0]


def _import_envpool() -> Any:
    try:
        return importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        if error.name != "envpool":
            raise
        raise missing_extra("EnvPool", "envpool") from None
