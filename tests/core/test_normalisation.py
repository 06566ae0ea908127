"""The normaliser: its formulas by hand, its moments against NumPy, its running returns against episodes' scripts."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import a3c
from a3c.actor import Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.core import moments as running
from a3c.core.normalisation import Normaliser
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import Network
from a3c.stores.local import LocalStore
from a3c.types import Rollout
from builders import Remote, make_rule, make_store
from leftovers import nothing_left
from random_rollout import random_rollout
from scripted_env import Script, ScriptedEnv, vectorise

GAMMA = 0.9


def moments_of(*columns) -> torch.Tensor:
    """[3, M] from (n, mean, variance) of each scalar."""
    return torch.tensor([(n, mean, n * variance) for n, mean, variance in columns], dtype=torch.float64).T


def loaded(sizes, *columns, **options) -> Normaliser:
    normaliser = Normaliser(sizes, **options)
    normaliser.load(moments_of(*columns))
    return normaliser


def of_rewards(rewards) -> Rollout:
    rollout = random_rollout(0, len(rewards), 1, end_probability=0.0)
    rollout.rewards = torch.tensor(rewards, dtype=torch.float64).reshape(-1, 1)
    return rollout


def test_observations_by_hand():
    normaliser = loaded({"": 2}, (10, 3.0, 4.0), (10, -1.0, 0.25))
    found = normaliser.observations(torch.tensor([[5.0, -1.0], [3.0, 0.0], [99.0, -99.0]]), torch.float32)
    assert found.tolist() == [[1.0, 0.0], [0.0, 2.0], [10.0, -10.0]]
    assert found.dtype == torch.float32


IMAGE_VALUES = [0, 87, 255, 87]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64])
@pytest.mark.parametrize(("mean", "std"), [(0.25, 0.5), (0.5, 0.03), (0.02, 0.004)])  # the last two clip
def test_images_by_hand(dtype, mean, std):
    normaliser = Normaliser({"speed": 1}, image_units={"eye": 255.0}, scale_rewards=True)
    normaliser.load(moments_of((9, 5.0, 4.0), (100, mean, std**2), (9, 0.0, 9.0)))
    image = torch.tensor(IMAGE_VALUES).reshape(1, 2, 2).to(dtype)
    for wanted in (torch.float32, torch.float64):
        found = normaliser.observations({"eye": image, "speed": torch.tensor([7.0])}, wanted)
        expected = ((np.array(IMAGE_VALUES) / 255 - mean) / std).clip(-10, 10)
        np.testing.assert_allclose(found["eye"].flatten().numpy(), expected, rtol=1e-5, atol=1e-6)
        assert found["eye"].dtype == wanted
        assert found["eye"].shape == image.shape
        assert found["speed"].tolist() == [1.0]
    assert image.flatten().tolist() == IMAGE_VALUES
    assert normaliser.reward_unit == 3.0


def test_an_images_moments_are_those_of_all_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 200, (5, 3, 2, 8, 8), np.uint8)  # [T+1, B, *O]
    for dtype in (np.uint8, np.float32):
        rollout = random_rollout(0, 4, 3)
        rollout.observations = torch.from_numpy(pixels.astype(dtype))
        count, mean, deviations = Normaliser(image_units={"": 255.0}).deltas(rollout)
        seen = pixels[:-1].astype(np.float64) / 255  # the last row is the next rollout's first
        assert count.tolist() == [seen.size]
        np.testing.assert_allclose((mean, deviations / count), ([seen.mean()], [seen.var()]), rtol=1e-12)


def test_an_image_is_in_its_unit_before_anything_is_seen():
    image = torch.tensor(IMAGE_VALUES, dtype=torch.uint8).reshape(2, 2)
    normaliser = Normaliser(image_units={"": 255.0})
    torch.testing.assert_close(normaliser.observations(image, torch.float32), image / 255)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (3, 1), (1, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.int64])
def test_any_shape_dtype_and_lead(shape, dtype):
    size = math.prod(shape)
    columns = [(7, float(i), 1.0 + i) for i in range(size)]
    normaliser = loaded({"": size}, *columns)
    mean, std = (np.array([f(c) for c in columns]).reshape(shape) for f in (lambda c: c[1], lambda c: c[2] ** 0.5))
    for lead in [(), (4,), (5, 4)]:
        values = torch.randint(0, 9, (*lead, *shape)).to(dtype)
        found = normaliser.observations(values, torch.float64)
        np.testing.assert_allclose(found.numpy(), (values.numpy() - mean) / std, rtol=1e-12, atol=1e-12)


def test_rewards_by_hand():
    rollout = of_rewards([4.0, -1.0, 100.0, 0.0])
    scaled = loaded({}, (50, 123.0, 4.0), scale_rewards=True)  # divided by std, not centred
    assert scaled.reward_unit == 2.0
    assert scaled.rewards(rollout).squeeze(1).tolist() == [2.0, -0.5, 10.0, 0.0]
    both = loaded({}, (50, 123.0, 4.0), scale_rewards=True, clip_rewards=1.5)
    assert both.rewards(rollout).squeeze(1).tolist() == [1.5, -0.5, 1.5, 0.0]
    clipped = Normaliser(clip_rewards=1.0)
    assert clipped.rewards(rollout).squeeze(1).tolist() == [1.0, -1.0, 1.0, 0.0]
    assert rollout.rewards.squeeze(1).tolist() == [4.0, -1.0, 100.0, 0.0]  # the facts stay as they are


def test_a_reward_that_overflows_in_its_unit_is_clipped_without_a_warning():
    scaled = loaded({}, (50, 0.0, 1e-6), scale_rewards=True)
    assert scaled.reward_unit == pytest.approx(1e-3)
    rewards = scaled.rewards(of_rewards([1e306, -1e306, 1e-3]))
    assert rewards.flatten().tolist() == [10.0, -10.0, pytest.approx(1.0)]


def test_with_nothing_to_track_it_changes_nothing():
    normaliser, rollout = Normaliser(), random_rollout(0)
    normaliser.load(None)
    assert normaliser.observations(rollout.observations, torch.float32) is rollout.observations
    assert normaliser.rewards(rollout) is rollout.rewards
    assert normaliser.deltas(rollout) is None
    assert normaliser.tracked == 0


def test_before_anything_is_seen_it_is_the_identity():
    normaliser, rollout = Normaliser({"": 2}, scale_rewards=True), random_rollout(0)
    for _ in range(2):
        assert torch.equal(normaliser.observations(rollout.observations, torch.float64), rollout.observations)
        assert torch.equal(normaliser.rewards(rollout), rollout.rewards)
        normaliser.load(running.empty(3))


def test_what_never_varies_is_only_centred():
    constant = torch.full((100, 2), 7.3, dtype=torch.float64)
    normaliser = Normaliser({"": 2}, scale_rewards=True)
    normaliser.load(torch.cat([running.of(constant), running.of(torch.zeros(100, 1))], 1))
    assert normaliser.observations(constant, torch.float32).abs().max() == 0
    near = torch.tensor([[7.3, 7.3 + 1e-6]], dtype=torch.float64)
    assert normaliser.observations(near, torch.float64).abs().max() < 1e-5
    assert normaliser.reward_unit == 1.0


def test_a_small_unit_is_no_lack_of_variation():
    tiny = 1e-6 * torch.randn(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normaliser = Normaliser({"": 1}, scale_rewards=True)
    normaliser.load(torch.cat([running.of(tiny), running.of(tiny)], 1))
    assert float(normaliser.observations(tiny, torch.float64).std(correction=0)) == pytest.approx(1.0, abs=1e-3)
    assert normaliser.reward_unit == pytest.approx(float(tiny.std(correction=0)))


def test_a_mean_of_a_million_with_variance_one_survives():
    samples = 1e6 + np.random.default_rng(0).normal(size=(4000, 1))
    normaliser = Normaliser({"": 1})
    total = running.empty(1)
    for batch in np.split(samples, 100):
        total = running.merge(total, running.of(torch.from_numpy(batch)))
    normaliser.load(total)
    found = normaliser.observations(torch.from_numpy(samples), torch.float32).double()
    assert abs(found.mean().item()) < 1e-6
    assert found.std().item() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(found.numpy(), (samples - samples.mean()) / samples.std(), atol=1e-5)


def test_the_moments_stay_until_the_next_load():
    normaliser, observation = Normaliser({"": 2}, scale_rewards=True), torch.ones(4, 2)
    before = normaliser.observations(observation, torch.float32)
    normaliser.deltas(random_rollout(0))
    assert torch.equal(normaliser.observations(observation, torch.float32), before)
    assert normaliser.reward_unit == 1.0
    normaliser.load(moments_of((2, 1.0, 1.0), (2, 0.0, 4.0), (2, 0.0, 9.0)))
    assert normaliser.observations(observation, torch.float32)[0].tolist() == [0.0, 0.5]
    assert normaliser.reward_unit == 3.0


SPACE = spaces.Dict(
    {
        "action_mask": spaces.Box(0, 1, (3,), np.int8),
        "camera": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "cells": spaces.Box(0, 1, (8, 8, 3), np.bool_),
        "flags": spaces.MultiBinary(2),
        "gear": spaces.Discrete(4),
        "heat": spaces.Box(-np.inf, np.inf, (2, 8, 8)),
        "lamps": spaces.Box(0, 1, (2,), np.bool_),
        "nothing": spaces.Box(-1, 1, (0,)),
        "speed": spaces.Box(-np.inf, np.inf, (2,)),
        "steps": spaces.Box(0, 1000, (), np.int64),
    }
)


def test_masks_flags_and_choices_pass_untouched():
    spec = PolicySpec(SPACE, spaces.Discrete(3), normalisation=Normalisation(observations=True))
    normaliser = spec.normaliser()
    assert normaliser.observation_sizes == {"speed": 2, "steps": 1}
    assert normaliser.image_units == {"camera": 255.0, "heat": 1.0}
    normaliser.load(moments_of((9, 5.0, 4.0), (9, 5.0, 4.0), (9, 100.0, 25.0), (9, 0.5, 0.25), (9, 50.0, 4.0)))
    observation = {path: torch.as_tensor(np.asarray(SPACE[path].sample())) for path in SPACE}
    observation |= {"speed": torch.tensor([7.0, 3.0]), "steps": torch.tensor(110)}
    found = normaliser.observations(observation, torch.float32)
    assert list(found) == list(observation)
    assert (found["speed"].tolist(), found["steps"].tolist()) == ([1.0, -1.0], 2.0)
    torch.testing.assert_close(found["camera"], (observation["camera"] / 255 - 0.5) / 0.5)
    torch.testing.assert_close(found["heat"], ((observation["heat"] - 50) / 2).clamp(-10, 10))
    for path in set(SPACE) - {"speed", "steps", "camera", "heat"}:
        assert found[path] is observation[path]


def test_a_persons_own_torso_takes_images_as_they_are():
    spec = PolicySpec(
        SPACE, spaces.Discrete(3), normalisation=Normalisation(observations=True), model=lambda space: None
    )
    assert spec.normaliser().image_units == {}
    assert spec.normaliser().observation_sizes == {"speed": 2, "steps": 1}


# Moments of what actors saw.

SCRIPTS = [
    [Script([1, 2, 3]), Script([4], "truncated"), Script([-1, 0.5, 2, 7, 1], "truncated")],
    [Script([10] * 7, "truncated"), Script([0, 0, 1])],
    [Script([3]), Script([-2, 5])],
]


def act(observation, state, episode_start):
    return np.zeros(len(observation), np.int64), None


def playing(*scripts, length=64) -> Actor:
    noise = np.random.default_rng(0).normal(size=(400, 16, 2))
    envs = [ScriptedEnv(*lane, observe=lambda episode, step: noise[episode, step]) for lane in scripts]
    return Actor(vectorise(*envs), act, seed=0, max_rollout_length=length)


def returns_of(scripts, real_steps):
    """R of a lane's first real steps, episode by episode."""
    returns, episode = [], 0
    while len(returns) < real_steps:
        discounted = 0.0
        for reward in scripts[episode % len(scripts)].rewards:
            discounted = reward + GAMMA * discounted
            returns.append(discounted)
        episode += 1
    return returns[:real_steps]


