"""Settings that were chosen by measurement, environment by environment, and how a run's settings come about."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy

from a3c.config import COUNTS, TrainConfig, flag, refuse_unknown
from a3c.envs import envpool
from a3c.envs.lookup import is_atari_id
from a3c.errors import UsageError

_PLAIN: dict[str, Any] = {"normalise_observations": False, "scale_rewards": False}

# benchmarks/learning_rate.py shows the grid that the learning rates come from.
_CARTPOLE: dict[str, Any] = _PLAIN | {
    "workers": 2,
    "envs_per_worker": 64,
    "total_env_steps": 1_000_000,
    "rollout_length": 8,
    "discount": 0.99,
    "lambda_": 0.95,
    "entropy_coef": 0.01,
    "value_coef": 0.25,
    "max_gradient_norm": 1.0,
    "learning_rate": 1.6e-2,
    "optimizer_decay": 0.95,
    "optimizer_epsilon": 1e-2,  # smaller ones blow up the noise of gradients that have become small
    "separate_torsos": True,
}

# What the environments below have in common; benchmarks/learning.py measures them.
_NUMBERS: dict[str, Any] = {
    "workers": 2,
    "lambda_": 0.95,
    "entropy_coef": 0.0,
    "max_gradient_norm": 0.5,
    "optimizer_epsilon": 1e-5,
    "separate_torsos": True,
}

_MUJOCO: dict[str, Any] = _NUMBERS | {
    "envs_per_worker": 4,
    "total_env_steps": 1_000_000,
    "rollout_length": 16,
    "discount": 0.99,
    "lambda_": 0.9,
    "entropy_coef": 0.001,
    "learning_rate": 2e-3,
}

_MINATAR: dict[str, Any] = _PLAIN | {
    "workers": 2,
    "envs_per_worker": 8,
    "total_env_steps": 3_000_000,
    "rollout_length": 5,
    "discount": 0.99,
    "lambda_": 0.9,
    "entropy_coef": 0.01,
    "max_gradient_norm": 0.5,
    "learning_rate": 4e-3,
    "optimizer_epsilon": 3e-4,
    "activation": "relu",
    "separate_torsos": False,
}

PRESETS: dict[str, dict[str, Any]] = {
    "CartPole-v1": _CARTPOLE,
    "Acrobot-v1": _NUMBERS
    | {
        "envs_per_worker": 4,
        "total_env_steps": 500_000,
        "rollout_length": 8,
        "discount": 0.99,
        "entropy_coef": 0.002,
        "learning_rate": 1e-2,
        "optimizer_epsilon": 1e-2,
    },
    "MountainCar-v0": _NUMBERS
    | {
        "envs_per_worker": 16,
        "total_env_steps": 1_000_000,
        "rollout_length": 8,
        "discount": 0.99,
        "entropy_coef": 0.01,
        "learning_rate": 2e-3,
    },
    "MountainCarContinuous-v0": _NUMBERS
    | {
        "envs_per_worker": 2,
        "total_env_steps": 100_000,
        "rollout_length": 100,
        "discount": 0.99,
        "learning_rate": 1e-3,
        "optimizer_epsilon": 1e-2,
    },
    "Pendulum-v1": _NUMBERS
    | {
        "envs_per_worker": 4,
        "total_env_steps": 1_000_000,
        "rollout_length": 16,
        "discount": 0.96,
        "value_coef": 0.4,
        "learning_rate": 2e-3,
        "optimizer_epsilon": 1e-4,
        "bias_correction": True,
        "initial_log_std": 0.5,
    },
    "LunarLander-v3": _NUMBERS
    | {
        "envs_per_worker": 16,
        "total_env_steps": 1_000_000,
        "rollout_length": 8,
        "discount": 0.995,
        "lambda_": 0.9,
        "entropy_coef": 0.003,
        "learning_rate": 5e-3,
    },
    # rl-zoo's settings of its A2C, with gSDE: 0.08 is its log_std_init of -2, in our units. Besides, against a policy
    # that stops moving before it has found out how to walk, a little entropy and first steps that are not too long.
    "BipedalWalker-v3": _NUMBERS
    | {
        "envs_per_worker": 16,
        "total_env_steps": 5_000_000,
        "rollout_length": 8,
        "discount": 0.99,
        "lambda_": 0.9,
        "entropy_coef": 0.0003,
        "value_coef": 0.4,
        "learning_rate": 9.6e-4,
        "bias_correction": True,
        "log_std": "gsde",
        "initial_log_std": 0.08,
        "noise_steps": 8,
    },
    "HalfCheetah-v5": _MUJOCO | {"envs_per_worker": 8, "discount": 0.98, "learning_rate": 3e-3},
    "Hopper-v5": _MUJOCO,
    "Walker2d-v5": _MUJOCO,
}
"""By environment id; keys are settings."""

# Mnih et al. 2016, section 8, and what its first author has added to it since.
_PAPER: dict[str, Any] = _PLAIN | {
    "workers": 16,
    "envs_per_worker": 1,
    "total_env_steps": 80_000_000,
    "rollout_length": 5,
    "end_rollout_at_episode_end": True,
    "discount": 0.99,
    "lambda_": 1.0,
    "entropy_coef": 0.01,
    "value_coef": 0.5,
    "loss_reduction": "sum",
    "max_gradient_norm": 40.0,  # not reported; 40 is customary
    "optimizer": "rmsprop",
    "learning_rate": 7e-4,
    "learning_rate_schedule": "linear",
    "optimizer_decay": 0.99,
    "optimizer_epsilon": 0.1,
    "epsilon_inside_root": True,
    "clip_rewards": 1.0,
    "activation": "relu",
    "separate_torsos": False,
    "atari_preprocessing": "paper",
    "memory_size": 256,  # with --memory lstm
}

_ATARI: dict[str, Any] = {
    "workers": 2,
    "envs_per_worker": 8,
    "total_env_steps": 10_000_000,
    "rollout_length": 5,
    "discount": 0.99,
    "lambda_": 0.9,
    "entropy_coef": 0.01,
    "value_coef": 0.5,
    "max_gradient_norm": 0.5,
    "learning_rate": 7e-4,
    "optimizer_epsilon": 1e-4,
    "clip_rewards": 1.0,
    "normalise_observations": True,  # most of Pong's picture is one grey
    "scale_rewards": False,
    "activation": "relu",
    "separate_torsos": False,
}

NAMED_PRESETS: dict[str, dict[str, Any]] = {"paper": _PAPER, "atari": _ATARI}
"""By name: `--preset paper`."""


_OF_OUR_NETWORKS = {"torso", "hidden_sizes", "activation", "separate_torsos"}


def find(env_name: str, preset: str) -> tuple[dict[str, Any], str]:
    """The preset's settings, and where they come from, in words. MODULE:ID has the preset of the ID."""
    if preset in NAMED_PRESETS:
        return NAMED_PRESETS[preset], f"preset {preset}"
    if preset == "auto":
        env_id = env_name.rpartition(":")[2]
        if env_id in PRESETS:
            return PRESETS[env_id], f"preset for {env_id}"
        if is_atari_id(env_name) or envpool.is_atari(env_name):
            return _ATARI, "preset for Atari"
        if env_id.startswith("MinAtar/"):
            return _MINATAR, "preset for MinAtar"
        return {}, "general defaults, there is no preset for this environment"
    return {}, "general defaults, as asked for"


