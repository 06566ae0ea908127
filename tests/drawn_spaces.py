"""Spaces that Hypothesis draws, values in them, and an environment between two of them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

FLOATS, INTEGERS = (
    ("float32", "float64", "float16"),
    (
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "uint64",
        "int64",
        "bool",
    ),
)
SHAPES = ((), (1,), (3,), (2, 2), (2, 1, 2))


@st.composite
def boxes(draw: Any, dtypes: tuple[str, ...] = FLOATS + INTEGERS, shapes: tuple[Any, ...] = SHAPES) -> spaces.Box:
    """Boxes with bounds of their own in each entry: finite ones, one, none, or the type's largest number."""
    dtype, shape = np.dtype(draw(st.sampled_from(dtypes))), draw(st.sampled_from(shapes))
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        pairs = [(-math.inf, math.inf), (0, math.inf), (-math.inf, 3), (-largest, largest), (-1, 1), (-0.5, 7), (2, 2)]
    elif dtype.kind == "b":
        pairs = [(0, 1), (1, 1)]
    else:
        kind = np.iinfo(dtype)
        pairs = [(kind.min, kind.max), (0, kind.max), (1, 5), (3, 3), (kind.min, 1)]
    count = math.prod(shape)
    bounds = draw(st.lists(st.sampled_from(pairs), min_size=count, max_size=count))
    low, high = (np.array([pair[side] for pair in bounds], object).astype(dtype).reshape(shape) for side in (0, 1))
    return spaces.Box(low, high, shape, dtype.type)


_TYPED = "dtype" in inspect.signature(spaces.Discrete).parameters  # not in older Gymnasiums


@st.composite
def discretes(draw: Any) -> spaces.Discrete:
    dtype = draw(st.sampled_from([np.int64, np.int64, np.int32, np.uint8])) if _TYPED else np.int64
    n, start = draw(st.integers(1, 5)), draw(st.integers(0 if dtype is np.uint8 else -3, 3))
    return spaces.Discrete(n, start=start, dtype=dtype) if _TYPED else spaces.Discrete(n, start=start)


@st.composite
def multi_discretes(draw: Any) -> spaces.MultiDiscrete:
    shape = draw(st.sampled_from([(1,), (3,), (2, 2)]))
    count = math.prod(shape)
    nvec, start = (
        np.array(draw(st.lists(st.integers(low, 4), min_size=count, max_size=count))).reshape(shape) for low in (1, -2)
    )
    return spaces.MultiDiscrete(nvec, dtype=draw(st.sampled_from([np.int64, np.int32])), start=start)


def multi_binaries() -> st.SearchStrategy[spaces.MultiBinary]:
    return st.sampled_from([1, 4, (3,), (2, 2)]).map(spaces.MultiBinary)


def basics() -> st.SearchStrategy[Any]:
    return st.one_of(boxes(), discretes(), multi_discretes(), multi_binaries())


KEYS = st.text("ab/~é 0", min_size=1, max_size=3)


def nested(basic: st.SearchStrategy[Any] | None = None, depth: int = 2) -> st.SearchStrategy[Any]:
    """Spaces with up to `depth` levels of Dict and Tuple around basic ones."""
    space = basics() if basic is None else basic
    for _ in range(depth):
        pairs = st.lists(st.tuples(KEYS, space), min_size=1, max_size=3, unique_by=lambda pair: pair[0])
        space = st.one_of(
            space, pairs.map(spaces.Dict), st.lists(space, min_size=1, max_size=3).map(lambda some: spaces.Tuple(some))
        )
    return space


def value_in(space: Any, random: np.random.Generator) -> Any:
    """A value of the space, near 0 where it is unbounded."""
    if isinstance(space, spaces.Dict):
        return {key: value_in(part, random) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(value_in(part, random) for part in space.spaces)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start + random.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return (space.start + random.integers(space.nvec)).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return random.integers(0, 2, space.shape).astype(space.dtype)
    if space.dtype.kind == "f":
        low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
        return np.asarray(np.clip(random.normal(0, 3, space.shape), low, high)).astype(space.dtype)
    # As floats, since unsigned numbers would wrap around.
    low, high = (np.clip(bound.astype(np.float64), -300, 300).astype(np.int64) for bound in (space.low, space.high))
    return np.asarray(random.integers(low, high, endpoint=True)).astype(space.dtype)


def contains(space: Any, value: Any) -> bool:
    """`space.contains(value)`, but that a 0-d Box may hold NumPy's scalars, which Gymnasium's own vectors hand out."""
    if isinstance(space, spaces.Dict):
        return set(value) == set(space.spaces) and all(contains(p, value[key]) for key, p in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, value, strict=True)
        return isinstance(value, tuple) and all(contains(part, one) for part, one in parts)
    return space.contains(np.asarray(value) if isinstance(space, spaces.Box) else value)


class Between(gym.Env[Any, Any]):
    """Random observations of one space, random rewards and ends, for actions that must be of another.

    Where the observation has an "action_mask", it allows at least one action of each row of choices, and none in the
    last observation of an episode.

    Args:
        choices: how many entries of the mask belong to each choice.
    """

    def __init__(self, observation_space: Any, action_space: Any, choices: tuple[int, ...] = ()) -> None:
        self.observation_space, self.action_space, self.choices = observation_space, action_space, choices
        self.actions: list[Any] = []
        self.masks: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(False), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert contains(self.action_space, action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        end = self.np_random.random()
        terminated, truncated = end < 0.15, end > 0.85
        return self._observe(terminated or truncated), float(self.np_random.normal()), terminated, truncated, {}

    def _observe(self, last: bool) -> Any:
        observation = value_in(self.observation_space, self.np_random)
        if self.choices:
            rows = [np.zeros(count, np.int8) for count in self.choices]
            for row in rows if not last else ():
                row[:] = self.np_random.integers(0, 2, len(row))
                row[self.np_random.integers(len(row))] = 1
            observation["action_mask"] = np.concatenate(rows)
            self.masks.append(rows)
        return observation
