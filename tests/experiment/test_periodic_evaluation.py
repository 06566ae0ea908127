"""Evaluation during training: when it happens, what it plays, where it goes, and that nothing waits for it."""

import contextlib
import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import a3c
import tiny_envs
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.seeding import evaluation_seeds, worker_seeds
from a3c.core.update_rule import UpdateRule
from a3c.envs.make import EnvSource
from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.checkpoint import checkpoints, load_policy
from a3c.experiment.evaluate import play_episodes
from a3c.experiment.periodic_evaluation import COLUMNS, EvaluatorRecipe, PeriodicEvaluation, Weights
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.actor_critic import Network
from a3c.runtimes.processes import ProcessRuntime
from a3c.stores.local import LocalStore
from a3c.types import Counts
from leftovers import descendants, nothing_left

pytestmark = pytest.mark.timeout(120)


class Rewarding(tiny_envs.Corridor):
    """10 for each of 8 steps."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 10.0, terminated, truncated, info


class NaNReward(tiny_envs.Corridor):
    """Every reward is NaN."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float("nan"), terminated, truncated, info


class Sleepy(tiny_envs.Corridor):
    """A step takes longer than any test."""

    def step(self, action):
        time.sleep(600)


class Failing(tiny_envs.Corridor):
    """Fails at its first step."""

    def step(self, action):
        raise ZeroDivisionError("the corridor\ncollapsed")


class Dying(tiny_envs.Corridor):
    """Kills whoever plays it."""

    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


SPEC = PolicySpec(
    tiny_envs.Corridor.observation_space,
    tiny_envs.Corridor.action_space,
    network=Network(hidden_sizes=(8,)),
    normalisation=Normalisation(observations=True, scale_rewards=True, clip_rewards=1.0),
)


class Training:
    """A store whose T a test moves, and the evaluation beside it."""

    def __init__(self, tmp_path, env=tiny_envs.Corridor, *, every=100, context=None, episodes=3, spec=SPEC):
        model = spec.build(seed=1)
        rule = UpdateRule(RMSProp(), constant(0.1), Budget())
        self.store = LocalStore(model.flat, rule, tracked=model.normaliser.tracked)
        self.messages = []
        self.path = tmp_path / "evaluations.csv"
        self.now = 0.0
        recipe = EvaluatorRecipe(EnvSource(env), spec, episodes, seed=7)
        self.evaluation = PeriodicEvaluation(every, recipe, context, tmp_path, lambda: self.now, self.messages.append)

    def reach(self, env_steps):
        """Let T become this, and let the evaluation notice."""
        more = env_steps - self.store.counters().env_steps
        self.store.connect(0).push(None, Counts(more, 0), 0)
        self.now = env_steps / 1000
        self.evaluation.notice(self.store)

    def wait(self):
        """Until no evaluation is under way."""
        while self.evaluation._place is not None and self.evaluation._place.busy:
            time.sleep(0.01)
            self.evaluation.notice(self.store)

    @property
    def rows(self):
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    @property
    def steps(self):
        return [int(row["env_steps"]) for row in self.rows]


@contextlib.contextmanager
def beside(tmp_path, env=tiny_envs.Corridor, start_method="forkserver", patience_s=0.0, **settings):
    """A training whose evaluations have a process of their own."""
    with nothing_left():
        runtime = ProcessRuntime(start_method, preload=["a3c.experiment.periodic_evaluation"])
        runtime._remember_services()
        with contextlib.closing(runtime):
            runtime.prepare()
            training = Training(tmp_path, env, context=runtime.context, **settings)
            try:
                yield training
            finally:
                training.evaluation.finish(training.store, patience_s)
                training.evaluation.close()


def test_each_crossing_of_a_multiple_is_evaluated_once(tmp_path):
    training = Training(tmp_path)
    for env_steps in (1, 99, 100, 101, 199, 350, 399, 400):  # 200 and 300 are crossed in one go
        training.reach(env_steps)
    training.evaluation.close()
    assert training.steps == [100, 350, 400]
    assert [row["seconds"] for row in training.rows] == ["0.1", "0.35", "0.4"]
    assert training.messages == []


