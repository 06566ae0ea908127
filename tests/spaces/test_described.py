"""Spaces as JSON: there and back, and descriptions that nobody should believe."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings

from a3c.errors import RunDirectoryError
from a3c.experiment.policy_spec import PolicySpec
from a3c.spaces.described import space_from_json, space_to_json
from a3c.spaces.parts import basic_parts
from drawn_spaces import nested


def there_and_back(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    return space_from_json(json.loads(text))


@given(nested(depth=3))
@settings(max_examples=150, deadline=None)
def test_a_drawn_space_comes_back(space):
    found = there_and_back(space)
    assert found == space
    assert list(basic_parts(found, "it").items()) == list(basic_parts(space, "it").items())  # in their order, too


KINDS = [np.float16, np.float32, np.float64, np.bool_, *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: np.dtype(kind).name)
def test_bounds_keep_every_bit(kind):
    dtype = np.dtype(kind)
    if dtype.kind == "b":
        numbers = [False, True]
    elif dtype.kind == "f":
        numbers = [
            -math.inf,
            np.finfo(dtype).min,
            -0.1,
            0.0,
            np.finfo(dtype).tiny,
            1 / 3,
            np.finfo(dtype).max,
            math.inf,
        ]
    else:
        numbers = [np.iinfo(dtype).min, 0, 1, np.iinfo(dtype).max - 1, np.iinfo(dtype).max]
    low, high = np.array(numbers[:-1], dtype), np.array(numbers[1:], dtype)
    found = there_and_back(spaces.Box(low, high, dtype=dtype.type))
    assert found.dtype == dtype
    assert found.low.tolist() == low.tolist()
    assert found.high.tolist() == high.tolist()


def test_equal_bounds_are_written_once():
    image = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    assert len(json.dumps(space_to_json(image))) < 200
    assert there_and_back(image) == image


def test_many_bounds_of_their_own():
    numbers = np.random.default_rng(0).normal(size=(200, 50))
    space = spaces.Box(numbers - 1, numbers + 1, dtype=np.float64)
    assert there_and_back(space) == space


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-(2**40)),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, -7], [2**40, 1]]),
        spaces.MultiDiscrete([2, 3], dtype=np.int8),
        spaces.MultiBinary(3),
        spaces.MultiBinary((3,)),
        spaces.MultiBinary((2, 2)),
        spaces.Box(-1, 1, ()),
        spaces.Box(-1, 1, (2, 0)),
        spaces.Tuple([spaces.Tuple([spaces.Discrete(1)]), spaces.Dict({"": spaces.Discrete(2)})]),
    ],
    ids=str,
)
def test_some_others_come_back(space):
    assert there_and_back(space) == space


def test_the_order_of_keys_is_kept():
    parts = [("z", spaces.Discrete(2)), ("a", spaces.Discrete(3)), ("m", spaces.Discrete(4))]
    for space in (spaces.Dict(OrderedDict(parts)), spaces.Dict(parts)):
        assert list(there_and_back(space).spaces) == ["z", "a", "m"]
    assert list(there_and_back(spaces.Dict(dict(parts))).spaces) == ["a", "m", "z"]  # Gymnasium sorts a plain dict


def test_keys_that_are_numbers_stay_numbers():
    assert list(there_and_back(spaces.Dict({2: spaces.Discrete(2), 10: spaces.Discrete(3)})).spaces) == [2, 10]


BOX = space_to_json(spaces.Box(-1, 1, (3,)))
PAIR = space_to_json(spaces.MultiDiscrete([2, 3]))
DAMAGED = {
    "no kind": {},
    "unknown kind": {"kind": "Text"},
    "kind is a list": {"kind": ["Box"]},
    "huge n": {"kind": "Discrete", "n": 2**60, "start": 0},
    "no n": {"kind": "Discrete", "n": 0, "start": 0},
    "negative n": {"kind": "Discrete", "n": -1, "start": 0},
    "n is infinite": {"kind": "Discrete", "n": math.inf, "start": 0},
    "n is NaN": {"kind": "Discrete", "n": math.nan, "start": 0},
    "start out of range": {"kind": "Discrete", "n": 2, "start": 10**30},
    "n is null": {"kind": "Discrete", "n": None, "start": 0},
    "huge shape": BOX | {"shape": [10**6, 10**6]},
    "large shape": BOX | {"shape": [2**28]},
    "negative shape": BOX | {"shape": [-3]},
    "negative twice": BOX | {"shape": [-3, -3]},
    "shape of many dimensions": BOX | {"shape": [1] * 100_000},
    "empty and huge": BOX | {"shape": [0, 10**30]},
    "shape is a number": BOX | {"shape": 3},
    "shape is infinite": BOX | {"shape": [math.inf]},
    "unknown dtype": BOX | {"dtype": "object"},
    "dtype that is code": BOX | {"dtype": "O8,V1"},
    "dtype is a list": BOX | {"dtype": ["float32"]},
    "bounds are words": BOX | {"low": ["a", "b", "c"]},
    "bounds are NaN": BOX | {"low": math.nan},
    "bounds are the word NaN": BOX | {"low": ["nan", 0, 0]},
    "bounds do not fit": BOX | {"low": [0.0, 0.0]},
    "bounds nested": BOX | {"low": [[0.0], [0.0, 1.0]]},
    "bounds the wrong way round": BOX | {"low": 2.0},
    "bounds infinite for integers": BOX | {"dtype": "int64", "low": [0, 0, "-inf"]},
    "one bound infinite for integers": BOX | {"dtype": "int64", "low": "-inf"},
    "bounds beyond all types": BOX | {"high": 10**400},
    "bounds beyond the type": BOX | {"dtype": "uint8", "high": 300},
    "a bound beyond the type": BOX | {"dtype": "uint8", "low": 0, "high": [1, 2, 300]},
    "no bounds": {name: BOX[name] for name in ("kind", "shape", "dtype")},
    "huge MultiBinary": {"kind": "MultiBinary", "n": [2**40]},
    "huge n of MultiBinary": {"kind": "MultiBinary", "n": 2**40},
    "negative MultiBinary": {"kind": "MultiBinary", "n": -4},
    "huge nvec": PAIR | {"nvec": [2**40, 2**40]},
    "nvec beyond integers": PAIR | {"nvec": [10**30, 2]},
    "nvec whose sum wraps": PAIR | {"shape": [4], "nvec": [2**62] * 4, "start": [0] * 4},
    "nvec of 0": PAIR | {"nvec": [0, 2]},
    "nvec and start differ": PAIR | {"start": [0]},
    "ragged nvec": PAIR | {"nvec": [[1, 2], [3]]},
    "MultiDiscrete of floats": PAIR | {"dtype": "float32"},
    "MultiDiscrete beyond its dtype": PAIR | {"nvec": [300, 2], "dtype": "int8"},
    "no spaces": {"kind": "Dict"},
    "pairs of three": {"kind": "Dict", "spaces": [["a", BOX, 1]]},
    "a part is a number": {"kind": "Tuple", "spaces": [3]},
    "keys are lists": {"kind": "Dict", "spaces": [[["a"], BOX]]},
    "the same key twice": {"kind": "Dict", "spaces": [["a", BOX], ["a", PAIR]]},
    "not even an object": [1, 2, 3],
    "null": None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_description_is_an_error_at_once(name):
    begun = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, TypeError, KeyError)):
            space_from_json(DAMAGED[name])
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("field", ["observation_space", "action_space"])
def test_a_policy_with_a_damaged_space_is_refused(name, field):
    data = PolicySpec(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)).to_json()
    assert PolicySpec.from_json(data).to_json() == data
    with pytest.raises(RunDirectoryError, match="the policy's description is damaged"):
        PolicySpec.from_json(data | {field: DAMAGED[name]})


@pytest.mark.parametrize("kind", ["Tuple", "Dict"])
def test_ten_thousand_levels_are_refused(kind):
    description = space_to_json(spaces.Discrete(2))
    for _ in range(10_000):
        description = {"kind": kind, "spaces": [description] if kind == "Tuple" else [["a", description]]}
    data = PolicySpec(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)).to_json()
    with pytest.raises(RunDirectoryError, match=r"damaged \(RecursionError"):
        PolicySpec.from_json(data | {"observation_space": description})
