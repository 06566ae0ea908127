"""What code a run's files may name and have imported unasked.

Whoever opens somebody else's run has not asked for the code that it names: a class, wrappers, modules that register
environments, a network. So it is run only for a caller who says that the run is to be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from a3c.config import OwnCode
from a3c.envs.lookup import is_class_path
from a3c.errors import UsageError

_KNOWN_MODULES = {"gymnasium", "ale_py", "minatar", "envpool"}
"""Modules that a run may name unasked: their import registers environments and does nothing else."""

_OWN_ENVIRONMENTS = {f"a3c.envs.teaching:{name}" for name in ("Recall", "MaskedRecall")}
"""Classes that a run may name unasked."""


def refuse_code(path: Path, named: Sequence[str]) -> None:
    """Raise UsageError if what a run's files name is code of a module that the library does not know."""
    if modules := sorted({name.rpartition(":")[0] for name in named if _runs_code(name)}):
        raise UsageError(
            f"this would import and run code that the files of {path} name, from {', '.join(modules)}: if you trust "
            "it, add --trust-code (in Python trust_code=True)"
        )


def is_nameless(code: OwnCode) -> bool:
    """Whether what config.json has of a callable is no name that it could be imported by."""
    return str(code).startswith("<")


def _runs_code(name: str) -> bool:
    """Whether to look `name` up is to run code of a module that the library does not know."""
    module, colon, _ = name.rpartition(":")
    known = name in _OWN_ENVIRONMENTS if is_class_path(name) else module in _KNOWN_MODULES
    return bool(colon) and not known
