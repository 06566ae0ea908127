"""The only wiring: environment, model, store, runtime, algorithm and logs become a run."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy
import torch

from a3c import __version__
from a3c.algorithms.actor_critic import ActorCriticSettings
from a3c.config import TrainConfig, is_json
from a3c.core import schedules, seeding
from a3c.core.optimizers import Adam, Optimizer, RMSProp
from a3c.core.update_rule import UpdateRule
from a3c.envs.make import EnvFacts, EnvSource
from a3c.errors import ClusterError, NonFiniteError, RunDirectoryError, SavingFailed, StoreBusy, UsageError, WorkerError
from a3c.experiment import checkpoint, resuming, run_directory
from a3c.experiment.checkpoint_saver import CheckpointSaver
from a3c.experiment.idle_settings import refuse_idle
from a3c.experiment.live import LiveView, choose_view
from a3c.experiment.periodic_evaluation import EvaluatorRecipe, PeriodicEvaluation
from a3c.experiment.policy import Policy
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.experiment.progress import Progress
from a3c.experiment.recipe import ActorLearnerRecipe
from a3c.experiment.saved_settings import read_settings
from a3c.experiment.sinks import RunLoggers
from a3c.experiment.starting import starting_state
from a3c.experiment.stop_signals import StopSignals
from a3c.models.actor_critic import Network
from a3c.own_code import importable_name
from a3c.runtimes.child_process import dumped
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.serial import SerialRuntime
from a3c.stores.delayed import DelayedStore
from a3c.stores.local import LocalStore
from a3c.stores.shared import SharedStore
from a3c.stores.synchronous import SynchronousStore
from a3c.types import ParameterStore, Report, Snapshot

if TYPE_CHECKING:
    from a3c.runtimes.ray import RayRuntime

    AnyRuntime = ProcessRuntime | SerialRuntime | RayRuntime

_ENVIRONMENT_PACKAGES = ("ale-py", "box2d", "box2d-py", "envpool", "minatar", "mujoco")
_LINE_EVERY_S = 0.25
_LONG_EPISODE = 100  # steps of one environment
# Workers that still have not come to their next pull so long after a stop was asked for are ended.
_GRACE_AFTER_SIGNAL_S = 2.0
_GRACE_S = 60.0
_DROP_MESSAGE_EVERY_S = 5.0
_REPORTS_S = 60.0  # a worker may report what it has just pushed after its next rollout only, or be begun anew first
_CUT_SHORT = ("failed", "interrupted", "terminated", "worker_failed")  # reasons of an end that is none of the run's own
# For an evaluation when training has ended: so long without a word, and so long at the most.
_EVALUATION_UNTOLD_S = 3.0
_EVALUATION_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the run's directory.
        summary: what summary.json holds.
        model: the person's own network that was trained, None for one of a3c's.
    """

    path: Path
    summary: Mapping[str, Any]
    model: str | Callable[..., Any] | None = None

    @property
    def solved(self) -> bool:
        """Whether the mean return of 100 episodes reached the goal."""
        return self.summary["solved_at"] is not None

    def policy(self) -> Policy:
        """The trained agent."""
        return Policy.load(self.path, self.model)


