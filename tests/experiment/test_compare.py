import json
import subprocess
import sys

import numpy as np
import pytest

from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.compare import Comparison, GroupResult, compare, group_result
from a3c.experiment.finished_runs import FinishedRun, group_curve, read_run

HEADER = "worker,env_steps,seconds,return,length\n"


def write_run(path, rows, *, solved_at=None, seconds=9.0, **settings):
    path.mkdir(parents=True)
    settings = {"env": "CartPole-v1", "algorithm": "a3c", "label": None, "seed": 0} | settings
    (path / "config.json").write_text(json.dumps({"settings": settings}))
    (path / "summary.json").write_text(json.dumps({"seconds": seconds, "solved_at": solved_at}))
    (path / "episodes.csv").write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def rising(count=150, rate=100.0):
    return [(k % 2, 20 * k, 3 + 20 * k / rate, float(k), 20) for k in range(1, count + 1)]


def finished(returns, seconds=None, solved=None, group="g", tmp=None):
    returns = np.array(returns, np.float64)
    seconds = np.arange(1.0, len(returns) + 1) if seconds is None else np.array(seconds, np.float64)
    return FinishedRun(
        path=tmp,
        group=group,
        env_steps=10 * seconds,
        seconds=seconds,
        returns=returns,
        ended_after_s=float(seconds[-1]) if len(seconds) else 1.0,
        solved_after_steps=None if solved is None else 10.0 * solved,
        solved_after_s=solved,
    )


class TestReadRun:
    def test_reads_the_three_files(self, tmp_path):
        run = read_run(write_run(tmp_path / "r", rising(), solved_at={"env_steps": 2800, "seconds": 5.5}))
        assert run.group == "CartPole-v1 a3c"
        assert (run.ended_after_s, run.solved_after_s, run.solved_after_steps) == (9.0, 5.5, 2800.0)
        np.testing.assert_array_equal(run.returns, np.arange(1, 151))
        np.testing.assert_array_equal(run.axis("episodes"), np.arange(1, 151))
        np.testing.assert_array_equal(run.axis("env_steps"), 20 * np.arange(1, 151))

    def test_a_label_names_the_group(self, tmp_path):
        assert read_run(write_run(tmp_path / "r", rising(), label="mine")).group == "mine"

    def test_episodes_are_put_in_the_order_they_finished_in(self, tmp_path):
        rows = [(0, 40, 2.0, 1.0, 5), (1, 30, 1.0, 2.0, 5), (0, 35, 3.0, "nan", 5), (1, 35, 4.0, 4.0, 5)]
        run = read_run(write_run(tmp_path / "r", rows))
        np.testing.assert_array_equal(run.returns, [2, 1, 4])  # the NaN is left out
        np.testing.assert_array_equal(run.env_steps, [30, 40, 40])  # T as another worker saw it never falls

    def test_a_run_without_an_episode(self, tmp_path):
        run = read_run(write_run(tmp_path / "r", []))
        assert len(run.returns) == len(run.smoothed()) == 0

    @pytest.mark.parametrize("name", ["config.json", "summary.json", "episodes.csv"])
    @pytest.mark.parametrize(
        "content",
        [
            None,
            "",
            "{",
            "[]",
            "{}",
            '{"settings": 3, "solved_at": 3}',
            HEADER + "1,2,3\n",
            HEADER + "1,2,x,4,5\n",
            "\xff",
        ],
    )
    def test_a_damaged_run_is_named_in_one_line_with_a_fix(self, tmp_path, name, content):
        path = write_run(tmp_path / "some-run", rising())
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(RunDirectoryError) as caught:
            read_run(path)
        message = str(caught.value)
        assert str(path) in message
        assert name in message
        assert "\n" not in message
        assert message.endswith("leave it out or train it anew")

    def test_a_run_that_is_not_there(self, tmp_path):
        with pytest.raises(RunDirectoryError, match="there is no run .*nowhere"):
            read_run(tmp_path / "nowhere")


class TestCurves:
    def test_the_running_mean_against_a_slow_one(self):
        returns = np.random.default_rng(0).normal(size=257)
        slow = [np.mean(returns[max(0, k - 99) : k + 1]) for k in range(257)]
        np.testing.assert_allclose(finished(returns).smoothed(), slow, atol=1e-12)

    def test_mean_and_spread_of_two_runs(self):
        curve = group_curve([finished([1.0] * 5), finished([3.0] * 5)], "seconds")
        inside = curve.grid >= 1
        np.testing.assert_allclose(curve.mean[inside], 2)
        np.testing.assert_allclose(curve.spread[inside], np.sqrt(2))
        assert np.isnan(curve.mean[~inside]).all()  # no episode had finished yet
        np.testing.assert_array_equal(curve.all_running, inside)

    def test_one_run_has_no_spread(self):
        curve = group_curve([finished([1.0, 1.0])], "seconds")
        assert set(curve.spread[curve.grid >= 1]) == {0.0}

    def test_a_solved_run_counts_on_at_its_last_value(self):
        curve = group_curve([finished([4.0] * 5, solved=5.0), finished([2.0] * 10, solved=10.0)], "seconds")
        assert curve.grid[-1] == 10
        np.testing.assert_allclose(curve.mean[curve.grid >= 1], 3)
        np.testing.assert_array_equal(curve.all_running, (curve.grid >= 1) & (curve.grid <= 5))

    def test_a_run_that_starts_late_counts_at_its_first_value_until_then(self):
        late = finished([1.0, 1.0, 1.0], seconds=[5.0, 6.0, 10.0])
        curve = group_curve([finished([3.0] * 10), late], "seconds")
        np.testing.assert_allclose(curve.mean[curve.grid >= 1], 2)
        assert np.isnan(curve.mean[curve.grid < 1]).all()
        np.testing.assert_array_equal(curve.all_running, curve.grid >= 5)

    def test_the_mean_ends_where_an_unsolved_run_ends(self):
        curve = group_curve([finished([4.0] * 5), finished([2.0] * 10, solved=10.0)], "env_steps")
        assert np.isnan(curve.mean[curve.grid > 50]).all()
        np.testing.assert_allclose(curve.mean[(curve.grid >= 10) & (curve.grid <= 50)], 3)

    def test_runs_without_episodes_have_no_say(self):
        curve = group_curve([finished([]), finished([2.0] * 3)], "episodes")
        np.testing.assert_allclose(curve.mean[curve.grid >= 1], 2)
        assert np.isnan(group_curve([finished([])], "episodes").mean).all()


