"""Spaces as JSON can hold them, and back. Reading one runs no code, and a part that would be huge is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from a3c.spaces.parts import Space

_DTYPES = frozenset(
    [np.dtype(kind).name for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")]
)
MOST_ENTRIES = 2**24
"""Of all parts of a space together: 16 Mi numbers; a description that asks for more is damaged or hostile."""

_MOST_PARTS = 2048


def space_to_json(space: Space) -> dict[str, Any]:
    """The description of a space of the handled kinds."""
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": [[key, space_to_json(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    if isinstance(space, spaces.Discrete):
        discrete = {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        dtype = np.dtype(space.dtype)
        return discrete if dtype == np.int64 else discrete | {"dtype": dtype.name}  # as old Gymnasiums know no other
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "kind": "MultiDiscrete",
            "shape": _shape(space),
            "dtype": np.dtype(space.dtype).name,
            "nvec": space.nvec.flatten().tolist(),
            "start": space.start.flatten().tolist(),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": _shape(space) if isinstance(space.n, tuple) else int(space.n)}
    assert isinstance(space, spaces.Box), f"{space} is not handled"
    return {
        "kind": "Box",
        "shape": _shape(space),
        "dtype": np.dtype(space.dtype).name,
        "low": _bound_to_json(space.low),
        "high": _bound_to_json(space.high),
    }


def space_from_json(data: Mapping[str, Any], most_entries: int = MOST_ENTRIES) -> Space:
    """The inverse of `space_to_json`.

    Raises ValueError, TypeError or KeyError if the description is damaged, or if its parts together have more than
    `most_entries` numbers, of which none is made then.
    """
    sizes = list(itertools.islice(_sizes(data), _MOST_PARTS + 1))
    if len(sizes) > _MOST_PARTS:
        raise ValueError(f"a space of more than {_MOST_PARTS:,} parts")
    if sum(sizes) > most_entries:
        raise ValueError(f"a space of {sum(sizes):,} numbers, where there can be {most_entries:,}")
    return _space_from_json(data)


def _sizes(data: Mapping[str, Any]) -> Iterator[int]:
    """How many entries each basic part has."""
    kind = data["kind"]
    if kind in ("Dict", "Tuple"):
        for part in data["spaces"]:
            yield from _sizes(part[1] if kind == "Dict" else part)
    else:
        shape = data.get("shape", data.get("n", 1)) if kind != "Discrete" else []
        yield math.prod(_checked_shape(shape if isinstance(shape, list) else [shape]))


def _space_from_json(data: Mapping[str, Any]) -> Space:
    kind = data["kind"]
    if kind == "Dict":
        pairs: list[tuple[Any, Space]] = [(_checked_key(key), _space_from_json(part)) for key, part in data["spaces"]]
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return spaces.Dict(pairs)  # of pairs, for a plain dict's keys would be sorted
    if kind == "Tuple":
        return spaces.Tuple([_space_from_json(part) for part in data["spaces"]])
    if kind == "Discrete":
        kind_of_number = _dtype(data.get("dtype", "int64"))
        least, most = _limits(kind_of_number)
        (n,), (start,) = _integers([data["n"]], 1, min(most, MOST_ENTRIES)), _integers([data["start"]], least, most)
        return (
            spaces.Discrete(n, start=start)
            if kind_of_number is np.int64
            else spaces.Discrete(n, start=start, dtype=kind_of_number)
        )
    if kind == "MultiDiscrete":
        shape, dtype = _checked_shape(data["shape"]), _dtype(data["dtype"])
        least, most = _limits(dtype)
        counts = _integers(data["nvec"], 1, min(most, MOST_ENTRIES))
        if sum(counts) > MOST_ENTRIES:
            raise ValueError(f"a MultiDiscrete of {sum(counts)} choices")
        starts = _integers(data["start"], least, most)
        nvec, start_of_each = (np.array(numbers, dtype).reshape(shape) for numbers in (counts, starts))
        return spaces.MultiDiscrete(nvec, dtype=dtype, start=start_of_each)
    if kind == "MultiBinary":
        n = data["n"]
        return spaces.MultiBinary(_checked_shape(n) if isinstance(n, list) else _checked_shape([n])[0])
    if kind == "Box":
        shape, dtype = _checked_shape(data["shape"]), _dtype(data["dtype"])
        low, high = (_bound_from_json(data[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype)
    raise ValueError(f"an unknown kind of space: {kind!r}")


def _shape(space: Space) -> list[int]:
    assert space.shape is not None
    return [int(n) for n in space.shape]


def _checked_key(key: Any) -> str | int:
    if not isinstance(key, str | int):
        raise TypeError(f"a key that is a {type(key).__name__}")
    return key


def _checked_shape(data: Sequence[Any]) -> tuple[int, ...]:
    shape = tuple(_integers(data, 0, MOST_ENTRIES))
    if math.prod(shape) > MOST_ENTRIES:
        raise ValueError(f"an impossible shape: {shape}")
    return shape


def _integers(data: Sequence[Any], least: int, most: int) -> list[int]:
    numbers = list(data)
    if not all(isinstance(number, int) and least <= number <= most for number in numbers):
        raise ValueError(f"not only integers from {least} to {most}")
    return numbers


def _dtype(name: str) -> Any:
    if name not in _DTYPES:
        raise ValueError(f"an unknown dtype: {name!r}")
    return np.dtype(name).type


def _limits(dtype: Any) -> tuple[int, int]:
    """The least and the largest number of a dtype. Raises ValueError if it is not one of integers or truth values."""
    if np.dtype(dtype).kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _bound_to_json(bound: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """One number where all are equal, else a list of all; infinities as "inf" and "-inf"."""
    if bound.size and (bound == bound.flat[0]).all():
        return _number_to_json(bound.flat[0].item())
    return [_number_to_json(number.item()) for number in bound.flat]


def _number_to_json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _bound_from_json(data: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    values = data if isinstance(data, list) else [data]
    if np.dtype(dtype).kind == "f":
        with np.errstate(over="ignore"):  # what is beyond the type is infinite
            numbers = np.array([_float(value) for value in values], dtype)
    else:
        numbers = np.array(_integers(values, *_limits(dtype)), dtype)
    if np.isnan(numbers).any() or (isinstance(data, list) and numbers.size != math.prod(shape)):
        raise ValueError("bounds that do not fit the shape")
    return numbers.reshape(shape) if isinstance(data, list) else np.full(shape, numbers[0])


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(str(error)) from None
