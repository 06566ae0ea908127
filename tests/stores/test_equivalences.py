"""Stores that must come to the same: to the bit over a real training, to rounding over a batch."""

from __future__ import annotations

import pytest
import torch

from a3c.core.flat import flat_gradient
from a3c.core.losses import actor_critic_loss
from a3c.core.optimizers import Adam, RMSProp
from a3c.core.schedules import Budget
from a3c.errors import RoundCannotFill, StoreError
from a3c.types import Counts, Rollout, Snapshot
from builders import box_network, initial_parameters, make_rule, make_store, pull, train_serially
from random_rollout import random_rollout

RULES = {
    "rmsprop": make_rule(RMSProp(), 0.01, 0.0, Budget(env_steps=400), 0.5),
    "adam": make_rule(Adam(), 0.003, 0.0, Budget(env_steps=400), 0.5),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


def trained(name, rule, workers=1):
    store = make_store(name, initial_parameters(), rule, workers)
    return store, train_serially(store, workers)


def assert_same_state(one, other):
    one, other = one.snapshot(), other.snapshot()
    assert torch.equal(one.parameters, other.parameters)
    assert all(map(torch.equal, one.statistics, other.statistics))
    assert one[2:5] == other[2:5]
    assert torch.equal(one.moments, other.moments)


@pytest.mark.parametrize("name", ["hogwild", "locked", "delayed-0"])
def test_a_training_is_the_local_stores_to_the_bit(name, rule):
    store, updates = trained(name, rule)
    expected, expected_updates = trained("local", rule)
    assert updates == expected_updates
    assert len(updates) == 30
    assert_same_state(store, expected)
    assert not torch.equal(store.snapshot().parameters, initial_parameters())


def test_one_a2c_worker_is_one_a3c_worker_to_the_bit(rule):
    a2c, updates = trained("synchronous", rule)
    a3c, expected = trained("local", rule)
    assert_same_state(a2c, a3c)
    # The same updates, but a receipt arrives one update later.
    assert [update.receipt for update in updates] == [None] + [update.receipt for update in expected[:-1]]
    for ours, theirs in zip(updates, expected, strict=True):
        assert (ours.losses, ours.rollout_steps, ours.env_steps) == (
            theirs.losses,
            theirs.rollout_steps,
            theirs.env_steps,
        )


@pytest.mark.parametrize("name", ["local", "hogwild", "locked", "synchronous", "delayed-2"])
def test_three_workers_in_one_process_repeat_to_the_bit(name, rule):
    (one, first), (other, second) = (trained(name, rule, workers=3) for _ in range(2))
    assert first == second
    assert_same_state(one, other)


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_three_workers_in_one_process_are_the_local_stores(name, rule):
    (shared, updates), (local, expected) = trained(name, rule, 3), trained("local", rule, 3)
    assert updates == expected
    assert_same_state(shared, local)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_round_of_workers_is_one_batch_of_all_their_environments(reduction):
    torch.manual_seed(0)
    model = box_network((2,), 3, hidden_sizes=(5,), dtype=torch.float64)
    rollouts = [random_rollout(seed, lanes=lanes) for seed, lanes in ((1, 3), (2, 1), (3, 4))]
    assert len({rollout.env_steps / rollout.real.numel() for rollout in rollouts}) > 1  # some merely reset

    def gradient(rollout):
        loss = actor_critic_loss(
            model(rollout),
            rollout,
            rollout.rewards,
            model.distribution,
            discount=0.9,
            lambda_=0.8,
            entropy_coef=0.1,
            value_coef=0.5,
            reduction=reduction,
        )
        return flat_gradient(loss, model)

    store = make_store("synchronous", torch.zeros_like(model.flat), make_rule(), 3, reduction=reduction)
    for worker in (2, 0, 1):
        handle = store.connect(worker)
        pull(handle, model.flat)
        handle.push(gradient(rollouts[worker]), Counts(rollouts[worker].env_steps, 0), 0)
    expected = gradient(beside_each_other(rollouts))
    torch.testing.assert_close(-store.snapshot().parameters, expected, rtol=1e-12, atol=1e-13)


def beside_each_other(rollouts):
    names = ("observations", "actions", "rewards", "terminated", "truncated", "episode_start")
    return Rollout(*(torch.cat([getattr(rollout, name) for rollout in rollouts], dim=1) for name in names))


# The synchronous store's rounds in one process


def rounds_of(workers, reduction="mean", **options):
    store = make_store("synchronous", torch.zeros(2), make_rule(**options), workers, reduction=reduction)
    return store, [store.connect(worker) for worker in range(workers)]


@pytest.mark.parametrize(("reduction", "expected"), [("mean", [-1.5, -1.0]), ("sum", [-2.0, -4.0])])
def test_weights_are_the_shares_of_real_steps_for_a_mean_and_one_for_a_sum(reduction, expected):
    store, (first, second) = rounds_of(2, reduction)
    first.push(torch.tensor([2.0, 0.0]), Counts(3, 0), 0)
    second.push(torch.tensor([0.0, 4.0]), Counts(1, 0), 0)
    assert store.snapshot().parameters.tolist() == expected


def test_clipping_comes_after_summing():
    store, (first, second) = rounds_of(2, "sum", max_gradient_norm=1.0)
    first.push(torch.tensor([8.0, 0.0]), Counts(1, 0), 0)
    second.push(torch.tensor([-7.5, 0.0]), Counts(1, 0), 0)
    assert store.snapshot().parameters.tolist() == [-0.5, 0.0]


def test_a_dropped_rollout_fills_its_place_with_its_counts_alone():
    store, (first, second) = rounds_of(2)
    first.push(None, Counts(7, 2), 0)
    second.push(torch.tensor([1.0, 2.0]), Counts(1, 0), 0)
    assert store.snapshot().parameters.tolist() == [-1.0, -2.0]
    assert store.counters()[:3] == (1, 8, 2)


def test_a_round_of_dropped_rollouts_changes_the_counts_alone():
    store, handles = rounds_of(2)
    for handle in handles:
        handle.push(None, Counts(7, 2), 0)
    assert store.snapshot().parameters.tolist() == [0.0, 0.0]
    assert store.counters()[:3] == (0, 14, 4)


def test_the_budget_is_crossed_by_all_together():
    _, (first, second) = rounds_of(2, budget=Budget(env_steps=3))
    first.push(torch.ones(2), Counts(3, 0), 0)
    assert not pull(second, torch.zeros(2))[1].stop
    second.push(torch.ones(2), Counts(3, 0), 0)
    assert [pull(handle, torch.zeros(2))[1].stop for handle in (first, second)] == [True, True]


def test_a_round_that_nobody_can_fill_raises():
    _, (first, _, third) = rounds_of(3)
    for handle in (first, third):
        handle.push(torch.ones(2), Counts(1, 0), 0)
    with pytest.raises(RoundCannotFill, match=r"workers \[1\] have not pushed"):
        pull(first, torch.zeros(2))


def test_a_second_push_in_one_round_is_refused():
    store, (first, _) = rounds_of(2)
    first.push(torch.ones(2), Counts(1, 0), 0)
    with pytest.raises(StoreError, match="pushed twice"):
        first.push(torch.ones(2), Counts(1, 0), 0)
    assert store.counters() == Snapshot(0, 0, 0, False)


def test_staleness_of_a_gradient_from_before_the_last_round():
    _, (handle,) = rounds_of(1)
    receipts = []
    for base_version in (0, 0, 0):
        pull(handle, torch.zeros(2))
        receipts.append(handle.push(torch.ones(2), Counts(1, 0), base_version))
    assert [receipt and receipt.staleness for receipt in receipts] == [None, 0, 1]


def test_a_restored_store_forgets_gradients_that_lie_ready():
    store, (first, second) = rounds_of(2)
    state = store.state_dict()
    first.push(torch.ones(2), Counts(1, 0), 0)
    store.load_state_dict(state)
    assert pull(first, torch.zeros(2))[1].env_steps == 0
    for handle in (first, second):
        handle.push(torch.full((2,), 3.0), Counts(1, 0), 0)
    assert store.snapshot().parameters.tolist() == [-3.0, -3.0]
    assert store.counters()[:3] == (1, 2, 0)
