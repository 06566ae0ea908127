"""Memory through the whole actor-learner, beside a slow unrolling of it, episode by episode."""

from __future__ import annotations

import dataclasses
import math
from itertools import islice

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import a3c
from a3c.actor import Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.core.distributions import Categorical
from a3c.core.flat import flat_gradient
from a3c.core.normalisation import Normaliser
from a3c.experiment.policy_spec import PolicySpec
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.torsos import IMAGE_FEATURES
from a3c.spaces.parts import map_parts
from a3c.stores.local import LocalStore
from a3c.types import Counts, Receipt, Rollout, Snapshot
from builders import box_network, make_rule
from random_rollout import random_rollout
from scripted_env import Script, ScriptedEnv, vectorise

GAMMA, ENTROPY, VALUE = 0.9, 0.03, 0.5
NOISE = np.random.default_rng(0).normal(size=(64, 64, 3))

KINDS = pytest.mark.parametrize("kind", ["lstm", "gru"])
SEPARATE = pytest.mark.parametrize("separate", [False, True])

ENDLESS = [Script(np.linspace(-1, 2, 60).tolist())]
SHORT = [Script([1.0, -2.0, 0.5]), Script([0.3, 2.0, 1.0, -1.0, 2.0], "truncated"), Script([4.0], "truncated")]
OTHER = [Script([0.5, 1.5], "truncated"), Script([1.0, 0.0, -3.0, 2.0])]


def build(kind, separate=False, dtype=torch.float64, tracked=False) -> ActorCritic:
    torch.manual_seed(0)
    options = {"memory": kind, "memory_size": 4, "hidden_sizes": (5,), "separate_torsos": separate}
    model = box_network((3,), 3, dtype=dtype, **options)
    model.flat.add_(0.3 * torch.randn_like(model.flat))
    if tracked:
        model.normaliser = Normaliser({"": 3}, scale_rewards=True, discount=GAMMA)
    return model


def environments(*lanes):
    """Scripted environments whose observations are noise, other in each lane, episode and step."""
    return vectorise(
        *(
            ScriptedEnv(*scripts, observe=lambda episode, step, lane=lane: NOISE[10 * lane + episode, step], actions=3)
            for lane, scripts in enumerate(lanes)
        )
    )


class Recording(Actor):
    """Keeps copies of its rollouts."""

    def unroll(self, length: int) -> Rollout:
        rollout = super().unroll(length)
        fields = {field.name: getattr(rollout, field.name) for field in dataclasses.fields(rollout)}
        copies = {name: map_parts(torch.clone, value) for name, value in fields.items() if value is not None}
        self.__dict__.setdefault("rollouts", []).append(Rollout(**copies))
        return rollout


class Frozen:
    """A store whose θ stays, and that keeps what is pushed."""

    def __init__(self, theta: Tensor, moments: Tensor | None = None) -> None:
        self.theta, self.moments, self.gradients = theta.clone(), moments, []

    def pull(self, out: Tensor) -> Snapshot:
        out.copy_(self.theta)
        return Snapshot(0, 0, 0, stop=False, moments=self.moments)

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt:
        self.gradients.append(gradient)
        return Receipt(gradient is not None, 0, 0.1, 1.0)


def learn(model, lanes, lengths, lambda_=1.0, moments=None):
    """One update for each of `lengths`; the rollouts and their gradients."""
    actor = Recording(environments(*lanes), ActingPolicy(model, seed=3), seed=0, max_rollout_length=max(lengths))
    store = Frozen(model.flat, moments)
    for length in lengths:
        settings = ActorCriticSettings(length, GAMMA, lambda_, ENTROPY, VALUE, "sum")
        learner = actor_learner(settings, actor, model, store)
        next(learner)
        learner.close()
    return actor.rollouts, store.gradients


