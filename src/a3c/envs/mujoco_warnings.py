"""MuJoCo's warnings, once each."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

from gymnasium.envs.registration import EnvSpec

_OF_GYMNASIUMS_MODELS = "compiler attribute 'settotalmass' is deprecated"  # whoever trains cannot mend that


def say_once(spec: EnvSpec) -> None:
    """Have MuJoCo say a warning once in a process, if the environment is one of Gymnasium's that it simulates.

    By itself it says it to stderr whenever a model is made, and writes a file into the current directory. Nothing is
    changed if somebody has taken its warnings in hand already.
    """
    if not str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
        return
    with contextlib.suppress(ImportError, AttributeError):  # gymnasium.make says what is missing
        mujoco: Any = importlib.import_module("mujoco")
        if mujoco.get_mju_user_warning() is None:
            mujoco.set_mju_user_warning(_Once())


class _Once:
    def __init__(self) -> None:
        self.said: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self.said and _OF_GYMNASIUMS_MODELS not in text:
            self.said.add(text)
            print(f"MuJoCo: {text}", file=sys.stderr)
