"""What runs in a worker process. It imports no torch itself: what it runs does."""

from __future__ import annotations

import contextlib
import os
from multiprocessing import connection
from typing import Any, NamedTuple

from a3c.runtimes.child_process import (
    exit_with_parent,
    keep_freed_memory,
    leave_signals_to_the_parent,
    loaded,
    use_one_thread,
)
from a3c.runtimes.reporting import ReportBatch, report_parts, worker_failed
from a3c.types import Life, Report


class Done(NamedTuple):
    """A worker's last word."""


class Failure(NamedTuple):
    """A worker's last word when it raised."""

    kind: str
    summary: str
    worker_traceback: str


def worker_main(
    watch: None,
    worker: int,
    recipe: bytes,
    handle: Any,
    life: Life,
    pipe: connection.Connection,
    report_every_s: float,
    episodes_at_once: bool,
    pushed_episodes: int,
) -> None:
    """Run one actor-learner to its end and report through `pipe`.

    Args:
        watch: what is left of WatchesParent.
        worker: its number.
        recipe: a cloudpickled `make_actor_learner`.
        handle: its end of the store.
        life: which of its lives this is.
        pipe: where Report, then Done or Failure go.
        report_every_s: seconds between reports.
        episodes_at_once: report whenever an episode has finished.
        pushed_episodes: how many it has pushed in earlier lives.
    """
    leave_signals_to_the_parent()
    exit_with_parent()
    batch = ReportBatch(report_every_s, episodes_at_once=episodes_at_once, pushed_episodes={worker: pushed_episodes})
    try:
        use_one_thread()
        keep_freed_memory()
        make_actor_learner = loaded(recipe)
        with contextlib.closing(make_actor_learner(worker, handle, life)) as learner:
            for update in learner:
                report = batch.add(worker, update)
                if report is not None:
                    _send(pipe, report)
        handle.leave()
        _send(pipe, batch.take())
        pipe.send(Done())
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more
    except BaseException as error:  # SystemExit from an environment is a failure like any other
        failed = worker_failed(worker, error)
        with contextlib.suppress(OSError):
            _send(pipe, batch.take())
            pipe.send(Failure(failed.kind, failed.summary, failed.worker_traceback))


def _send(pipe: connection.Connection, report: Report) -> None:
    """Send a report in parts that a pipe takes whole or not at all, where it takes 4,096 bytes so, as on Linux.

    Who is stopped or killed while it sends has then sent no half of one, for whose rest the parent would wait.
    """
    for part in report_parts(report):
        pipe.send(part)
