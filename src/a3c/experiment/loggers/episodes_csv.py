"""Finished episodes, one a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from a3c.experiment.loggers.growing_file import GrowingFile
from a3c.experiment.run_directory import regular

COLUMNS = ("worker", "env_steps", "seconds", "return", "length", "worker_episode")
OLDER_COLUMNS = COLUMNS[:5]
"""Those of the runs of older versions."""

_LONGEST_HEADER = 1000  # bytes


class EpisodesCsvLogger:
    """Owns `episodes.csv`. Rows are buffered: `flush` brings them to the disk, `close` does it for the last.

    An existing file is added to, in the columns that it has. Lines without a return are passed over. What becomes of
    rows that cannot be written is told to `report`; see `GrowingFile`.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._columns = OLDER_COLUMNS if columns_of(path) == OLDER_COLUMNS else COLUMNS
        self._file = GrowingFile(path, report, ",".join(self._columns))
        self._rows: list[str] = []

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append the episode's row; keys that are no columns are passed over."""
        if "return" in metrics:
            self._rows.append(",".join(str(metrics[column]) for column in self._columns))  # numbers need no quotes

    def flush(self) -> None:
        """Bring the rows so far to the disk."""
        if self._rows:
            rows, self._rows = self._rows, []
            self._file.add(rows)

    def close(self) -> None:
        """Flush and close the file."""
        rows, self._rows = self._rows, []
        self._file.close(rows)


def columns_of(path: Path) -> tuple[str, ...]:
    """What the header of an `episodes.csv` says; nothing if there is no file, or none that can be read."""
    try:
        with open(regular(path), "rb") as file:
            return tuple(file.readline(_LONGEST_HEADER).decode(errors="replace").strip().split(","))
    except OSError:
        return ()
