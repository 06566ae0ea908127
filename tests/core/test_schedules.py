"""Budgets and learning rates by the global step count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3c.core.schedules import Budget, Schedule, constant, linear

numbers = st.integers(0, 2**50)


@pytest.mark.parametrize(
    ("budget", "env_steps", "episodes", "used"),
    [
        (Budget(), 10**9, 10**9, 0.0),
        (Budget(env_steps=200), 50, 10**9, 0.25),
        (Budget(episodes=10), 10**9, 5, 0.5),
        (Budget(env_steps=200, episodes=10), 50, 5, 0.5),  # the one that is nearer its end
        (Budget(env_steps=200, episodes=10), 150, 5, 0.75),
        (Budget(env_steps=200), 300, 0, 1.0),  # overshot by the last rollouts
    ],
)
def test_the_share_of_a_budget(budget, env_steps, episodes, used):
    assert budget.used(env_steps, episodes) == used
    assert budget.spent(env_steps, episodes) == (used == 1.0)


@pytest.mark.parametrize("limit", [1, 3, 7, 49, 1_000_003, 2**31 + 1, 2**40 + 1])
def test_a_budget_is_spent_at_its_limit_and_not_a_step_before(limit):
    assert not Budget(env_steps=limit).spent(limit - 1, 0)
    assert Budget(env_steps=limit).spent(limit, 0)
    assert not Budget(episodes=limit).spent(0, limit - 1)
    assert Budget(episodes=limit).spent(0, limit)


def test_past_2_to_the_31():
    budget = Budget(env_steps=2**33)
    assert budget.used(2**32, 0) == 0.5
    assert linear(0.25)(budget.used(2**31, 0)) == 0.25 * 0.75


def test_linear_goes_to_zero_and_constant_stays():
    assert [linear(0.5)(used) for used in (0.0, 0.5, 1.0)] == [0.5, 0.25, 0.0]
    assert [constant(0.5)(used) for used in (0.0, 0.5, 1.0)] == [0.5, 0.5, 0.5]
    assert [Schedule(0.5, 0.25)(used) for used in (0.0, 0.5, 1.0)] == [0.5, 0.375, 0.25]


@given(st.floats(1e-6, 1.0), st.integers(1, 2**50), numbers, numbers)
def test_a_linear_rate_never_rises_nor_leaves_its_range(rate, limit, earlier, more):
    budget, schedule = Budget(env_steps=limit), linear(rate)
    before, after = (schedule(budget.used(steps, 0)) for steps in (earlier, earlier + more))
    assert rate >= before >= after >= 0.0
