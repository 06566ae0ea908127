"""A run's directory: its files' names, and writing them so that a crash never leaves half of one."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a3c.errors import RunDirectoryError

CONFIG, METRICS, EPISODES, SUMMARY = "config.json", "metrics.jsonl", "episodes.csv", "summary.json"
EVALUATIONS = "evaluations.csv"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
ERROR = "error.txt"  # what a worker failed with


def default_path(env_name: str, algorithm: str, seed: int) -> Path:
    """runs/ENV-ALGORITHM-SEED-TIME, not yet taken."""
    safe_name = "".join(c if c.isalnum() or c in "-_." else "_" for c in env_name)
    stem = f"{safe_name}-{algorithm}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, n = Path("runs") / stem, 1
    while path.exists():
        n += 1
        path = Path("runs") / f"{stem}-{n}"
    return path


def create(path: Path, *, overwrite: bool) -> None:
    """Make the directory, or take an existing one that holds no run.

    With `overwrite` the files of a run that is there are removed first, and nothing else: a directory without a
    run's config.json is not taken for one.

    Raises:
        RunDirectoryError: it holds a run already, is no directory, or cannot be written.
    """
    files, folders = (CONFIG, METRICS, EPISODES, EVALUATIONS, SUMMARY, ERROR), (CHECKPOINTS, TENSORBOARD)
    taken = [name for name in (*files, *folders) if (path / name).exists()]
    if taken and not overwrite:
        raise RunDirectoryError(
            f"{path} already holds a run ({taken[0]}): name another --run-dir, or replace it with --overwrite"
        )
    if taken and "settings" not in read_json(path / CONFIG):
        raise RunDirectoryError(f"{path} holds a {taken[0]} that is not of a run: name another --run-dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in files:
            (path / name).unlink(missing_ok=True)
        for leftover in (*path.glob(f"{CHECKPOINTS}/step-*"), *path.glob(f"{CHECKPOINTS}/.step-*.tmp")):
            shutil.rmtree(leftover)
        for events in path.glob(f"{TENSORBOARD}/events.out.tfevents.*"):
            events.unlink()
        (path / CHECKPOINTS).mkdir(exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to the run directory {path} ({error.strerror or error}): name another --run-dir"
        ) from None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write atomically: the file holds the old content or the new, never a part of it."""
    text = json.dumps(finite(data), indent=2, allow_nan=False) + "\n"
    aside = path.with_name(f".{path.name}.tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises RunDirectoryError naming the file if it is missing, unreadable or no object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path.parent.is_dir():
            raise RunDirectoryError(f"{path.parent} is not a finished run: it has no {path.name}") from None
        raise RunDirectoryError(f"there is no run {path.parent}: check the name") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}): the run is damaged") from None
    if not isinstance(data, dict):
        raise RunDirectoryError(f"{path} holds no JSON object: the run is damaged")
    return data


def finite(value: Any) -> Any:
    """`value` with None for every NaN and infinity in it, which JSON does not know; tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
