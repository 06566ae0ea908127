"""How training scales with the number of workers, and what the store alone can take.

    python benchmarks/scaling.py                                # 1, 2, 4, 8 and 16 workers
    python benchmarks/scaling.py --workers 1 2 --runs 5
    python benchmarks/scaling.py --part store
    python benchmarks/scaling.py --devices cpu cuda --runs 1    # Pong with two networks, where there is a GPU

Training: `a3c profile ENV --workers W --json` gives the steps/s of training and of as many workers' bare environments,
in turn; efficiency is the share of W times one worker's. Time to a score: `a3c train CartPole-v1 --stop-at-return 475`,
from start to exit, less what a run of no steps takes, each number of workers once with one seed, then with the next.
The store alone: W processes pull and push as fast as they can for some seconds. Its rule adds 1 to every parameter in
the passes that RMSProp makes, so that what two writers at once have lost is seen there: the share of all additions that
is missing in θ and in the statistic g, and the share of updates that must be torn at least, for some parameters to have
had more additions than others. Results go to benchmarks/results/scaling.md and .json, of --devices to devices.md and
.json; those of a --part alone are only printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.runtimes.processes import ProcessRuntime
from a3c.stores.shared import SharedStore
from a3c.types import Counts, Life, Report, StoreHandle, Update
from adding import Adding
from cartpole import commit, timed

RESULTS = Path(__file__).parent / "results"
PYTHON = [sys.executable, "-W", "ignore", "-m", "a3c"]
CASES = {
    "CartPole-v1": ["CartPole-v1"],
    "LunarLander-v3": ["LunarLander-v3"],
    "ALE/Pong-v5": ["ALE/Pong-v5"],
}
ON_DEVICES = {
    "ALE/Pong-v5, the A3C network": ["ALE/Pong-v5"],
    "ALE/Pong-v5, the residual network": ["ALE/Pong-v5", "--torso", "impala"],
}
PAPER = (
    "The paper's A3C (Mnih et al. 2016, table 2) came to its scores 12.5 times sooner with 16 threads, on Atari games."
)
SIZES = (5_000, 700_000, 5_000_000)
PUSHES_AT_ONCE = 10
STORE_S = 3.0


@dataclass(frozen=True)
class Pushing:
    """A worker that pulls and pushes, for some seconds or so often, and does nothing else."""

    size: int
    workers: int  # that begin together
    seconds: float = math.inf
    pushes: float = math.inf

    def __call__(self, worker: int, store: StoreHandle, life: Life) -> Iterator[Update]:
        """Each update is of some pushes; its losses are their staleness, added up."""
        own, gradient = torch.empty(self.size), torch.ones(self.size)
        store.push(None, Counts(0, 1), 0)  # here; an episode stands for a worker
        while store.pull(own).episodes < self.workers:
            time.sleep(0.001)
        ends, done = time.perf_counter() + self.seconds, 0
        while time.perf_counter() < ends and done < self.pushes:
            stale = 0
            done += PUSHES_AT_ONCE
            for _ in range(PUSHES_AT_ONCE):
                snapshot = store.pull(own)
                receipt = store.push(gradient, Counts(1, 0), snapshot.version)
                stale += receipt.staleness
            yield Update({"stale": float(stale)}, PUSHES_AT_ONCE, 0, (), None)


def store_alone(pushing: Pushing, locking: Literal["hogwild", "locked"]) -> dict[str, Any]:
    """How many pushes there were, how stale they were, and what share of the additions was lost and of updates torn."""
    runtime = ProcessRuntime(preload=["a3c.stores.shared"])
    rule = UpdateRule(Adding(), constant(1.0), Budget(None, None))
    with contextlib.closing(runtime):
        store = SharedStore(torch.zeros(pushing.size), rule, pushing.workers, locking, runtime.context)
        total = Report()
        for report in runtime.run(pushing, store, pushing.workers):
            total.merge(report)
        pushes = store.counters().version
        added, sums = store.parameters.double(), store.statistics[0].double()
    return {
        "workers": pushing.workers,
        "size": pushing.size,
        "store": locking,
        "pushes": pushes,
        "staleness_mean": total.sums["stale"] / pushes,
        "lost": 1 - float(added.mean()) / pushes,
        "torn": float(added.max() - added.min()) / pushes,
        "lost_statistic": 1 - float(sums.mean()) / pushes,
    }


def profiled(case: str, arguments: list[str], device: str, workers: int, seconds: float) -> dict[str, Any]:
    """Training and bare environments with so many workers."""
    command = [*PYTHON, "profile", *arguments, "--device", device, "--workers", str(workers)]
    command += ["--seconds", str(seconds), "--json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"case": case, "device": device, **json.loads(output.splitlines()[-1])}


def time_to_score(workers: int, seed: int) -> dict[str, float]:
    """Seconds of a whole run until it is solved, less those of a run that stops at its first update."""
    with tempfile.TemporaryDirectory() as folder:
        train = [*PYTHON, "train", "CartPole-v1", "--workers", str(workers), "--seed", str(seed), "--quiet"]
        empty = timed([*train, "--total-env-steps", "1", "--run-dir", f"{folder}/empty"])
        whole = timed([*train, "--stop-at-return", "475", "--run-dir", f"{folder}/whole"])
        summary = json.loads(Path(folder, "whole", "summary.json").read_text())
    return {"seconds": whole - empty, "env_steps": summary["env_steps"], "solved": summary["solved_at"] is not None}


def training_table(rows: list[dict[str, Any]]) -> list[str]:
    """Steps/s and efficiency, beside those of the environments alone."""
    lines = ["| environment | device | workers | steps/s | efficiency | environments alone | efficiency | of theirs |"]
    lines.append("|---" * 8 + "|")
    for case, device in dict.fromkeys((row["case"], row["device"]) for row in rows):
        one: tuple[float, float] | None = None
        own = [row for row in rows if (row["case"], row["device"]) == (case, device)]
        for workers in sorted({row["workers"] for row in own}):
            some = [row for row in own if row["workers"] == workers]
            rates = [row["steps_per_second"] for row in some]
            rate, alone = statistics.median(rates), statistics.median(row["environment_only"] for row in some)
            one = one or (rate / workers, alone / workers)
            efficiencies = rate / workers / one[0], alone / workers / one[1]
            lines.append(
                f"| {case} | {device} | {workers} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) "
                f"| {efficiencies[0]:.0%} | {alone:,.0f} | {efficiencies[1]:.0%} "
                f"| {efficiencies[0] / efficiencies[1]:.0%} |"
            )
    return lines


def score_table(rows: dict[int, list[dict[str, float]]]) -> list[str]:
    """Seconds to the score, and how much sooner than one worker."""
    lines = ["| workers | solved | seconds, median (spread) | sooner than one worker | steps, median |"]
    lines.append("|---|---|---|---|---|")
    first: float | None = None
    for workers, some in rows.items():
        seconds = [row["seconds"] for row in some]
        median = statistics.median(seconds)
        first = first or median
        lines.append(
            f"| {workers} | {sum(row['solved'] for row in some):.0f} of {len(some)} "
            f"| {median:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {first / median:.1f} "
            f"| {statistics.median(row['env_steps'] for row in some):,.0f} |"
        )
    return lines


def store_table(rows: list[dict[str, Any]]) -> list[str]:
    """Medians of what the store takes."""
    lines = [
        "| parameters | store | workers | pushes/s (spread) | staleness, mean | lost | torn, at least | lost of g |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["size"], row["store"], row["workers"]) for row in rows):
        some = [row for row in rows if (row["size"], row["store"], row["workers"]) == key]
        rates = [row["pushes"] / STORE_S for row in some]
        stale = statistics.median(row["staleness_mean"] for row in some)
        shares = [statistics.median(row[name] for row in some) for name in ("lost", "torn", "lost_statistic")]
        lines.append(
            f"| {key[0]:,} | {key[1]} | {key[2]} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to "
            f"{max(rates):,.0f}) | {stale:.2f} | {' | '.join(f'{share:.2%}' for share in shares)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part of a profile")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--part", choices=["training", "score", "store"], nargs="+")
    what.add_argument(
        "--devices", choices=["cpu", "cuda"], nargs="+", help="measure nothing but Pong, on these devices"
    )
    arguments = parser.parse_args()
    if arguments.workers[0] != 1:
        parser.error("efficiency is beside one worker: begin --workers with 1")
    parts = ["training"] if arguments.devices else arguments.part or ["training", "score", "store"]
    sections, data = [], {}
    if "training" in parts:
        cases = ON_DEVICES if arguments.devices else CASES
        rows = []
        for _, case, device, workers in itertools.product(
            range(arguments.runs), cases, arguments.devices or ["cpu"], arguments.workers
        ):
            rows.append(profiled(case, cases[case], device, workers, arguments.seconds))
            rate = rows[-1]["steps_per_second"]
            print(f"{case}, {device}, {workers} workers: {rate:,.0f} steps/s", file=sys.stderr, flush=True)
        data["training"] = rows
        sections += ["## Steps a second", "", *training_table(rows), ""]
    if "score" in parts:
        scores: dict[int, list[dict[str, float]]] = {workers: [] for workers in arguments.workers}
        for seed, workers in itertools.product(range(arguments.runs), arguments.workers):
            scores[workers].append(time_to_score(workers, seed))
        data["score"] = scores
        sections += ["## CartPole-v1, time to a mean return of 475, start-up apart", "", *score_table(scores), ""]
        sections += [PAPER, ""]
    if "store" in parts:
        stores = [
            store_alone(Pushing(size, workers, seconds=STORE_S), locking)
            for _ in range(arguments.runs)
            for size in SIZES
            for locking in ("hogwild", "locked")
            for workers in arguments.workers
        ]
        data["store"] = stores
        sections += ["## The store alone", "", *store_table(stores), ""]
    title = [
        "# Scaling",
        "",
        f"`python benchmarks/scaling.py {' '.join(sys.argv[1:])}`, commit {commit()}, medians of {arguments.runs} "
        f"runs; {platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}.",
        "",
    ]
    if arguments.part is None:  # a part alone would take the others' place
        name = "devices" if arguments.devices else "scaling"
        (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text("\n".join([*title, *sections]))
    print("\n".join([*title, *sections]))


if __name__ == "__main__":
    main()
