"""Naming the first number that is none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from a3c.core.finite import first_non_finite
from a3c.core.losses import Loss
from a3c.types import PolicyValue
from random_rollout import random_rollout

POISONS = [math.nan, math.inf, -math.inf]


def clean():
    """A rollout with a row that is not real, its loss, its gradient."""
    rollout = random_rollout(seed=3, length=8)
    assert rollout.env_steps < rollout.real.numel()
    outputs = PolicyValue(torch.zeros(9, 3, 2), torch.zeros(9, 3))
    return rollout, Loss(2.0, 3.0, 4.0, 1.0, outputs, outputs.on_host()), torch.zeros(5)


def test_finite_numbers_are_all_right():
    assert first_non_finite(*clean()) is None


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("row", [0, 4, 8])  # the bootstrap row counts
def test_observation(poison, row):
    rollout, loss, gradient = clean()
    rollout.observations[row, 1, 0] = poison
    assert first_non_finite(rollout, loss, gradient) == "observation"


def test_an_observation_whose_square_would_be_infinite():
    rollout, loss, gradient = clean()
    rollout = replace(rollout, observations=rollout.observations.double())
    rollout.observations[2, 1, 0] = 1e149
    assert first_non_finite(rollout, loss, gradient) is None
    rollout.observations[2, 1, 0] = -1e151
    assert first_non_finite(rollout, loss, gradient) == "observation"


@pytest.mark.parametrize("poison", POISONS)
def test_reward_counts_where_it_belongs_to_a_transition(poison):
    rollout, loss, gradient = clean()
    rollout.rewards[~rollout.real] = poison
    assert first_non_finite(rollout, loss, gradient) is None
    rollout.rewards[tuple(rollout.real.nonzero()[-1])] = poison
    assert first_non_finite(rollout, loss, gradient) == "reward"


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(
    ("field", "name"), [("policy", "policy loss"), ("value", "value loss"), ("entropy", "entropy")]
)
def test_loss_terms(poison, field, name):
    rollout, loss, gradient = clean()
    assert first_non_finite(rollout, loss._replace(**{field: poison}), gradient) == name


@pytest.mark.parametrize("poison", POISONS)
def test_gradient(poison):
    rollout, loss, gradient = clean()
    gradient[3] = poison
    assert first_non_finite(rollout, loss, gradient) == "gradient"


def test_the_first_in_order_of_computation_is_named():
    rollout, loss, gradient = clean()
    rollout.rewards[:] = gradient[:] = math.nan
    loss = loss._replace(value=math.nan)
    assert first_non_finite(rollout, loss, gradient) == "reward"


def test_integer_observations_are_finite():
    rollout, loss, gradient = clean()
    rollout.observations = torch.full((9, 3, 2), 255, dtype=torch.uint8)
    assert first_non_finite(rollout, loss, gradient) is None
