"""What all stores share: names for their state, and a look at what comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from a3c.core.update_rule import UpdateRule
from a3c.errors import StoreError
from a3c.types import StoreState


def check_vector(vector: Tensor, parameters: Tensor, what: str) -> None:
    """Raise StoreError unless `vector` has θ's shape and dtype: a copy would broadcast or round it silently."""
    if vector.shape != parameters.shape or vector.dtype != parameters.dtype:
        raise StoreError(
            f"{what} is {list(vector.shape)} {vector.dtype}, the store's parameters are "
            f"{list(parameters.shape)} {parameters.dtype}: one flat vector like them is wanted"
        )


def check_gradient(gradient: Tensor, parameters: Tensor) -> Tensor:
    """The gradient on the store's device, if it has θ's shape and dtype; otherwise StoreError."""
    check_vector(gradient, parameters, "the gradient")
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
        check_vector(vector, parameters, "a vector of the saved state (of another model?)")
    return StoreState(
        vectors[0],
        tuple(vectors[1:]),
        int(packed["version"]),
        int(packed["env_steps"]),
        int(packed["episodes"]),
    )