def run_training(
    facts: EnvFacts,
    config: TrainConfig,
    named: Collection[str],
    description: str,
    runtime: AnyRuntime,
    on_report: Callable[[Mapping[str, Any]], object] | None,
    started_at: float,
    changes: Mapping[str, tuple[Any, Any]] | None = None,
) -> Run:
    """Train; see `a3c.train` and `a3c.resume`.

    `facts` are the environment's, `named` are the settings that the user named, and `description` says in one line
    where the others came from. With `changes`, the run in the run directory is taken up where it was; they
    are the settings that are to be others than before: the old value and the new.
    """
    device = _device_on_ray(config) if config.runtime == "ray" else resolve_device(config.device)
    refuse_idle(named, facts)
    spec = make_spec(config, facts)
    with contextlib.ExitStack() as held:
        if changes is not None:
            assert config.run_dir is not None
            lock = held.enter_context(contextlib.closing(run_directory.RunLock(Path(config.run_dir))))
            with saving(Path(config.run_dir)):
                checkpoint.put_back(Path(config.run_dir))
            # Before the network is built: its size, too, is what a file says.
            newest = resuming.find_newest(Path(config.run_dir), spec)
        model = spec.build(seed=seeding.model_seed(config.seed))
        runtime.check_room(config.workers)
        store = make_store(config, model.flat, runtime, model.normaliser.tracked)
        held.enter_context(contextlib.closing(store))
        solved_return = facts.reward_threshold if config.stop_at_return is None else config.stop_at_return
        progress = Progress(started_at, solved_return)
        if config.init_from is not None and changes is None:
            store.load_state_dict(store.state_dict() | starting_state(config.init_from, spec, "--init-from"))
        if changes is None:
            place = _begin(facts, config, spec, device, runtime, held)
        else:
            place = _take_up(facts, config, spec, device, runtime, lock, newest, store, progress, changes)
        run_dir, recipe, record, resumed = place.run_dir, place.recipe, place.record, place.resumed
        session = _Session(config, place, store, progress, on_report)
        view = choose_view(
            config.quiet,
            title=f"{config.algorithm} on {facts.name}",
            total_env_steps=config.total_env_steps,
            total_episodes=config.total_episodes,
            workers=config.workers,
            max_seconds=config.max_seconds,
        )
        patience_s = _GRACE_AFTER_SIGNAL_S if isinstance(runtime, SerialRuntime) else None
        with StopSignals(patience_s) as signals, view, contextlib.ExitStack() as ending:
            with saving(run_dir):
                resumed_at = None if resumed is None else resumed.env_steps
                since = progress.started_at if place.tell_all_anew else None
                loggers = RunLoggers(run_dir, config, record, view.message, resumed_at, since, place.lock.holds)
            session.saver = CheckpointSaver(
                run_dir, spec, model, config.checkpoint_every_s, config.keep, view.message, record, place.lock.holds
            )
            # However it ends, all of this is done, from the last to the first, whatever fails of it.
            ending.callback(session.say_what_next, view)
            ending.callback(session.close_loggers, view, loggers)
            ending.callback(session.save_weights, view, loggers)
            ending.callback(session.save_summary, view)
            ending.callback(session.log_last_line, runtime, view, loggers)
            if config.evaluate_every is not None:
                session.evaluation = PeriodicEvaluation(
                    config.evaluate_every,
                    EvaluatorRecipe(facts.source, spec, config.evaluate_episodes, config.seed),
                    None if isinstance(runtime, SerialRuntime) else runtime.context,
                    run_dir,
                    lambda: session.progress.seconds,
                    view.message,
                )
                if resumed is not None:
                    session.evaluation.restore(resumed.evaluation)
                ending.callback(session.end_evaluation, view, loggers, signals)
            if resumed is None:
                session.begin_checkpoint(view, loggers)
            for text in () if resumed is None else resumed.messages:
                view.message(text)
            if not config.quiet:
                view.message(description)
            session.drain(runtime, recipe, view, loggers, signals)
    if session.exit_reason == signals.exit_reason:
        signals.raise_again()
    return Run(run_dir, session.summary, config.model)


def finished_run(run_dir: Path, model: str | Callable[..., Any] | None) -> Run:
    """A run that has come to its end. Raises RunDirectoryError if it has no summary."""
    return Run(run_dir, run_directory.read_json(run_dir / run_directory.SUMMARY), model)


class _Place(NamedTuple):
    """Where a run goes, and what goes there."""

    run_dir: Path
    lock: run_directory.RunLock
    recipe: ActorLearnerRecipe
    record: dict[str, Any]  # what config.json holds
    resumed: resuming.Resumed | None
    tell_all_anew: bool = False  # to TensorBoard


