"""Beginning with what another run has learned."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from a3c.errors import UsageError
from a3c.experiment.policy import Policy
from a3c.experiment.policy_spec import PolicySpec


def starting_state(run: str | os.PathLike[str], spec: PolicySpec, flag: str) -> dict[str, Any]:
    """The weights and moments of a run, or of a saved policy, by the names that a store's state has for them.

    Args:
        run: its directory.
        spec: the policy that is to begin with them.
        flag: how the user named the run.

    Raises:
        RunDirectoryError: it is missing or damaged.
        UsageError: it is of another network, or normalises otherwise.
    """
    policy = Policy.load(run, spec.model)
    ours = spec.build()
    theirs = policy.model
    if _outline(theirs) != _outline(ours) or theirs.normaliser.tracked != ours.normaliser.tracked:
        raise UsageError(
            f"{flag} {os.fspath(run)} is of another network than these settings make: "
            + (_difference(policy.spec, spec) or "name its settings, those of normalisation included")
        )
    return {"parameters": theirs.flat, "moments": theirs.normaliser.moments}


def _difference(theirs: PolicySpec, ours: PolicySpec) -> str:
    """What two policies differ in, in words; nothing where it cannot be told."""
    for what in ("observation_space", "action_space"):
        if getattr(theirs, what) != getattr(ours, what):
            name = what.replace("_", " ")
            return f"its {name} is {getattr(theirs, what)}, not {getattr(ours, what)}: it cannot begin with that"
    its, own = (asdict(spec.network) | asdict(spec.normalisation) for spec in (theirs, ours))
    settings = {"observations": "normalise_observations"}
    said = [f"its {settings.get(name, name)} is {its[name]}, not {own[name]}" for name in own if its[name] != own[name]]
    return f"{', '.join(said)}: name its settings, those of normalisation included" if said else ""


def _outline(model: Any) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