def always(action):
    """θ of a policy that does this, whatever it sees."""
    model = SPEC.build()
    model.flat.zero_()
    model.policy_head.linear.bias.data[action] = 1.0
    return model.flat


@contextlib.contextmanager
def anywhere(start_method, tmp_path, **settings):
    """A training that evaluates in this process (None), or beside."""
    if start_method is not None:
        with beside(tmp_path, start_method=start_method, **settings) as training:
            yield training
        return
    training = Training(tmp_path, **settings)
    yield training
    training.evaluation.close()


EVERYWHERE = pytest.mark.parametrize("start_method", [None, "forkserver", "spawn"])


@EVERYWHERE
def test_it_plays_the_parameters_of_the_crossing(tmp_path, start_method):
    with anywhere(start_method, tmp_path) as training:
        for env_steps, action in ((100, 1), (200, 0)):
            training.store.load_state_dict(training.store.state_dict() | {"parameters": always(action)})
            training.reach(env_steps)
            training.store.load_state_dict(training.store.state_dict() | {"parameters": always(1 - action)})
            training.wait()
    assert [float(row["return_mean"]) for row in training.rows] == [8.0, -8.0]  # right is +1 a step, left -1
    assert training.evaluation.best == {"env_steps": 100, "return_mean": 8.0}
    assert training.messages == []


def test_the_evaluator_takes_the_moments_along():
    evaluator = EvaluatorRecipe(EnvSource(tiny_envs.Corridor), SPEC, 3, 0)()
    moments = torch.tensor([[9.0] * 3, [0.5, 1.0, 2.0], [3.0, 4.0, 5.0]], dtype=torch.float64)
    evaluator(Weights(always(1).numpy(), moments.numpy()))
    assert torch.equal(evaluator.policy.model.normaliser.moments, moments)
    assert torch.equal(evaluator.policy.model.flat, always(1))
    evaluator.close()


def test_it_is_greedy_raw_and_on_episodes_of_its_own(monkeypatch):
    asked = []

    def play(policy, envs, episodes, *, seed, greedy=True):
        asked.append((episodes, seed, greedy))
        return play_episodes(policy, envs, episodes, seed=seed, greedy=greedy)

    monkeypatch.setattr("a3c.experiment.periodic_evaluation.play_episodes", play)
    evaluator = EvaluatorRecipe(EnvSource(Rewarding), SPEC, 3, seed=7)()
    results = [evaluator(Weights(always(1).numpy(), np.zeros((3, 3)))) for _ in range(2)]
    evaluator.close()
    assert results[0] == results[1]
    assert results[0].return_mean == 80.0  # neither scaled nor clipped
    ((episodes, seed, greedy), again) = asked
    assert (episodes, greedy) == (3, True)
    assert again == asked[0]
    assert seed not in (7, 0)  # a3c.evaluate(run, seed=7) plays other episodes
    for other in (0, 7):
        assert not set(evaluation_seeds(seed, 5)) & set(evaluation_seeds(other, 5))
        for worker in range(2):
            assert not set(evaluation_seeds(seed, 5)) & set(worker_seeds(other, worker, 0, 4).environments)


@EVERYWHERE
def test_a_row_says_all_of_it(tmp_path, start_method):
    with anywhere(start_method, tmp_path, env=Rewarding, episodes=5) as training:
        training.reach(123)
        training.wait()
    (row,) = training.rows
    assert tuple(row) == COLUMNS
    assert {name: float(value) for name, value in row.items()} == {
        "env_steps": 123, "seconds": 0.123, "episodes": 5, "return_mean": 80, "return_std": 0, "ci95_low": 80,
        "ci95_high": 80, "length_mean": 8,
    }  # fmt: skip


def test_what_is_no_number_is_left_out(tmp_path):
    training = Training(tmp_path, NaNReward)
    training.reach(100)
    training.evaluation.close()
    (row,) = training.rows
    assert (row["return_mean"], row["ci95_low"], row["length_mean"]) == ("", "", "")
    assert not training.messages  # the next one may be sound
    assert training.evaluation.best is None
    assert training.evaluation.unlogged() == {"evaluation_return_mean": None}