@pytest.mark.parametrize("lengths", [(24,), (1,) * 24, (5, 7, 12), (2, 3) * 4 + (4,), (8,) * 3])
def test_rollouts_add_up_to_all_that_was_seen_and_every_return(lengths):
    whole = playing(*SCRIPTS).unroll(24)
    actor, normaliser = playing(*SCRIPTS), Normaliser({"": 2}, scale_rewards=True, discount=GAMMA)
    total, real = running.empty(3), np.zeros(3, int)
    for length in lengths:
        rollout = actor.unroll(length)
        total = running.merge(total, normaliser.deltas(rollout))
        real += rollout.real.sum(0).numpy()
    seen = whole.observations[:-1].reshape(-1, 2).double().numpy()  # the last row will be the next rollout's first
    returns = np.concatenate([returns_of(lane, count) for lane, count in zip(SCRIPTS, real, strict=True)])
    assert total[0].tolist() == [72, 72, len(returns)]
    np.testing.assert_allclose(running.mean(total), [*seen.mean(0), returns.mean()], rtol=1e-12)
    np.testing.assert_allclose(running.variance(total), [*seen.var(0), returns.var()], rtol=1e-12)


def test_returns_begin_anew_where_no_row_that_resets_was_shown():
    """Rollouts that end with their episode have no such row, and the learner skips those that hold nothing else."""
    lane = SCRIPTS[0]
    ending = Actor(vectorise(ScriptedEnv(*lane)), act, seed=0, max_rollout_length=4, end_at_episode_end=True)
    for actor, length in ((ending, 4), (playing(lane), 1)):
        normaliser, total, real = Normaliser(scale_rewards=True, discount=GAMMA), running.empty(1), 0
        while real < 18:
            rollout = actor.unroll(length)
            if rollout.env_steps:
                total = running.merge(total, normaliser.deltas(rollout))
                real += rollout.env_steps
        returns = np.array(returns_of(lane, real))
        np.testing.assert_allclose(total.squeeze(1), [real, returns.mean(), real * returns.var()], rtol=1e-12)


