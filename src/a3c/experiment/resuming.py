"""Taking a run up where it was: what its directory says, and what of it may be changed.

The shared state goes on to the bit: θ, the optimiser's statistics, T, the moments, and with T the learning rate.
Workers begin fresh episodes, with random streams of their own.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from a3c.config import TrainConfig, flag, is_json, refuse_unknown
from a3c.errors import RunDirectoryError, StoreError, UsageError
from a3c.experiment import run_directory
from a3c.experiment.episode_rows import Counted, Removed, keep_counted, read_rows
from a3c.experiment.loggers.episodes_csv import COLUMNS, columns_of
from a3c.experiment.presets import plain
from a3c.experiment.run_directory import ASIDE, CONFIG, EPISODES, METRICS, SUMMARY, TENSORBOARD
from a3c.experiment.saved_settings import SavedRun, read_config
from a3c.experiment.trust import is_nameless, refuse_unasked

if TYPE_CHECKING:
    from a3c.core.update_rule import UpdateRule
    from a3c.experiment.checkpoint import Checkpoint
    from a3c.experiment.policy_spec import PolicySpec
    from a3c.experiment.progress import Progress
    from a3c.types import ParameterStore

CHANGEABLE = frozenset(
    {
        "workers", "total_env_steps", "total_episodes", "max_seconds", "stop_at_return", "evaluate_every",
        "evaluate_episodes", "checkpoint_every_s", "keep", "label", "quiet", "tensorboard", "wandb", "wandb_project",
        "wandb_mode", "on_worker_failure", "max_restarts_per_hour", "worker_timeout_s", "runtime",
        "store", "start_method", "device", "ray_address", "worker_cpus", "worker_gpus", "updates_in_flight",
        "ray_runtime_env", "ray_wait_s",
    }
)  # fmt: skip
"""The settings that a run may be taken up with anew: what is learned, and from what, stays the same."""

_LIVES = 10**6  # more than workers of one process are ever started anew
_JSON_NAMES = {dict: "object", list: "list", str: "string"}
_OF_ONE_CALL = {"run_dir", "overwrite", "quiet"}  # they say nothing about the run itself


def changed(saved: TrainConfig, named: Mapping[str, Any]) -> tuple[TrainConfig, dict[str, tuple[Any, Any]]]:
    """The settings to go on with, and those of them that are not as they were: before and after.

    Raises UsageError where one of the named settings makes no sense, or would change what the run means.
    """
    refuse_unknown(named)
    config = replace(saved, **{name: plain(value, name) for name, value in named.items()})
    config.validate()
    config.refuse_idle(named)
    before, after = _as_json(saved), _as_json(config)
    if named_kwargs := named.get("env_kwargs"):  # what JSON does not hold cannot be compared
        for name, value in named_kwargs.items():
            if not is_json(value) and name in before["env_kwargs"]:
                before["env_kwargs"][name] = after["env_kwargs"][name]
    changes = {name: (before[name], after[name]) for name in sorted(set(named) - _OF_ONE_CALL)}
    changes = {name: (old, new) for name, (old, new) in changes.items() if old != new}
    for name, (old, new) in changes.items():
        if name not in CHANGEABLE:
            raise UsageError(
                f"{flag(name)} {new} is not what the run has had ({old}) and would change what it is: leave it out, or "
                "begin another run"
            )
    return config, changes


def _as_json(config: TrainConfig) -> dict[str, Any]:
    """The settings as a file gives them back: tuples have become lists."""
    return dict(json.loads(json.dumps(config.to_json())))


def same_environment(env: Any, name: str, saved: str) -> bool:
    """Whether what is passed, with the name that it would have, can be the environment that a run was begun with.

    A class or function may stand for its name, and the other way round; its spaces are compared later.
    """
    return name == saved or (not isinstance(env, str) and name == saved.rpartition(":")[2])


def check_code(run_dir: Path, saved: SavedRun, env: Any, named: Mapping[str, Any], trust_code: bool) -> None:
    """Raise UsageError where the run needs code that its files do not name, or name what they are not trusted with."""
    asked_for = set(named) | ({"env"} if env is not None else set())
    if not saved.env_by_name and "env" not in asked_for:
        raise UsageError(
            f"{run_dir} was begun with an environment that has no importable name, or with env_kwargs that JSON does "
            "not hold: go on from Python, with a3c.train(env, run_dir=..., resume=True) and the settings of before"
        )
    if not saved.env_by_name and saved.config.env_kwargs and "env_kwargs" not in asked_for:
        raise UsageError(f"{run_dir} was begun with env_kwargs that may not be what JSON made of them: pass them again")
    code = {"wrappers": [str(each) for each in saved.config.wrappers], "model": [str(saved.config.model or "")]}
    for name, names in code.items():
        if name not in asked_for and any(map(is_nameless, names)):
            raise UsageError(f"{run_dir} was begun with {name} that have no importable name: pass {name} again")
    named_code = {"env": [saved.env], **code, "import_": [f"{module}:" for module in saved.config.import_]}
    if not trust_code:
        wrappers = [] if "wrappers" in asked_for else named_code.pop("wrappers")
        code_of_files = [value for name in set(named_code) - asked_for for value in named_code[name]]
        unasked = {"env_kwargs", "ray_address", "ray_runtime_env"} - asked_for
        if named.get("runtime", saved.config.runtime) != "ray":
            unasked &= {"env_kwargs"}
        values = {"env_kwargs": {}} | {name: getattr(saved.config, name) for name in unasked}
        refuse_unasked(run_dir, code_of_files, wrappers=wrappers, **values)


class RunIsDone(UsageError):
    """A run has reached what it was to reach."""


class Resumed(NamedTuple):
    """A run that has been taken up.

    Attributes:
        env_steps: T.
        incarnation: of the workers' first lives from now on; their random streams go by it.
        sizes: of the files that grow, in bytes, at the checkpoint.
        is_cut: whether it was killed, or goes on from before its end: not all that was logged counts.
        counted: which episodes the checkpoint counts; None if it is of a version that did not know.
        evaluation: the state of the periodic one.
        messages: what the user is to know.
        before: what config.json held.
    """

    env_steps: int
    incarnation: int
    sizes: Mapping[str, int]
    is_cut: bool
    counted: Counted | None
    evaluation: dict[str, Any] | None
    messages: list[str]
    before: Mapping[str, Any]

    def say_what_is_new(self, now: Mapping[str, Any]) -> None:
        """Add a message where versions are not those of before; `now` is what config.json would hold of a new run."""
        before, after = self.before.get("versions", {}), now["versions"]
        names = [name for name in after if name in before and after[name] != before[name]]
        if names:
            changes = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in names)
            self.messages.append(f"other versions than before: {changes}")

    def record(self, now: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json is to hold: as it began, with the settings of today and a list of the resumptions."""
        resumption = {
            "env_steps": self.env_steps,
            "incarnation": self.incarnation,
            "changes": {name: list(values) for name, values in changes.items()},
            **{name: now[name] for name in ("versions", "machine", "command", "time")},
        }
        return {
            **now,  # of what the run had not, if it was begun by an older version
            **self.before,
            "settings": {**now["settings"], "env": self.before["settings"]["env"]},
            "resumed": [*self.before.get("resumed", []), resumption],
        }