def test_the_next_line_has_the_newest_result_once(tmp_path):
    training = Training(tmp_path, Rewarding)
    assert training.evaluation.unlogged() == {"evaluation_return_mean": None}
    training.reach(100)
    assert training.evaluation.unlogged() == {"evaluation_return_mean": 80.0}
    assert training.evaluation.unlogged() == {"evaluation_return_mean": None}
    training.evaluation.close()


def test_the_best_stays(tmp_path):
    training = Training(tmp_path)
    for env_steps, action in ((100, 0), (200, 1), (300, 1), (400, 0)):
        training.store.load_state_dict(training.store.state_dict() | {"parameters": always(action)})
        training.reach(env_steps)
    training.evaluation.close()
    assert training.evaluation.best == {"env_steps": 200, "return_mean": 8.0}


def test_nobody_waits_for_an_evaluation(tmp_path):
    with beside(tmp_path, Sleepy) as training:
        before = descendants()
        for env_steps in (100, 200, 300):
            began = time.monotonic()
            training.reach(env_steps)
            assert time.monotonic() - began < 20
        time.sleep(0.5)
        assert len(descendants() - before) == 1
        assert training.evaluation.under_way_at == 100
        began = time.monotonic()
        assert not training.evaluation.finish(training.store, 0.3)
        training.evaluation.close()
        assert 0.3 <= time.monotonic() - began < 3
    assert training.rows == []
    assert training.messages == []


@EVERYWHERE
def test_what_comes_due_while_it_is_busy_is_evaluated_once_it_is_free(tmp_path, start_method):
    with anywhere(start_method, tmp_path) as training:
        for env_steps in (100, 250, 370):
            training.reach(env_steps)
        training.reach(390)
        training.wait()
        assert training.evaluation.finish(training.store, 60)
        assert training.evaluation.finish(training.store, 60)
    assert training.steps == ([100, 250, 370] if start_method is None else [100, 390])


def test_the_best_policy_is_kept(tmp_path):
    training = Training(tmp_path)
    for env_steps, action in ((100, 0), (200, 1), (300, 0)):
        training.store.load_state_dict(training.store.state_dict() | {"parameters": always(action)})
        training.reach(env_steps)
        if env_steps == 100:
            saved = load_policy(tmp_path / "checkpoints" / "best-evaluation")[1]
            assert torch.equal(saved.flat, always(0))
    training.evaluation.close()
    saved = load_policy(tmp_path / "checkpoints" / "best-evaluation")[1]
    assert torch.equal(saved.flat, always(1))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best-evaluation"]


def test_a_best_policy_that_cannot_be_written_is_told_and_written_later(tmp_path):
    training = Training(tmp_path)
    (tmp_path / "checkpoints").write_text("in the way")
    training.store.load_state_dict(training.store.state_dict() | {"parameters": always(1)})
    training.reach(100)
    (message,) = training.messages
    assert "the best evaluation's policy, of 100 steps, cannot be written" in message
    assert training.steps == [100]
    (tmp_path / "checkpoints").unlink()
    training.store.load_state_dict(training.store.state_dict() | {"parameters": always(0)})
    training.reach(200)
    assert torch.equal(load_policy(tmp_path / "checkpoints" / "best-evaluation")[1].flat, always(1))
    training.evaluation.close()
    assert len(training.messages) == 1


def test_after_a_resume_the_best_is_the_one_that_lies_there(tmp_path):
    training = Training(tmp_path)
    states = []
    for env_steps, action in ((100, 0), (200, 1)):
        training.store.load_state_dict(training.store.state_dict() | {"parameters": always(action)})
        training.reach(env_steps)
        states.append(training.evaluation.state())
    training.evaluation.close()
    again = Training(tmp_path)
    again.evaluation.restore(states[0])  # of before the best one
    again.store.load_state_dict(again.store.state_dict() | {"parameters": always(0)})
    again.reach(200)
    again.evaluation.close()
    assert again.evaluation.best == {"env_steps": 200, "return_mean": 8.0}
    assert torch.equal(load_policy(tmp_path / "checkpoints" / "best-evaluation")[1].flat, always(1))
    (tmp_path / "checkpoints" / "best-evaluation" / "progress.json").write_text("{}")
    once_more = Training(tmp_path)
    once_more.evaluation.restore(states[1])
    assert once_more.evaluation.best is None


