"""Which rows of episodes.csv belong to a checkpoint.

A worker pushes an episode together with its rollout and reports it a little later; with some stores a push counts later
than that. So the rows that are written when a checkpoint is cut are not quite the episodes that it counts. But each row
has the episode's number among those of its worker, and the checkpoint how many each worker had pushed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from a3c.errors import RunDirectoryError
from a3c.experiment.loggers.episodes_csv import is_of_an_older_version
from a3c.experiment.run_directory import EPISODES, whole_lines, why_not_saved
from a3c.experiment.told import ENOUGH_EPISODES


class Row(NamedTuple):
    """What a row says of an episode, in the order of its columns."""

    worker: int
    env_steps: int
    seconds: float
    episode_return: float
    length: int
    number: int = 0  # among those of its worker, from 1; 0 where an older version has not numbered them


class Kept(NamedTuple):
    """What is left of the rows.

    Attributes:
        late: those of episodes that the checkpoint counts, and whose report came after it was cut.
        last_returns: of the last hundred others.
    """

    late: list[Row]
    last_returns: list[float]


def keep_counted(run_dir: Path, counted: Sequence[int], reported: Sequence[int]) -> Kept | None:
    """Remove the rows of episodes that a checkpoint does not count from a run's episodes.csv, and what is no row.

    However often this is called, and wherever it is broken off, the same rows are left.

    Args:
        run_dir: the run's directory.
        counted: how many episodes of each worker the checkpoint counts.
        reported: the number of the last one that each worker had reported when it was cut.

    Returns None if there are no rows with numbers. Raises RunDirectoryError if the file is damaged, or cannot be
    written.
    """
    file = run_dir / EPISODES
    if not file.exists() or is_of_an_older_version(file):
        return None
    late, last_returns = list[Row](), deque[float](maxlen=ENOUGH_EPISODES)
    try:
        kept_bytes, in_one_piece, is_kept_before = 0, True, True
        for line, row, is_kept in _judged(file, counted):
            if not is_kept:
                is_kept_before = False
                continue
            in_one_piece = in_one_piece and is_kept_before
            kept_bytes += len(line)
            if row is not None and row.number > _of(reported, row.worker):
                late.append(row)
            elif row is not None:
                last_returns.append(row.episode_return)
        if in_one_piece:
            os.truncate(file, kept_bytes)
        else:
            _write_anew(file, counted)
    except OSError as error:
        raise RunDirectoryError(why_not_saved(run_dir, error)) from None
    return Kept(late, list(last_returns))


def read_row(line: bytes) -> Row | None:
    """What a line says, None if it is no row."""
    try:
        worker, env_steps, seconds, episode_return, length, *number = line.split(b",")
        return Row(int(worker), int(env_steps), float(seconds), float(episode_return), int(length), *map(int, number))
    except (ValueError, TypeError):
        return None


def _judged(file: Path, counted: Sequence[int]) -> Iterator[tuple[bytes, Row | None, bool]]:
    """Each line, what it says, and whether it stays: the header does, which says nothing."""
    for index, line in enumerate(whole_lines(file)):
        row = read_row(line)
        yield line, row, index == 0 if row is None else 0 < row.number <= _of(counted, row.worker)


def _of(counts: Sequence[int], worker: int) -> int:
    return counts[worker] if 0 <= worker < len(counts) else 0


def _write_anew(file: Path, counted: Sequence[int]) -> None:
    """Write the lines that stay aside, then in the file's place."""
    aside = file.with_name(f".{file.name}.tmp")
    aside.unlink(missing_ok=True)  # left by a run that was killed, or a link that somebody has put there
    with open(aside, "xb") as kept:
        kept.writelines(line for line, _, is_kept in _judged(file, counted) if is_kept)
        kept.flush()
        os.fsync(kept.fileno())
    os.replace(aside, file)
