"""Torsos: layers from numbers [..., I] or images [N, C, H, W] to features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from a3c.errors import UnsupportedEnvironment, UsageError

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)

_ROOT_2 = 2.0**0.5  # of a ReLU (He et al. 2015), and of those that are much like one
ACTIVATIONS: dict[str, tuple[type[nn.Module], float]] = {
    "tanh": (nn.Tanh, 5 / 3),
    "relu": (nn.ReLU, _ROOT_2),
    "elu": (nn.ELU, _ROOT_2),
    "silu": (nn.SiLU, _ROOT_2),
    "gelu": (nn.GELU, _ROOT_2),
}
"""By name: the activation, and the gain of the layer before it."""


class _Convolution(NamedTuple):
    channels: int
    kernel: int
    stride: int


_PLAIN: dict[str, tuple[_Convolution, ...]] = {
    "a3c": (_Convolution(16, 8, 4), _Convolution(32, 4, 2)),
    "nature": (_Convolution(32, 8, 4), _Convolution(64, 4, 2), _Convolution(64, 3, 1)),
    "minatar": (_Convolution(16, 3, 1),),
}
_IMPALA_CHANNELS = (16, 32, 32)

IMAGE_FEATURES: dict[str, int] = {"a3c": 256, "nature": 512, "impala": 256, "minatar": 128}
"""F of each torso for images."""


def mlp_torso(inputs: int, hidden_sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers, orthogonally initialised at the activation's own gain, each followed by `activation`.

    Raises UsageError if there is no such activation.
    """
    if activation not in ACTIVATIONS:
        raise UsageError(f"--activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    kind, gain = ACTIVATIONS[activation]
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [orthogonal(nn.Linear(inputs, size), gain), kind()]
        inputs = size
    return nn.Sequential(*layers)


def image_torso(name: str, channels: int, height: int, width: int, what: str = "the image") -> nn.Sequential:
    """A torso for images, [N, C, H, W] -> [N, F] with F = `IMAGE_FEATURES[name]`; ReLU after every layer.

    a3c: 16 filters of 8x8 with stride 4, 32 of 4x4 with stride 2, 256 units (Mnih et al. 2016, section 5.1).
    nature: 32 of 8x8 with stride 4, 64 of 4x4 with stride 2, 64 of 3x3, 512 units (Mnih et al. 2015).
    impala: three stages of 16, 32 and 32 filters of 3x3, each with a maximum over 3x3 with stride 2 and two residual
        blocks, 256 units (Espeholt et al. 2018, figure 3, right).
    minatar: 16 of 3x3, 128 units (Young and Tian 2019), for pictures of few pixels.

    Args:
        name: which.
        channels: C.
        height: H.
        width: W.
        what: names the image in an error.

    Raises:
        UnsupportedEnvironment: the image is too small for the torso.
        UsageError: there is no such torso.
    """
    if name not in IMAGE_FEATURES:
        raise UsageError(f"--torso {name!r} is not one of auto, {', '.join(IMAGE_FEATURES)}")
    layers: list[nn.Module]
    if name == "impala":
        layers, sides = _residual_layers(channels, height, width)
        last = _IMPALA_CHANNELS[-1]
    else:
        least = _least_side(_PLAIN[name])
        if min(height, width) < least:
            raise UnsupportedEnvironment(
                f"{what} of {height} x {width} is too small for the torso {name!r}, which takes {least} x {least} and "
                "more: take --torso auto or minatar, or enlarge it with a wrapper"
            )
        layers, sides = _plain_layers(_PLAIN[name], channels, height, width)
        last = _PLAIN[name][-1].channels
    units = orthogonal(nn.Linear(last * sides[0] * sides[1], IMAGE_FEATURES[name]), _ROOT_2)
    return nn.Sequential(*layers, nn.Flatten(), units, nn.ReLU())


def convolved_side(side: int, kernel: int, stride: int) -> int:
    """An image's side behind a convolution without padding."""
    return (side - kernel) // stride + 1


def orthogonal(layer: _Layer, gain: float) -> _Layer:
    """Set orthogonal weights times `gain` (Saxe et al. 2014) and zero biases; returns the layer."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), [N, C, H, W] -> [N, C, H, W] (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = orthogonal(nn.Conv2d(channels, channels, 3, padding=1), _ROOT_2)
        self.second = orthogonal(nn.Conv2d(channels, channels, 3, padding=1), _ROOT_2)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, H, W]."""
        residual: Tensor = self.second(torch.relu(self.first(torch.relu(inputs))))
        return inputs + residual


def _plain_layers(
    convolutions: Sequence[_Convolution], channels: int, height: int, width: int
) -> tuple[list[nn.Module], tuple[int, int]]:
    """The layers, and the sides of the image that they put out."""
    layers: list[nn.Module] = []
    for outputs, kernel, stride in convolutions:
        layers += [orthogonal(nn.Conv2d(channels, outputs, kernel, stride), _ROOT_2), nn.ReLU()]
        height, width = (convolved_side(side, kernel, stride) for side in (height, width))
        channels = outputs
    return layers, (height, width)


def _residual_layers(channels: int, height: int, width: int) -> tuple[list[nn.Module], tuple[int, int]]:
    """The layers, and the sides of the image that they put out."""
    layers: list[nn.Module] = []
    for outputs in _IMPALA_CHANNELS:
        layers += [
            orthogonal(nn.Conv2d(channels, outputs, 3, padding=1), _ROOT_2),
            nn.MaxPool2d(3, stride=2, padding=1),
            ResidualBlock(outputs),
            ResidualBlock(outputs),
        ]
        height, width = ((side + 1) // 2 for side in (height, width))
        channels = outputs
    return [*layers, nn.ReLU()], (height, width)


def _least_side(convolutions: Sequence[_Convolution]) -> int:
    """The smallest side of which something is left."""
    side = 1
    for _, kernel, stride in reversed(convolutions):
        side = (side - 1) * stride + kernel
    return side
