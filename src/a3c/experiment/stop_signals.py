"""Ctrl-C and SIGTERM as requests to finish and save."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_EXIT_REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class StopSignals:
    """While entered, the first Ctrl-C or SIGTERM is noted instead of raised; a second Ctrl-C is raised.

    Outside the main thread signals cannot be caught, and are left as they are.

    Attributes:
        received: the signal's number, None if there was none.
        received_at: when, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.received_at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _EXIT_REASONS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

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
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self.received_at = number, time.monotonic()