def test_the_end_waits_for_an_evaluation_that_is_under_way(tmp_path):
    with beside(tmp_path, patience_s=60) as training:
        training.reach(100)
        assert training.rows == []
    assert training.steps == [100]


@pytest.mark.usefixtures("no_fork_server")
def test_the_evaluator_outlives_the_fork_server_for_as_long_as_it_is_waited_for(tmp_path):
    with nothing_left():
        runtime = ProcessRuntime("forkserver")
        runtime.prepare()
        training = Training(tmp_path, context=runtime.context)
        training.reach(100)
        runtime.close()
        assert training.evaluation.finish(training.store, 60)
        training.evaluation.close()
    assert training.steps == [100]


@pytest.mark.parametrize(
    ("env", "start_method", "words"),
    [
        (Failing, None, "ZeroDivisionError: the corridor collapsed"),
        (Failing, "forkserver", "ZeroDivisionError: the corridor collapsed"),
        (Dying, "forkserver", "ProcessLookupError: its process was killed"),
        ("tiny_envs:Nowhere", None, "module 'tiny_envs' has no 'Nowhere'"),
        ("tiny_envs:Nowhere", "forkserver", "module 'tiny_envs' has no 'Nowhere'"),
    ],
)
def test_an_evaluator_that_fails_is_reported_once(tmp_path, env, start_method, words):
    with anywhere(start_method, tmp_path, env=env) as training:
        for env_steps in (100, 200, 300):
            training.reach(env_steps)
            training.wait()
    (message,) = training.messages
    assert message.startswith("evaluation stopped, the run goes on without it: ")
    assert words in message
    assert "\n" not in message
    assert training.rows == []


def test_an_evaluator_that_cannot_travel_is_reported(tmp_path):
    unpicklable = (value for value in ())
    with beside(tmp_path, lambda: unpicklable) as training:
        training.reach(100)
        training.reach(200)
    (message,) = training.messages
    assert "pickle" in message


def test_a_disk_that_is_full_ends_the_evaluation_and_not_the_run(tmp_path):
    training = Training(tmp_path)
    training.path.mkdir()
    training.reach(100)
    training.reach(200)
    training.evaluation.close()
    (message,) = training.messages
    assert "evaluations.csv cannot be written" in message


def test_closing_without_any_evaluation(tmp_path):
    training = Training(tmp_path)
    training.evaluation.close()
    assert list(tmp_path.iterdir()) == []


# Whole runs.

QUICK = {
    "workers": 2,
    "envs_per_worker": 4,
    "rollout_length": 8,
    "total_env_steps": 3_000,
    "learning_rate": 5e-3,
    "tensorboard": False,
    "quiet": True,
}


class FailingInEvaluation(tiny_envs.Corridor):
    """Fails only where it is evaluated."""

    def step(self, action):
        if multiprocessing.current_process().name == "a3c-evaluator":
            raise ZeroDivisionError("not here")
        return super().step(action)


