"""The command line: `a3c train | resume | evaluate | record | compare | profile | doctor`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import tyro

from a3c import __version__
from a3c.config import JSON_OBJECT, RuntimeName, StoreName, TrainConfig, flag, setting_names
from a3c.errors import A3CError, UsageError

_FAILED, _WRONG_USAGE, _INTERRUPTED = 1, 2, 130
_HERE = Path(__file__).parent
_RARELY = 1000  # collections of garbage to one that goes through all of PyTorch's objects, for a tenth of a second


@dataclass(frozen=True)
class Train:
    """Train an agent. What you do not name comes from the environment's preset, else from the defaults below."""

    env: tyro.conf.Positional[str]
    """Environment: an id that Gymnasium knows, MODULE:ID, package.module:Class, or envpool:TASK."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Resume:
    """Take a run up where its newest checkpoint has it. What you name changes; all else is as it was, not as below."""

    run_dir: tyro.conf.Positional[Path]
    """The run's directory."""
    total_env_steps: int | None = None
    """Budget in environment steps, those of before included; a linear learning rate follows it."""
    total_episodes: int | None = None
    """Budget in finished episodes, those of before included."""
    max_seconds: float | None = None
    """Budget in seconds, those of before included."""
    stop_at_return: float | None = None
    """Stop once the mean return of the last 100 episodes reaches this."""
    workers: int = 2
    """Actor-learners; more of them make gradients staler, and the learning rate stays."""
    device: str = "cpu"
    """Device of the workers' local networks: cpu, cuda, cuda:1 or auto."""
    runtime: RuntimeName = "processes"
    """As in train; so are the following."""
    store: StoreName = "auto"
    """Where the shared parameters live."""
    on_worker_failure: Literal["stop", "restart"] = "stop"
    """What becomes of the run where a worker fails."""
    max_restarts_per_hour: int = 20
    """Restarts of all workers together."""
    worker_timeout_s: float = 600.0
    """When a worker counts as hanging."""
    start_method: Literal["forkserver", "spawn"] | None = None
    """How worker processes start."""
    ray_address: str | None = None
    """Ray: HOST:PORT of the cluster."""
    worker_cpus: float = 1.0
    """Ray: processors that each worker takes."""
    worker_gpus: float = 0.0
    """Ray: GPUs that each worker takes."""
    updates_in_flight: Literal[0, 1] = 1
    """Ray, a3c: updates that a worker does not wait for."""
    ray_runtime_env: Annotated[dict[str, Any], JSON_OBJECT] = field(default_factory=dict)
    """Ray: runtime environment of the workers, as JSON."""
    ray_wait_s: float = 0.0
    """Ray: seconds to wait for nodes that are still to come."""
    evaluate_every: int | None = None
    """Evaluate whenever so many environment steps have gone by."""
    evaluate_episodes: int = 20
    """Episodes of each such evaluation."""
    checkpoint_every_s: float | None = 60.0
    """Seconds from one checkpoint to the next."""
    keep: int = 3
    """How many of the newest checkpoints to keep, besides the best."""
    label: str | None = None
    """Name of the group that `a3c compare` puts this run into."""
    quiet: bool = False
    """Show nothing while it runs."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    wandb: bool = False
    """Log to Weights & Biases."""
    wandb_project: str = "a3c"
    """Weights & Biases project."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """Weights & Biases mode."""
    model: str | None = None
    """For a run with a network of your own: package.module:factory."""
    trust_code: bool = False
    """Use what the run's files name: code of an environment, wrappers or a network, modules, paths, a Ray cluster."""


@dataclass(frozen=True)
class Play:
    """How and where a trained agent plays."""

    seed: int = 0
    """Seed of the environments; apart from any training seed."""
    sampled: bool = False
    """Sample actions instead of taking the most probable one."""
    env: str | None = None
    """Where to play instead of the run's own environment, within its wrappers and Atari preprocessing."""
    env_kwargs: Annotated[dict[str, Any], JSON_OBJECT] = field(default_factory=dict)
    """Keyword arguments for making the environment, as JSON: besides the run's own, or in place of them."""
    max_steps_per_episode: int = 108_000
    """Cut an episode that has not ended by then, so that no policy plays for ever."""
    model: str | None = None
    """For a policy with a network of your own: package.module:factory."""
    checkpoint: str = "latest"
    """Which of the run's checkpoints: latest, best (mean return of 100 episodes), best-evaluation or its name."""
    trust_code: bool = False
    """Use what the run's files name: code of an environment, wrappers or a network, modules, paths."""

    def arguments(self) -> dict[str, Any]:
        """As `a3c.evaluate` and `a3c.record` take them."""
        values = dict(self.__dict__)
        return values | {"greedy": not values.pop("sampled")}


@dataclass(frozen=True)
class Evaluate:
    """Play a trained agent and print its mean return with a 95% bootstrap interval."""

    run_dir: tyro.conf.Positional[Path]
    """The run's directory."""
    episodes: int = 20
    """How many episodes to play."""
    environments: int = 64
    """How many environments to play them in at once, at the most."""
    json: bool = False
    """Print one JSON object."""
    play: Annotated[Play, tyro.conf.arg(name="")] = field(default_factory=Play)