def _begin(
    facts: EnvFacts,
    config: TrainConfig,
    spec: PolicySpec,
    device: str,
    runtime: AnyRuntime,
    locks: contextlib.ExitStack,
) -> _Place:
    """A directory for a new run; `locks` holds the one on it."""
    recipe = make_recipe(facts.source, config, spec, device)
    _check_it_can_be_sent(recipe, runtime)
    run_dir = Path(config.run_dir or run_directory.default_path(facts.name, config.algorithm, config.seed))
    lock = locks.enter_context(contextlib.closing(run_directory.create(run_dir, overwrite=config.overwrite)))
    record = config_record(facts.source, config, spec) | {"id": secrets.token_hex(8)}
    with saving(run_dir):
        run_directory.write_json(run_dir / run_directory.CONFIG, record)
    return _Place(run_dir, lock, recipe, record, None)


def _take_up(
    facts: EnvFacts,
    config: TrainConfig,
    spec: PolicySpec,
    device: str,
    runtime: AnyRuntime,
    lock: run_directory.RunLock,
    newest: tuple[checkpoint.Checkpoint, list[str]],
    store: ParameterStore,
    progress: Progress,
    changes: Mapping[str, tuple[Any, Any]],
) -> _Place:
    """The directory, store and progress of a run as its newest checkpoint, see `resuming.find_newest`, has them."""
    assert config.run_dir is not None
    run_dir = Path(config.run_dir)
    before = replace(config, **{name: values[0] for name, values in changes.items()})
    resumed = resuming.take_up(run_dir, config, *newest, store, progress, make_rule(before), make_rule(config))
    recipe = make_recipe(facts.source, config, spec, device, resumed.incarnation)
    _check_it_can_be_sent(recipe, runtime)
    # From here on things are written.
    tell_all_anew = resuming.bring_back_logs(run_dir, resumed, progress)
    with saving(run_dir):
        checkpoint.set_damaged_aside(run_dir)
        now = config_record(facts.source, config, spec)
        resumed.say_what_is_new(now)
        record = resumed.record(now, changes)
        run_directory.write_json(run_dir / run_directory.CONFIG, record)
    return _Place(run_dir, lock, recipe, record, resumed, tell_all_anew)


def _check_it_can_be_sent(recipe: ActorLearnerRecipe, runtime: AnyRuntime) -> None:
    """Raise UsageError, before anything is written, where a worker process could not be sent this."""
    if not isinstance(runtime, SerialRuntime):
        dumped(recipe)


class _Cut(NamedTuple):
    """What a checkpoint is to hold, as soon as the logs have all that it counts."""

    state: dict[str, Any]  # the store's
    progress: dict[str, Any]
    deadline: float  # by the monotonic clock: whoever stands still is not waited for any longer


