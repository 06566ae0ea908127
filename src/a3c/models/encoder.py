"""The encoder: from observations of any handled space to features."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from a3c.core.normalisation import Brightness, Normaliser
from a3c.errors import UnsupportedEnvironment, UsageError
from a3c.models.torsos import IMAGE_FEATURES, image_torso, mlp_torso
from a3c.spaces.images import LEAST_SIDE, LEAST_SIDE_STRIDED, ImageLayout, channels_last, image_layout, image_unit
from a3c.spaces.parts import Space, basic_parts, described, is_mask, parts

_WIDEST_ONE_HOT = 1024
_EMBEDDING = 64
_MOST_CATEGORIES = 2**20
_JOINED = 256  # the joint layer's width beside images where no hidden sizes say one


class Encoder(nn.Module):
    """Features [..., F] of flat observations (`a3c.spaces.parts`) with any leading dimensions.

    Each part has a torso of its own, and what they give is joined:

        one image                its convolutions
        one part of numbers      layers of `hidden_sizes`
        several parts            images their convolutions, each of the others layers of `hidden_sizes` but for the
                                 last, one at the least; then, side by side, a layer of the last size

    Which boxes are images says `image_layout`. The action mask is left out. As numbers, a Box and a MultiBinary are
    what they are, and Discrete and MultiDiscrete are one-hot, or from more than 1024 categories on the sum of learned
    vectors, one a category, of 64 numbers. A value that is no category of its space is encoded as none of them; the
    environment's edge refuses it. With nothing to encode, the input is the number 1. Without hidden sizes numbers are
    features as they are; beside images they go through a joint layer of 256 units.

    Args:
        observation_space: of one environment.
        torso: for images; "auto" is "a3c" where both sides have 36 pixels, else "minatar" (`image_torso`).
        hidden_sizes: widths of the layers for numbers; empty for a linear model.
        activation: after each of them.
        ready_images: paths of images that come ready for a torso; other images of bytes are divided by 255.

    Attributes:
        features: F.
        vector_dims: how many dimensions an observation has of its own, if it is one array of numbers, which go straight
            into the layers of `joint`; None for any other.
        joint_inputs: how many numbers go into `joint`.

    Raises:
        UnsupportedEnvironment: a part is of a kind that is not handled, has too many categories, or is an image too
            small for the torso.
        UsageError: a torso for images is named and there are none, or a name is not known.
    """

    _like: Tensor  # has the module's dtype and device, also where there is no parameter

    def __init__(
        self,
        observation_space: Space,
        *,
        torso: str = "auto",
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        ready_images: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("_like", torch.empty(0), persistent=False)
        self._spaces = basic_parts(observation_space, "the observation space")
        encoded = {path: part for path, part in self._spaces.items() if not is_mask(path) and _size(part)}
        layouts = {path: layout for path, part in encoded.items() if (layout := image_layout(part)) is not None}
        if torso in IMAGE_FEATURES and not layouts:
            raise UsageError(
                f"--torso {torso} is for images, and the observation space {observation_space} has none (a Box of "
                f"{LEAST_SIDE} x {LEAST_SIDE} and more, with channels): take --torso auto and --hidden-sizes"
            )
        several = len(encoded) > 1
        own = (hidden_sizes[:-1] or hidden_sizes) if several else ()
        torsos: list[ImageEncoder | _Vector] = [
            ImageEncoder(cast(spaces.Box, part), layouts[path], torso, path, ready=path in ready_images)
            if path in layouts
            else _Vector(part, path, own, activation)
            for path, part in encoded.items()
        ]
        joined: Sequence[int] = () if layouts else hidden_sizes
        if several:
            joined = hidden_sizes[-1:] or ((_JOINED,) if layouts else ())
        inputs = sum(part.features for part in torsos) or 1
        self._paths = tuple(encoded)
        self.vector_dims: int | None = None
        if self._paths == ("",) and isinstance(observation_space, spaces.Box | spaces.MultiBinary) and not layouts:
            self.vector_dims = len(_shape(observation_space))
        self.torsos = nn.ModuleList(torsos)
        self.joint_inputs = inputs
        self.joint = mlp_torso(inputs, joined, activation)
        self.features = joined[-1] if joined else inputs

    @property
    def image(self) -> ImageEncoder | None:
        """The torso of an observation that is one image, whose features go out as they are; None for any other."""
        only = self.torsos[0] if self._paths == ("",) else None
        return only if isinstance(only, ImageEncoder) else None

    def forward(self, observation: Any) -> Tensor:
        """Features [..., F] of a flat observation, [..., *O] or a dict of such."""
        like, joint = self._like, cast(Callable[[Tensor], Tensor], self.joint)
        if self.vector_dims is not None:  # the common case without detours: acting is here at every step
            return joint(_in_a_row(observation.to(like), self.vector_dims))
        observed = parts(observation)
        features: list[Tensor] = [
            torso(observed[path], like) for path, torso in zip(self._paths, self.torsos, strict=True)
        ]
        if not features:
            path, part = next(iter(observed.items()))
            features = [like.new_ones(*_lead(part, len(_shape(self._spaces[path]))), 1)]
        return joint(features[0] if len(features) == 1 else torch.cat(features, -1))


class ImageEncoder(nn.Module):
    """A part that is an image: scaled unless it is ready, as [N, C, H, W], through its torso.

    Stacked frames are more channels.

    Attributes:
        layout: of an observation.
        dims: how many dimensions an observation has of its own.
        shape: C, H, W.
        unit: what they are divided by.
        torso: what they go through.
        features: F.
    """

    def __init__(self, space: spaces.Box, layout: ImageLayout, torso: str, path: str, *, ready: bool) -> None:
        super().__init__()
        size = dict(zip(layout, space.shape, strict=True))
        height, width = size["H"], size["W"]
        if torso == "auto":
            torso = "a3c" if min(height, width) >= LEAST_SIDE_STRIDED else "minatar"
        self.layout = layout
        self.dims = len(layout)
        self.unit = 1.0 if ready else image_unit(space)
        self.shape = (size.get("S", 1) * size.get("C", 1), height, width)
        self.torso = image_torso(torso, *self.shape, f"the image{described(path)}")
        self.features = IMAGE_FEATURES[torso]

    def forward(self, image: Tensor, like: Tensor) -> Tensor:
        """Features [..., F] of images [..., *O], with the dtype and device of `like`."""
        lead = _lead(image, self.dims)
        image = image.to(like.device).to(like.dtype)  # in this order, bytes cross to the device as bytes
        image = image.reshape(-1, *image.shape[len(lead) :])  # [N, *O]
        if self.layout == "HWC":
            image = image.permute(0, 3, 1, 2)
        elif self.layout == "SHWC":
            image = image.permute(0, 1, 4, 2, 3)
        image = image.reshape(-1, *self.shape)  # [N, C, H, W]
        if not image.is_contiguous(memory_format=torch.channels_last):
            # In memory, channels last: convolutions and their gradients are faster.
            image = torch.stack(image.unbind(1), -1).permute(0, 3, 1, 2)
        features: Tensor = self.torso(image if self.unit == 1.0 else image / self.unit)  # [N, F]
        return features.reshape(*lead, self.features)

    def pixels(self, observations: NDArray[Any], normaliser: Normaliser) -> Pixels:
        """What goes into the torso where the image [..., *O] is the whole observation; of actors' buffers a view."""
        lead = observations.ndim - self.dims
        order = [*range(lead), *(lead + axis for axis in channels_last(self.layout))]
        channels, height, width = self.shape
        images = observations.transpose(order).reshape(-1, height, width, channels)  # [N, H, W, C]
        if not images.flags.writeable or min(images.strides) < 0:
            images = images.copy()  # torch wants neither
        return Pixels(torch.from_numpy(images), normaliser.brightness("", self.unit))


