"""A person's own torso in the place of the library's.

`--model package.module:factory` names a function of theirs:

    def factory(observation_space) -> nn.Module

The module maps a batch of N observations to features [N, F], or to a pair of policy features and value features
where the two share nothing. It is given a tensor [N, *O], or for a Dict or Tuple space a dict of them by path
(`a3c.spaces.parts`; an action mask is one of them), with the numbers that the environment gives: images unscaled,
categories as integers; floats come in the module's own dtype, and standardised where observations are normalised.
The library adds memory, the policy's and the value's layer, and action masks.

Parameters are shared between workers, and nothing else is. So each row's features must come from that row and the
parameters alone: no dropout, no batch statistics, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from a3c.errors import UsageError
from a3c.own_code import reason
from a3c.spaces.parts import Space, basic_parts, map_parts, parts

Factory = Callable[[Any], nn.Module]

_ROWS = 7  # of the batch that a module is tried on
_LARGEST = 255.0  # number in it
_TOLERANCE = 1e-3  # relative to the largest feature: what a batch's size may change by rounding
_NAMED = 3  # so many parameters are named in an error

_taken: WeakSet[nn.Module] = WeakSet()  # modules that are part of a model: models share none

_CONTRACT = "an nn.Module that maps a batch of N observations to features [N, F] of floats, or to a pair of such"


class CustomTorso(nn.Module):
    """A person's module, tried out, for observations with any leading dimensions.

    Args:
        factory: makes the module (see the top of this file).
        observation_space: of one environment.

    Attributes:
        features: width of what the policy gets, F.
        value_features: width of what the value gets.
        separate: whether the module tells the two apart; then `forward` gives a pair.

    Raises:
        UsageError: the module is not what is wanted; the message says in what.
    """

    _like: Tensor  # has the module's dtype and device, also where there is no parameter

    def __init__(self, factory: Factory, observation_space: Space) -> None:
        super().__init__()
        self._dims = {
            path: len(space.shape or ())
            for path, space in basic_parts(observation_space, "the observation space").items()
        }
        if isinstance(factory, nn.Module):
            raise UsageError(
                f"--model: {type(factory).__name__} is a network, and each worker makes its own: pass what makes one "
                "from the observation space, a class or a function"
            )
        try:
            module = factory(observation_space)
        except Exception as error:
            raise UsageError(f"--model: the factory failed on {observation_space} ({reason(error)})") from error
        if not isinstance(module, nn.Module):
            raise UsageError(f"--model: the factory returned a {type(module).__name__}; wanted is {_CONTRACT}")
        if module in _taken:
            raise UsageError("--model: the factory returned the same module twice: build a new one at each call")
        self.module = module
        module.train()
        dtypes = sorted({str(p.dtype) for p in module.parameters()})
        if len(dtypes) > 1:
            raise UsageError(f"--model: its parameters differ in dtype ({', '.join(dtypes)}): make them all one")
        dtype = next((p.dtype for p in module.parameters()), torch.get_default_dtype())
        self.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)
        widths = _try_out(module, map_parts(self._inputs, _samples(observation_space)))
        self.separate = len(widths) == 2
        self.features, self.value_features = widths[0], widths[-1]
        _taken.add(module)

    def forward(self, observation: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Features [..., F] of a flat observation, [..., *O] or a dict of such; a pair where they are separate."""
        path, part = next(iter(parts(observation).items()))
        lead = part.shape[: part.dim() - self._dims[path]]
        if isinstance(observation, dict):
            batch: Any = {path: self._batch(part, lead) for path, part in observation.items()}
        else:
            batch = self._batch(observation, lead)
        outputs = self.module(batch)
        if not self.separate:
            return self._features(outputs, lead)
        policy, value = outputs
        return self._features(policy, lead), self._features(value, lead)

    def _batch(self, part: Tensor, lead: torch.Size) -> Tensor:
        return self._inputs(part).reshape(lead.numel(), *part.shape[len(lead) :]).contiguous()  # [N, *O]

    def _inputs(self, part: Tensor) -> Tensor:
        like = self._like
        return part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)

    def _features(self, output: Tensor, lead: torch.Size) -> Tensor:
        return output.to(self._like.dtype).reshape(*lead, output.shape[-1])


