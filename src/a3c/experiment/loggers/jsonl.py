"""Metrics as JSON, one object a line."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Mapping
from pathlib import Path

from a3c.experiment.loggers import finite_number, is_episode
from a3c.experiment.loggers.growing_file import GrowingFile


class JsonlLogger:
    """Owns `metrics.jsonl`: every metrics line is on its way to the disk when `write` returns.

    NaN and infinity, which JSON does not know, become null. Episode lines are passed over. What becomes of lines that
    cannot be written is told to `report`; see `GrowingFile`.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._file = GrowingFile(path, report)

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append the line; `env_steps` is put in front if it is not among the metrics."""
        if is_episode(metrics):
            return
        line = {key: _jsonable(value) for key, value in ({"env_steps": step} | dict(metrics)).items()}
        self._file.add([json.dumps(line, allow_nan=False)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _jsonable(value: object) -> object:
    if isinstance(value, bool | int | str) or not isinstance(value, numbers.Real):
        return value
    number = finite_number(value)
    return int(value) if number is not None and isinstance(value, numbers.Integral) else number
