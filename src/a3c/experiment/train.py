"""The only wiring: environment, model, store, runtime, algorithm and logs become a run."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy
import torch

from a3c import __version__
from a3c.algorithms.actor_critic import ActorCriticSettings
from a3c.config import TrainConfig
from a3c.core import schedules, seeding
from a3c.core.optimizers import Adam, Optimizer, RMSProp
from a3c.core.update_rule import UpdateRule
from a3c.envs.make import EnvSource, inspect
from a3c.errors import UsageError, WorkerError
from a3c.experiment import checkpoint, run_directory
from a3c.experiment.live import LiveView, choose_view
from a3c.experiment.policy import Policy
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.progress import Progress
from a3c.experiment.recipe import ActorLearnerRecipe
from a3c.experiment.sinks import RunLoggers
from a3c.experiment.stop_signals import StopSignals
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.serial import SerialRuntime
from a3c.stores.delayed import DelayedStore
from a3c.stores.local import LocalStore
from a3c.stores.shared import SharedStore
from a3c.stores.synchronous import SynchronousStore
from a3c.types import ParameterStore

AnyRuntime = ProcessRuntime | SerialRuntime

_LINE_EVERY_S = 0.25
_GRACE_AFTER_SIGNAL_S = 3.0  # then workers that still have not come to their next pull are ended


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the run's directory.
        summary: what summary.json holds.
    """

    path: Path
    summary: Mapping[str, Any]

    @property
    def solved(self) -> bool:
        """Whether the mean return of 100 episodes reached the goal."""
        return self.summary["solved_at"] is not None

    def policy(self) -> Policy:
        """The trained agent."""
        return Policy.load(self.path)


def run_training(
    source: EnvSource,
    config: TrainConfig,
    description: str,
    runtime: AnyRuntime,
    on_report: Callable[[Mapping[str, Any]], object] | None,
    started_at: float,
) -> Run:
    """Train; see `a3c.train`. `description` says in one line where the settings came from."""
    device = resolve_device(config.device)
    facts = inspect(source)
    run_dir = Path(config.run_dir or run_directory.default_path(facts.name, config.algorithm, config.seed))
    run_directory.create(run_dir, overwrite=config.overwrite)
    spec = PolicySpec.of(
        facts.observation_space,
        facts.action_space,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        separate_torsos=config.separate_torsos,
    )
    record = config_record(source, config, spec)
    run_directory.write_json(run_dir / run_directory.CONFIG, record)
    model = spec.build(seed=seeding.model_seed(config.seed))
    store = make_store(config, model.flat, runtime)
    solved_return = facts.reward_threshold if config.stop_at_return is None else config.stop_at_return
    session = _Session(config, run_dir, store, Progress(started_at, solved_return), on_report)
    view = choose_view(
        config.quiet,
        title=f"{config.algorithm} on {facts.name}",
        total_env_steps=config.total_env_steps,
        total_episodes=config.total_episodes,
        workers=config.workers,
    )
    with StopSignals() as signals, view:
        if not config.quiet:
            view.message(description)
        loggers = RunLoggers(run_dir, config, record["settings"], view.message)
        exit_reason = "failed"
        try:
            recipe = make_recipe(source, config, spec, device)
            exit_reason = session.drain(runtime, recipe, view, loggers, signals)
        except KeyboardInterrupt:
            exit_reason = "interrupted"
            raise
        except WorkerError as error:
            exit_reason = "worker_failed"
            (run_dir / run_directory.ERROR).write_text(f"{error}\n", encoding="utf-8")
            raise
        finally:
            summary = session.progress.summary(store.counters(), exit_reason)
            statistic_names = make_rule(config).optimizer.statistic_names
            checkpoint.save_checkpoint(run_dir, spec, model, store.snapshot(), statistic_names)
            run_directory.write_json(run_dir / run_directory.SUMMARY, summary)
            loggers.close()
    signals.raise_again()
    return Run(run_dir, summary)


