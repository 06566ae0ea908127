"""From a run's settings to where its environments come from. Imports no torch: the fork server starts first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a3c.config import TrainConfig
from a3c.envs.atari import AtariOptions
from a3c.envs.make import EnvSource


def env_source(env: str | Callable[..., Any], config: TrainConfig) -> EnvSource:
    """Where the environments of a run with these settings come from."""
    return EnvSource(
        env,
        config.max_episode_steps,
        config.env_kwargs,
        config.wrappers,
        config.import_,
        AtariOptions(config.atari_preprocessing, config.sticky_actions, config.full_action_set, config.life_loss_ends),
    )
