"""What all stores share: cuts through their state, names for it, and a look at what comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a3c.core.moments import empty
from a3c.core.update_rule import UpdateRule
from a3c.errors import StoreError
from a3c.types import MOST_WORKERS, Counts, Snapshot, StoreState

MOST_UNCOUNTED = 1_000


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


def check_deltas(counts: Counts, tracked: int) -> Tensor | None:
    """The moments that a rollout adds, as `check_moments` gives them; None if it adds none."""
    return None if counts.moments is None else check_moments(counts.moments, tracked, "the rollout's moments")


def check_moments(moments: Tensor, tracked: int, what: str) -> Tensor:
    """The moments on the CPU, if they are finite float64 numbers [3, tracked]; otherwise StoreError."""
    if moments.shape != (3, tracked) or moments.dtype != torch.float64:
        raise StoreError(
            f"{what} are {list(moments.shape)} {moments.dtype}, a store with tracked={tracked} keeps "
            f"[3, {tracked}] {torch.float64}: one column for each tracked scalar is wanted"
        )
    moments = moments.detach().cpu()
    finite = np.isfinite(moments.numpy())
    if not finite.all():
        row, column = np.argwhere(~finite)[0].tolist()
        name = ("count", "mean", "sum of squared deviations")[row]
        raise StoreError(
            f"{what} hold a {name} of {float(moments[row, column])} (column {column}): leave out samples that are not "
            "finite, or the whole rollout"
        )
    return moments


def cut(
    parameters: Tensor,
    statistics: tuple[Tensor, ...],
    counters: Snapshot,
    moments: Tensor,
    worker_episodes: tuple[int, ...],
) -> StoreState:
    """A copy of a store's state; whoever calls it sees to it that nobody writes meanwhile."""
    copies = tuple(statistic.clone() for statistic in statistics)
    version, env_steps, episodes = counters.version, counters.env_steps, counters.episodes
    return StoreState(parameters.clone(), copies, version, env_steps, episodes, moments.clone(), worker_episodes)


def restore_vectors(state: StoreState, parameters: Tensor, statistics: tuple[Tensor, ...]) -> None:
    """Write a cut's θ and statistics over a store's."""
    parameters.copy_(state.parameters)
    for statistic, value in zip(statistics, state.statistics, strict=True):
        statistic.copy_(value)


def pack_state(state: StoreState, rule: UpdateRule) -> dict[str, Any]:
    """A cut by name: `parameters`, the optimiser's statistics under their names, the counters, and `moments`."""
    packed: dict[str, Any] = {"parameters": state.parameters}
    packed |= dict(zip(rule.optimizer.statistic_names, state.statistics, strict=True))
    counters = {"version": state.version, "env_steps": state.env_steps, "episodes": state.episodes}
    return packed | counters | {"worker_episodes": list(state.worker_episodes), "moments": state.moments}


def unpack_state(packed: Mapping[str, Any], rule: UpdateRule, parameters: Tensor, tracked: int) -> StoreState:
    """The inverse of `pack_state`, for a store with this θ that tracks so many scalars.

    A state without `moments` is one of a store that tracked nothing, one without `worker_episodes` of one that did not
    count them. Raises StoreError if a name is missing, a vector is not like θ, a counter is no whole number, or the
    moments are not [3, tracked].
    """
    for name in ("parameters", *rule.optimizer.statistic_names, "version", "env_steps", "episodes"):
        if name not in packed:
            raise StoreError(f"the saved state has no {name!r}: was it saved with another optimiser?")
    vectors = [packed["parameters"], *(packed[name] for name in rule.optimizer.statistic_names)]
    for vector in vectors:
        check_vector(vector, parameters, "a vector of the saved state (of another model?)")
    moments = packed.get("moments", empty(0))
    moments = check_moments(moments, tracked, "the saved state's moments (of other normalisation settings?)")
    return StoreState(
        vectors[0],
        tuple(vectors[1:]),
        _counted("version", packed["version"]),
        _counted("env_steps", packed["env_steps"]),
        _counted("episodes", packed["episodes"]),
        moments,
        _each_counted(packed.get("worker_episodes", [])),
    )


def uncounted_episodes(packed: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Episodes whose pushes were lost, by a saved state: their worker, the first one's number, the last one's.

    Others that came after them were counted. Only a store whose server or workers can be lost has such. Raises
    StoreError if they are no numbers.
    """
    values = packed.get("uncounted_episodes", [])
    if not isinstance(values, list) or len(values) > MOST_UNCOUNTED:
        raise StoreError(f"the saved state's uncounted_episodes are no list of at most {MOST_UNCOUNTED:,}")
    uncounted = []
    for each in values:
        if not isinstance(each, list | tuple) or len(each) != 3:
            raise StoreError(f"the saved state's uncounted_episodes hold {each!r:.50}: three whole numbers are wanted")
        worker, first, last = (_counted("uncounted_episodes", number) for number in each)
        uncounted.append((worker, first, last))
    return uncounted


def _counted(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise StoreError(f"the saved state's {name} is {value!r}: a whole number is wanted")
    return value


def _each_counted(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) > MOST_WORKERS:
        raise StoreError(f"the saved state's worker_episodes are {values!r:.50}: a list of whole numbers is wanted")
    counts = tuple(_counted("worker_episodes", value) for value in values)
    _counted("sum of worker_episodes", sum(counts))
    return counts
