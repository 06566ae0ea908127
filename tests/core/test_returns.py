"""λ-returns against their definition, their special cases, and hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from a3c.core import returns as core


def lambda_returns(rewards, discounts, next_values, lambda_=1.0) -> Tensor:
    """The function, between tensors."""
    columns = (column.numpy() if isinstance(column, Tensor) else column for column in (rewards, discounts, next_values))
    lambdas = lambda_.numpy() if isinstance(lambda_, Tensor) else lambda_
    return torch.from_numpy(core.lambda_returns(*columns, lambdas))


def slow_returns(rewards, discounts, next_values, lambdas):
    """One lane, forwards, from the definition: a sum of discounted rewards and of what each row bootstraps."""
    length, returns = len(rewards), []
    for t in range(length):
        total, weight = 0.0, 1.0
        for k in range(t, length):
            total += weight * (rewards[k] + discounts[k] * (1 - lambdas[k]) * next_values[k])
            weight *= discounts[k] * lambdas[k]
        returns.append(total + weight * next_values[-1])
    return returns


def gae_targets(rewards, terminated, values, discount, lambda_):
    """One lane, as in Schulman et al. 2016: A_t = δ_t + γλ A_{t+1}, begun at 0; the target is A_t + V(s_t)."""
    advantage, targets = 0.0, []
    for t in reversed(range(len(rewards))):
        alive = 0.0 if terminated[t] else 1.0
        delta = rewards[t] + discount * alive * values[t + 1] - values[t]
        advantage = delta + discount * lambda_ * alive * advantage
        targets.append(advantage + values[t])
    return targets[::-1]


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


numbers = st.floats(-100, 100)
weights = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)


@given(st.lists(st.tuples(numbers, weights, numbers, weights), min_size=1, max_size=8))
@settings(max_examples=80)
def test_equals_the_definition(steps):
    columns = list(zip(*steps, strict=True))
    returns = lambda_returns(*(tensor(*column) for column in columns))
    assert returns.tolist() == pytest.approx(slow_returns(*columns), rel=1e-9, abs=1e-9)


def test_lanes_do_not_mix():
    rewards, discounts, next_values, lambdas = torch.rand(4, 5, 3, 2, dtype=torch.float64)  # [T, B, C]
    returns = lambda_returns(rewards, discounts, next_values, lambdas)
    for lane in [(b, c) for b in range(3) for c in range(2)]:
        columns = [column[(slice(None), *lane)].tolist() for column in (rewards, discounts, next_values, lambdas)]
        assert returns[(slice(None), *lane)].tolist() == pytest.approx(slow_returns(*columns))


def test_by_hand():
    # G_2 = 3 + 0.5 * 8 = 7; G_1 = 2 + 0.5 (0.5 * 6 + 0.5 * 7) = 5.25; G_0 = 1 + 0.5 (0.5 * 4 + 0.5 * 5.25) = 3.3125
    returns = lambda_returns(tensor(1, 2, 3), tensor(0.5, 0.5, 0.5), tensor(4, 6, 8), 0.5)
    assert returns.tolist() == [3.3125, 5.25, 7.0]


@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_the_bootstrap_value_is_discounted_by_its_own_distance(discount):
    length, bootstrap = 301, 50.0
    next_values = torch.zeros(length, dtype=torch.float64)
    next_values[-1] = bootstrap
    ones = torch.ones(length, dtype=torch.float64)
    returns = lambda_returns(ones, discount * ones, next_values)
    left = range(length, 0, -1)  # T - t
    expected = [(1 - discount**n) / (1 - discount) + discount**n * bootstrap for n in left]
    assert returns.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_time_limit_bootstraps_and_a_terminal_state_does_not():
    rewards, next_values = tensor(1, 2, 3, 4), tensor(10, 20, 30, 40)
    discount = 0.5
    terminal = lambda_returns(rewards, tensor(0.5, 0, 0.5, 0.5), next_values)
    limited = lambda_returns(rewards, tensor(0.5, 0.5, 0.5, 0.5), next_values, tensor(1, 0, 1, 1))
    after = [3 + discount * (4 + discount * 40), 4 + discount * 40]
    assert terminal.tolist() == [1 + discount * 2, 2.0, *after]
    assert limited.tolist() == [1 + discount * (2 + discount * 20), 2 + discount * 20, *after]


def test_a_reward_at_the_end_alone_reaches_every_step():
    returns = lambda_returns(tensor(0, 0, 0, 1), tensor(0.5, 0.5, 0.5, 0), tensor(9, 9, 9, 9))
    assert returns.tolist() == [0.125, 0.25, 0.5, 1.0]


def test_an_episode_of_20_000_steps():
    length, discount = 20_000, 0.9  # (1/γ)^T would be 10^915
    ones = torch.ones(length)
    returns = lambda_returns(ones, discount * ones, torch.zeros(length))
    assert bool(returns.isfinite().all())
    expected = [(1 - discount**n) / (1 - discount) for n in range(length, 0, -1)]
    torch.testing.assert_close(returns, torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("discount", "lambda_"), [(0.0, 1.0), (0.9, 0.0), (0.0, 0.0), (0.0, 0.5)])
def test_what_lies_behind_a_cut_has_no_influence(poison, discount, lambda_):
    rewards, next_values = tensor(1, 2, poison, poison), tensor(3, 4, poison, poison)
    if discount == 0:
        next_values[1] = poison  # not even the value of a terminal state
    returns = lambda_returns(rewards, tensor(0.9, discount, 0.9, 0.9), next_values, tensor(1, lambda_, 1, 1))
    cut_return = 2 + (0.9 * 4 if discount else 0.0)
    assert returns[:2].tolist() == pytest.approx([1 + 0.9 * cut_return, cut_return])
    assert not bool(returns[2:].isfinite().any())  # the poison is there, and stays where it is


@given(
    st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=12),
    numbers,
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(max_examples=80)
def test_equals_generalised_advantage_estimation(steps, last_value, discount, lambda_):
    rewards, values, terminated = zip(*steps, strict=True)
    discounts = [0.0 if end else discount for end in terminated]
    returns = lambda_returns(tensor(*rewards), tensor(*discounts), tensor(*values[1:], last_value), lambda_)
    expected = gae_targets(rewards, terminated, (*values, last_value), discount, lambda_)
    assert returns.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=12), numbers, st.floats(0, 1))
@settings(max_examples=50)
def test_lambda_1_is_the_loop_of_the_paper(rewards, bootstrap, discount):
    following, expected = bootstrap, []
    for reward in reversed(rewards):  # R <- r_i + γR
        following = reward + discount * following
        expected.insert(0, following)
    count = len(rewards)
    returns = lambda_returns(tensor(*rewards), tensor(*[discount] * count), tensor(*[0.0] * (count - 1), bootstrap))
    assert returns.tolist() == pytest.approx(expected)


def test_lambda_0_is_the_one_step_return():
    returns = lambda_returns(tensor(1, 2, 3), tensor(0.5, 0.5, 0.5), tensor(4, 6, 8), 0.0)
    assert returns.tolist() == [3.0, 5.0, 7.0]


@pytest.mark.parametrize("lambda_", [1.0, 0.5])
@pytest.mark.parametrize("dtypes", [("i8", "f4"), ("f4", "f8"), ("f8", "f4"), ("f4", "f4")], ids="-".join)
def test_numbers_are_of_the_wider_dtype_and_the_rewards_are_left_as_they_are(dtypes, lambda_):
    rewards, discounts, values = np.array([1, 2], dtypes[0]), np.full(2, 0.5, dtypes[1]), np.array([3, 4], dtypes[1])
    returns = core.lambda_returns(rewards, discounts, values, lambda_)
    assert returns.dtype == np.result_type(*dtypes)
    assert returns.tolist() == pytest.approx([1 + 0.5 * (lambda_ * 4 + (1 - lambda_) * 3), 4])
    assert rewards.tolist() == [1, 2]


def test_an_empty_rollout_has_no_returns():
    empty = torch.zeros(0, 4)
    assert lambda_returns(empty, empty, empty).shape == (0, 4)


@pytest.mark.parametrize("shape", [(3, 1), (2, 2), (3,)])
def test_shapes_that_disagree_are_refused(shape):
    rewards = torch.zeros(3, 2)
    with pytest.raises(AssertionError, match="must agree"):
        lambda_returns(rewards, rewards, torch.zeros(shape))
