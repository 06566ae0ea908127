"""The delayed store: every push k pushes late, and nothing lost."""

from __future__ import annotations

import pytest
import torch

from a3c.core.optimizers import Adam
from a3c.core.schedules import Budget
from a3c.stores.delayed import DelayedStore
from a3c.stores.local import LocalStore
from a3c.types import Counts, Snapshot
from builders import make_rule, make_store, pull, push_each, random_gradients, train_serially

ONE_STEP = Counts(1, 0)


def test_each_push_is_applied_two_pushes_late():
    store = make_store("delayed-2", torch.zeros(1), make_rule())
    handle, seen = store.connect(0), []
    for gradient in (1.0, 2.0, 4.0, 8.0):
        push_each(handle, [torch.tensor([gradient])], ONE_STEP)
        seen.append(pull(handle, torch.zeros(1))[0].item())
    assert seen == [0.0, 0.0, -1.0, -3.0]


def test_with_one_worker_staleness_grows_to_the_delay_and_stays():
    store = make_store("delayed-2", torch.zeros(1), make_rule())
    receipts = push_each(store.connect(0), [torch.ones(1)] * 6, ONE_STEP)
    assert receipts[:2] == [None, None]
    assert [receipt.staleness for receipt in receipts[2:]] == [0, 1, 2, 2]


def test_the_delay_counts_the_pushes_of_all_workers():
    store = make_store("delayed-2", torch.zeros(1), make_rule(), workers=2)
    first, second = store.connect(0), store.connect(1)
    for handle, gradient in ((first, 1.0), (second, 2.0), (first, 4.0), (second, 8.0)):
        push_each(handle, [torch.tensor([gradient])], ONE_STEP)
    assert store.snapshot().parameters.tolist() == [-3.0]


def test_what_waits_is_neither_counted_nor_saved_until_the_last_worker_leaves():
    store = make_store("delayed-2", torch.zeros(1), make_rule(), workers=2)
    push_each(store.connect(0), [torch.ones(1), None], Counts(3, 1))
    assert store.counters() == Snapshot(0, 0, 0, False)
    store.leave(0)
    assert store.state_dict()["env_steps"] == 0
    store.leave(1)
    assert store.counters() == Snapshot(1, 6, 2, False)
    store.leave(1)
    assert store.counters() == Snapshot(1, 6, 2, False)


def test_a_restored_store_forgets_what_waits():
    store = make_store("delayed-2", torch.zeros(1), make_rule())
    state = store.state_dict()
    push_each(store.connect(0), [torch.ones(1)], ONE_STEP)
    store.load_state_dict(state)
    store.leave(0)
    assert store.snapshot().parameters.tolist() == [0.0]


def test_a_negative_delay_is_refused():
    with pytest.raises(ValueError, match="delay must be 0 or more"):
        DelayedStore(LocalStore(torch.zeros(1), make_rule()), -1)


@pytest.mark.parametrize("name", ["local", "hogwild", "locked"])
def test_no_delay_is_the_wrapped_store(name):
    rule, gradients = make_rule(Adam(), 0.01, 0.0, Budget(env_steps=60), 1.0), random_gradients(20, 7)
    plain = make_store(name, torch.ones(7), rule)
    delayed = DelayedStore(make_store(name, torch.ones(7), rule), 0)
    delayed.join(0)
    receipts = [push_each(store.connect(0), gradients, Counts(3, 1)) for store in (plain, delayed)]
    assert receipts[0] == receipts[1]
    one, other = plain.state_dict(), delayed.state_dict()
    assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_a_delayed_training_repeats_to_the_bit_and_differs_from_one_without_delay():
    def final(delay):
        theta = torch.linspace(-0.5, 0.5, 67)
        store = make_store(f"delayed-{delay}", theta, make_rule(Adam(), 0.01), workers=2)
        train_serially(store, workers=2)
        return store.snapshot().parameters

    assert torch.equal(final(2), final(2))
    assert not torch.equal(final(2), final(0))
