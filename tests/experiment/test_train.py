"""Whole runs: `a3c.train` from settings to the files in the run directory."""

import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import a3c
import tiny_envs
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.errors import (
    ClusterError,
    IllegalCombination,
    RunDirectoryError,
    SavingFailed,
    UnknownEnvironment,
    UsageError,
    WorkerDied,
    WorkerFailed,
    WorkerHung,
)
from a3c.experiment.loggers.tensorboard import TensorBoardLogger
from a3c.experiment.train import saving
from a3c.runtimes.serial import SerialRuntime
from a3c.stores.local import LocalStore
from leftovers import nothing_left
from own_mounts import where_file_systems_may_be_mounted

pytestmark = pytest.mark.timeout(120)

QUICK = {
    "workers": 2,
    "envs_per_worker": 4,
    "rollout_length": 8,
    "total_env_steps": 4_000,
    "learning_rate": 5e-3,
    "tensorboard": False,
    "quiet": True,
}
CORRIDOR = "tiny_envs:Corridor"


def quick(env=CORRIDOR, **settings):
    return a3c.train(env, **(QUICK | settings))


def parameters(run):
    checkpoint = max((run.path / "checkpoints").iterdir())
    return load_file(checkpoint / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("runtime", ["serial", "processes"])
@pytest.mark.parametrize("algorithm", ["a3c", "a2c"])
def test_learns_and_writes_every_file(tmp_path, runtime, algorithm):
    with nothing_left():
        run = quick(
            runtime=runtime,
            algorithm=algorithm,
            run_dir=str(tmp_path / "run"),
            seed=3,
            stop_at_return=7.5,
            label="here",
        )
    summary = json.loads((run.path / "summary.json").read_text())
    config = json.loads((run.path / "config.json").read_text())
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    with open(run.path / "episodes.csv", newline="") as file:
        episodes = list(csv.DictReader(file))

    assert run.solved
    assert summary == json.loads(json.dumps(run.summary))
    assert summary["exit_reason"] == "stop_at_return"
    assert summary["solved_at"]["env_steps"] <= summary["env_steps"]
    assert summary["episodes"] == len(episodes)
    assert list(episodes[0]) == ["worker", "env_steps", "seconds", "return", "length", "worker_episode"]
    workers = {e["worker"] for e in episodes}
    if (runtime, algorithm) == ("processes", "a3c"):  # nobody waits for anybody: one may have solved it alone
        assert set() < workers <= {"0", "1"}
    else:
        assert workers == {"0", "1"}
    assert all(e["length"] == "8" for e in episodes)
    last_returns = [float(e["return"]) for e in episodes[-100:]]
    assert summary["return_mean_100"] == pytest.approx(np.mean(last_returns))
    assert lines[-1]["env_steps"] == summary["env_steps"]
    assert {
        "env_steps", "seconds", "updates", "episodes", "return_mean_100", "steps_per_second", "policy_loss",
        "value_loss", "entropy", "gradient_norm", "staleness_mean", "staleness_max", "learning_rate",
    } <= lines[-1].keys()  # fmt: skip
    assert config["settings"]["env"] == CORRIDOR
    assert config["settings"]["seed"] == 3
    assert config["settings"]["label"] == "here"
    assert config["versions"]["torch"] == torch.__version__
    evaluation = a3c.evaluate(run.path, tiny_envs.Corridor, episodes=10)
    assert evaluation.return_mean == 8.0
    assert evaluation.length_mean == 8.0


def test_step_counts_are_true_when_the_budget_ends(tmp_path):
    run = quick(run_dir=str(tmp_path / "run"), runtime="serial", algorithm="a2c", total_env_steps=1000)
    per_round = 2 * 4 * 8
    assert run.summary["exit_reason"] == "total_env_steps"
    assert 1000 <= run.summary["env_steps"] < 1000 + per_round
    # Every environment's steps: finished episodes of 8, and the ones under way.
    assert 0 <= run.summary["env_steps"] - 8 * run.summary["episodes"] < 8 * 8


def test_an_episode_budget(tmp_path):
    run = quick(run_dir=str(tmp_path / "run"), total_episodes=50, total_env_steps=None)
    assert run.summary["exit_reason"] == "total_episodes"
    assert 50 <= run.summary["episodes"] <= 50 + 2 * 4 * 2


def test_max_seconds(tmp_path):
    run = quick(
        run_dir=str(tmp_path / "run"),
        runtime="serial",
        max_seconds=1.0,
        total_env_steps=None,
        learning_rate_schedule="constant",
    )
    assert run.summary["exit_reason"] == "max_seconds"
    assert 1.0 <= run.summary["seconds"] < 10


def test_on_report_sees_every_line_and_may_stop(tmp_path):
    seen = []

    def look(metrics):
        seen.append(metrics["env_steps"])
        return len(seen) == 2

    run = quick(run_dir=str(tmp_path / "run"), runtime="serial", total_env_steps=10**7, on_report=look)
    lines = [json.loads(line)["env_steps"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert run.summary["exit_reason"] == "on_report"
    assert lines == seen  # two, and one more once all workers have ended
    assert lines[2:] == [run.summary["env_steps"]]


def test_k_workers_in_the_serial_runtime_repeat_bit_for_bit(tmp_path):
    first, second = (quick(run_dir=str(tmp_path / name), runtime="serial", workers=3) for name in "ab")
    other = quick(run_dir=str(tmp_path / "c"), runtime="serial", workers=3, seed=1)
    assert same(parameters(first), parameters(second))
    assert not same(parameters(first), parameters(other))
    names = [(run.path / "episodes.csv").read_text().splitlines() for run in (first, second)]
    without_seconds = [[line.split(",")[:2] + line.split(",")[3:] for line in lines] for lines in names]
    assert without_seconds[0] == without_seconds[1]


def test_a2c_is_the_same_bit_for_bit_in_every_runtime(tmp_path):
    settings = [("serial", None), ("processes", "forkserver"), ("processes", "spawn"), ("processes", "forkserver")]
    runs = [
        quick(run_dir=str(tmp_path / str(i)), algorithm="a2c", runtime=runtime, start_method=method)
        for i, (runtime, method) in enumerate(settings)
    ]
    assert all(same(parameters(runs[0]), parameters(run)) for run in runs[1:])
    assert len({run.summary["env_steps"] for run in runs}) == 1


def test_one_a3c_worker_is_one_a2c_worker(tmp_path):
    a3c_run, a2c_run, textbook = (
        quick(run_dir=str(tmp_path / str(i)), runtime="serial", workers=1, algorithm=algorithm, store=store)
        for i, (algorithm, store) in enumerate([("a3c", "auto"), ("a2c", "auto"), ("a2c", "local")])
    )
    assert same(parameters(a3c_run), parameters(a2c_run))
    assert same(parameters(a3c_run), parameters(textbook))


@pytest.mark.parametrize("store", ["hogwild", "locked"])
def test_one_worker_in_a_process_equals_one_in_this_process(tmp_path, store):
    here = quick(run_dir=str(tmp_path / "here"), runtime="serial", workers=1)
    there = quick(run_dir=str(tmp_path / "there"), runtime="processes", workers=1, store=store)
    assert same(parameters(here), parameters(there))


def test_delayed_by_nothing_is_local(tmp_path):
    local, delayed, late = (
        quick(run_dir=str(tmp_path / str(i)), runtime="serial", **store)
        for i, store in enumerate([{"store": "local"}, *({"store": "delayed", "delay": delay} for delay in (0, 3))])
    )
    assert same(parameters(local), parameters(delayed))
    assert not same(parameters(local), parameters(late))


@pytest.mark.parametrize(
    "settings",
    [
        {"envs_per_worker": 1},
        {"envs_per_worker": 1, "end_rollout_at_episode_end": True},
        {"envs_per_worker": 1, "end_rollout_at_episode_end": True, "rollout_length": 1000},
        {"total_episodes": 60, "total_env_steps": None},
        {"max_episode_steps": 5},
        {"separate_torsos": True},
        {"separate_torsos": True, "hidden_sizes": (), "activation": "relu"},
        {"store": "locked"},
        {"start_method": "spawn"},
        {"optimizer": "adam", "loss_reduction": "sum", "max_gradient_norm": 40.0, "learning_rate_schedule": "constant"},
        {"epsilon_inside_root": True, "optimizer_epsilon": 0.1, "max_gradient_norm": None},
        {
            "envs_per_worker": 1,
            "end_rollout_at_episode_end": True,
            "rollout_length": 1000,
            "total_episodes": 60,
            "total_env_steps": None,
            "max_episode_steps": 5,
            "separate_torsos": True,
            "store": "locked",
            "start_method": "spawn",
        },
    ],
    ids=lambda settings: ",".join(settings),
)
def test_the_papers_and_the_origins_own_forms(tmp_path, settings):
    with nothing_left():
        run = quick(run_dir=str(tmp_path / "run"), **({"total_env_steps": 600} | settings))
    with open(run.path / "episodes.csv", newline="") as file:
        lengths = {int(row["length"]) for row in csv.DictReader(file)}
    assert lengths == {settings.get("max_episode_steps", 8)}
    assert run.summary["updates"] > 0
    if settings.get("rollout_length") == 1000:  # a rollout is an episode, so an update is one, too
        assert run.summary["updates"] == run.summary["episodes"]


def test_the_papers_own_form_learns(tmp_path):
    run = quick(
        run_dir=str(tmp_path / "run"),
        envs_per_worker=1,
        end_rollout_at_episode_end=True,
        rollout_length=5,
        total_env_steps=30_000,
        stop_at_return=7.0,
    )
    assert run.solved


def test_a_cluster_that_is_lost_costs_nothing_saved(tmp_path, monkeypatch):
    lost = []

    def gone(plain):
        def call(self, *arguments):
            if lost:
                raise ClusterError("the parameter server is lost")
            return plain(self, *arguments)

        return call

    for name in ("counters", "snapshot"):
        monkeypatch.setattr(LocalStore, name, gone(getattr(LocalStore, name)))
    plain_run = SerialRuntime.run

    def run(self, *arguments):
        for report in plain_run(self, *arguments):
            yield report
            if lost:
                raise ClusterError("the parameter server is lost")

    monkeypatch.setattr(SerialRuntime, "run", run)
    path = tmp_path / "run"
    with pytest.raises(ClusterError, match="the parameter server is lost"):
        quick(
            run_dir=str(path),
            runtime="serial",
            total_env_steps=10**7,  # no end of its own
            on_report=lambda line: lost.append(1) if line["env_steps"] > 500 else None,
        )
    summary = json.loads((path / "summary.json").read_text())
    assert summary["exit_reason"] == "failed"
    assert summary["env_steps"] > 500
    assert "the parameter server is lost" in (path / "error.txt").read_text()
    monkeypatch.undo()
    assert a3c.load(path)  # the checkpoint of its start
    resumed = a3c.resume(path, trust_code=True, quiet=True, total_env_steps=2_000)
    assert resumed.summary["exit_reason"] == "total_env_steps"


def test_an_environment_that_breaks_its_word_is_told_in_one_line(tmp_path):
    with pytest.raises(WorkerFailed, match=r"^worker \d failed: UnsupportedEnvironment: .* had four values[^\n]*$"):
        quick("tiny_envs:FourValues", run_dir=str(tmp_path / "run"), runtime="processes")
    assert "returned a tuple of 4" in (tmp_path / "run" / "error.txt").read_text()


@pytest.mark.parametrize("runtime", ["serial", "processes"])
def test_an_environment_that_raises_ends_the_run_and_loses_nothing(tmp_path, runtime):
    with nothing_left(), pytest.raises(WorkerFailed, match="the corridor collapsed") as failure:
        quick("tiny_envs:Exploding", run_dir=str(tmp_path / "run"), runtime=runtime, envs_per_worker=2)
    assert "in reset" in failure.value.worker_traceback
    assert "in reset" in str(failure.value)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "worker_failed"
    assert len((tmp_path / "run" / "episodes.csv").read_text().splitlines()) - 1 == summary["episodes"] > 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text()
    assert a3c.load(tmp_path / "run")
    last_line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last_line["env_steps"] == summary["env_steps"]
    assert "the corridor collapsed" in (tmp_path / "run" / "error.txt").read_text()


def test_a_worker_that_is_started_anew_is_told_of_once_with_where_its_traceback_is(tmp_path, capfd):
    kwargs = {"file": str(tmp_path / "raised")}
    run = quick("tiny_envs:ExplodesOnce", run_dir=str(tmp_path / "run"), env_kwargs=kwargs, on_worker_failure="restart")
    assert run.summary["exit_reason"] == "total_env_steps"
    assert run.summary["worker_restarts"] == 1
    said = capfd.readouterr().err
    assert said.count("failed: RuntimeError: the corridor collapsed") == 1
    assert f"it is started anew; its traceback is in {run.path / 'error.txt'}" in said
    assert (run.path / "error.txt").read_text().count("Traceback (most recent call last)") == 1


class Doubled(gym.RewardWrapper):
    """Twice the reward; it lies in no module that a worker knows of."""

    def reward(self, reward):
        return 2 * reward


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_wrapper_that_is_a_callable_comes_to_the_workers(tmp_path, start_method):
    def double(env):
        return Doubled(env)

    run = quick(run_dir=str(tmp_path / "run"), wrappers=(double,), start_method=start_method, total_env_steps=800)
    with open(run.path / "episodes.csv", newline="") as file:
        returns = {float(row["return"]) for row in csv.DictReader(file)}
    assert returns <= {float(each) for each in range(-16, 17, 4)}  # of 8 steps, each 2 or -2
    assert max(map(abs, returns)) > 0


@pytest.mark.parametrize("preset", ["paper", "atari"])
def test_the_named_presets_play_a_real_game(tmp_path, preset):
    settings = {"preset": preset, "workers": 2, "total_env_steps": 200, "tensorboard": False, "quiet": True}
    run = a3c.train("ALE/Pong-v5", run_dir=str(tmp_path / "run"), **settings)
    assert run.summary["exit_reason"] == "total_env_steps"
    assert run.summary["updates"] > 0
    shapes = [tuple(value.shape) for value in run.policy().model.parameters() if value.ndim > 1]  # a shared one once
    assert shapes[:3] == [(16, 4, 8, 8), (32, 16, 4, 4), (256, 2592)]
    assert sorted(shapes[3:]) == [(1, 256), (6, 256)]


def test_a_worker_that_hangs_for_longer_than_it_may_ends_the_run(tmp_path):
    with nothing_left(), pytest.raises(WorkerHung, match="hung: .* --worker-timeout-s 1"):
        quick("tiny_envs:Stuck", run_dir=str(tmp_path / "run"), worker_timeout_s=1.0)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "worker_failed"


@pytest.mark.parametrize("settings", [{}, {"store": "locked"}, {"algorithm": "a2c"}], ids=str)
def test_a_worker_killed_with_minus_nine_ends_the_run(tmp_path, settings):
    with nothing_left(), pytest.raises(WorkerDied, match="killed by signal 9"):
        quick("tiny_envs:Killed", run_dir=str(tmp_path / "run"), **settings)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "worker_failed"


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        (
            "tiny_envs:Killed",
            WorkerDied,
            "killed by signal 9 .often the kernel, when memory runs out: take fewer",
        ),
        ("tiny_envs:Greedy", WorkerFailed, "Unable to allocate.*out of memory: take fewer --workers or --envs-per-wor"),
    ],
)
def test_a_worker_that_runs_out_of_memory_says_what_helps_and_costs_nothing_saved(tmp_path, env, error, message):
    with nothing_left(), pytest.raises(error, match=message):
        quick(env, run_dir=str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "worker_failed"
    assert summary["env_steps"] > 0
    run = a3c.resume(tmp_path / "run", trust_code=True, on_report=lambda line: True, runtime="serial")
    assert run.summary["env_steps"] >= summary["env_steps"]


SMALL_MACHINE = """
mount -t tmpfs -o size=64k tmpfs /dev/shm && mount -t tmpfs -o size={temporary} tmpfs {folder}/temporary || exit 77
TMPDIR={folder}/temporary exec {python} -m a3c train CartPole-v1 --workers 2 --total-env-steps 2000 \
    --quiet --no-tensorboard --hidden-sizes 256 256 --run-dir {folder}/run
"""


FULL_DISK = """
mount -t tmpfs -o size=200k tmpfs {folder}/disk || exit 77
exec {python} -m a3c train CartPole-v1 --runtime serial --workers 1 --envs-per-worker 4 --total-env-steps 2000 \
    --hidden-sizes 128 128 --quiet --run-dir {folder}/disk/run
"""


def test_a_full_disk_costs_what_has_no_room_and_says_what_helps(tmp_path):
    (tmp_path / "disk").mkdir()
    with nothing_left():
        ended = where_file_systems_may_be_mounted(FULL_DISK.format(folder=tmp_path, python=sys.executable))
    assert ended.returncode == 1, ended.stderr
    assert "no checkpoint at 0 steps (No space left on device: free some space there); the run goes on" in ended.stderr
    assert "a3c: cannot save to" in ended.stderr
    assert "(No space left on device): free some space there, or name another --run-dir" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("temporary", "code"), [("64m", 0), ("256k", 1)])
def test_a_small_dev_shm_and_a_full_temporary_directory(temporary, code):
    folder = Path(tempfile.mkdtemp())  # whose path, unlike tmp_path's, leaves room for a socket's
    (folder / "temporary").mkdir()
    script = SMALL_MACHINE.format(temporary=temporary, folder=folder, python=sys.executable)
    with nothing_left():
        ended = where_file_systems_may_be_mounted(script)
    assert ended.returncode == code, ended.stderr
    if code:
        assert "a3c: no room for" in ended.stderr
        assert "MiB of shared memory: /dev/shm has 0.1 and" in ended.stderr
        assert "enlarge /dev/shm (docker run --shm-size=1g), or let TMPDIR name" in ended.stderr


def test_a_temporary_directory_whose_path_is_too_long_for_a_socket_is_named(tmp_path):
    far = tmp_path / ("far" * 30)
    far.mkdir()
    command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ | {"TMPDIR": str(far)})
    assert ended.returncode == 2
    assert f"temporary directory, {far}, is too long for a socket in it: let TMPDIR name a shorter one" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_nan_rewards_are_dropped_and_the_rest_is_learned_from(tmp_path):
    run = quick(
        "tiny_envs:SometimesNaN",
        run_dir=str(tmp_path / "run"),
        runtime="serial",
        total_env_steps=40_000,
        stop_at_return=7.5,
    )
    assert run.solved
    assert run.summary["dropped_rollouts"] > 0
    assert all(bool(tensor.isfinite().all()) for tensor in parameters(run).values())


