"""The stores' contract, on Ray."""

import pytest
import test_stores
import torch

from a3c.core.schedules import Budget
from a3c.types import Counts, Receipt
from builders import make_rule, make_store, pull, push_each
from ray_cluster import ray_cluster

pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(150)


def _names_its_stores(test):
    return any("name" in str(mark.args[0]) for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize")


globals().update(
    {
        name: test
        for name, test in vars(test_stores).items()
        if name.startswith("test_") and "synchronous_store" not in name and not _names_its_stores(test)
    }
)


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    with ray_cluster():
        yield


@pytest.fixture(params=["ray", "ray-1", "ray-synchronous"])
def name(request):
    return request.param


# What test_stores.py shows of stores whose receipts come at once: here one comes with the worker's next push.


def test_staleness_counts_the_updates_since_the_pull():
    store = make_store("ray", torch.zeros(1), make_rule(), workers=2)
    first, second = store.connect(0), store.connect(1)
    pulled = {handle: pull(handle, torch.zeros(1))[1].version for handle in (first, second)}
    receipts = []
    for handle in (first, second, second, second, first):
        receipts.append(handle.push(torch.ones(1), Counts(1, 0), pulled[handle]))
        pull(handle, torch.zeros(1))  # waits until it has arrived
    none, other, one_behind, two_behind, none_behind = receipts
    assert none is None
    assert other is None
    assert [receipt.staleness for receipt in (none_behind, one_behind, two_behind)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["ray", "ray-synchronous"])
def test_receipts_come_one_push_later(name):
    rule = make_rule(learning_rate=1.0, final=0.0, budget=Budget(env_steps=8), max_gradient_norm=1.0)
    handle = make_store(name, torch.zeros(2), rule).connect(0)
    gradients = [torch.tensor([3.0, 4.0]), None, torch.tensor([0.0, torch.inf]), torch.zeros(2)]
    none, applied, dropped, poisoned = push_each(handle, gradients, Counts(2, 0))
    assert none is None
    assert applied == Receipt(True, 0, 0.75, 5.0)
    assert dropped == Receipt(False, 0, 0.0, 0.0)
    assert poisoned == Receipt(False, 0, 0.25, torch.inf)


@pytest.mark.parametrize("name", ["ray", "ray-synchronous"])
def test_the_next_pull_sees_each_gradient(name):
    store = make_store(name, torch.zeros(2), make_rule())
    handle, seen = store.connect(0), []
    for gradient in ([1.0, 0.0], [0.0, 2.0], [4.0, 0.0]):
        push_each(handle, [torch.tensor(gradient)], Counts(1, 0))
        seen.append(pull(handle, torch.zeros(2))[0].tolist())
    assert seen == [[-1.0, 0.0], [-1.0, -2.0], [-5.0, -2.0]]
