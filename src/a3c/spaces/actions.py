"""From an action space to a distribution, and from its flat actions to what the environment takes."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from a3c.core.distributions import (
    Bernoulli,
    Categorical,
    Composite,
    Distribution,
    MultiCategorical,
    Normal,
    TanhNormal,
)
from a3c.errors import UnsupportedEnvironment
from a3c.spaces.parts import Space, basic_parts, described, unflatten

Bounding = Literal["clip", "tanh"]
"""How a Gaussian's actions come within a Box's bounds."""

_WIDEST_SCALED = 1e12  # a wider range is as good as unbounded: its actions are taken as they are and clipped
_EXACT = 2.0**53  # up to here float64 holds every integer
_MOST_CHOICES = 2**20  # each has a row of weights


class ActionSpace:
    """An action space, the distribution over it, and the way from the one to the other.

    A bounded Box is scaled: a distribution's -1 is its lower bound and 1 the upper one, so that a standard Gaussian
    covers it whatever its units. Where a bound is infinite or the range is 1e12 and more, actions are taken as they
    are, from 0 on or, if that is out of bounds, from 1 within the nearer bound.

    Args:
        space: the environment's action space, of one environment.
        bounding: "clip" a Gaussian's actions to the bounds, or squash them by "tanh".
        what: names the space in an error.

    Raises:
        UnsupportedEnvironment: a part is of a kind that is not handled, or is unbounded and to be squashed.
    """

    def __init__(self, space: Space, bounding: Bounding = "clip", what: str = "the action space") -> None:
        self.space = space
        self.parts = basic_parts(space, what)
        choices = sum(map(_choices, self.parts.values()))
        if choices > _MOST_CHOICES:
            raise UnsupportedEnvironment(f"{what} has {choices:,} choices; at most {_MOST_CHOICES:,} are handled")
        self._readers = [
            _reader(part, bounding, f"{what} {part}{described(path)}") for path, part in self.parts.items()
        ]
        distributions = tuple(reader.distribution for reader in self._readers)
        single = len(self.parts) == 1 and "" in self.parts
        self.distribution: Distribution = distributions[0] if single else Composite(distributions)
        self._single = self._readers[0] if single else None

    def to_environment(self, actions: NDArray[Any]) -> Any:
        """The environment's actions for flat ones [*lead, *K]: nested as the space is, batched by `lead`."""
        if self._single is not None:
            return self._single.read(actions)
        values, column = {}, 0
        for path, reader in zip(self.parts, self._readers, strict=True):
            shape = reader.distribution.action_shape
            width = shape[0] if shape else 1
            columns = actions[..., column : column + width]
            values[path] = reader.read(columns if shape else columns[..., 0])
            column += width
        return unflatten(self.space, values)


class _Discrete:
    def __init__(self, space: spaces.Discrete) -> None:
        self.distribution: Distribution = Categorical(int(space.n))
        self.start, self.dtype = int(space.start), space.dtype

    def read(self, actions: NDArray[Any]) -> NDArray[Any]:
        actions = actions.astype(np.int64, copy=False)
        return (actions + self.start if self.start else actions).astype(self.dtype, copy=False)


class _MultiDiscrete:
    def __init__(self, space: spaces.MultiDiscrete) -> None:
        self.distribution: Distribution = MultiCategorical(tuple(int(n) for n in space.nvec.flatten()))
        self.start, self.shape, self.dtype = space.start, space.nvec.shape, space.dtype

    def read(self, actions: NDArray[Any]) -> NDArray[Any]:
        return (actions.reshape(*actions.shape[:-1], *self.shape) + self.start).astype(self.dtype)


class _MultiBinary:
    def __init__(self, space: spaces.MultiBinary) -> None:
        assert space.shape is not None
        self.distribution: Distribution = Bernoulli(int(np.prod(space.shape)))
        self.shape, self.dtype = space.shape, space.dtype

    def read(self, actions: NDArray[Any]) -> NDArray[Any]:
        return actions.reshape(*actions.shape[:-1], *self.shape).astype(self.dtype)


class _Box:
    def __init__(self, space: spaces.Box, bounding: Bounding, what: str) -> None:
        size = int(np.prod(space.shape))
        low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
        with np.errstate(over="ignore"):
            scaled = high - low < _WIDEST_SCALED  # False where a bound is infinite
        if bounding == "tanh" and not scaled.all():
            raise UnsupportedEnvironment(
                f"{what} has an infinite bound or a range of {_WIDEST_SCALED:g} and more, which tanh "
                "cannot fill: take --action-bounding clip"
            )
        self.bounding = bounding
        self.distribution: Distribution = TanhNormal(size) if bounding == "tanh" else Normal(size)
        self.low, self.high, self.space = low, high, space
        nearest = np.where(low > 0, low + 1, np.where(high < 0, high - 1, 0.0))  # to 0, and 1 within the bounds
        low, high = np.where(scaled, low, nearest - 1), np.where(scaled, high, nearest + 1)
        self.centre, self.half_width = low / 2 + high / 2, high / 2 - low / 2

    def read(self, actions: NDArray[Any]) -> NDArray[Any]:
        actions = actions.reshape((*actions.shape[:-1], *self.space.shape))
        if np.isnan(actions).any():
            actions = np.where(np.isnan(actions), 0.0, actions)  # one is dropped; in a simulator it may stay for good
        if self.bounding == "tanh":
            actions = np.tanh(actions)
        actions = self.centre + self.half_width * actions
        actions = np.minimum(np.maximum(actions, self.low), self.high)
        if self.space.dtype.kind != "f":
            actions = np.rint(np.clip(actions, -_EXACT, _EXACT)).astype(self.space.dtype)
            actions = np.clip(actions, self.space.low, self.space.high)
        return np.asarray(actions, self.space.dtype)  # 0-d, too


def _choices(space: Space) -> int:
    """How many rows of weights a basic space takes, but for a Gaussian's second parameter."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum() if isinstance(space, spaces.MultiDiscrete) else np.prod(space.shape or ()))


_Reader = _Discrete | _MultiDiscrete | _MultiBinary | _Box


def _reader(space: Space, bounding: Bounding, what: str) -> _Reader:
    if isinstance(space, spaces.Discrete):
        return _Discrete(space)
    if space.shape is not None and not np.prod(space.shape):
        raise UnsupportedEnvironment(f"{what} has no entries: there is nothing to choose")
    if isinstance(space, spaces.MultiDiscrete):
        return _MultiDiscrete(space)
    if isinstance(space, spaces.MultiBinary):
        return _MultiBinary(space)
    return _Box(cast(spaces.Box, space), bounding, what)
