"""The encoder: what each kind of space becomes, which boxes are images, and how parts are joined."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from a3c.errors import UnsupportedEnvironment, UsageError
from a3c.models.encoder import Encoder
from a3c.models.torsos import image_torso, mlp_torso
from a3c.spaces.images import image_layout
from a3c.spaces.parts import flatten


def box(*shape, low=-np.inf, high=np.inf, dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


def picture(*shape, dtype=np.uint8):
    return box(*shape, low=0, high=255, dtype=dtype)


def bits(*shape):
    return box(*shape, low=0, high=1, dtype=np.bool_)


def linear(space, **options) -> Encoder:
    """What a space's numbers are, before any layer."""
    return Encoder(space, hidden_sizes=(), **options)


def drawn(space, *lead):
    """A flat observation [*lead, *O] drawn from a space, as tensors."""
    space.seed(0)
    rows = [flatten(space, space.sample()) for _ in range(int(np.prod(lead)))]

    def stack(parts):
        return torch.from_numpy(np.stack(parts)).reshape((*lead, *np.shape(parts[0])))

    if isinstance(rows[0], dict):
        return {path: stack([row[path] for row in rows]) for path in rows[0]}
    return stack(rows)


def each(function, observation):
    if isinstance(observation, dict):
        return {path: function(part) for path, part in observation.items()}
    return function(observation)


LAYOUTS = [
    (picture(84, 84, 3), "HWC"),
    (picture(210, 160, 3), "HWC"),
    (picture(84, 84, 1), "HWC"),
    (picture(3, 84, 84), "CHW"),
    (picture(4, 84, 84), "CHW"),
    (picture(12, 84, 84), "CHW"),
    (picture(84, 84, 12), "HWC"),
    (picture(12, 210, 160), "CHW"),
    (picture(210, 160, 12), "HWC"),
    (box(64, 48, 3), "HWC"),
    (box(3, 64, 48, low=0, high=1), "CHW"),
    (box(3, 64, 48, dtype=np.float64), "CHW"),
    (bits(10, 10, 4), "HWC"),
    (bits(10, 10, 7), "HWC"),
    (bits(10, 10, 10), "HWC"),
    (bits(4, 10, 10), "CHW"),
    (bits(8, 8, 111), "HWC"),  # chess
    (bits(111, 8, 8), "CHW"),
    (picture(84, 84), "HW"),
    (picture(8, 8), "HW"),
    (picture(84, 7), None),
    (box(84, 84), None),
    (box(84, 84, low=0, high=1), "HW"),
    (box(36, 48, low=-1, high=1, dtype=np.float64), "HW"),
    (box(35, 84, low=0, high=1), None),
    (bits(10, 10), None),
    (picture(4, 84, 84, 3), "SHWC"),
    (picture(4, 3, 84, 84), "SCHW"),
    (picture(4, 84, 84, 1), "SHWC"),
    (bits(2, 10, 10, 4), "SHWC"),
    (picture(2, 2, 3, 4), None),
    (box(2, 3, 4), None),
    (picture(7, 7, 3), None),  # MiniGrid: kinds of things, not colours
    (picture(8, 3, 3), None),
    (picture(128), None),
    (box(), None),
    (box(2, 8, 8, 8, 3), None),
    (box(10, 10, 0), None),
    (spaces.MultiBinary((10, 10, 4)), None),
    (spaces.Discrete(5), None),
]


@pytest.mark.parametrize(("space", "layout"), LAYOUTS, ids=lambda value: str(value) if value is None else None)
def test_what_looks_like_an_image(space, layout):
    assert image_layout(space) == layout


VECTORS = [
    (box(), 1),
    (box(5), 5),
    (box(2, 3, 4), 24),
    (box(2, 1, 2, 1, 2), 8),
    (box(5000), 5000),
    (box(3, dtype=np.float64), 3),
    (box(3, low=-5, high=5, dtype=np.int64), 3),
    (picture(128), 128),
    (bits(6), 6),
    (spaces.Discrete(4), 4),
    (spaces.Discrete(4, start=-2), 4),
    (spaces.Discrete(1), 1),
    (spaces.Discrete(1024), 1024),
    (spaces.Discrete(1025), 64),
    (spaces.MultiDiscrete([2, 3]), 5),
    (spaces.MultiDiscrete([[2, 3], [4, 5]]), 14),
    (spaces.MultiDiscrete([900, 200]), 64),
    (spaces.MultiBinary(5), 5),
    (spaces.MultiBinary((2, 3)), 6),
    (spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)]), 45),
    (spaces.Dict({"a": box(2), "b": spaces.Dict({"c": spaces.Discrete(3), "action_mask": bits(4)})}), 9),
]
IMAGES = [
    (picture(36, 36, 3), 256),
    (bits(10, 10, 4), 128),
    (bits(10, 10, 10), 128),
    (picture(40, 36), 256),
    (picture(35, 40), 128),
    (picture(2, 36, 36, 3), 256),
    (picture(2, 3, 36, 36), 256),
]
LEADS = pytest.mark.parametrize("lead", [(), (5,), (3, 2)], ids=str)


