"""Finished episodes, one a row."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path

COLUMNS = ("worker", "env_steps", "seconds", "return", "length")


class EpisodesCsvLogger:
    """Owns `episodes.csv`. Rows are buffered: `flush` brings them to the disk, `close` does it for the last.

    An existing file is added to, without a second header. Lines without a return are passed over.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115  (kept until close)
        self._rows = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._rows.writerow(COLUMNS)

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append the episode's row; keys that are no columns are passed over."""
        if "return" in metrics:
            self._rows.writerow([metrics[column] for column in COLUMNS])

    def flush(self) -> None:
        """Bring the rows so far to the disk. An error is left for the next write or close to meet again."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()
