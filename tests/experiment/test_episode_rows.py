"""Which rows a checkpoint counts: those that it does, and each once, however often a run is taken up from it."""

import time

import pytest

from a3c.errors import RunDirectoryError
from a3c.experiment import run_directory
from a3c.experiment.episode_rows import Kept, Row, keep_counted
from a3c.experiment.progress import Progress
from a3c.types import FinishedEpisode, Report

HEADER = "worker,env_steps,seconds,return,length,worker_episode\n"


def row(worker, number):
    """One whose return tells whose it is."""
    return f"{worker},{10 * number},{number}.5,{10 * worker + number}.0,7,{number}\n"


def returns(path):
    return [float(line.split(",")[3]) for line in (path / "episodes.csv").read_text().splitlines()[1:]]


def written(path, *lines):
    (path / "episodes.csv").write_text(HEADER + "".join(lines))


def test_rows_are_kept_by_what_their_workers_had_pushed(tmp_path):
    # Worker 0 had pushed 2 and reported 1 when the checkpoint was cut, worker 1 had pushed 1 and reported 2.
    written(tmp_path, row(0, 1), row(1, 1), row(1, 2), row(1, 3), row(0, 2), row(0, 3))
    for _ in range(2):  # however often
        kept = keep_counted(tmp_path, [2, 1], [1, 2])
        assert kept == Kept([Row(0, 20, 2.5, 2.0, 7, 2)], [1.0, 11.0])
        assert returns(tmp_path) == [1.0, 11.0, 2.0]
    assert not list(tmp_path.glob(".*"))


def test_what_only_has_to_be_cut_off_is(tmp_path):
    written(tmp_path, row(0, 1), row(1, 1), row(0, 2), row(1, 2), "0,30,3.")
    inode = (tmp_path / "episodes.csv").stat().st_ino
    assert keep_counted(tmp_path, [1, 1], [1, 1]) == Kept([], [1.0, 11.0])
    assert (tmp_path / "episodes.csv").read_text() == HEADER + row(0, 1) + row(1, 1)
    assert (tmp_path / "episodes.csv").stat().st_ino == inode  # in place: a full disk has no room for another


def test_of_workers_that_the_checkpoint_does_not_know_nothing_is_kept(tmp_path):
    written(tmp_path, row(0, 1), row(2, 1), row(-1, 1), "what is this\n", "0,1,1,nan,7,2\n", "\n", row(0, 0))
    keep_counted(tmp_path, [5], [5])
    assert (tmp_path / "episodes.csv").read_text() == HEADER + row(0, 1) + "0,1,1,nan,7,2\n"


def test_rows_without_numbers_are_left_to_the_sizes(tmp_path):
    assert keep_counted(tmp_path, [5], [5]) is None  # there is no file
    (tmp_path / "episodes.csv").write_text(old := "worker,env_steps,seconds,return,length\n0,10,0.5,1.0,7\n")
    assert keep_counted(tmp_path, [5], [5]) is None
    assert (tmp_path / "episodes.csv").read_text() == old


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "_LONGEST_LINE", 1_000)
    written(tmp_path, row(0, 1), "x" * 2_000)
    with pytest.raises(RunDirectoryError, match=r"episodes.csv holds a line of more than 1,000 bytes"):
        keep_counted(tmp_path, [5], [5])


def test_a_kill_while_rows_are_written_anew_costs_none(tmp_path, monkeypatch):
    written(tmp_path, row(0, 1), row(0, 5), row(0, 2))
    (tmp_path / ".episodes.csv.tmp").write_text("half of wh")  # left by such a kill
    keep_counted(tmp_path, [2], [1])
    assert returns(tmp_path) == [1.0, 2.0]


def episode(worker, number):
    return FinishedEpisode(worker, 10 * number, time.time(), 10.0 * worker + number, 7, number)


def test_progress_settles_what_came_too_early_and_too_late():
    cut = Progress(time.time(), None)
    cut.add(Report(episodes=[episode(0, 1), episode(1, 1), episode(1, 2)]))
    assert cut.has_reports_of([1, 1])
    assert cut.has_reports_of([0, 2, 0])
    assert not cut.has_reports_of([2, 1])
    assert not cut.has_reports_of([1, 1, 1])
    kept = Kept([Row(0, 20, 2.5, 2.0, 7, 2)], [1.0, 11.0])
    for _ in range(2):
        taken_up = Progress(time.time(), solved_return=None)
        taken_up.restore(cut.state(), 100)
        assert taken_up.settle([2, 1], kept) == 1
        assert taken_up.episodes == 3
        assert taken_up.return_mean == pytest.approx((1 + 11 + 2) / 3)
        assert taken_up.state()["reported"] == [2, 1]


def test_a_run_may_be_solved_by_what_came_late():
    cut = Progress(time.time(), solved_return=5.0)
    cut.add(Report(episodes=[episode(0, number) for number in range(1, 100)]))
    assert cut.solved_at is None
    taken_up = Progress(time.time(), solved_return=5.0)
    taken_up.restore(cut.state(), 100)
    assert taken_up.settle([100], Kept([Row(0, 1_000, 99.5, 100.0, 7, 100)], [])) == 0
    assert taken_up.episodes == 100
    assert taken_up.solved_at == {"env_steps": 1_000, "seconds": 99.5}