def test_ten_bad_rollouts_in_a_row_end_the_run(tmp_path, capfd):
    with nothing_left(), pytest.raises(WorkerFailed, match="10 rollouts in a row were dropped.*observation"):
        quick("tiny_envs:AlwaysNaN", run_dir=str(tmp_path / "run"))
    assert "dropped a rollout: non-finite observation" in capfd.readouterr().err


def test_seeds_differ_between_workers_and_repeat_between_runs(tmp_path):
    returns = {}
    for name in "ab":
        run = quick(run_dir=str(tmp_path / name), algorithm="a2c", total_env_steps=400)
        with open(run.path / "episodes.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        returns[name] = [[row["return"] for row in rows if row["worker"] == worker] for worker in "01"]
    assert returns["a"] == returns["b"]
    assert returns["a"][0] != returns["a"][1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"workers": 0}, UsageError, "--workers must be at least 1, not 0"),
        ({"envs_per_worker": -3}, UsageError, "--envs-per-worker must be at least 1"),
        ({"total_env_steps": 0}, UsageError, "--total-env-steps must be more than 0"),
        ({"max_seconds": -1.0}, UsageError, "--max-seconds"),
        ({"discount": 1.5}, UsageError, "--discount must be between 0 and 1"),
        ({"initial_log_std": 2.08}, UsageError, "--initial-log-std must be between -10 and 2, beyond which"),
        ({"initial_log_std": 5.1, "log_std": "gsde"}, UsageError, "--initial-log-std must be between -10 and 5, not"),
        ({"lambda_": -0.1}, UsageError, "--lambda must be between 0 and 1"),
        ({"learning_rate": math.nan}, UsageError, "--learning-rate"),
        ({"seed": -1}, UsageError, "--seed must be 0 or more"),
        ({"hidden_sizes": (64, 0)}, UsageError, "--hidden-sizes"),
        ({"total_env_steps": None}, UsageError, "nothing would ever end this run"),
        ({"total_env_steps": None, "max_seconds": 9.0}, UsageError, "take --learning-rate-schedule constant"),
        ({"end_rollout_at_episode_end": True}, UsageError, "take --envs-per-worker 1 or --no-end"),
        ({"store": "local"}, IllegalCombination, "take --store hogwild or locked"),
        ({"algorithm": "a2c", "store": "hogwild"}, IllegalCombination, "take --store synchronous"),
        ({"algorithm": "a2c", "store": "local", "runtime": "serial"}, IllegalCombination, "waits for them all"),
        ({"device": "quantum"}, UsageError, "--device must be cpu, cuda, cuda:N or auto"),
        ({"device": "cuda:99"}, UsageError, "this machine has . CUDA devices"),
        ({"learnign_rate": 1.0}, UsageError, "there is no setting 'learnign_rate'"),
        ({"algorithm": "a4c"}, UsageError, "--algorithm must be"),
        ({"workers": "two"}, UsageError, "--workers must be"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_starts(tmp_path, settings, error, message):
    with nothing_left(), pytest.raises(error, match=message):
        quick(run_dir=str(tmp_path / "run"), **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPol-v1", "did you mean CartPole-v1"),
        ("tiny_envs:Nothing", "module 'tiny_envs' has no 'Nothing'"),
        ("no_such_module:Env", "cannot import 'no_such_module'"),
        ("tiny_envs:WithText", "observation space of 'tiny_envs:WithText' has a Text space at 'note'.*not handled"),
        ("tiny_envs:WithGraphAction", "action space of 'tiny_envs:WithGraphAction' has a Graph space.*not handled"),
        ("tiny_envs:NotAsDeclared", "NotAsDeclared.*Box.*3.*got"),
    ],
)
def test_bad_environments_are_refused(tmp_path, env, message):
    with nothing_left(), pytest.raises(UsageError, match=message):
        quick(env, run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_unknown_environment_has_its_own_error(tmp_path):
    with pytest.raises(UnknownEnvironment):
        quick("CartPol-v1", run_dir=str(tmp_path / "run"))


def test_a_run_directory_is_not_overwritten_unless_asked_for(tmp_path):
    run = quick(run_dir=str(tmp_path / "run"), runtime="serial", total_env_steps=200)
    (run.path / "mine.txt").write_text("kept")
    with pytest.raises(RunDirectoryError, match="already holds a run.*--overwrite"):
        quick(run_dir=str(tmp_path / "run"), runtime="serial", total_env_steps=200)
    again = quick(run_dir=str(tmp_path / "run"), runtime="serial", total_env_steps=400, overwrite=True)
    assert again.summary["env_steps"] >= 400
    assert (run.path / "mine.txt").read_text() == "kept"
    assert not {int(path.name[5:]) for path in (run.path / "checkpoints").iterdir()} & set(range(1, 400))


@pytest.mark.parametrize("folder", ["checkpoints", "tensorboard"])
def test_somebody_elses_files_are_never_removed(tmp_path, folder):
    (tmp_path / "mine" / folder).mkdir(parents=True)
    (tmp_path / "mine" / folder / "precious.pt").write_text("kept")
    for overwrite in (False, True):
        with pytest.raises(RunDirectoryError):
            quick(run_dir=str(tmp_path / "mine"), overwrite=overwrite)
    run = quick(run_dir=tmp_path / "run", runtime="serial", total_env_steps=200)
    (run.path / "checkpoints" / "precious.pt").write_text("kept")
    quick(run_dir=tmp_path / "run", runtime="serial", total_env_steps=200, overwrite=True)
    assert (tmp_path / "mine" / folder / "precious.pt").read_text() == "kept"
    assert (run.path / "checkpoints" / "precious.pt").read_text() == "kept"


def test_a_failing_on_report_loses_nothing(tmp_path):
    def fail(metrics):
        raise ZeroDivisionError

    with nothing_left(), pytest.raises(ZeroDivisionError):
        quick(run_dir=str(tmp_path / "run"), on_report=fail)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "failed"
    assert a3c.load(tmp_path / "run")


def test_a_full_disk_at_the_end_is_named_and_the_rest_is_saved(tmp_path, monkeypatch):
    from a3c.experiment import checkpoint

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    with pytest.raises(SavingFailed, match="cannot save to .*No space left on device"):
        quick(run_dir=str(tmp_path / "run"), runtime="serial", total_env_steps=200)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "total_env_steps"
    assert (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "(No space left on device): free some space there, or name another --run-dir"),
        (errno.EEXIST, "(File exists): something that is no directory lies in its way: move that away, or name"),
        (errno.EROFS, "(Read-only file system): it lies on a read-only file system, or name another --run-dir"),
        (errno.EIO, "(Input/output error): name another --run-dir"),
        (errno.EMFILE, "(Too many open files): raise the limit of open files (ulimit -n 4096)"),
    ],
)
def test_the_advice_fits_the_reason(code, fix):
    with pytest.raises(SavingFailed, match=re.escape(f"cannot save to run {fix}")), saving(Path("run")):
        raise OSError(code, os.strerror(code))


