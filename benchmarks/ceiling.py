"""How near training comes to what the environment and the network alone would take, and where each microsecond goes.

    python benchmarks/ceiling.py                            # all cases, 5 measurements of each in turn
    python benchmarks/ceiling.py --runs 1 --only HalfCheetah-v5

Each measurement is `a3c profile ENV --json`: W workers at once train for some seconds, then as long under a stopwatch,
then step bare environments, then call the network alone. In Box2D's and MuJoCo's environments, where a step's time
depends on how one plays, a trained policy plays, and stays as it is; it is trained first, for a million steps, if
runs/ceiling/ENV is not there. Results go to benchmarks/results/ceiling.md and .json; those of --only some or of fewer
than 5 runs are only printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cartpole import commit

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs") / "ceiling"
PYTHON = [sys.executable, "-W", "ignore", "-m", "a3c"]


class Case(NamedTuple):
    """A row of the table."""

    name: str
    env: str
    flags: tuple[str, ...] = ()
    trained: bool = False  # a trained policy plays


CASES = [
    Case("CartPole-v1", "CartPole-v1"),
    Case("CartPole-v1, 256 environments", "CartPole-v1", ("--envs-per-worker", "256")),
    Case(
        "CartPole-v1, the paper's form",
        "CartPole-v1",
        ("--envs-per-worker", "1", "--rollout-length", "5", "--no-separate-torsos"),
    ),
    Case("LunarLander-v3", "LunarLander-v3", trained=True),
    Case(
        "LunarLander-v3, 64 environments",
        "LunarLander-v3",
        ("--envs-per-worker", "64", "--rollout-length", "16"),
        trained=True,
    ),
    Case("HalfCheetah-v5", "HalfCheetah-v5", trained=True),
    Case("HalfCheetah-v5, 32 environments", "HalfCheetah-v5", ("--envs-per-worker", "32"), trained=True),
    Case("BipedalWalker-v3", "BipedalWalker-v3", trained=True),
    Case("MinAtar/Breakout-v1", "MinAtar/Breakout-v1"),
    Case("Pong", "ALE/Pong-v5"),
]


def trained_run(env: str) -> Path:
    """The directory of a run with a trained policy; it is trained if it is not there."""
    run_dir = RUNS / env
    summary = run_dir / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["exit_reason"] != "total_env_steps":
        train = ["train", env, "--total-env-steps", "1e6", "--run-dir", str(run_dir), "--quiet", "--overwrite"]
        subprocess.run([*PYTHON, *train], check=True)
    return run_dir


def measured(case: Case, seconds: float) -> dict[str, Any]:
    """One measurement."""
    flags = list(case.flags)
    if case.trained:
        flags += ["--run", str(trained_run(case.env))]
    command = [*PYTHON, "profile", case.env, "--seconds", str(seconds), "--json", *flags]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"name": case.name, "command": " ".join(["a3c", *command[5:]]), **json.loads(output.splitlines()[-1])}


def spread(numbers: list[float], form: str = ",.0f") -> str:
    """Median, least and most."""
    median, least, most = statistics.median(numbers), min(numbers), max(numbers)
    return f"{median:{form}} ({least:{form}} to {most:{form}})"


def median(rows: list[dict[str, Any]], key: str) -> float:
    """Of one number of a case's measurements."""
    return float(statistics.median(row[key] for row in rows))


def report(rows: list[dict[str, Any]], runs: int, seconds: float) -> str:
    """The tables."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(row["name"], []).append(row)
    lines = [
        "# Training beside its ceiling",
        "",
        f"`python benchmarks/ceiling.py --runs {runs} --seconds {seconds:g}`, commit {commit()}, medians of {runs} "
        f"measurements with their spread; {platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}. The ceiling is the steps/s of as many workers that "
        "step bare environments and call the network, acting and learning, and do nothing else; training can spare a "
        "part of the latter, the policy's pass where acting has kept it, so this is a reference, no bound. A bare "
        "environment is what `gymnasium.make` gives, its own wrappers included, or a native vector; it is stepped with "
        "a policy's actions.",
        "",
        "| case | W x B, T | steps/s | of the ceiling | of the environments alone | ceiling | environments alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, some in cases.items():
        rates = [row["steps_per_second"] for row in some]
        ceiling = [row["steps_per_second"] / row["ceiling"] for row in some]
        alone = [row["steps_per_second"] / row["environment_only"] for row in some]
        lines.append(
            f"| {name} | {some[0]['workers']} x {some[0]['envs_per_worker']}, {some[0]['rollout_length']} "
            f"| {spread(rates)} | {spread(ceiling, '.0%')} | {spread(alone, '.0%')} "
            f"| {median(some, 'ceiling'):,.0f} | {median(some, 'environment_only'):,.0f} |"
        )
    stages = list(rows[0]["stage_us"])
    lines += [
        "",
        "Microseconds of a worker's environment step, under a stopwatch, medians:",
        "",
        f"| case | {' | '.join(stages)} | all |",
    ]
    lines.append("|---" * (len(stages) + 2) + "|")
    for name, some in cases.items():
        parts = [statistics.median(row["stage_us"][stage] for row in some) for stage in stages]
        lines.append(f"| {name} | {' | '.join(f'{us:.2f}' for us in parts)} | {sum(parts):.2f} |")
    lines += ["", "Alone, microseconds, medians:", ""]
    lines += ["| case | a bare environment's step | acting on B | learning from (T+1) x B |", "|---|---|---|---|"]
    for name, some in cases.items():
        alone_us = [median(some, f"{what}_us") for what in ("environment", "forward", "backward")]
        lines.append(f"| {name} | {alone_us[0]:.2f} | {alone_us[1]:.1f} | {alone_us[2]:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the five parts of a measurement")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only is None or case.name in arguments.only]
    rows = []
    for _ in range(arguments.runs):
        for case in cases:
            rows.append(measured(case, arguments.seconds))
            print(f"{case.name}: {rows[-1]['steps_per_second']:,.0f} steps/s", flush=True)
    text = report(rows, arguments.runs, arguments.seconds)
    if arguments.only is None and arguments.runs >= 5:  # less would take the place of the whole record
        (RESULTS / "ceiling.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "ceiling.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
