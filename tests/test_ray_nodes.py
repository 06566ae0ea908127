"""Runs on a Ray cluster of several nodes, which are killed and added while they go on, and their servers, too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from a3c.experiment import checkpoint
from leftovers import nothing_left_of_children

LOSSES = ["node", "server", "keeper", "node", "stopped server"]
ENVS = 16
UNSEEN = 40_000  # steps that a server which is lost may have taken since it was last kept


@pytest.mark.timeout(360)
@pytest.mark.parametrize(("algorithm", "losses"), [("a3c", LOSSES), ("a2c", LOSSES[:1])])
def test_what_a_run_needs_is_killed_and_cartpole_is_solved_all_the_same(tmp_path, algorithm, losses):
    program = Path(__file__).parent / "falling_ray_nodes.py"
    with nothing_left_of_children() as environment:
        done = subprocess.run(
            [sys.executable, str(program), str(tmp_path / "run"), algorithm, str(len(losses))],
            capture_output=True, text=True, timeout=320, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["done"] == losses
    assert told["server_here"]  # else the loss of any node may take it along
    assert told["solved"], told
    restarts = told["summary"]["worker_restarts"]
    assert restarts >= losses.count("node")
    # What was pushed counts, and once: all that was stepped, but for what each life of a worker still had in hand (a
    # rollout, and two updates on their way), and for what a server that was lost had taken since it was last kept.
    in_hand = 3 * (2 + restarts) * ENVS * told["rollout_length"]
    unseen = sum("server" in loss for loss in losses) * UNSEEN
    assert told["counted"] - in_hand - unseen <= told["summary"]["env_steps"] <= told["counted"], told
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert checkpoint.read_checkpoint(newest).state["env_steps"] == told["summary"]["env_steps"]
