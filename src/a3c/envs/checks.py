"""What an environment must keep to: its spaces, and that its steps are what they declare.

An environment that breaks its word makes an agent learn from something else than was meant, or fails far away from
the mistake. So each single environment has a wrapper at its core and one at its edge that look at every step (`Lanes`
does in one look what the two do), and a person's own vector environment has one. Those of Gymnasium, ALE and EnvPool
are taken at their word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from a3c.envs.action_mask import check_mask, has_mask
from a3c.errors import UnsupportedEnvironment
from a3c.spaces.parts import ACTION_MASK, Space, basic_parts, described, join_path

Check = Callable[[Any], None]
Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
"""What a step gives: observation, reward, terminated, truncated and info."""

_NUMBERS = (float, int, np.floating, np.integer)


def check_spaces(name: str, observation_space: Space, action_space: Space) -> None:
    """Raise UnsupportedEnvironment unless both are built of the handled spaces and a mask fits the actions.

    Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these are handled. The message names the part.
    """
    basic_parts(observation_space, f"the observation space of {name!r}")
    basic_parts(action_space, f"the action space of {name!r}")
    check_mask(name, observation_space, action_space)


class Interface(gym.Wrapper[Any, Any, Any, Any]):
    """The environment as it is, but what is no Gymnasium step or reset is an UnsupportedEnvironment that says so."""

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self.name = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """An observation and an info."""
        try:
            result = self.env.reset(seed=seed, options=options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise UnsupportedEnvironment(
                f"reset of {self.name!r} takes no seed and options ({error}): it follows gym's API before 0.26; "
                "give it reset(self, *, seed=None, options=None)"
            ) from error
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise UnsupportedEnvironment(
                f"reset of {self.name!r} returned {_kind(result)}: (observation, info) is wanted, info a dict"
            )
        return result

    def step(self, action: Any) -> Step:
        """Observation, reward, terminated, truncated and info."""
        return self.as_step(self.env.step(action))

    def as_step(self, result: Any) -> Step:
        """What an environment's `step` returned, as a step."""
        if not (isinstance(result, tuple) and len(result) == 5):
            raise _no_step(result, self.name)
        observation, reward, terminated, truncated, info = result
        if type(terminated) is bool and type(truncated) is bool and type(info) is dict:  # nearly always, and quick
            return cast(Step, result)
        terminated, truncated = self._end(terminated, "terminated"), self._end(truncated, "truncated")
        if not isinstance(info, Mapping):
            raise UnsupportedEnvironment(f"the info of a step of {self.name!r} is {_kind(info)}: a dict is wanted")
        return observation, reward, terminated, truncated, cast(dict[str, Any], info)

    def _end(self, ended: Any, which: str) -> bool:
        if type(ended) is bool or isinstance(ended, np.bool_):
            return bool(ended)
        if np.ndim(ended) == 0 and np.asarray(ended).dtype.kind in "biu" and ended in (0, 1):
            return bool(ended)
        got = repr(ended) if isinstance(ended, str | int | float) else _kind(ended)
        raise UnsupportedEnvironment(
            f"`{which}` of a step of {self.name!r} is {got}: true or false is wanted, in the order (observation, "
            "reward, terminated, truncated, info)"
        )


