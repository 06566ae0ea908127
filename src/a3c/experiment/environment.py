"""Where a policy plays: the environment that is named, or the one that the run's config.json records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from a3c.config import OwnCode
from a3c.envs.make import EnvFactory, EnvSource
from a3c.errors import UsageError
from a3c.experiment.env_source import env_source
from a3c.experiment.policy import Policy
from a3c.experiment.run_directory import CONFIG, holds_checkpoints
from a3c.experiment.saved_settings import read_settings
from a3c.experiment.trust import is_nameless, refuse_unasked

_RECORDED = (
    "env_kwargs", "wrappers", "import_", "max_episode_steps", "atari_preprocessing", "sticky_actions",
    "full_action_set", "life_loss_ends", "model",
)  # fmt: skip
"""The settings that say where, and with which network, a run's policy plays."""


class Player(NamedTuple):
    """A policy and where it plays."""

    policy: Policy
    source: EnvSource


def find_player(
    policy: Policy | str | os.PathLike[str],
    env: str | EnvFactory | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    model: OwnCode | None = None,
    checkpoint: str = "latest",
    trust_code: bool = False,
) -> Player:
    """The policy, and the environment that is named or else the run's own.

    An environment that is named stands in place of the run's, of its keyword arguments and its time limit. What the
    policy of a run sees its environment through stays: wrappers, and how Atari games are played.

    Args:
        policy: a policy, or the directory of a run or of a saved policy.
        env: where to play; by default, for a run's directory, the run's own environment.
        env_kwargs: keyword arguments for making it, besides the run's own or in place of them; of an environment that
            is named, all of them.
        model: for a policy with a network of a person's own: its factory, or `package.module:factory`.
        checkpoint: which of a run's; see `Policy.load`.
        trust_code: use the code, modules and paths that the run's files name.

    Raises:
        UsageError: nothing says where to play, or the run names code and is not trusted.
        RunDirectoryError: the run is missing or damaged.
    """
    if not isinstance(env_kwargs, Mapping | None):
        raise UsageError(f"env_kwargs are keyword arguments by name, a dict, not {env_kwargs!r}")
    if isinstance(policy, Policy):
        if env is None:
            raise UsageError("a policy alone does not say where to play: name the environment")
        return Player(policy, EnvSource(env, env_kwargs=dict(env_kwargs or {})))
    path = Path(policy)
    if env is not None and not (path / CONFIG).exists() and not holds_checkpoints(path):  # a saved policy
        return Player(Policy.load(path, model, checkpoint), EnvSource(env, env_kwargs=dict(env_kwargs or {})))
    saved = read_settings(path, _RECORDED)
    config = saved.config
    if any(map(is_nameless, config.wrappers)):
        raise UsageError(
            f"{path} was trained with wrappers that have no importable name: load the policy (a3c.load) and evaluate "
            "it on an environment that has them"
        )
    if env is not None:
        config, named = replace(config, env_kwargs={}, import_=(), max_episode_steps=None), []
    elif saved.env_by_name:
        env, named = saved.env, [saved.env]
    else:
        raise UsageError(
            f"{path} was trained on an environment that has no importable name, or with env_kwargs that JSON does "
            "not hold, so pass the environment"
        )
    if model is None and isinstance(config.model, str) and not is_nameless(config.model):
        model = config.model
        named.append(model)
    if not trust_code:
        code = [*named, *(f"{module}:" for module in config.import_)]
        unasked = {name: value for name, value in config.env_kwargs.items() if name not in (env_kwargs or {})}
        refuse_unasked(path, code, unasked, [str(wrapper) for wrapper in config.wrappers])
    config = replace(config, env_kwargs={**config.env_kwargs, **(env_kwargs or {})})
    return Player(Policy.load(path, model, checkpoint), env_source(env, config))
