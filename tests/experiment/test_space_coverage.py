"""Whatever spaces an environment has: it trains, and what is saved predicts the same when it is loaded."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import a3c
from a3c.actor import Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.core.optimizers import RMSProp
from a3c.envs.make import EnvSource
from a3c.errors import UnsupportedEnvironment
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.actor_critic import Network
from a3c.models.numpy_acting import acting_policy
from a3c.spaces.actions import ActionSpace
from a3c.spaces.parts import basic_parts, map_parts, parts
from a3c.stores.local import LocalStore
from builders import make_rule
from drawn_spaces import SHAPES, Between, basics, boxes, contains, discretes, multi_discretes, nested, value_in

IMAGES = [spaces.Box(0, 255, shape, np.uint8) for shape in [(8, 8), (8, 9, 3), (2, 8, 8), (2, 8, 8, 1)]]
DEEP, LONG = (spaces.Box(-5, 5, shape) for shape in [(2, 1, 2, 1, 2), (5000,)])
OBSERVED = st.one_of(
    basics(), basics(), boxes(shapes=(*SHAPES, (0,))), st.sampled_from(IMAGES), st.sampled_from(IMAGES)
)
CHOSEN = st.one_of(discretes(), multi_discretes())


@st.composite
def agents(draw: Any) -> tuple[PolicySpec, tuple[int, ...]]:
    """A policy's spec, and how the entries of its action mask belong to choices: () where there is no mask."""
    observations, choices = draw(nested(OBSERVED)), ()
    if draw(st.integers(0, 3)) == 0:
        actions = draw(nested(CHOSEN))
        choices = tuple(int(n) for part in basic_parts(actions, "it").values() for n in counts_of(part))
        around = observations.spaces if isinstance(observations, spaces.Dict) else {"x": observations}
        observations = spaces.Dict({**around, "action_mask": spaces.Box(0, 1, (sum(choices),), np.int8)})
    else:
        actions = draw(st.one_of(nested(), boxes()))
    bounding = draw(st.sampled_from(["clip", "tanh"]))
    try:
        ActionSpace(actions, bounding)
    except UnsupportedEnvironment:
        bounding = "clip"
    gaussian = isinstance(actions, spaces.Box)
    network = Network(
        hidden_sizes=draw(st.sampled_from([(8,), (), (4, 4)])),
        activation=draw(st.sampled_from(["tanh", "relu", "elu", "silu", "gelu"])),
        separate_torsos=draw(st.booleans()),
        memory=draw(st.sampled_from([None, "lstm", "gru"])),
        memory_size=3,
        log_std=draw(st.sampled_from(["parameter", "network", "gsde"] if gaussian else ["parameter", "network"])),
    )
    moments = draw(st.booleans())
    return PolicySpec(observations, actions, bounding, network, Normalisation(moments, moments)), choices


def counts_of(part: Any) -> Any:
    return [part.n] if isinstance(part, spaces.Discrete) else part.nvec.flatten()


def trained(spec: PolicySpec, choices: tuple[int, ...], seed: int):
    """The model after two updates on two environments, and these: all as in a run."""
    envs = EnvSource(lambda: Between(spec.observation_space, spec.action_space, choices)).make_vector(2)
    model = spec.build(seed=seed)
    store = LocalStore(model.flat, make_rule(RMSProp(), 1e-3, max_gradient_norm=0.5), tracked=model.normaliser.tracked)
    before = model.flat.clone()
    acting = acting_policy(model, seed, noise_steps=2)
    actor = Actor(envs, acting, spec.actions, seed=seed, max_rollout_length=5)
    learner = actor_learner(ActorCriticSettings(5, 0.9, 0.95, 0.01, 0.5, "mean"), actor, model, store)
    for _ in range(2):
        assert next(learner).dropped is None
    snapshot = store.pull(model.flat)
    model.normaliser.load(snapshot.moments)
    assert snapshot.version == 2
    assert bool(model.flat.isfinite().all())
    assert not torch.equal(model.flat, before)
    return model, envs