def read(run):
    with open(run.path / "evaluations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return rows, lines, json.loads((run.path / "summary.json").read_text())


def test_in_one_process_a_run_repeats_to_the_bit_with_its_evaluations(tmp_path):
    found = []
    for name in ("first", "second"):
        run = a3c.train(tiny_envs.Corridor, runtime="serial", evaluate_every=500, run_dir=str(tmp_path / name), **QUICK)
        rows, _, summary = read(run)
        found.append(([{**row, "seconds": ""} for row in rows], summary["best_evaluation"], summary["env_steps"]))
    assert found[0] == found[1]
    rows, best, _ = found[0]
    steps = [int(row["env_steps"]) for row in rows]
    # 4 environments x 8 steps a push, each 8th of which merely resets: a crossing is noticed at the push that makes it.
    assert [n // 500 for n in steps] == [1, 2, 3, 4, 5, 6]
    assert all(n % 500 < 32 for n in steps)
    assert best["return_mean"] == max(float(row["return_mean"]) for row in rows)


@pytest.mark.parametrize("algorithm", ["a3c", "a2c"])
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_beside_the_workers(tmp_path, algorithm, start_method):
    with nothing_left():
        run = a3c.train(
            "tiny_envs:Corridor",
            **QUICK | {"total_env_steps": 20_000},
            algorithm=algorithm,
            start_method=start_method,
            evaluate_every=1000,
            evaluate_episodes=5,
            run_dir=str(tmp_path / "run"),
        )
    rows, lines, summary = read(run)
    assert summary["exit_reason"] == "total_env_steps"
    assert {row["episodes"] for row in rows} == {"5"}
    means = [float(row["return_mean"]) for row in rows]
    assert len(means) >= 1
    assert summary["best_evaluation"]["return_mean"] == max(means)
    assert str(summary["best_evaluation"]["env_steps"]) == rows[means.index(max(means))]["env_steps"]
    logged = [line["evaluation_return_mean"] for line in lines]
    assert [value for value in logged if value is not None][-1] == means[-1]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_the_best_of_them_is_a_checkpoint(tmp_path, start_method):
    settings = QUICK | {"start_method": start_method, "total_env_steps": 500, "evaluate_every": 500}
    with nothing_left():
        run = a3c.train("tiny_envs:Corridor", run_dir=str(tmp_path / "run"), **settings)
    (row,), _, summary = read(run)
    assert summary["best_evaluation"]["env_steps"] == int(row["env_steps"]) >= 500
    result = a3c.evaluate(run.path, episodes=3, checkpoint="best-evaluation", trust_code=True)
    assert result.checkpoint == "best-evaluation"
    again = a3c.train("tiny_envs:Corridor", run_dir=str(run.path), overwrite=True, **QUICK | {"runtime": "serial"})
    with pytest.raises(
        RunDirectoryError, match="'best-evaluation' .only a run with --evaluate-every keeps one.; it has"
    ):
        a3c.load(again.path, checkpoint="best-evaluation")


class SlowToPlay(tiny_envs.Corridor):
    """Takes its time where it is evaluated."""

    def step(self, action):
        if multiprocessing.current_process().name == "a3c-evaluator":
            time.sleep(0.2)
        return super().step(action)


class HangingInEvaluation(tiny_envs.Corridor):
    """Hangs where it is evaluated."""

    def step(self, action):
        if multiprocessing.current_process().name == "a3c-evaluator":
            time.sleep(600)
        return super().step(action)


SHORT = QUICK | {"total_env_steps": 500, "evaluate_every": 500, "evaluate_episodes": 1}


def test_a_run_waits_for_its_last_evaluation_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("a3c.experiment.train._EVALUATION_UNTOLD_S", 0.0)
    with nothing_left():
        run = a3c.train("test_periodic_evaluation:SlowToPlay", run_dir=str(tmp_path / "run"), **SHORT)
    (row,), lines, summary = read(run)
    assert summary["best_evaluation"]["env_steps"] == int(row["env_steps"]) >= 500
    assert "evaluating the policy at 5" in capsys.readouterr().err
    assert lines[-1]["evaluation_return_mean"] == float(row["return_mean"])
    assert lines[-1]["seconds"] < summary["seconds"] - 1


def test_a_run_does_not_wait_for_an_evaluation_that_hangs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("a3c.experiment.train._EVALUATION_PATIENCE_S", 1.0)
    with nothing_left():
        run = a3c.train("test_periodic_evaluation:HangingInEvaluation", run_dir=str(tmp_path / "run"), **SHORT)
    assert run.summary["exit_reason"] == "total_env_steps"
    assert run.summary["best_evaluation"] is None
    assert "has taken 1 s: the run ends without it" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_a_run_waits_for_its_last_evaluation(tmp_path, number):
    settings = SHORT | {"run_dir": str(tmp_path / "run")}
    script = "import a3c, a3c.experiment.train as train; train._EVALUATION_UNTOLD_S = 0.1; "
    script += f"a3c.train('test_periodic_evaluation:HangingInEvaluation', **{settings!r})"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(tiny_envs.__file__).parent), *sys.path])
    with nothing_left(patience_s=10):
        process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths})
        while not (tmp_path / "run" / "summary.json").exists() or len(checkpoints(tmp_path / "run")) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)  # it is saved, and waits
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == (-9 if number == signal.SIGKILL else 0)
        assert time.monotonic() - began < 5
    run = a3c.train("test_periodic_evaluation:HangingInEvaluation", resume=True, **settings)
    assert run.summary["exit_reason"] == "total_env_steps"
    assert run.summary["env_steps"] >= 500