class TestTable:
    def test_unsolved_runs_count_as_never(self):
        runs = [finished([1.0], solved=s) for s in (3.0, 1.0, None)]
        assert group_result("g", runs) == GroupResult("g", 3, 2, 30.0, 3.0)
        assert group_result("g", runs[:1] + runs[2:]) == GroupResult("g", 2, 1, None, None)

    def test_as_text(self, tmp_path):
        rows = (GroupResult("a3c", 5, 5, 123456.0, 4.26), GroupResult("a longer name", 3, 1, None, None))
        assert str(Comparison(rows, tmp_path / "x.png")).splitlines() == [
            "group          runs  solved  median steps  median seconds",
            "a3c               5  5 of 5       123,456             4.3",
            "a longer name     3  1 of 3         never           never",
            f"time to solve, unsolved runs counting as never; picture: {tmp_path / 'x.png'}",
        ]


class TestCompare:
    @pytest.fixture
    def runs(self, tmp_path):
        solved = {"env_steps": 2800, "seconds": 5.5}
        return [
            write_run(tmp_path / "a", rising(), solved_at=solved),
            write_run(tmp_path / "b", rising(170), solved_at=solved | {"seconds": 6.5}),
            write_run(tmp_path / "c", rising(120, rate=50.0), algorithm="a2c"),
            write_run(tmp_path / "d", [], label="empty"),
        ]

    @pytest.mark.parametrize(
        ("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")]
    )
    def test_draws_one_picture_and_returns_the_groups(self, tmp_path, runs, suffix, magic):
        out = tmp_path / "new" / f"picture{suffix}"
        result = compare([str(run) for run in runs], str(out))
        assert out.read_bytes().startswith(magic)
        assert result == Comparison(
            (
                GroupResult("CartPole-v1 a3c", 2, 2, 2800.0, 6.0),
                GroupResult("CartPole-v1 a2c", 1, 0, None, None),
                GroupResult("empty", 1, 0, None, None),
            ),
            out,
            (None,),
        )

    def test_goals_that_differ_are_told(self, tmp_path, runs):
        for run, goal in zip(runs[:3], (475.0, 475.0, 490.0), strict=True):
            summary = json.loads((run / "summary.json").read_text())
            (run / "summary.json").write_text(json.dumps(summary | {"solved_return": goal}))
        result = compare(runs[:3], tmp_path / "x.svg")
        assert "not all runs had the same goal (mean return of 100 episodes: 475, 490)" in str(result)
        assert "the same goal" not in str(compare(runs[:2], tmp_path / "x.svg"))

    def test_the_picture_says_what_it_shows(self, runs):
        from a3c.experiment.comparison_picture import paint

        figure = paint({"a3c": [read_run(run) for run in runs[:2]], "a2c": [read_run(runs[2])]})
        assert [axes.get_xlabel() for axes in figure.axes] == [
            "episodes",
            "environment steps",
            "wall-clock time (s)",
            "time to solve (s), median, unsolved runs counting as never",
        ]
        bars = figure.axes[-1]
        assert [text.get_text() for text in bars.texts] == ["a3c: 2 of 2 solved", "a2c: 0 of 1 solved"]
        assert [patch.get_width() for patch in bars.patches] == [6.0]  # the median; no bar where it is never
        assert [list(points.get_xdata()) for points in bars.lines] == [[5.5, 6.5], [], [], [9.0]]

    def test_a_run_named_twice_counts_once(self, tmp_path, runs):
        result = compare([runs[0], tmp_path / "b" / ".." / "a"], tmp_path / "x.svg")
        assert result.rows[0].runs == 1

    def test_pyplot_is_left_alone(self, tmp_path, runs):
        code = (
            "import sys; from a3c.experiment.compare import compare\n"
            "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
            f"compare([{str(runs[0])!r}], {str(tmp_path / 'x.png')!r}); print('matplotlib.pyplot' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr

    @pytest.mark.parametrize("name", ["x", "x.jpg", "x.txt"])
    def test_another_format_is_wrong_usage_before_anything_is_read(self, tmp_path, name):
        with pytest.raises(UsageError, match=r"\.png, \.pdf, \.svg"):
            compare([tmp_path / "nowhere"], tmp_path / name)

    def test_nothing_to_compare(self, tmp_path):
        with pytest.raises(UsageError, match="name at least one"):
            compare([], tmp_path / "x.png")

    def test_a_picture_that_cannot_be_written(self, tmp_path, runs):
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="cannot be written"):
            compare(runs[:1], tmp_path / "file" / "x.png")