def test_forgotten_returns_begin_anew():
    normaliser = Normaliser(scale_rewards=True, discount=GAMMA)
    rollout = of_rewards([1.0, 1.0])
    rollout.episode_start[:] = False
    assert normaliser.deltas(rollout)[1].item() == pytest.approx((1 + 1.9) / 2)
    assert normaliser.deltas(rollout)[1].item() == pytest.approx((2.71 + 3.439) / 2)
    normaliser.forget_returns()
    assert normaliser.deltas(rollout)[1].item() == pytest.approx((1 + 1.9) / 2)


def test_a_reset_rows_reward_does_not_count():
    rollout = random_rollout(3, 8, 2)
    assert not rollout.real.all()
    clean, poisoned = (Normaliser(scale_rewards=True) for _ in range(2))
    expected = clean.deltas(rollout)
    rollout.rewards[~rollout.real] = math.nan
    assert torch.equal(poisoned.deltas(rollout), expected)


# A saved policy takes its moments along.


def spec_for_numbers() -> PolicySpec:
    return PolicySpec(
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(-1, 1, (2,)),
        network=Network(hidden_sizes=(8,)),
        normalisation=Normalisation(observations=True, scale_rewards=True),
    )


def test_a_policy_that_is_loaded_elsewhere_acts_the_same(tmp_path):
    spec = spec_for_numbers()
    policy = a3c.Policy(spec, spec.build(seed=1))
    policy.model.normaliser.load(moments_of((99, 50.0, 9.0), (99, -2.0, 100.0), (99, 7.0, 6.25)))
    policy.model.policy_head.linear.weight.data *= 100
    policy.save(tmp_path / "policy")
    observations = np.array([[52.0, 3.0], [47.0, -11.0]], np.float32)
    program = (
        "import sys, json, numpy, a3c\n"
        "policy = a3c.load(sys.argv[1])\n"
        "observations = numpy.array(json.loads(sys.argv[2]), numpy.float32)\n"
        "action = policy.predict(observations, deterministic=True)[0]\n"
        "print(json.dumps([action.tolist(), policy.value(observations).tolist()]))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "policy"), json.dumps(observations.tolist())]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    def answer_of(policy):
        return policy.predict(observations, deterministic=True)[0], policy.value(observations)

    for found, expected in zip(answer, answer_of(policy), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    forgetful = a3c.load(tmp_path / "policy")
    forgetful.model.normaliser.load(running.empty(3))
    for found, expected in zip(answer_of(forgetful), answer_of(policy), strict=True):
        assert np.abs(found - expected).max() > 0.05  # it would not have gone unnoticed


def test_values_are_in_the_rewards_own_unit():
    spec = spec_for_numbers()
    model = spec.build()
    model.flat.zero_()
    model.flat[-1] = 3.0  # the value head's bias
    model.normaliser.load(moments_of((9, 0.0, 1.0), (9, 0.0, 1.0), (9, 5.0, 16.0)))
    policy = a3c.Policy(spec, model)
    assert policy.value(np.zeros(2, np.float32)).item() == 12.0


# Through the learner.


class Recording:
    """An actor that keeps what it has shown."""

    def __init__(self, actor: Actor) -> None:
        self.actor, self.rollouts = actor, []

    def unroll(self, length):
        rollout = self.actor.unroll(length)
        facts = (rollout.observations, rollout.rewards, rollout.episode_start)
        self.rollouts.append([fact.numpy().copy() for fact in facts])
        return rollout

    def finished_episodes(self):
        return self.actor.finished_episodes()

    def reset_state(self):
        self.actor.reset_state()


def learn(handle, seed, updates, normalisation=None):
    """Some updates on two CartPoles; returns what was seen: observations [N, 4] and rewards, starts of each step."""
    torch.set_num_threads(1)
    envs = vectorise(gym.make("CartPole-v1"), gym.make("CartPole-v1"))
    normalisation = normalisation or Normalisation(observations=True, scale_rewards=True, discount=GAMMA)
    space, actions = envs.single_observation_space, envs.single_action_space
    spec = PolicySpec(space, actions, network=Network(hidden_sizes=(8,)), normalisation=normalisation)
    model = spec.build()
    actor = Recording(Actor(envs, ActingPolicy(model, seed), seed=[seed, seed + 1], max_rollout_length=7))
    settings = ActorCriticSettings(7, GAMMA, 1.0, 0.01, 0.5, "mean")
    for _, update in zip(range(updates), actor_learner(settings, actor, model, handle), strict=False):
        assert update.dropped is None
    return actor.rollouts


def pooled(rollouts):
    """Observations [N, 4] and running returns [R] of one worker's rollouts, step by step."""
    observations = np.concatenate([each[0][:-1].reshape(-1, 4) for each in rollouts]).astype(np.float64)
    returns, discounted = [], [0.0, 0.0]
    for _, rewards, starts in rollouts:
        for t in range(len(rewards)):
            for lane in range(2):
                if starts[t, lane]:
                    discounted[lane] = 0.0
                if not starts[t + 1, lane]:
                    discounted[lane] = rewards[t, lane] + GAMMA * discounted[lane]
                    returns.append(discounted[lane])
    return observations, np.array(returns)


def assert_pooled(moments, workers):
    observations, returns = map(np.concatenate, zip(*map(pooled, workers), strict=True))
    assert moments[0].tolist() == [len(observations)] * 4 + [len(returns)]
    np.testing.assert_allclose(running.mean(moments), [*observations.mean(0), returns.mean()], rtol=1e-9)
    np.testing.assert_allclose(running.variance(moments), [*observations.var(0), returns.var()], rtol=1e-9)


def initial():
    return torch.zeros(4 * 8 + 8 + 8 * 2 + 2 + 8 + 1)


def test_the_learner_pushes_its_moments():
    store = LocalStore(initial(), make_rule(learning_rate=0.001), tracked=5)
    seen = learn(store, 0, 30)
    assert_pooled(store.snapshot().moments, [seen])


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server")
def test_two_processes_merge_to_what_one_computation_over_both_gives(fork_server):
    with nothing_left():
        store = make_store("hogwild", initial(), make_rule(learning_rate=0.001), 2, context=fork_server, tracked=5)
        workers = [Remote(fork_server, store.connect(worker)) for worker in range(2)]
        try:
            for worker, remote in enumerate(workers):
                remote.start(learn, 10 * worker, 25)
            seen = [remote.result() for remote in workers]
        finally:
            for remote in workers:
                remote.close()
        assert len(seen[0]) == len(seen[1]) == 25
        assert_pooled(store.snapshot().moments, seen)
        del store


def test_acting_and_learning_see_the_same_moments_and_never_their_own_rollout():
    tape = []

    class Taped(Normaliser):
        def load(self, moments):
            super().load(moments)
            tape.append(("load", float(self.moments[0, 0])))

        def numbers(self, *arguments):
            tape.append(("see", float(self.moments[0, 0])))
            return super().numbers(*arguments)

    envs = vectorise(gym.make("CartPole-v1"))
    spec = PolicySpec(envs.single_observation_space, envs.single_action_space, network=Network(hidden_sizes=(8,)))
    model = spec.build()
    model.normaliser = Taped({"": 4})
    store = LocalStore(model.flat, make_rule(learning_rate=0.001), tracked=4)
    actor = Actor(envs, ActingPolicy(model, 0), seed=[0], max_rollout_length=3)
    learner = actor_learner(ActorCriticSettings(3, GAMMA, 1.0, 0.01, 0.5, "mean"), actor, model, store)
    for _ in range(3):
        next(learner)
    assert tape == [step for n in (0.0, 3.0, 6.0) for step in [("load", n)] + [("see", n)] * 4]
