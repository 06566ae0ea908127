"""What a run has reached so far, counted by hand."""

import math

import pytest

from a3c.experiment.progress import Progress
from a3c.types import FinishedEpisode, Report, Snapshot

START = 1000.0


def report(*returns, updates=1):
    episodes = [FinishedEpisode(0, 10 * i, START + 1 + i, value, 5, i + 1) for i, value in enumerate(returns)]
    return Report(updates=updates, episodes=episodes)


def test_solved_means_the_mean_of_100_episodes_and_nothing_before():
    progress = Progress(START, solved_return=5.0)
    progress.add(report(*[10.0] * 99))
    assert progress.return_mean_100 is None
    assert progress.solved_at is None
    progress.add(report(0.0))
    assert progress.return_mean_100 == pytest.approx(9.9)
    assert progress.solved_at == {"env_steps": 0, "seconds": 1.0}


def test_solved_at_is_the_first_time():
    progress = Progress(START, solved_return=5.0)
    progress.add(report(*[0.0] * 100, *[10.0] * 100))
    # The mean reaches 5 with the 50th ten, episode 150, index 149.
    assert progress.solved_at == {"env_steps": 1490, "seconds": 150.0}
    progress.add(report(*[0.0] * 100))
    assert progress.return_mean_100 == 0.0
    assert progress.best_return_mean_100 == 10.0
    assert progress.solved_at["env_steps"] == 1490


def test_the_best_mean_may_be_zero_or_less():
    progress = Progress(START, solved_return=0.0)
    progress.add(report(*[0.0] * 100))
    progress.add(report(-1.0))
    assert progress.best_return_mean_100 == 0.0
    assert progress.solved_at is not None


def test_a_return_that_is_not_finite_hides_nothing():
    progress = Progress(START, solved_return=None)
    rows = progress.add(report(*[1.0] * 60, math.nan, *[1.0] * 40))
    assert math.isnan(rows[60]["return"])
    assert progress.episodes == 101
    assert progress.return_mean_100 == 1.0


def test_a_line_holds_means_since_the_line_before():
    progress = Progress(START, solved_return=None)
    for value in (1.0, 3.0):
        progress.add(Report(updates=1, sums={"entropy": value}))
    assert progress.line(Snapshot(2, 100, 0, False), 2)["entropy"] == 2.0
    progress.add(Report(updates=2, sums={"entropy": 8.0}))
    line = progress.line(Snapshot(4, 150, 0, False), 1)
    assert (line["entropy"], line["updates"], line["env_steps"], line["workers_alive"]) == (4.0, 4, 150, 1)
    empty = progress.line(Snapshot(4, 150, 0, False), 0)
    assert empty["entropy"] is None
    assert empty["steps_per_second"] in (None, 0.0)


def test_what_a_run_does_after_its_training_takes_nothing_from_its_speed(monkeypatch):
    now = START
    monkeypatch.setattr("time.time", lambda: now)
    progress = Progress(START, solved_return=None)
    now += 10
    progress.end_training()
    now += 90
    summary = progress.summary(Snapshot(4, 150, 0, False), "total_env_steps")
    assert (summary["steps_per_second"], summary["seconds"]) == (15.0, 100.0)


def test_rows_are_numbered_through():
    progress = Progress(START, solved_return=None)
    rows = progress.add(report(1.0, 2.0)) + progress.add(report(3.0))
    assert [row["episode"] for row in rows] == [1, 2, 3]
    line = {"episode": 2, "worker": 0, "env_steps": 10, "seconds": 2.0, "return": 2.0, "length": 5}
    assert rows[1] == line | {"worker_episode": 2}
