"""A trained agent: prediction, saving, and what other libraries expect of it."""

from __future__ import annotations

import inspect
import json
import math
import resource
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import a3c
from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.checkpoint import load_policy
from a3c.experiment.evaluate import bootstrap_interval
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.actor_critic import Network

FOUR = spaces.Box(-np.inf, np.inf, (4,), np.float32)
SMALL = Network(hidden_sizes=(8,))
SPEC = PolicySpec(FOUR, spaces.Discrete(3, start=5), network=SMALL)
CARTPOLE = PolicySpec(FOUR, spaces.Discrete(2), network=SMALL)


@pytest.fixture
def policy():
    policy = a3c.Policy(SPEC, SPEC.build(seed=1))
    policy.model.policy_head.linear.weight.data *= 100  # far from uniform
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
    other = PolicySpec(FOUR, spaces.Discrete(3, start=5), network=Network(hidden_sizes=(9,)))
    a3c.Policy(other, other.build()).save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(RunDirectoryError, match="does not hold the network"):
        a3c.load(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")  # Stable-Baselines3 warns of what it would rather be given
def test_stable_baselines3_evaluates_it():
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    policy = a3c.Policy(CARTPOLE, CARTPOLE.build())
    returns, lengths = evaluate_policy(
        policy, make_vec_env("CartPole-v1", n_envs=2, seed=0), n_eval_episodes=6, return_episode_rewards=True
    )
    assert len(returns) == 6
    assert returns == lengths
    mean, std = evaluate_policy(policy, gym.make("CartPole-v1"), n_eval_episodes=2, deterministic=False)
    assert mean >= 1
    assert std >= 0


def test_evaluation_repeats_and_plays_exactly_as_many_episodes_as_asked():
    policy = a3c.Policy(CARTPOLE, CARTPOLE.build())
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


# Nested observations and actions.

NESTED = PolicySpec(
    spaces.Dict(
        {
            "cue": spaces.Discrete(4, start=1),
            "pair": spaces.Tuple([spaces.Box(-np.inf, np.inf, (2,)), spaces.MultiBinary(3)]),
            "action_mask": spaces.Box(0, 1, (3,), np.int8),
        }
    ),
    spaces.Discrete(3),
    network=Network(hidden_sizes=(8,), memory="gru", memory_size=4),
)


def nested_batch(count):
    random = np.random.default_rng(0)
    mask = np.ones((count, 3), np.int8)
    mask[np.arange(count), random.integers(0, 3, count)] = 0
    return {
        "cue": random.integers(1, 5, count),
        "pair": (random.normal(size=(count, 2)).astype(np.float32), random.integers(0, 2, (count, 3))),
        "action_mask": mask,
    }


def row_of(batch, i):
    if isinstance(batch, dict):
        return {key: row_of(part, i) for key, part in batch.items()}
    return tuple(row_of(part, i) for part in batch) if isinstance(batch, tuple) else batch[i]


def test_one_nested_observation_or_several():
    policy, batch = a3c.Policy(NESTED, NESTED.build()), nested_batch(6)
    policy.model.flat.mul_(3)
    actions, state = policy.predict(batch, deterministic=True)
    values = policy.value(batch)
    assert (actions.shape, state.shape, values.shape) == ((6,), (6, 4), (6,))
    for i in range(6):
        row = row_of(batch, i)
        action, one = policy.predict(row, deterministic=True)
        assert action == actions[i]
        assert NESTED.action_space.contains(action)
        np.testing.assert_allclose(one, state[i : i + 1], rtol=1e-4, atol=1e-6)
        assert policy.value(row) == pytest.approx(values[i], rel=1e-4, abs=1e-6)
        assert policy.value(row).shape == ()


def test_a_prediction_keeps_to_the_mask():
    policy, batch = a3c.Policy(NESTED, NESTED.build()), nested_batch(300)
    for deterministic in (False, True):
        actions, _ = policy.predict(batch, deterministic=deterministic)
        assert batch["action_mask"][np.arange(300), actions].all()
        assert set(actions.tolist()) == {0, 1, 2} or deterministic


def test_plain_python_numbers_are_taken():
    policy = a3c.Policy(NESTED, NESTED.build())
    plain = {"cue": 2, "pair": ([0.5, -1], [0, 1, 1]), "action_mask": [1, 0, 1]}
    arrays = {"cue": np.int64(2), "pair": (np.array([0.5, -1], np.float32), np.array([0, 1, 1], np.int8))}
    arrays["action_mask"] = np.array([1, 0, 1], np.int8)
    assert policy.value(plain) == policy.value(arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": (np.zeros((6, 3), np.float32), np.zeros((6, 3)))}, r"shape at 'pair/0' is \(6, 3\).*takes \(2,\)"),
        ({"pair": (np.zeros((6, 2)), np.full((6, 3), 0.5))}, "the observation at 'pair/1' is float64.*int8: convert"),
        ({"cue": np.ones(5, np.int64)}, r"differ in how many they are: \[\(5,\), \(6,\)\]"),
        ({"cue": np.int64(1)}, r"differ in how many they are"),
        ({"pair": np.zeros(3)}, "shape at 'pair/0'"),
        ({"pair": 7}, "the observation is not nested as Dict"),
        ({"pair": ()}, "the observation is not nested as Dict"),
        ({"cue": "red"}, "the observation at 'cue' is <U3"),
        ({"cue": [[1], [2, 3]]}, "the observation is not nested as Dict"),
        ({"pair": (np.full((6, 2), np.nan), np.zeros((6, 3)))}, "the observation at 'pair/0' holds NaN or infinity"),
        ({"pair": (np.full((6, 2), 1e300), np.zeros((6, 3)))}, "the observation at 'pair/0' holds NaN or infinity"),
        ({"cue": np.full(6, 5)}, r"the observation at 'cue' has a value that Discrete\(4, start=1\) does not have"),
        ({"cue": np.array([1, 1, 0, 1, 1, 1])}, "the observation at 'cue' has a value that"),
    ],
)
def test_what_is_wrong_with_an_observation_is_named(change, message):
    policy = a3c.Policy(NESTED, NESTED.build())
    with pytest.raises(UsageError, match=message):
        policy.predict(nested_batch(6) | change)


