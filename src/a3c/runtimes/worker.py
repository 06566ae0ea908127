"""What runs in a worker process. It imports no torch itself: what it runs does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process
from typing import Any, NamedTuple, cast

from a3c.errors import UsageError
from a3c.runtimes.reporting import ReportBatch, worker_failed


class Done(NamedTuple):
    """A worker's last word."""


class Failure(NamedTuple):
    """A worker's last word when it raised."""

    kind: str
    summary: str
    worker_traceback: str


def worker_main(
    worker: int,
    recipe: bytes,
    handle: Any,
    pipe: connection.Connection,
    report_every_s: float,
    episodes_at_once: bool,
) -> None:
    """Run one actor-learner to its end and report through `pipe`.

    Args:
        worker: its number.
        recipe: a cloudpickled `make_actor_learner`.
        handle: its end of the store.
        pipe: where Report, then Done or Failure go.
        report_every_s: seconds between reports.
        episodes_at_once: report whenever an episode has finished.
    """
    _leave_signals_to_the_parent()
    _exit_with_parent()
    batch = ReportBatch(report_every_s, episodes_at_once=episodes_at_once)
    try:
        _use_one_thread()
        make_actor_learner = _loaded(recipe)
        with contextlib.closing(make_actor_learner(worker, handle)) as learner:
            for update in learner:
                report = batch.add(worker, update)
                if report is not None:
                    pipe.send(report)
        handle.leave()
        pipe.send(batch.take())
        pipe.send(Done())
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more
    except BaseException as error:  # SystemExit from an environment is a failure like any other
        failed = worker_failed(worker, error)
        with contextlib.suppress(OSError):
            pipe.send(batch.take())
            pipe.send(Failure(failed.kind, failed.summary, failed.worker_traceback))


def _loaded(recipe: bytes) -> Callable[[int, Any], Any]:
    """The recipe. Raises UsageError if something that it holds by name is not importable in this process."""
    import cloudpickle  # noqa: PLC0415  (only here, where a failure to import is reported)

    try:
        return cast(Callable[[int, Any], Any], cloudpickle.loads(recipe))
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the environment, wrapper or model cannot be loaded in a worker ({type(error).__name__}: {error}): "
            "put it into a module that can be imported from anywhere, or define it in the script or notebook itself"
        ) from error


def _leave_signals_to_the_parent() -> None:
    # Ctrl-C and a SIGTERM to the whole group reach the parent, too, and it decides. A handler that does nothing,
    # rather than SIG_IGN and a blocked mask, which an environment's own subprocesses would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _use_one_thread() -> None:
    # W workers with a thread for each core each would fight for the cores.
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="a3c-parent-watch", daemon=True).start()
