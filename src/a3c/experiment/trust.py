"""What a run's files may name and have used unasked: code to import, hosts to talk to, files to open.

Whoever opens somebody else's run has not asked for what it names: a class, wrappers, modules that register
environments, a network, a Ray cluster. So that is used only for a caller who says that the run is to be trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a3c.config import OwnCode
from a3c.envs.lookup import is_class_path, split_wrapper
from a3c.errors import UsageError
from a3c.own_code import shortened

_KNOWN_MODULES = {"gymnasium", "ale_py", "minatar", "envpool"}
"""Modules that a run may name unasked: their import registers environments and does nothing else."""

_OWN_ENVIRONMENTS = {f"a3c.envs.teaching:{name}" for name in ("Recall", "MaskedRecall")}
"""Classes that a run may name unasked."""

_OF_PATHS_AND_MODULES = ("/", "\\", "..", "~", ":")
"""What a file's path, another host's address or code's name has somewhere, and an environment's option seldom."""

_LARGEST = 2**16  # number among a wrapper's arguments
_LARGEST_TOGETHER = 2**24  # product of those of all wrappers
_COUNTING = {"TimeLimit"}  # wrappers whose numbers are no sizes


def refuse_unasked(
    path: Path,
    code: Sequence[str],
    env_kwargs: Mapping[str, Any],
    wrappers: Sequence[str] = (),
    ray_address: str | None = None,
    ray_runtime_env: Mapping[str, Any] | None = None,
) -> None:
    """Raise UsageError if what a run's files name is more than the library's own and what it knows.

    Args:
        path: the run's directory.
        code: names of code, `package.module:name`; of a module with nothing behind the colon.
        env_kwargs: what the environment would be given. A string in it may be a path that it opens.
        wrappers: names of such code, or of gymnasium's wrappers, and the arguments behind them.
        ray_address: of the cluster that would be connected to.
        ray_runtime_env: what would be installed and run on it.
    """
    would = list[tuple[str, str]]()
    split = [split_wrapper(wrapper) for wrapper in wrappers]
    names = [*code, *(name for name, _ in split)]
    if modules := sorted({name.rpartition(":")[0] for name in names if _runs_code(name)}):
        would.append(("import and run code", f"from {', '.join(modules)}"))
    if paths := [text for text in _strings(env_kwargs) if any(sign in text for sign in _OF_PATHS_AND_MODULES)]:
        would.append(("give the environment what may be a path", f"in --env-kwargs: {', '.join(map(repr, paths))}"))
    leaves = [(name, value) for name, arguments in split for value in _leaves(arguments)]
    odd = [value for _, value in leaves if _is_odd(value)]
    numbers = [value for name, value in leaves if name not in _COUNTING and isinstance(value, int | float)]
    sizes = [value for value in numbers if abs(value) > 1]
    if not odd and math.prod(abs(float(value)) for value in sizes) > _LARGEST_TOGETHER:
        odd = sizes  # each may be small: a stack of stacks of large pictures
    if odd:
        would.append(("give a wrapper what may be a path or too large", f"in --wrappers: {', '.join(map(repr, odd))}"))
    if ray_address is not None:
        would.append(("connect to a Ray cluster", f"--ray-address {ray_address}"))
    if ray_runtime_env:
        would.append(("set up what a Ray cluster runs", f"--ray-runtime-env {json.dumps(ray_runtime_env)}"))
    if would:
        named = (f"{what} that the files of {path} name, {shortened(which)}" for what, which in would)
        raise UsageError(
            f"this would {', and '.join(named)}: if you trust it, add --trust-code (in Python trust_code=True)"
        )


def is_nameless(code: OwnCode) -> bool:
    """Whether what config.json has of a callable is no name that it could be imported by."""
    return str(code).startswith("<")


def _runs_code(name: str) -> bool:
    """Whether to look `name` up is to run code of a module that the library does not know."""
    module, colon, _ = name.rpartition(":")
    known = name in _OWN_ENVIRONMENTS if is_class_path(name) else module in _KNOWN_MODULES
    return bool(colon) and not known


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys apart."""
    return (leaf for leaf in _leaves(value) if isinstance(leaf, str))


def _leaves(value: Any) -> Iterator[Any]:
    """What a JSON value is made of, keys apart."""
    if isinstance(value, Mapping):
        yield from _leaves(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_odd(value: Any) -> bool:
    """Whether a wrapper's argument may do harm: RecordVideo writes where it is told, a stack of frames may be huge."""
    return isinstance(value, str) or (isinstance(value, int | float) and not abs(value) <= _LARGEST)