@pytest.mark.parametrize("value", [np.array([0, 3]), np.array([-1, 0]), np.array([[0, 0], [2, 2]])])
def test_a_choice_that_there_is_not_is_named(value):
    spec = PolicySpec(spaces.MultiDiscrete([2, 3]), spaces.Discrete(2), network=SMALL)
    policy = a3c.Policy(spec, spec.build())
    policy.predict(np.array([1, 2]))
    with pytest.raises(UsageError, match=r"the observation has a value that MultiDiscrete\(\[2 3\]\) does not have"):
        policy.predict(value)


@pytest.mark.parametrize("mapping", [{"observation": np.zeros(4)}, {"": np.zeros(4)}, {}])
def test_a_dict_for_a_plain_observation_is_named(policy, mapping):
    with pytest.raises(UsageError, match=r"not nested as Box.*a dict"):
        policy.predict(mapping)


def test_a_part_that_is_missing_is_named():
    batch = nested_batch(6)
    del batch["cue"]
    with pytest.raises(UsageError, match="not nested as .*KeyError: 'cue'"):
        a3c.Policy(NESTED, NESTED.build()).value(batch)
    with pytest.raises(UsageError, match="not nested as"):
        a3c.Policy(NESTED, NESTED.build()).value(np.zeros(4, np.float32))


def test_a_state_or_starts_of_another_batch_are_named():
    policy, batch = a3c.Policy(NESTED, NESTED.build()), nested_batch(6)
    for state in (np.zeros((5, 4), np.float32), np.zeros((6, 3), np.float32), np.zeros(4, np.float32)):
        with pytest.raises(UsageError, match=r"for 6 observations it is \(6, 4\)"):
            policy.predict(batch, state)
    with pytest.raises(UsageError, match="episode_start"):
        policy.predict(batch, None, np.zeros(5, np.bool_))


def test_a_state_is_what_the_policy_remembers_until_an_episode_starts():
    policy, batch = a3c.Policy(NESTED, NESTED.build()), nested_batch(6)
    policy.model.flat.mul_(3)
    _, first = policy.predict(batch, None, np.ones(6, np.bool_))
    _, second = policy.predict(batch, first, np.zeros(6, np.bool_))
    _, without = policy.predict(batch, first)
    assert np.array_equal(without, second)
    starts = np.arange(6) % 2 == 0
    _, mixed = policy.predict(batch, first, starts)
    np.testing.assert_allclose(mixed, np.where(starts[:, None], first, second), rtol=1e-5, atol=1e-6)
    assert (np.abs(second - first).max(1) > 1e-4).all()
    assert not np.array_equal(policy.value(batch), policy.value(batch, first))


