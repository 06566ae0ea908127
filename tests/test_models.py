"""The actor-critic network: shapes, initial weights, what is shared, the flat vector; and acting with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from a3c.core import categorical
from a3c.core.flat import flat_gradient, is_flattened
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic
from random_rollout import random_rollout


def build(observation_shape=(4,), actions=3, **options) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(observation_shape, actions, **options)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("hidden_sizes", [(), (8,), (8, 16)])
@pytest.mark.parametrize("observation_shape", [(), (4,), (2, 3)])
def test_shapes_for_any_leading_dimensions(observation_shape, hidden_sizes, separate):
    model = build(observation_shape, hidden_sizes=hidden_sizes, separate_torsos=separate)
    for lead in [(), (5,), (6, 5)]:
        logits, values = model.policy_value(torch.randn((*lead, *observation_shape)))
        assert (logits.shape, values.shape) == ((*lead, 3), lead)


def test_a_rollout_is_answered_row_by_row():
    rollout = random_rollout(seed=0, length=6, lanes=5, observation_shape=(4,), dtype=torch.float32)
    model = build()
    logits, values = model(rollout)
    assert (logits.shape, values.shape) == ((7, 5, 3), (7, 5))
    one = model.policy_value(rollout.observations[2, 3])
    torch.testing.assert_close(logits[2, 3], one.logits)
    torch.testing.assert_close(values[2, 3], one.values)


def test_the_policy_alone_equals_the_policy_with_the_value():
    model = build()
    observation = torch.randn(5, 4)
    logits, state = model.policy(observation, None, torch.zeros(5, dtype=torch.bool))
    assert torch.equal(logits, model.policy_value(observation).logits)
    assert state is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64])
def test_observations_of_any_number_type_are_taken(dtype):
    observations = torch.arange(8).reshape(2, 4)
    model = build()
    expected = model.policy_value(observations.float())
    assert torch.equal(model.policy_value(observations.to(dtype)).values, expected.values)


@pytest.mark.parametrize(("activation", "gain_squared"), [("tanh", 25 / 9), ("relu", 2.0)])
def test_initial_weights_are_orthogonal_with_a_gain_each_and_biases_are_zero(activation, gain_squared):
    model = build(hidden_sizes=(16, 8), activation=activation)
    first, second = model.policy_torso[0], model.policy_torso[2]
    torch.testing.assert_close(first.weight.T @ first.weight, gain_squared * torch.eye(4))
    torch.testing.assert_close(second.weight @ second.weight.T, gain_squared * torch.eye(8), atol=1e-6, rtol=1e-5)
    head = model.policy_head.weight
    torch.testing.assert_close(head @ head.T, 1e-4 * torch.eye(3))  # gain 0.01
    assert model.value_head.weight.norm().item() == pytest.approx(1.0)
    for layer in (first, second, model.policy_head, model.value_head):
        assert layer.bias.abs().max().item() == 0.0


def test_the_first_policy_is_nearly_uniform():
    entropy = categorical.entropy(build().policy_value(torch.randn(100, 4)).logits)
    assert entropy.min().item() > 0.999 * np.log(3)


def test_a_shared_torso_is_counted_once_and_separate_ones_share_nothing():
    hidden = 4 * 8 + 8
    heads = (8 * 3 + 3) + (8 + 1)
    assert build(hidden_sizes=(8,)).flat.shape == (hidden + heads,)
    model = build(hidden_sizes=(8,), separate_torsos=True)
    assert model.flat.shape == (2 * hidden + heads,)
    output = model.policy_value(torch.randn(5, 4))
    value_side = {id(p) for module in (model.value_torso, model.value_head) for p in module.parameters()}
    touched = torch.cat([torch.full((p.numel(),), id(p) in value_side) for p in model.parameters()])
    value_gradient = flat_gradient(output.values.sum(), model)
    assert value_gradient[~touched].abs().max().item() == 0.0
    policy_gradient = flat_gradient(model.policy_value(torch.randn(5, 4)).logits[:, 0].sum(), model)
    assert policy_gradient[touched].abs().max().item() == 0.0
    assert value_gradient.abs().max().item() > 0.0
    assert policy_gradient.abs().max().item() > 0.0


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_flat_vector_is_the_module(separate, dtype):
    model = build(separate_torsos=separate, dtype=dtype)
    assert is_flattened(model, model.flat)
    assert model.flat.dtype == dtype
    assert model.flat.numel() == sum(p.numel() for p in model.parameters())
    model.flat.zero_()
    model.flat[-1] = 3.0  # the value head's bias comes last
    logits, values = model.policy_value(torch.randn(5, 4))
    assert logits.tolist() == [[0.0] * 3] * 5
    assert values.tolist() == [3.0] * 5


def test_equal_seeds_give_equal_models():
    assert torch.equal(build().flat, build().flat)


def act(policy: ActingPolicy, observation: np.ndarray) -> list[int]:
    action, state = policy(observation, None, np.zeros(len(observation), np.bool_))
    assert state is None
    assert action.dtype == np.int64
    return action.tolist()


def test_acting_draws_from_its_own_stream():
    model, observation = build(), np.zeros((200, 4), np.float32)
    first = act(ActingPolicy(model, seed=1), observation)
    torch.manual_seed(123)
    assert act(ActingPolicy(model, seed=1), observation) == first
    assert act(ActingPolicy(model, seed=2), observation) != first
    policy = ActingPolicy(model, seed=1)
    assert act(policy, observation) == first != act(policy, observation)
    assert set(first) == {0, 1, 2}


def test_deterministic_acting_takes_the_mode_of_the_parameters_as_they_are():
    model, observation = build(), np.zeros((3, 4), np.float32)
    policy = ActingPolicy(model, seed=0, deterministic=True)
    for favourite in (2, 0, 1):
        model.flat.zero_()  # as a pull would write
        with torch.no_grad():
            model.policy_head.bias[favourite] = 1.0
        assert act(policy, observation) == [favourite] * 3


def test_acting_leaves_training_as_it_was():
    model = build()
    act(ActingPolicy(model, seed=0), np.zeros((3, 4), np.float32))
    assert torch.is_grad_enabled()
    assert flat_gradient(model.policy_value(torch.ones(2, 4)).values.sum(), model).abs().sum().item() > 0
