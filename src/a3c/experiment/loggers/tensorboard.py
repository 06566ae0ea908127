"""TensorBoard event files."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from a3c.experiment.loggers import finite_number, is_episode

_FLUSH_EVERY_S = 2.0
_OUR_NAME = re.compile(r"events\.out\.tfevents\.\d{10}\.\d{6}\..+\.\d+")

Line: TypeAlias = tuple[float, int, Mapping[str, object]]


class TensorBoardLogger:
    """Owns one event file of scalars over environment steps.

    Metrics lines become scalars of their keys' names, episode lines `episode/return` and `episode/length`.
    What is no finite number is passed over.

    Args:
        directory: where the event file goes; made if it does not exist.
        history: for a run that is taken up: all its lines so far, with the time of each in seconds since the epoch.
            They are written once more, and older event files, which may have others, are emptied.
        ours: says, of a directory in whose place another is, whether that is this run's, too; else lines are lost.
    """

    def __init__(
        self, directory: Path, history: Iterable[Line] | None = None, ours: Callable[[], bool] = lambda: True
    ) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415  (heavy; only where used)
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._directory, self._make_writer, self._ours = directory, RecordWriter, ours
        if not ours():
            raise OSError(f"{directory} is another run's by now")
        older = [file for file in directory.glob("*") if _OUR_NAME.fullmatch(file.name)]
        self._begin()
        if history is not None:
            # A TensorBoard that is watching forgets what it has read of the older files.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(self._event(wall_time=time.time(), step=0, session_log=start))
            for wall_time, step, metrics in history:
                self._write(wall_time, step, metrics)
            self._writer.flush()
            for file in older:  # not removed: of one that is gone a TensorBoard that is watching would wait for more
                with contextlib.suppress(OSError):
                    os.truncate(file, 0)

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append one event that holds the line's scalars."""
        self._write(time.time(), step, metrics)

    def _write(self, wall_time: float, step: int, metrics: Mapping[str, object]) -> None:
        if is_episode(metrics):
            metrics = {f"episode/{key}": metrics.get(key) for key in ("return", "length")}
        scalars = [
            self._summary.Value(tag=tag, simple_value=number)
            for tag, value in metrics.items()
            if tag != "env_steps" and (number := finite_number(value)) is not None
        ]
        if scalars:
            summary = self._summary(value=scalars)
            self._append(self._event(wall_time=wall_time, step=step, summary=summary))

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _begin(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._directory / name
        self._writer = self._make_writer(open(self._path, "wb"))  # noqa: SIM115  (kept until close)
        self._next_flush = 0.0
        self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def _append(self, event: object) -> None:
        if time.monotonic() >= self._next_flush and not self._path.exists():  # the run's directory has vanished
            if not self._ours():
                return
            self._writer.close()
            self._begin()
        self._writer.write(event.SerializeToString())  # type: ignore[attr-defined]
        if time.monotonic() >= self._next_flush:  # a TensorBoard that is watching sees it at once, or nearly
            self._writer.flush()
            self._next_flush = time.monotonic() + _FLUSH_EVERY_S