def test_a_file_in_place_of_the_run_directory_is_named(tmp_path):
    def replace(line):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").touch()

    with pytest.raises(SavingFailed, match="something that is no directory lies in its way: move that away"):
        quick(run_dir=str(tmp_path / "run"), runtime="serial", on_report=replace)


def test_the_checkpoint_holds_the_whole_shared_state(tmp_path):
    run = quick(run_dir=str(tmp_path / "run"), runtime="serial", total_env_steps=400)
    checkpoint = max((run.path / "checkpoints").iterdir())
    counters = json.loads((checkpoint / "state.json").read_text())
    model = run.policy().model
    statistics = load_file(checkpoint / "optimizer.safetensors")
    store = LocalStore(torch.zeros_like(model.flat), UpdateRule(RMSProp(), constant(0.1), Budget()))
    store.load_state_dict({"parameters": model.flat, **statistics, **counters})
    assert counters["env_steps"] == run.summary["env_steps"]
    assert counters["version"] == run.summary["updates"] == store.counters().version
    assert torch.equal(store.parameters, model.flat)
    assert bool((statistics["square_average"] > 0).any())


def test_a_run_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with nothing_left(), pytest.raises(RunDirectoryError, match="cannot write to the run directory"):
        quick(run_dir=str(tmp_path / "file" / "run"))


