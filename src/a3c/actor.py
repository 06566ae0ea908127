"""The actor: a vector environment, an acting policy, and the rollouts they make together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from a3c.errors import UnsupportedEnvironment
from a3c.types import Episode, Rollout, State

Act = Callable[[NDArray[Any], State, NDArray[np.bool_]], tuple[NDArray[np.int64], State]]


class Actor:
    """Steps B environments, T steps at a time, into buffers allocated once.

    Owns its environments' episodes and the buffers; a rollout is overwritten by the next unroll.

    Args:
        envs: a vector environment in NEXT_STEP autoreset mode (`a3c.envs.make` sees to that).
        act: observation [B, *O], recurrent state, episode_start [B] -> actions [B] from 0, next state.
        seed: for the environments: one int for each, or one for all where that is what they take.
        max_rollout_length: the largest T that will be asked for.
        end_at_episode_end: end a rollout where its episode ends, as in the paper; one environment only.

    Raises:
        UnsupportedEnvironment: the environment resets in another autoreset mode.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        act: Act,
        *,
        seed: int | Sequence[int] | None,
        max_rollout_length: int,
        end_at_episode_end: bool = False,
    ) -> None:
        if end_at_episode_end and envs.num_envs != 1:
            raise ValueError("rollouts can only end at an episode's end with one environment a worker")
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise UnsupportedEnvironment(
                f"{type(envs.unwrapped).__name__} resets in autoreset mode {mode}, which hides the final observation "
                "that a time limit bootstraps from; build it with autoreset_mode=AutoresetMode.NEXT_STEP"
            )
        self.envs = envs
        self.act = act
        self.end_at_episode_end = end_at_episode_end
        self.action_start = int(getattr(envs.single_action_space, "start", 0))
        length, lanes = max_rollout_length, envs.num_envs
        space = envs.single_observation_space
        assert space.shape is not None
        self.observations = np.zeros((length + 1, lanes, *space.shape), space.dtype)  # [T+1, B, *O]
        self.actions = np.zeros((length, lanes), np.int64)  # [T, B]
        self.rewards = np.zeros((length, lanes), np.float64)  # [T, B]
        self.terminated = np.zeros((length, lanes), np.bool_)  # [T, B]
        self.truncated = np.zeros((length, lanes), np.bool_)  # [T, B]
        self.episode_start = np.zeros((length + 1, lanes), np.bool_)  # [T+1, B]
        self.state: State = None
        self.episode_return = np.zeros(lanes, np.float64)  # of the episodes under way, [B]
        self.episode_length = np.zeros(lanes, np.int64)  # [B]
        self._finished: list[Episode] = []
        # The row that the next rollout begins with, and whether its episodes have ended: [B, *O], [B], [B].
        self.next_observation, _ = envs.reset(seed=cast(Any, list(seed) if isinstance(seed, Sequence) else seed))
        self.next_episode_start = np.ones(lanes, np.bool_)
        self.next_done = np.zeros(lanes, np.bool_)

    def unroll(self, length: int) -> Rollout:
        """Act for `length` steps (fewer if an episode ends and ends the rollout) and say what happened."""
        if self.end_at_episode_end and self.next_done.all():
            self._step_over_reset()
        state = self.state
        self.observations[0] = self.next_observation
        self.episode_start[0] = self.next_episode_start
        for t in range(length):
            action, self.state = self.act(self.observations[t], self.state, self.episode_start[t])
            observation, reward, terminated, truncated, _ = self.envs.step(action + self.action_start)
            self.actions[t] = action
            self.rewards[t] = reward
            self.terminated[t] = terminated
            self.truncated[t] = truncated
            self.observations[t + 1] = observation
            self.episode_start[t + 1] = self.next_done  # NEXT_STEP: who was done has now been reset
            self.next_done = terminated | truncated
            if self.end_at_episode_end and self.next_done.all():
                length = t + 1
                break
        self.next_observation = self.observations[length].copy()
        self.next_episode_start = self.episode_start[length].copy()
        self._count_episodes(length)
        return Rollout(
            observations=torch.from_numpy(self.observations[: length + 1]),
            actions=torch.from_numpy(self.actions[:length]),
            rewards=torch.from_numpy(self.rewards[:length]),
            terminated=torch.from_numpy(self.terminated[:length]),
            truncated=torch.from_numpy(self.truncated[:length]),
            episode_start=torch.from_numpy(self.episode_start[: length + 1]),
            state=state,
        )

    def finished_episodes(self) -> tuple[Episode, ...]:
        """Episodes that have ended since the last call, in the order of their ends."""
        finished, self._finished = tuple(self._finished), []
        return finished

    def reset_state(self) -> None:
        """Forget the recurrent state, as after a rollout that must not be trusted."""
        self.state = None

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def _step_over_reset(self) -> None:
        # The step in which NEXT_STEP merely resets would be a rollout's empty first row: take it outside.
        action = np.zeros(self.envs.num_envs, np.int64) + self.action_start
        self.next_observation, *_ = self.envs.step(action)
        self.next_episode_start = np.ones_like(self.next_done)
        self.next_done = np.zeros_like(self.next_done)

    def _count_episodes(self, length: int) -> None:
        # Once a rollout, not once a step. Rows that merely reset carry no reward and no length.
        real = ~self.episode_start[1 : length + 1]  # [T, B]
        rewards = np.where(real, self.rewards[:length], 0.0)  # [T, B] float64
        done = (self.terminated[:length] | self.truncated[:length]) & real  # [T, B]
        begin = 0
        for end in (*np.flatnonzero(done.any(1)), length - 1):
            self.episode_return += rewards[begin : end + 1].sum(0)
            self.episode_length += real[begin : end + 1].sum(0)
            for lane in np.flatnonzero(done[end]) if begin <= end else ():
                self._finished.append(Episode(float(self.episode_return[lane]), int(self.episode_length[lane])))
                self.episode_return[lane], self.episode_length[lane] = 0.0, 0
            begin = end + 1