class _Session:
    """Reads a run's reports to their end: counts them, logs them, decides when to stop, and saves.

    Attributes:
        exit_reason: why the run has ended.
        summary: what it came to.
    """

    def __init__(
        self,
        config: TrainConfig,
        place: _Place,
        store: ParameterStore,
        progress: Progress,
        on_report: Callable[[Mapping[str, Any]], object] | None,
    ) -> None:
        self.config = config
        self.run_dir = place.run_dir
        self.store = store
        self.progress = progress
        self.on_report = on_report
        self.exit_reason = "failed"
        self.summary: dict[str, Any] = {}
        self.evaluation: PeriodicEvaluation | None = None
        self.saver: CheckpointSaver | None = None
        self._lock, self._record = place.lock, place.record
        self._last_counters: Snapshot | None = None
        self._last_state: dict[str, Any] | None = None
        self._next_line = self._next_look = 0.0
        self._next_drop_message = 0.0
        self._cut: _Cut | None = None
        self._last_drop: str | None = None
        self._stop_reason: str | None = None
        self._end_is_kept = False  # whether error.txt holds what the run has ended with
        self._last_call = math.inf  # workers that have not stopped by then are ended

    def drain(
        self,
        runtime: AnyRuntime,
        recipe: ActorLearnerRecipe,
        view: LiveView,
        loggers: RunLoggers,
        signals: StopSignals,
    ) -> None:
        """Run to the end, and say in `exit_reason` why it came."""
        try:
            with contextlib.closing(runtime.run(recipe, self.store, self.config.workers)) as reports:
                for report in reports:
                    if time.monotonic() >= self._next_look:
                        self._next_look = time.monotonic() + _LINE_EVERY_S
                        self._keep_directory(view)
                    if self.evaluation is not None:
                        self.evaluation.notice(self.store)
                    self._take(report, runtime, view, loggers)
                    if self.saver is not None and (self._cut is not None or self.saver.due):
                        self.begin_checkpoint(view, loggers)
                    self._stop_for(signals.exit_reason, _GRACE_AFTER_SIGNAL_S)
                    self._stop_for(self._criterion(), _GRACE_S)
                    if time.monotonic() > self._last_call:
                        break
            self.exit_reason = self._stop_reason or self._spent_budget()
        except KeyboardInterrupt:
            self.exit_reason = signals.exit_reason or "interrupted"
            if signals.received is None:  # else it is raised again when all is saved
                raise
        except (WorkerError, ClusterError) as error:
            if isinstance(error, WorkerError):
                self.exit_reason = "worker_failed"
            self._end_is_kept = self._keep_error(str(error), view)
            raise
        finally:
            signals.be_patient()
            self.progress.end_training()

    def _counters(self) -> Snapshot:
        """The store's, or, if the cluster that it was on is lost, the last that were seen."""
        try:
            self._last_counters = self.store.counters()
        except ClusterError:
            if self._last_counters is None:
                raise
        return self._last_counters

    def log_line(
        self, runtime: AnyRuntime, view: LiveView, loggers: RunLoggers, shown: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Log and show a line of what has happened since the one before; returns it. `shown` is shown in its place."""
        self._keep_directory(view)
        line = self.progress.line(self._counters(), runtime.alive)
        if self.evaluation is not None:
            line |= self.evaluation.unlogged()
        loggers.line(line)
        view.show({**line, **(shown or {})})
        self._next_line = time.monotonic() + _LINE_EVERY_S
        return line

    def log_last_line(self, runtime: AnyRuntime, view: LiveView, loggers: RunLoggers) -> None:
        """Log and show what has happened since the last line, and tell it to `on_report` if the run went well."""
        # The pace of the last moment, when workers stop one by one, tells nobody anything.
        pace = {"steps_per_second": self.progress.steps_per_second(self._counters())}
        line = self.log_line(runtime, view, loggers, pace)
        if self.on_report is not None and self.exit_reason not in _CUT_SHORT:
            self.on_report(line)

    def say_what_next(self, view: LiveView) -> None:
        """Where a run was cut short, how it goes on; where it came to nothing, why."""
        learned = bool(self.summary.get("updates", True))  # there is no summary if the cluster is lost
        if self.exit_reason in _CUT_SHORT:
            said = [f"to go on: {how}"] if learned and (how := _how_to_go_on(self.run_dir)) else []
            said += [f"what went wrong is in {self.run_dir / run_directory.ERROR}"] if self._end_is_kept else []
            if said:
                view.message("; ".join(said))
        elif not learned and self._last_drop is not None:
            dropped = self.progress.dropped_rollouts
            view.message(f"nothing was learned: all {dropped} rollouts were dropped; the last: {self._last_drop}")
        elif self.summary and not self.progress.episodes:
            steps, environments = self.summary["env_steps"], self.config.workers * self.config.envs_per_worker
            if not steps:
                view.message("no step was taken: starting has used all of the time that --max-seconds gave")
            else:
                each = steps // environments
                hint = ": --max-episode-steps N sets a limit" if each >= _LONG_EPISODE else ""
                view.message(f"no episode has ended in {steps:,} steps, some {each:,} of each environment{hint}")

    def _keep_directory(self, view: LiveView) -> None:
        """Begin the run's directory anew where it has vanished; the logs do the same.

        Raises RunDirectoryError if it is another run's by now: nothing more is written then.
        """
        config = self.run_dir / run_directory.CONFIG
        with contextlib.suppress(OSError):  # whatever is to be written next says so
            replaced = not self._lock.holds() and config.exists()
            if replaced and run_directory.read_json(config).get("id") != self._record["id"]:
                raise RunDirectoryError(f"{self.run_dir} is another run's by now, and left to it")
            if self._lock.renew() or not config.exists():
                run_directory.write_json(config, self._record)
                view.message(f"{config} has vanished: it is written anew")

    def close_loggers(self, view: LiveView, loggers: RunLoggers) -> None:
        """Finish all sinks, or abandon them where their place is another run's by now, as has been said then."""
        try:
            self._keep_directory(view)
        except RunDirectoryError:
            loggers.abandon()
        loggers.close()

    def save_summary(self, view: LiveView) -> None:
        """Write summary.json. Raises SavingFailed."""
        self._keep_directory(view)
        self.summary = self.progress.summary(self._counters(), self.exit_reason)
        self.summary["best_evaluation"] = None if self.evaluation is None else self.evaluation.best
        with saving(self.run_dir):
            run_directory.write_json(self.run_dir / run_directory.SUMMARY, self.summary)

    def end_evaluation(self, view: LiveView, loggers: RunLoggers, signals: StopSignals) -> None:
        """Wait for what is still to be evaluated, if the run has come to its own end and nobody wants it to go now.

        What takes longer is waited for when all else is saved.
        """
        assert self.evaluation is not None
        with contextlib.closing(self.evaluation) as evaluation:
            if self.exit_reason not in _CUT_SHORT:
                with contextlib.suppress(ClusterError):
                    self._wait_for_evaluation(evaluation, view, loggers, signals)
            self._keep_directory(view)
            evaluation.keep_policy()

    def _wait_for_evaluation(
        self, evaluation: PeriodicEvaluation, view: LiveView, loggers: RunLoggers, signals: StopSignals
    ) -> None:
        began, is_saved = time.monotonic(), False
        while signals.received is None and not evaluation.finish(self.store, _LINE_EVERY_S):
            self._keep_directory(view)
            waited_s = time.monotonic() - began
            policy = f"the policy at {evaluation.under_way_at:,} steps"
            if waited_s > _EVALUATION_PATIENCE_S:
                view.message(f"evaluating {policy} has taken {waited_s:.0f} s: the run ends without it")
                return
            if waited_s > _EVALUATION_UNTOLD_S and not is_saved:
                self.save_summary(view)
                self.save_weights(view, loggers)
                view.message(f"evaluating {policy}; Ctrl-C ends the run without it")
                is_saved = True

    def begin_checkpoint(self, view: LiveView, loggers: RunLoggers) -> None:
        """Have a checkpoint of the shared state written while the run goes on; if that cannot be, say so.

        It is cut now, and written at a later call if reports of episodes that it counts are still on their way.
        """
        assert self.saver is not None
        try:
            if self._cut is None:
                self._keep_directory(view)
                deadline = time.monotonic() + _REPORTS_S
                self._cut = _Cut(self.store.state_dict(), self._progress_state(loggers), deadline)
            cut, counted = self._cut, self._cut.state["worker_episodes"]
            if time.monotonic() > cut.deadline:
                self.progress.give_up(counted)
            if self.progress.has_reports_of(counted):
                self._keep_directory(view)
                self._cut = None
                loggers.flush_episodes()
                self.saver.begin(cut.state, cut.progress)
        except (StoreBusy, OSError) as error:
            self.saver.put_off()
            view.message(f"no checkpoint now ({run_directory.reason_and_fix(error)}); the run goes on")

    def save_weights(self, view: LiveView, loggers: RunLoggers) -> None:
        """Write a checkpoint of the shared state, the last one: training has ended. Raises SavingFailed."""
        assert self.saver is not None
        self._keep_directory(view)
        with saving(self.run_dir):
            try:
                if self._last_state is None:
                    self._last_state = self.store.state_dict()
                self.saver.save_last(self._last_state, self._progress_state(loggers))
            except (ClusterError, NonFiniteError):
                if self._cut is not None:  # then that is the last good one
                    self.saver.save_last(self._cut.state, self._cut.progress)
                raise

    def _progress_state(self, loggers: RunLoggers) -> dict[str, Any]:
        return self.progress.state() | {
            "sizes": loggers.sizes(),
            "evaluation": None if self.evaluation is None else self.evaluation.state(),
        }

    def _take(self, report: Report, runtime: AnyRuntime, view: LiveView, loggers: RunLoggers) -> None:
        for row in self.progress.add(report):
            loggers.episode(row)
        for text in report.failures:
            kept = self._keep_error(text, view)
            first, *rest = text.splitlines()
            more = f"; its traceback is in {self.run_dir / run_directory.ERROR}" if rest and kept else ""
            view.message(f"{first}: it is started anew{more}")
        for text in report.notes:
            view.message(text)
        self._last_drop = report.dropped[-1] if report.dropped else self._last_drop
        if report.dropped and time.monotonic() >= self._next_drop_message:
            view.message(f"{self._last_drop} ({self.progress.dropped_rollouts} dropped so far)")
            self._next_drop_message = time.monotonic() + _DROP_MESSAGE_EVERY_S
        if report.updates and time.monotonic() >= self._next_line:
            line = self.log_line(runtime, view, loggers)
            if self.on_report is not None and self.on_report(line):
                self._stop_for("on_report", _GRACE_S)

    def _keep_error(self, text: str, view: LiveView) -> bool:
        """Add it to error.txt; whether that could be."""
        try:
            self._keep_directory(view)
            with open(self.run_dir / run_directory.ERROR, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%F %T')} {text}\n")
        except (OSError, RunDirectoryError) as error:  # the failure itself matters more
            reason = getattr(error, "strerror", None) or error
            view.message(f"{run_directory.ERROR} cannot be written ({reason}): {text}")
            return False
        return True

    def _criterion(self) -> str | None:
        goal, mean = self.config.stop_at_return, self.progress.best_return_mean_100
        if goal is not None and mean is not None and mean >= goal:
            return "stop_at_return"
        if self.config.max_seconds is not None and self.progress.seconds >= self.config.max_seconds:
            return "max_seconds"
        return None

    def _stop_for(self, reason: str | None, grace_s: float) -> None:
        if reason is None:
            return
        self._last_call = min(self._last_call, time.monotonic() + grace_s)
        if self._stop_reason is None:
            self._stop_reason = reason
            self.store.request_stop()

    def _spent_budget(self) -> str:
        limit = self.config.total_env_steps
        by_steps = self.config.total_episodes is None or (limit and self._counters().env_steps >= limit)
        return "total_env_steps" if by_steps else "total_episodes"


def _how_to_go_on(run_dir: Path) -> str | None:
    """The command or the call by which a run is taken up; None if its directory has gone."""
    try:
        saved = read_settings(run_dir)
    except UsageError:
        return None
    for trust_code, command in ((False, "a3c resume"), (True, "a3c resume --trust-code")):
        with contextlib.suppress(UsageError):
            resuming.check_code(run_dir, saved, None, {}, trust_code)
            return f"{command} {shlex.quote(str(run_dir))}"
    return f"in Python, a3c.train(..., run_dir={str(run_dir)!r}, resume=True) with what it was begun with"


@contextlib.contextmanager
def saving(run_dir: Path) -> Iterator[None]:
    """Turn an OSError of the block into a SavingFailed that names the directory."""
    try:
        yield
    except OSError as error:
        raise SavingFailed(run_directory.why_not_saved(run_dir, error)) from error


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


def _device_on_ray(config: TrainConfig) -> str:
    """The device that `config.device` stands for in a worker somewhere: "auto" is the GPU if workers take one.

    Raises UsageError if workers take none, or if it has a number: Ray shows each worker its own as the first.
    """
    if config.device == "auto":
        return "cuda" if config.worker_gpus else "cpu"
    if config.device not in ("cpu", "cuda"):
        raise UsageError(f"--device must be cpu, cuda or auto with --runtime ray, not {config.device!r}")
    if config.device == "cuda" and not config.worker_gpus:
        raise UsageError(
            "--device cuda with --runtime ray needs a GPU, or a part of one, for each worker: --worker-gpus 1"
        )
    return config.device


def make_rule(config: TrainConfig) -> UpdateRule:
    """How a gradient changes θ."""
    optimizer: Optimizer
    if config.optimizer == "rmsprop":
        optimizer = RMSProp(
            config.optimizer_decay, config.optimizer_epsilon, config.epsilon_inside_root, config.bias_correction
        )
    else:
        optimizer = Adam(config.adam_beta1, config.optimizer_decay, config.optimizer_epsilon)
    schedule = getattr(schedules, config.learning_rate_schedule)(config.learning_rate)
    budget = schedules.Budget(config.total_env_steps, config.total_episodes)
    return UpdateRule(optimizer, schedule, budget, config.max_gradient_norm)


def make_store(config: TrainConfig, initial: torch.Tensor, runtime: AnyRuntime, tracked: int = 0) -> ParameterStore:
    """The store that the settings name, for the processes of this runtime and `tracked` moments."""
    rule, name = make_rule(config), config.resolved_store
    context = runtime.context if isinstance(runtime, ProcessRuntime) else None
    if name == "local":
        return LocalStore(initial, rule, tracked=tracked)
    if name == "delayed":
        return DelayedStore(LocalStore(initial, rule, tracked=tracked), config.delay)
    if name == "synchronous":
        return SynchronousStore(initial, rule, config.workers, config.loss_reduction, context, tracked=tracked)
    if name in ("ray", "ray-synchronous"):
        from a3c.stores.ray import RayStore  # noqa: PLC0415  (an extra, imported only where used)

        rounds = name == "ray-synchronous"
        return RayStore(
            initial,
            rule,
            config.workers,
            reduction=config.loss_reduction if rounds else None,
            in_flight=0 if rounds else config.updates_in_flight,
            tracked=tracked,
        )
    assert name in ("hogwild", "locked")
    return SharedStore(initial, rule, config.workers, name, context, tracked=tracked)  # type: ignore[arg-type]


def make_spec(config: TrainConfig, facts: EnvFacts) -> PolicySpec:
    """What the settings make of this environment's policy."""
    return PolicySpec(
        facts.observation_space,
        facts.action_space,
        config.action_bounding,
        Network(
            torso=config.torso,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            separate_torsos=config.separate_torsos,
            memory=config.memory,
            memory_size=config.memory_size,
            log_std=config.log_std,
            initial_log_std=config.initial_log_std,
        ),
        Normalisation(config.normalise_observations, config.scale_rewards, config.clip_rewards, config.discount),
        config.model,
    )


def make_recipe(
    source: EnvSource, config: TrainConfig, spec: PolicySpec, device: str, incarnation: int = 0
) -> ActorLearnerRecipe:
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
        noise_steps=config.noise_steps,
        end_rollout_at_episode_end=config.end_rollout_at_episode_end,
        device=device,
        seed=config.seed,
        incarnation=incarnation,
        seed_libraries=config.runtime != "serial",
    )


def _versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def config_record(source: EnvSource, config: TrainConfig, spec: PolicySpec) -> dict[str, Any]:
    """What config.json holds: everything needed to repeat the run."""
    name = source.env if isinstance(source.env, str) else importable_name(source.env)
    return {
        "settings": {"env": name or source.name} | config.to_json(),
        "env_by_name": name is not None and all(map(is_json, config.env_kwargs.values())),
        "policy": spec.to_json(),
        "versions": {
            "a3c": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "gymnasium": gymnasium.__version__,
            **_versions_of(_ENVIRONMENT_PACKAGES),
        },
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