def test_defaults_name_the_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = quick(runtime="serial", total_env_steps=100, seed=7)
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("tiny_envs_Corridor-a3c-7-")


def test_a_callable_environment(tmp_path):
    run = quick(lambda: tiny_envs.Corridor(), run_dir=str(tmp_path / "run"), total_env_steps=400)
    assert run.summary["env_steps"] >= 400
    with pytest.raises(UsageError, match="no importable name"):
        a3c.evaluate(run.path)
    assert a3c.evaluate(run.path, tiny_envs.Corridor, episodes=3).episodes == 3


def test_a_tensorboard_that_cannot_write_is_dropped_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TensorBoardLogger, "write", full)
    run = quick(run_dir=str(tmp_path / "run"), tensorboard=True, runtime="serial")
    assert run.summary["exit_reason"] == "total_env_steps"
    said = [line for line in capfd.readouterr().err.splitlines() if "TensorBoard" in line]
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_wandb_without_a_login_is_dropped_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with nothing_left(patience_s=20):
        run = quick(run_dir=str(tmp_path / "run"), wandb=True, wandb_mode="online")
    assert run.summary["exit_reason"] == "total_env_steps"
    said = [line for line in capfd.readouterr().err.splitlines() if "Weights & Biases" in line]
    assert len(said) == 1
    assert "wandb login" in said[0]


