"""Every error that this library raises on purpose.

A3CError
├── UsageError (also ValueError)        what a user asked for cannot be done        exit code 2
│   ├── UnknownEnvironment              no environment of that name
│   ├── UnsupportedEnvironment          its spaces or its autoreset mode are not handled
│   ├── IllegalCombination              algorithm, store and runtime do not go together
│   └── RunDirectoryError               a run directory is missing, damaged, taken or unwritable
├── WorkerError                         an actor-learner ended before its time      exit code 1
│   ├── WorkerFailed                    it raised; carries the worker's own traceback
│   ├── WorkerDied                      it was killed or exited without a word
│   └── WorkerHung                      it made no step for too long, and was killed
├── SavingFailed                        a run's files could not be written          exit code 1
├── OutOfResources                      the machine lacks what a run needs          exit code 1
├── ClusterError                        a Ray cluster cannot be used, or fell apart exit code 1
├── NonFiniteError                      NaN or infinity: in too many rollouts in a row, an evaluation, the weights
└── StoreError                          a parameter store was used against its promise
    ├── RoundCannotFill                 a synchronous round waits for somebody who cannot come
    └── StoreBusy                       a worker keeps the store's lock, and does not go on

What a worker raises reaches the caller of a run as WorkerFailed, with the name of the error's class.
"""

import errno

MORE_FILES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n 4096)",
    errno.ENFILE: "raise the system's limit of open files",
}
"""What helps where no more files can be opened, by the system's number of the error."""


class A3CError(Exception):
    """The root of all errors that this library raises on purpose."""


class UsageError(A3CError, ValueError):
    """What the user asked for cannot be done; the message names the thing and a fix."""


class UnknownEnvironment(UsageError):
    """No environment of that name is registered or importable."""


class UnsupportedEnvironment(UsageError):
    """The environment exists, but one of its spaces or its autoreset mode is not handled."""


class IllegalCombination(UsageError):
    """Algorithm, store and runtime do not go together; the message lists what does."""


class RunDirectoryError(UsageError):
    """A run directory is missing, damaged, already taken or not writable."""


class WorkerError(A3CError):
    """An actor-learner ended before its time."""


class WorkerFailed(WorkerError):
    """An actor-learner raised. The traceback is in the message, too.

    Attributes:
        worker: its number, from 0.
        kind: the name of the exception's class in the worker.
        worker_traceback: the traceback as the worker saw it; empty of an error of this library's, whose message says
            all.
    """

    def __init__(self, worker: int, kind: str, summary: str, worker_traceback: str) -> None:
        shown = f"\n\n{worker_traceback.rstrip()}" if worker_traceback else ""
        super().__init__(f"worker {worker} failed: {kind}: {summary}{shown}")
        self.worker = worker
        self.kind = kind
        self.summary = summary
        self.worker_traceback = worker_traceback


class WorkerDied(WorkerError):
    """An actor-learner's process was killed or exited without a word.

    Attributes:
        worker: its number, from 0.
        exit_code: the process's exit code; minus the signal's number if a signal ended it; None if unknown.
    """

    def __init__(self, worker: int, exit_code: int | None, reason: str | None = None) -> None:
        super().__init__(f"worker {worker} died: {reason or _describe_exit(exit_code)}")
        self.worker = worker
        self.exit_code = exit_code


class WorkerHung(WorkerError):
    """A worker made no step, reset or update for too long, and was killed.

    Attributes:
        worker: its number, from 0.
        timeout_s: how long that was, in seconds.
    """

    def __init__(self, worker: int, timeout_s: float) -> None:
        super().__init__(
            f"worker {worker} hung: one step, reset or update took longer than --worker-timeout-s {timeout_s:g}"
        )
        self.worker = worker
        self.timeout_s = timeout_s


class SavingFailed(A3CError):
    """A run's files could not be written: the disk is full, or the directory has gone."""


class OutOfResources(A3CError):
    """The machine, or a limit that is set on it, lacks what a run needs: file descriptors, processes, memory."""


class ClusterError(A3CError):
    """A Ray cluster cannot be reached, or has lost what a run cannot do without; the message names a fix."""


class NonFiniteError(A3CError):
    """Too many rollouts in a row held a NaN or an infinity, or an evaluation or the weights do; it says where."""


class StoreError(A3CError):
    """A parameter store was used against its promise."""


class RoundCannotFill(StoreError):
    """A synchronous round waits, in the only process there is, for a gradient that nobody can push."""


class StoreBusy(StoreError):
    """A worker keeps the store's lock, and does not go on."""


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "its process is gone, exit code unknown"
    if exit_code == -9:
        return "killed by signal 9 (often the kernel, when memory runs out: take fewer --workers or --envs-per-worker)"
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    return f"its process exited with code {exit_code} without a report"
