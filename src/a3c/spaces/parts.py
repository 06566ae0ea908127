"""Nested spaces and observations as flat ones: each basic part by its path.

A basic space is Box, Discrete, MultiDiscrete or MultiBinary. An observation of a basic space is one array; one of
a Dict or Tuple space, however deep, becomes a flat dict {path: array}. A path joins keys and indices by "/", with
"~" and "/" in a key written "~0" and "~1", as in a JSON pointer (RFC 6901). The path of a basic space is "".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces

from a3c.errors import UnsupportedEnvironment

Space = spaces.Space[Any]
A = TypeVar("A")
B = TypeVar("B")

ACTION_MASK = "action_mask"
"""Key of a Dict observation that says which actions are allowed."""

_BASIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def basic_parts(space: Space, what: str) -> dict[str, Space]:
    """The basic spaces of `space` by path, in the space's own order.

    Args:
        space: any space.
        what: names it in an error, for example "the observation space of 'CartPole-v1'".

    Raises:
        UnsupportedEnvironment: a part is of another kind, or there is none; the message says which and where.
    """
    found: dict[str, Space] = {}
    _collect(space, "", found, what)
    if not found:
        raise UnsupportedEnvironment(f"{what} is {space}, which has no parts: there is nothing to work with")
    return found


def flatten(space: Space, value: Any) -> Any:
    """A value of a nested space as a flat dict by path; a value of a basic space as it is.

    `value` may be batched: nesting is the same, each part has leading dimensions more.
    """
    if isinstance(space, _BASIC):
        return value
    flat: dict[str, Any] = {}
    _flatten(space, value, "", flat)
    return flat


def map_parts(function: Callable[..., B], *observations: Any) -> Any:
    """`function` of each part of flat observations, which must be alike: an array, or a dict of them."""
    first = observations[0]
    if isinstance(first, dict):
        return {path: function(*(observation[path] for observation in observations)) for path in first}
    return function(*observations)


def parts(observation: A | dict[str, A]) -> dict[str, A]:
    """The parts of a flat observation by path: the observation itself under "" if it is one array."""
    return observation if isinstance(observation, dict) else {"": observation}


def is_mask(path: str) -> bool:
    """Whether the part at `path` of a Dict observation is (part of) its action mask."""
    return path == ACTION_MASK or path.startswith(f"{ACTION_MASK}/")


def described(path: str) -> str:
    """How an error message says where a part sits."""
    return f" at {path!r}" if path else ""


def _collect(space: Space, path: str, found: dict[str, Space], what: str) -> None:
    if isinstance(space, _BASIC):
        numbers = space.dtype is not None and space.dtype.kind in "biuf" and space.dtype.itemsize <= 8
        if isinstance(space, spaces.Box) and not numbers:
            raise UnsupportedEnvironment(
                f"{what} has a Box of {space.dtype}{described(path)}: only numbers are handled"
            )
        if isinstance(space, spaces.Box) and not bool((space.low <= space.high).all()):
            raise UnsupportedEnvironment(
                f"{what} has a Box whose low is not at most its high{described(path)} ({space}): are they swapped?"
            )
        found[path] = space
    elif isinstance(space, spaces.Dict | spaces.Tuple):
        for key, part in _children(space):
            below = join_path(path, key)
            if not str(key) or below in found:
                raise UnsupportedEnvironment(f"{what} has the key {key!r}{described(path)} twice, or it is empty")
            _collect(part, below, found, what)
    else:
        raise UnsupportedEnvironment(
            f"{what} has a {type(space).__name__} space{described(path)} ({space}), which is not handled: Box, "
            "Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these are; change it with a wrapper of yours"
        )


def _flatten(space: Space, value: Any, path: str, flat: dict[str, Any]) -> None:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, part in _children(space):
            _flatten(part, value[key], join_path(path, key), flat)
    else:
        flat[path] = value


def unflatten(space: Space, flat: Mapping[str, Any]) -> Any:
    """The inverse of `flatten` for a flat dict by path (the path of a basic space is "")."""
    return _unflatten(space, flat, "")


def _unflatten(space: Space, flat: Mapping[str, Any], path: str) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _unflatten(part, flat, join_path(path, key)) for key, part in _children(space)}
    if isinstance(space, spaces.Tuple):
        return tuple(_unflatten(part, flat, join_path(path, key)) for key, part in _children(space))
    return flat[path]


def _children(space: Any) -> list[tuple[Any, Space]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces))


def join_path(path: str, key: Any) -> str:
    """The path of a part's part; what separates names is escaped in them, as in a JSON pointer."""
    name = str(key).replace("~", "~0").replace("/", "~1")
    return f"{path}/{name}" if path else name


def array_of(space: Space, lead: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """Zeros [*lead, *O] of a basic space's dtype."""
    assert space.shape is not None
    return np.zeros((*lead, *space.shape), space.dtype)
