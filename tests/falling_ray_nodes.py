"""A program for test_ray_nodes: trains on a Ray cluster of several nodes while it falls apart, and says how it went.

It is one of its own because a process that has been connected to one cluster cannot always begin with another.
"""

import json
import mmap
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import gymnasium as gym
import ray
from ray.cluster_utils import Cluster

import a3c
from ray_cluster import for_the_workers, kill_process_of, process_of


class SlowCartPole(gym.Wrapper):
    """CartPole-v1 that takes a while for a step; its episodes end early, so that it cannot be solved, while a file is.

    So a run on a fast machine is not over before its cluster has fallen apart. It counts its steps in a file of its
    own, which outlives its process.
    """

    def __init__(self, falling):
        super().__init__(gym.make("CartPole-v1"))
        self.falling = falling
        self.steps = 0
        with tempfile.NamedTemporaryFile(prefix=f"{os.getpid()}-", dir=falling.parent, delete=False) as file:
            file.truncate(8)
            self.count = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")

    def reset(self, **keywords):
        self.steps = 0
        return super().reset(**keywords)

    def step(self, action):
        self.count[0] += 1
        time.sleep(0.0001)
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        early = self.steps >= 200 and self.falling.exists()
        return observation, reward, terminated, truncated or early, info


def counted(folder):
    """How many steps the environments of other processes than this one have begun."""
    others = [file for file in folder.glob("*-*") if not file.name.startswith(f"{os.getpid()}-")]
    return sum(int.from_bytes(file.read_bytes(), sys.byteorder) for file in others)


class Falling:
    """A cluster of one machine whose nodes, and the run's server, are killed when the run has come to some steps."""

    def __init__(self, cluster, most, file):
        self.cluster = cluster
        self.file = file  # there while something is still to be lost
        file.touch()
        self.plan = [
            (5_000, self.lose_a_node),
            (15_000, lambda: self.kill("server")),
            (25_000, lambda: self.kill("keeper")),
            (35_000, self.lose_a_node),
            (75_000, self.stop_the_server),
        ][:most]
        self.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        self.done = []
        self.server_here = None  # whether it was on this process's node at first

    def on_report(self, line):
        if self.server_here is None:
            node = self.actor("server").__ray_call__.remote(lambda actor: ray.get_runtime_context().get_node_id())
            self.server_here = ray.get(node) == ray.get_runtime_context().get_node_id()
        if self.plan and line["env_steps"] > self.plan[0][0]:
            _, action = self.plan.pop(0)
            action()
            if not self.plan:
                self.file.unlink()

    def lose_a_node(self):
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        self.done.append("node")

    def kill(self, what):
        kill_process_of(self.actor(what))
        self.done.append(what)

    def stop_the_server(self):
        os.kill(process_of(self.actor("server")), signal.SIGSTOP)
        self.done.append("stopped server")

    def actor(self, what):
        (name,) = [name for name in ray.util.list_named_actors() if what in name]
        return ray.get_actor(name)


def main(run_dir, algorithm, most):
    """Train there, with so many of the losses, and print a line of JSON."""
    file = Path(run_dir).with_name("falling") / "falling"
    file.parent.mkdir()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 100 * 2**20,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        },
    )
    try:
        falling = Falling(cluster, most, file)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        cluster.wait_for_nodes()
        run = a3c.train(
            lambda: SlowCartPole(file), algorithm=algorithm, preset="none", runtime="ray", workers=2,
            envs_per_worker=16, learning_rate=4e-3, total_env_steps=1_000_000, stop_at_return=475.0, seed=1,
            run_dir=run_dir, quiet=True, tensorboard=False, on_report=falling.on_report,
        )  # fmt: skip
    finally:
        ray.shutdown()
        cluster.shutdown()
    settings = json.loads((run.path / "config.json").read_text())["settings"]
    told = {"done": falling.done, "server_here": falling.server_here, "solved": run.solved, "summary": run.summary}
    told |= {"counted": counted(file.parent), "rollout_length": settings["rollout_length"]}
    print(json.dumps(told))


if __name__ == "__main__":
    with for_the_workers(), mock.patch("a3c.stores.ray._ANSWER_S", 3.0):  # a run has more patience
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
