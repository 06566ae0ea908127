"""The actor's rollouts and episodes, from scripted environments whose every number is known."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from a3c.actor import LIFE_LOST, Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.envs.make import EnvSource, reset_seed
from a3c.errors import UnsupportedEnvironment
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.spaces.actions import ActionSpace
from a3c.spaces.parts import parts
from a3c.stores.local import LocalStore
from a3c.types import Episode
from builders import make_rule
from drawn_spaces import Between
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
def test_the_last_reward_of_an_episode_is_kept(length):
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


def test_an_environment_is_seeded_once_and_never_again():
    envs = [ScriptedEnv(Script([1, 1])) for _ in range(3)]
    actor_of(*envs, seed=[11, 22, 33]).unroll(8)
    assert [env.seeds for env in envs] == [[11, None, None], [22, None, None], [33, None, None]]


@pytest.mark.parametrize("count", [2, 8])
def test_episodes_and_lanes_begin_differently_and_runs_repeat(count):
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


# Observations and actions of other kinds.


class Counting(gym.Env):
    """Episodes of three steps; every part of an observation says which episode and step it is of."""

    observation_space = spaces.Dict(
        {
            "place": spaces.Tuple([spaces.Discrete(4), spaces.Box(-np.inf, np.inf, (), np.float64)]),
            "image": spaces.Box(0, 255, (2, 3), np.uint8),
        }
    )
    action_space = spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(0, 10, (2,))])

    def __init__(self, lane=0):
        self.episode, self.lane, self.actions = -1, lane, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action):
        self.actions.append((int(action[0]), action[1].tolist()))
        self.steps += 1
        return self._observe(), 1.0, self.steps == 3, False, {}

    def _observe(self):
        image = np.full((2, 3), 10 * self.lane + self.episode, np.uint8)
        return {"place": (self.steps, np.array(self.episode / 4)), "image": image}


def counting_actor(*, length=8, policy=None, lanes=2):
    envs = [Counting(lane) for lane in range(lanes)]

    def choose(observation, state, episode_start):
        return np.tile([2.0, 0.5, -1.0], (lanes, 1)), None

    return Actor(vectorise(*envs), policy or choose, seed=0, max_rollout_length=length), envs


def test_each_part_of_an_observation_has_a_buffer_of_its_own_dtype():
    actor, _ = counting_actor()
    rollout = actor.unroll(8)
    observations = rollout.observations
    outline = {path: (tuple(part.shape), part.dtype) for path, part in observations.items()}
    assert outline == {
        "image": ((9, 2, 2, 3), torch.uint8),
        "place/0": ((9, 2), torch.int64),
        "place/1": ((9, 2), torch.float64),
    }
    assert observations["place/0"][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert (4 * observations["place/1"][:, 1]).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert observations["image"][:, 1, 0, 0].tolist() == [10] * 4 + [11] * 4 + [12]
    addresses = [part.data_ptr() for part in observations.values()]
    assert [part.data_ptr() for part in actor.unroll(3).observations.values()] == addresses


def test_consecutive_rollouts_of_nested_observations_are_one_long_one_cut_up():
    whole, (actor, _), begin = counting_actor()[0].unroll(8).observations, counting_actor(), 0
    for length in (3, 1, 4):
        for path, part in actor.unroll(length).observations.items():
            assert torch.equal(part, whole[path][begin : begin + length + 1])
        begin += length


def test_the_policy_sees_rows_of_each_part():
    seen = []

    def policy(observation, state, episode_start):
        seen.append({path: part.shape for path, part in observation.items()})
        return np.zeros((2, 3)), None

    counting_actor(policy=policy)[0].unroll(2)
    assert seen == [{"image": (2, 2, 3), "place/0": (2,), "place/1": (2,)}] * 2


def test_flat_actions_are_kept_and_the_environment_gets_its_own():
    actor, envs = counting_actor()
    rollout = actor.unroll(2)
    assert rollout.actions.dtype == torch.float64
    assert rollout.actions.tolist() == [[[2.0, 0.5, -1.0]] * 2] * 2
    assert envs[1].actions == [(3, [7.5, 0.0])] * 2


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Discrete(3), (), torch.int64),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), (4,), torch.int64),
        (spaces.MultiBinary((2, 2)), (4,), torch.int64),
        (spaces.Box(-1, 1, (2, 2)), (4,), torch.float32),
        (spaces.Box(-1, 1, ()), (1,), torch.float32),
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiBinary(2)}), (3,), torch.int64),
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))}), (3,), torch.float64),
    ],
    ids=str,
)
def test_actions_of_each_kind_have_the_distributions_shape_and_dtype(space, shape, dtype):
    envs = [Between(spaces.Box(-1, 1, (2,)), space) for _ in range(2)]
    actions = ActionSpace(space)
    model = ActorCritic(envs[0].observation_space, actions.distribution, Network(hidden_sizes=(4,)))
    actor = Actor(vectorise(*envs), ActingPolicy(model, seed=0), actions, seed=0, max_rollout_length=5)
    found = actor.unroll(5).actions
    assert (tuple(found.shape), found.dtype) == ((5, 2, *shape), dtype)
    assert model.distribution.log_prob(model(actor.unroll(5)).policy[:-1], found).shape == (5, 2)


@pytest.mark.parametrize("kind", [bool, int, np.bool_, np.int8])
def test_a_lost_life_ends_the_value_but_not_the_episode(kind):
    class Lives(ScriptedEnv):
        def step(self, action):
            *rest, _ = super().step(action)
            return *rest, {LIFE_LOST: kind(self.steps == 2)}

    rollout = (actor := actor_of(Lives(Script([1] * 4, "truncated")))).unroll(6)
    assert rollout.terminated[:, 0].tolist() == [False, True, False, False, False, False]
    assert rollout.truncated[:, 0].tolist() == [False, False, False, True, False, False]
    assert rollout.episode_start[:, 0].tolist() == [True, False, False, False, False, True, False]
    assert actor.finished_episodes() == (Episode(4.0, 4),)


# Action masks.

MASKED = {
    "Discrete": (spaces.Discrete(4, start=2), (4,)),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3], start=[1, 0]), (2, 3)),
    "Tuple": (spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 2])]), (3, 2, 2)),
}


def masked_learner(kind, memory=None, lanes=3):
    """Environments whose masks change at every step, and a learner in them."""
    space, choices = MASKED[kind]
    mask = spaces.Box(0, 1, (sum(choices),), np.int8)
    observations = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,)), "action_mask": mask})
    envs = [Between(observations, space, choices) for _ in range(lanes)]
    actions = ActionSpace(space)
    torch.manual_seed(0)
    network = Network(hidden_sizes=(8,), memory=memory, memory_size=4)
    model = ActorCritic(observations, actions.distribution, network)
    actor = Actor(vectorise(*envs), ActingPolicy(model, seed=0), actions, seed=0, max_rollout_length=6)
    return envs, actor, model


@pytest.mark.parametrize("memory", [None, "gru"])
@pytest.mark.parametrize("kind", MASKED)
def test_a_forbidden_action_is_never_taken_and_rows_that_forbid_all_make_no_nan(kind, memory):
    envs, actor, model = masked_learner(kind, memory)
    store = LocalStore(model.flat, make_rule(learning_rate=0.3))  # soon far from uniform
    tape, push = [], store.push
    store.push = lambda gradient, *rest: (tape.append(gradient), push(gradient, *rest))[1]
    settings = ActorCriticSettings(6, 0.9, 1.0, 0.01, 0.5, "mean")
    for _, update in zip(range(60), actor_learner(settings, actor, model, store), strict=False):
        assert update.dropped is None
        assert all(math.isfinite(value) for value in update.losses.values())
    assert all(bool(gradient.isfinite().all()) for gradient in tape)
    empty = 0
    for env in envs:
        taken = 0
        for rows in env.masks:
            if not any(row.any() for row in rows):  # an episode's last: the step after merely resets
                empty += 1
                continue
            if taken == len(env.actions):
                break
            action = env.actions[taken]
            offsets = np.concatenate([np.ravel(getattr(s, "start", 0)) for s in parts_of(env.action_space)])
            flat = np.concatenate([np.ravel(part) for part in (action if isinstance(action, tuple) else (action,))])
            assert all(row[choice] for row, choice in zip(rows, flat - offsets, strict=True))
            taken += 1
        assert taken > 100
    assert empty > 20


def parts_of(space):
    return space.spaces if isinstance(space, spaces.Tuple) else [space]


def test_what_is_forbidden_throughout_gets_no_gradient():
    _, actor, model = masked_learner("Discrete")
    rollout = actor.unroll(6)
    parts(rollout.observations)["action_mask"][:] = torch.tensor([1, 0, 1, 1])
    rollout.actions[rollout.actions == 1] = 0
    settings = ActorCriticSettings(6, 0.9, 1.0, 0.01, 0.5, "mean")
    gradients = []

    class Keeps:
        def pull(self, out):
            return LocalStore(model.flat, make_rule()).pull(out)

        def push(self, gradient, counts, version):
            gradients.append(gradient)

    class Repeats:
        def unroll(self, length):
            return rollout

        def finished_episodes(self):
            return ()

    next(actor_learner(settings, Repeats(), model, Keeps()))
    begin = 0
    for name, parameter in model.named_parameters():
        own = gradients[0][begin : begin + parameter.numel()].reshape(parameter.shape)
        begin += parameter.numel()
        if name.startswith("policy_head.linear"):
            assert not own[1].any()
            assert own[[0, 2, 3]].any()
    assert begin == len(gradients[0])
