"""The process runtime: every actor-learner in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

from a3c.errors import WorkerDied, WorkerError, WorkerFailed
from a3c.runtimes.child_process import dumped, hidden_main, signals_blocked
from a3c.runtimes.worker import Done, Failure, worker_main
from a3c.types import MakeActorLearner, Report

StartMethod = Literal["forkserver", "spawn"]

_EXIT_PATIENCE_S = 1.0


class _Worker(NamedTuple):
    number: int
    process: BaseProcess
    pipe: connection.Connection


class ProcessRuntime:
    """Runs W actor-learners in W processes and hands out their reports.

    No process outlives the iterator of `run`: not the workers, nor the fork server and the resource tracker if
    this runtime started them. Workers notice the parent's death and go. They never import the caller's
    `__main__`, so a script without a guard and a notebook work; the recipe travels by cloudpickle.

    Args:
        start_method: "forkserver" (the default where the platform has it) or "spawn".
        preload: modules that the fork server imports once for all workers.
        report_every_s: seconds between a worker's reports.
        episodes_at_once: report whenever an episode has finished.

    Attributes:
        alive: how many workers are running.
    """

    def __init__(
        self,
        start_method: StartMethod | None = None,
        *,
        preload: Sequence[str] = (),
        report_every_s: float = 0.25,
        episodes_at_once: bool = False,
    ) -> None:
        default = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.start_method: str = start_method or default
        self.context: BaseContext = multiprocessing.get_context(self.start_method)
        self.preload = list(preload)
        self.report_every_s = report_every_s
        self.episodes_at_once = episodes_at_once
        self.alive = 0
        self._finished: set[int] = set()  # workers that have said their last word
        self._services: list[Any] = []  # the standard library's own processes that this runtime has started

    def prepare(self) -> None:
        """Start the fork server now, so that its imports run beside the caller's own."""
        if self.start_method != "forkserver":
            return
        server = forkserver._forkserver
        if getattr(server, "_forkserver_pid", None) is None:
            self._remember_services()
            self.context.set_forkserver_preload(self.preload)
            with hidden_main(), signals_blocked():
                forkserver.ensure_running()

    def run(self, make_actor_learner: MakeActorLearner, store: Any, workers: int) -> Generator[Report, None, None]:
        """See `a3c.types.Runtime.run`.

        Raises:
            UsageError: the actor-learner cannot be sent to another process.
            WorkerFailed: an actor-learner raised.
            WorkerDied: its process was killed or exited without a word.
        """
        recipe = dumped(make_actor_learner)
        self._remember_services()
        running: list[_Worker] = []
        try:
            for number in range(workers):
                store.join(number)
            with hidden_main(), signals_blocked():
                for number in range(workers):
                    running.append(self._start(number, recipe, store.connect(number)))
            yield from self._reports(running, store)
        finally:
            _end(running, self._finished)
            self.close()

    def close(self) -> None:
        """End the fork server and the resource tracker, if this runtime started them."""
        while self._services:
            service = self._services.pop(0)
            with contextlib.suppress(OSError, AttributeError):
                server_pid = getattr(service, "_forkserver_pid", None)
                if server_pid is not None:  # its workers are gone; its own way out takes half a second
                    os.kill(server_pid, signal.SIGKILL)
                service._stop()

    def _start(self, number: int, recipe: bytes, handle: Any) -> _Worker:
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(  # type: ignore[attr-defined]
            target=worker_main,
            args=(number, recipe, handle, sender, self.report_every_s, self.episodes_at_once),
            name=f"a3c-worker-{number}",
        )
        process.start()
        sender.close()
        return _Worker(number, process, receiver)

    def _reports(self, running: Sequence[_Worker], store: Any) -> Iterator[Report]:
        active = {worker.number: worker for worker in running}
        self._finished.clear()
        self.alive = len(active)
        failure: WorkerError | None = None
        while active and failure is None:
            waited_for = [w.pipe for w in active.values()] + [w.process.sentinel for w in active.values()]
            ready = connection.wait(waited_for, timeout=self.report_every_s)
            if not ready:
                yield Report()
            for worker in list(active.values()):
                if worker.pipe not in ready and worker.process.sentinel not in ready:
                    continue
                message = _receive(worker)
                if isinstance(message, Report):
                    yield message
                    continue
                del active[worker.number]
                self.alive = len(active)
                store.leave(worker.number)
                if isinstance(message, Done):
                    self._finished.add(worker.number)
                elif failure is None:
                    failure = _describe(worker, message)
        if failure is not None:
            yield from _what_still_lies_in_the_pipes(active.values())
            raise failure

    def _remember_services(self) -> None:
        # Private names, but the only way to end these two; if they ever go, their processes end with ours.
        for service, pid in (
            (getattr(forkserver, "_forkserver", None), "_forkserver_pid"),
            (getattr(resource_tracker, "_resource_tracker", None), "_pid"),
        ):
            if service is not None and getattr(service, pid, 0) is None and service not in self._services:
                self._services.append(service)


def _receive(worker: _Worker) -> Report | Done | Failure | None:
    """The worker's next message, if there is one; None if it has ended without more."""
    try:
        return worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _describe(worker: _Worker, message: Failure | None) -> WorkerError:
    if isinstance(message, Failure):
        return WorkerFailed(worker.number, message.kind, message.summary, message.worker_traceback)
    worker.process.join(_EXIT_PATIENCE_S)
    return WorkerDied(worker.number, worker.process.exitcode)


def _what_still_lies_in_the_pipes(workers: Any) -> Iterator[Report]:
    for worker in workers:
        with contextlib.suppress(EOFError, OSError):
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Report):
                    yield message


def _end(workers: Sequence[_Worker], finished: set[int]) -> None:
    """Give workers that have finished a moment to leave by themselves, end all others at once, and free both."""
    for worker in workers:
        worker.pipe.close()
        if worker.number not in finished:
            worker.process.kill()  # stuck, or in the middle of a rollout that nobody wants any more
    deadline = time.monotonic() + _EXIT_PATIENCE_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
