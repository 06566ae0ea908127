"""How images lie in memory; what is one is tested with the encoder."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a3c.core import moments
from a3c.core.distributions import Categorical
from a3c.core.flat import flat_gradient
from a3c.core.normalisation import Normaliser
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.encoder import Encoder
from a3c.models.torsos import IMAGE_FEATURES
from a3c.spaces.images import buffer_of, pieces_of
from a3c.spaces.parts import array_of

SHAPES = [(12, 10), (12, 10, 3), (3, 12, 10), (4, 12, 10, 3), (4, 3, 12, 10)]


def image_space(shape):
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lead", [(), (5,), (6, 2)])
def test_a_buffer_of_images_has_height_and_width_first_in_memory(shape, lead):
    buffer = buffer_of(image_space(shape), lead)
    assert buffer.shape == (*lead, *shape)
    assert buffer.dtype == np.uint8
    in_memory = np.argsort([-stride for stride in buffer.strides], kind="stable")
    by_memory = [buffer.shape[axis] for axis in in_memory]
    assert by_memory[: len(lead) + 2] == [*lead, 12, 10]
    assert buffer.transpose(in_memory).flags.c_contiguous


@pytest.mark.parametrize("shape", [*SHAPES, (1, 12, 10), (12, 10, 1)])
def test_piece_by_piece_all_of_an_image_is_written(shape):
    space = image_space(shape)
    row, written = buffer_of(space, (2,)), np.random.default_rng(0).integers(1, 256, (2, *shape), np.uint8)
    for piece in pieces_of(space):
        assert not row[piece].any()  # written once
        row[piece] = written[piece]
    assert (row == written).all()


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (5,)), spaces.Discrete(3), spaces.MultiBinary((2, 3))])
def test_other_buffers_are_plain(space):
    assert buffer_of(space, (4, 2)).strides == array_of(space, (4, 2)).strides
    assert pieces_of(space) == [(...,)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_and_moments_see_the_same_however_an_image_lies_in_memory(shape):
    space = image_space(shape)
    buffer = buffer_of(space, (3, 2))
    buffer[...] = np.random.default_rng(0).integers(0, 256, buffer.shape)
    images, plain = torch.from_numpy(buffer), torch.from_numpy(buffer.copy(order="C"))
    encoder = Encoder(space).double()
    torch.testing.assert_close(encoder(images), encoder(plain))
    assert torch.equal(moments.of_bytes(images, 255.0), moments.of_bytes(plain, 255.0))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 2])
def test_a_torso_gets_channels_last_without_a_copy(shape, monkeypatch):
    space = image_space(shape)
    encoder = Encoder(space, ready_images=[""])
    seen = []
    encoder.torsos[0].torso.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    monkeypatch.setattr(torch, "stack", None)  # what turns an image round
    encoder(torch.from_numpy(buffer_of(space, (3, 2))).float())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("torso", IMAGE_FEATURES)
@pytest.mark.parametrize("normalise", [False, True])
def test_gradients_are_those_of_plain_images_made_by_hand(torso, normalise):
    space = image_space((36, 40, 3))
    buffer = buffer_of(space, (4, 2))
    buffer[...] = np.random.default_rng(0).integers(0, 256, buffer.shape)
    normaliser = Normaliser(image_units={"": 255.0}) if normalise else None
    torch.manual_seed(0)
    model = ActorCritic(space, Categorical(3), Network(torso=torso), normaliser=normaliser, dtype=torch.float64)
    if normalise:
        normaliser.load(moments.of_bytes(torch.from_numpy(buffer), 255.0))

    def gradient(of, policy, values):
        weights = torch.linspace(-1, 2, policy.numel(), dtype=policy.dtype).reshape(policy.shape)
        return flat_gradient((weights * policy).sum() + (values**2).sum(), of)

    plain = copy.deepcopy(model)
    pixels = torch.from_numpy(buffer.reshape(8, 36, 40, 3).transpose(0, 3, 1, 2).copy()).double() / 255
    if normalise:
        pixels = (pixels - pixels.mean()) / pixels.std(correction=0)
    assert pixels.is_contiguous()
    of_policy, of_values = (each.torsos[0].torso(pixels) for each in (plain.policy_torso, plain.value_torso))
    by_hand = gradient(plain, plain.policy_head.linear(of_policy).view(4, 2, 3), plain.value_head(of_values).view(4, 2))
    found = gradient(model, *model.policy_value(torch.from_numpy(buffer)))
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, by_hand, rtol=1e-9, atol=1e-11)