@LEADS
@pytest.mark.parametrize(("space", "features"), [*VECTORS, *IMAGES], ids=lambda value: f"{value}"[:40])
def test_features_of_every_space_with_any_leading_dimensions(space, features, lead):
    torch.manual_seed(0)
    encoder = linear(space)
    observation = drawn(space, *lead)
    encoded = encoder(observation)
    assert encoder.features == features
    assert (encoded.shape, encoded.dtype) == ((*lead, features), torch.float32)
    hidden = Encoder(space, hidden_sizes=(8,), activation="relu")
    assert hidden(observation).shape == (*lead, hidden.features)
    if lead == (3, 2):
        row = each(lambda part: part[2, 1], observation)
        torch.testing.assert_close(encoder(row), encoded[2, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [space for space, _ in [*VECTORS, *IMAGES]], ids=lambda space: f"{space}"[:40])
def test_a_model_in_float64_stays_there(space):
    encoder = linear(space).double()
    assert encoder(drawn(space, 2)).dtype == torch.float64


def test_a_vector_goes_through_a_perceptron_and_nothing_else():
    torch.manual_seed(0)
    encoder = Encoder(box(2, 3), hidden_sizes=(8, 4), activation="relu")
    torch.manual_seed(0)
    torso = mlp_torso(6, (8, 4), "relu")
    observation = torch.randn(5, 2, 3)
    assert torch.equal(encoder(observation), torso(observation.reshape(5, 6)))
    assert [p.shape for p in encoder.parameters()] == [p.shape for p in torso.parameters()]
    assert encoder.features == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int8, np.int64, np.float16, np.float64])
def test_numbers_of_any_type_are_taken_as_they_are(dtype):
    values = np.array([0, 1, 100], dtype)
    assert linear(box(3, low=0, high=100, dtype=dtype))(torch.from_numpy(values)).tolist() == [0.0, 1.0, 100.0]


def test_normalised_numbers_of_an_integer_box_keep_their_fractions():
    assert linear(box(2, low=0, high=9, dtype=np.int64))(torch.tensor([0.5, -1.5])).tolist() == [0.5, -1.5]


def test_categories_are_one_hot_from_the_start():
    encoder = linear(spaces.Discrete(3, start=-1))
    assert encoder(torch.tensor([-1, 0, 1])).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_several_categories_are_one_hot_side_by_side():
    encoder = linear(spaces.MultiDiscrete([[2, 3]], start=[[0, 5]]))
    assert encoder(torch.tensor([[[0, 5]], [[1, 7]]])).tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]]


def test_bits_are_0_and_1():
    assert linear(spaces.MultiBinary(3))(torch.tensor([1, 0, 1], dtype=torch.int8)).tolist() == [1, 0, 1]


def test_small_categories_do_not_wrap_around():
    space = spaces.MultiDiscrete([3], dtype=np.uint8, start=np.array([2], np.uint8))
    assert linear(space)(torch.tensor([[1], [2]], dtype=torch.uint8)).tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("value", [-1, 3, 10**12])
def test_a_value_that_is_no_category_is_none_of_them(value):
    assert not linear(spaces.Discrete(3))(torch.tensor([value])).any()
    embedded = linear(spaces.Discrete(2000, start=3))
    assert not embedded(torch.tensor([-1, 2, 2003, 10**12])).any()


def test_many_categories_are_the_sum_of_a_vector_each():
    torch.manual_seed(0)
    encoder = linear(spaces.MultiDiscrete([700, 800], start=[0, 10]))
    table = encoder.torsos[0].numbers.table.weight
    got = encoder(torch.tensor([[0, 10], [699, 809]]))
    torch.testing.assert_close(got, torch.stack([table[0] + table[700], table[699] + table[1499]]))
    assert 0.9 < encoder(drawn(spaces.MultiDiscrete([700, 800], start=[0, 10]), 200)).std().item() < 1.1