@dataclass(frozen=True)
class Record:
    """Film a trained agent at play."""

    run_dir: tyro.conf.Positional[Path]
    """The run's directory."""
    out: Path
    """The film to write: .mp4 or .gif."""
    episodes: int = 1
    """How many episodes to film, one after another."""
    fps: float | None = None
    """Frames a second; by default the environment's own rate."""
    play: Annotated[Play, tyro.conf.arg(name="")] = field(default_factory=Play)


@dataclass(frozen=True)
class Compare:
    """Draw runs side by side: return against episodes, steps and seconds, and the time to solve."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """The runs' directories; those of one label, or of one environment and algorithm, make a group."""
    out: Path
    """The picture to write: .png, .pdf or .svg."""


@dataclass(frozen=True)
class Profile:
    """Measure where the time of training goes, and how near it comes to what this machine can do."""

    env: tyro.conf.Positional[str]
    """Environment, as in train; so are all other settings."""
    seconds: float = 5.0
    """Of each of the five measurements, and as long again for drawing the actions that environments take."""
    run: Path | None = None
    """Directory of a run whose policy plays, and stays as it is: a step's time can depend on how one plays."""
    json: bool = False
    """Print one JSON object."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Doctor:
    """Look at this machine, and say what works and what to do where something does not."""

    run_dir: Path = Path("runs")
    """Where runs are to go."""
    json: bool = False
    """Print one JSON object."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[Resume, tyro.conf.subcommand("resume", prefix_name=False)]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate", prefix_name=False)]
    | Annotated[Record, tyro.conf.subcommand("record", prefix_name=False)]
    | Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[Profile, tyro.conf.subcommand("profile", prefix_name=False)]
    | Annotated[Doctor, tyro.conf.subcommand("doctor", prefix_name=False)]
)


_OTHER_NAMES = {
    "--lr": "--learning-rate",
    "--gamma": "--discount",
    "--gae-lambda": "--lambda",
    "--ent-coef": "--entropy-coef",
    "--vf-coef": "--value-coef",
    "--n-steps": "--rollout-length",
    "--num-envs": "--envs-per-worker",
    "--n-envs": "--envs-per-worker",
    "--max-grad-norm": "--max-gradient-norm",
    "--total-timesteps": "--total-env-steps",
}
"""What other libraries call some flags; too far from ours to be recognised as slips of the pen."""

