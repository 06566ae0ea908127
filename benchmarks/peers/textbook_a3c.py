"""examples/a3c_one_file.py with its environments recorded; arguments are its own. See run.py, which runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
from recording import Recorded

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import a3c_one_file as one_file

plain = one_file.actor_learner


def actor_learner(*arguments: Any) -> None:
    """The example's, in a worker process."""
    one_file.gym = SimpleNamespace(make=lambda name: Recorded(gym.make(name)))
    plain(*arguments)


if __name__ == "__main__":
    one_file.actor_learner = actor_learner
    one_file.main()
