"""Playing a policy and measuring its return."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from a3c.config import OwnCode, flag
from a3c.core.seeding import evaluation_seeds
from a3c.envs.make import AnyVectorEnv, EnvFactory, making, reset_seed
from a3c.errors import NonFiniteError, UsageError
from a3c.experiment.environment import find_player
from a3c.experiment.policy import Policy
from a3c.experiment.run_directory import finite
from a3c.runtimes.threads import one_thread
from a3c.spaces.parts import Space, described, flatten, parts

MOST_STEPS = 108_000
"""By default, the steps after which an episode that does not end is cut: an Atari game's limit, in frames."""

MOST_ENVS = 64
"""By default, how many environments are played in at once."""

_BOOTSTRAP_RESAMPLES = 10_000
_MOST_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Evaluation:
    """The returns of a policy over some episodes; raw rewards, undiscounted."""

    episodes: int
    return_mean: float
    return_std: float  # of these episodes: the squares' sum is divided by their number
    return_ci95: tuple[float, float]  # bootstrap interval of the mean
    length_mean: float
    greedy: bool
    seed: int
    cut_episodes: int = 0  # of these, how many had not ended when they were given up; they count with what they had
    checkpoint: str | None = field(default=None, compare=False)  # the name of the run's that has played

    def to_json(self) -> dict[str, Any]:
        """As `a3c evaluate --json` prints it: None for what is not finite, which JSON cannot hold."""
        return cast(dict[str, Any], finite(asdict(self)))


def evaluate(
    policy: Policy | str | os.PathLike[str],
    env: str | EnvFactory | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
    greedy: bool = True,
    max_steps_per_episode: int = MOST_STEPS,
    environments: int = MOST_ENVS,
    env_kwargs: Mapping[str, Any] | None = None,
    model: OwnCode | None = None,
    checkpoint: str = "latest",
    trust_code: bool = False,
) -> Evaluation:
    """Play whole episodes with a fixed policy.

    Every environment plays its fixed share of the episodes, so short ones are not favoured. Seeds are apart
    from those of any training. Rewards are the environment's own, neither scaled nor clipped, and the policy does not
    change: the moments that normalise its observations stay as they are.

    Args:
        policy: a policy, or the directory of a run or of a saved policy.
        env: where to play; by default, for a run's directory, the run's own environment, made and wrapped as in
            training. Another one stands in place of it, within the run's wrappers and Atari preprocessing. A `Policy`
            does not know these: to play it as it was trained, name the run's directory.
        episodes: how many.
        seed: of the environments and of sampled actions.
        greedy: take the most probable action, else sample.
        max_steps_per_episode: an episode that has not ended by then is cut, and counts with what it has; its
            environment plays no more. So a policy that never comes to an end does not hang the evaluation.
        environments: how many to play in at once, at the most. Each has seeds of its own, so another number plays other
            episodes.
        env_kwargs: keyword arguments for making the environment, besides the run's own or in place of them; with `env`,
            all of them.
        model: for a policy with a network of a person's own: its factory, or `package.module:factory`.
        checkpoint: which of a run's: "latest", "best", "best-evaluation" or its name; see `a3c.load`.
        trust_code: use what the run's files name: code of an environment, wrappers or a network, modules, paths in
            env_kwargs.

    Raises:
        UsageError: nothing says where to play, the environment does not fit the policy or fails, or the run names
            code and is not trusted.
        RunDirectoryError: the run is missing or damaged.
        NonFiniteError: an observation or a reward is NaN or infinite.
    """
    check_at_least(1, episodes=episodes, max_steps_per_episode=max_steps_per_episode, environments=environments)
    check_at_least(0, seed=seed)
    policy, source = find_player(
        policy, env, env_kwargs=env_kwargs, model=model, checkpoint=checkpoint, trust_code=trust_code
    )
    with making(source):
        envs = source.make_vector(min(environments, episodes))
    try:
        check_fit(policy, envs.single_observation_space, envs.single_action_space, source.name)
        with making(source, "played"):
            return play_episodes(
                policy, envs, episodes, seed=seed, greedy=greedy, max_steps_per_episode=max_steps_per_episode
            )
    finally:
        envs.close()


