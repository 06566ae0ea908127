"""What all stores share: names for their state, and a look at what comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from a3c.core.update_rule import UpdateRule
from a3c.errors import StoreError
from a3c.types import StoreState


def check_gradient(gradient: Tensor, parameters: Tensor) -> Tensor:
    """The gradient on the store's device, if it has θ's shape and dtype; otherwise StoreError."""
    if gradient.shape != parameters.shape or gradient.dtype != parameters.dtype:
        raise StoreError(
            f"the gradient is {list(gradient.shape)} {gradient.dtype}, "
            f"the store's parameters are {list(parameters.shape)} {parameters.dtype}: push one flat vector like them"
        )
    return gradient.to(parameters.device)


def pack_state(state: StoreState, rule: UpdateRule) -> dict[str, Any]:
    """A cut by name: `parameters`, the optimiser's statistics under their names, and the counters."""
    packed: dict[str, Any] = {"parameters": state.parameters}
    packed |= dict(zip(rule.optimizer.statistic_names, state.statistics, strict=True))
    return packed | {"version": state.version, "env_steps": state.env_steps, "episodes": state.episodes}


def unpack_state(packed: Mapping[str, Any], rule: UpdateRule, parameters: Tensor) -> StoreState:
    """The inverse of `pack_state`. Raises StoreError if a name is missing or a vector is not like θ."""
    for name in ("parameters", *rule.optimizer.statistic_names, "version", "env_steps", "episodes"):
        if name not in packed:
            raise StoreError(f"the saved state has no {name!r}: was it saved with another optimiser?")
    vectors = [packed["parameters"], *(packed[name] for name in rule.optimizer.statistic_names)]
    for vector in vectors:
        if vector.shape != parameters.shape:
            raise StoreError(
                f"the saved state holds {list(vector.shape)} numbers, the model {list(parameters.shape)}: "
                "was it saved with another model?"
            )
    return StoreState(
        vectors[0], tuple(vectors[1:]), int(packed["version"]), int(packed["env_steps"]), int(packed["episodes"])
    )
