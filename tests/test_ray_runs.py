"""Whole runs on Ray: from `a3c.train` and the command line, on one machine and on clusters that fall apart."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import gymnasium as gym
import pytest
import ray
import torch

import a3c
from a3c.errors import ClusterError, UsageError, WorkerFailed
from leftovers import nothing_left_of_children
from ray_cluster import for_the_workers, ray_cluster

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def one_machine():
    with ray_cluster():
        yield


@pytest.mark.usefixtures("one_machine")
@pytest.mark.parametrize("algorithm", ["a3c", "a2c"])
def test_cartpole_is_solved_with_two_workers(tmp_path, algorithm):
    run = a3c.train(
        "CartPole-v1", runtime="ray", algorithm=algorithm, stop_at_return=475.0, total_env_steps=10**6, seed=1,
        run_dir=str(tmp_path / "run"), quiet=True, tensorboard=False,
    )  # fmt: skip
    assert run.solved, run.summary
    assert a3c.evaluate(run.policy(), "CartPole-v1", episodes=20).return_mean > 100  # it may play worse at the very end
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["env_steps"] == run.summary["env_steps"]
    stale = [line["staleness_max"] for line in lines if line["staleness_max"] is not None]
    assert max(stale) >= 1 if algorithm == "a3c" else max(stale) == 0


@pytest.mark.usefixtures("one_machine")
@pytest.mark.parametrize("hidden", [(8,), (256, 256)], ids=["small", "fetched apart"])
@pytest.mark.parametrize(
    ("on_ray", "here"),
    [
        ({"updates_in_flight": 0}, {"store": "local"}),
        ({"updates_in_flight": 1}, {"store": "delayed", "delay": 1}),
        ({"algorithm": "a2c", "workers": 2}, {"algorithm": "a2c", "workers": 2}),
    ],
    ids=["no update in flight", "one", "a2c"],
)
def test_workers_on_ray_learn_what_those_in_this_process_do_to_the_bit(tmp_path, monkeypatch, on_ray, here, hidden):
    monkeypatch.setattr("a3c.runtimes.ray._SAY_S", 600.0)  # a round waits for both, however slow one is to start
    common = {
        "workers": 1, "envs_per_worker": 4, "rollout_length": 8, "total_env_steps": 3_000, "hidden_sizes": hidden,
        "quiet": True, "tensorboard": False,
    }  # fmt: skip
    runs = []
    for runtime, settings in (("ray", on_ray), ("serial", here)):
        path = str(tmp_path / runtime)
        runs.append(a3c.train("CartPole-v1", runtime=runtime, run_dir=path, **common | settings))
    assert runs[0].summary["env_steps"] == runs[1].summary["env_steps"]
    one, other = (run.policy().model.flat for run in runs)
    assert torch.equal(one, other)


@pytest.mark.usefixtures("one_machine")
def test_actors_have_names_that_can_be_read(tmp_path):
    names = set()
    a3c.train(
        "CartPole-v1", runtime="ray", workers=2, run_dir=str(tmp_path / "run"), total_env_steps=5_000, quiet=True,
        tensorboard=False, on_report=lambda line: names.update(ray.util.list_named_actors()) and None,
    )  # fmt: skip
    kinds = {re.sub(r"-[0-9a-f]{6}$", "", name) for name in names}
    assert {"a3c-worker-0", "a3c-worker-1", "a3c-parameter-server", "a3c-keeper"} <= kinds


@pytest.mark.usefixtures("one_machine")
def test_a_run_is_taken_up_on_ray_and_off_it_again(tmp_path):
    common = {"run_dir": str(tmp_path / "run"), "quiet": True, "tensorboard": False}
    a3c.train("CartPole-v1", total_env_steps=20_000, learning_rate_schedule="constant", **common)
    for runtime, steps in (("ray", 40_000), ("processes", 120_000)):  # so far that a pole falls, or is held long enough
        run = a3c.resume(common["run_dir"], runtime=runtime, total_env_steps=steps, quiet=True)
        assert steps <= run.summary["env_steps"] < steps + 10_000
    with open(run.path / "episodes.csv") as file:
        seen = [int(row["env_steps"]) for row in csv.DictReader(file)]
    assert max(seen) > 40_000


@pytest.mark.usefixtures("one_machine")
def test_what_a_worker_fails_with_is_told(tmp_path):
    def broken():
        if ray.get_runtime_context().get_actor_id() is None:
            return gym.make("CartPole-v1")
        raise ZeroDivisionError("no pole here")

    with pytest.raises(WorkerFailed, match=r"worker \d failed: ZeroDivisionError: no pole here \(on node "):
        a3c.train(broken, runtime="ray", run_dir=str(tmp_path / "run"), quiet=True, tensorboard=False)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "worker_failed"


@pytest.mark.usefixtures("one_machine")
def test_a_server_that_is_gone_for_good_ends_the_run_with_its_files_in_order(tmp_path):
    def lose_the_server(line):
        for name in ray.util.list_named_actors():  # it may have gone already
            if "parameter-server" in name:
                ray.kill(ray.get_actor(name))

    with pytest.raises((ClusterError, WorkerFailed), match="is gone for good .*`a3c resume` goes on from it"):
        a3c.train(
            "CartPole-v1", runtime="ray", run_dir=str(tmp_path / "run"), total_env_steps=10**9, quiet=True,
            tensorboard=False, on_report=lose_the_server,
        )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] in ("failed", "worker_failed")
    assert "is gone for good" in (tmp_path / "run" / "error.txt").read_text()
    run = a3c.resume(tmp_path / "run", total_env_steps=20_000, quiet=True)
    assert run.summary["exit_reason"] == "total_env_steps"


@pytest.mark.usefixtures("one_machine")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 3}, "3 workers with 1 CPUs each do not fit on this Ray cluster, 2 do"),
        ({"worker_gpus": -1.0}, "--worker-gpus must be 0 or more"),
        ({"worker_gpus": 1.5}, "1 CPUs and 1.5 GPUs: take 0 or at least 0.0001, and of GPUs a whole number or a part"),
        ({"worker_cpus": 1e-5}, "1e-05 CPUs: take 0 or at least 0.0001"),
        ({"store": "hogwild"}, "take --store ray"),
        ({"store": "ray", "algorithm": "a2c"}, "take --store ray-synchronous"),
        ({"algorithm": "a2c", "updates_in_flight": 0}, "--updates-in-flight changes nothing without --store ray"),
        ({"runtime": "processes", "worker_cpus": 2.0}, "--worker-cpus changes nothing without --runtime ray"),
        ({"device": "cuda"}, "--worker-gpus 1"),
        ({"device": "cuda:0", "worker_gpus": 1.0}, "must be cpu, cuda or auto with --runtime ray"),
        ({"ray_runtime_env": {"env_vars": {"A": "1"}}}, "Ray is in use in this process already"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        a3c.train("CartPole-v1", **{"runtime": "ray", "run_dir": str(tmp_path / "run"), "quiet": True} | settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_machine")
def test_a_cluster_that_is_named_is_shown_the_token_that_it_wants(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    assert len(environment) < len(os.environ), "Ray asks for no token"
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--runtime", "ray", "--ray-address", address]
    done = subprocess.run(
        [*command, "--total-env-steps", "5000", "--run-dir", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


WITHOUT_TOKEN = """\
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=10**8, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


