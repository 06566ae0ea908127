"""A sink in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from a3c.experiment.loggers import Logger

_CLOSE_TIMEOUT_S = 30.0  # an upload that takes longer would hold up the end of the run

_Line = tuple[int, dict[str, object]]


class BackgroundLogger:
    """Keeps a sink's import, writes and closing out of the caller's way.

    The sink is made, used and closed in one thread, which starts at the first write; without one, the sink is
    never made. What the sink raises is raised in the caller by the next `write` or `close`.

    Args:
        name: what the sink is called if it fails.
        make: makes the sink.
    """

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        self.name = name
        self._make = make
        self._lines: SimpleQueue[_Line | None] = SimpleQueue()  # None: close
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._abandoned = False

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Hand the line over; raises what went wrong with an earlier one."""
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="a3c-logger", daemon=True)
            self._thread.start()
        self._lines.put((step, dict(metrics)))

    def abandon(self) -> None:
        """Write nothing more, and make no sink that is not there yet: what it would write to is somebody else's."""
        self._abandoned = True

    def close(self) -> None:
        """Wait until the sink has taken every line and closed; raises what went wrong in it.

        Raises TimeoutError if that takes longer than a constant bound.
        """
        if self._thread is None:
            return
        self._lines.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"not finished after {_CLOSE_TIMEOUT_S:g} s; its last lines may be missing")
        self._raise_error()

    def _drain(self) -> None:
        try:
            if self._abandoned:
                return
            sink = self._make()
            try:
                while (line := self._lines.get()) is not None and not self._abandoned:
                    sink.write(*line)
            finally:
                sink.close()
        except Exception as error:
            self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
