"""How an actor-learner is put together."""

from dataclasses import replace

import pytest
import torch

from a3c.config import TrainConfig
from a3c.core.seeding import model_seed
from a3c.envs.make import EnvSource, examine
from a3c.experiment.train import make_recipe, make_spec, make_store
from a3c.models import numpy_acting
from a3c.runtimes.serial import SerialRuntime

SMALL = {"runtime": "serial", "workers": 1, "envs_per_worker": 3, "rollout_length": 5, "total_env_steps": 10_000}


def skip_without_minatar(env: str) -> None:
    if env.startswith("MinAtar/"):
        pytest.importorskip("minatar")


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {"separate_torsos": True}),
        ("CartPole-v1", {"envs_per_worker": 1, "end_rollout_at_episode_end": True, "rollout_length": 15}),
        ("Pendulum-v1", {"normalise_observations": True, "scale_rewards": True}),
        ("Pendulum-v1", {"log_std": "gsde", "noise_steps": 2}),
        ("Pendulum-v1", {"hidden_sizes": (), "log_std": "network"}),
        ("MinAtar/Breakout-v1", {}),
    ],
    ids=repr,
)
def test_a_rollout_brings_the_passes_of_its_policy(env, settings, monkeypatch):
    monkeypatch.setattr(numpy_acting, "_KEPT_FROM_LANES", 1)
    skip_without_minatar(env)
    torch.manual_seed(0)  # of the weights' noise below, by which some episodes are longer than a rollout
    config = TrainConfig(**SMALL | settings)
    facts = examine(EnvSource(env))
    spec = make_spec(config, facts)
    first = spec.build(seed=model_seed(0))
    store = make_store(config, first.flat, SerialRuntime(), first.normaliser.tracked)
    recipe, handle, lengths = make_recipe(facts.source, config, spec, "cpu"), store.connect(0), set()
    with recipe.made(0) as (actor, model):
        for _ in range(12):
            store.parameters.add_(torch.randn_like(store.parameters), alpha=0.05)
            model.normaliser.load(handle.pull(model.flat).moments)
            rollout = actor.unroll(config.rollout_length)
            lengths.add(len(rollout.rewards))
            assert rollout.passes.hold(model.feedforward, len(rollout.observations))
            for ours, anew in zip(model(rollout), model(replace(rollout, passes=None)), strict=True):
                torch.testing.assert_close(ours, anew)
    assert config.rollout_length in lengths
    assert (len(lengths) > 1) == config.end_rollout_at_episode_end


@pytest.mark.parametrize(
    ("env", "envs", "kept"), [("CartPole-v1", 7, False), ("CartPole-v1", 8, True), ("MinAtar/Breakout-v1", 1, True)]
)
def test_from_how_many_environments_on_passes_are_kept(env, envs, kept):
    skip_without_minatar(env)
    config = TrainConfig(**SMALL | {"envs_per_worker": envs})
    facts = examine(EnvSource(env))
    with make_recipe(facts.source, config, make_spec(config, facts), "cpu").made(0) as (actor, _):
        assert (actor.unroll(5).passes is not None) == kept


def test_a_network_that_torch_passes_through_brings_none():
    config = TrainConfig(**SMALL, memory="gru", memory_size=4)
    facts = examine(EnvSource("CartPole-v1"))
    recipe = make_recipe(facts.source, config, make_spec(config, facts), "cpu")
    with recipe.made(0) as (actor, _):
        assert actor.unroll(5).passes is None
