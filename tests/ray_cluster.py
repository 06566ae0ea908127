"""A Ray cluster of this machine alone, for tests."""

import contextlib
import os
import signal
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import mock

import ray

from a3c.stores.ray import RayStore
from leftovers import descendants


@contextlib.contextmanager
def ray_cluster(cpus: int = 2) -> Iterator[None]:
    """Ray with so many processors, gone again afterwards."""
    before = descendants()
    with for_the_workers():
        ray.init(
            address="local",  # not one that another test has begun on this machine
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            logging_level="ERROR",
            log_to_driver=False,
        )
        try:
            yield
        finally:
            StoreOnUsedServer.started.clear()
            StoreOnUsedServer.idle = []  # stores that are still to be finalised have the old one
            ray.shutdown()
    deadline = time.monotonic() + 10
    while left := descendants() - before:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


@contextlib.contextmanager
def for_the_workers() -> Iterator[None]:
    """Environment variables for the processes of a cluster that is begun meanwhile."""
    variables = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if "tests" in path),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # or, beside other tests, they would get no processor for long
    }
    with mock.patch.dict(os.environ, variables):
        yield


def kill_process_of(actor: Any) -> None:
    """Kill the process that an actor runs in, as the system might."""
    os.kill(process_of(actor), signal.SIGKILL)


def process_of(actor: Any) -> int:
    """The process that an actor runs in."""
    return int(ray.get(actor.__ray_call__.remote(lambda actor: os.getpid())))


class StoreOnUsedServer(RayStore):
    """A RayStore whose actors have served others before: they are made anew in their processes, which starts faster."""

    started: ClassVar[list[tuple[Any, Any]]] = []  # held here, for Ray ends an actor with its last reference
    idle: ClassVar[list[int]] = []

    def start(self, contents):
        """Take actors that nobody uses any more, or new ones."""
        if self.idle:
            number = self.idle.pop()
            server, keeper = self.started[number]
            name = ray.get(server.__ray_call__.remote(lambda server: server.keeper_name))
            ray.get(keeper.__ray_call__.remote(lambda keeper, contents: keeper.__init__(contents), contents))
            server.__ray_call__.remote(lambda server, name: server.__init__(name), name)  # it waits for the first θ
        else:
            number = len(self.started)
            self.started.append(super().start(contents))
        weakref.finalize(self, self.idle.append, number)
        return self.started[number]
