"""The actor-critic network: shapes, initial weights, what is shared, the flat vector; and acting with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a3c.core import categorical
from a3c.core.distributions import Categorical, Composite, Normal
from a3c.core.flat import flat_gradient, is_flattened
from a3c.core.normalisation import Normaliser
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from builders import box_network
from random_rollout import random_rollout


def build(observation_shape=(4,), actions=3, **options) -> ActorCritic:
    torch.manual_seed(0)
    return box_network(observation_shape, actions, **options)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("hidden_sizes", [(), (8,), (8, 16)])
@pytest.mark.parametrize("observation_shape", [(), (4,), (2, 3)])
def test_shapes_for_any_leading_dimensions(observation_shape, hidden_sizes, separate):
    model = build(observation_shape, hidden_sizes=hidden_sizes, separate_torsos=separate)
    for lead in [(), (5,), (6, 5)]:
        parameters, values = model.policy_value(torch.randn((*lead, *observation_shape)))
        assert (parameters.shape, values.shape) == ((*lead, 3), lead)


def test_a_rollout_is_answered_row_by_row():
    rollout = random_rollout(seed=0, length=6, lanes=5, observation_shape=(4,), dtype=torch.float32)
    model = build()
    parameters, values = model(rollout)
    assert (parameters.shape, values.shape) == ((7, 5, 3), (7, 5))
    one = model.policy_value(rollout.observations[2, 3])
    torch.testing.assert_close(parameters[2, 3], one.policy)
    torch.testing.assert_close(values[2, 3], one.values)


def test_the_policy_alone_equals_the_policy_with_the_value():
    model = build()
    observation = torch.randn(5, 4)
    parameters, _, state = model.policy(observation, None, torch.zeros(5, dtype=torch.bool))
    torch.testing.assert_close(parameters, model.policy_value(observation).policy)
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
    first, second = (layer for layer in model.policy_torso.modules() if isinstance(layer, torch.nn.Linear))
    torch.testing.assert_close(first.weight.T @ first.weight, gain_squared * torch.eye(4))
    torch.testing.assert_close(second.weight @ second.weight.T, gain_squared * torch.eye(8), atol=1e-6, rtol=1e-5)
    head = model.policy_head.linear.weight
    torch.testing.assert_close(head @ head.T, 1e-4 * torch.eye(3))  # gain 0.01
    assert model.value_head.weight.norm().item() == pytest.approx(1.0)
    for layer in (first, second, model.policy_head.linear, model.value_head):
        assert layer.bias.abs().max().item() == 0.0


def test_the_first_policy_is_nearly_uniform():
    entropy = categorical.entropy(build().policy_value(torch.randn(100, 4)).policy)
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
    policy_gradient = flat_gradient(model.policy_value(torch.randn(5, 4)).policy[:, 0].sum(), model)
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
    parameters, values = model.policy_value(torch.randn(5, 4))
    assert parameters.tolist() == [[0.0] * 3] * 5
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
            model.policy_head.linear.bias[favourite] = 1.0
        assert act(policy, observation) == [favourite] * 3


def test_acting_leaves_training_as_it_was():
    model = build()
    act(ActingPolicy(model, seed=0), np.zeros((3, 4), np.float32))
    assert torch.is_grad_enabled()
    assert flat_gradient(model.policy_value(torch.ones(2, 4)).values.sum(), model).abs().sum().item() > 0


# Nested observations, masks, memory.

NESTED = spaces.Dict(
    {
        "a/b": spaces.Box(-np.inf, np.inf, (2,)),
        "action_mask": spaces.Box(0, 1, (3,), np.int8),
        "pair": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary((2, 2))]),
    }
)


def nested_rows(*lead, seed=0):
    """Flat observations of NESTED; every second mask of the last dimension forbids the middle action."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(*lead, 3, dtype=torch.int8)
    mask[..., ::2, 1] = 0
    return {
        "a~1b": torch.randn(*lead, 2, generator=generator),
        "action_mask": mask,
        "pair/0": torch.randint(1, 4, lead, generator=generator),
        "pair/1": torch.randint(0, 2, (*lead, 2, 2), generator=generator).to(torch.int8),
    }