class _Session:
    """Reads a run's reports to their end: counts them, logs them, and decides when to stop."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        store: ParameterStore,
        progress: Progress,
        on_report: Callable[[Mapping[str, Any]], object] | None,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.store = store
        self.progress = progress
        self.on_report = on_report
        self._next_line = 0.0
        self._stop_reason: str | None = None

    def drain(
        self,
        runtime: AnyRuntime,
        recipe: ActorLearnerRecipe,
        view: LiveView,
        loggers: RunLoggers,
        signals: StopSignals,
    ) -> str:
        """Run to the end; returns why it ended."""
        with contextlib.closing(runtime.run(recipe, self.store, self.config.workers)) as reports:
            for report in reports:
                for text in report.dropped:
                    view.message(text)
                for row in self.progress.add(report):
                    loggers.episode(row)
                if report.updates and time.monotonic() >= self._next_line:
                    self._line(runtime.alive, view, loggers)
                self._stop_for(signals.exit_reason or self._criterion())
                if signals.received and time.monotonic() > signals.received_at + _GRACE_AFTER_SIGNAL_S:
                    break
        self._line(runtime.alive, view, loggers)
        return self._stop_reason or self._spent_budget()

    def _line(self, workers_alive: int, view: LiveView, loggers: RunLoggers) -> None:
        line = self.progress.line(self.store.counters(), workers_alive)
        loggers.line(line)
        view.show(line)
        self._next_line = time.monotonic() + _LINE_EVERY_S
        if self.on_report is not None and self.on_report(line):
            self._stop_for("on_report")

    def _criterion(self) -> str | None:
        goal, mean = self.config.stop_at_return, self.progress.best_return_mean_100
        if goal is not None and mean is not None and mean >= goal:
            return "stop_at_return"
        if self.config.max_seconds is not None and self.progress.seconds >= self.config.max_seconds:
            return "max_seconds"
        return None

    def _stop_for(self, reason: str | None) -> None:
        if reason is not None and self._stop_reason is None:
            self._stop_reason = reason
            self.store.request_stop()

    def _spent_budget(self) -> str:
        limit = self.config.total_env_steps
        return "total_env_steps" if limit and self.store.counters().env_steps >= limit else "total_episodes"


def resolve_device(name: str) -> str:
    """The device that `name` stands for: "auto" is the GPU if there is one.

    Raises UsageError if it does not exist here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise UsageError(f"--device must be cpu, cuda, cuda:N or auto, not {name!r}") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"--device {name}: this machine has {count} CUDA devices; take --device cpu or auto")
    return name


def make_rule(config: TrainConfig) -> UpdateRule:
    """How a gradient changes θ."""
    optimizer: Optimizer
    if config.optimizer == "rmsprop":
        optimizer = RMSProp(config.optimizer_decay, config.optimizer_epsilon, config.epsilon_inside_root)
    else:
        optimizer = Adam(config.adam_beta1, config.optimizer_decay, config.optimizer_epsilon)
    schedule = getattr(schedules, config.learning_rate_schedule)(config.learning_rate)
    budget = schedules.Budget(config.total_env_steps, config.total_episodes)
    return UpdateRule(optimizer, schedule, budget, config.max_gradient_norm)


def make_store(config: TrainConfig, initial: torch.Tensor, runtime: AnyRuntime) -> ParameterStore:
    """The store that the settings name, for the processes of this runtime."""
    rule, name = make_rule(config), config.resolved_store
    context = runtime.context if isinstance(runtime, ProcessRuntime) else None
    if name == "local":
        return LocalStore(initial, rule)
    if name == "delayed":
        return DelayedStore(LocalStore(initial, rule), config.delay)
    if name == "synchronous":
        return SynchronousStore(initial, rule, config.workers, config.loss_reduction, context)
    assert name in ("hogwild", "locked")
    return SharedStore(initial, rule, config.workers, name, context)  # type: ignore[arg-type]


def make_recipe(source: EnvSource, config: TrainConfig, spec: PolicySpec, device: str) -> ActorLearnerRecipe:
    """How each actor-learner is put together."""
    settings = ActorCriticSettings(
        rollout_length=config.rollout_length,
        discount=config.discount,
        lambda_=config.lambda_,
        entropy_coef=config.entropy_coef,
        value_coef=config.value_coef,
        reduction=config.loss_reduction,
    )
    return ActorLearnerRecipe(
        source=source,
        spec=spec,
        settings=settings,
        envs_per_worker=config.envs_per_worker,
        end_rollout_at_episode_end=config.end_rollout_at_episode_end,
        device=device,
        seed=config.seed,
        seed_libraries=config.runtime == "processes",
    )


def config_record(source: EnvSource, config: TrainConfig, spec: PolicySpec) -> dict[str, Any]:
    """What config.json holds: everything needed to repeat the run."""
    return {
        "settings": {"env": source.name} | config.to_json(),
        "env_by_name": isinstance(source.env, str),
        "policy": spec.to_json(),
        "versions": {
            "a3c": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "gymnasium": gymnasium.__version__,
        },
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
