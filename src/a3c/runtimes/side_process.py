"""One more process beside the workers, which answers one question at a time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from multiprocessing import connection, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any, cast

from a3c.runtimes.child_process import (
    dumped,
    exit_with_parent,
    hidden_main,
    leave_signals_to_the_parent,
    loaded,
    signals_blocked,
    use_one_thread,
)
from a3c.runtimes.reporting import worker_failed
from a3c.runtimes.worker import Failure

_NICENESS = 10  # where the workers take all cores they lose a tenth of one to it, not half of one
_EXIT_PATIENCE_S = 1.0

MakeAnswer = Callable[[], Callable[[Any], Any]]


class SideProcess:
    """Owns a process that is handed a question, works on it, and sends the answer back; the caller never waits for it.

    It is started as workers are: it does not import the caller's `__main__`, leaves Ctrl-C and SIGTERM to the caller,
    and goes when the caller dies. Once it is up it gives way to the workers where cores are short.

    Args:
        context: the multiprocessing context to start it by.
        make_answer: makes, in the process, the function from a question to its answer; travels by cloudpickle.
        name: of the process.

    Attributes:
        busy: whether a question is under way.
    """

    def __init__(self, context: BaseContext, make_answer: MakeAnswer, name: str) -> None:
        self.busy = False
        self._ready = False
        self._unsent: list[Any] = []  # the question that came before the process was ready to read it
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_side_main, args=(dumped(make_answer), theirs), name=name
        )
        with hidden_main(), signals_blocked():
            self._process.start()
        theirs.close()

    def ask(self, question: Any) -> None:
        """Hand over a question; none may be under way."""
        assert not self.busy
        self.busy = True
        self._unsent.append(question)
        self._send()

    def answer(self, timeout_s: float = 0.0) -> Any:
        """The answer if it comes within `timeout_s`, else None; a `Failure` if there will be none, now or later.

        Raises nothing, whatever became of the process.
        """
        try:
            while self._pipe.poll(timeout_s):
                message = self._pipe.recv()
                if not self._ready and not isinstance(message, Failure):
                    self._ready = True
                    self._send()
                    continue
                self.busy = False
                return message
        except (EOFError, OSError):
            self.busy = False
            return Failure("ProcessLookupError", "its process was killed or exited without a word", "")
        return None

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if not self._has_gone(0.0):
            with contextlib.suppress(OSError):
                self._kill()
            self._has_gone(_EXIT_PATIENCE_S)
        self._pipe.close()
        self._process.join()
        self._process.close()

    def _send(self) -> None:
        # Not before the process reads: a pipe takes 64 KiB, and the caller has workers to listen to.
        if self._ready:
            with contextlib.suppress(OSError):  # it has gone: the next `answer` says so
                while self._unsent:
                    self._pipe.send(self._unsent.pop())

    def _has_gone(self, timeout_s: float) -> bool:
        """Whether the process has let go of its end of the pipe, within `timeout_s`."""
        try:
            while self._pipe.poll(timeout_s):
                self._pipe.recv()
        except (EOFError, OSError):
            return True
        return False

    def _kill(self) -> None:
        if hasattr(signal, "SIGKILL"):
            # By its number: multiprocessing asks the fork server whether it lives, which may have been ended before it.
            os.kill(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()


def _side_main(recipe: bytes, pipe: connection.Connection) -> None:
    leave_signals_to_the_parent()
    exit_with_parent(with_fork_server=False)  # which the run may end before this process has come to its answer
    _let_go_of_the_resource_tracker()
    try:
        use_one_thread()
        answer = cast(MakeAnswer, loaded(recipe))()
        with contextlib.suppress(OSError, AttributeError):  # Windows has no os.nice
            os.nice(_NICENESS)  # not before: imports at a tenth of a core would take longer than many a run
        pipe.send(None)  # ready
        while (question := _received(pipe)) is not _NOTHING:
            pipe.send(answer(question))
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more
    except BaseException as error:  # SystemExit from an environment is a failure like any other
        failed = worker_failed(0, error)
        with contextlib.suppress(OSError):
            pipe.send(Failure(failed.kind, failed.summary, failed.worker_traceback))


def _let_go_of_the_resource_tracker() -> None:
    # It ends when its last user does, and the runtime, which ends it after the workers, waits for that: a process that
    # is still at work then would hold up the run's end. Should something here need a tracker, another one is started.
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    descriptor = getattr(tracker, "_fd", None)
    if tracker is not None and descriptor is not None:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        tracker._fd = None


_NOTHING = object()


def _received(pipe: connection.Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return _NOTHING
