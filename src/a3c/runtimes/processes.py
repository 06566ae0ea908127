"""The process runtime: every actor-learner in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

from a3c.errors import (
    MORE_FILES,
    OutOfResources,
    StoreBusy,
    UsageError,
    WorkerDied,
    WorkerError,
    WorkerFailed,
    WorkerHung,
)
from a3c.runtimes.child_process import WatchesParent, dumped, hidden_main, own_fork_server, signals_blocked
from a3c.runtimes.restarts import FailurePolicy, Restarts, Stillness, may_pass
from a3c.runtimes.worker import Done, Failure, worker_main
from a3c.types import Life, MakeActorLearner, Report

StartMethod = Literal["forkserver", "spawn"]

_EXIT_PATIENCE_S = 1.0
_IMPORTS_BEGIN, _IMPORTS_END = "a3c.runtimes.imports_begin", "a3c.runtimes.imports_end"
_SHORT_OF = {
    **MORE_FILES,
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    errno.ENOMEM: "free some memory",
}
_LINE = 8  # doubles in a cache line; what different workers write must not share one
_START_S = 60.0  # what a start may take besides: imports, an environment that is made


class _Worker(NamedTuple):
    number: int
    process: BaseProcess
    pipe: connection.Connection


class _Beat:
    """Writes the time into a word of shared memory."""

    def __init__(self, words: Any, index: int) -> None:
        self._words, self._index = words, index

    def __call__(self) -> None:
        self._words[self._index] = time.monotonic()  # one clock for all processes of a machine


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
        policy: what becomes of a worker that fails.

    Attributes:
        alive: how many workers are running.
        incarnation: the highest that any worker has had: 0, and more where some were started anew.
    """

    def __init__(
        self,
        start_method: StartMethod | None = None,
        *,
        preload: Sequence[str] = (),
        report_every_s: float = 0.25,
        episodes_at_once: bool = False,
        policy: FailurePolicy = FailurePolicy(),  # noqa: B008  (immutable)
    ) -> None:
        default = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.start_method: str = start_method or default
        self.context: BaseContext = multiprocessing.get_context(self.start_method)
        self.preload = list(preload)
        self.report_every_s = report_every_s
        self.episodes_at_once = episodes_at_once
        self.policy = policy
        self.alive = 0
        self.incarnation = 0
        self._services: list[Any] = []  # the standard library's own processes that this runtime has started

    def prepare(self) -> None:
        """Start the fork server now, so that its imports run beside the caller's own.

        Raises UsageError where its socket cannot be, since the temporary directory's path is too long for one.
        """
        if self.start_method != "forkserver":
            return
        server = forkserver._forkserver
        if getattr(server, "_forkserver_pid", None) is None:
            self._remember_services()
            self.context.set_forkserver_preload([_IMPORTS_BEGIN, *self.preload, _IMPORTS_END])
            try:
                with hidden_main(), signals_blocked(), own_fork_server():
                    forkserver.ensure_running()
            except OSError as error:
                if "path too long" not in str(error):
                    raise
                raise UsageError(
                    f"the path of the temporary directory, {tempfile.gettempdir()}, is too long for a socket in it: "
                    "let TMPDIR name a shorter one, or take --start-method spawn"
                ) from None

    def check_room(self, workers: int) -> None:
        """There is room for any number, if not a core for each."""

    def run(self, make_actor_learner: MakeActorLearner, store: Any, workers: int) -> Generator[Report, None, None]:
        """See `a3c.types.Runtime.run`.

        Raises:
            UsageError: the actor-learner cannot be sent to another process.
            WorkerFailed: an actor-learner raised.
            WorkerDied: its process was killed or exited without a word.
            WorkerHung: it made no step for too long, and was killed.
            OutOfResources: a worker cannot be started.

        The three before the last only where the worker is not to be started anew.
        """
        recipe = dumped(make_actor_learner)
        self.prepare()  # where nobody has: a fork server without our watch would outlive us
        self._remember_services()
        crew = _Crew(self, recipe, store, workers)
        try:
            for number in range(workers):
                store.join(number)
            for number in range(workers):
                crew.start(number)
            yield from self._reports(crew, store)
        finally:
            try:
                crew.end()
            finally:
                self.close()

    def close(self) -> None:
        """End the fork server and the resource tracker, if this runtime started them."""
        while self._services:
            service = self._services.pop(0)
            with contextlib.suppress(OSError, AttributeError, TypeError):  # the last: a parent's tracker has no pid
                server_pid = getattr(service, "_forkserver_pid", None)
                if server_pid is not None:  # its workers are gone; its own way out takes half a second
                    os.kill(server_pid, signal.SIGKILL)
                service._stop()

    def _reports(self, crew: _Crew, store: Any) -> Iterator[Report]:
        restarts = Restarts(self.policy.restarts_per_hour)
        self.alive = len(crew.active)
        failure: WorkerError | None = None
        while (crew.active or restarts.waiting) and failure is None:
            active = list(crew.active.values())
            ready = connection.wait(
                [w.pipe for w in active] + [w.process.sentinel for w in active],
                timeout=min(self.report_every_s, restarts.seconds_to_next()),
            )
            if not ready:
                yield Report()
            for worker in active:
                if worker.pipe not in ready and worker.process.sentinel not in ready:
                    continue
                message = _receive(worker)
                if isinstance(message, Report):
                    yield message
                    continue
                failed = crew.dismiss(worker, message)
                self.alive = len(crew.active)
                if failed is None or failure is not None:
                    continue
                if may_pass(failed) and restarts.allow(worker.number):
                    yield Report(failures=[str(failed)], deaths={worker.number: store.pushed_episodes(worker.number)})
                else:
                    failure = failed
            crew.kill_who_hangs()
            crew.count_out()
            if restarts.waiting and store.counters().stop:
                restarts.waiting.clear()
            for number in restarts.due(crew.leaving):
                crew.start(number)  # its first pull counts it in: the others need not wait for it to be up
                self.alive = len(crew.active)
        if failure is not None:
            yield from _what_still_lies_in_the_pipes(crew.active.values())
            raise failure

    def _remember_services(self) -> None:
        # Private names, but the only way to end these two; if they ever go, their processes end with ours.
        for service, pid in (
            (getattr(forkserver, "_forkserver", None), "_forkserver_pid"),
            (getattr(resource_tracker, "_resource_tracker", None), "_pid"),
        ):
            if service is not None and getattr(service, pid, 0) is None and service not in self._services:
                self._services.append(service)