class Unrolled:
    """The slow way: lane by lane, row by row, with torch's own cells; keeps each lane's state from call to call."""

    def __init__(self, model: ActorCritic, lanes: int) -> None:
        self.model = model
        sides = ["policy", "value"] if model.separate else ["policy"]
        self.states = [dict.fromkeys(sides) for _ in range(lanes)]

    def loss(self, rollout: Rollout, lambda_: float = 1.0) -> Tensor:
        """Σ over the real transitions of all lanes, by the paper's formulas."""
        total = torch.zeros((), dtype=torch.float64)
        for lane in range(rollout.real.shape[1]):
            logits, values = self.outputs(rollout, lane)
            length, after = len(rollout.rewards), None
            for t in reversed(range(length)):
                if not rollout.real[t, lane]:
                    after = None
                    continue
                following = values[t + 1].item()
                if rollout.terminated[t, lane]:
                    future = 0.0
                elif rollout.truncated[t, lane] or after is None:
                    future = following
                else:
                    future = (1 - lambda_) * following + lambda_ * after
                after = self.model.normaliser.rewards(rollout)[t, lane].item() + GAMMA * future
                advantage = after - values[t]
                log_policy = logits[t].log_softmax(-1)
                entropy = -(log_policy.exp() * log_policy).sum()
                action = rollout.actions[t, lane]
                total = total - log_policy[action] * advantage.item() + VALUE * advantage**2 - ENTROPY * entropy
        return total

    def outputs(self, rollout: Rollout, lane: int) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and values of each row of a lane; the state at the last row but one is kept for the next rollout."""
        model, states = self.model, self.states[lane]
        logits, values, rows = [], [], len(rollout.episode_start)
        for side in states:  # truncated at the rollout's border
            states[side] = None if states[side] is None else tuple(part.detach() for part in states[side])
        for t in range(rows):
            if t == rows - 1:
                states = dict(states)  # the last row is the next rollout's first: what comes of it is not kept
            if rollout.episode_start[t, lane]:
                states.update(dict.fromkeys(states))
            observation = model.normaliser.observations(rollout.observations[t, lane].unsqueeze(0), torch.float64)
            hidden = {}
            for side in states:
                features = getattr(model, f"{side}_torso")(observation.double())
                cell = getattr(model, f"{side}_memory").cell
                if isinstance(cell, torch.nn.LSTMCell):
                    states[side] = cell(features, states[side])
                else:
                    states[side] = (cell(features, None if states[side] is None else states[side][0]),)
                hidden[side] = states[side][0]
            logits.append(model.policy_head(hidden["policy"])[0])
            values.append(model.value_head(hidden.get("value", hidden["policy"]))[0, 0])
        return logits, values


def assert_slow_gradients(model, rollouts, gradients, lambda_=1.0):
    slow = Unrolled(model, rollouts[0].real.shape[1])
    for rollout, gradient in zip(rollouts, gradients, strict=True):
        expected = flat_gradient(slow.loss(rollout, lambda_), model)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


@KINDS
@SEPARATE
@pytest.mark.parametrize(
    ("lanes", "lengths"),
    [
        pytest.param([ENDLESS], [6, 6], id="two rollouts of one episode"),
        pytest.param([SHORT], [10], id="one rollout of two episodes"),
        pytest.param([SHORT, ENDLESS, OTHER], [5, 1, 7, 4], id="many of both"),
    ],
)
def test_gradients_are_those_of_the_plain_unrolling(kind, separate, lanes, lengths):
    model = build(kind, separate)
    rollouts, gradients = learn(model, lanes, lengths)
    starts = torch.cat([rollout.episode_start[1:] for rollout in rollouts])
    assert bool(starts.any()) == (lanes != [ENDLESS])
    assert_slow_gradients(model, rollouts, gradients)


@KINDS
def test_with_lambda_and_moments(kind):
    model = build(kind, tracked=True)
    moments = torch.tensor([[20.0] * 4, [0.5, -1.0, 0.0, 2.0], [40.0, 10.0, 20.0, 80.0]], dtype=torch.float64)
    rollouts, gradients = learn(model, [SHORT, OTHER], [6, 5, 8], lambda_=0.8, moments=moments)
    assert_slow_gradients(model, rollouts, gradients, lambda_=0.8)


@KINDS
def test_the_state_is_carried_over_rollouts_and_stops_the_gradient(kind):
    whole_model, model = build(kind), build(kind)
    (whole,), (whole_gradient,) = learn(whole_model, [ENDLESS], [12])
    (first, second), gradients = learn(model, [ENDLESS], [6, 6])
    assert torch.equal(torch.cat([first.actions, second.actions]), whole.actions)
    assert second.state is not None
    assert second.state.abs().min() > 0
    with torch.no_grad():  # the second half knows of the first
        torch.testing.assert_close(model(second).policy, whole_model(whole).policy[6:], rtol=1e-12, atol=1e-12)
        second.state = torch.zeros_like(second.state)
        assert (model(second).policy - whole_model(whole).policy[6:]).abs().max() > 0.01
    # The two halves' gradients are not the whole's: returns are cut, and so is the way back through time.
    assert (gradients[0] + gradients[1] - whole_gradient).abs().max() > 0.01


@KINDS
@SEPARATE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_acting_and_learning_see_the_same_policy(kind, separate, dtype):
    model = build(kind, separate, dtype)
    seen, policy = [], model.policy

    def watched(observation, state, episode_start):
        acting = policy(observation, state, episode_start)
        seen.append(acting.parameters.clone())
        return acting

    model.policy = watched
    rollouts, _ = learn(model, [SHORT, OTHER, ENDLESS], [5, 4, 6])
    acted = 0
    for rollout in rollouts:
        length = len(rollout.actions)
        at_the_time = torch.stack(seen[acted : acted + length])
        acted += length
        tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
        torch.testing.assert_close(model(rollout).policy[:-1], at_the_time, **tolerance)
        learned, acted_with = (
            Categorical(3).log_prob(p, rollout.actions) for p in (model(rollout).policy[:-1], at_the_time)
        )
        torch.testing.assert_close(learned, acted_with, **tolerance)


@KINDS
@pytest.mark.parametrize("torso", IMAGE_FEATURES)
def test_behind_any_image_torso_a_rollout_at_once_is_its_steps(kind, torso):
    torch.manual_seed(0)
    space, lanes = gym.spaces.Box(0, 255, (36, 37, 2), np.uint8), 3
    network = Network(torso, memory=kind, memory_size=4)
    model = ActorCritic(space, Categorical(3), network, dtype=torch.float64)
    rollout = random_rollout(0, length=4, lanes=lanes)
    assert 0 < rollout.episode_start[1:].sum() < rollout.episode_start[1:].numel()
    rollout.observations = torch.randint(256, (5, lanes, *space.shape), dtype=torch.uint8)
    rollout.state = state = torch.randn(lanes, model.state_size, dtype=torch.float64)
    assert model.policy_torso(rollout.observations).std((0, 1)).max() > 0.01  # it tells pictures apart
    policy, values = model(rollout)
    steps = []
    for observation, start in zip(rollout.observations, rollout.episode_start, strict=True):
        acting = model.policy(observation, state, start)
        step, state = model.step(observation, state, start)
        torch.testing.assert_close(acting.parameters, step.policy, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(acting.state, state, rtol=1e-10, atol=1e-12)
        steps.append(step)
    stepped = torch.stack([step.policy for step in steps]), torch.stack([step.values for step in steps])
    gradients = []
    for outputs in ((policy, values), stepped):
        weights = (torch.linspace(-1, 2, part.numel(), dtype=torch.float64).reshape(part.shape) for part in outputs)
        total = sum((part * weight).sum() for part, weight in zip(outputs, weights, strict=True))
        gradients.append(flat_gradient(total, model))
    torch.testing.assert_close([policy, values, gradients[0]], [*stepped, gradients[1]], rtol=1e-8, atol=1e-12)


@KINDS
def test_a_dropped_rollout_takes_its_state_along(kind):
    poisoned = [Script([1.0] * 7 + [math.nan] + [1.0] * 30)]
    model = build(kind)
    envs = environments(poisoned, ENDLESS)
    actor = Recording(envs, ActingPolicy(model, seed=0), seed=0, max_rollout_length=4)
    store = LocalStore(model.flat, make_rule(learning_rate=1e-3))
    settings = ActorCriticSettings(4, GAMMA, 1.0, ENTROPY, VALUE, "mean")
    updates = list(islice(actor_learner(settings, actor, model, store), 4))
    dropped = [update.dropped for update in updates]
    assert dropped == [None, "non-finite reward at env step 8", None, None]
    assert [rollout.state is None for rollout in actor.rollouts] == [True, False, True, False]
    assert not actor.rollouts[2].episode_start.any()  # in the midst of its episodes all the same
    assert store.snapshot().parameters.isfinite().all()


@KINDS
@SEPARATE
@pytest.mark.parametrize("greedy", [False, True])
def test_a_policy_repeats_the_actor_step_by_step(kind, separate, greedy):
    space, actions = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32), gym.spaces.Discrete(3)
    network = Network(hidden_sizes=(5,), memory=kind, memory_size=4, separate_torsos=separate)
    spec = PolicySpec(space, actions, network=network)
    model = spec.build(seed=1)
    model.flat.mul_(3)
    actor = Recording(
        environments(SHORT, OTHER),
        ActingPolicy(model, seed=5, deterministic=greedy),
        seed=0,
        max_rollout_length=9,
    )
    for length in (9, 5):
        actor.unroll(length)
    policy, state, values = a3c.Policy(spec, model, seed=5), None, []
    for rollout in actor.rollouts:
        for t, action in enumerate(rollout.actions):
            observation, start = rollout.observations[t].numpy(), rollout.episode_start[t].numpy()
            # A value has no episode_start: what begins anew has a state of zeros.
            before = None if state is None else np.where(start[:, None], np.float32(0), state)
            values.append(policy.value(observation, before))
            found, state = policy.predict(observation, state, start, deterministic=greedy)
            assert found.tolist() == action.tolist()
    assert state.shape == (2, model.state_size)
    learned = [model(rollout).values[:-1].detach().numpy() for rollout in actor.rollouts]
    np.testing.assert_allclose(values, np.concatenate(learned), rtol=1e-4, atol=1e-5)


@KINDS
def test_one_lane_is_predicted_as_it_is_among_several(kind):
    spec = PolicySpec(
        gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        gym.spaces.Box(-1, 1, (2,)),
        network=Network(memory=kind, memory_size=4),
    )
    policy = a3c.Policy(spec, spec.build())
    rows = NOISE[:2, :6].astype(np.float32)  # two lanes of six rows
    together = single = None
    for t in range(6):
        starts = np.array([t == 0, t == 3])
        batch, together = policy.predict(rows[:, t], together, starts, deterministic=True)
        one, single = policy.predict(rows[1, t], single, starts[1:], deterministic=True)
        assert one.shape == (2,)
        assert single.shape == (1, policy.model.state_size)
        np.testing.assert_allclose(one, batch[1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(single[0], together[1], rtol=1e-4, atol=1e-6)
