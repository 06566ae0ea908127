"""Runs that are damaged while they go on: what benchmarks/survival.py does at length, in small numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fuzzing
import survival
from a3c.experiment import checkpoint
from leftovers import nothing_left

pytestmark = pytest.mark.timeout(240)


def of_two_seeds_one_is_solved(damaged, stays_true):
    """A run may end just below the threshold by chance, but rarely: two on end are hardly chance.

    Whatever becomes of the returns, all else must be true of each run.
    """
    unsolved = []
    for seed in (1, 2):
        with nothing_left():
            result = damaged(seed)
        stays_true(result)
        if result["solved"]:
            return
        unsolved.append(result)
    raise AssertionError(json.dumps(unsolved, indent=1))


@pytest.mark.timeout(480)  # two runs
@pytest.mark.parametrize("store", list(survival.STORES))
def test_workers_are_killed_and_it_is_learned_all_the_same(tmp_path, store):
    def damaged(seed):
        return survival.kill_workers(tmp_path / f"run-{seed}", store, 6, 600_000, 0.0001, (0.5, 1.0), seed)

    of_two_seeds_one_is_solved(damaged, workers_were_killed)


def workers_were_killed(result):
    assert result["exit_code"] == 0
    assert result["kills"] == 6
    assert 1 <= result["worker_restarts"] <= 6  # the last one may fall into the end
    assert result["left_processes"] == 0, result["which_left"]
    assert result["episode_rows"] == result["episodes"]
    assert result["metrics_in_order"]
    assert result["whole_rows"]
    assert result["rows_twice"] == 0
    # An episode without a row is counted as lost, and none is invented.
    assert result["episodes"] + result["lost_episodes"] == result["checkpoint_episodes"]
    assert 0 <= result["counted_episodes"] - result["checkpoint_episodes"] <= result["most_episodes_in_hand"]
    # T is what was pushed: what the environments have counted, but for what workers had in hand when they went.
    assert result["checkpoint_env_steps"] == result["env_steps"] >= result["steps_in_rows"]
    assert 0 <= result["counted_env_steps"] - result["env_steps"] <= result["most_env_steps_in_hand"]
    assert result["most_env_steps_in_hand"] < 0.05 * result["env_steps"]  # else that would say nothing


@pytest.mark.timeout(480)  # two runs
def test_a_run_is_killed_and_resumed_until_it_is_solved(tmp_path):
    def damaged(seed):
        return survival.kill_parents(tmp_path / f"run-{seed}", 4, 600_000, 0.0001, (0.0, 2.0), seed)

    of_two_seeds_one_is_solved(damaged, a_run_was_killed)


def a_run_was_killed(result):
    assert result["kills"] >= 2
    if result["kills"] >= 3:
        assert result["kills_during_a_checkpoints_write"] >= 1
    assert result["kills_in_start_up"] >= 1
    assert result["env_steps"] <= result["counted_env_steps"]
    assert 0 <= result["lost_seconds_median"] <= result["lost_seconds_max"] < 5  # one is due every 0.2 s
    assert result["orphans"] == 0, result["which_orphans"]
    assert result["never_back"]
    assert result["taken_up_at_the_newest"]
    assert result["episode_rows"] == result["episodes"]
    assert result["episodes"] == result["checkpoint_episodes"]
    assert result["lost_episodes"] == 0
    assert result["metrics_in_order"]
    assert result["whole_rows"]
    assert result["rows_twice"] == 0


def test_memory_files_and_shared_memory_are_looked_at(tmp_path):
    with nothing_left():
        result = survival.soak(tmp_path / "run", 15, 0.0005, (0.3, 0.6), 0.5, seed=0, least_restarts=20)
    assert result["restarts"] >= 20
    first, second = result["first_half"], result["second_half"]
    assert second["open_files"] <= first["open_files"] + 5  # some are being started; a leak would be one a restart
    assert second["shm_names"] <= first["shm_names"] + 1
    assert first["all_shared_kib"] > 0  # it is looked at where a3c's own is
    assert second["all_shared_kib"] <= first["all_shared_kib"] + 20  # a page with each restart would be 40
    assert second["own_allocated_kib"] <= 1.1 * first["own_allocated_kib"] + 10_000


@pytest.mark.parametrize("store", survival.PUSHED_STORES)
def test_pushes_of_eight_processes_at_once(store):
    with nothing_left():
        result = survival.pushed(5_000, store, pushes=400)
    assert result["pushes"] == 400
    assert result["workers"] == 8
    if store == "locked":
        assert result["lost"] == result["torn"] == result["lost_statistic"] == 0
    assert 0 <= result["lost"] < 1


def test_damaged_files_are_refused_by_our_own_errors(tmp_path):
    with nothing_left():
        result = fuzzing.fuzz_together(tmp_path, 3_000, 1, seed=0)  # in a process that may be ended if it hangs
    assert result["refused"] > 1_000
    assert result["grown_kib"] < 200_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_within_five_seconds_though_a_worker_hangs(tmp_path, number):
    command = ["train", "survival:SlowCartPole", "--run-dir", str(tmp_path / "run")]
    with nothing_left(), survival.training(tmp_path / "run", [*command, *survival.flags(10**8, 0.0005)]) as process:
        survival.wait_for_a_line(tmp_path / "run", process)
        os.kill(survival.workers_of(process.pid)[0], signal.SIGSTOP)
        time.sleep(0.5)
        began = time.time()
        process.send_signal(number)
        code = process.wait(30)
    newest = checkpoint.newest_whole_checkpoint(tmp_path / "run", lambda _: None)
    assert newest.stat().st_mtime - began < 5
    assert (tmp_path / "run" / "summary.json").stat().st_mtime - began < 5
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert survival.steps_of(tmp_path / "run") == summary["env_steps"]


def test_a_second_ctrl_c_ends_it_at_once(tmp_path):
    command = ["train", "survival:SlowCartPole", "--run-dir", str(tmp_path / "run")]
    with nothing_left(), survival.training(tmp_path / "run", [*command, *survival.flags(10**8, 0.0005)]) as process:
        survival.wait_for_a_line(tmp_path / "run", process)
        for worker in survival.workers_of(process.pid):
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert time.monotonic() - began < 3


def test_too_few_open_files_are_named(tmp_path):
    script = (
        "import resource, a3c\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        f"a3c.train('CartPole-v1', workers=16, run_dir={str(tmp_path / 'run')!r}, quiet=True, tensorboard=False)\n"
    )
    with nothing_left():
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "OutOfResources: worker" in ended.stderr
    assert "raise the limit of open files (ulimit -n 4096), or take fewer --workers than 16" in ended.stderr