def _try_out(module: nn.Module, batch: Any) -> tuple[int, ...]:
    """The widths of the module's features. Raises UsageError unless it is what is wanted."""
    given = map_parts(torch.clone, batch)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.enable_grad():
        outputs = _outputs(module, batch, _ROWS)
        _check_gradient(module, outputs)
    if not all(torch.equal(before, after) for before, after in zip(*map(_tensors, (given, batch)), strict=True)):
        raise UsageError("--model: its forward changes the observations that it is given: copy before writing in place")
    for name, buffer in module.named_buffers():
        if name not in buffers or not _same(buffers[name], buffer):
            raise UsageError(
                f"--model: its buffer {name!r} changes in a forward pass: buffers are private to each worker, never "
                "shared or saved; instead of BatchNorm use LayerNorm or GroupNorm"
            )
    if not all(bool(output.isfinite().all(1).any()) for output in outputs):
        raise UsageError(
            f"--model: its features are not finite for any of {_ROWS} observations: look for a division by 0, a "
            "logarithm or weights without initial values"
        )
    with torch.no_grad():
        again = _outputs(module, batch, _ROWS)
        if not all(_close(one, other) for one, other in zip(outputs, again, strict=True)):
            raise UsageError(
                "--model: the same observations give different features each time: leave out dropout, noise and "
                "state, for the gradient is that of what was acted on"
            )
        alone = _outputs(module, map_parts(lambda part: part[:1], batch), 1)
        if not all(_close(one[:1], other) for one, other in zip(outputs, alone, strict=True)):
            raise UsageError(
                "--model: an observation's features depend on the others in the batch: each row must stand for itself; "
                "instead of batch statistics use LayerNorm or GroupNorm"
            )
    return tuple(output.shape[1] for output in outputs)


def _outputs(module: nn.Module, batch: Any, rows: int) -> tuple[Tensor, ...]:
    """What the module gives for a batch: one tensor [N, F], or two."""
    try:
        outputs = module(batch)
    except Exception as error:
        given = ", ".join(
            f"{list(part.shape)} {str(part.dtype).removeprefix('torch.')}{f' at {path!r}' if path else ''}"
            for path, part in parts(batch).items()
        )
        raise UsageError(f"--model: its forward failed on a batch of {rows}: {given} ({reason(error)})") from error
    features: tuple[Tensor, ...] = (outputs,) if isinstance(outputs, Tensor) else outputs
    if not isinstance(outputs, Tensor) and not _is_pair(outputs):
        raise UsageError(f"--model: its forward gave {_described(outputs)}; wanted is {_CONTRACT}")
    for output in features:
        if output.dim() != 2 or len(output) != rows or not output.shape[1] or not output.is_floating_point():
            raise UsageError(
                f"--model: its forward gave {_described(output)} for a batch of {rows}; wanted is {_CONTRACT}"
            )
    return features


def _check_gradient(module: nn.Module, outputs: tuple[Tensor, ...]) -> None:
    names = [name for name, _ in module.named_parameters()]
    parameters = list(module.parameters())
    learned = [parameter.requires_grad for parameter in parameters]
    if not all(learned):
        frozen = (name for name, free in zip(names, learned, strict=True) if not free)
        raise UsageError(
            f"--model: {_listed(frozen)} need no gradient (requires_grad is False): make constants buffers, by "
            "register_buffer, and train what is a parameter"
        )
    if not parameters:
        return
    total = torch.stack([output.sum() for output in outputs]).sum()
    gradients: Iterable[Tensor | None] = [None] * len(parameters)
    if total.requires_grad:
        try:
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        except Exception as error:
            raise UsageError(f"--model: no gradient can be taken through it ({reason(error)})") from error
    unused = [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
    if unused:
        raise UsageError(
            f"--model: {_listed(unused)} get no gradient from its output: delete what is not used, and leave out "
            "no_grad and detach"
        )


def _samples(space: Space) -> Any:
    """A flat batch [N, *O] of observations out of a space, always the same."""
    random = np.random.default_rng(0)
    batch = {path: _sample(part, random) for path, part in basic_parts(space, "the observation space").items()}
    return batch if isinstance(space, spaces.Dict | spaces.Tuple) else batch[""]


def _sample(space: Space, random: np.random.Generator) -> Tensor:
    """[N, *O] out of a basic space. A Box's own samples can lie near the largest float."""
    shape = (_ROWS, *(space.shape or ()))
    rows: Any
    if isinstance(space, spaces.Discrete):
        rows = int(space.start) + random.integers(int(space.n), size=shape)
    elif isinstance(space, spaces.MultiDiscrete):
        rows = space.start + random.integers(space.nvec, size=shape)
    elif isinstance(space, spaces.Box):
        low, high = (np.clip(bound.astype(np.float64), -_LARGEST, _LARGEST) for bound in (space.low, space.high))
        rows = random.uniform(low, high, shape)
        rows = rows if space.dtype is not None and space.dtype.kind == "f" else np.rint(rows)
    else:
        rows = random.integers(2, size=shape)
    return torch.from_numpy(np.asarray(rows, space.dtype))


def _tensors(observation: Any) -> list[Tensor]:
    return list(parts(observation).values())


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _close(one: Tensor, other: Tensor) -> bool:
    scale = one.detach().abs().nan_to_num(posinf=0.0).max()
    return torch.allclose(one, other, rtol=0, atol=float(_TOLERANCE * scale), equal_nan=True)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"parameters {', '.join(names[:_NAMED])}{rest}"


def _is_pair(outputs: Any) -> bool:
    return isinstance(outputs, tuple) and len(outputs) == 2 and all(isinstance(output, Tensor) for output in outputs)


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, tuple):
        return f"a tuple of ({', '.join(map(_described, output))})"
    return f"a {type(output).__name__}"
