"""Weights & Biases: one run for all workers, in the one writer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from a3c.errors import UsageError
from a3c.experiment.extras import is_installed
from a3c.experiment.loggers import finite_number, is_episode

Mode = Literal["online", "offline", "disabled"]

_loaded_here = False  # nobody else in this process had imported wandb


class WandbLogger:
    """Owns one W&B run.

    An episode line is logged as `episode`, `episode_reward` (its return) and `episode_length`, drawn over
    `episode`; other lines as they are, drawn over `env_steps`. The last line's `seconds` are logged at the end,
    in minutes, as `running time`.

    W&B neither prints nor asks for a login here: this runs beside a live display, in any thread.

    Args:
        project: W&B project.
        name: the run's name.
        config: the run's settings.
        directory: the local files go to `directory/wandb`.
        mode: None leaves it to W&B (WANDB_MODE, else online).
        report: is called with one line that says where the run can be seen.
        run_id: W&B's name for the run; a run that is taken up goes on under the one that it began with.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(
        self,
        project: str,
        name: str | None,
        config: Mapping[str, object],
        directory: Path,
        mode: Mode | None,
        report: Callable[[str], None] | None = None,
        run_id: str | None = None,
    ) -> None:
        check_installed()
        global _loaded_here
        _loaded_here = _loaded_here or "wandb" not in sys.modules
        import wandb  # noqa: PLC0415  (only where used)

        self._ours = _loaded_here and wandb.run is None  # then so is its service process, which ends with the run
        wandb.setup(settings=wandb.Settings(silent=True))  # or a missing login would ask for one, under the display
        settings = wandb.Settings(silent=True, console="off")
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=run_id,
                resume=None if run_id is None else "allow",
                config=dict(config),
                dir=str(directory),
                mode=mode,
                settings=settings,
            )
        except Exception:  # not logged in, perhaps
            self._end_service()
            raise
        self._run.define_metric("*", step_metric="env_steps")
        for metric in ("episode_reward", "episode_length"):
            self._run.define_metric(metric, step_metric="episode")
        self._seconds: float | None = None
        if report is not None:
            report(f"wandb: {self._run.url or f'local run in {self._run.dir}'}")

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Log one line."""
        seconds = finite_number(metrics.get("seconds"))
        self._seconds = self._seconds if seconds is None else seconds
        if is_episode(metrics):
            renamed = {"episode_reward": metrics.get("return"), "episode_length": metrics.get("length")}
            metrics = {"episode": metrics["episode"], **renamed}
        known = {key: value for key, value in metrics.items() if value is not None and not isinstance(value, Mapping)}
        self._run.log({**known, "env_steps": step})

    def close(self) -> None:
        """Log the running time and finish the run."""
        if self._seconds is not None:
            self._run.log({"running time": self._seconds / 60})
        self._run.finish()
        self._end_service()

    def _end_service(self) -> None:
        if self._ours:
            import wandb  # noqa: PLC0415

            wandb.teardown()


def check_installed() -> None:
    """Raise UsageError if wandb is not installed. Imports nothing, so that it can be asked before a run."""
    if not is_installed("wandb"):
        raise UsageError("--wandb needs the wandb package: pip install a3c[wandb]")
