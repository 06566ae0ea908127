"""Flat actions in the environment's form: by hand for each kind, and in the space whatever is drawn."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a3c.core.distributions import Bernoulli, Categorical, Composite, MultiCategorical, Normal, TanhNormal
from a3c.errors import UnsupportedEnvironment
from a3c.spaces.actions import ActionSpace
from drawn_spaces import Between, boxes, contains, nested
from scripted_env import vectorise

LARGEST = float(np.finfo(np.float32).max)


def box(low, high, dtype=np.float32, **options):
    return ActionSpace(spaces.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype), **options)


def read(actions, flat):
    """One action and the batch of it twice, which must agree."""
    flat = np.asarray(flat)
    one, two = actions.to_environment(flat), actions.to_environment(np.stack([flat, flat]))
    assert actions.space.contains(one)
    assert np.array_equal(two[0], one)
    assert np.array_equal(two[1], one)
    assert two.dtype == one.dtype == actions.space.dtype
    assert two.shape == (2, *actions.space.shape)
    return one.tolist()


def test_each_kind_has_its_distribution():
    kinds = [
        (spaces.Discrete(3), Categorical(3)),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), MultiCategorical((2, 3, 4, 5))),
        (spaces.MultiBinary((2, 3)), Bernoulli(6)),
        (spaces.Box(-1, 1, (2, 2)), Normal(4)),
        (spaces.Box(-1, 1, ()), Normal(1)),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (3,))]), Composite((Categorical(2), Normal(3)))),
        (spaces.Dict({"only": spaces.Discrete(2)}), Composite((Categorical(2),))),
    ]
    for space, distribution in kinds:
        assert ActionSpace(space).distribution == distribution
    assert ActionSpace(spaces.Box(-1, 1, (3,)), "tanh").distribution == TanhNormal(3)


def test_choices_begin_at_the_spaces_start():
    assert read(ActionSpace(spaces.Discrete(3)), 2) == 2
    assert read(ActionSpace(spaces.Discrete(3, start=-5)), 2) == -3
    matrix = ActionSpace(spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 10], [-4, 0]]))
    assert read(matrix, [1, 2, 3, 4]) == [[1, 12], [-1, 4]]
    assert read(ActionSpace(spaces.MultiDiscrete([2, 3], dtype=np.int32)), [1, 2]) == [1, 2]
    assert read(ActionSpace(spaces.MultiBinary((2, 2))), [1, 0, 0, 1]) == [[1, 0], [0, 1]]


def test_a_bounded_box_is_scaled_and_clipped():
    pendulum, thrust = box([-2, 0], [2, 10]), box(5, 9)
    assert read(pendulum, [-1.0, -1.0]) == [-2, 0]
    assert read(pendulum, [0.0, 0.0]) == [0, 5]
    assert read(pendulum, [0.5, -0.5]) == [1, 2.5]
    assert read(pendulum, [1.5, -70.0]) == [2, 0]
    assert read(thrust, [0.25]) == 7.5  # 0-d: one number in, none of the space's dimensions out
    assert read(box([[0.0], [0.0]], [[1.0], [3.0]], np.float64), [0.0, 1 / 3]) == [[0.5], [2.0]]


def test_tanh_fills_the_bounds():
    fan = box([-2, 0], [2, 10], bounding="tanh")
    assert read(fan, [0.0, 0.0]) == [0, 5]
    assert read(fan, [math.atanh(0.5), math.atanh(-0.5)]) == pytest.approx([1, 2.5])
    assert read(fan, [100.0, -100.0]) == [2, 0]


def test_an_integer_box_is_rounded():
    dial = box([0, -3], [4, 3], np.int32)
    assert read(dial, [0.0, 0.0]) == [2, 0]
    assert read(dial, [0.6, -0.6]) == [3, -2]  # 3.2 and -1.8
    assert read(dial, [9.0, -9.0]) == [4, -3]


@pytest.mark.parametrize(("low", "high"), [(-math.inf, math.inf), (-LARGEST, LARGEST), (-1e30, math.inf)])
def test_a_box_without_bounds_takes_actions_as_they_are(low, high):
    assert read(box([low], [high]), [123.5]) == [123.5]
    with pytest.raises(
        UnsupportedEnvironment,
        match=r"Box.* has an infinite bound or a range of 1e\+12 and more, which tanh cannot fill",
    ):
        box([low], [high], bounding="tanh")


def test_a_box_with_one_bound_is_clipped_there():
    half = box([0, -math.inf, -1], [math.inf, 3, 1])
    assert read(half, [-2.0, -2.0, 2.0]) == [0, -2, 1]
    assert read(half, [7.0, 7.0, 0.5]) == [7, 3, 0.5]


def test_what_lies_far_from_0_is_reached():
    far = box([100, -math.inf, 2e6], [math.inf, -50, 6e6], np.float64)
    assert read(far, [0.0, 0.0, 0.0]) == [101, -51, 4e6]
    assert read(far, [0.5, -0.5, -0.5]) == [101.5, -51.5, 3e6]
    assert read(far, [-9.0, 9.0, 9.0]) == [100, -50, 6e6]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.uint8])
def test_the_largest_integers_do_not_wrap_around(dtype):
    kind = np.iinfo(dtype)
    whole = box([kind.min], [kind.max], dtype)
    (high,), (low,) = read(whole, [1e30]), read(whole, [-1e30])
    assert high == min(kind.max, 2**53)
    assert low == max(kind.min, -(2**53))


def test_float64_keeps_its_digits():
    narrow = box([1 - 1e-12], [1 + 1e-12], np.float64)
    assert read(narrow, [0.5])[0] - 1 == pytest.approx(5e-13, rel=1e-3)


def test_parts_take_their_columns_and_nest_as_the_space_does():
    space = spaces.Dict(
        OrderedDict(
            gear=spaces.Discrete(3, start=1),
            arm=spaces.Tuple([spaces.Box(-2, 2, (2,)), spaces.Box(0, 1, ())]),
            lamps=spaces.MultiBinary(2),
            keys=spaces.MultiDiscrete([4, 4]),
        )
    )
    actions = ActionSpace(space)
    flat = np.array([2, 0.5, -1, 1, 1, 0, 3, 2], np.float64)
    found = actions.to_environment(flat)
    assert contains(space, found)
    assert list(found) == ["gear", "arm", "lamps", "keys"]
    assert (int(found["gear"]), found["arm"][0].tolist(), float(found["arm"][1])) == (3, [1, -2], 1)
    assert (found["lamps"].tolist(), found["keys"].tolist()) == ([1, 0], [3, 2])
    batch = actions.to_environment(np.stack([flat, np.zeros(8), flat]))
    assert batch["gear"].tolist() == [3, 1, 3]
    assert batch["gear"].dtype == np.int64
    assert batch["arm"][0].tolist() == [[1, -2], [0, 0], [1, -2]]
    assert batch["arm"][1].tolist() == [1, 0.5, 1]


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (2, 0))])
def test_nothing_to_choose_is_refused(space):
    with pytest.raises(UnsupportedEnvironment, match="nothing to choose"):
        ActionSpace(space)
    with pytest.raises(UnsupportedEnvironment, match="'legs/0' has no entries"):
        ActionSpace(spaces.Dict({"legs": spaces.Tuple([space])}))


def drawn_actions(actions, count, seed):
    """Flat actions of a far from moderate policy."""
    generator = torch.Generator().manual_seed(seed)
    parameters = 3 * torch.randn(count, actions.distribution.parameter_count, generator=generator)
    return actions.distribution.sample(parameters, generator).numpy()


@given(nested(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_every_action_is_in_its_space(space, seed):
    actions = ActionSpace(space)
    for flat in drawn_actions(actions, 4, seed):
        found = actions.to_environment(flat)
        assert space.contains(found), f"{found!r} is not in {space}"


@given(boxes(dtypes=("float32", "float64", "uint8", "int32")), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_squashed_action_is_in_its_box(space, seed):
    try:
        actions = ActionSpace(space, "tanh")
    except UnsupportedEnvironment:
        assert bool((space.high.astype(float) / 2 - space.low.astype(float) / 2 >= 5e5).any())
        return
    assert all(space.contains(actions.to_environment(flat)) for flat in drawn_actions(actions, 8, seed))


@given(nested(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_gymnasiums_vector_environments_take_a_batch_apart_as_it_was_meant(space, seed):
    lanes = [Between(spaces.Box(-1, 1, ()), space) for _ in range(3)]
    envs, actions = vectorise(*lanes), ActionSpace(space)
    envs.reset(seed=0)
    flat = drawn_actions(actions, 3, seed)
    envs.step(actions.to_environment(flat))
    for lane, env in enumerate(lanes):
        assert_equal(env.actions[0], actions.to_environment(flat[lane]))


def assert_equal(one, other):
    if isinstance(one, dict):
        assert set(one) == set(other)
        one, other = tuple(one.values()), tuple(other[key] for key in one)
    if isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert np.array_equal(one, other)


def test_a_number_that_is_none_is_played_as_the_middle():
    actions = box([-1.0, 0.0], [3.0, 1.0])
    assert read(actions, [math.nan, 1.0]) == [1.0, 1.0]
    assert read(box([-math.inf], [math.inf]), [math.nan]) == [0.0]
    assert read(box([-1.0], [3.0], bounding="tanh"), [math.nan]) == [1.0]


@pytest.mark.parametrize("space", [spaces.Discrete(10**9), spaces.MultiDiscrete([10, 10**9])], ids=str)
def test_more_choices_than_weights_can_be_kept_for(space):
    with pytest.raises(UnsupportedEnvironment, match="choices; at most 1,048,576"):
        ActionSpace(space)
