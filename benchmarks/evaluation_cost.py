"""What periodic evaluation costs: steps a second of training with it and without it.

    python benchmarks/evaluation_cost.py                     # both environments, 5 runs each way
    python benchmarks/evaluation_cost.py --runs 1 --only CartPole-v1

Each run is `a3c train ENV --total-env-steps N` in a process of its own, once without and once with
`--evaluate-every M --evaluate-episodes 20`, in turn and with the same seed, so that whatever else the machine does
falls on both. Steps a second are the run's own, from summary.json; the time is from start to exit and so has the wait
for the last evaluation in it. Results go to benchmarks/results/evaluation-cost.md and .json; those of --only one
environment, or of fewer than 5 runs, are only printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cartpole import commit

RESULTS = Path(__file__).parent / "results"


class Case(NamedTuple):
    """One environment's length of a run, and steps between evaluations."""

    env: str
    total_env_steps: int
    evaluate_every: int


CASES = (Case("CartPole-v1", 2_000_000, 100_000), Case("LunarLander-v3", 400_000, 40_000))


def run_once(case: Case, seed: int, evaluated: bool, directory: Path) -> dict[str, Any]:
    """Train once."""
    run_dir = directory / f"{case.env}-{seed}-{evaluated}"
    command = [sys.executable, "-m", "a3c", "train", case.env, "--quiet", "--seed", str(seed)]
    command += ["--total-env-steps", str(case.total_env_steps), "--run-dir", str(run_dir)]
    if evaluated:
        command += ["--evaluate-every", str(case.evaluate_every), "--evaluate-episodes", "20"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    summary = json.loads((run_dir / "summary.json").read_text())
    evaluations = 0
    if (run_dir / "evaluations.csv").exists():
        with open(run_dir / "evaluations.csv", newline="") as file:
            evaluations = sum(1 for _ in csv.DictReader(file))
    return {
        "env": case.env,
        "seed": seed,
        "evaluated": evaluated,
        "steps_per_second": summary["steps_per_second"],
        "seconds": round(seconds, 2),
        "evaluations": evaluations,
    }


def measure(case: Case, runs: int) -> list[dict[str, Any]]:
    """The runs of one environment: without and with evaluation, each pair the other way round than the one before."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(runs):
            for evaluated in (False, True) if seed % 2 == 0 else (True, False):
                rows.append(run_once(case, seed, evaluated, Path(directory)))
                print(rows[-1], flush=True)
    return rows


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median (least to greatest)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        f"`python {' '.join(['benchmarks/evaluation_cost.py', *sys.argv[1:]])}`, commit {commit()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "",
        "Median (least to greatest). The cost is the median of what each seed's pair of runs loses.",
        "",
        "| environment | evaluation | runs | steps/s | start to exit, s | evaluations, of multiples crossed | cost |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        without, with_ = (
            sorted((r for r in rows if r["env"] == case.env and r["evaluated"] is evaluated), key=lambda r: r["seed"])
            for evaluated in (False, True)
        )
        lost = [1 - b["steps_per_second"] / a["steps_per_second"] for a, b in zip(without, with_, strict=True)]
        for name, group in (("none", without), (f"20 episodes every {case.evaluate_every:,} steps", with_)):
            made = (
                f"{spread([r['evaluations'] for r in group])} of {case.total_env_steps // case.evaluate_every}"
                if group is with_
                else "-"
            )
            cost = spread([100 * share for share in lost], 1) + " %" if group is with_ else "-"
            lines.append(
                f"| {case.env} | {name} | {len(group)} | {spread([r['steps_per_second'] for r in group])} | "
                f"{spread([r['seconds'] for r in group], 1)} | {made} | {cost} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", help="one environment")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in (None, case.env)]
    rows = [row for case in cases for row in measure(case, arguments.runs)]
    text = table(cases, rows)
    print(text)
    if arguments.only is not None or arguments.runs < 5:  # less would take the place of the whole record
        return
    (RESULTS / "evaluation-cost.md").write_text(text, encoding="utf-8")
    (RESULTS / "evaluation-cost.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
