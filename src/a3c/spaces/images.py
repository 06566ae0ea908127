"""Which observations are images, and how they lie in memory."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from a3c.spaces.parts import Space, array_of

ImageLayout = Literal["HW", "HWC", "CHW", "SHWC", "SCHW"]
"""What an image's dimensions are: height, width, channels, and frames that are stacked (S)."""

LEAST_SIDE = 8
"""Of an image, in pixels."""

LEAST_SIDE_STRIDED = 36
"""From here on, strides lose little."""


def image_layout(space: Space) -> ImageLayout | None:
    """What the dimensions of an image are; None for a space that does not look like one.

    An image is a Box of numbers or truth values with both sides of 8 pixels or more. It has
    two dimensions: then it is of bytes, or of numbers with bounds and 36 pixels, and grey;
    three: the sides are the two that are long enough, or, where all three are, the two that are equal, or else the
        two larger ones; the third are the channels, or grey frames. If that leaves a choice, channels are last;
    four: frames stacked before three such dimensions.
    """
    if not isinstance(space, spaces.Box) or not math.prod(space.shape):
        return None
    if len(space.shape) == 2:
        if space.dtype == np.uint8:
            return "HW" if min(space.shape) >= LEAST_SIDE else None
        return "HW" if min(space.shape) >= LEAST_SIDE_STRIDED and space.is_bounded() else None
    if len(space.shape) == 3:
        return _layout_of_three(*space.shape)
    if len(space.shape) == 4:
        layout = _layout_of_three(*space.shape[1:])
        return None if layout is None else "SHWC" if layout == "HWC" else "SCHW"
    return None


def image_unit(space: spaces.Box) -> float:
    """What an image's pixels are divided by: 255 where they are bytes, of whatever dtype, else 1."""
    return 255.0 if (space.low == 0).all() and (space.high == 255).all() else 1.0


def channels_last(layout: ImageLayout) -> list[int]:
    """An image's axes in the order in which its channels, its frames among them, come last: H, W, S, C."""
    return sorted(range(len(layout)), key=lambda axis: "HWSC".index(layout[axis]))


def buffer_of(space: Space, lead: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """Zeros [*lead, *O] for a basic space's observations, as a network likes them.

    An image's channels, its frames among them, come last in memory, wherever they stand in its shape: convolutions and
    their gradients are faster, and nothing need be turned round at each step and for each gradient.
    """
    layout, first = image_layout(space), len(lead)
    if layout is None or space.shape is None:
        return array_of(space, lead)
    order = channels_last(layout)
    buffer = np.zeros((*lead, *(space.shape[axis] for axis in order)), space.dtype)
    return np.moveaxis(buffer, range(first, buffer.ndim), [first + axis for axis in order])


def pieces_of(space: Space) -> list[tuple[Any, ...]]:
    """The pieces in which a row of a basic space's observations [B, *O] is best written into its buffer.

    These are an image's channels, unless they come last by themselves: three times as fast as all at once, where NumPy
    would go pixel by pixel. Anything else is one piece.
    """
    layout = image_layout(space)
    if layout in (None, "HW", "HWC") or space.shape is None:
        return [(...,)]
    choices = [[slice(None)] if name in "HW" else range(size) for name, size in zip(layout, space.shape, strict=True)]
    return [(slice(None), *choice) for choice in itertools.product(*choices)]


def _layout_of_three(first: int, second: int, third: int) -> Literal["HWC", "CHW"] | None:
    last, front = min(first, second) >= LEAST_SIDE, min(second, third) >= LEAST_SIDE
    if last and front:
        front = first != second and (second == third or first < third)
    if front:
        return "CHW"
    return "HWC" if last else None
