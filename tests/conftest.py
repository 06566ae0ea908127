"""For all tests: one torch thread, as in a worker; no deadline for Hypothesis; a fork server that is there already."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

import pytest
import torch
from hypothesis import settings

from a3c.experiment.launch import PRELOAD
from a3c.runtimes.processes import ProcessRuntime

# A temporary directory of its own for each process of tests: what others leave in the common one is not ours. Beside
# that of the process that started this one and not in it, or Ray's sockets would have longer paths than sockets can.
_PREFIX = "a3c-tests-"
_common = tempfile.gettempdir()
if os.path.basename(_common).startswith(_PREFIX):
    _common = os.path.dirname(_common)
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix=_PREFIX, dir=_common)
util.Finalize(None, shutil.rmtree, (tempfile.tempdir, True), exitpriority=-200)  # after what is in it

torch.set_num_threads(1)

LONGEST = ("test_ray_nodes.py", "test_survival.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A folder's tests with Ray in one process (--dist loadgroup): a module has one cluster; the longest tests first.

    Begun last, these would run alone while the other processes have nothing left to do.
    """
    for item in items:
        if "ray" in item.path.stem.split("_"):
            item.add_marker(pytest.mark.xdist_group(f"ray, {item.path.parent.name}"))
    items.sort(key=lambda item: item.path.name not in LONGEST)


settings.register_profile("a3c", deadline=None)
settings.load_profile("a3c")


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Any:
    """One for all tests, and its context: a run takes the one that is there and leaves it, and each takes seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    return _start_server()


@pytest.fixture
def no_fork_server() -> Iterator[None]:
    """For a test of how a run starts its own and ends it, or of what its processes inherit."""
    _stop_services()
    yield
    _stop_services()
    _start_server()


def _start_server() -> Any:
    runtime = ProcessRuntime("forkserver", preload=[*PRELOAD, "pytest"])
    runtime.prepare()
    return runtime.context


def _stop_services() -> None:
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
