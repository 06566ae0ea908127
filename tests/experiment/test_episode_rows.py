"""Which rows a checkpoint counts: those that it does, and each once, however often a run is taken up from it."""

import os
import time

import pytest

from a3c.errors import RunDirectoryError
from a3c.experiment import run_directory
from a3c.experiment.episode_rows import Counted, Row, keep_counted, read_rows
from a3c.experiment.progress import Progress
from a3c.types import FinishedEpisode, Report

HEADER = "worker,env_steps,seconds,return,length,worker_episode\n"


def row(worker, number):
    """One whose return tells whose it is."""
    return f"{worker},{10 * number},{number}.5,{10 * worker + number}.0,7,{number}\n"


def returns(file):
    return [each.episode_return for each in read_rows(file)]


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        (tmp_path / "episodes.csv").write_text(HEADER + "".join(lines))
        return tmp_path / "episodes.csv"

    return write


def test_rows_are_kept_by_what_their_workers_had_pushed(written, tmp_path):
    file = written(row(0, 1), row(1, 1), row(1, 2), row(1, 3), row(0, 2), row(0, 3))
    os.chmod(file, 0o640)
    for _ in range(2):  # however often
        removed = keep_counted(file, Counted([2, 1]))
        assert file.read_text() == HEADER + row(0, 1) + row(1, 1) + row(0, 2)
    assert removed == (0, 0)
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o640


def test_rows_of_what_a_store_has_lost_go(written):
    file = written(*(row(0, number) for number in range(1, 8)), row(1, 3))
    keep_counted(file, Counted([6, 3], [(0, 2, 3), (0, 5, 5), (2, 1, 9)]))
    assert returns(file) == [1.0, 4.0, 6.0, 13.0]


def test_what_only_has_to_be_cut_off_is(written):
    file = written(row(0, 1), row(1, 1), row(0, 2), row(1, 2), "0,30,3.")
    inode = file.stat().st_ino
    keep_counted(file, Counted([1, 1]))
    assert file.read_text() == HEADER + row(0, 1) + row(1, 1)
    assert file.stat().st_ino == inode  # in place: a full disk has no room for another


def test_what_is_no_row_and_what_no_known_worker_has_written_go(written):
    file = written(
        row(0, 1),
        row(2, 1),
        row(-1, 1),
        "what is this\n",
        "0,1,1,nan,7,2\n",
        "\n",
        row(0, 0),
        "0,1,inf,1,7,3\n",
        "0," * 999 + "\n",
    )
    assert keep_counted(file, Counted([5])) == (3, 4)
    assert file.read_text() == HEADER + row(0, 1) + "0,1,1,nan,7,2\n"


def test_a_line_without_an_end_is_refused(written, monkeypatch):
    monkeypatch.setattr(run_directory, "_LONGEST_LINE", 1_000)
    with pytest.raises(RunDirectoryError, match=r"episodes.csv holds a line of more than 1,000 bytes"):
        keep_counted(written(row(0, 1), "x" * 2_000), Counted([5]))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_while_rows_are_written_anew_costs_none(written, tmp_path, monkeypatch, call):
    file = written(row(0, 1), row(0, 5), row(0, 2))
    (tmp_path / ".episodes.csv.tmp").write_text("half of wh")  # left by a kill
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(RunDirectoryError, match="No space left"):
            keep_counted(file, Counted([2]))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    keep_counted(file, Counted([2]))
    assert returns(file) == [1.0, 2.0]


def episode(worker, number, value=None):
    value = 10.0 * worker + number if value is None else value
    return FinishedEpisode(worker, 10 * number, time.time(), value, 7, number)


def taken_up(cut, solved_return=None):
    progress = Progress(time.time(), solved_return)
    progress.restore(cut.state(), 100)
    return progress