# Saving.

SPECS = {
    "nested, with memory": NESTED,
    "continuous": PolicySpec(FOUR, spaces.Box(-2, 5, (3,)), "tanh", SMALL, Normalisation(True, True, 5.0, 0.9)),
    "gsde": PolicySpec(FOUR, spaces.Box(-2, 5, (3,)), network=Network(hidden_sizes=(), log_std="gsde")),
    "two torsos": PolicySpec(
        FOUR,
        spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Box(0, 1, ()))]),
        network=Network(hidden_sizes=(8, 4), activation="relu", separate_torsos=True, memory="lstm", memory_size=3),
    ),
    "many categories": PolicySpec(
        spaces.Tuple([spaces.Discrete(2000), spaces.MultiDiscrete([3, 4])]), spaces.MultiBinary(2), network=SMALL
    ),
    "image": PolicySpec(spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.MultiDiscrete([2, 3]), network=SMALL),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_saved_policy_is_the_same_when_it_comes_back(name, tmp_path):
    spec = SPECS[name]
    policy = a3c.Policy(spec, spec.build(seed=3))
    if tracked := policy.model.normaliser.tracked:
        policy.model.normaliser.load(torch.rand(3, tracked, dtype=torch.float64) + 1)
    policy.save(tmp_path / "it")
    loaded = a3c.load(tmp_path / "it")
    assert loaded.spec.to_json() == spec.to_json()
    assert loaded.spec.observation_space == spec.observation_space
    assert loaded.spec.action_space == spec.action_space
    assert torch.equal(loaded.model.flat, policy.model.flat)
    assert torch.equal(loaded.model.normaliser.moments, policy.model.normaliser.moments)
    assert loaded.model.normaliser.reward_unit == policy.model.normaliser.reward_unit
    spec.observation_space.seed(0)
    for _ in range(3):
        row = spec.observation_space.sample()
        for one, other in (
            (policy.predict(row), loaded.predict(row)),  # the random streams are alike, too
            (policy.predict(row, deterministic=True), loaded.predict(row, deterministic=True)),
            (policy.value(row), loaded.value(row)),
        ):
            assert str(one) == str(other)


def test_the_order_of_an_action_spaces_keys_is_the_trained_one(tmp_path):
    """Gymnasium sorts a plain dict's keys and keeps pairs as they are; the heads' columns depend on it."""
    spec = SPECS["two torsos"]
    a3c.Policy(spec, spec.build()).save(tmp_path)
    assert list(a3c.load(tmp_path).spec.actions.parts) == ["z", "a"]


def test_a_run_without_its_checkpoints_is_said_to_have_none(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(
        RunDirectoryError, match="holds no checkpoint: it is no run, or one that ended before its first"
    ):
        a3c.Policy.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "policy.json"])
