"""What a run has reached so far: counts, the mean return of the last 100 episodes, when it was solved."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from a3c.experiment.episode_rows import Row, number_of
from a3c.experiment.loggers.episodes_csv import COLUMNS
from a3c.experiment.told import ENOUGH_EPISODES
from a3c.types import MOST_WORKERS, FinishedEpisode, Report, Snapshot

if TYPE_CHECKING:
    from a3c.experiment.episode_rows import Counted

_LEAST_ELAPSED_S = 0.001  # a rate over less is noise


class Progress:
    """Adds up reports and turns them into the lines that are logged.

    Args:
        started_at: when the run was called, seconds since the epoch; `seconds` count from here.
        solved_return: the mean over 100 episodes that counts as solved; None if nothing says.
    """

    def __init__(self, started_at: float, solved_return: float | None) -> None:
        self.started_at = started_at
        self.solved_return = solved_return
        self.training_since = time.time()
        self.training_until: float | None = None
        self.episodes = 0
        self.dropped_rollouts = 0
        self.worker_restarts = 0
        self.solved_at: dict[str, float] | None = None
        self.best_return_mean_100: float | None = None
        self._last_returns: deque[float] = deque(maxlen=ENOUGH_EPISODES)
        self._reported: dict[int, int] = {}  # the number of each worker's last episode
        self._given_up: dict[int, int] = {}  # up to which number no report is waited for any more
        self._trained_s = 0.0  # before this process took the run up
        self._since_line = Report()
        self._line_time = self.training_since
        self._line_env_steps = 0

    @property
    def seconds(self) -> float:
        """Since the run was called."""
        return time.time() - self.started_at

    @property
    def return_mean(self) -> float | None:
        """Mean return of the last 100 episodes, or of all where there are fewer; None before there is one."""
        return sum(self._last_returns) / len(self._last_returns) if self._last_returns else None

    @property
    def return_mean_100(self) -> float | None:
        """Mean return of the last 100 episodes, None before there are as many."""
        return self.return_mean if len(self._last_returns) == ENOUGH_EPISODES else None

    def state(self) -> dict[str, Any]:
        """What a run that is taken up later needs to go on counting, as JSON."""
        return {
            "seconds": self.seconds,
            "training_seconds": self._training_seconds,
            "episodes": self.episodes,
            "dropped_rollouts": self.dropped_rollouts,
            "worker_restarts": self.worker_restarts,
            "solved_at": self.solved_at,
            "solved_return": self.solved_return,
            "return_mean_100": self.return_mean_100,
            "return_mean": self.return_mean,
            "best_return_mean_100": self.best_return_mean_100,
            "last_returns": list(self._last_returns),
            "reported": [self._reported.get(worker, 0) for worker in range(max(self._reported, default=-1) + 1)],
        }

    def restore(self, state: Mapping[str, Any], env_steps: int) -> None:
        """Go on from what `state` gave, at so many steps; the time in between does not count."""
        self.started_at -= float(state["seconds"])
        self._trained_s = float(state["training_seconds"])
        self.episodes, self.dropped_rollouts = int(state["episodes"]), int(state["dropped_rollouts"])
        self.worker_restarts = int(state["worker_restarts"])
        if state["solved_at"] is not None and state["solved_return"] == self.solved_return:  # of the same goal
            at = state["solved_at"]
            self.solved_at = {"env_steps": int(at["env_steps"]), "seconds": float(at["seconds"])}
        best = state["best_return_mean_100"]
        self.best_return_mean_100 = None if best is None else float(best)
        self._last_returns.extend(float(value) for value in state["last_returns"])
        reported = state.get("reported", [])
        if not isinstance(reported, list) or len(reported) > MOST_WORKERS:
            raise ValueError(f"its 'reported' is no list of at most {MOST_WORKERS:,}")
        self._reported = {worker: int(number) for worker, number in enumerate(reported)}
        self._line_env_steps = env_steps

    def has_reports_of(self, counted: Sequence[int]) -> bool:
        """Whether so many episodes of each worker have been reported, died with it, or are not waited for any more."""
        return all(
            max(self._reported.get(worker, 0), self._given_up.get(worker, 0)) >= number
            for worker, number in enumerate(counted)
        )

    def give_up(self, counted: Sequence[int]) -> None:
        """Wait for the reports of so many episodes of each worker no more."""
        self._given_up = dict(enumerate(counted))

    def settle(self, counted: Counted, rows: Iterable[Row] | None) -> bool:
        """After `restore`: make up for reports that had overtaken the checkpoint, and for those that came after it.

        Args:
            counted: the episodes that the checkpoint counts.
            rows: of just these; None if there are no rows with numbers, and all is to stay as it was.

        Returns whether rows are missing that had been there; then what was reached by these stays as it was, too.
        """
        reported, self._reported = self._reported, dict(enumerate(counted.highest))
        if rows is None:
            return False
        undone = sum(max(0, number - number_of(counted.highest, worker)) for worker, number in reported.items())
        undone += sum(max(0, min(last, reported.get(whose, 0)) - first + 1) for whose, first, last in counted.missing)
        anew, late, there = Progress(self.started_at, self.solved_return), list[Row](), 0
        for row in rows:
            anew._count(row)
            if row.number <= reported.get(row.worker, 0):
                there += 1
            else:
                late.append(row)
        are_missing = there < self.episodes - undone
        if undone and not are_missing:
            self.episodes, self._last_returns = anew.episodes, anew._last_returns
            self.solved_at, self.best_return_mean_100 = anew.solved_at, anew.best_return_mean_100
        else:
            for row in late:
                self._count(row)
        return are_missing

    @property
    def _training_seconds(self) -> float:
        return self._trained_s + (self.training_until or time.time()) - self.training_since

    def end_training(self) -> None:
        """Say that no more steps will come; what the run does after that takes nothing from its speed."""
        self.training_until = time.time()

    def add(self, report: Report) -> list[dict[str, Any]]:
        """Count a report; returns one row for each of its episodes."""
        self._since_line.merge(report)
        self.dropped_rollouts += len(report.dropped)
        self.worker_restarts += len(report.failures)
        for worker, number in report.deaths.items():  # what it has not reported died with it
            self._reported[worker] = max(self._reported.get(worker, 0), number)
        return [self._add_episode(episode) for episode in report.episodes]

    def line(self, counters: Snapshot, workers_alive: int) -> dict[str, Any]:
        """One line of metrics: totals, and means over the updates since the line before."""
        now = self.training_until or time.time()
        elapsed, steps = now - self._line_time, counters.env_steps - self._line_env_steps
        line = {
            "env_steps": counters.env_steps,
            "seconds": round(now - self.started_at, 4),
            "updates": counters.version,
            "episodes": self.episodes,
            "return_mean_100": self.return_mean_100,
            "return_mean": self.return_mean,
            # T goes back where a parameter server is started anew from what it was some seconds before.
            "steps_per_second": round(max(steps, 0) / elapsed, 1) if elapsed > _LEAST_ELAPSED_S else None,
            **self._since_line.means(),
            "workers_alive": workers_alive,
            "dropped_rollouts": self.dropped_rollouts,
            "worker_restarts": self.worker_restarts,
        }
        self._since_line, self._line_time, self._line_env_steps = Report(), now, counters.env_steps
        return line

    def steps_per_second(self, counters: Snapshot) -> float:
        """Of the whole training so far."""
        return round(counters.env_steps / max(self._training_seconds, 1e-9), 1)

    def summary(self, counters: Snapshot, exit_reason: str) -> dict[str, Any]:
        """What the run came to."""
        return {
            "env_steps": counters.env_steps,
            "seconds": round(self.seconds, 4),
            "episodes": self.episodes,
            "updates": counters.version,
            "return_mean_100": self.return_mean_100,
            "return_mean": self.return_mean,
            "best_return_mean_100": self.best_return_mean_100,
            "solved_at": self.solved_at,
            "solved_return": self.solved_return,
            "steps_per_second": self.steps_per_second(counters),
            "dropped_rollouts": self.dropped_rollouts,
            "worker_restarts": self.worker_restarts,
            # Whose report died with a worker; in a round that never closed none is counted.
            "lost_episodes": max(0, counters.episodes - self.episodes),
            "exit_reason": exit_reason,
        }

    def _count(self, episode: Row) -> None:
        self.episodes += 1
        if math.isfinite(episode.episode_return):  # a NaN reward must not hide the next hundred episodes
            self._last_returns.append(episode.episode_return)
        mean = self.return_mean_100
        if mean is not None:
            if self.best_return_mean_100 is None or mean > self.best_return_mean_100:
                self.best_return_mean_100 = mean
            if self.solved_at is None and self.solved_return is not None and mean >= self.solved_return:
                self.solved_at = {"env_steps": episode.env_steps, "seconds": episode.seconds}

    def _add_episode(self, episode: FinishedEpisode) -> dict[str, Any]:
        seconds = round(episode.time - self.started_at, 4)
        row = Row(episode.worker, episode.env_steps, seconds, episode.episode_return, episode.length, episode.number)
        self._count(row)
        self._reported[episode.worker] = max(self._reported.get(episode.worker, 0), episode.number)
        return {"episode": self.episodes, **dict(zip(COLUMNS, row, strict=True))}