def test_a_token_that_the_cluster_does_not_want_is_not_shown(tmp_path):
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0" * 32)
    with for_the_workers():
        environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        cluster = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_TOKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment | {"RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
    with cluster:
        address = cluster.stdout.readline().strip()
        command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--runtime", "ray", "--ray-address", address]
        done = subprocess.run(
            [*command, "--total-env-steps", "5000", "--run-dir", str(tmp_path / "run")],
            capture_output=True, text=True, timeout=120, env=environment | {"HOME": str(home)},
        )  # fmt: skip
        cluster.communicate("\n", timeout=60)
    assert done.returncode == 0, done.stderr


OWN_CODE = """\
import gymnasium as gym, torch

class Pole(gym.Wrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))

class Net(torch.nn.Module):
    def __init__(self, observation_space):
        super().__init__()
        self.layer, self.features = torch.nn.Linear(4, 8), 8

    def forward(self, observation):
        return torch.tanh(self.layer(observation))
"""
ITS_CALL = """\
import json, ray, sys
sys.path.insert(0, sys.argv[1])
import a3c
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8, log_to_driver=False,
         runtime_env=json.loads(sys.argv[3]))
a3c.train("my_pole:Pole", model="my_pole:Net", runtime="ray", workers=1, run_dir=sys.argv[2], total_env_steps=2_000,
          quiet=True, tensorboard=False)
"""


@pytest.mark.parametrize("brought", [True, False], ids=["brought by Ray", "only where the run begins"])
def test_ones_own_environment_and_network_reach_the_workers(tmp_path, brought):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_pole.py").write_text(OWN_CODE)
    brings = json.dumps({"working_dir": str(tmp_path / "code")} if brought else {})
    with for_the_workers(), nothing_left_of_children() as environment:
        done = subprocess.run(
            [sys.executable, "-c", ITS_CALL, str(tmp_path / "code"), str(tmp_path / "run"), brings],
            capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path,
        )  # fmt: skip
    if brought:
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"] >= 2_000
    else:
        assert done.returncode == 1
        assert "cannot import 'my_pole' (ModuleNotFoundError" in done.stderr
        assert (
            """or let Ray bring it: --ray-runtime-env '{"working_dir": "."}', or '{"pip": ["NAME"]}'""" in done.stderr
        )


def test_without_ray_the_extra_is_named(tmp_path):
    script = "import sys; sys.modules['ray'] = None; import a3c.cli; a3c.cli.main()"
    command = [sys.executable, "-c", script, "train", "CartPole-v1", "--runtime", "ray"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "r")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'a3c[ray]'" in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path):
    command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--runtime", "ray", "--ray-address", "127.0.0.1:9"]
    began = time.monotonic()
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "r")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr
    assert time.monotonic() - began < 30
    assert not (tmp_path / "r").exists()