def resolve(env_name: str, named: Mapping[str, Any]) -> tuple[TrainConfig, str]:
    """A run's settings, and one line that says where they came from.

    What the user named wins over the environment's preset, and that over the general defaults. A budget that
    the user named replaces the preset's: `total_episodes=2000` alone is not cut short by steps.

    Raises UsageError for a setting that does not exist, makes no sense or changes nothing.
    """
    refuse_unknown(named)
    preset, source = find(env_name, str(named.get("preset", "auto")))
    if (
        named.get("wrappers")
        and named.get("preset", "auto") == "auto"
        and not preset.get("normalise_observations", True)
    ):
        # It was chosen for observations as they come, and these are others: they may be in any unit.
        preset = preset | {"normalise_observations": True}
        source += ", with normalised observations for the wrappers' sake"
    values = preset | {name: plain(value, name) for name, value in named.items()}
    if named.get("total_episodes") is not None and "total_env_steps" not in named:
        values["total_env_steps"] = None
    config = replace(TrainConfig(), **values)
    config.validate()
    config.refuse_idle(named)
    if config.model is not None and (idle := sorted(_OF_OUR_NETWORKS & set(named))):
        raise UsageError(f"{flag(idle[0])} is of a3c's own networks and changes nothing of --model: leave one out")
    if preset and config.workers > preset["workers"]:
        config, source = _for_more_workers(config, preset, source, named)
    return config, describe(config, source, named)


