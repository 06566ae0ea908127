"""Layers whose chain rule is written down, on the memory of a torch module's parameters.

Most of what torch takes for a pass of a small network is the price of its calls and of the nodes that it records, and
NumPy's calls cost a third of that. Where there is much arithmetic to a call, in convolutions and wide layers, torch's
functions do it on the same arrays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from a3c.models.encoder import Encoder
from a3c.models.torsos import convolved_side

Array = NDArray[Any]

_WIDE = 2**15  # weights of a layer from which on torch's product of a few rows is the faster one


class Layer(Protocol):
    """From rows to rows, and the chain rule; a layer's activation belongs to it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row of what it gives out."""

    @property
    def indices(self) -> tuple[int, int]:
        """Of weight and bias among the model's parameters."""

    def __call__(self, inputs: Any, out: Array | None = None) -> Array:
        """[N, *shape], written to `out` if there is one."""

    def back(
        self, inputs: Any, outputs: Array | None, of_outputs: Array, parts: Sequence[Array], *, onward: bool = True
    ) -> Array:
        """∂L/∂inputs for ∂L/∂outputs; where that is not wanted (`onward`), what comes back means nothing.

        Writes ∂L/∂weight and ∂L/∂bias to their parts of the gradient, among those of all `parts`. `outputs` are what it
        gave for these inputs; None will do if it has no activation.
        """


class Activation(NamedTuple):
    """A function of each number, worked out in place, and its chain rule, in terms of what it gave."""

    apply: Callable[[Array], Array]
    pull_back: Callable[[Array, Array], Array]  # outputs y, ∂L/∂y -> ∂L/∂x


def _pull_back_tanh(outputs: Array, of_outputs: Array) -> Array:
    """∂L/∂x = (1 - y²) ∂L/∂y."""
    of_inputs: Array = outputs * outputs
    np.subtract(1, of_inputs, out=of_inputs)
    of_inputs *= of_outputs
    return of_inputs


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(lambda x: np.tanh(x, out=x), _pull_back_tanh),
    nn.ReLU: Activation(lambda x: np.maximum(x, 0, out=x), lambda y, of_y: of_y * (y > 0)),
}


def _torchs_matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """As `np.matmul`, of matrices."""
    product = torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=None if out is None else torch.from_numpy(out))
    return product.numpy()


