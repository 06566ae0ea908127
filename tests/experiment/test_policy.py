"""A trained agent: prediction, saving, and what other libraries expect of it."""

import gymnasium as gym
import numpy as np
import pytest

import a3c
from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.evaluate import bootstrap_interval
from a3c.experiment.policy_spec import PolicySpec

SPEC = PolicySpec((4,), "float32", 3, 5, (8,), "tanh", False)


@pytest.fixture
def policy():
    policy = a3c.Policy(SPEC, SPEC.build(seed=1))
    policy.model.policy_head.weight.data *= 100  # far from uniform
    return policy


def observations(count):
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


def test_one_observation_or_several(policy):
    batch = observations(7)
    actions, state = policy.predict(batch, deterministic=True)
    assert actions.shape == (7,)
    assert state is None
    singles = [policy.predict(row, deterministic=True)[0] for row in batch]
    assert all(single.shape == () for single in singles)
    assert [int(single) for single in singles] == actions.tolist()
    assert set(actions.tolist()) <= {5, 6, 7}  # Discrete(3, start=5)
    assert policy.value(batch).shape == (7,)
    assert policy.value(batch[0]) == pytest.approx(policy.value(batch)[0], rel=1e-5)


def test_sampling_varies_and_the_mode_does_not():
    policy = a3c.Policy(SPEC, SPEC.build(seed=1))  # near uniform
    row = observations(1)
    sampled = {int(policy.predict(row)[0][0]) for _ in range(100)}
    greedy = {int(policy.predict(row, deterministic=True)[0][0]) for _ in range(100)}
    assert sampled == {5, 6, 7}
    assert len(greedy) == 1


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 1, 4), ()])
def test_a_wrong_shape_is_named(policy, shape):
    with pytest.raises(UsageError, match=r"this policy takes \(4,\)"):
        policy.predict(np.zeros(shape, np.float32))


def test_save_and_load(policy, tmp_path):
    policy.save(tmp_path / "policy")
    loaded = a3c.load(tmp_path / "policy")
    batch = observations(20)
    assert np.array_equal(loaded.predict(batch, deterministic=True)[0], policy.predict(batch, deterministic=True)[0])
    assert np.array_equal(loaded.value(batch), policy.value(batch))
    with pytest.raises(RunDirectoryError, match="there is no run"):
        a3c.load(tmp_path / "nothing")


def test_weights_of_another_network_are_refused(policy, tmp_path):
    policy.save(tmp_path / "a")
    other = PolicySpec((4,), "float32", 3, 5, (9,), "tanh", False)
    a3c.Policy(other, other.build()).save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(RunDirectoryError, match="does not hold the network"):
        a3c.load(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")  # Stable-Baselines3 warns of what it would rather be given
def test_stable_baselines3_evaluates_it():
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    spec = PolicySpec((4,), "float32", 2, 0, (8,), "tanh", False)
    policy = a3c.Policy(spec, spec.build())
    returns, lengths = evaluate_policy(
        policy, make_vec_env("CartPole-v1", n_envs=2, seed=0), n_eval_episodes=6, return_episode_rewards=True
    )
    assert len(returns) == 6
    assert returns == lengths
    mean, std = evaluate_policy(policy, gym.make("CartPole-v1"), n_eval_episodes=2, deterministic=False)
    assert mean >= 1
    assert std >= 0


def test_evaluation_repeats_and_plays_exactly_as_many_episodes_as_asked():
    spec = PolicySpec((4,), "float32", 2, 0, (8,), "tanh", False)
    policy = a3c.Policy(spec, spec.build())
    for episodes in (1, 7, 70):
        results = [a3c.evaluate(policy, "CartPole-v1", episodes=episodes, seed=3, greedy=False) for _ in range(2)]
        assert results[0] == results[1]
        assert results[0].episodes == episodes
        assert results[0].return_mean == results[0].length_mean
    other = a3c.evaluate(policy, "CartPole-v1", episodes=70, seed=4, greedy=False)
    assert other.return_mean != results[0].return_mean


def test_evaluation_refuses_what_does_not_fit(policy):
    with pytest.raises(UsageError, match="the policy takes observations"):
        a3c.evaluate(policy, "CartPole-v1")
    with pytest.raises(UsageError, match="name the environment"):
        a3c.evaluate(policy)
    with pytest.raises(UsageError, match="--episodes must be at least 1"):
        a3c.evaluate(policy, "CartPole-v1", episodes=0)


def test_bootstrap_interval():
    assert bootstrap_interval(np.full(5, 3.0), 0) == (3.0, 3.0)
    values = np.random.default_rng(0).normal(10.0, 2.0, size=400)
    low, high = bootstrap_interval(values, 0)
    # The normal theory's interval: mean ± 1.96 s / sqrt(n).
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
