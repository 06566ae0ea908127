"""What runs in a worker's actor on a Ray cluster."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import ray

from a3c.errors import UsageError
from a3c.runtimes.child_process import keep_freed_memory, loaded, use_one_thread
from a3c.runtimes.reporting import ReportBatch, worker_failed
from a3c.runtimes.worker import Done, Failure
from a3c.types import Life, Report

_MUST_AGREE = ("a3c", "torch", "gymnasium", "numpy")
_BRING_IT = """, or let Ray bring it: --ray-runtime-env '{"working_dir": "."}', or '{"pip": ["NAME"]}'"""


class RayWorker:
    """Runs one actor-learner, and tells meanwhile that it lives.

    Args:
        versions: those of the caller's packages, as `versions_here` gives them.

    Raises:
        UsageError: this node has others.
    """

    def __init__(self, versions: Mapping[str, str]) -> None:
        check_versions(versions)  # before anything comes that other versions may not understand
        self._beats = 0

    @ray.method(num_returns="streaming")
    def run(
        self,
        worker: int,
        recipe: bytes,
        handle: Any,
        incarnation: int,
        report_every_s: float,
        episodes_at_once: bool,
        pushed_episodes: int,
    ) -> Iterator[Report | Done | Failure]:
        """Run the actor-learner to its end: reports, then Done or Failure.

        Args:
            worker: its number.
            recipe: a cloudpickled `make_actor_learner`.
            handle: its end of the store.
            incarnation: which of its lives this is.
            report_every_s: seconds between reports.
            episodes_at_once: report whenever an episode has finished.
            pushed_episodes: how many it has pushed in earlier lives.
        """
        batch = ReportBatch(
            report_every_s, episodes_at_once=episodes_at_once, pushed_episodes={worker: pushed_episodes}
        )
        try:
            use_one_thread()
            keep_freed_memory()
            make_actor_learner = loaded(recipe)
            with contextlib.closing(make_actor_learner(worker, handle, Life(incarnation, self._beat))) as learner:
                for update in learner:
                    report = batch.add(worker, update)
                    if report is not None:
                        yield report
            handle.leave()
            yield batch.take()
            yield Done()
        except GeneratorExit:
            raise
        except BaseException as error:  # SystemExit from an environment is a failure like any other
            failed = worker_failed(worker, error)
            yield batch.take()
            where = f"node {platform.node()}"
            summary = failed.summary if where in failed.summary else f"{failed.summary} (on {where})"
            if isinstance(error, UsageError) and isinstance(error.__cause__, ImportError | AttributeError):
                summary += _BRING_IT
            yield Failure(failed.kind, summary, failed.worker_traceback)

    @ray.method(concurrency_group="pulse")
    def pulse(self) -> int:
        """How many steps it has made."""
        return self._beats

    def _beat(self) -> None:
        self._beats += 1


def versions_here() -> dict[str, str]:
    """The versions, in this process, of what must be the same on every node; without a build's local label."""
    return {name: _version(name) for name in _MUST_AGREE}


def check_versions(expected: Mapping[str, str]) -> None:
    """Raise UsageError if this node has other versions than the caller."""
    for name, there in expected.items():
        if (here := _version(name)) != there:
            raise UsageError(
                f"node {platform.node()} has {name} {here}, the node that the run was started on has {there}: install "
                "the same on all nodes, or name it in --ray-runtime-env (docs/cluster.md)"
            )


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"