@functools.lru_cache(8)
def _ones(count: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(count, dtype)


class Linear(NamedTuple):
    """A linear layer, sharing its memory, and what follows it."""

    weight: Array  # [O, I]
    bias: Array  # [O]
    activation: Activation | None
    indices: tuple[int, int]
    matmul: Callable[..., Array]

    @classmethod
    def of(cls, linear: nn.Module, indices: Mapping[int, int], activation: nn.Module | None = None) -> Linear:
        """That of a module and the one behind it; `indices` by the address of a parameter."""
        assert isinstance(linear, nn.Linear)
        weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
        own = indices[linear.weight.data_ptr()], indices[linear.bias.data_ptr()]
        following = None if activation is None else ACTIVATIONS[type(activation)]
        return cls(weight, bias, following, own, np.matmul if weight.size < _WIDE else _torchs_matmul)

    @property
    def shape(self) -> tuple[int, ...]:
        """[O]."""
        return self.bias.shape

    def __call__(self, inputs: Array, out: Array | None = None) -> Array:
        """[N, O] for [N, I]: see `Layer`."""
        outputs = self.matmul(inputs, self.weight.T, out=out)
        outputs += self.bias
        return outputs if self.activation is None else self.activation.apply(outputs)

    def back(
        self, inputs: Array, outputs: Array | None, of_outputs: Array, parts: Sequence[Array], *, onward: bool = True
    ) -> Array:
        """See `Layer`."""
        if self.activation is not None:
            assert outputs is not None
            of_outputs = self.activation.pull_back(outputs, of_outputs)
        weight, bias = self.indices
        self.matmul(of_outputs.T, inputs, out=parts[weight])
        # A product with ones is a sum, and a third of its price.
        np.matmul(_ones(len(of_outputs), of_outputs.dtype), of_outputs, out=parts[bias])
        return self.matmul(of_outputs, self.weight) if onward else of_outputs


class Convolution(NamedTuple):
    """A convolution of images [N, H, W, C], sharing its memory, and the ReLU behind it.

    Channels are last in memory, where torch is fastest. Only the last convolution's images are flat, [N, C H W], with
    channels first, as the layer behind it has its weights.
    """

    weight: Tensor  # [C, C of the inputs, height and width of the kernel]
    bias: Tensor  # [C]
    indices: tuple[int, int]
    stride: tuple[int, ...]  # along both sides
    sides: tuple[int, int]  # H and W of what it gives out
    flat: bool

    @classmethod
    def of(cls, module: nn.Conv2d, indices: Mapping[int, int], sides: tuple[int, ...], *, flat: bool) -> Convolution:
        """That of a module, for images of such sides; `indices` by the address of a parameter."""
        assert module.bias is not None
        own = indices[module.weight.data_ptr()], indices[module.bias.data_ptr()]
        height, width = map(convolved_side, sides, module.kernel_size, module.stride)
        return cls(module.weight.detach(), module.bias.detach(), own, module.stride, (height, width), flat)

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W, C], or [C H W]."""
        channels = len(self.bias)
        return (channels * math.prod(self.sides),) if self.flat else (*self.sides, channels)

    def __call__(self, inputs: Array, out: Array | None = None) -> Array:
        """See `Layer`."""
        if out is None:
            out = np.empty((len(inputs), *self.shape), inputs.dtype)
        sums = torch.conv2d(_images(inputs), self.weight, self.bias, self.stride)  # [N, C, H, W]
        torch.clamp_min(sums, 0, out=self._images_out(out))
        return out

    def back(
        self, inputs: Array, outputs: Array | None, of_outputs: Array, parts: Sequence[Array], *, onward: bool = True
    ) -> Array:
        """See `Layer`."""
        assert outputs is not None
        of_sums = torch.ops.aten.threshold_backward(self._images_out(of_outputs), self._images_out(outputs), 0)
        of_inputs, *of_parameters = torch.ops.aten.convolution_backward(
            of_sums, _images(inputs), self.weight, [len(self.bias)], self.stride, padding=[0, 0], dilation=[1, 1],
            transposed=False, output_padding=[0, 0], groups=1, output_mask=[onward, True, True],
        )  # fmt: skip
        for index, of_parameter in zip(self.indices, of_parameters, strict=True):
            parts[index][...] = of_parameter.numpy()
        return cast(Tensor, of_inputs).permute(0, 2, 3, 1).contiguous().numpy() if onward else of_outputs

    def _images_out(self, rows: Array) -> Tensor:
        """Rows of what it gives out as [N, C, H, W]."""
        return torch.from_numpy(rows).view(len(rows), len(self.bias), *self.sides) if self.flat else _images(rows)


class FirstConvolution(Convolution):
    """The first convolution of an image.

    It takes `Pixels`, which are bytes as a rule, and works their numbers out in both passes: these are so many that to
    keep them, write them to memory and read them again, takes longer.
    """

    __slots__ = ()

    def __call__(self, inputs: Any, out: Array | None = None) -> Array:
        """See `Layer`."""
        return super().__call__(inputs.numbers(self.weight.dtype), out)

    def back(
        self, inputs: Any, outputs: Array | None, of_outputs: Array, parts: Sequence[Array], *, onward: bool = True
    ) -> Array:
        """See `Layer`; nobody goes on from an image."""
        assert not onward
        return super().back(inputs.numbers(self.weight.dtype), outputs, of_outputs, parts, onward=False)


def _images(rows: Array) -> Tensor:
    """[N, C, H, W], sharing memory with [N, H, W, C]."""
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def has_known_layers(torso: nn.Module) -> bool:
    """Whether `layers_of` finds all of a torso: it encodes one array, through layers that are known here."""
    if not isinstance(torso, Encoder):
        return False
    if torso.image is None:
        return torso.vector_dims is not None and _are_known(torso.joint.children(), nn.Linear)
    *convolutions, flatten, units, activation = torso.image.torso.children()
    known = _are_known(convolutions, nn.Conv2d) and _are_known([units, activation], nn.Linear)
    return known and isinstance(flatten, nn.Flatten)


def _are_known(modules: Iterable[nn.Module], kind: type[nn.Module]) -> bool:
    """Whether these are layers of that kind and activations in turn, as they are written down here."""
    modules = list(modules)
    layers, activations = modules[::2], modules[1::2]
    known = [nn.ReLU] if kind is nn.Conv2d else ACTIVATIONS
    return (
        len(layers) == len(activations)
        and all(isinstance(layer, kind) and _is_plain(layer) for layer in layers)
        and all(type(activation) in known for activation in activations)
    )


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d):
        return True
    return (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)


def layers_of(torso: nn.Module, indices: Mapping[int, int]) -> list[Layer]:
    """The layers of a torso that `has_known_layers`."""
    assert isinstance(torso, Encoder)
    if torso.image is None:
        return [Linear.of(linear, indices, activation) for linear, activation in _pairs(list(torso.joint.children()))]
    *convolutions, _, units, activation = torso.image.torso.children()
    assert isinstance(units, nn.Linear)
    first, *others = _convolutions(convolutions, torso.image.shape[1:], indices)
    return [FirstConvolution(*first), *others, Linear.of(units, indices, activation)]


def _convolutions(
    modules: Sequence[nn.Module], sides: tuple[int, ...], indices: Mapping[int, int]
) -> Iterator[Convolution]:
    """Those of modules that are convolutions and ReLUs in turn, for images of such sides."""
    pairs = list(_pairs(modules))
    for i, (module, _) in enumerate(pairs):
        assert isinstance(module, nn.Conv2d)
        convolution = Convolution.of(module, indices, sides, flat=i == len(pairs) - 1)
        sides = convolution.sides
        yield convolution


def _pairs(modules: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers, and the activation behind each."""
    return zip(modules[::2], modules[1::2], strict=True)
