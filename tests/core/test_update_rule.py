"""One gradient's way into θ: clip, learning rate by the global T, optimiser step; or nothing at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from a3c.core.optimizers import Adam, RMSProp
from a3c.core.schedules import Budget, constant, linear
from a3c.core.update_rule import Applied, UpdateRule

PLAIN = RMSProp(decay=0.0, epsilon=0.0)  # θ <- θ - η sign(dθ)


class Recorder:
    """An optimiser that writes down what it is given."""

    statistic_names = ("first", "second", "third")

    def step(self, parameters, gradient, statistics, scratch, *, learning_rate, step_count):
        self.call = gradient.tolist(), len(statistics), len(scratch), learning_rate, step_count


def apply(rule: UpdateRule, parameters: Tensor, gradient: Tensor, statistics=None, **counts: int) -> Applied:
    if statistics is None:
        statistics = tuple(torch.zeros_like(parameters) for _ in rule.optimizer.statistic_names)
    scratch = tuple(torch.full_like(parameters, math.nan) for _ in range(rule.scratch_vectors))
    return rule.apply(
        parameters, gradient, statistics, scratch, **{"step_count": 1, "env_steps": 0, "episodes": 0} | counts
    )


def test_the_optimiser_gets_the_clipped_gradient_the_rate_and_the_count():
    recorder = Recorder()
    rule = UpdateRule(recorder, linear(0.5), Budget(env_steps=100, episodes=10), max_gradient_norm=1.0)
    gradient = torch.tensor([3.0, -4.0])
    applied = apply(rule, torch.zeros(2), gradient, step_count=7, env_steps=25, episodes=1)
    clipped, statistics, scratch, rate, count = recorder.call
    assert clipped == pytest.approx([0.6, -0.8])
    assert (statistics, scratch, rate, count) == (3, 4, 0.375, 7)
    assert applied == Applied(True, 0.375, 5.0)
    assert gradient.tolist() == [3.0, -4.0]


def test_one_update_by_hand():
    parameters = torch.tensor([1.0, 1.0])
    rule = UpdateRule(PLAIN, linear(0.5), Budget(episodes=4))
    assert apply(rule, parameters, torch.tensor([2.0, -3.0]), episodes=1).learning_rate == 0.375
    assert parameters.tolist() == [0.625, 1.375]


def test_the_last_gradient_of_an_annealed_run_moves_nothing_and_none_goes_the_other_way():
    rule = UpdateRule(PLAIN, linear(0.5), Budget(env_steps=100))
    parameters = torch.tensor([1.0])
    for env_steps in (100, 250):  # the budget may be overshot
        assert apply(rule, parameters, torch.tensor([2.0]), env_steps=env_steps).learning_rate == 0.0
    assert parameters.item() == 1.0


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("optimizer", [RMSProp(), RMSProp(epsilon_inside_root=True), Adam()])
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer, poison, max_norm):
    rule = UpdateRule(optimizer, constant(0.1), Budget(), max_norm)
    parameters = torch.tensor([1.0, 2.0])
    statistics = tuple(torch.tensor([3.0, 4.0]) for _ in optimizer.statistic_names)
    applied = apply(rule, parameters, torch.tensor([1.0, poison]), statistics)
    assert not applied.done
    assert not math.isfinite(applied.gradient_norm)
    assert parameters.tolist() == [1.0, 2.0]
    assert [statistic.tolist() for statistic in statistics] == [[3.0, 4.0]] * len(statistics)


@pytest.mark.parametrize("optimizer", [RMSProp(), RMSProp(epsilon_inside_root=True), Adam()])
def test_a_finite_gradient_too_long_for_its_dtype_changes_nothing(optimizer):
    rule = UpdateRule(optimizer, constant(0.1), Budget(), 0.5)
    parameters = torch.ones(100)
    assert not apply(rule, parameters, torch.full((100,), 1e30)).done  # the squares are infinite in float32
    assert torch.equal(parameters, torch.ones(100))