def nested_model(**options) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(NESTED, Categorical(3), Network(hidden_sizes=(8,), memory_size=5, **options))


def nested_rollout(length=6, lanes=4):
    rollout = random_rollout(0, length, lanes)
    rollout.observations = nested_rows(length + 1, lanes)
    return rollout


MEMORY = pytest.mark.parametrize("memory", [None, "lstm", "gru"])
SEPARATE = pytest.mark.parametrize("separate", [False, True])


@MEMORY
@SEPARATE
def test_a_rollout_step_by_step_and_at_once(memory, separate):
    model, rollout = nested_model(memory=memory, separate_torsos=separate), nested_rollout()
    assert (~rollout.episode_start[1:-1]).any()
    assert rollout.episode_start[1:-1].any()
    rollout.state = None if memory is None else torch.randn(4, model.state_size)
    parameters, values = model(rollout)
    assert (parameters.shape, values.shape) == ((7, 4, 3), (7, 4))
    state = rollout.state
    for t, start in enumerate(rollout.episode_start):
        row = {path: part[t] for path, part in rollout.observations.items()}
        acting = model.policy(row, state, start)
        (row_parameters, row_values), state = model.step(row, state, start)
        torch.testing.assert_close(row_parameters, parameters[t])
        torch.testing.assert_close(acting.parameters, parameters[t])
        torch.testing.assert_close(row_values, values[t])
        assert (acting.state is None) == (state is None) == (memory is None)
        if memory is not None:
            torch.testing.assert_close(acting.state, state)
            assert state.shape == (4, model.state_size)


@SEPARATE
def test_state_sizes(separate):
    twice = 2 if separate else 1
    assert nested_model(separate_torsos=separate).state_size == 0
    assert nested_model(separate_torsos=separate, memory="gru").state_size == 5 * twice
    model = nested_model(separate_torsos=separate, memory="lstm")
    assert model.state_size == 10 * twice
    assert model.initial_state(3).tolist() == [[0.0] * 10 * twice] * 3
    assert is_flattened(model, model.flat)


def test_separate_memories_do_not_meet():
    model, rollout = nested_model(memory="lstm", separate_torsos=True), nested_rollout()
    value_side = (model.value_torso, model.value_memory, model.value_head)
    theirs = {id(parameter) for module in value_side for parameter in module.parameters()}
    touched = torch.cat([torch.full((p.numel(),), id(p) in theirs) for p in model.parameters()])
    policy_gradient = flat_gradient(model(rollout).policy[..., 0].sum(), model)
    value_gradient = flat_gradient(model(rollout).values.sum(), model)
    assert policy_gradient[touched].abs().max() == 0.0 < policy_gradient.abs().max()
    assert value_gradient[~touched].abs().max() == 0.0 < value_gradient.abs().max()
    state = torch.randn(4, model.state_size)
    other = torch.cat([state[:, :10], torch.randn(4, 10)], 1)
    rollout.episode_start[0], rollout.state = False, state
    one = model(rollout)
    rollout.state = other
    two = model(rollout)
    assert torch.equal(one.policy, two.policy)
    assert not torch.equal(one.values[0], two.values[0])


@MEMORY
def test_forbidden_actions_have_no_probability_and_get_no_gradient(memory):
    model, rollout = nested_model(memory=memory), nested_rollout()
    forbidden = rollout.observations["action_mask"] == 0
    parameters = model(rollout).policy
    probabilities = parameters.softmax(-1)
    assert (probabilities[forbidden] == 0).all()
    assert (probabilities[~forbidden] > 0).all()
    starts = torch.zeros(4, dtype=torch.bool)
    row = {path: part[0] for path, part in rollout.observations.items()}
    for found in (model.policy(row, None, starts).parameters, model.step(row, None, starts)[0].policy):
        assert torch.equal(found.softmax(-1) == 0, forbidden[0])
    rollout.observations["action_mask"][:] = torch.tensor([1, 0, 1])
    (gradient,) = torch.autograd.grad(categorical.entropy(model(rollout).policy).sum(), [model.policy_head.linear.bias])
    assert gradient[1] == 0
    assert gradient[[0, 2]].abs().min() > 0


