"""A person's own code by name: `package.module:name`, and what to say where it fails."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from a3c.errors import UsageError

# Files in a traceback.
_NOT_THEIRS = re.compile(rf"{re.escape(str(Path(__file__).parent))}|[\\/](torch|gymnasium|importlib)[\\/]|<frozen")

_LONGEST = 400  # of what an error says


def find_code(path: str, what: str, error: type[UsageError] = UsageError) -> Callable[..., Any]:
    """The class or function that "package.module:name" names; modules are looked for in the current directory, too.

    Raises `error`, which calls what was asked for `what`, if there is none.
    """
    module_name, _, name = path.rpartition(":")
    if not module_name or not name:
        raise error(f"{what} names no code: write package.module:name")
    found = _within(import_module(module_name, what, error), name)
    if not callable(found):
        kind = "no" if found is None else f"no callable but a {type(found).__name__}"
        raise error(f"{what}: module {module_name!r} has {kind} {name!r}; name a class or a function in it")
    code: Callable[..., Any] = found
    return code


def importable_name(code: Callable[..., Any]) -> str | None:
    """What `find_code` would find a class or function by; None for what a module does not have under its own name."""
    module_name, name = getattr(code, "__module__", None), getattr(code, "__qualname__", "")
    if module_name in (None, "__main__"):
        return None
    return f"{module_name}:{name}" if _within(sys.modules.get(module_name), name) is code else None


def _within(module: ModuleType | None, name: str) -> Any:
    """What a module has under a name, which may be that of a class within a class; None if there is nothing."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def importable(module_name: str) -> bool:
    """Whether there is the package that such a module is in, here or installed; nothing is run."""
    _look_here()
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        return importlib.util.find_spec(module_name.partition(".")[0]) is not None
    return False


def import_module(module_name: str, what: str, error: type[UsageError]) -> ModuleType:
    """Import a module, looked for in the current directory, too. Raises `error` if it cannot be."""
    if Path(module_name).name != module_name or module_name.endswith(".py"):
        name = Path(module_name).stem
        raise error(f"{what}: name the module without its path and ending, {name}, in the directory that holds it")
    _look_here()
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as raised:  # whatever a stranger's module raises
        raise error(
            f"{what}: cannot import {module_name!r} ({reason(raised)}); it is looked for in the current "
            "directory and among installed packages"
        ) from raised


def _look_here() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # `python -m a3c` looks there first, an installed command not at all


def reason(error: BaseException) -> str:
    """The error's class and text in one line, shortened, and where in the person's code it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _NOT_THEIRS.search(frame.filename)]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return shortened(text, _LONGEST) + where


def shortened(text: str, longest: int = 200) -> str:
    """Of what a stranger's file or code says, as much as an error shows."""
    return text if len(text) <= longest else f"{text[:longest]} ..."
