"""TensorBoard event files."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from a3c.experiment.loggers import finite_number, is_episode

_FLUSH_EVERY_S = 2.0


class TensorBoardLogger:
    """Owns one event file of scalars over environment steps.

    Metrics lines become scalars of their keys' names, episode lines `episode/return` and `episode/length`.
    What is no finite number is passed over.

    Args:
        directory: where the event file goes; made if it does not exist.
        resumed_at: for a run that is taken up: T; TensorBoard then passes over what older files have beyond it.
        ours: says, of a directory in whose place another is, whether that is this run's, too; else lines are lost.
    """

    def __init__(self, directory: Path, resumed_at: int | None = None, ours: Callable[[], bool] = lambda: True) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415  (heavy; only where used)
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._directory, self._make_writer, self._ours = directory, RecordWriter, ours
        if not ours():
            raise OSError(f"{directory} is another run's by now")
        self._begin()
        if resumed_at is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(self._event(wall_time=time.time(), step=resumed_at + 1, session_log=start))

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append one event that holds the line's scalars."""
        if is_episode(metrics):
            metrics = {f"episode/{key}": metrics.get(key) for key in ("return", "length")}
        scalars = [
            self._summary.Value(tag=tag, simple_value=number)
            for tag, value in metrics.items()
            if tag != "env_steps" and (number := finite_number(value)) is not None
        ]
        if scalars:
            summary = self._summary(value=scalars)
            self._append(self._event(wall_time=time.time(), step=step, summary=summary))

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