_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _whole_numbers(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    """Whole numbers may be written 1e6, too."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def _whole_number(text: str) -> int:
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        if (number := float(text)).is_integer():
            return int(number)
    raise ValueError(f"{text!r} is no whole number, such as 1_000_000 or 1e6")


_shown_otherwise = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """This library's own in one line, as its errors are; others as ever."""
    if category is UserWarning and Path(filename).is_relative_to(_HERE):
        print(f"a3c: {message}", file=sys.stderr)
    else:
        _shown_otherwise(message, category, filename, lineno, file, line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a worker failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    warnings.showwarning = _show_warning
    if arguments == ["--version"]:
        print(f"a3c {__version__}")
        return
    for given in (argument.partition("=")[0] for argument in arguments):
        if given in _OTHER_NAMES:
            _exit(f"a3c: there is no {given}: did you mean {_OTHER_NAMES[given]}?", _WRONG_USAGE)
    with _REGISTRY:
        command: Any = tyro.cli(
            Command,
            prog="a3c",
            description="Asynchronous advantage actor-critic (A3C) in PyTorch, with A2C beside it.",
            args=arguments,
        )
    try:
        match command:
            case Train():
                _train(command, named_settings(arguments))
            case Resume():
                _resume(command, named_settings(arguments))
            case Evaluate():
                _evaluate(command)
            case Record():
                _record(command)
            case Compare():
                _compare(command)
            case Profile():
                _profile(command, named_settings(arguments))
            case Doctor():
                _doctor(command)
    except UsageError as error:
        _exit(f"a3c: {error}", _WRONG_USAGE)
    except A3CError as error:
        _exit(f"a3c: {error}", _FAILED)
    except KeyboardInterrupt:
        _exit("a3c: interrupted", _INTERRUPTED)


def program() -> None:
    """The program `a3c`: `main`, and an end without taking PyTorch's modules apart, which takes a third of a second."""
    code = 0
    gc.set_threshold(*gc.get_threshold()[:2], _RARELY)
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        code = end.code or 0
    except BrokenPipeError:  # nobody reads any more, as with `| head`
        code = _FAILED
    threading._shutdown()  # type: ignore[attr-defined]  # what waits for threads, and tells executors' to end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def named_settings(arguments: Sequence[str]) -> frozenset[str]:
    """The settings that the arguments name, as opposed to those that merely have their default value."""
    names = {}
    for name in setting_names():
        names[flag(name)] = name
        names["--no-" + flag(name)[2:]] = name
    given = (argument.split("=", 1)[0].replace("_", "-") for argument in arguments if argument.startswith("--"))
    return frozenset(names[argument] for argument in given if argument in names)


def _train(command: Train, named: frozenset[str]) -> None:
    from a3c.experiment.launch import train  # noqa: PLC0415  (each command imports only what it needs)

    settings = {name: getattr(command.config, name) for name in named}
    run = train(command.env, started_at=_process_start(), **settings)
    if not command.config.quiet:
        print(_verdict(run.path, run.summary))


def _resume(command: Resume, named: frozenset[str]) -> None:
    from a3c.experiment.launch import resume  # noqa: PLC0415

    settings = {name: getattr(command, name) for name in named}
    run = resume(command.run_dir, started_at=_process_start(), trust_code=command.trust_code, **settings)
    if not command.quiet:
        print(_verdict(run.path, run.summary))


def _verdict(path: Path, summary: Any) -> str:
    from a3c.experiment.told import told, told_return  # noqa: PLC0415

    solved = summary["solved_at"]
    if solved is not None:
        outcome = f"solved after {solved['env_steps']:,} steps, {solved['seconds']:.1f} s"
    elif summary["solved_return"] is not None:
        best, goal = told(summary["best_return_mean_100"]), summary["solved_return"]
        outcome = f"not solved, which would be a mean return of {goal:g} over 100 episodes (best {best})"
    else:
        outcome = f"mean return {told_return(summary.get('return_mean'), summary['episodes'])}"
    if evaluated := summary.get("best_evaluation"):
        outcome += f"; best evaluation {told(evaluated['return_mean'])} at {evaluated['env_steps']:,} steps"
    return f"{outcome}; {summary['exit_reason']} at {summary['env_steps']:,} steps, {summary['seconds']:.1f} s; {path}"


def _evaluate(command: Evaluate) -> None:
    from a3c.experiment.evaluate import evaluate  # noqa: PLC0415
    from a3c.experiment.told import told  # noqa: PLC0415

    result = evaluate(
        command.run_dir, episodes=command.episodes, environments=command.environments, **command.play.arguments()
    )
    if result.cut_episodes:
        print(
            f"a3c: {result.cut_episodes} of {result.episodes} episodes had not ended after "
            f"{command.play.max_steps_per_episode:,} steps (--max-steps-per-episode) and were cut: they count with "
            "what they had",
            file=sys.stderr,
        )
    if command.json:
        print(json.dumps(result.to_json()))
        return
    low, high = result.return_ci95
    how = "greedy" if result.greedy else "sampled"
    print(
        f"mean return {told(result.return_mean)} (95% interval {told(low)} to {told(high)}, std "
        f"{told(result.return_std)}) "
        f"over {result.episodes} {how} episodes of {result.length_mean:.0f} steps on average"
        + (f" ({result.checkpoint})" if result.checkpoint else "")
    )


def _record(command: Record) -> None:
    from a3c.experiment.record import record  # noqa: PLC0415

    for device in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):  # pygame looks for both, and complains, to draw a frame
        os.environ.setdefault(device, "dummy")
    options = command.play.arguments()
    recording = record(command.run_dir, command.out, episodes=command.episodes, fps=command.fps, **options)
    print(recording)


def _compare(command: Compare) -> None:
    from a3c.experiment.compare import compare  # noqa: PLC0415

    print(compare(command.run_dirs, command.out))


def _profile(command: Profile, named: frozenset[str]) -> None:
    from a3c.experiment.profiling import profile, table  # noqa: PLC0415

    settings = {name: getattr(command.config, name) for name in named}
    result = profile(command.env, seconds=command.seconds, run=command.run, **settings)
    print(json.dumps(result.to_json()) if command.json else table(result))


def _doctor(command: Doctor) -> None:
    from a3c.experiment.doctor import doctor  # noqa: PLC0415

    findings = doctor(command.run_dir)
    if command.json:
        print(json.dumps({"findings": [finding._asdict() for finding in findings]}))
    else:
        from rich.console import Console  # noqa: PLC0415
        from rich.markup import escape  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        table = Table("", "looked at", "found", "what to do")
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]no[/]"
            table.add_row(mark, finding.what, escape(finding.said), "" if finding.ok else escape(finding.fix))
        Console().print(table)
    if not all(finding.ok for finding in findings):
        raise SystemExit(_FAILED)


def _exit(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(code)


def _process_start() -> float:
    """When this process began, in seconds since the epoch: to 10 ms on Linux, else when this module was loaded.

    The latter also where the former cannot be: in some containers the kernel's uptime is not its own, and in a
    process that has been there for long the command began later.
    """
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        began = time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))
        return began if 0 <= _LOADED_AT - began < _LONGEST_START_S else _LOADED_AT
    except (OSError, ValueError, IndexError, AttributeError):
        return _LOADED_AT


_LOADED_AT = time.time()
_LONGEST_START_S = 60.0  # an interpreter on a cold, busy machine
