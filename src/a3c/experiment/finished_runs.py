"""Finished runs read back from their directories, and the mean curve of a group of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from a3c.errors import RunDirectoryError
from a3c.experiment.loggers.episodes_csv import COLUMNS, OLDER_COLUMNS
from a3c.experiment.run_directory import CONFIG, EPISODES, SUMMARY, read_json, regular
from a3c.experiment.saved_settings import read_config

Axis = Literal["episodes", "env_steps", "seconds"]

_WINDOW = 100  # episodes in the running mean
_GRID_POINTS = 400


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison needs to know of one run.

    Episodes are in the order in which they finished; those without a finite return are left out.
    """

    path: Path
    group: str
    env_steps: NDArray[np.float64]  # [E], T when each episode finished, never falling
    seconds: NDArray[np.float64]  # [E]
    returns: NDArray[np.float64]  # [E]
    ended_after_s: float
    solved_after_steps: float | None
    solved_after_s: float | None
    goal: float | None = None  # the mean return of 100 episodes that counts as solved

    def axis(self, name: Axis) -> NDArray[np.float64]:
        """[E]: where each episode lies on that axis."""
        return {
            "episodes": np.arange(1.0, len(self.returns) + 1),
            "env_steps": self.env_steps,
            "seconds": self.seconds,
        }[name]

    def smoothed(self) -> NDArray[np.float64]:
        """[E]: the mean return of the last 100 episodes; of all so far before the 100th."""
        total = np.concatenate(([0.0], np.cumsum(self.returns)))
        last = np.arange(1, len(self.returns) + 1)
        first = np.maximum(last - _WINDOW, 0)
        mean: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
        return mean


@dataclass(frozen=True)
class Curve:
    """A group's return over a common grid [X]; NaN where it is not defined."""

    grid: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]  # standard deviation over runs; 0 for a single one
    all_running: NDArray[np.bool_]  # every run had finished an episode, none had ended


@dataclass(frozen=True)
class GroupResult:
    """One row of a comparison. Medians are over all runs, one that was not solved counting as never.

    So a median is None, never, where half of the runs or more were not solved; leaving these out would flatter a
    method that fails.
    """

    group: str
    runs: int
    solved: int
    median_steps: float | None
    median_seconds: float | None


def read_run(path: Path) -> FinishedRun:
    """Read config.json, summary.json and episodes.csv.

    Raises RunDirectoryError, naming the directory, if the run is missing, unfinished or damaged.
    """
    try:
        config, summary = read_config(path)[0], read_json(path / SUMMARY)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; leave it out or train it anew") from None
    try:
        settings, solved_at = config["settings"], summary["solved_at"]
        group = settings["label"] or f"{settings['env']} {settings['algorithm']}"
        ended_after_s = float(summary["seconds"])
        solved_after_steps = None if solved_at is None else float(solved_at["env_steps"])
        solved_after_s = None if solved_at is None else float(solved_at["seconds"])
        goal = None if summary.get("solved_return") is None else float(summary["solved_return"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, f"{CONFIG} or {SUMMARY} lacks {error}") from None
    episodes = _read_episodes(path)
    episodes = episodes[np.isfinite(episodes["return"])]
    episodes = episodes[np.argsort(episodes["seconds"], kind="stable")]
    return FinishedRun(
        path=path,
        group=str(group),
        env_steps=np.maximum.accumulate(episodes["env_steps"]),
        seconds=episodes["seconds"],
        returns=episodes["return"],
        ended_after_s=ended_after_s,
        solved_after_steps=solved_after_steps,
        solved_after_s=solved_after_s,
        goal=goal,
    )


def group_result(group: str, runs: Sequence[FinishedRun]) -> GroupResult:
    """One group's row of the table."""
    steps = [math.inf if run.solved_after_steps is None else run.solved_after_steps for run in runs]
    seconds = [math.inf if run.solved_after_s is None else run.solved_after_s for run in runs]
    median_steps, median_seconds = statistics.median(steps), statistics.median(seconds)
    return GroupResult(
        group=group,
        runs=len(runs),
        solved=sum(math.isfinite(value) for value in seconds),
        median_steps=median_steps if math.isfinite(median_steps) else None,
        median_seconds=median_seconds if math.isfinite(median_seconds) else None,
    )


def group_curve(runs: Sequence[FinishedRun], axis: Axis) -> Curve:
    """The mean and the spread of a group's runs; see `compare` for what counts where a run has ended."""
    drawn = [run for run in runs if len(run.returns)]
    if not drawn:
        nothing = np.full(1, np.nan)
        return Curve(np.zeros(1), nothing, nothing, np.zeros(1, np.bool_))
    starts = [float(run.axis(axis)[0]) for run in drawn]
    ends = [float(run.axis(axis)[-1]) for run in drawn]
    grid = np.linspace(0.0, max(ends), _GRID_POINTS)
    values = np.stack(
        [
            np.interp(
                grid,
                run.axis(axis),
                smoothed := run.smoothed(),
                right=np.nan if run.solved_after_s is None else smoothed[-1],
            )
            for run in drawn
        ]
    )  # [R, X]
    values[:, grid < min(starts)] = np.nan
    spread = values.std(0, ddof=1) if len(drawn) > 1 else np.where(np.isnan(values[0]), np.nan, 0.0)
    return Curve(grid, values.mean(0), spread, (grid >= max(starts)) & (grid <= min(ends)))


def _read_episodes(path: Path) -> NDArray[Any]:
    """[E] records with a field for each column."""
    file = path / EPISODES
    try:
        head, _, rows = regular(file).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{EPISODES} cannot be read ({error})") from None
    columns = head.strip().split(",")
    if tuple(columns) not in (COLUMNS, OLDER_COLUMNS):
        raise _damaged(path, f"{EPISODES} does not begin with the columns {','.join(COLUMNS)}")
    kinds = [(column, np.float64) for column in columns]
    try:
        if not rows.strip():
            return np.zeros(0, kinds)
        return np.loadtxt(rows.splitlines(), dtype=kinds, delimiter=",", ndmin=1)
    except ValueError as error:
        why = str(error).partition(";")[0]  # NumPy's advice behind that is for who calls it
        raise _damaged(path, f"{EPISODES} has a bad row ({why})") from None


def _damaged(path: Path, what: str) -> RunDirectoryError:
    return RunDirectoryError(f"the run {path} is damaged: {what}; leave it out or train it anew")
