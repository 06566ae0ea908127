"""What a run's config.json says of its settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from a3c.config import TrainConfig, setting_names
from a3c.errors import RunDirectoryError, UsageError
from a3c.experiment.run_directory import CONFIG, read_json


class SavedRun(NamedTuple):
    """A run's settings."""

    env: str
    env_by_name: bool  # whether that and the keyword arguments suffice to make it
    config: TrainConfig


def read_settings(run_dir: Path, names: Collection[str] | None = None) -> SavedRun:
    """The settings of a run, all or some of them; the others have their defaults.

    Raises RunDirectoryError if there is no run, or it is damaged.
    """
    record = read_json(run_dir / CONFIG)
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
        raise RunDirectoryError(f"{run_dir / CONFIG} is damaged: {error}") from None
    return SavedRun(settings["env"], record.get("env_by_name") is True, config)
