"""A module's parameters, and a loss's gradient, as one flat vector."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn


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


def flat_gradient(loss: Tensor, module: HasParameters) -> Tensor:
    """dθ = ∂loss/∂θ as a fresh vector [P], 0 where the loss does not depend on a parameter.

    It is a value: no `.grad` is read or written, so nothing can pile up or be replayed. Where each step of the chain
    rule is written down, from the loss to the outputs and from these to the parameters, it is taken directly, and
    hooks on what lies between are not called; everything else is left to autograd.
    """
    if (gradient := _written_down(loss, module)) is not None:
        return gradient
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _written_down(loss: Tensor, module: HasParameters) -> Tensor | None:
    """The gradient [P], where the loss is known with those at a network's outputs, and the network has its chain rule.

    Such a loss's node has `of_outputs`, one array for each output: the gradients of its first rows, where those of the
    others are 0. That of the network, from which all of these come and nothing else, has its `module` and `chain_rule`,
    which makes of them a fresh vector [P], in the order of the module's `parameters`.
    Autograd would find the same up to rounding, but for small networks its own work takes longer than that.
    """
    known: Any = loss.grad_fn
    of_outputs = getattr(known, "of_outputs", None)
    if of_outputs is None:
        return None
    sources = known.next_functions[: len(of_outputs)]
    network: Any = sources[0][0]
    if not hasattr(network, "chain_rule") or sources != tuple((network, i) for i in range(len(of_outputs))):
        return None
    if network.module is not module or not all(parameter.requires_grad for parameter in network.parameters):
        return None
    gradient: Tensor = network.chain_rule(network, *of_outputs)
    return gradient