def test_damaged_files_are_named(name, policy, tmp_path):
    policy.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"\xff" * 100, b"[1]"):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(RunDirectoryError, match=r"damaged|cannot be read"):
            load_policy(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunDirectoryError, match=name):
        load_policy(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_a_choice_may_be_of_whatever_integers(dtype):
    spec = PolicySpec(spaces.Discrete(5, dtype=dtype, start=2), spaces.Discrete(3), network=SMALL)
    policy = a3c.Policy(spec, spec.build(seed=1))
    values = [float(policy.value(given)) for given in (4, np.int64(4), np.uint8(4), np.array(4, np.uint64))]
    assert values == [values[0]] * 4
    assert policy.predict(np.array([2, 6, 4]))[0].shape == (3,)
    for wrong in (7, 1, -1, 260):  # the last is 4 in eight bits
        with pytest.raises(UsageError, match="has a value that Discrete.* does not have"):
            policy.value(wrong)
    with pytest.raises(UsageError, match="the observation is float64; this policy takes"):
        policy.value(4.0)


def test_ten_thousand_levels_in_a_file_are_damage(policy, tmp_path):
    policy.save(tmp_path)
    (tmp_path / "policy.json").write_text('{"kind":"Tuple","spaces":[' * 10_000 + "]}" * 10_000)
    with pytest.raises(RunDirectoryError, match="the run is damaged"):
        load_policy(tmp_path)


def test_weights_without_moments_or_with_others_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    spec = SPECS["continuous"]
    a3c.Policy(spec, spec.build()).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["normaliser.moments"].shape == (3, 5)
    for moments in ({}, {"normaliser.moments": torch.zeros(3, 4, dtype=torch.float64)}):
        others = {name: tensor for name, tensor in tensors.items() if name != "normaliser.moments"}
        save_file(others | moments, tmp_path / "model.safetensors")
        with pytest.raises(RunDirectoryError, match="does not hold the network"):
            load_policy(tmp_path)


BOX = {"kind": "Box", "shape": [2**24], "dtype": "float32", "low": 0.0, "high": 1.0}
TOO_LARGE = {
    "many layers": {"network": {"hidden_sizes": [64] * 20_000}},
    "wide layers": {"network": {"hidden_sizes": [4096] * 300}},
    "widest layers": {"network": {"hidden_sizes": [2**20] * 2000}},
    "memory": {"network": {"memory": "lstm", "memory_size": 2**20}},
    "observation": {"observation_space": BOX},
    "observation and layers": {"observation_space": BOX | {"shape": [50_000]}, "network": {"hidden_sizes": [2**20]}},
    "observations": {"observation_space": {"kind": "Tuple", "spaces": [BOX] * 40}},
    "parts": {"observation_space": {"kind": "Tuple", "spaces": [BOX | {"shape": [1]}] * 100_000}},
    "normalised": {"observation_space": BOX | {"shape": [50_000]}, "normalisation": {"observations": True}},
    "action": {"action_space": BOX},
    "choices": {"action_space": {"kind": "Tuple", "spaces": [{"kind": "Discrete", "n": 2**20, "start": 0}] * 40}},
    "categories": {"observation_space": {"kind": "Discrete", "n": 2**20, "start": 0}},
}


@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("own", [False, True], ids=["", "own network"])
def test_what_a_small_file_describes_is_not_made(name, own, policy, tmp_path):
    policy.save(tmp_path)
    data = json.loads((tmp_path / "policy.json").read_text())
    for part, change in TOO_LARGE[name].items():
        data[part] = data[part] | change if part in ("network", "normalisation") else change
    data["model"] = "test_policy:mean" if own else None
    (tmp_path / "policy.json").write_text(json.dumps(data))
    peak, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(
        UsageError, match=rf"{tmp_path}.*(holds? .* numbers|: .*\d numbers|and not)|are handled|factory"
    ):
        load_policy(tmp_path, mean if own else None)
    assert time.monotonic() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < (500_000 if own else 100_000)  # KiB


def mean(observation_space):
    """A network that makes little of a large observation."""
    raise ValueError("it is not to be built")


def test_a_tensor_without_numbers_does_not_stand_for_one_with_them(policy, tmp_path):
    from safetensors.torch import load_file, save_file

    policy.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"more": torch.empty(2**20, 8192, 0)}, tmp_path / "model.safetensors")
    data = json.loads((tmp_path / "policy.json").read_text())
    data["network"]["hidden_sizes"] = [2**20, 8192]
    (tmp_path / "policy.json").write_text(json.dumps(data))
    with pytest.raises(
        RunDirectoryError, match=r"does not hold the network.* more is \[1048576, 8192, 0\] float32, and not"
    ):
        load_policy(tmp_path)


@pytest.mark.parametrize("name", SPECS)
def test_the_outline_is_that_of_the_network(name):
    outline, built = SPECS[name].outline(), SPECS[name].build()
    assert outline.flat.is_meta
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in outline.state_dict().items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in built.state_dict().items()
    }


DAMAGE = {
    "another format": {"format": 1},
    "no bounding": {"bounding": "wrap"},
    "bounding is a list": {"bounding": ["clip"]},
    "network is a list": {"network": []},
    "normalisation is null": {"normalisation": None},
    "unknown normalisation": {"normalisation": {"code": "import os"}},
}
NETWORK_DAMAGE = {
    "torso": "resnet",
    "hidden_sizes": [-1],
    "activation": "exec",
    "separate_torsos": 1,
    "memory": "transformer",
    "memory_size": 2**40,
    "log_std": "none",
    "initial_log_std": "0.5",
}
NORMALISATION_DAMAGE = {
    "observations": "yes",
    "scale_rewards": 1,
    "clip_rewards": "1",
    "discount": None,
}