def plain(value: Any, name: str | None = None) -> Any:
    """NumPy's numbers, lists and paths as what settings are made of, and 1e6 as a million where `name` is a count.

    What env_kwargs hold is the environment's.
    """
    if isinstance(value, float) and value.is_integer() and name in COUNTS:
        return int(value)
    if isinstance(value, Mapping):
        return {key: item.item() if isinstance(item, numpy.generic) else item for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value.item() if hasattr(value, "item") else value


def _for_more_workers(
    config: TrainConfig, preset: Mapping[str, Any], source: str, named: Mapping[str, Any]
) -> tuple[TrainConfig, str]:
    """What a preset needs where there are more workers than it was measured with.

    A3C's gradients are W - 1 updates stale on average, so about W of them step the same way before the first
    of them is seen: with 8 workers and the rate for 2, CartPole is not learned reliably. The rate is multiplied
    by sqrt(W_preset / W); in the serial runtime nobody is stale but with a delayed store, whose user says how much.

    A2C makes W times fewer updates of the same steps: its budget grows by W / W_preset, so that the number of
    updates stays.
    """
    ratio = f"{config.workers}/{preset['workers']}"
    if config.algorithm == "a2c" and "total_env_steps" not in named and config.total_env_steps is not None:
        steps = config.total_env_steps * config.workers // preset["workers"]
        return replace(config, total_env_steps=steps), f"{source}, steps x {ratio} for as many updates"
    if config.algorithm == "a3c" and "learning_rate" not in named and config.runtime != "serial":
        rate = rate_for(config.workers, preset["workers"], config.learning_rate)
        return replace(config, learning_rate=rate), f"{source}, rate / sqrt({ratio}) for staleness"
    return config, source


def rate_for(workers: int, measured_workers: int, learning_rate: float) -> float:
    """The rate for so many workers, where `learning_rate` was chosen with fewer; two digits."""
    return float(f"{learning_rate * math.sqrt(measured_workers / workers):.2g}")


def describe(config: TrainConfig, source: str, named: Collection[str]) -> str:
    """What was chosen, and why, in one line."""
    rate = f"{config.optimizer} {config.learning_rate:g} {config.learning_rate_schedule}"
    returns = f"discount {config.discount:g}, lambda {config.lambda_:g}, entropy {config.entropy_coef:g}"
    workers = f"{config.workers} worker{'s' if config.workers > 1 else ''}"
    envs = f"{config.envs_per_worker} environment{'s' if config.envs_per_worker > 1 else ''}"
    own = f"; yours: {', '.join(sorted(named))}" if named else ""
    return (
        f"{config.algorithm}: {workers} x {envs}, "
        f"{config.rollout_length} steps a rollout, {returns}, {rate}, store {config.resolved_store}, "
        f"seed {config.seed} ({source}{own})"
    )