def test_too_many_categories_are_refused_before_memory_is_taken():
    space = spaces.Dict({"id": spaces.Discrete(2**40), "x": box(2)})
    with pytest.raises(UnsupportedEnvironment, match="a Discrete at 'id' of 1099511627776 categories"):
        Encoder(space)


def test_bytes_are_scaled_and_other_images_are_not():
    torch.manual_seed(0)
    values = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    of_bytes, of_floats = Encoder(picture(3, 12, 12)), Encoder(box(3, 12, 12))
    of_floats.load_state_dict(of_bytes.state_dict())
    unit = values.float() / 255
    expected = of_floats(unit)
    assert torch.equal(of_bytes(values), expected)
    assert torch.equal(of_bytes(values.float()), expected)  # bytes as floats, bounded by 0 and 255
    assert torch.equal(of_floats.torsos[0].torso(unit), expected)
    ready = Encoder(picture(3, 12, 12), ready_images={""})
    ready.load_state_dict(of_bytes.state_dict())
    assert torch.equal(ready(unit), expected)
    truths = Encoder(bits(3, 12, 12))
    truths.load_state_dict(of_bytes.state_dict())
    assert torch.equal(truths(values > 99), of_floats((values > 99).float()))


@pytest.mark.parametrize(
    ("last", "first", "permutation"),
    [
        (picture(40, 36, 3), picture(3, 40, 36), (0, 1, 4, 2, 3)),
        (picture(5, 12, 10, 3), picture(5, 3, 12, 10), (0, 1, 2, 5, 3, 4)),
        (picture(12, 10), picture(1, 12, 10), None),
    ],
)
def test_the_same_picture_has_the_same_features_however_it_is_laid_out(last, first, permutation):
    torch.manual_seed(0)
    one, other = Encoder(last).double(), Encoder(first).double()
    other.load_state_dict(one.state_dict())
    observation = drawn(last, 2, 3)
    moved = observation.unsqueeze(2) if permutation is None else observation.permute(*permutation)
    torch.testing.assert_close(one(observation), other(moved))


def test_stacked_frames_are_channels_frame_by_frame():
    torch.manual_seed(0)
    stacked, flat = Encoder(picture(2, 12, 10, 3)).double(), Encoder(picture(6, 12, 10)).double()
    flat.load_state_dict(stacked.state_dict())
    observation = drawn(picture(2, 12, 10, 3), 4)
    frames = [observation[:, frame, :, :, channel] for frame in range(2) for channel in range(3)]
    torch.testing.assert_close(stacked(observation), flat(torch.stack(frames, 1)))


def test_a_torso_is_chosen_by_size_or_by_name():
    def same(encoder, torso):
        return [p.shape for p in encoder.parameters()] == [p.shape for p in torso.parameters()]

    assert same(Encoder(picture(84, 36, 3)), image_torso("a3c", 3, 84, 36))
    assert same(Encoder(picture(84, 35, 3)), image_torso("minatar", 3, 84, 35))
    for name in ("nature", "impala"):
        encoder = Encoder(picture(84, 84, 3), torso=name)
        assert same(encoder, image_torso(name, 3, 84, 84))
        assert encoder.features == encoder(drawn(picture(84, 84, 3))).shape[-1]


def test_a_torso_for_images_needs_one():
    with pytest.raises(UsageError, match="--torso nature is for images"):
        Encoder(spaces.Dict({"a": box(5), "b": picture(7, 7, 3)}), torso="nature")


def test_an_unknown_torso_is_refused():
    with pytest.raises(UsageError, match="--torso 'vgg'"):
        Encoder(picture(84, 84, 3), torso="vgg")


def test_an_image_too_small_for_a_named_torso_is_named():
    with pytest.raises(UnsupportedEnvironment, match="the image at 'eye/left' of 10 x 10 is too small .* 'nature'"):
        Encoder(spaces.Dict({"eye": spaces.Dict({"left": bits(10, 10, 4)})}), torso="nature")