def test_a_mask_that_forbids_all_forbids_nothing():
    model, rows = nested_model(), nested_rows(4)
    free = model.policy_value({**rows, "action_mask": torch.ones(4, 3)}).policy
    assert torch.equal(model.policy_value({**rows, "action_mask": torch.zeros(4, 3)}).policy, free)


def test_a_mask_reaches_each_choice_of_a_composite():
    torch.manual_seed(0)
    space = spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "action_mask": spaces.Box(0, 1, (5,), np.int8)})
    model = ActorCritic(space, Composite((Categorical(2), Normal(1), Categorical(3))), Network(hidden_sizes=()))
    rows = {"x": torch.randn(4, 2), "action_mask": torch.tensor([[1, 0, 0, 1, 0]] * 4)}
    parameters = model.policy_value(rows).policy
    assert (parameters[:, [1, 4, 6]] < -1e20).all()
    assert (parameters[:, [0, 2, 3, 5]] > -1e20).all()


def test_observations_are_normalised_before_the_torsos_and_never_the_mask():
    plain, model = nested_model(), nested_model()
    model.normaliser = Normaliser({"a~1b": 2})
    model.normaliser.load(torch.tensor([[10.0, 10.0], [1.0, -2.0], [40.0, 90.0]], dtype=torch.float64))
    rows = nested_rows(4)
    expected = plain.policy_value({**rows, "a~1b": (rows["a~1b"] - torch.tensor([1.0, -2])) / torch.tensor([2.0, 3])})
    found = model.policy_value(rows)
    torch.testing.assert_close(found.policy, expected.policy)
    torch.testing.assert_close(found.values, expected.values)
    starts = torch.zeros(4, dtype=torch.bool)
    torch.testing.assert_close(model.policy(rows, None, starts).parameters, expected.policy)


def test_standardised_images_are_not_scaled_again():
    space, normaliser = spaces.Box(0, 255, (8, 8, 3), np.uint8), Normaliser(image_units={"": 255.0})
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    models = []
    for chosen in (None, normaliser):
        torch.manual_seed(0)
        models.append(ActorCritic(space, Categorical(3), normaliser=chosen))
    plain = tuple(models[0].policy_value(images))
    torch.testing.assert_close(tuple(models[1].policy_value(images)), plain)  # nothing seen
    normaliser.load(torch.tensor([[9.0], [0.5], [9 * 0.25]], dtype=torch.float64))
    shifted = (images / 255 - 0.5) / 0.5 * 255  # which the plain network divides by 255
    torch.testing.assert_close(tuple(models[1].policy_value(images)), tuple(models[0].policy_value(shifted)))


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.policy, self.value = torch.nn.Linear(2, 6), torch.nn.Linear(2, 7)

    def forward(self, observation):
        return self.policy(observation["a~1b"]), self.value(observation["a~1b"])


@MEMORY
def test_a_persons_own_pair_of_torsos(memory):
    torch.manual_seed(0)
    network = Network(memory=memory, memory_size=5)
    model = ActorCritic(NESTED, Categorical(3), network, make_torso=lambda space: Pair())
    rollout = nested_rollout()
    parameters, values = model(rollout)
    row = {path: part[0] for path, part in rollout.observations.items()}
    (row_parameters, row_values), state = model.step(row, None, rollout.episode_start[0])
    torch.testing.assert_close(parameters[0], row_parameters)
    torch.testing.assert_close(values[0], row_values)
    acting = model.policy(row, None, rollout.episode_start[0])
    torch.testing.assert_close(acting.parameters, row_parameters)
    assert model.state_size == {None: 0, "gru": 10, "lstm": 20}[memory]
    assert memory is None or state.shape == (4, model.state_size)
    value_gradient = flat_gradient(model(rollout).values.sum(), model)
    ours = {id(p) for p in [*model.policy_torso.module.policy.parameters(), *model.policy_head.parameters()]}
    touched = torch.cat([torch.full((p.numel(),), id(p) in ours) for p in model.parameters()])
    assert value_gradient[touched].abs().max() == 0.0 < value_gradient.abs().max()
