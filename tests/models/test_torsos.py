"""Torsos: layers, sizes, initial weights, and images that are too small."""

import pytest
import torch
from torch import nn

from a3c.errors import UnsupportedEnvironment, UsageError
from a3c.models.torsos import IMAGE_FEATURES, ResidualBlock, image_torso, mlp_torso, orthogonal


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_perceptron_draws_its_weights_layer_by_layer_from_the_first():
    torch.manual_seed(0)
    expected = []
    for inputs, outputs in [(3, 5), (5, 4)]:
        layer = nn.Linear(inputs, outputs)
        expected.append(nn.init.orthogonal_(layer.weight, 5 / 3))
    torch.manual_seed(0)
    torso = mlp_torso(3, (5, 4), "tanh")
    assert [type(layer) for layer in torso] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh]
    assert torch.equal(torso[0].weight, expected[0])
    assert torch.equal(torso[2].weight, expected[1])
    assert not torso[0].bias.any()


@pytest.mark.parametrize(
    ("activation", "kind", "gain_squared"),
    [
        ("tanh", nn.Tanh, 25 / 9),
        ("relu", nn.ReLU, 2),
        ("elu", nn.ELU, 2),
        ("silu", nn.SiLU, 2),
        ("gelu", nn.GELU, 2),
    ],
)
def test_every_activation_has_its_gain(activation, kind, gain_squared):
    first, second = mlp_torso(3, (6,), activation)
    assert type(second) is kind
    torch.testing.assert_close(first.weight.T @ first.weight, gain_squared * torch.eye(3))


def test_an_unknown_activation_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="--activation 'sine' is not one of tanh, relu, elu, silu, gelu"):
        mlp_torso(3, (6,), "sine")


def test_no_hidden_sizes_change_nothing():
    inputs = torch.randn(2, 3)
    assert torch.equal(mlp_torso(3, (), "relu")(inputs), inputs)


def test_a_convolution_is_orthogonal_over_its_rows():
    layer = orthogonal(nn.Conv2d(2, 4, 3), 2.0)
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 4 * torch.eye(4), atol=1e-5, rtol=1e-5)


# C = 4, 84 x 84: what is left of the sides, as the papers have it.
COUNTS = {
    # 20 x 20, then 9 x 9
    "a3c": (4 * 64 * 16 + 16) + (16 * 16 * 32 + 32) + (32 * 9 * 9 * 256 + 256),
    # 20 x 20, 9 x 9, 7 x 7
    "nature": (4 * 64 * 32 + 32) + (32 * 16 * 64 + 64) + (64 * 9 * 64 + 64) + (64 * 7 * 7 * 512 + 512),
    # 42 x 42, 21 x 21, 11 x 11; a stage is a convolution and four more within its blocks
    "impala": (4 * 9 * 16 + 16)
    + 4 * (16 * 9 * 16 + 16)
    + (16 * 9 * 32 + 32)
    + 4 * (32 * 9 * 32 + 32)
    + 5 * (32 * 9 * 32 + 32)
    + (32 * 11 * 11 * 256 + 256),
    # 82 x 82
    "minatar": (4 * 9 * 16 + 16) + (16 * 82 * 82 * 128 + 128),
}


@pytest.mark.parametrize("name", IMAGE_FEATURES)
def test_an_atari_picture_through_each_torso(name):
    torso = image_torso(name, 4, 84, 84)
    assert count(torso) == COUNTS[name]
    features = torso(torch.rand(2, 4, 84, 84))
    assert features.shape == (2, IMAGE_FEATURES[name])
    assert features.min() == 0.0  # the last layer is a ReLU
    assert all(not parameter.any() for key, parameter in torso.named_parameters() if key.endswith("bias"))


@pytest.mark.parametrize("name", IMAGE_FEATURES)
@pytest.mark.parametrize(("height", "width"), [(37, 52), (36, 40)])
def test_sides_may_be_odd_and_unequal_and_memory_channels_last(name, height, width):
    torso = image_torso(name, 3, height, width).double()
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(torso(images), torso(images.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("name", IMAGE_FEATURES)
def test_the_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    torso = image_torso(name, 2, 36, 36)
    torso(torch.rand(8, 2, 36, 36)).sum().backward()
    for key, parameter in torso.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@pytest.mark.parametrize(("name", "least"), [("a3c", 20), ("nature", 36), ("minatar", 3)])
def test_the_smallest_image_passes_and_a_smaller_one_is_refused(name, least):
    assert image_torso(name, 1, least, least)(torch.rand(1, 1, least, least)).shape == (1, IMAGE_FEATURES[name])
    with pytest.raises(UnsupportedEnvironment) as refusal:
        image_torso(name, 1, least + 5, least - 1, "the image at 'eye'")
    message = str(refusal.value)
    assert f"the image at 'eye' of {least + 5} x {least - 1} is too small for the torso '{name}'" in message
    assert f"{least} x {least}" in message
    assert "--torso auto" in message


def test_impala_takes_a_single_pixel():
    assert image_torso("impala", 1, 1, 1)(torch.rand(1, 1, 1, 1)).shape == (1, 256)


def test_an_unknown_torso_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="--torso 'vgg' is not one of auto, a3c, nature, impala, minatar"):
        image_torso("vgg", 3, 84, 84)


def test_a_residual_block_adds_to_what_comes_in():
    block = ResidualBlock(1)
    inputs = torch.tensor([[[[-1.0, 2.0]]]])
    with torch.no_grad():
        for layer in (block.first, block.second):
            layer.weight.zero_()
            layer.weight[0, 0, 1, 1] = 3.0  # times 3, pixel by pixel
        block.first.bias.fill_(-1.0)
    # relu [0, 2], times 3 minus 1 [-1, 5], relu [0, 5], times 3 [0, 15]
    assert torch.equal(block(inputs), torch.tensor([[[[-1.0, 17.0]]]]))