@pytest.mark.parametrize(("hidden_sizes", "own"), [((8,), (8,)), ((8, 6), (8,)), ((8, 7, 6), (8, 7))])
def test_each_part_has_a_torso_of_its_own_and_a_layer_joins_them(hidden_sizes, own):
    torch.manual_seed(0)
    space = spaces.Dict({"a": box(2), "b": spaces.Discrete(3), "c": spaces.Tuple([spaces.MultiBinary(2)])})
    encoder = Encoder(space, hidden_sizes=hidden_sizes)
    torch.manual_seed(0)
    torsos = [mlp_torso(inputs, own, "tanh") for inputs in (2, 3, 2)]
    joint = mlp_torso(3 * own[-1], hidden_sizes[-1:], "tanh")
    observation = {"c/0": torch.tensor([1, 0]), "a": torch.tensor([0.5, 2.0]), "b": torch.tensor(1)}
    numbers = [torch.tensor(row) for row in ([0.5, 2.0], [0.0, 1.0, 0.0], [1.0, 0.0])]
    features = torch.cat([torso(row) for torso, row in zip(torsos, numbers, strict=True)])
    assert torch.equal(encoder(observation), joint(features))
    assert encoder.features == hidden_sizes[-1]


def test_without_hidden_sizes_parts_are_side_by_side():
    space = spaces.Dict({"a": box(2), "b": spaces.Discrete(3)})
    encoder = linear(space)
    assert encoder({"a": torch.tensor([0.5, 2.0]), "b": torch.tensor(1)}).tolist() == [0.5, 2, 0, 1, 0]
    assert not list(encoder.parameters())


def test_images_and_numbers_are_joined_by_a_layer():
    torch.manual_seed(0)
    space = spaces.Dict({"eye": bits(10, 10, 4), "ear": picture(8, 8), "joints": box(3)})
    encoder = Encoder(space, hidden_sizes=(8, 6), activation="relu")
    observation = drawn(space, 2)
    parts = [
        encoder.torsos[0].torso(observation["ear"].reshape(2, 1, 8, 8) / 255),
        encoder.torsos[1].torso(observation["eye"].permute(0, 3, 1, 2).float()),
        encoder.torsos[2].layers(observation["joints"]),
    ]
    assert list(space) == ["ear", "eye", "joints"]
    assert [type(layer) for layer in encoder.joint] == [nn.Linear, nn.ReLU]
    assert encoder.joint[0].weight.shape == (6, 128 + 128 + 8)
    torch.testing.assert_close(encoder(observation), encoder.joint(torch.cat(parts, -1)))
    assert encoder.features == 6
    assert linear(space).features == 256


def test_two_images_are_joined_without_numbers():
    encoder = Encoder(spaces.Tuple([picture(8, 8), picture(8, 8)]), hidden_sizes=(5,))
    assert encoder.joint[0].weight.shape == (5, 128 + 128)
    assert encoder(drawn(spaces.Tuple([picture(8, 8), picture(8, 8)]), 3)).shape == (3, 5)


def test_a_mask_is_left_out_and_a_part_without_entries_too():
    space = spaces.Dict({"x": box(2), "action_mask": bits(3), "nothing": box(0), "no_picture": picture(0, 9, 9)})
    encoder = linear(space)
    observation = {
        "x": torch.tensor([[1.0, 2.0]]),
        "action_mask": torch.ones(1, 3),
        "nothing": torch.zeros(1, 0),
        "no_picture": torch.zeros(1, 0, 9, 9),
    }
    assert encoder(observation).tolist() == [[1, 2]]


@LEADS
@pytest.mark.parametrize("space", [spaces.Dict({"action_mask": bits(3)}), box(0), box(3, 0)], ids=str)
def test_with_nothing_to_encode_there_is_a_1(space, lead):
    assert torch.equal(linear(space)(drawn(space, *lead)), torch.ones(*lead, 1))
    assert Encoder(space, hidden_sizes=(4,))(drawn(space, *lead)).shape == (*lead, 4)


SPACES_TO_LEARN_FROM = [
    box(3),
    spaces.Discrete(2000),
    picture(36, 36, 3),
    spaces.Dict({"eye": bits(10, 10, 4), "joints": box(3), "room": spaces.MultiDiscrete([900, 900])}),
]


@pytest.mark.parametrize("space", SPACES_TO_LEARN_FROM, ids=lambda space: f"{space}"[:40])
def test_the_gradient_reaches_every_parameter(space):
    torch.manual_seed(0)
    encoder = Encoder(space, hidden_sizes=(8,))
    encoder(drawn(space, 8)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_nothing_but_parameters_is_saved():
    encoder = Encoder(spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Discrete(2000)}))
    assert set(encoder.state_dict()) == {name for name, _ in encoder.named_parameters()}
