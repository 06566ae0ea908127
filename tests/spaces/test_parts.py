"""Nested spaces taken apart: paths, what is refused, flattening there and back, alone and batched."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from a3c.errors import UnsupportedEnvironment
from a3c.spaces.parts import array_of, basic_parts, described, flatten, is_mask, map_parts, parts, unflatten
from drawn_spaces import Between, nested, value_in

BOX = spaces.Box(-1, 1, (2,))
COIN = spaces.Discrete(2)


def test_a_basic_space_is_its_own_only_part():
    for space in (BOX, COIN, spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)):
        assert basic_parts(space, "it") == {"": space}
        assert flatten(space, "anything") == "anything"
        assert unflatten(space, {"": "anything"}) == "anything"


def test_paths_join_keys_and_indices_in_the_spaces_own_order():
    space = spaces.Dict(
        OrderedDict(z=COIN, arm=spaces.Tuple([BOX, spaces.Dict({"grip": COIN})]), a=spaces.MultiBinary(2))
    )
    assert list(basic_parts(space, "it")) == ["z", "arm/0", "arm/1/grip", "a"]
    value = {"z": 1, "arm": ("x", {"grip": 0}), "a": "y"}
    flat = flatten(space, value)
    assert list(flat.items()) == [("z", 1), ("arm/0", "x"), ("arm/1/grip", 0), ("a", "y")]
    assert unflatten(space, flat) == value


def test_slashes_and_tildes_in_keys_are_escaped_as_in_a_json_pointer():
    space = spaces.Dict({"a/b": COIN, "a": spaces.Dict({"b": COIN}), "m~n": COIN, "~1": COIN, "/": COIN})
    assert set(basic_parts(space, "it")) == {"a~1b", "a/b", "m~0n", "~01", "~1"}
    value = {"a/b": 0, "a": {"b": 1}, "m~n": 2, "~1": 3, "/": 4}
    assert unflatten(space, flatten(space, value)) == value


def box_of(dtype):
    """Gymnasium makes no Box of complex numbers; others may."""
    box = spaces.Box(-1, 1, (2,))
    box.dtype = np.dtype(dtype)
    return box


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("Text", spaces.Text(5)),
        ("Graph", spaces.Graph(BOX, None)),
        ("Sequence", spaces.Sequence(BOX)),
        ("OneOf", spaces.OneOf([BOX, COIN])),
        ("complex64", box_of(np.complex64)),
        (np.dtype(np.longdouble).name, box_of(np.longdouble)),
    ],
)
def test_other_kinds_are_refused_by_name_and_place(kind, space):
    with pytest.raises(UnsupportedEnvironment, match=rf"the observation space of 'X' has a .*{kind}"):
        basic_parts(space, "the observation space of 'X'")
    inside = spaces.Dict({"good": BOX, "words": spaces.Tuple([COIN, space])})
    with pytest.raises(UnsupportedEnvironment, match=rf"has a .*{kind}.* at 'words/1'"):
        basic_parts(inside, "it")


@pytest.mark.parametrize(
    "space", [spaces.Dict({}), spaces.Tuple([]), spaces.Dict({"a": spaces.Tuple([]), "b": spaces.Dict({})})]
)
def test_a_space_without_parts_is_refused(space):
    with pytest.raises(UnsupportedEnvironment, match="which has no parts"):
        basic_parts(space, "it")


def test_keys_that_cannot_be_told_apart_are_refused():
    for space in (
        spaces.Dict([(1, COIN), ("1", BOX)]),
        spaces.Dict({"": COIN}),
        spaces.Dict({"a": COIN, "": spaces.Dict({"a": BOX})}),
    ):
        with pytest.raises(UnsupportedEnvironment, match="key"):
            basic_parts(space, "it")


def equal(one, other):
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return np.array_equal(one, other)


@given(nested(depth=3), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_flattening_goes_there_and_back(space, seed):
    value = value_in(space, np.random.default_rng(seed))
    flat, found = flatten(space, value), basic_parts(space, "it")
    assert equal(unflatten(space, parts(flat)), value)
    assert list(parts(flat)) == list(found)
    for path, part in found.items():
        assert np.shape(parts(flat)[path]) == part.shape
        assert array_of(part, (5, 2)).shape == (5, 2, *part.shape)
        assert array_of(part, ()).dtype == part.dtype


@given(nested(), st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_batches_of_gymnasiums_vector_environments_flatten_alike(space, seed):
    lanes = [Between(space, COIN) for _ in range(3)]
    envs = SyncVectorEnv([lambda env=env: env for env in lanes])
    flat = parts(flatten(space, envs.reset(seed=seed)[0]))
    singles = [parts(flatten(space, env.reset(seed=seed + lane)[0])) for lane, env in enumerate(lanes)]
    for path, part in basic_parts(space, "it").items():
        assert flat[path].shape == (3, *part.shape)
        assert np.array_equal(flat[path], np.stack([single[path] for single in singles]))


def test_a_function_of_each_part():
    assert map_parts(lambda a, b: a + b, 1, 2) == 3
    assert map_parts(lambda a, b: a + b, {"x": 1, "y": 2}, {"x": 10, "y": 20}) == {"x": 11, "y": 22}
    assert parts(7) == {"": 7}


def test_what_is_a_mask():
    assert [is_mask(path) for path in ("action_mask", "action_mask/0", "action_masks", "a/action_mask", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert (described(""), described("a/0")) == ("", " at 'a/0'")
