"""The actor: a vector environment, an acting policy, and the rollouts they make together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from a3c.errors import UnsupportedEnvironment
from a3c.spaces.actions import ActionSpace
from a3c.spaces.images import buffer_of, pieces_of
from a3c.spaces.parts import basic_parts, flatten, map_parts
from a3c.types import LIFE_LOST, Episode, Rollout, State, no_beat

Act = Callable[[Any, State, NDArray[np.bool_]], tuple[NDArray[Any], State]]

_NUMPY_DTYPES: dict[torch.dtype, Any] = {torch.int64: np.int64, torch.float32: np.float32, torch.float64: np.float64}


class Actor:
    """Steps B environments, T steps at a time, into buffers allocated once.

    Owns its environments' episodes and the buffers; a rollout is overwritten by the next unroll.

    Args:
        envs: a vector environment in NEXT_STEP autoreset mode (`a3c.envs.make` sees to that).
        act: flat observation [B, *O], recurrent state, episode_start [B] -> flat actions [B, *K], next state.
        action_space: how flat actions become the environments' own.
        seed: for the environments: one int for each, or one for all where that is what they take.
        max_rollout_length: the largest T that will be asked for.
        end_at_episode_end: end a rollout where its episode ends, as in the paper; one environment only.
        beat: is called after every step, by which others know that this worker lives.
        passes: what `act` has worked out in its last so many calls, all since it was asked last, or None.

    Raises:
        UnsupportedEnvironment: the environment resets in another autoreset mode.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        act: Act,
        action_space: ActionSpace | None = None,
        *,
        seed: int | Sequence[int] | None,
        max_rollout_length: int,
        end_at_episode_end: bool = False,
        beat: Callable[[], None] = no_beat,
        passes: Callable[[int], Any] = lambda steps: None,
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
        self.beat = beat
        self.passes = passes
        self.action_space = action_space or ActionSpace(envs.single_action_space)
        length, lanes = max_rollout_length, envs.num_envs
        self.observation_space = envs.single_observation_space
        observation_parts = basic_parts(self.observation_space, "the observation space")
        buffers = {path: buffer_of(part, (length + 1, lanes)) for path, part in observation_parts.items()}
        self.observations: Any = buffers.get("", buffers)  # [T+1, B, *O]
        self._pieces = {path: pieces_of(part) for path, part in observation_parts.items()}
        distribution = self.action_space.distribution
        action_dtype = _NUMPY_DTYPES[distribution.action_dtype]
        self.actions = np.zeros((length, lanes, *distribution.action_shape), action_dtype)  # [T, B, *K]
        self.rewards = np.zeros((length, lanes), np.float64)  # [T, B]
        self.terminated = np.zeros((length, lanes), np.bool_)  # [T, B]
        self.truncated = np.zeros((length, lanes), np.bool_)  # [T, B]
        self.done = np.zeros((length, lanes), np.bool_)  # whose episode ended, [T, B]
        self.episode_start = np.zeros((length + 1, lanes), np.bool_)  # [T+1, B]
        self.state: State = None
        self.episode_return = np.zeros(lanes, np.float64)  # of the episodes under way, [B]
        self.episode_length = np.zeros(lanes, np.int64)  # [B]
        self._finished: list[Episode] = []
        # The row that the next rollout begins with, and whether its episodes have ended: [B, *O], [B], [B].
        first, _ = envs.reset(seed=cast(Any, list(seed) if isinstance(seed, Sequence) else seed))
        self.next_observation = map_parts(np.array, flatten(self.observation_space, first))
        self.next_episode_start = np.ones(lanes, np.bool_)
        self.next_done = np.zeros(lanes, np.bool_)
        # Views of the buffers: one for each step, and those of a whole rollout.
        self._rows = [_row(self.observations, t) for t in range(length)]
        self._whole = self._first_steps(length)

    def unroll(self, length: int) -> Rollout:
        """Act for `length` steps (fewer if an episode ends and ends the rollout) and say what happened.

        `length` is at most the actor's `max_rollout_length`.
        """
        assert length <= len(self.rewards), "longer than the buffers"
        if self.end_at_episode_end and self.next_done.all():
            self._step_over_reset()
        state = self.state
        map_parts(_set_first, self.observations, self.next_observation)
        self.episode_start[0] = self.next_episode_start
        for t in range(length):
            self.actions[t], self.state = self.act(self._rows[t], self.state, self.episode_start[t])
            observation, reward, terminated, truncated, info = self.envs.step(
                self.action_space.to_environment(self.actions[t])
            )
            self.beat()
            self._write(t + 1, flatten(self.observation_space, observation))
            self.rewards[t] = reward
            self.terminated[t] = terminated
            self.truncated[t] = truncated
            self.episode_start[t + 1] = self.next_done  # NEXT_STEP: who was done has now been reset
            self.done[t] = self.next_done = terminated | truncated
            if LIFE_LOST in info:
                self.terminated[t] |= np.asarray(info[LIFE_LOST], np.bool_)  # some vectors gather them as 0 and 1
            if self.end_at_episode_end and self.next_done.all():
                length = t + 1
                break
        self.next_observation = map_parts(lambda buffer: buffer[length].copy(order="K"), self.observations)
        self.next_episode_start = self.episode_start[length].copy()
        steps = self._whole if length == len(self.rewards) else self._first_steps(length)
        rollout = Rollout(**steps, state=state, passes=self.passes(length))
        self._count_episodes(rollout.real.numpy())
        return rollout

    def finished_episodes(self) -> tuple[Episode, ...]:
        """Episodes that have ended since the last call, in the order of their ends."""
        finished, self._finished = tuple(self._finished), []
        return finished

    def reset_state(self) -> None:
        """Forget the recurrent state, as after a rollout that must not be trusted."""
        self.state = None

    def _step_over_reset(self) -> None:
        # The step in which NEXT_STEP merely resets would be a rollout's empty first row: take it outside.
        first, *_ = self.envs.step(self.action_space.to_environment(np.zeros_like(self.actions[0])))
        self.next_observation = map_parts(np.array, flatten(self.observation_space, first))
        self.next_episode_start = np.ones_like(self.next_done)
        self.next_done = np.zeros_like(self.next_done)

    def _first_steps(self, length: int) -> dict[str, Any]:
        """A rollout's tensors, so many steps long, by name; they share the buffers' memory."""
        return {
            "observations": map_parts(lambda buffer: torch.from_numpy(buffer[: length + 1]), self.observations),
            "actions": torch.from_numpy(self.actions[:length]),
            "rewards": torch.from_numpy(self.rewards[:length]),
            "terminated": torch.from_numpy(self.terminated[:length]),
            "truncated": torch.from_numpy(self.truncated[:length]),
            "episode_start": torch.from_numpy(self.episode_start[: length + 1]),
        }

    def _write(self, t: int, observation: Any) -> None:
        if isinstance(self.observations, dict):
            for path, buffer in self.observations.items():
                _fill(buffer[t], observation[path], self._pieces[path])
        else:
            _fill(self.observations[t], observation, self._pieces[""])

    def _count_episodes(self, real: NDArray[np.bool_]) -> None:
        # Once a rollout, not once a step. Rows that merely reset carry no reward and no length.
        rewards = np.where(real, self.rewards[: len(real)], 0.0)  # [T, B] float64
        done = self.done[: len(real)] & real  # [T, B]
        begin = 0
        for t in np.logical_or.reduce(done, 1).nonzero()[0].tolist():  # in which some episode ends
            self.episode_return += np.add.reduce(rewards[begin : t + 1], 0)
            self.episode_length += np.add.reduce(real[begin : t + 1], 0)
            for lane in np.flatnonzero(done[t]):
                self._finished.append(Episode(float(self.episode_return[lane]), int(self.episode_length[lane])))
                self.episode_return[lane], self.episode_length[lane] = 0.0, 0
            begin = t + 1
        self.episode_return += np.add.reduce(rewards[begin:], 0)
        self.episode_length += np.add.reduce(real[begin:], 0)


def _fill(row: NDArray[Any], observation: Any, pieces: list[tuple[Any, ...]]) -> None:
    for piece in pieces:
        row[piece] = observation[piece]


def _set_first(buffer: NDArray[Any], observation: NDArray[Any]) -> None:
    buffer[0] = observation


def _row(observations: Any, t: int) -> Any:
    return map_parts(lambda buffer: buffer[t], observations)
