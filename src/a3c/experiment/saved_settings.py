"""What a run's config.json says of its settings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from a3c.config import TrainConfig, setting_names
from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.run_directory import CONFIG, holds_checkpoints, read_json


class SavedRun(NamedTuple):
    """A run's settings."""

    env: str
    env_by_name: bool  # whether that and the keyword arguments suffice to make it
    config: TrainConfig


def read_config(run_dir: Path) -> tuple[dict[str, Any], str | None]:
    """What a run's config.json holds, and None; where it cannot be read, the newest checkpoint's copy, and what is so.

    Raises RunDirectoryError if there is no run, or it is damaged.
    """
    try:
        return read_json(run_dir / CONFIG), None
    except RunDirectoryError as damage:
        if not holds_checkpoints(run_dir):
            raise
        from a3c.experiment.checkpoint import newest_whole_checkpoint  # noqa: PLC0415  (imports torch)

        with contextlib.suppress(RunDirectoryError):
            newest = newest_whole_checkpoint(run_dir, lambda _: None)
            what = damage if (run_dir / CONFIG).exists() else f"{run_dir} has no {CONFIG}"
            return read_json(newest / CONFIG), f"{what}; going by the copy in {newest.name}"
        raise


def read_settings(run_dir: Path, names: Collection[str] | None = None) -> SavedRun:
    """The settings of a run, all or some of them; the others have their defaults.

    Raises RunDirectoryError if there is no run, or it is damaged.
    """
    record, damage = read_config(run_dir)
    if damage is not None:
        warnings.warn(damage, stacklevel=2)
    settings = record.get("settings")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("env"), str):
        raise RunDirectoryError(f"{run_dir / CONFIG} is damaged: it does not say which environment the run was on")
    wanted = setting_names() if names is None else names
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items() if name in wanted
    }
    try:
        config = TrainConfig(**values)
        config.validate()
    except UsageError as error:
        raise RunDirectoryError(
            f"{run_dir / CONFIG} is damaged: {error}; put a checkpoint's copy of it in its place"
        ) from None
    return SavedRun(settings["env"], record.get("env_by_name") is True, config)
