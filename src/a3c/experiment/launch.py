"""The call `a3c.train`: settle what to do, start the fork server, and only then import torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a3c.config import TrainConfig
from a3c.envs.make import EnvSource, examine
from a3c.errors import UsageError
from a3c.experiment import presets, resuming, shape
from a3c.experiment.env_source import env_source
from a3c.experiment.extras import is_installed
from a3c.experiment.loggers.wandb import check_installed
from a3c.experiment.run_directory import METRICS, holds_checkpoints
from a3c.experiment.saved_settings import read_settings
from a3c.runtimes.importing import collector_paused
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.restarts import FailurePolicy
from a3c.runtimes.serial import SerialRuntime

if TYPE_CHECKING:
    from a3c.experiment.train import AnyRuntime, Run
    from a3c.runtimes.ray import RayRuntime

OnReport = Callable[[Mapping[str, Any]], object]

PRELOAD = ["a3c.experiment.recipe", "a3c.runtimes.worker", "gymnasium.envs.classic_control.cartpole"]
_REPORT_EVERY_S = 0.25


def train(
    env: str | Callable[[], Any],
    *,
    on_report: OnReport | None = None,
    started_at: float | None = None,
    resume: bool = False,
    **settings: Any,
) -> Run:
    """Train an agent on an environment and return what came of it.

        run = a3c.train("CartPole-v1", workers=2, seed=0, run_dir="runs/cartpole")

    Args:
        env: an id that Gymnasium knows, `package.module:Class`, or a callable that makes one environment. It
            may be defined in a script without a `__main__` guard, or in a notebook.
        on_report: is called with every line of metrics, the last one included; a true answer stops the run.
        started_at: seconds since the epoch from which the run's `seconds` count; by default now.
        resume: take the run in `run_dir` up where it was; see `a3c.resume`. If there is none yet, it is begun; if it is
            done already, it is returned. So a job that may be ended at any time is one call.
        **settings: any field of `a3c.TrainConfig`. What is not named comes from the environment's preset, else
            from the general defaults.

    Raises:
        UsageError: a setting, the environment or the run directory is not usable; nothing was started.
        WorkerError: a worker failed; what was logged and a checkpoint are in the run directory.
        KeyboardInterrupt: on Ctrl-C, after saving. SystemExit(143): on SIGTERM, after saving.
    """
    started_at = time.time() if started_at is None else started_at
    if resume:
        if settings.get("run_dir") is None:
            raise UsageError("resume goes on with the run in a run directory: name run_dir")
        path = Path(settings["run_dir"])
        if holds_checkpoints(path):
            named = {name: value for name, value in settings.items() if name != "run_dir"}
            try:
                return _take_up(path, env, on_report=on_report, started_at=started_at, **named)
            except resuming.RunIsDone:
                from a3c.experiment.train import finished_run  # noqa: PLC0415  (imports torch)

                return finished_run(path, settings.get("model"))
    config, description = presets.resolve(EnvSource(env).name, settings)
    begun_anew = ""
    if resume:  # a run that was killed before its first checkpoint has no other way
        config = replace(config, overwrite=True)
        begun_anew = f"\n{path} holds no checkpoint: it is begun anew" if (path / METRICS).exists() else ""
    source = env_source(env, config)
    source.check_exists()
    if config.wandb:
        check_installed()
    runtime = make_runtime(config)
    with contextlib.closing(runtime):
        runtime.prepare()
        facts = examine(source)
        config, description = shape.fit(config, description, facts.source, settings)
        with collector_paused():
            from a3c.experiment.train import run_training  # noqa: PLC0415  (imports torch)

        return run_training(facts, config, settings, description + begun_anew, runtime, on_report, started_at)


def resume(
    run_dir: str | os.PathLike[str],
    env: str | Callable[[], Any] | None = None,
    *,
    on_report: OnReport | None = None,
    started_at: float | None = None,
    trust_code: bool = False,
    **settings: Any,
) -> Run:
    """Take a run up where its newest whole checkpoint has it, and train on.

        run = a3c.resume("runs/cartpole", total_env_steps=2_000_000)

    The shared state goes on to the bit: weights, optimiser, step count, learning rate, moments of observations. Workers
    begin fresh episodes with fresh random streams. What was logged after the checkpoint is logged anew.

    Args:
        run_dir: the run's directory.
        env: as in `a3c.train`; by default the run's own, where it has a name.
        on_report: as in `a3c.train`.
        started_at: as in `a3c.train`; the seconds that the run has lasted before are added.
        trust_code: use what the run's files name: code of an environment, wrappers or a network, modules to import,
            paths in env_kwargs, a Ray cluster and what is to run there.
        **settings: what is to be other than before: the number of workers, a budget, the runtime, store and device,
            what is logged, and where checkpoints go. All others must be as they were.

    Raises:
        RunDirectoryError: there is no run, or it is damaged, or another process trains in it.
        UsageError: a setting would change what the run means, the run is done, or it names what it is not trusted with.
        WorkerError, KeyboardInterrupt and SystemExit as in `a3c.train`.
    """
    started_at = time.time() if started_at is None else started_at
    return _take_up(run_dir, env, on_report=on_report, started_at=started_at, trust_code=trust_code, **settings)


def _take_up(
    run_dir: str | os.PathLike[str],
    env: str | Callable[[], Any] | None,
    *,
    on_report: OnReport | None,
    started_at: float,
    trust_code: bool = False,
    **settings: Any,
) -> Run:
    path = Path(run_dir)
    saved = read_settings(path)
    config, changes = resuming.changed(replace(saved.config, run_dir=str(path), overwrite=False, quiet=False), settings)
    resuming.check_code(path, saved, env, settings, trust_code)
    source = env_source(saved.env if env is None else env, config)
    if not resuming.same_environment(env, source.name, saved.env):
        raise UsageError(f"{path} is a run on {saved.env!r}, not on {source.name!r}: name another run directory")
    source.check_exists()
    if config.wandb:
        check_installed()
    runtime = make_runtime(config)
    with contextlib.closing(runtime):
        runtime.prepare()
        facts = examine(source)
        with collector_paused():
            from a3c.experiment.train import run_training  # noqa: PLC0415  (imports torch)

        words = resuming.what_changes(changes)
        description = presets.describe(config, f"as before{words and ', but for ' + words}", ())
        return run_training(facts, config, (), description, runtime, on_report, started_at, changes)


def make_runtime(config: TrainConfig) -> AnyRuntime:
    """The runtime that the settings name."""
    episodes_at_once = config.stop_at_return is not None
    policy = FailurePolicy(
        config.max_restarts_per_hour if config.on_worker_failure == "restart" else 0, config.worker_timeout_s
    )
    if config.runtime == "ray":
        return _ray_runtime(config, episodes_at_once, policy)
    if config.runtime == "serial":
        # With evaluations every update is reported: which one crosses a multiple must not depend on the clock.
        every_s = _REPORT_EVERY_S if config.evaluate_every is None else 0.0
        return SerialRuntime(report_every_s=every_s, episodes_at_once=episodes_at_once)
    try:
        return ProcessRuntime(
            config.start_method,
            preload=PRELOAD,
            report_every_s=_REPORT_EVERY_S,
            episodes_at_once=episodes_at_once,
            policy=policy,
        )
    except ValueError:
        raise UsageError(f"this platform has no --start-method {config.start_method}: take spawn") from None


def _ray_runtime(config: TrainConfig, episodes_at_once: bool, policy: FailurePolicy) -> RayRuntime:
    if not is_installed("ray"):
        raise UsageError("--runtime ray needs Ray, which is not installed: pip install 'a3c[ray]'")
    from a3c.runtimes.ray import ClusterWish, RayRuntime  # noqa: PLC0415  (an extra, imported only where used)

    wish = ClusterWish(
        config.ray_address, config.worker_cpus, config.worker_gpus, config.ray_runtime_env, config.ray_wait_s
    )
    return RayRuntime(wish, report_every_s=_REPORT_EVERY_S, episodes_at_once=episodes_at_once, policy=policy)
