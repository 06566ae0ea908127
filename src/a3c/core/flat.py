"""A module's parameters, and a loss's gradient, as one flat vector."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from a3c.core.losses import Loss


class HasParameters(Protocol):
    """Anything that lists its parameters as a module does."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters, always in the same order."""


def flatten_parameters(module: nn.Module) -> Tensor:
    """Move all parameters of `module` into one vector [P] and make each parameter a view of its part.

    Writing to the vector writes to the module. Call it last: `module.to(...)` gives every parameter memory
    of its own again. Parameters are laid out in the order of `module.parameters()`, each in row-major order.

    Raises:
        ValueError: there are no parameters, or they differ in dtype or device.
    """
    parameters = list(module.parameters())
    if not parameters:
        raise ValueError(f"{type(module).__name__} has no parameters, so there is nothing to train")
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        raise ValueError(f"all parameters of {type(module).__name__} must share one dtype and one device")
    flat = parameters[0].detach().new_empty(sum(p.numel() for p in parameters))  # [P]
    start = 0
    for parameter in parameters:
        view = flat[start : start + parameter.numel()].view(parameter.shape)
        parameter.data = view.copy_(parameter.detach())
        start += parameter.numel()
    assert flat.is_meta or is_flattened(module, flat)
    return flat


def is_flattened(module: nn.Module, flat: Tensor) -> bool:
    """Whether every parameter of `module` still lives in `flat`, one behind the other."""
    address = flat.data_ptr()
    for parameter in module.parameters():
        if parameter.data_ptr() != address or not parameter.is_contiguous():
            return False
        address += parameter.numel() * parameter.element_size()
    return address == flat.data_ptr() + flat.numel() * flat.element_size()


def flat_gradient(loss: Tensor | Loss, module: HasParameters) -> Tensor:
    """dθ = ∂loss/∂θ as a fresh vector [P], 0 where the loss does not depend on a parameter.

    It is a value: no `.grad` is read or written, so nothing can pile up or be replayed. A `Loss` knows its gradient
    with respect to a network's outputs; where the chain rule from there to the parameters is written down, too, it is
    taken directly, and hooks on what lies between are not called. Everything else is left to autograd.
    """
    if isinstance(loss, Loss):
        # Autograd would find the same up to rounding, but for small networks its own work takes longer than that.
        if (gradient := loss.outputs.parameter_gradient(module, *loss.of_outputs)) is not None:
            return gradient
        loss = loss.total
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