def assert_alike(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = tuple(one.values()), tuple(other.values())
    if isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    elif one is None:
        assert other is None
    else:
        np.testing.assert_array_equal(one, other, strict=True)


def assert_the_same_policy(policy: a3c.Policy, loaded: a3c.Policy, spec: PolicySpec, seed: int) -> None:
    random, states = np.random.default_rng(seed), [None, None]
    for greedy in (True, False, True):
        observation = value_in(spec.observation_space, random)
        values = [each.value(observation, state) for each, state in zip((policy, loaded), states, strict=True)]
        predictions = [
            each.predict(observation, state, deterministic=greedy)
            for each, state in zip((policy, loaded), states, strict=True)
        ]
        (action, state), (other_action, other_state) = predictions
        assert contains(spec.action_space, action)
        assert np.isfinite(values[0])
        assert_alike(action, other_action)
        assert_alike(state, other_state)
        assert_alike(*values)
        states = [state, other_state]


def test_any_200_pairs_of_spaces_train_and_come_back():
    seen, images = set(), 0

    @given(agents(), st.integers(0, 2**31 - 1))
    @settings(
        max_examples=300,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    def come_back(agent, seed):
        nonlocal images
        spec, choices = agent
        pair = str((spec.observation_space, spec.action_space))
        if pair in seen:
            return
        model, _ = trained(spec, choices, seed)
        policy = a3c.Policy(spec, model, seed=0)
        with tempfile.TemporaryDirectory() as directory:
            policy.save(directory)
            loaded = a3c.load(directory)
        assert loaded.spec.observation_space == spec.observation_space
        assert loaded.spec.action_space == spec.action_space
        assert_the_same_policy(policy, loaded, spec, seed)
        seen.add(pair)
        images += any(part in IMAGES for part in basic_parts(spec.observation_space, "it").values())

    come_back()
    assert len(seen) >= 200
    assert images > 10


def test_many_rows_at_once_are_what_they_are_one_by_one():
    """Between the shapes [T+1, B, *O], [B, *O] and [*O] no part may be folded wrongly."""
    spec = PolicySpec(
        spaces.Dict(
            {
                "deep": DEEP,
                "image": IMAGES[1],
                "long": LONG,
                "matrix": spaces.Box(-5, 5, (3, 2), np.float64),
                "point": spaces.Box(-np.inf, np.inf, ()),
                "pair": spaces.Tuple([spaces.MultiDiscrete([[2, 3], [4, 5]]), spaces.Discrete(3, start=-1)]),
            }
        ),
        spaces.Box(-1, 1, (2,)),
        normalisation=Normalisation(observations=True),
    )
    model, envs = trained(spec, (), 0)
    actor = Actor(envs, acting_policy(model, 0), spec.actions, seed=0, max_rollout_length=4)
    rollout = actor.unroll(4)
    together = model(rollout)
    for t in range(5):
        row = map_parts(lambda part, t=t: part[t], rollout.observations)
        torch.testing.assert_close(model.policy_value(row).policy, together.policy[t], rtol=1e-4, atol=1e-6)
        for lane in range(2):
            alone = model.policy_value(map_parts(lambda part, lane=lane: part[lane], row))
            torch.testing.assert_close(alone.policy, together.policy[t, lane], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(alone.values, together.values[t, lane], rtol=1e-4, atol=1e-6)
    assert len(parts(rollout.observations)) == 7


WHOLE = {
    "nested": (
        spaces.Dict(
            {
                "a/b": spaces.Box(-1, 1, (2,)),
                "deep": spaces.Dict({"flag": spaces.MultiBinary(2), "pair": spaces.Tuple([spaces.Discrete(3)])}),
            }
        ),
        spaces.Dict([("z", spaces.Discrete(3, start=-1)), ("arm", spaces.Box(-2, 7, (2,)))]),
        {},
    ),
    "0-d with memory": (spaces.Box(-np.inf, np.inf, ()), spaces.Box(0, 10, (), np.int32), {"memory": "lstm"}),
    "deep": (DEEP, spaces.Discrete(3), {}),
    "long": (LONG, spaces.Box(-1, 1, (2,)), {}),
    "image, tanh": (IMAGES[1], spaces.Box(-1, 3, (2, 2)), {"action_bounding": "tanh", "log_std": "network"}),
    "categories, gsde": (
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.Box(-1, 1, (2,)),
        {"log_std": "gsde", "noise_steps": 3, "memory": "gru"},
    ),
    "bits": (spaces.MultiBinary((2, 2)), spaces.MultiBinary((2, 2)), {"separate_torsos": True}),
    "choices": (spaces.Tuple([spaces.Discrete(5), spaces.Box(0, 9, (3,), np.int64)]), spaces.MultiDiscrete([2, 3]), {}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_run(name, tmp_path):
    observation_space, action_space, options = WHOLE[name]

    def make() -> Between:
        return Between(observation_space, action_space)

    run = a3c.train(
        make,
        runtime="serial",
        workers=2,
        envs_per_worker=2,
        rollout_length=4,
        total_env_steps=64,
        run_dir=str(tmp_path / "run"),
        quiet=True,
        tensorboard=False,
        **options,
    )
    assert run.summary["env_steps"] >= 64
    policy, spec = run.policy(), run.policy().spec
    assert spec.observation_space == observation_space
    assert spec.action_space == action_space
    assert policy.model.normaliser.tracked > 0  # rewards, and what numbers there are
    policy.save(tmp_path / "copy")
    assert_the_same_policy(run.policy(), a3c.load(tmp_path / "copy"), spec, seed=0)
    assert a3c.evaluate(run.policy(), make, episodes=3).episodes == 3


def test_a_whole_run_with_masks_told_in_infos(tmp_path):
    class Tells(Between):
        """Allows one action only, another each time, and says so in its infos."""

        def __init__(self):
            super().__init__(spaces.Box(-1, 1, (2,)), spaces.Discrete(5))
            self.allowed = 0

        def reset(self, **options):
            observation, _ = super().reset(**options)
            return observation, self._info()

        def step(self, action):
            assert action == self.allowed
            *result, _ = super().step(action)
            return *result, self._info()

        def _info(self):
            self.allowed = (self.allowed + 1) % 5
            return {"action_mask": np.arange(5) == self.allowed}

    run = a3c.train(
        Tells,
        runtime="serial",
        workers=1,
        algorithm="a2c",
        envs_per_worker=2,
        total_env_steps=64,
        run_dir=str(tmp_path / "run"),
        quiet=True,
        tensorboard=False,
    )
    assert run.summary["env_steps"] >= 64
    assert a3c.evaluate(run.policy(), Tells, episodes=2, greedy=False).episodes == 2