@pytest.mark.parametrize(
    ("dtype", "shape"), [("F64", [2**63, 0]), ("F4", [0, 2**62, 4]), ("F32", [0] * 2000), ("F32", [2**40, 2**40, 0])]
)
def test_a_tensor_of_a_mad_shape_is_damage(dtype, shape, policy, tmp_path):
    policy.save(tmp_path / "p")
    header = json.dumps({"normaliser.moments": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "p" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RunDirectoryError, match=r"model\.safetensors") as caught:
        a3c.Policy.load(tmp_path / "p")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_description_is_refused(name):
    with pytest.raises(RunDirectoryError):
        PolicySpec.from_json(NESTED.to_json() | DAMAGE[name])


@pytest.mark.parametrize("field", sorted({*NETWORK_DAMAGE, *NORMALISATION_DAMAGE}))
@pytest.mark.parametrize(
    "value", ["named", [10**9], {"a": 1}, "x", -1.5, math.nan, math.inf, 10**400], ids=lambda value: str(value)[:9]
)
def test_an_impossible_network_is_refused(field, value):
    part, damage = ("network", NETWORK_DAMAGE) if field in NETWORK_DAMAGE else ("normalisation", NORMALISATION_DAMAGE)
    number = field in ("initial_log_std", "clip_rewards", "discount")
    if number and value == -1.5:
        value = True  # the number itself would be like any other
    value = damage[field] if value == "named" else value
    data = json.loads(json.dumps(NESTED.to_json()))
    data[part][field] = value
    with pytest.raises(RunDirectoryError, match="description is damaged"):
        PolicySpec.from_json(data)


def test_a_field_too_few_or_too_many_is_refused():
    for change in ({"extra": 1}, {"memory": ...}):
        network = {name: value for name, value in (NESTED.to_json()["network"] | change).items() if value is not ...}
        with pytest.raises(RunDirectoryError, match="description is damaged"):
            PolicySpec.from_json(NESTED.to_json() | {"network": network})
    for missing in NESTED.to_json():
        data = NESTED.to_json()
        del data[missing]
        with pytest.raises(RunDirectoryError):
            PolicySpec.from_json(data)


def test_what_fits():
    spec = SPECS["two torsos"]
    assert spec.fits(spaces.Box(-1, 1, (4,)), spec.action_space)  # bounds do not matter
    assert spec.fits(FOUR, spaces.Dict({"a": spaces.Box(0, 9, ()), "z": spaces.Discrete(2)}))
    assert not spec.fits(spaces.Box(-1, 1, (5,)), spec.action_space)
    assert not spec.fits(spaces.Box(-1, 1, (4,), np.float64), spec.action_space)
    assert not spec.fits(FOUR, spaces.Dict({"a": spaces.Box(0, 1, ()), "z": spaces.Discrete(2, start=1)}))
    assert not NESTED.fits(FOUR, NESTED.action_space)


def test_building_leaves_the_processs_random_stream_alone():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    first, second, other = SPEC.build(seed=1).flat, SPEC.build(seed=1).flat, SPEC.build(seed=2).flat
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_value_of_scaled_rewards_is_in_their_own_unit():
    spec = PolicySpec(FOUR, spaces.Discrete(2), network=SMALL, normalisation=Normalisation(scale_rewards=True))
    policy = a3c.Policy(spec, spec.build())
    before = policy.value(observations(3))
    policy.model.normaliser.load(torch.tensor([[10.0], [5.0], [160.0]], dtype=torch.float64))
    np.testing.assert_allclose(policy.value(observations(3)), 4 * before, rtol=1e-6)


@pytest.mark.skipif("dtype" not in inspect.signature(spaces.Discrete).parameters, reason="this Gymnasium has one type")
def test_a_run_of_before_discretes_had_types_can_go_on():
    def spec(**options):
        observations = spaces.Tuple([spaces.Discrete(3, **options), spaces.Box(-1, 1, (2,))])
        return PolicySpec(observations, spaces.Discrete(2, **options))

    typed, untyped = spec(dtype=np.int32), spec()
    assert untyped.stands_for(typed)
    assert typed.stands_for(spec(dtype=np.int32))
    assert not typed.stands_for(untyped)
    assert not spec(dtype=np.int16).stands_for(typed)
    assert not PolicySpec(spaces.Discrete(3), spaces.Discrete(2)).stands_for(typed)
