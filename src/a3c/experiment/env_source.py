"""From a run's settings to where its environments come from. Imports no torch: the fork server starts first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from a3c.config import TrainConfig
from a3c.envs.atari import AtariOptions
from a3c.envs.make import EnvSource
from a3c.errors import UsageError


def env_source(env: str | Callable[..., Any], config: TrainConfig) -> EnvSource:
    """Where the environments of a run with these settings come from.

    Raises UsageError for an environment in place of what makes one.
    """
    if isinstance(env, gym.Env | VectorEnv):
        raise UsageError(
            f"{type(env).__name__} is an environment, and each worker makes its own: pass what makes one, such as its "
            "class, or `lambda: make_it(...)`"
        )
    return EnvSource(
        env,
        config.max_episode_steps,
        config.env_kwargs,
        config.wrappers,
        config.import_,
        AtariOptions(config.atari_preprocessing, config.sticky_actions, config.full_action_set, config.life_loss_ends),
    )
