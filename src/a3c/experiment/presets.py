"""Settings that were chosen by measurement, environment by environment, and how a run's settings come about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from a3c.config import TrainConfig, setting_names
from a3c.errors import UsageError

# benchmarks/learning_rate.py shows the grid that the learning rates come from.
_CARTPOLE: dict[str, Any] = {
    "workers": 2,
    "envs_per_worker": 64,
    "total_env_steps": 500_000,
    "rollout_length": 8,
    "discount": 0.99,
    "lambda_": 0.95,
    "entropy_coef": 0.01,
    "value_coef": 0.25,
    "max_gradient_norm": 1.0,
    "learning_rate": 8e-3,
    "optimizer_decay": 0.95,
    "optimizer_epsilon": 1e-3,
    "separate_torsos": True,
}

PRESETS: dict[str, dict[str, Any]] = {"CartPole-v1": _CARTPOLE}
"""By environment id; keys are settings."""

A2C_PRESETS: dict[str, dict[str, Any]] = {}
"""What A2C has otherwise: it makes W times fewer updates of W times more steps, so its learning rate differs."""


def resolve(env_name: str, named: Mapping[str, Any]) -> tuple[TrainConfig, str]:
    """A run's settings, and one line that says where they came from.

    What the user named wins over the environment's preset, and that over the general defaults. A budget that
    the user named replaces the preset's budget: `total_episodes=2000` alone is not cut short by steps.

    Raises UsageError for a setting that does not exist or makes no sense.
    """
    unknown = set(named) - setting_names()
    if unknown:
        raise UsageError(f"there is no setting {sorted(unknown)[0]!r}; see `a3c train --help` for those there are")
    algorithm = named.get("algorithm", TrainConfig.algorithm)
    preset = PRESETS.get(env_name, {}) | (A2C_PRESETS.get(env_name, {}) if algorithm == "a2c" else {})
    budget = {}
    if named.get("total_episodes") is not None and "total_env_steps" not in named:
        budget = {"total_env_steps": None}
    values = preset | budget | dict(named)
    if isinstance(values.get("hidden_sizes"), list):
        values["hidden_sizes"] = tuple(values["hidden_sizes"])
    config = replace(TrainConfig(), **values)
    config.validate()
    source = f"preset for {env_name}" if preset else "general defaults (no preset for this environment)"
    return config, describe(config, source, named)


def describe(config: TrainConfig, source: str, named: Mapping[str, Any]) -> str:
    """What was chosen, and why, in one line."""
    optimizer = f"{config.optimizer} {config.learning_rate:g} {config.learning_rate_schedule}"
    own = f"; yours: {', '.join(sorted(named))}" if named else ""
    return (
        f"{config.algorithm}: {config.workers} workers x {config.envs_per_worker} environments, "
        f"{config.rollout_length} steps a rollout, {optimizer}, store {config.resolved_store}, "
        f"seed {config.seed} ({source}{own})"
    )
