"""Where a run's lines go: one writer for all workers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from a3c.config import TrainConfig
from a3c.experiment import run_directory
from a3c.experiment.episode_rows import read_rows
from a3c.experiment.loggers import Logger, LoggerList, NullLogger
from a3c.experiment.loggers.background import BackgroundLogger
from a3c.experiment.loggers.episodes_csv import EpisodesCsvLogger
from a3c.experiment.loggers.jsonl import JsonlLogger
from a3c.experiment.loggers.tensorboard import Line, TensorBoardLogger
from a3c.experiment.loggers.wandb import WandbLogger

_LONGEST_LINE = 2**20  # bytes of metrics, which are some hundred


class RunLoggers:
    """Owns the sinks of one run: JSONL and CSV always, TensorBoard and W&B as asked for.

    The heavy ones load after the first update, in a thread, and are dropped with a message if they fail. The files
    are tried again and again, and are begun anew where they have vanished.

    Args:
        run_dir: the run's directory.
        config: its settings.
        record: what config.json holds, for W&B.
        message: shows a line to the user.
        resumed_at: for a run that is taken up: T.
        since: if it had been killed, from when its seconds count, in seconds since the epoch.
        ours: says whether the directory is still this run's.
    """

    def __init__(
        self,
        run_dir: Path,
        config: TrainConfig,
        record: Mapping[str, Any],
        message: Callable[[str], None],
        resumed_at: int | None = None,
        since: float | None = None,
        ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._run_dir = run_dir
        heavy: list[BackgroundLogger] = []
        if config.tensorboard:
            place = run_dir / run_directory.TENSORBOARD
            history = None if since is None else history_of(run_dir, run_directory.sizes(run_dir), since)
            heavy.append(BackgroundLogger("TensorBoard", lambda: TensorBoardLogger(place, resumed_at, history, ours)))
        if config.wandb:
            heavy.append(
                BackgroundLogger(
                    "Weights & Biases",
                    lambda: WandbLogger(
                        config.wandb_project,
                        run_dir.name,
                        record["settings"],
                        run_dir,
                        config.wandb_mode,
                        message,
                        record["id"],
                    ),
                )
            )
        self._episodes_csv = EpisodesCsvLogger(run_dir / run_directory.EPISODES, message)
        self._episodes_file = LoggerList([self._episodes_csv], message)
        self._metrics_file = LoggerList([JsonlLogger(run_dir / run_directory.METRICS, message)], message)
        self._in_threads = heavy
        self._heavy: Logger = LoggerList(heavy, message) if heavy else NullLogger()

    def episode(self, row: Mapping[str, Any]) -> None:
        """Log one finished episode."""
        self._episodes_file.write(row["env_steps"], row)
        self._heavy.write(row["env_steps"], row)

    def line(self, metrics: Mapping[str, Any]) -> None:
        """Log one line of metrics; what was logged before it is on disk afterwards."""
        self._metrics_file.write(metrics["env_steps"], metrics)
        self._episodes_csv.flush()
        self._heavy.write(metrics["env_steps"], metrics)

    def flush_episodes(self) -> None:
        """Bring the episodes so far to the disk."""
        self._episodes_csv.flush()

    def sizes(self) -> dict[str, int]:
        """How many bytes the run's files have when all that was logged so far is in them."""
        self._episodes_csv.flush()
        return run_directory.sizes(self._run_dir)

    def abandon(self) -> None:
        """Write nothing more into a directory that is another run's by now."""
        for logger in self._in_threads:
            logger.abandon()

    def close(self) -> None:
        """Finish all sinks."""
        for logger in (self._episodes_file, self._metrics_file, self._heavy):
            logger.close()


def history_of(run_dir: Path, sizes: Mapping[str, int], since: float) -> Iterator[Line]:
    """The lines in the first so many bytes of a run's files, as sinks take them; first those of metrics."""
    metrics, episodes = run_directory.METRICS, run_directory.EPISODES
    with contextlib.suppress(FileNotFoundError):  # it has vanished meanwhile
        for text in run_directory.whole_lines(run_dir / metrics, sizes.get(metrics, 0)):
            with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
                line = json.loads(text[:_LONGEST_LINE])
                yield since + float(line["seconds"]), int(line["env_steps"]), line
    with contextlib.suppress(FileNotFoundError):
        for number, row in enumerate(read_rows(run_dir / episodes, sizes.get(episodes, 0)), 1):
            episode = {"episode": number, "return": row.episode_return, "length": row.length}
            yield since + row.seconds, row.env_steps, episode
