"""TensorBoard event files."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from a3c.experiment.loggers import finite_number, is_episode
from a3c.experiment.run_directory import ASIDE

_FLUSH_EVERY_S = 2.0
_OUR_NAME = re.compile(r"events\.out\.tfevents\.\d{10}\.\d{6}\..+\.\d+")

Line: TypeAlias = tuple[float, int, Mapping[str, object]]


class TensorBoardLogger:
    """Owns one event file of scalars over environment steps.

    Metrics lines become scalars of their keys' names, episode lines `episode/return` and `episode/length`.
    What is no finite number is passed over.

    Args:
        directory: where the event file goes; made if it does not exist.
        resumed_at: for a run that is taken up where it ended: T. TensorBoard passes over what older files have beyond.
        history: for a run that was killed: all lines that count, with a time for each, in seconds since the epoch. They
            are written once more, and older event files, which may have others or lack some, are emptied.
        ours: says, of a directory in whose place another is, whether that is this run's, too; else lines are lost.
    """

    def __init__(
        self,
        directory: Path,
        resumed_at: int | None = None,
        history: Iterable[Line] | None = None,
        ours: Callable[[], bool] = lambda: True,
    ) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415  (heavy; only where used)
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self._event, self._summary, self._mark = event_pb2.Event, summary_pb2.Summary, event_pb2.SessionLog
        self._directory, self._make_writer, self._ours = directory, RecordWriter, ours
        if not ours():
            raise OSError(f"{directory} is another run's by now")
        if history is not None:
            self._write_anew(history)
            return
        self._begin()
        if resumed_at is not None:
            self._append(self._forget_from(resumed_at + 1))

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append one event that holds the line's scalars."""
        if (event := self._scalars(time.time(), step, metrics)) is not None:
            self._append(event)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _scalars(self, wall_time: float, step: int, metrics: Mapping[str, object]) -> Any:
        """An event of a line's scalars, None if it has none."""
        if is_episode(metrics):
            metrics = {f"episode/{key}": metrics.get(key) for key in ("return", "length")}
        scalars = [
            self._summary.Value(tag=tag, simple_value=number)
            for tag, value in metrics.items()
            if tag != "env_steps" and (number := finite_number(value)) is not None
        ]
        return self._event(wall_time=wall_time, step=step, summary=self._summary(value=scalars)) if scalars else None

    def _version(self) -> Any:
        """The event that each file begins with."""
        return self._event(wall_time=time.time(), file_version="brain.Event:2")

    def _forget_from(self, step: int) -> Any:
        """An event for whoever has read older files: from this step on they do not count."""
        return self._event(wall_time=time.time(), step=step, session_log=self._mark(status=self._mark.START))

    def _take_place(self) -> None:
        """Make the directory, and choose a name for the file."""
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._directory / name
        self._next_flush = 0.0

    def _begin(self) -> None:
        self._take_place()
        self._writer = self._make_writer(open(self._path, "wb"))  # noqa: SIM115  (kept until close)
        self._append(self._version())

    def _write_anew(self, history: Iterable[Line]) -> None:
        """Write a file that takes the place of all older ones, at one stroke, and go on with it."""
        self._take_place()
        older = [file for file in self._directory.iterdir() if _OUR_NAME.fullmatch(file.name)]
        aside = self._directory / ASIDE
        aside.unlink(missing_ok=True)  # left by a run that was killed, or a link that somebody has put there
        try:
            writer = self._make_writer(open(aside, "xb"))  # noqa: SIM115  (closed with the writer)
            with contextlib.closing(writer):
                for event in (self._version(), self._forget_from(0)):
                    writer.write(event.SerializeToString())
                for line in history:
                    with contextlib.suppress(ValueError, TypeError, OverflowError):  # a damaged line costs itself
                        if (event := self._scalars(*line)) is not None:
                            writer.write(event.SerializeToString())
            os.replace(aside, self._path)
        finally:
            aside.unlink(missing_ok=True)
        for file in older:  # not removed: of one that is gone a TensorBoard that is watching would wait for more
            with contextlib.suppress(OSError):
                os.truncate(file, 0)
        self._writer = self._make_writer(open(self._path, "ab"))  # noqa: SIM115  (kept until close)

    def _append(self, event: Any) -> None:
        if time.monotonic() >= self._next_flush and not self._path.exists():  # the run's directory has vanished
            if not self._ours():
                return
            self._writer.close()
            self._begin()
        self._writer.write(event.SerializeToString())
        if time.monotonic() >= self._next_flush:  # a TensorBoard that is watching sees it at once, or nearly
            self._writer.flush()
            self._next_flush = time.monotonic() + _FLUSH_EVERY_S
