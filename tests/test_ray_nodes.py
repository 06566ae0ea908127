"""A run on a Ray cluster of several nodes, which are killed and added while it goes on, and its server, too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from a3c.experiment import checkpoint
from leftovers import nothing_left


@pytest.mark.timeout(240)
def test_nodes_and_the_server_are_killed_and_cartpole_is_solved_all_the_same(tmp_path):
    program = Path(__file__).parent / "falling_ray_nodes.py"
    with nothing_left():
        done = subprocess.run(
            [sys.executable, str(program), str(tmp_path / "run")], capture_output=True, text=True, timeout=200
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["done"] == ["node", "server", "node"]
    assert told["solved"], told
    assert told["summary"]["worker_restarts"] >= 2
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert checkpoint.read_checkpoint(newest).state["env_steps"] == told["summary"]["env_steps"]
