"""a3c: asynchronous advantage actor-critic (Mnih et al. 2016) in PyTorch, with A2C beside it.

    run = a3c.train("CartPole-v1", workers=2, seed=0, run_dir="runs/cartpole")
    policy = a3c.load("runs/cartpole")
    a3c.evaluate(policy, "CartPole-v1", episodes=20)

Importing this package imports nothing else (PEP 562): each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a3c.config import TrainConfig
    from a3c.errors import A3CError
    from a3c.experiment.compare import compare
    from a3c.experiment.evaluate import Evaluation, evaluate
    from a3c.experiment.launch import resume, train
    from a3c.experiment.policy import Policy, load
    from a3c.experiment.record import record
    from a3c.experiment.train import Run

__version__ = "0.1.0"

__all__ = [
    "A3CError",
    "Evaluation",
    "Policy",
    "Run",
    "TrainConfig",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "record",
    "resume",
    "train",
]

_HOMES = {
    "A3CError": "a3c.errors",
    "Evaluation": "a3c.experiment.evaluate",
    "Policy": "a3c.experiment.policy",
    "Run": "a3c.experiment.train",
    "TrainConfig": "a3c.config",
    "compare": "a3c.experiment.compare",
    "evaluate": "a3c.experiment.evaluate",
    "load": "a3c.experiment.policy",
    "record": "a3c.experiment.record",
    "resume": "a3c.experiment.launch",
    "train": "a3c.experiment.launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'a3c' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
