"""The call `a3c.train`: settle what to do, start the fork server, and only then import torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from a3c.config import TrainConfig
from a3c.envs.make import EnvSource, examine
from a3c.errors import UsageError
from a3c.experiment import presets, shape
from a3c.experiment.env_source import env_source
from a3c.experiment.loggers.wandb import check_installed
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.serial import SerialRuntime

if TYPE_CHECKING:
    from a3c.experiment.train import Run

OnReport = Callable[[Mapping[str, Any]], object]

_PRELOAD = ["a3c.experiment.recipe", "a3c.runtimes.worker", "gymnasium.envs.classic_control.cartpole"]
_REPORT_EVERY_S = 0.25


def train(
    env: str | Callable[[], Any],
    *,
    on_report: OnReport | None = None,
    started_at: float | None = None,
    **settings: Any,
) -> Run:
    """Train an agent on an environment and return what came of it.

        run = a3c.train("CartPole-v1", workers=2, seed=0, run_dir="runs/cartpole")

    Args:
        env: an id that Gymnasium knows, `package.module:Class`, or a callable that makes one environment. It
            may be defined in a script without a `__main__` guard, or in a notebook.
        on_report: is called with every line of metrics, the last one included; a true answer stops the run.
        started_at: seconds since the epoch from which the run's `seconds` count; by default now.
        **settings: any field of `a3c.TrainConfig`. What is not named comes from the environment's preset, else
            from the general defaults.

    Raises:
        UsageError: a setting, the environment or the run directory is not usable; nothing was started.
        WorkerError: a worker failed; what was logged and a checkpoint are in the run directory.
        KeyboardInterrupt: on Ctrl-C, after saving. SystemExit(143): on SIGTERM, after saving.
    """
    started_at = time.time() if started_at is None else started_at
    config, description = presets.resolve(EnvSource(env).name, settings)
    source = env_source(env, config)
    source.check_exists()
    if config.wandb:
        check_installed()
    runtime = make_runtime(config)
    with contextlib.closing(runtime):
        runtime.prepare()
        facts = examine(source)
        config, description = shape.fit(config, description, facts.source, settings)
        from a3c.experiment.train import run_training  # noqa: PLC0415  (imports torch)

        return run_training(facts, config, settings, description, runtime, on_report, started_at)


def make_runtime(config: TrainConfig) -> ProcessRuntime | SerialRuntime:
    """The runtime that the settings name."""
    episodes_at_once = config.stop_at_return is not None
    if config.runtime == "serial":
        # With evaluations every update is reported: which one crosses a multiple must not depend on the clock.
        every_s = _REPORT_EVERY_S if config.evaluate_every is None else 0.0
        return SerialRuntime(report_every_s=every_s, episodes_at_once=episodes_at_once)
    try:
        return ProcessRuntime(
            config.start_method,
            preload=_PRELOAD,
            report_every_s=_REPORT_EVERY_S,
            episodes_at_once=episodes_at_once,
        )
    except ValueError:
        raise UsageError(f"this platform has no --start-method {config.start_method}: take spawn") from None