def test_progress_settles_what_came_too_early_and_too_late():
    # Worker 0 had pushed 2 and reported 1 when the checkpoint was cut, worker 1 had pushed 1 and reported 2.
    cut = Progress(time.time(), None)
    cut.add(Report(episodes=[episode(0, 1), episode(1, 1), episode(1, 2)]))
    assert cut.has_reports_of([1, 1])
    assert cut.has_reports_of([0, 2, 0])
    assert not cut.has_reports_of([2, 1])
    assert not cut.has_reports_of([1, 1, 1])
    rows = [Row(0, 10, 1.5, 1.0, 7, 1), Row(1, 10, 1.5, 11.0, 7, 1), Row(0, 20, 2.5, 2.0, 7, 2)]
    for _ in range(2):
        progress = taken_up(cut)
        assert not progress.settle(Counted([2, 1]), iter(rows))
        assert progress.episodes == 3
        assert progress.return_mean == pytest.approx((1 + 11 + 2) / 3)
        assert progress.state()["reported"] == [2, 1]
        assert taken_up(cut).settle(Counted([2, 1]), rows[1:])  # a row is gone that was there
        progress = taken_up(cut)
        assert not progress.settle(Counted([2, 1]), None)  # by its size: it has what it had
        assert progress.episodes == 3
        assert progress.state()["reported"] == [2, 1]


def test_what_a_life_of_a_worker_has_not_reported_is_not_waited_for():
    progress = Progress(time.time(), None)
    progress.add(Report(episodes=[episode(0, 1), episode(0, 2)]))
    assert not progress.has_reports_of([4])
    progress.add(Report(deaths={0: 4}))
    assert progress.has_reports_of([4])
    progress.add(Report(deaths={0: 3}))
    assert progress.has_reports_of([4])


def test_what_is_given_up_is_not_waited_for_and_still_counts_when_it_comes():
    progress = Progress(time.time(), None)
    progress.give_up([2, 1])
    assert progress.has_reports_of([2, 1])
    assert not progress.has_reports_of([3, 1])
    progress.add(Report(episodes=[episode(0, 1)]))
    assert progress.state()["reported"] == [1]


def test_a_run_may_be_solved_by_what_came_late():
    cut = Progress(time.time(), solved_return=5.0)
    cut.add(Report(episodes=[episode(0, number) for number in range(1, 100)]))
    assert cut.solved_at is None
    progress = taken_up(cut, 5.0)
    there = [Row(0, number, float(number), 3.0, 7, number) for number in range(1, 100)]
    assert not progress.settle(Counted([100]), [*there, Row(0, 1_000, 99.5, 100.0, 7, 100)])
    assert progress.episodes == 100
    assert progress.solved_at == {"env_steps": 1_000, "seconds": 99.5}


def test_a_run_is_not_solved_by_what_is_undone():
    cut = Progress(time.time(), solved_return=5.0)
    values = [4.0] * 50 + [float("nan")] + [4.0] * 50 + [900.0]
    cut.add(Report(episodes=[episode(0, number, value) for number, value in enumerate(values, 1)]))
    assert cut.solved_at is not None
    assert cut.best_return_mean_100 > 5
    progress = taken_up(cut, 5.0)
    rows = [Row(0, 10 * number, 1.0, value, 7, number) for number, value in enumerate(values[:-1], 1)]
    assert not progress.settle(Counted([101]), rows)
    assert progress.solved_at is None
    assert progress.best_return_mean_100 == progress.return_mean_100 == 4.0
    assert progress.episodes == 101


def test_episodes_that_a_store_has_lost_are_not_counted():
    cut = Progress(time.time(), None)
    cut.add(Report(episodes=[episode(0, number) for number in (1, 2, 3, 5)]))
    progress = taken_up(cut)
    rows = [Row(0, 10 * number, 1.0, float(number), 7, number) for number in (1, 5)]
    assert not progress.settle(Counted([5], [(0, 2, 3)]), rows)
    assert progress.episodes == 2
    assert progress.return_mean == 3.0


def test_what_was_reached_stays_where_its_rows_are_gone():
    cut = Progress(time.time(), solved_return=5.0)
    cut.add(Report(episodes=[episode(0, number) for number in range(1, 151)]))
    assert cut.solved_at is not None
    progress = taken_up(cut, 5.0)
    assert progress.settle(Counted([149]), [Row(0, 1_490, 149.5, 149.0, 7, 149)])
    assert (progress.solved_at, progress.best_return_mean_100) == (cut.solved_at, cut.best_return_mean_100)
    assert progress.episodes == 150


@pytest.mark.parametrize("reported", [[0] * 5_000, "12", [[]], [None]], ids=lambda value: str(value)[:9])
def test_what_are_no_numbers_of_reports_is_refused(reported):
    with pytest.raises((ValueError, TypeError)):
        Progress(time.time(), None).restore(Progress(time.time(), None).state() | {"reported": reported}, 0)
