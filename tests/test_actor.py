"""The actor's rollouts and episodes, from scripted environments whose every number is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from a3c.actor import Actor
from a3c.envs.make import EnvSource, reset_seed
from a3c.errors import UnsupportedEnvironment
from a3c.types import Episode
from scripted_env import Script, ScriptedEnv, vectorise


def act(observation, state, episode_start):
    return np.zeros(len(observation), np.int64), None


def actor_of(*envs: ScriptedEnv, seed=0, policy=act, length=16, **options) -> Actor:
    return Actor(vectorise(*envs), policy, seed=seed, max_rollout_length=length, **options)


def test_rows_follow_next_step():
    env = ScriptedEnv(Script([1, 2]), Script([3, 4, 5], "truncated"))
    rollout = actor_of(env).unroll(7)
    # The row after an end is the episode's true final observation; the row after that is the next one's first.
    assert rollout.observations[:, 0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [1, 3], [2, 0]]
    assert rollout.rewards[:, 0].tolist() == [1, 2, 0, 3, 4, 5, 0]
    assert rollout.terminated[:, 0].tolist() == [False, True, False, False, False, False, False]
    assert rollout.truncated[:, 0].tolist() == [False, False, False, False, False, True, False]
    assert rollout.episode_start[:, 0].tolist() == [True, False, False, True, False, False, False, True]
    assert rollout.real[:, 0].tolist() == [True, True, False, True, True, True, False]
    assert rollout.env_steps == 5


def test_shapes_and_dtypes():
    rollout = actor_of(*(ScriptedEnv(Script([1.0] * 9)) for _ in range(3))).unroll(4)
    assert rollout.observations.shape == (5, 3, 2)
    assert rollout.episode_start.shape == (5, 3)
    for field in (rollout.actions, rollout.rewards, rollout.terminated, rollout.truncated, rollout.real):
        assert field.shape == (4, 3)
    assert rollout.actions.dtype == torch.int64
    assert rollout.observations.dtype == torch.float32
    assert rollout.terminated.dtype == rollout.truncated.dtype == rollout.episode_start.dtype == torch.bool


@pytest.mark.parametrize("split", [(1,) * 12, (2,) * 6, (3,) * 4, (5, 7), (7, 4, 1)])
def test_consecutive_rollouts_are_one_long_one_cut_up(split):
    def make() -> Actor:
        return actor_of(
            ScriptedEnv(Script([1, 2]), Script([3], "truncated")), ScriptedEnv(Script([1, 1, 1, 1], "truncated"))
        )

    whole, pieces, actor, begin = make().unroll(12), [], make(), 0
    for length in split:
        rollout = actor.unroll(length)
        for field in ("observations", "episode_start"):
            assert torch.equal(getattr(rollout, field), getattr(whole, field)[begin : begin + length + 1])
        for field in ("actions", "rewards", "terminated", "truncated", "real"):
            assert torch.equal(getattr(rollout, field), getattr(whole, field)[begin : begin + length])
        pieces.append(rollout.env_steps)
        begin += length
    assert sum(pieces) == whole.env_steps


@pytest.mark.parametrize("length", range(1, 14))
def test_trap_6_the_last_reward_of_an_episode_is_kept(length):
    env = ScriptedEnv(Script([0, 0, 0, 1]), Script([0, 0, 1], "truncated"))
    actor, earned, steps = actor_of(env), 0.0, 0
    for _ in range(60):
        rollout = actor.unroll(length)
        done = rollout.terminated | rollout.truncated
        assert torch.equal(rollout.rewards == 1, done)  # the reward lies in the row whose action ended the episode
        assert bool(rollout.real[done].all())
        earned += rollout.rewards[rollout.real].sum().item()
        steps += rollout.env_steps
    finished = actor.finished_episodes()
    assert earned == len(finished)
    assert [episode.length for episode in finished] == [4 if i % 2 == 0 else 3 for i in range(len(finished))]
    assert 0 <= steps - sum(episode.length for episode in finished) < 4


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 16])
def test_episodes_are_counted_exactly_across_rollouts(length):
    first = ScriptedEnv(Script([1, 2]), Script([3]), Script([4, 5, 6], "truncated"))
    second = ScriptedEnv(Script([10, 20, 30, 40, 50]))
    actor = actor_of(first, second)
    seen = []
    for _ in range(48 // length):
        actor.unroll(length)
        seen.append(actor.finished_episodes())
    finished = [episode for episodes in seen for episode in episodes]
    cycle = [Episode(3.0, 2), Episode(3.0, 1), Episode(15.0, 3)]
    lane_0 = [episode for episode in finished if episode.length != 5]
    lane_1 = [episode for episode in finished if episode.length == 5]
    assert lane_0 == (cycle * 6)[: len(lane_0)]
    assert lane_1 == [Episode(150.0, 5)] * len(lane_1)
    rows = length * (48 // length)
    assert len(lane_1) == (rows + 1) // 6  # five steps and the row that resets
    assert len(lane_0) == sum(end <= rows for cycle_ in range(6) for end in np.array([2, 4, 8]) + 9 * cycle_)


def test_several_ends_in_one_rollout_in_the_order_of_the_ends():
    actor = actor_of(ScriptedEnv(Script([1])), ScriptedEnv(Script([2, 2], "truncated")))
    actor.unroll(6)
    # lane 0 ends at rows 0, 2, 4; lane 1 at rows 1 and 4
    assert actor.finished_episodes() == (
        Episode(1.0, 1),
        Episode(4.0, 2),
        Episode(1.0, 1),
        Episode(1.0, 1),
        Episode(4.0, 2),
    )
    assert actor.finished_episodes() == ()


def test_returns_are_summed_in_double_precision():
    rewards = [2.0**24] + [1.0] * 999  # in float32 every 1 would be lost
    actor = actor_of(ScriptedEnv(Script(rewards)), length=1000)
    actor.unroll(1000)
    assert actor.finished_episodes() == (Episode(2.0**24 + 999, 1000),)

    actor = actor_of(ScriptedEnv(Script([0.1] * 1000)), length=64)
    for _ in range(16):
        actor.unroll(64)
    (episode,) = actor.finished_episodes()
    assert episode.episode_return == pytest.approx(100.0, rel=1e-12)


@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_nan_reward_does_not_poison_other_episodes(length):
    poisoned = ScriptedEnv(Script([1, math.nan]), Script([1, 1]))
    actor = actor_of(poisoned, ScriptedEnv(Script([2, 2])))
    finished = []
    for _ in range(9 // length):
        actor.unroll(length)
        finished += actor.finished_episodes()
    assert [e.episode_return for e in finished] == pytest.approx([math.nan, 4, 2, 4, math.nan, 4], nan_ok=True)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_rollout_that_ends_with_its_episode(end):
    env = ScriptedEnv(Script([1, 2, 3], end))
    actor = actor_of(env, end_at_episode_end=True)
    for episode in range(3):
        rollout = actor.unroll(16)
        assert rollout.observations[:, 0].tolist() == [[episode, step] for step in range(4)]
        assert rollout.rewards[:, 0].tolist() == [1, 2, 3]
        assert rollout.episode_start[:, 0].tolist() == [True, False, False, False]
        assert getattr(rollout, end)[:, 0].tolist() == [False, False, True]
        assert rollout.env_steps == 3
        assert actor.finished_episodes() == (Episode(6.0, 3),)


def test_a_rollout_that_ends_with_its_episode_or_after_t_max():
    actor = actor_of(ScriptedEnv(Script([1, 2, 3, 4, 5])), end_at_episode_end=True)
    rewards, starts, episodes = [], [], []
    for _ in range(6):
        rollout = actor.unroll(2)
        rewards.append(rollout.rewards[:, 0].tolist())
        starts.append(bool(rollout.episode_start[0]))
        episodes += actor.finished_episodes()
        assert rollout.env_steps == len(rollout.rewards)  # never a row that merely resets
    assert rewards == [[1, 2], [3, 4], [5], [1, 2], [3, 4], [5]]
    assert starts == [True, False, False, True, False, False]
    assert episodes == [Episode(15.0, 5)] * 2


def test_ending_with_the_episode_takes_one_environment():
    with pytest.raises(ValueError, match="one environment a worker"):
        actor_of(ScriptedEnv(Script([1])), ScriptedEnv(Script([1])), end_at_episode_end=True)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused_with_the_reason(mode):
    envs = vectorise(ScriptedEnv(Script([1])), mode=mode)
    with pytest.raises(UnsupportedEnvironment, match=r"SyncVectorEnv resets in autoreset mode .*NEXT_STEP"):
        Actor(envs, act, seed=0, max_rollout_length=4)


def test_buffers_are_allocated_once():
    actor = actor_of(ScriptedEnv(Script([1, 2, 3])), length=8)
    first = actor.unroll(8)
    addresses = [field.data_ptr() for field in (first.observations, first.actions, first.rewards, first.terminated)]
    second = actor.unroll(5)
    assert [f.data_ptr() for f in (second.observations, second.actions, second.rewards, second.terminated)] == addresses
    assert first.rewards[:5].tolist() == second.rewards.tolist()  # overwritten, as `Rollout` says


def test_actions_count_from_0_in_the_rollout_and_from_start_in_the_environment():
    chosen = iter([2, 0, 1, 2, 0])

    def policy(observation, state, episode_start):
        return np.array([next(chosen)]), None

    env = ScriptedEnv(Script([1, 1, 1, 1, 1, 1]), actions=3, first_action=-1)
    rollout = actor_of(env, policy=policy).unroll(5)
    assert rollout.actions[:, 0].tolist() == [2, 0, 1, 2, 0]
    assert env.actions == [1, -1, 0, 1, -1]


def test_ending_with_the_episode_steps_over_the_reset_with_a_legal_action():
    env = ScriptedEnv(Script([1]), actions=3, first_action=5)
    actor = actor_of(env, end_at_episode_end=True)
    for _ in range(3):
        actor.unroll(4)
    assert env.actions == [5, 5, 5]
    assert env.episode == 2


def test_the_policy_sees_each_row_once_with_its_state():
    seen = []

    def policy(observation, state, episode_start):
        seen.append((observation[0].tolist(), state, bool(episode_start[0])))
        return np.zeros(1, np.int64), len(seen)

    actor = actor_of(ScriptedEnv(Script([1, 2])), policy=policy)
    assert actor.unroll(2).state is None
    assert actor.unroll(3).state == 2
    assert seen == [
        ([0, 0], None, True),
        ([0, 1], 1, False),
        ([0, 2], 2, False),
        ([1, 0], 3, True),
        ([1, 1], 4, False),
    ]
    actor.reset_state()
    assert actor.unroll(1).state is None


def test_trap_7_an_environment_is_seeded_once_and_never_again():
    envs = [ScriptedEnv(Script([1, 1])) for _ in range(3)]
    actor_of(*envs, seed=[11, 22, 33]).unroll(8)
    assert [env.seeds for env in envs] == [[11, None, None], [22, None, None], [33, None, None]]


@pytest.mark.parametrize("count", [2, 8])
def test_trap_7_episodes_and_lanes_begin_differently_and_runs_repeat(count):
    def starts(seed: int) -> np.ndarray:
        envs = EnvSource("CartPole-v1", max_episode_steps=3).make_vector(count)
        seeds = [seed + lane for lane in range(count)]
        rollout = Actor(envs, act, seed=reset_seed(envs, seeds, seed), max_rollout_length=16).unroll(16)
        return rollout.observations[rollout.episode_start].numpy().copy()

    first = starts(0)
    assert len(first) == 5 * count  # rows 0, 4, 8, 12 and 16
    assert len(np.unique(first, axis=0)) == len(first)
    assert (starts(0) == first).all()
    assert not (starts(1000) == first).any()


def test_closing_the_actor_closes_its_environments():
    closed = []

    class Closing(ScriptedEnv):
        def close(self) -> None:
            closed.append(True)

    actor_of(Closing(Script([1])), Closing(Script([1]))).close()
    assert closed == [True, True]
