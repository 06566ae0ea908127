"""Which rows of episodes.csv belong to a checkpoint.

A worker pushes an episode together with its rollout and reports it a little later; with some stores a push counts later
than that. So the rows that are written when a checkpoint is cut are not quite the episodes that it counts. But each row
has the episode's number among those of its worker, and the checkpoint knows which of each worker's it counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from a3c.errors import RunDirectoryError
from a3c.experiment.run_directory import whole_lines, why_not_saved, written_aside

_LONGEST_ROW = 1000  # bytes; none is by far as long


class Row(NamedTuple):
    """What a row says of an episode, in the order of its columns."""

    worker: int
    env_steps: int
    seconds: float
    episode_return: float
    length: int
    number: int = 0  # among those of its worker, from 1; 0 where an older version has not numbered them


class Counted(NamedTuple):
    """Which episodes a checkpoint counts."""

    highest: Sequence[int]  # the number of the last one of each worker
    missing: Sequence[tuple[int, int, int]] = ()  # but for these: worker, first, last

    def has(self, row: Row) -> bool:
        """Whether a row is of one of them."""
        if not 0 < row.number <= number_of(self.highest, row.worker):
            return False
        return not any(row.worker == whose and first <= row.number <= last for whose, first, last in self.missing)


def number_of(numbers: Sequence[int], worker: int) -> int:
    """A worker's, 0 where it has none."""
    return numbers[worker] if 0 <= worker < len(numbers) else 0


def read_row(line: bytes) -> Row | None:
    """What a line says, None if it is no row."""
    try:
        worker, env_steps, seconds, episode_return, length, *number = line[:_LONGEST_ROW].split(b",", 6)
        row = Row(int(worker), int(env_steps), float(seconds), float(episode_return), int(length), *map(int, number))
    except (ValueError, TypeError):
        return None
    return row if math.isfinite(row.seconds) else None


def read_rows(file: Path, size: int | None = None) -> Iterator[Row]:
    """What the rows of an `episodes.csv`, or in its first so many bytes, say.

    Raises RunDirectoryError if a line has no end, and OSError.
    """
    yield from (row for line in whole_lines(file, size) if (row := read_row(line)) is not None)


class Removed(NamedTuple):
    """How many lines were removed."""

    rows: int  # of episodes that the checkpoint does not count
    others: int  # that were no rows


def keep_counted(file: Path, counted: Counted) -> Removed:
    """Remove the rows of episodes that a checkpoint does not count, and what is no row.

    However often this is called, and wherever it is broken off, the same rows are left in the end. Raises
    RunDirectoryError if the file is damaged, or cannot be written.
    """
    removed, ends_at, in_one_piece = [0, 0], 0, True
    try:
        for line, stays, is_row in _judged(file, counted):
            if stays:
                ends_at += len(line)
                in_one_piece = in_one_piece and not any(removed)
            else:
                removed[not is_row] += 1
        if in_one_piece:
            os.truncate(file, ends_at)
        else:
            with written_aside(file) as kept:
                kept.writelines(line for line, stays, _ in _judged(file, counted) if stays)
    except OSError as error:
        raise RunDirectoryError(why_not_saved(file.parent, error)) from None
    return Removed(*removed)


def _judged(file: Path, counted: Counted) -> Iterator[tuple[bytes, bool, bool]]:
    """Each line, whether it stays, and whether it is what it should be: the header, or a row."""
    for index, line in enumerate(whole_lines(file)):
        row = read_row(line)
        yield line, index == 0 or (row is not None and counted.has(row)), index == 0 or row is not None