class _Crew:
    """The worker processes of a run.

    Attributes:
        active: those that have not ended, by number.
        leaving: those that have ended and are not yet counted out of the store.
    """

    def __init__(self, runtime: ProcessRuntime, recipe: bytes, store: Any, workers: int) -> None:
        self.active: dict[int, _Worker] = {}
        self._runtime, self._recipe, self._store = runtime, recipe, store
        self._lives = [0] * workers
        # A cache line each: when the worker was last seen alive, by the monotonic clock.
        self._beats: Any = runtime.context.RawArray(ctypes.c_double, workers * _LINE)
        self._seen: dict[int, float] = {}  # each one's last beat
        self._stillness = Stillness(runtime.policy.timeout_s, _START_S)
        self.leaving: set[int] = set()
        self._done: list[_Worker] = []

    def start(self, number: int) -> None:
        """Start a worker, for the first time or anew."""
        life = Life(self._lives[number], _Beat(self._beats, number * _LINE))
        self._lives[number] += 1
        self._runtime.incarnation = max(self._runtime.incarnation, life.incarnation)
        self._beats[number * _LINE] = 0.0
        self._seen[number] = 0.0
        try:
            self.active[number] = self._launched(number, life)
            self._stillness.begin(number)
        except (OSError, EOFError) as error:
            # The fork server cannot say what it is short of: it ends.
            lost = isinstance(error, EOFError | ConnectionError)
            code = errno.EAGAIN if lost else getattr(error, "errno", None)
            if code not in _SHORT_OF:
                raise
            raise OutOfResources(
                f"worker {number} cannot be started ({os.strerror(code)}): {_SHORT_OF[code]}, or take fewer "
                f"--workers than {len(self._lives)}"
            ) from error

    def _launched(self, number: int, life: Life) -> _Worker:
        runtime, context = self._runtime, self._runtime.context
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(  # type: ignore[attr-defined]
            target=worker_main,
            args=(
                WatchesParent() if runtime.start_method == "spawn" else None,
                number,
                self._recipe,
                self._store.connect(number),
                life,
                sender,
                runtime.report_every_s,
                runtime.episodes_at_once,
                self._store.pushed_episodes(number),
            ),
            name=f"a3c-worker-{number}",
        )
        try:
            with hidden_main(), signals_blocked():
                process.start()
        except BaseException:
            receiver.close()
            raise
        finally:
            sender.close()
        return _Worker(number, process, receiver)

    def dismiss(self, worker: _Worker, message: Done | Failure | None) -> WorkerError | None:
        """Count a worker out that has said its last word, or died without one; what it failed with, if it did."""
        del self.active[worker.number]
        hung = self._stillness.end(worker.number)
        self.leaving.add(worker.number)
        self.count_out()
        if isinstance(message, Done):
            self._done.append(worker)  # it is on its way out
            return None
        worker.process.join(_EXIT_PATIENCE_S)
        if worker.process.is_alive():  # it said that it failed, and does not go
            worker.process.kill()
            worker.process.join()
        exit_code = worker.process.exitcode
        _free(worker)
        if isinstance(message, Failure):
            return WorkerFailed(worker.number, message.kind, message.summary, message.worker_traceback)
        if hung:
            return WorkerHung(worker.number, self._runtime.policy.timeout_s)
        return WorkerDied(worker.number, exit_code)

    def count_out(self) -> None:
        """Count those out of the store who have ended; who cannot be yet, since a lock is kept, at the next call."""
        for number in tuple(self.leaving):
            with contextlib.suppress(StoreBusy):
                self._store.leave(number)
                self.leaving.discard(number)

    def kill_who_hangs(self) -> None:
        """Kill the worker that has stood still for too long, if there is one."""
        hung = self._stillness.look(self._moves)
        if hung is not None:
            self.active[hung].process.kill()

    def _moves(self, number: int) -> bool:
        beat, seen = self._beats[number * _LINE], self._seen[number]
        self._seen[number] = beat
        return bool(beat != seen or self._store.waits(number))

    def end(self) -> None:
        """Give workers that have finished a moment to leave by themselves, end all others at once, and free both."""
        deadline = time.monotonic() + _EXIT_PATIENCE_S
        everybody = (*self.active.values(), *self._done)
        try:
            for worker in self.active.values():
                worker.process.kill()  # stuck, or in the middle of a rollout that nobody wants any more
            for worker in self._done:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:  # whoever cannot wait, and interrupts this, must not leave one behind
            for worker in everybody:
                worker.process.kill()
            for worker in everybody:
                worker.process.join()
                _free(worker)
            self.active, self._done = {}, []


def _free(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.close()


def _receive(worker: _Worker) -> Report | Done | Failure | None:
    """The worker's next message, if there is one; None if it has ended without more."""
    try:
        return worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _what_still_lies_in_the_pipes(workers: Any) -> Iterator[Report]:
    for worker in workers:
        with contextlib.suppress(EOFError, OSError):
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Report):
                    yield message