def test_wandb_offline_gets_the_origins_names(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    with nothing_left():
        run = quick(run_dir=str(tmp_path / "run"), wandb=True, total_env_steps=500)
    (written,) = tmp_path.rglob("*.wandb")  # one run for all workers
    assert written.is_relative_to(run.path / "wandb")
    content = written.read_bytes()
    assert b"episode_reward" in content
    assert b"running time" in content


def test_tensorboard_is_written_by_default(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = quick(run_dir=str(tmp_path / "run"), tensorboard=True, total_env_steps=500)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert any("return" in tag for tag in events.Tags()["scalars"])


SIGNALLED = """
import a3c
try:
    a3c.train({env!r}, workers=2, envs_per_worker=1, rollout_length=4, total_env_steps=10**6,
              tensorboard=False, algorithm={algorithm!r}, run_dir={run_dir!r}, runtime={runtime!r})
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize(
    ("to_group", "algorithm", "runtime", "env"),
    [
        (True, "a3c", "processes", "tiny_envs:Slow"),
        (True, "a2c", "processes", "tiny_envs:Slow"),
        (False, "a3c", "processes", "tiny_envs:Slow"),
        (False, "a3c", "serial", "tiny_envs:Slow"),
        (False, "a3c", "serial", "tiny_envs:Stuck"),
        (False, "a2c", "serial", "tiny_envs:Stuck"),
    ],
)
@pytest.mark.parametrize(
    ("number", "code", "reason"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_end_cleanly_and_save(tmp_path, number, code, reason, algorithm, to_group, runtime, env):
    run_dir = str(tmp_path / "run")
    with nothing_left():
        script = SIGNALLED.format(run_dir=run_dir, algorithm=algorithm, runtime=runtime, env=env)
        process = start_script(tmp_path, script)
        wait_for(tmp_path / "run" / "metrics.jsonl")
        began = time.monotonic()
        os.killpg(process.pid, number) if to_group else process.send_signal(number)
        try:
            assert process.wait(timeout=10) == code
            assert time.monotonic() - began < 5
        finally:
            process.kill()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == reason
    assert a3c.load(tmp_path / "run")


def start_script(tmp_path, text):
    (tmp_path / "script.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def wait_for(path: Path, patience_s: float = 30):
    deadline = time.monotonic() + patience_s
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def test_a_run_that_was_cut_short_says_how_to_go_on(tmp_path, capfd):
    def broken(line):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        quick("CartPole-v1", run_dir=str(tmp_path / "a"), on_report=broken, quiet=False)
    assert f"to go on: a3c resume {tmp_path / 'a'}\n" in capfd.readouterr().out
    (tmp_path / "a" / "error.txt").write_text("of another time")
    with pytest.raises(ZeroDivisionError):
        a3c.resume(tmp_path / "a", on_report=broken, trust_code=True)
    assert f"to go on: a3c resume {tmp_path / 'a'}\n" in capfd.readouterr().out
    with pytest.raises(ZeroDivisionError):
        quick("tiny_envs:Corridor", run_dir=str(tmp_path / "my run"), on_report=broken, quiet=False)
    assert f"to go on: a3c resume --trust-code '{tmp_path / 'my run'}'\n" in capfd.readouterr().out
    with pytest.raises(ZeroDivisionError):
        quick(lambda: tiny_envs.Corridor(), run_dir=str(tmp_path / "c"), on_report=broken, quiet=False)
    assert f"to go on: in Python, a3c.train(..., run_dir='{tmp_path / 'c'}', resume=True) " in capfd.readouterr().out


def test_a_run_that_has_learned_nothing_is_not_to_go_on(tmp_path, capfd):
    class Fails(tiny_envs.Corridor):
        def step(self, action):
            raise RuntimeError("the corridor collapsed")

    with pytest.raises(WorkerFailed):
        quick(Fails, run_dir=str(tmp_path / "b"), quiet=False)
    shown = capfd.readouterr().out
    assert f"\nwhat went wrong is in {tmp_path / 'b' / 'error.txt'}\n" in shown
    assert "to go on" not in shown


def test_a_run_whose_rollouts_were_all_dropped_says_so(tmp_path, capfd):
    class AllNaN(tiny_envs.Corridor):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    run = quick(AllNaN, run_dir=str(tmp_path / "run"), total_env_steps=3 * 8, runtime="serial", quiet=False)
    dropped = run.summary["dropped_rollouts"]
    told = f"nothing was learned: all {dropped} rollouts were dropped; the last: worker "
    assert told in capfd.readouterr().out


def test_a_run_that_has_made_no_step_says_nothing_of_its_episodes(tmp_path, capfd):
    class Slow(tiny_envs.Corridor):
        def reset(self, **options):
            time.sleep(0.5)
            return super().reset(**options)

    run = quick(Slow, run_dir=str(tmp_path / "run"), max_seconds=0.1, quiet=False)
    assert run.summary["env_steps"] == 0
    assert "no episode has ended" not in capfd.readouterr().out


def test_a_run_in_which_no_episode_ends_says_so(tmp_path, capfd):
    quick(EndlessCorridor, run_dir=str(tmp_path / "run"), quiet=False)
    assert "no episode has ended in 4," in capfd.readouterr().out
    quick(run_dir=str(tmp_path / "other"), quiet=False)
    assert "no episode" not in capfd.readouterr().out


class EndlessCorridor(tiny_envs.Corridor):
    """A corridor that nobody comes out of."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


def test_an_environment_or_a_network_in_place_of_what_makes_one(tmp_path):
    with pytest.raises(UsageError, match="Corridor is an environment, and each worker makes its own"):
        quick(tiny_envs.Corridor(), run_dir=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="Linear is a network, and each worker makes its own"):
        quick(run_dir=str(tmp_path / "run"), model=torch.nn.Linear(3, 3))
    with pytest.raises(UsageError, match=r"not 'TimeLimit'; in Python write wrappers=\('TimeLimit',\)$"):
        quick(run_dir=str(tmp_path / "run"), wrappers="TimeLimit")
    with pytest.raises(UsageError, match=r"not 64; in Python write hidden_sizes=\(64,\)$"):
        quick(run_dir=str(tmp_path / "run"), hidden_sizes=64)
    with pytest.raises(UsageError, match=r"there is no setting 'learningrate'; did you mean learning_rate"):
        quick(run_dir=str(tmp_path / "run"), learningrate=1)
    assert not (tmp_path / "run").exists()