def play_episodes(
    policy: Policy,
    envs: AnyVectorEnv,
    episodes: int,
    *,
    seed: int,
    greedy: bool = True,
    max_steps_per_episode: int = MOST_STEPS,
) -> Evaluation:
    """What `evaluate` does, in environments that are there; they are reset first. At least one episode for each."""
    count = envs.num_envs
    assert episodes >= count
    seeds = evaluation_seeds(seed, count + 2)
    player = Policy(policy.spec, policy.model, seed=seeds[-1])
    quotas = np.full(count, episodes // count) + (np.arange(count) < episodes % count)  # episodes each, [B]
    with one_thread():
        first_seed = reset_seed(envs, seeds[:count], seeds[-2])
        returns, lengths, cut = _play(player, envs, first_seed, quotas, greedy, max_steps_per_episode)
    return Evaluation(
        episodes=len(returns),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_ci95=bootstrap_interval(returns, seed),
        length_mean=float(lengths.mean()),
        greedy=greedy,
        seed=seed,
        cut_episodes=cut,
        checkpoint=policy.checkpoint,
    )


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13)."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _MOST_NUMBERS_AT_ONCE // len(values))
    sizes = [min(at_once, _BOOTSTRAP_RESAMPLES - done) for done in range(0, _BOOTSTRAP_RESAMPLES, at_once)]
    means = [values[generator.integers(len(values), size=(size, len(values)))].mean(1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def check_at_least(least: int, **numbers: int) -> None:
    """Raise UsageError for the first of the numbers, named as its flag, that is less than `least`."""
    for name, number in numbers.items():
        if number < least:
            wanted = f"{least} or more" if least == 0 else f"at least {least}"
            raise UsageError(f"{flag(name)} must be {wanted}, not {number}")


def check_fit(policy: Policy, observation_space: Space, action_space: Space, name: str) -> None:
    """Raise UsageError unless the environment called `name` has the spaces that the policy was trained between."""
    spec = policy.spec
    if not spec.fits(observation_space, action_space):
        raise UsageError(
            f"the policy takes observations {spec.observation_space} and has actions {spec.action_space}; {name!r} "
            f"gives {observation_space} and takes {action_space}"
        )


def check_finite(policy: Policy, observation: Any, reward: Any = 0.0, playing: Any = ...) -> None:
    """Raise NonFiniteError for a NaN or an infinity in what an environment gave, or those that are still `playing`."""
    flat = parts(flatten(policy.spec.observation_space, observation))
    for name, part in {"reward": reward, **{f"observation{described(path)}": flat[path] for path in flat}}.items():
        numbers = np.asarray(part)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers[playing]).all():
            raise NonFiniteError(f"the environment gave a NaN or an infinity as its {name}: no return can be told")


def _play(
    policy: Policy,
    envs: AnyVectorEnv,
    seed: int | list[int],
    quotas: NDArray[np.int64],
    greedy: bool,
    max_steps_per_episode: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Returns and lengths of `quotas[i]` episodes of environment i, for all of them; and how many episodes were cut."""
    count = len(quotas)
    observation, _ = envs.reset(seed=cast(Any, seed))
    state = None
    episode_start = np.ones(count, np.bool_)
    done = np.zeros(count, np.bool_)
    playing, to_play = np.ones(count, np.bool_), quotas.copy()
    episode_return, length = np.zeros(count), np.zeros(count, np.int64)
    played: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    cut_episodes = 0
    check_finite(policy, observation)
    while playing.any():
        action, state = policy.predict(observation, state, episode_start, deterministic=greedy)
        observation, reward, terminated, truncated, _ = envs.step(action)
        check_finite(policy, observation, reward, playing)
        episode_start = done  # NEXT_STEP: who was done has now been reset, and this step was none
        episode_return += np.where(episode_start, 0.0, reward)
        length += ~episode_start
        done = terminated | truncated
        cut = playing & ~done & (length >= max_steps_per_episode)
        cut_episodes += int(cut.sum())
        for i in np.flatnonzero(playing & (done | cut)):
            played[i].append((float(episode_return[i]), int(length[i])))
        to_play -= done
        playing &= ~cut & (to_play > 0)
        episode_return[done], length[done] = 0.0, 0
    kept = [episode for episodes in played for episode in episodes]
    return np.array([r for r, _ in kept]), np.array([n for _, n in kept]), cut_episodes