def find_newest(run_dir: Path, spec: PolicySpec) -> tuple[Checkpoint, list[str]]:
    """The run's newest whole checkpoint, and what the user is to know of those that are damaged.

    Raises:
        RunDirectoryError: there is no such checkpoint, or it is damaged.
        UsageError: its policy is not `spec`, the one that the settings and the environment make.
    """
    from a3c.experiment import checkpoint  # noqa: PLC0415  (imports torch)

    messages = list[str]()
    found = checkpoint.read_checkpoint(checkpoint.newest_whole_checkpoint(run_dir, messages.append), spec.model)
    if not found.spec.stands_for(spec):
        raise UsageError(
            f"{run_dir} was begun with other spaces, or another network: take it up with the environment that it was "
            "begun with"
        )
    return found, messages


def take_up(
    run_dir: Path,
    config: TrainConfig,
    found: Checkpoint,
    messages: list[str],
    store: ParameterStore,
    progress: Progress,
    rule_before: UpdateRule,
    rule: UpdateRule,
) -> Resumed:
    """Bring a fresh store and progress to where a checkpoint of the run has them; `messages` go before those of here.

    `rule_before` is how gradients were applied until then, `rule` how they will be: where the learning rate is another
    because the budget is, a message says so.

    Raises:
        RunDirectoryError: the checkpoint, or config.json, is damaged.
        RunIsDone: nothing is left to do.
    """
    from a3c.stores.state import uncounted_episodes  # noqa: PLC0415  (imports torch)

    before, is_copy = _read_record(run_dir)
    try:
        store.load_state_dict(found.state)
        counters = store.counters()
        progress.restore(found.progress, counters.env_steps)
        sizes = {str(name): int(size) for name, size in found.progress["sizes"].items()}
        if min(sizes.values(), default=0) < 0:
            raise ValueError("a log had less than no byte")
        counted = None
        if "worker_episodes" in found.state:  # the store has looked at them
            counted = Counted(found.state["worker_episodes"], uncounted_episodes(found.state))
        evaluation = found.progress["evaluation"]
        evaluation = None if evaluation is None else {**evaluation, "kept_at": int(evaluation["kept_at"])}
    except (StoreError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RunDirectoryError(f"{found.path} is damaged: {error}") from None
    if (run_dir / SUMMARY).exists():  # else it was killed when all was done but that
        _refuse_what_is_done(run_dir, config, store, progress)
    used = counters.env_steps, counters.episodes
    rates = [each.schedule(each.budget.used(*used)) for each in (rule_before, rule)]
    if rates[0] != rates[1]:
        messages.append(f"the learning rate goes from {rates[0]:.3g} to {rates[1]:.3g}: it follows the budget")
    messages.append(f"taken up at {counters.env_steps:,} steps, from {found.path.name}; workers begin fresh episodes")
    # Not from the checkpoint: a run may have been taken up, or workers been started anew, since it was written.
    resumptions = before.get("resumed", [])
    known = [each.get("incarnation") for each in resumptions if isinstance(each, Mapping)]
    latest = max((each for each in known if isinstance(each, int) and 0 < each < _LIVES**3), default=0)
    incarnation = max(_LIVES * (len(resumptions) + 1), latest + _LIVES)
    if is_copy:  # which may not know of all times that it was
        incarnation += _LIVES * (1 + secrets.randbelow(_LIVES))
    is_cut = (
        not (run_dir / SUMMARY).exists()
        or run_directory.sizes(run_dir).get(METRICS) != sizes.get(METRICS)
        or (run_dir / TENSORBOARD / ASIDE).exists()  # it was not told all when the run was taken up before
    )
    return Resumed(counters.env_steps, incarnation, sizes, is_cut, counted, evaluation, messages, before)


def bring_back_logs(run_dir: Path, resumed: Resumed, progress: Progress) -> bool:
    """Bring a run's logs, and what `progress` has counted of them, to the checkpoint.

    Adds messages of what is wrong. Returns whether TensorBoard is to be told all anew: where its files may hold what
    does not count, or lack what does, while the logs are whole.

    Raises RunDirectoryError if a log is damaged, or the directory cannot be written.
    """
    file, sizes, wrong, removed, rows = run_dir / EPISODES, dict(resumed.sizes), list[str](), Removed(0, 0), None
    logs_are_there = {METRICS, EPISODES} <= run_directory.sizes(run_dir).keys()
    try:
        if resumed.counted is not None and columns_of(file) == COLUMNS:
            removed, rows = keep_counted(file, resumed.counted), read_rows(file)
            sizes[EPISODES] = file.stat().st_size
        if removed.others:
            wrong.append(f"{removed.others} lines of {EPISODES} were no rows, and are removed")
        if progress.settle(resumed.counted or Counted(()), rows):
            wrong.append(run_directory.lines_are_missing(EPISODES))
    except OSError as error:
        raise RunDirectoryError(run_directory.why_not_saved(run_dir, error)) from None
    wrong += run_directory.take_up(run_dir, sizes)
    resumed.messages.extend(wrong)
    return (resumed.is_cut or removed.rows > 0) and logs_are_there and not wrong


def _read_record(run_dir: Path) -> tuple[dict[str, Any], bool]:
    """What config.json holds, and whether it is a copy's word.

    Raises RunDirectoryError where what is read of it here is of a wrong kind.
    """
    record, damage = read_config(run_dir)
    kinds = {"settings": dict, "versions": dict, "resumed": list, "id": str}
    for name, kind in kinds.items():
        if name in record and not isinstance(record[name], kind):
            raise RunDirectoryError(f"{run_dir / CONFIG} is damaged: its {name!r} is no {_JSON_NAMES[kind]}")
    return record, damage is not None


def _refuse_what_is_done(run_dir: Path, config: TrainConfig, store: ParameterStore, progress: Progress) -> None:
    counters = store.counters()
    for name, reached in (
        ("total_env_steps", counters.env_steps),
        ("total_episodes", counters.episodes),
        ("max_seconds", progress.seconds),
        ("stop_at_return", progress.best_return_mean_100),
    ):
        limit = getattr(config, name)
        if limit is not None and reached is not None and reached >= limit:
            raise RunIsDone(
                f"{run_dir} is done: {flag(name)} is {limit:,.10g}, and it has come to {reached:,.10g} in all; name a "
                "larger one to go on"
            )


def what_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """The changes in words, for the line that says how a run goes on."""
    return ", ".join(f"{flag(name)} {before} -> {after}" for name, (before, after) in changes.items())
