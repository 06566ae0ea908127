"""Sinks for what a run reports: one writer for all workers, a list of sinks, a null sink.

Two kinds of line arrive. An episode line has the keys `episode` (its number, from 1), `worker`, `env_steps`,
`seconds`, `return`, `length` and `worker_episode` (its number among those of its worker). Every other line holds
metrics: totals and means since the line before, None where not known. Each sink takes what concerns it and passes over
the rest.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Logger(Protocol):
    """A sink. Either call may raise; whoever holds several of them gives them to a `LoggerList`."""

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Take one line; `step` is T, the environment steps of all workers. Keeps no reference to it."""

    def close(self) -> None:
        """Bring everything written to its destination and let go of it."""


class NullLogger:
    """Takes every line and keeps none."""

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class LoggerList:
    """Owns several sinks and writes to each; one that raises is dropped with a message, the rest go on.

    A full disk or an unreachable server costs the sink, never the run.

    Args:
        sinks: where the lines go.
        report: is called with one line of text for each sink that is dropped.
    """

    def __init__(self, sinks: Sequence[Logger], report: Callable[[str], None]) -> None:
        self._sinks = list(sinks)
        self._report = report

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Write the line to every sink that is left."""
        for sink in tuple(self._sinks):
            try:
                sink.write(step, metrics)
            except Exception as error:
                self._sinks.remove(sink)
                self._report(_obituary(sink, error))
                with contextlib.suppress(Exception):
                    sink.close()

    def close(self) -> None:
        """Close every sink that is left."""
        while self._sinks:
            sink = self._sinks.pop(0)
            try:
                sink.close()
            except Exception as error:
                self._report(_obituary(sink, error))


def is_episode(metrics: Mapping[str, object]) -> bool:
    """Whether a line tells of one finished episode."""
    return "episode" in metrics


def finite_number(value: object) -> float | None:
    """The value as a float if it is a real, finite number, else None."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _obituary(sink: Logger, error: Exception) -> str:
    name = getattr(sink, "name", type(sink).__name__)
    reason = next(iter(str(error).splitlines()), "")
    return f"{name} stopped, the run goes on without it: {type(error).__name__}: {reason}"
