"""Which rows of episodes.csv belong to a checkpoint.

A worker pushes an episode together with its rollout and reports it a little later; with some stores a push counts later
than that. So the rows that are written when a checkpoint is cut are not quite the episodes that it counts. But each row
has the episode's number among those of its worker, and the checkpoint knows which of each worker's it counts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from a3c.errors import RunDirectoryError
from a3c.experiment.run_directory import whole_lines, why_not_saved


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

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, Row) or not 0 < row.number <= number_of(self.highest, row.worker):
            return False
        return not any(row.worker == whose and first <= row.number <= last for whose, first, last in self.missing)


def number_of(numbers: Sequence[int], worker: int) -> int:
    """A worker's, 0 where it has none."""
    return numbers[worker] if 0 <= worker < len(numbers) else 0


def read_row(line: bytes) -> Row | None:
    """What a line says, None if it is no row."""
    try:
        worker, env_steps, seconds, episode_return, length, *number = line.split(b",")
        return Row(int(worker), int(env_steps), float(seconds), float(episode_return), int(length), *map(int, number))
    except (ValueError, TypeError):
        return None


def read_rows(file: Path, size: int | None = None) -> Iterator[Row]:
    """What the rows of an `episodes.csv` say, or those in its first so many bytes.

    Raises RunDirectoryError if a line has no end, and OSError.
    """
    yield from (row for line in whole_lines(file, size) if (row := read_row(line)) is not None)


def keep_counted(file: Path, counted: Counted) -> int:
    """Remove the rows of episodes that a checkpoint does not count, and what is no row; how many of the latter.

    However often this is called, and wherever it is broken off, the same rows are left in the end. Raises
    RunDirectoryError if the file is damaged, or cannot be written.
    """
    whole, no_rows, ends_at = True, 0, 0  # so far: nothing was removed; no rows; where what stays ends
    in_one_piece = True
    try:
        for line, stays, is_row in _judged(file, counted):
            no_rows += not is_row
            if not stays:
                whole = False
                continue
            in_one_piece = whole
            ends_at += len(line)
        if in_one_piece:
            os.truncate(file, ends_at)
        else:
            _write_anew(file, counted)
    except OSError as error:
        raise RunDirectoryError(why_not_saved(file.parent, error)) from None
    return no_rows


def _judged(file: Path, counted: Counted) -> Iterator[tuple[bytes, bool, bool]]:
    """Each line, whether it stays, and whether it is what it should be: the header, or a row."""
    for index, line in enumerate(whole_lines(file)):
        row = read_row(line)
        yield line, index == 0 or row in counted, index == 0 or row is not None


def _write_anew(file: Path, counted: Counted) -> None:
    """Write the lines that stay aside, then in the file's place."""
    aside = file.with_name(f".{file.name}.tmp")
    aside.unlink(missing_ok=True)  # left by a run that was killed, or a link that somebody has put there
    try:
        with open(aside, "xb") as kept:
            kept.writelines(line for line, stays, _ in _judged(file, counted) if stays)
            kept.flush()
            os.fsync(kept.fileno())
        shutil.copymode(file, aside)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)  # on a full disk half of it would be in everybody's way
