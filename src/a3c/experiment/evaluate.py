"""Playing a policy and measuring its return."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from a3c.core.seeding import evaluation_seeds
from a3c.envs.make import AnyVectorEnv, EnvSource, making, reset_seed
from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.policy import Policy
from a3c.experiment.run_directory import CONFIG, read_json

_MOST_ENVS = 64
_BOOTSTRAP_RESAMPLES = 10_000


@dataclass(frozen=True)
class Evaluation:
    """The returns of a policy over some episodes; raw rewards, undiscounted."""

    episodes: int
    return_mean: float
    return_std: float
    return_ci95: tuple[float, float]  # bootstrap interval of the mean
    length_mean: float
    greedy: bool
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As `a3c evaluate --json` prints it: None for what is not finite, which JSON cannot hold."""
        record = asdict(self) | {"return_ci95": [_finite(bound) for bound in self.return_ci95]}
        return {name: _finite(value) for name, value in record.items()}


def evaluate(
    policy: Policy | str | os.PathLike[str],
    env: str | Callable[[], gym.Env[Any, Any]] | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
    greedy: bool = True,
) -> Evaluation:
    """Play whole episodes with a fixed policy.

    Every environment plays its fixed share of the episodes, so short ones are not favoured. Seeds are apart
    from those of any training.

    Args:
        policy: a policy, or a run's directory.
        env: where to play; by default, for a run's directory, the run's own environment.
        episodes: how many.
        seed: of the environments and of sampled actions.
        greedy: take the most probable action, else sample.

    Raises:
        UsageError: nothing says where to play, or the environment does not fit the policy.
        RunDirectoryError: the run is missing or damaged.
    """
    if episodes < 1:
        raise UsageError(f"--episodes must be at least 1, not {episodes}")
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, not {seed}")
    source = _source(policy, env)
    if not isinstance(policy, Policy):
        policy = Policy.load(policy)
    count = min(episodes, _MOST_ENVS)
    with making(source):
        envs = source.make_vector(count)
    try:
        _check_fit(policy, envs, source.name)
        seeds = evaluation_seeds(seed, count + 2)
        policy = Policy(policy.spec, policy.model, seed=seeds[-1])
        quotas = np.full(count, episodes // count) + (np.arange(count) < episodes % count)  # episodes each, [B]
        with _one_thread():
            returns, lengths = _play(policy, envs, reset_seed(envs, seeds[:count], seeds[-2]), quotas, greedy)
    finally:
        envs.close()
    return Evaluation(
        episodes=len(returns),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_ci95=bootstrap_interval(returns, seed),
        length_mean=float(lengths.mean()),
        greedy=greedy,
        seed=seed,
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13)."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(_BOOTSTRAP_RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # One row of a small network for each environment: threads would only wait for one another.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _play(
    policy: Policy, envs: AnyVectorEnv, seed: int | list[int], quotas: NDArray[np.int64], greedy: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns and lengths of `quotas[i]` episodes of environment i, for all of them."""
    count = len(quotas)
    observation, _ = envs.reset(seed=cast(Any, seed))
    state = None
    episode_start = np.ones(count, np.bool_)
    done = np.zeros(count, np.bool_)
    episode_return, length = np.zeros(count), np.zeros(count, np.int64)
    played: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    while any(len(p) < quota for p, quota in zip(played, quotas, strict=True)):
        action, state = policy.predict(observation, state, episode_start, deterministic=greedy)
        observation, reward, terminated, truncated, _ = envs.step(action)
        episode_start = done  # NEXT_STEP: who was done has now been reset, and this step was none
        episode_return += np.where(episode_start, 0.0, reward)
        length += ~episode_start
        done = terminated | truncated
        for i in np.flatnonzero(done):
            played[i].append((float(episode_return[i]), int(length[i])))
            episode_return[i], length[i] = 0.0, 0
    kept = [episode for p, quota in zip(played, quotas, strict=True) for episode in p[:quota]]
    return np.array([r for r, _ in kept]), np.array([n for _, n in kept])


def _source(policy: Policy | str | os.PathLike[str], env: str | Callable[[], gym.Env[Any, Any]] | None) -> EnvSource:
    if env is not None:
        return EnvSource(env)
    if isinstance(policy, Policy):
        raise UsageError("a policy alone does not say where to play: name the environment")
    config = read_json(Path(policy) / CONFIG)
    recorded = config.get("settings")
    settings = recorded if isinstance(recorded, dict) else {}
    name = settings.get("env")
    if not isinstance(name, str) or not config.get("env_by_name"):
        raise UsageError(f"{policy} was trained on {name!r}, which has no importable name: pass the environment")
    limit = settings.get("max_episode_steps")
    if limit is not None and not (type(limit) is int and limit > 0):
        raise RunDirectoryError(f"{Path(policy) / CONFIG} is damaged: max_episode_steps is {limit!r}")
    return EnvSource(name, limit)


def _check_fit(policy: Policy, envs: AnyVectorEnv, name: str) -> None:
    observation, action = envs.single_observation_space, envs.single_action_space
    spec = policy.spec
    if (
        observation.shape != spec.observation_shape
        or str(observation.dtype) != spec.observation_dtype
        or getattr(action, "n", None) != spec.action_count
    ):
        raise UsageError(
            f"the policy takes observations {spec.observation_shape} of {spec.observation_dtype} and has "
            f"{spec.action_count} actions; {name!r} gives {observation} and takes {action}"
        )