class Pixels:
    """Images as environments give them, and what a network makes of their pixels.

    Args:
        images: [N, H, W, C].
        brightness: of them.
    """

    def __init__(self, images: Tensor, brightness: Brightness) -> None:
        self.images = images
        self.brightness = brightness

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice) -> Pixels:
        return Pixels(self.images[which], self.brightness)

    def numbers(self, dtype: torch.dtype) -> NDArray[Any]:
        """What goes into a network, [N, H, W, C]."""
        out = torch.empty(self.images.shape, dtype=dtype)
        self.brightness.apply(self.images, out)
        return out.numpy()


class _Numbers(nn.Module):
    """A part whose entries are numbers already: [..., *O] -> [..., I]."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = len(shape)
        self.features = math.prod(shape)

    def forward(self, values: Tensor, like: Tensor) -> Tensor:
        return _in_a_row(values.to(like), self.dims)


class _OneHot(nn.Module):
    """A part whose K entries are categories: [..., *O] -> [..., I], a 1 for each entry.

    Args:
        shape: O.
        counts: how many categories each entry has, [K].
        starts: the first of them, [K].
    """

    entries: Tensor  # [I], which entry
    categories: Tensor  # [I], which value of it

    def __init__(self, shape: tuple[int, ...], counts: Tensor, starts: Tensor) -> None:
        super().__init__()
        self.dims = len(shape)
        self.features = int(counts.sum())
        ranges = [np.arange(start, start + count) for count, start in zip(counts.numpy(), starts.numpy(), strict=True)]
        self.register_buffer("entries", torch.repeat_interleave(counts), persistent=False)
        self.register_buffer("categories", torch.from_numpy(np.concatenate(ranges)), persistent=False)

    def forward(self, values: Tensor, like: Tensor) -> Tensor:
        values = _in_a_row(values.to(like.device, torch.long), self.dims)  # [..., K]
        return (values.index_select(-1, self.entries) == self.categories).to(like.dtype)


class _Embedded(nn.Module):
    """A part whose K entries are categories: [..., *O] -> [..., I], the sum of K learned vectors.

    Args as `_OneHot`.
    """

    counts: Tensor
    starts: Tensor
    first_rows: Tensor  # [K], of the table

    def __init__(self, shape: tuple[int, ...], counts: Tensor, starts: Tensor) -> None:
        super().__init__()
        self.dims = len(shape)
        self.features = _EMBEDDING
        self.unknown = int(counts.sum())  # the row that adds nothing and is not learned
        self.table = nn.EmbeddingBag(self.unknown + 1, _EMBEDDING, mode="sum", padding_idx=self.unknown)
        with torch.no_grad():
            self.table.weight /= len(counts) ** 0.5  # the sum has variance 1
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("first_rows", counts.cumsum(0) - counts, persistent=False)

    def forward(self, values: Tensor, like: Tensor) -> Tensor:
        lead = _lead(values, self.dims)
        values = values.to(like.device, torch.long).reshape(-1, len(self.counts)) - self.starts  # [N, K]
        known = (values >= 0) & (values < self.counts)
        embedded: Tensor = self.table(torch.where(known, values + self.first_rows, self.unknown))  # [N, I]
        return embedded.reshape(*lead, self.features)


class _Vector(nn.Module):
    """A part that is no image: as numbers, through layers of its own, [..., *O] -> [..., F]."""

    def __init__(self, space: Space, path: str, hidden_sizes: Sequence[int], activation: str) -> None:
        super().__init__()
        self.numbers = _as_numbers(space, path)
        self.layers = mlp_torso(self.numbers.features, hidden_sizes, activation)
        self.features = hidden_sizes[-1] if hidden_sizes else self.numbers.features

    def forward(self, values: Tensor, like: Tensor) -> Tensor:
        features: Tensor = self.layers(self.numbers(values, like))
        return features


def _as_numbers(space: Space, path: str) -> _Numbers | _OneHot | _Embedded:
    """What turns a part that is no image into numbers."""
    if isinstance(space, spaces.Discrete):
        counts, starts = np.array([space.n]), np.array([space.start])
    elif isinstance(space, spaces.MultiDiscrete):
        counts, starts = space.nvec.reshape(-1), space.start.reshape(-1)
    else:
        return _Numbers(_shape(space))
    total = int(counts.sum(dtype=np.float64))
    if total > _MOST_CATEGORIES:
        raise UnsupportedEnvironment(
            f"the observation space has a {type(space).__name__}{described(path)} of {total} categories, and no more "
            f"than {_MOST_CATEGORIES} can be learned: make it a Box of numbers with a wrapper"
        )
    kind = _OneHot if total <= _WIDEST_ONE_HOT else _Embedded
    return kind(_shape(space), torch.from_numpy(counts.astype(np.int64)), torch.from_numpy(starts.astype(np.int64)))


def _shape(space: Space) -> tuple[int, ...]:
    assert space.shape is not None
    return space.shape


def _size(space: Space) -> int:
    """How many entries a basic space has."""
    return math.prod(_shape(space))


def _in_a_row(values: Tensor, dims: int) -> Tensor:
    """[..., I] of a part that has `dims` dimensions of its own."""
    return values.flatten(-dims) if dims else values.unsqueeze(-1)


def _lead(values: Tensor, dims: int) -> torch.Size:
    """The leading dimensions of a part that has `dims` of its own."""
    return values.shape[: values.dim() - dims]
