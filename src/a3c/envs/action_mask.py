"""Action masks: which actions an environment allows, as the part "action_mask" of its observation.

Environments tell masks in two ways: in a Dict observation, or in `info["action_mask"]`, as Gymnasium's own do. The
second is turned into the first here, so that from the environment's edge on there is only one. A mask is a row of 0
and 1, [n]: an entry for each choice of each Discrete and MultiDiscrete part of the action space, in their order.
"""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from a3c.errors import UnsupportedEnvironment
from a3c.spaces.parts import ACTION_MASK, Space, basic_parts, described


class ActionMask(gym.Wrapper[Any, Any, Any, Any]):
    """Folds `info["action_mask"]` into the observation.

    A Dict observation gets the part "action_mask"; any other becomes {"observation": ..., "action_mask": ...}. In an
    episode whose reset tells no mask, and at its end, an info may have none: everything is allowed then.

    Raises:
        UnsupportedEnvironment: actions of the space cannot be masked, a mask is not of its size, or one is missing.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self.name = name
        mask = spaces.Box(0, 1, (mask_size(name, env.action_space),), np.int8)
        self.nested = isinstance(env.observation_space, spaces.Dict)
        inner = env.observation_space
        around = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {"observation": inner}
        self.observation_space = spaces.Dict({**around, ACTION_MASK: mask})
        self._told = False  # by the reset of this episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation with its mask."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._told = info.get(ACTION_MASK) is not None
        return self._fold(observation, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The next observation with its mask."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._told and info.get(ACTION_MASK) is None and not (terminated or truncated):
            raise UnsupportedEnvironment(
                f"{self.name!r} had an action_mask in its info at its reset and none at this step: give one at each, "
                "all of 1 where every action is allowed"
            )
        observation, info = self._fold(observation, info)
        return observation, reward, terminated, truncated, info

    def _fold(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        around = dict(observation) if self.nested else {"observation": observation}
        around[ACTION_MASK] = flat_mask(self.name, self.env.action_space, info.get(ACTION_MASK))
        return around, {key: value for key, value in info.items() if key != ACTION_MASK}


def mask_size(name: str, action_space: Space) -> int:
    """n, the entries of a mask of this action space.

    Raises UnsupportedEnvironment if a part is neither Discrete nor MultiDiscrete: its actions are not counted.
    """
    total = 0
    for path, part in basic_parts(action_space, f"the action space of {name!r}").items():
        if isinstance(part, spaces.Discrete):
            total += int(part.n)
        elif isinstance(part, spaces.MultiDiscrete):
            total += int(part.nvec.sum())
        else:
            raise UnsupportedEnvironment(
                f"{name!r} masks its actions, and its action space has {part}{described(path)}: only Discrete and "
                "MultiDiscrete can be masked"
            )
    return total


def flat_mask(name: str, action_space: Space, mask: Any) -> NDArray[np.int8]:
    """A mask nested as Gymnasium nests it (what `action_space.sample(mask=...)` takes) as one row of 0 and 1, [n].

    A MultiDiscrete's is a tuple of arrays, a Tuple's a tuple and a Dict's a mapping of masks; None allows everything.
    Raises UnsupportedEnvironment if the mask is not of the space's form and size.
    """
    if mask is None:
        return np.ones(mask_size(name, action_space), np.int8)
    if isinstance(action_space, spaces.Dict | spaces.Tuple):
        keys: Any = action_space.spaces.keys() if isinstance(action_space, spaces.Dict) else range(len(action_space))
        try:
            inner = [(action_space[key], mask[key]) for key in keys]
        except (KeyError, IndexError, TypeError) as error:
            raise UnsupportedEnvironment(
                f'info["action_mask"] of {name!r} is not nested like its action space {action_space}'
            ) from error
        return np.concatenate([flat_mask(name, part, row) for part, row in inner])
    choices = [int(n) for n in np.ravel(getattr(action_space, "nvec", getattr(action_space, "n", 0)))]
    rows = _rows(mask)
    if [row.size for row in rows] not in (choices, [sum(choices)]):
        raise _wrong_size(name, 'info["action_mask"]', [row.size for row in rows], choices)
    allowed: NDArray[np.int8] = (np.concatenate(rows) != 0).astype(np.int8)
    return allowed


def _rows(mask: Any) -> list[NDArray[Any]]:
    if isinstance(mask, tuple | list) and any(isinstance(row, tuple | list | np.ndarray) for row in mask):
        return [row for nested in mask for row in _rows(nested)]
    return [np.ravel(mask)]


def has_mask(observation_space: Space) -> bool:
    """Whether the observation already holds a mask."""
    return isinstance(observation_space, spaces.Dict) and ACTION_MASK in observation_space.spaces


def check_mask(name: str, observation_space: Space, action_space: Space) -> None:
    """Raise UnsupportedEnvironment if the observation holds a mask that is not one of this action space."""
    if not has_mask(observation_space):
        return
    part, size = cast(spaces.Dict, observation_space)[ACTION_MASK], mask_size(name, action_space)
    if not isinstance(part, spaces.Box | spaces.MultiBinary):
        raise UnsupportedEnvironment(
            f"the action mask in the observation of {name!r} is {part}: a Box [{size}] is wanted"
        )
    if part.shape != (size,):
        raise _wrong_size(name, "the action mask in the observation", list(part.shape or ()), [size])


def _wrong_size(name: str, what: str, got: list[int], wanted: list[int]) -> UnsupportedEnvironment:
    fix = f"one array of {sum(wanted)} entries is wanted" + (", or one for each" if len(wanted) > 1 else "")
    return UnsupportedEnvironment(
        f"{what} of {name!r} is of size {got}, and its action space has {wanted} choices: {fix}"
    )
