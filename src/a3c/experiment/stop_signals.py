"""Ctrl-C and SIGTERM as requests to finish and save."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_EXIT_REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class StopSignals:
    """While entered, the first Ctrl-C or SIGTERM is noted instead of raised; a second Ctrl-C is raised.

    Outside the main thread signals cannot be caught, and are left as they are.

    Args:
        patience_s: so long after a signal KeyboardInterrupt is raised in the middle of the block, unless `be_patient`
            was called: where the main thread steps environments itself, it looks for signals only between updates.

    Attributes:
        received: the signal's number, None if there was none.
        received_at: when, by the monotonic clock.
    """

    def __init__(self, patience_s: float | None = None) -> None:
        self.patience_s = patience_s
        self.received: int | None = None
        self.received_at = 0.0
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _EXIT_REASONS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.be_patient()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def be_patient(self) -> None:
        """From here on nothing but a second Ctrl-C is raised, however long the rest takes."""
        self.patience_s = None
        if self._timer is not None:
            self._timer.cancel()

    @property
    def exit_reason(self) -> str | None:
        """What a run that ends for this signal calls its reason; None without a signal."""
        return None if self.received is None else _EXIT_REASONS[signal.Signals(self.received)]

    def raise_again(self) -> None:
        """Raise what the received signal would have: KeyboardInterrupt, or SystemExit(143) for SIGTERM."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        waited_s = time.monotonic() - self.received_at
        impatient = self.patience_s is not None and waited_s >= self.patience_s
        if self.received is not None and (number == signal.SIGINT or impatient):
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self.received_at = number, time.monotonic()
            if self.patience_s is not None:
                self._timer = threading.Timer(self.patience_s, self._send_again, [number])
                self._timer.daemon = True
                self._timer.start()

    def _send_again(self, number: int) -> None:
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident, number)  # type: ignore[arg-type]  # wakes it from a sleep
        else:  # Windows
            _thread.interrupt_main(signal.Signals(number))
