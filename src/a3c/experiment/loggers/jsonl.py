"""Metrics as JSON, one object a line."""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping
from pathlib import Path

from a3c.experiment.loggers import finite_number, is_episode


class JsonlLogger:
    """Owns `metrics.jsonl`: every metrics line is on its way to the disk when `write` returns.

    An existing file is added to; a torn last line is closed first, so that it costs only itself. NaN and
    infinity, which JSON does not know, become null. Episode lines are passed over.
    """

    def __init__(self, path: Path) -> None:
        torn = _lacks_final_newline(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (kept until close)
        if torn:
            self._file.write("\n")

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append the line; `env_steps` is put in front if it is not among the metrics."""
        if is_episode(metrics):
            return
        line = {key: _jsonable(value) for key, value in ({"env_steps": step} | dict(metrics)).items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _jsonable(value: object) -> object:
    if isinstance(value, bool | int | str) or not isinstance(value, numbers.Real):
        return value
    number = finite_number(value)
    return int(value) if number is not None and isinstance(value, numbers.Integral) else number


def _lacks_final_newline(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"
