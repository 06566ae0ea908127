"""The stores' contract, on Ray."""

import pytest
import test_stores

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