def test_the_command_line_begins_a_cluster_and_ends_it(tmp_path):
    with for_the_workers(), nothing_left_of_children() as environment:
        command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--runtime", "ray", "--seed", "1"]
        done = subprocess.run(
            [*command, "--total-env-steps", "20000", "--run-dir", str(tmp_path / "run")],
            capture_output=True, text=True, timeout=120, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "store ray" in done.stdout
    assert "Warning" not in done.stderr


def begun(run_dir, environment):
    """A run on a cluster of its own, without an end, once some episodes are over."""
    command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--runtime", "ray", "--quiet"]
    run = subprocess.Popen(
        [*command, "--total-env-steps", str(10**9), "--checkpoint-every-s", "1", "--run-dir", str(run_dir)],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    episodes = run_dir / "episodes.csv"
    deadline = time.monotonic() + 90
    while not (episodes.exists() and episodes.read_text().count("\n") > 5):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return run


def test_ctrl_c_saves_and_leaves_nothing(tmp_path):
    with for_the_workers(), nothing_left_of_children() as environment:
        run = begun(tmp_path / "run", environment)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=30)
    assert run.returncode == 130, told
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "interrupted"


def test_sigterm_before_the_first_step_ends_with_its_code_and_leaves_nothing(tmp_path):
    (tmp_path / "slow_to_make.py").write_text(
        "import pathlib, time\n\n\ndef make():\n    pathlib.Path('made').touch()\n    time.sleep(60)\n"
    )
    with for_the_workers(), nothing_left_of_children() as environment:
        command = [sys.executable, "-m", "a3c", "train", "slow_to_make:make", "--runtime", "ray", "--run-dir", "run"]
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
        deadline = time.monotonic() + 90
        while not (tmp_path / "made").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run.terminate()
        _, told = run.communicate(timeout=30)
    assert run.returncode == 143, told


def test_a_run_whose_process_is_killed_leaves_nothing_and_is_taken_up(tmp_path):
    run_dir = tmp_path / "run"
    with for_the_workers(), nothing_left_of_children() as environment:
        run = begun(run_dir, environment)
        deadline = time.monotonic() + 60
        while not (steps := saved_steps(run_dir)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run.kill()
        run.communicate(timeout=30)
    with for_the_workers(), nothing_left_of_children() as environment:
        command = [sys.executable, "-m", "a3c", "resume", str(run_dir), "--quiet"]
        done = subprocess.run(
            [*command, "--total-env-steps", str(steps + 20_000)], capture_output=True, text=True, timeout=120,
            env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert steps + 20_000 <= saved_steps(run_dir) == json.loads((run_dir / "summary.json").read_text())["env_steps"]
    assert json.loads((run_dir / "config.json").read_text())["settings"]["runtime"] == "ray"


def saved_steps(run_dir):
    """T of the newest checkpoint."""
    return max(int(path.name.removeprefix("step-")) for path in (run_dir / "checkpoints").glob("step-*"))
