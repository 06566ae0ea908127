"""Beginning with what another run has learned."""

from __future__ import annotations

import os
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
            f"{flag} {os.fspath(run)} is of another network than these settings make: name its settings, those of "
            "normalisation included"
        )
    return {"parameters": theirs.flat, "moments": theirs.normaliser.moments}


def _outline(model: Any) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
