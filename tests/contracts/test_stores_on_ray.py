"""The stores' contract, on Ray."""

import pytest
import test_stores
import torch

from a3c.types import Counts
from builders import make_rule, make_store, pull
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
    test_stores.test_receipts_of_a_store_that_waits_come_one_push_later(name)


@pytest.mark.parametrize("name", ["ray", "ray-synchronous"])
def test_the_next_pull_sees_each_gradient(name):
    test_stores.test_the_next_pull_sees_each_gradient(name)