class Checked(Interface):
    """An environment whose observations are of its space and whose rewards are numbers, or it says which are not.

    NaN and values outside a Box's bounds pass. Frames that are rendered as numbers from 0 to 1 become bytes.

    Args:
        env: a single environment.
        name: what errors call it.
        infos: keys of infos that are kept; None keeps all. A vector environment gathers every key of every info, which
            can take longer than the step, and fails where a key's value changes its type.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, infos: tuple[str, ...] | None = None) -> None:
        super().__init__(env, name)
        self.infos = infos
        self._masked = has_mask(env.observation_space)
        self._check = observation_check(env.observation_space, f"the observation of {name!r}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation, checked."""
        observation, info = super().reset(seed=seed, options=options)
        self._check(observation)
        return observation, self.kept_info(info)

    def as_step(self, result: Any) -> Step:
        """What an environment's `step` returned, as a step; its observation and reward are looked at, too."""
        observation, reward, terminated, truncated, info = super().as_step(result)
        self._check(observation)
        if not isinstance(reward, _NUMBERS):
            reward = self._number(reward)
        return observation, reward, terminated, truncated, self.kept_info(info) if info else info

    def render(self) -> Any:
        """A frame; [H, W, 3] of bytes if the environment is in the mode "rgb_array"."""
        frame = super().render()
        if isinstance(frame, np.ndarray) and frame.dtype.kind == "f":
            return np.rint(frame * 255.0).astype(np.uint8)
        return frame

    def kept_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Of an info the keys that are kept."""
        if self.infos is None:
            return info
        if ACTION_MASK in info and not self._masked:
            raise UnsupportedEnvironment(
                f"{self.name!r} has an action_mask in this info, and had none in that of its first reset: "
                "whether actions are masked is decided there, so give one at each reset and step"
            )
        return {key: info[key] for key in self.infos if key in info}

    def _number(self, reward: Any) -> float:
        if np.ndim(reward) == 0 and isinstance(reward, SupportsFloat) and not isinstance(reward, np.complexfloating):
            return float(reward)
        raise UnsupportedEnvironment(f"the reward of {self.name!r} is {_kind(reward)}: a number is wanted")


class CheckedVector(gym.vector.VectorWrapper):
    """A vector environment whose observations are of its space, with a reward and two ends for each environment.

    Or it says which are not.

    Args:
        env: a vector environment.
        name: what errors call it.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], name: str) -> None:
        super().__init__(env)
        self.name = name
        space = batch_space(env.single_observation_space, env.num_envs)
        self._check = observation_check(space, f"the batch of observations of {name!r}")

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The first observations, checked."""
        result = self.env.reset(seed=cast(Any, seed), options=options)  # annotated more narrowly than it takes
        if not (isinstance(result, tuple) and len(result) == 2):
            raise UnsupportedEnvironment(
                f"reset of {self.name!r} returned {_kind(result)}: (observations, infos) is wanted"
            )
        self._check(result[0])
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """The next observations, rewards and ends, checked."""
        result = self.env.step(actions)
        if not (isinstance(result, tuple) and len(result) == 5):
            raise _no_step(result, self.name)
        observations, rewards, terminated, truncated, _ = result
        self._check(observations)
        self._check_each("rewards", rewards, "iuf")
        self._check_each("terminated", terminated, "b")
        self._check_each("truncated", truncated, "b")
        return result

    def _check_each(self, what: str, values: Any, kinds: str) -> None:
        if not (isinstance(values, np.ndarray) and values.shape == (self.num_envs,) and values.dtype.kind in kinds):
            wanted = f"an array ({self.num_envs},) of {'bool' if kinds == 'b' else 'numbers'}"
            raise UnsupportedEnvironment(f"`{what}` of a step of {self.name!r} is {_kind(values)}: {wanted} is wanted")


def _no_step(result: Any, name: str) -> UnsupportedEnvironment:
    return UnsupportedEnvironment(
        f"step of {name!r} returned {_kind(result)}: (observation, reward, terminated, truncated, info) is wanted; "
        "gym before 0.26 had four values, with one `done` for both ends"
    )


def with_interface(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    """The environment with an Interface right around its core, within all other wrappers, which rely on it."""
    if not isinstance(env, gym.Wrapper):
        return Interface(env, name)
    innermost = env
    while isinstance(innermost.env, gym.Wrapper):
        innermost = innermost.env
    if not isinstance(innermost, Interface):
        innermost.env = Interface(innermost.env, name)
    return env


def direct(env: Checked) -> tuple[gym.Env[Any, Any], int | None]:
    """The environment whose `step` is the same with the fewest calls, and how many steps an episode has, if limited.

    Whoever steps it so looks at each result itself, ends episodes at the limit, and resets the outer one before the
    first step: of the wrappers only those are left out that do no more than that.
    """
    inner, limit = env.env, None
    if type(inner) is gym.wrappers.TimeLimit and isinstance(limit := getattr(inner, "_max_episode_steps", None), int):
        inner = inner.env
    if type(inner) is gym.wrappers.OrderEnforcing:
        inner = inner.env
    if type(inner) is Interface and not isinstance(inner.env, gym.Wrapper):
        return inner.env, limit
    return env.env, None


def unchecked(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment without any Interface or Checked around or within it, as far as Gymnasium's wrappers go."""
    while isinstance(env, Interface):
        env = env.env
    outer = env
    while isinstance(outer, gym.Wrapper):
        while isinstance(outer.env, Interface):
            outer.env = outer.env.env
        outer = outer.env
    return env