def test_training_goes_on_without_an_evaluator_that_fails(tmp_path, capsys):
    with nothing_left():
        run = a3c.train(
            "test_periodic_evaluation:FailingInEvaluation",
            **QUICK | {"total_env_steps": 20_000},
            evaluate_every=1000,
            run_dir=str(tmp_path / "run"),
        )
    assert run.summary["exit_reason"] == "total_env_steps"
    assert run.summary["best_evaluation"] is None
    assert not (run.path / "evaluations.csv").exists()
    assert capsys.readouterr().err.count("evaluation stopped, the run goes on without it: ZeroDivisionError") == 1


def test_without_it_nothing_is_evaluated(tmp_path):
    run = a3c.train(tiny_envs.Corridor, runtime="serial", run_dir=str(tmp_path / "run"), **QUICK)
    assert run.summary["best_evaluation"] is None
    assert not (run.path / "evaluations.csv").exists()
    assert "evaluation_return_mean" not in (run.path / "metrics.jsonl").read_text()


def test_a_run_in_the_place_of_another_does_not_keep_its_evaluations(tmp_path):
    settings = QUICK | {"runtime": "serial", "run_dir": str(tmp_path / "run"), "evaluate_every": 1500}
    counts = [
        len(read(a3c.train(tiny_envs.Corridor, overwrite=overwrite, **settings))[0]) for overwrite in (False, True)
    ]
    assert counts == [2, 2]


@pytest.mark.parametrize(
    ("setting", "value"), [("evaluate_every", 0), ("evaluate_every", -1), ("evaluate_episodes", 0)]
)
def test_impossible_settings(tmp_path, setting, value):
    with pytest.raises(UsageError, match=f"--{setting.replace('_', '-')} must be"):
        a3c.train("CartPole-v1", run_dir=str(tmp_path / "run"), **{setting: value})


SCRIPT = """
import multiprocessing, sys, time
import a3c, tiny_envs

class Here(tiny_envs.Corridor):
    def step(self, action):
        if multiprocessing.current_process().name == "a3c-evaluator":
            print("evaluating", flush=True)
            time.sleep(600)
        time.sleep(0.001)
        return super().step(action)

try:
    a3c.train(Here, workers=2, envs_per_worker=2, rollout_length=4, total_env_steps=10**9, evaluate_every=200,
              tensorboard=False, quiet=True, start_method={start_method!r}, run_dir={run_dir!r})
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -9)],
)
def test_nothing_is_left_when_the_run_is_ended_in_the_middle_of_an_evaluation(
    tmp_path, start_method, number, to_group, code
):
    (tmp_path / "script.py").write_text(SCRIPT.format(run_dir=str(tmp_path / "run"), start_method=start_method))
    paths = os.pathsep.join([str(Path(tiny_envs.__file__).parent), *sys.path])
    with nothing_left(patience_s=10):
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py")],
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "evaluating\n"
        below = descendants(process.pid)
        began = time.monotonic()
        os.killpg(process.pid, number) if to_group else process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert time.monotonic() - began < 5
        process.stdout.close()
        while any(running(pid) for pid in below):  # a killed parent's are nobody's descendants any more
            assert time.monotonic() - began < 10
            time.sleep(0.05)
    if number != signal.SIGKILL:
        assert a3c.load(tmp_path / "run")


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
