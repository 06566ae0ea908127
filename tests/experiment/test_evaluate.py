"""Evaluation: what is refused and in which words, and returns that are no numbers."""

import json

import gymnasium as gym
import numpy as np
import pytest

import a3c
import tiny_envs
from a3c.errors import RunDirectoryError, UnsupportedEnvironment, UsageError
from a3c.experiment.policy_spec import PolicySpec


class NaNReward(tiny_envs.Corridor):
    """Every reward is NaN."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float("nan"), terminated, truncated, info


class Bytes(tiny_envs.Corridor):
    """Fits the corridor's policy but for the kind of its observations."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.uint8)

    def _observe(self):
        return np.zeros(2, np.uint8)


@pytest.fixture
def policy():
    spec = PolicySpec((2,), "float32", 2, 0, (8,), "tanh", False)
    return a3c.Policy(spec, spec.build())


@pytest.mark.parametrize("error", [RuntimeError("no display"), ImportError("no pygame"), KeyError("map")])
def test_an_environment_that_cannot_be_made(policy, error):
    def broken():
        raise error

    with pytest.raises(UnsupportedEnvironment, match=f"'broken' cannot be made here .{type(error).__name__}") as raised:
        a3c.evaluate(policy, broken)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("limit", ["200", 1.5, True, 0, -3, [5], {}])
def test_a_damaged_time_limit(tmp_path, limit):
    settings = {"env": "CartPole-v1", "max_episode_steps": limit}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings, "env_by_name": True}))
    with pytest.raises(RunDirectoryError, match=r"config\.json is damaged: max_episode_steps is"):
        a3c.evaluate(tmp_path)


def test_returns_that_are_not_finite_are_null_in_json(policy):
    result = a3c.evaluate(policy, NaNReward, episodes=3)
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["return_mean"] is None
    assert record["return_std"] is None
    assert record["return_ci95"] == [None, None]
    assert record["length_mean"] == 8


def test_finite_returns_stay_as_they_are(policy):
    result = a3c.evaluate(policy, tiny_envs.Corridor, episodes=3)
    assert result.to_json()["return_ci95"] == list(result.return_ci95)


def test_observations_of_another_kind_are_refused_by_name(policy):
    with pytest.raises(UsageError, match=r"observations \(2,\) of float32 .*'Bytes' gives .*uint8"):
        a3c.evaluate(policy, Bytes)