def observation_check(space: Space, what: str, path: str = "") -> Check:
    """A function that raises UnsupportedEnvironment if an observation is not of `space` in structure, shape or dtype.

    A dtype is right if NumPy casts it within its kind, as float64 to float32. Choices of Discrete and MultiDiscrete
    must be among those that there are. `what` names the observation in an error, and `path` where the part sits.
    """

    def wrong(got: str) -> UnsupportedEnvironment:
        return UnsupportedEnvironment(f"{what}{described(path)} is not of its space {space}: got {got}")

    if isinstance(space, spaces.Dict):
        return _dict_check(
            {key: observation_check(part, what, join_path(path, key)) for key, part in space.items()}, wrong
        )
    if isinstance(space, spaces.Tuple):
        return _tuple_check([observation_check(part, what, join_path(path, i)) for i, part in enumerate(space)], wrong)
    if isinstance(space, spaces.Discrete):
        return _choice_check(int(space.start), int(space.start) + int(space.n), wrong)
    check = _array_check(space, wrong)
    if isinstance(space, spaces.MultiDiscrete):
        return _choices_check(space, check, wrong)
    return check


Wrong = Callable[[str], UnsupportedEnvironment]


def _dict_check(checks: Mapping[Any, Check], wrong: Wrong) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise wrong(_kind(value))
        if value.keys() != checks.keys():
            raise wrong(f"the keys {sorted(map(str, value))}")
        for key, check_part in checks.items():
            check_part(value[key])

    return check


def _tuple_check(checks: list[Check], wrong: Wrong) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, tuple | list) or len(value) != len(checks):
            raise wrong(_kind(value))
        for check_part, part in zip(checks, value, strict=True):
            check_part(part)

    return check


def _choice_check(low: int, high: int, wrong: Wrong) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, int | np.integer):
            if np.ndim(value) or np.asarray(value).dtype.kind not in "biu":
                raise wrong(_kind(value))
            value = int(value)
        if not low <= value < high:
            raise wrong(f"the value {value}")

    return check


def _choices_check(space: spaces.MultiDiscrete, check_array: Check, wrong: Wrong) -> Check:
    low = space.start.astype(np.int64)  # its own type may be too narrow for the sum
    high = low + space.nvec

    def check(value: Any) -> None:
        check_array(value)
        value = np.asarray(value)
        if ((value < low) | (value >= high)).any():
            raise wrong(f"the values {value.tolist()}")

    return check


def _array_check(space: Space, wrong: Wrong) -> Check:
    shape, dtype = space.shape, space.dtype
    assert shape is not None
    assert dtype is not None

    def check(value: Any) -> None:
        if isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == shape:
            return
        try:
            array = np.asarray(value)
        except ValueError:  # ragged
            raise wrong(_kind(value)) from None
        if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise wrong(_kind(value))

    return check


def _kind(value: Any) -> str:
    """What kind of thing a value is, in a few words."""
    if isinstance(value, np.ndarray | np.generic):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}" if value is not None else "None"
