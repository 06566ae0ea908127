"""A run on a Ray cluster of several nodes, which are killed and added while it goes on, and its server, too."""

import json
import os
import signal
import time

import gymnasium as gym
import pytest
import ray
from ray.cluster_utils import Cluster

import a3c
from a3c.experiment import checkpoint
from ray_cluster import for_the_workers

pytestmark = pytest.mark.timeout(240)


class SlowCartPole(gym.Wrapper):
    """CartPole-v1 that takes a while for a step."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))

    def step(self, action):
        time.sleep(0.0001)
        return super().step(action)


class Falling:
    """A cluster of one machine whose nodes, and the run's server, are killed when the run has come to some steps."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.plan = [(5_000, self.lose_a_node), (15_000, self.kill_server), (25_000, self.lose_a_node)]
        self.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        self.done = []

    def on_report(self, line):
        if self.plan and line["env_steps"] > self.plan[0][0]:
            _, action = self.plan.pop(0)
            action()

    def lose_a_node(self):
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        self.done.append("node")

    def kill_server(self):
        (name,) = [name for name in ray.util.list_named_actors() if "parameter-server" in name]
        _, pid = ray.get(ray.get_actor(name).place.remote())
        os.kill(pid, signal.SIGKILL)
        self.done.append("server")


def saved_steps(run_dir):
    newest = max((run_dir / "checkpoints").glob("step-*"))
    return checkpoint.read_checkpoint(newest).state["env_steps"]


def test_nodes_and_the_server_are_killed_and_cartpole_is_solved_all_the_same(tmp_path):
    with for_the_workers():
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": 100 * 2**20,
                "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
            },
        )
        try:
            falling = Falling(cluster)
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            cluster.wait_for_nodes()
            run = a3c.train(
                SlowCartPole, preset="none", runtime="ray", workers=2, envs_per_worker=16, learning_rate=4e-3,
                total_env_steps=1_000_000, stop_at_return=475.0, seed=1, run_dir=str(tmp_path / "run"), quiet=True,
                tensorboard=False, on_report=falling.on_report,
            )  # fmt: skip
        finally:
            ray.shutdown()
            cluster.shutdown()
    assert falling.done.count("node") == 2
    assert falling.done.count("server") == 1
    assert run.solved, run.summary
    assert run.summary["worker_restarts"] >= 2
    counters = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert run.summary["env_steps"] == counters["env_steps"] == saved_steps(run.path)
