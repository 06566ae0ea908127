"""A person's own torso: what it is given, what is taken of it, and what is refused with which words."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from a3c.errors import UsageError
from a3c.models.custom import CustomTorso
from a3c.spaces.images import buffer_of

BOX = spaces.Box(-np.inf, np.inf, (4,), np.float32)
PICTURE = spaces.Box(0, 255, (9, 9, 3), np.uint8)
NESTED = spaces.Dict({"x": BOX, "deep": spaces.Tuple([spaces.Discrete(3, start=5), PICTURE])})


class Torso(nn.Module):
    """A linear layer, and whatever is done to its output."""

    def __init__(self, then=lambda features: features, inputs=4, features=6):
        super().__init__()
        self.layer = nn.Linear(inputs, features)
        self.then = then

    def forward(self, observation):
        return self.then(self.layer(observation))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy, self.value = nn.Linear(4, 3), nn.Linear(4, 5)

    def forward(self, observation):
        return self.policy(observation), self.value(observation)


class Several(nn.Module):
    """Reads every part of NESTED."""

    def __init__(self):
        super().__init__()
        self.room = nn.Embedding(3, 2)
        self.layer = nn.Linear(4 + 2 + 1, 6)
        self.given = None

    def forward(self, observation):
        self.given = observation
        room = self.room(observation["deep/0"] - 5)
        light = (observation["deep/1"].float() / 255).mean((1, 2, 3)).unsqueeze(-1)
        return self.layer(torch.cat([observation["x"], room, light], -1))


def refused(make, *words, space=BOX):
    with pytest.raises(UsageError) as refusal:
        CustomTorso(make, space)
    message = str(refusal.value)
    for word in ("--model", *words):
        assert word in message, message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("lead", [(), (5,), (3, 2)], ids=str)
def test_leading_dimensions_are_flattened_and_come_back(lead):
    torso = CustomTorso(lambda space: Torso(inputs=space.shape[0]), BOX)
    observation = torch.randn(*lead, 4)
    assert (torso.features, torso.value_features, torso.separate) == (6, 6, False)
    torch.testing.assert_close(torso(observation), torso.module.layer(observation))


@pytest.mark.parametrize("lead", [(), (5,), (3, 2)], ids=str)
def test_policy_and_value_may_have_features_of_their_own(lead):
    torso = CustomTorso(lambda space: Pair(), BOX)
    assert (torso.features, torso.value_features, torso.separate) == (3, 5, True)
    observation = torch.randn(*lead, 4)
    policy, value = torso(observation)
    torch.testing.assert_close(policy, torso.module.policy(observation))
    torch.testing.assert_close(value, torso.module.value(observation))


@pytest.mark.parametrize("lead", [(), (5,), (3, 2)], ids=str)
def test_parts_come_by_path_with_the_environments_numbers(lead):
    torso = CustomTorso(lambda space: Several(), NESTED)
    observation = {
        "x": torch.randn(*lead, 4, dtype=torch.float64),
        "deep/0": torch.full(lead, 6),
        "deep/1": torch.full((*lead, 9, 9, 3), 200, dtype=torch.uint8),
    }
    assert torso(observation).shape == (*lead, 6)
    rows = int(np.prod(lead))
    given = torso.module.given
    assert (given["x"].shape, given["x"].dtype) == ((rows, 4), torch.float32)  # the module's own
    assert given["deep/0"].tolist() == [6] * rows
    assert (given["deep/1"].shape, given["deep/1"].dtype) == ((rows, 9, 9, 3), torch.uint8)
    assert (given["deep/1"] == 200).all()


def test_a_part_without_entries_is_no_obstacle():
    space = spaces.Dict({"x": BOX, "nothing": spaces.Box(0, 1, (0,), np.float32)})
    torso = CustomTorso(lambda space: nn.Sequential(First(), nn.Linear(4, 2)), space)
    assert torso({"x": torch.randn(3, 4), "nothing": torch.zeros(3, 0)}).shape == (3, 2)


class First(nn.Module):
    def forward(self, observation):
        return observation["x"]


def test_a_torso_in_float64_stays_there():
    torso = CustomTorso(lambda space: Torso(), BOX).double()
    assert torso(torch.randn(2, 4)).dtype == torch.float64


def test_a_torso_without_parameters_is_taken_and_follows_the_models_dtype():
    torso = CustomTorso(lambda space: nn.Flatten(), spaces.Box(-1, 1, (2, 3), np.float32)).double()
    assert torso.features == 6
    assert torso(torch.randn(5, 2, 3)).dtype == torch.float64
    counting = CustomTorso(lambda space: Floats(), spaces.MultiBinary(3)).double()
    assert counting(torch.ones(2, 3, dtype=torch.int8)).dtype == torch.float64


class Floats(nn.Module):
    def forward(self, observation):
        return observation.float()


def test_constant_buffers_are_fine():
    class Scaled(Torso):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor([1.0, float("inf"), float("nan"), 2.0]))

        def forward(self, observation):
            return self.layer(observation * self.scale.nan_to_num(posinf=3.0))

    assert CustomTorso(lambda space: Scaled(), BOX).features == 6


def test_layer_and_group_norm_and_large_bounds_are_fine():
    widest = np.finfo(np.float64).max
    space = spaces.Box(-widest, widest, (4,), np.float64)
    norms = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.GroupNorm(2, 6))
    assert CustomTorso(lambda space: norms, space).features == 6


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-128, 127, (3,), np.int8),
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (3,), np.int64),
        spaces.Box(0, 1, (3,), np.bool_),
        spaces.Discrete(7, start=-3),
        spaces.MultiDiscrete([[2, 3]], start=[[4, 5]]),
        spaces.MultiBinary((2, 2)),
        spaces.Box(1.0, 2.0, (), np.float64),
    ],
    ids=str,
)
def test_a_module_is_tried_on_observations_of_the_space(space):
    tried = []

    class Watching(nn.Module):
        def forward(self, observation):
            tried.extend(observation.numpy())
            return observation.reshape(len(observation), -1).float()

    CustomTorso(lambda space: Watching(), space)
    assert len(tried) > 2
    for observation in tried:
        is_choice = isinstance(space, spaces.Discrete)
        assert space.contains(observation if is_choice else np.asarray(observation, space.dtype))


def test_the_callers_space_is_given_and_left_alone():
    given = []
    space = spaces.Box(-1, 1, (4,), np.float32, seed=3)
    before = space.np_random.bit_generator.state
    CustomTorso(lambda space: given.append(space) or Torso(), space)
    assert given[0] is space
    assert space.np_random.bit_generator.state == before


def test_a_factory_that_fails_is_reported_with_its_error():
    def make(space):
        return nn.Linear(space.n, 3)

    refused(make, "the factory failed", "AttributeError", "test_custom.py line")


def test_what_is_no_module_is_refused():
    refused(lambda space: torch.zeros(3), "the factory returned a Tensor", "nn.Module")
    refused(lambda space: Torso, "the factory returned a type")


def test_one_module_does_not_serve_two_models():
    module = Torso()
    CustomTorso(lambda space: module, BOX)
    refused(lambda space: module, "same module twice", "a new one at each call")


def test_a_forward_that_fails_is_reported_with_what_it_was_given():
    refused(lambda space: Torso(inputs=5), "forward failed", "[7, 4] float32", "mat1 and mat2", "test_custom.py line")
    refused(lambda space: Torso(inputs=4), "[7] int64 at 'deep/0'", "[7, 9, 9, 3] uint8 at 'deep/1'", space=NESTED)


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (lambda f: f.sum(-1), "a tensor [7] of float32 for a batch of 7"),
        (lambda f: f.unsqueeze(0), "a tensor [1, 7, 6] of float32"),
        (lambda f: f.T, "a tensor [6, 7] of float32"),
        (lambda f: f[:1], "a tensor [1, 6] of float32"),
        (lambda f: f[:, :0], "a tensor [7, 0] of float32"),
        (lambda f: f.long(), "a tensor [7, 6] of int64"),
        (lambda f: {"features": f}, "gave a dict"),
        (lambda f: None, "gave a NoneType"),
        (lambda f: (f,), "gave a tuple of (a tensor [7, 6] of float32)"),
        (lambda f: (f, f, f), "gave a tuple of (a tensor"),
        (lambda f: (f, None), "a NoneType)"),
        (lambda f: (f, f.sum(-1)), "a tensor [7] of float32"),
    ],
)
def test_an_output_of_another_form_is_refused(then, words):
    refused(lambda space: Torso(then), words, "[N, F]")


def test_a_batch_of_one_must_keep_its_row():
    refused(lambda space: Torso(lambda f: f.squeeze()), "a tensor [6] of float32 for a batch of 1")


def test_parameters_that_cannot_learn_are_named():
    def unused(space):
        module = Torso()
        module.old = nn.Linear(3, 3)
        return module

    def frozen(space):
        module = Torso()
        module.layer.weight.requires_grad_(False)
        return module

    class NoGradient(Torso):
        @torch.no_grad()
        def forward(self, observation):
            return self.layer(observation)

    refused(unused, "parameters old.weight, old.bias get no gradient", "delete")
    refused(frozen, "parameters layer.weight need no gradient", "requires_grad", "register_buffer")
    refused(lambda space: Torso(lambda f: f.detach()), "parameters layer.weight, layer.bias get no gradient", "detach")
    refused(lambda space: NoGradient(), "layer.weight", "no_grad")


def test_many_parameters_are_counted_rather_than_named():
    def make(space):
        module = Torso()
        module.old = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))
        return module

    refused(make, "old.0.weight, old.0.bias, old.1.weight and 5 more")


def test_parameters_of_several_types_are_refused():
    refused(lambda space: nn.Sequential(Torso(), nn.Linear(6, 6).double()), "torch.float32, torch.float64")


def test_batch_normalisation_is_refused_and_what_to_use_is_said():
    refused(
        lambda space: nn.Sequential(Torso(), nn.BatchNorm1d(6)),
        "buffer '1.running_mean' changes",
        "private to each worker, never shared or saved",
        "LayerNorm or GroupNorm",
    )


def test_batch_normalisation_counts_as_it_would_in_training():
    refused(lambda space: nn.Sequential(Torso(), nn.BatchNorm1d(6)).eval(), "running_mean")


def test_rows_that_depend_on_one_another_are_refused():
    refused(lambda space: Torso(lambda f: f - f.mean(0)), "depend on the others in the batch", "LayerNorm")
    refused(lambda space: Torso(lambda f: f.softmax(0)), "depend on the others")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(number):
    refused(lambda space: Torso(lambda features: features * number), "not finite", "weights without initial values")


def test_chance_is_refused():
    refused(lambda space: nn.Sequential(Torso(), nn.Dropout(0.5)), "different features each time", "dropout")


def test_state_kept_from_call_to_call_is_refused():
    class Counting(Torso):
        calls = 0

        def forward(self, observation):
            self.calls += 1
            return self.layer(observation) + self.calls

    refused(lambda space: Counting(), "different features each time", "state")


def test_writing_into_the_observations_is_refused():
    class InPlace(Torso):
        def forward(self, observation):
            return self.layer(observation.div_(2))

    refused(lambda space: InPlace(), "changes the observations")


def test_a_torso_is_given_contiguous_images_however_they_lie_in_memory():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3 * 9 * 9, 2)

        def forward(self, image):
            return self.layer(image.view(len(image), -1).float())

    space = spaces.Box(0, 255, (3, 9, 9), np.uint8)
    buffer = buffer_of(space, (4, 2))
    buffer[...] = np.random.default_rng(0).integers(0, 256, buffer.shape)
    torso = CustomTorso(lambda space: Flat(), space)
    assert torch.equal(torso(torch.from_numpy(buffer)), torso(torch.from_numpy(buffer.copy(order="C"))))
