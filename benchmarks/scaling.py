"""How training scales with the number of workers, and what the store alone can take.

    python benchmarks/scaling.py                                # 1, 2, 4, 8 and 16 workers
    python benchmarks/scaling.py --workers 1 2
    python benchmarks/scaling.py --part store
    python benchmarks/scaling.py --devices cpu cuda --runs 1    # Pong with two networks, where there is a GPU

Training: the steps/s of training and of as many workers' bare environments, one after the other, as `a3c profile`
measures them; efficiency is the share of W times one worker's. LunarLander is played by a trained policy (ceiling.py).
Time to a score: `a3c train CartPole-v1 --stop-at-return 475`, from start to exit, less what a run of no steps takes,
each number of workers once with one seed, then with the next. The store alone: W processes pull and push as fast as
they can for some seconds. Its rule adds 1 to every parameter in the passes that RMSProp makes, so that what two writers
at once have lost is seen there: the share of all additions that is missing in θ and in the statistic g, and the share
of updates that must be torn at least, for some parameters to have had more additions than others. Results go to
benchmarks/results/scaling.md and .json, of both --devices to devices.md and .json; those of a --part alone, of other
--workers or, without --devices, of fewer than 5 runs are only printed.
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
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.experiment.profiling import Subject
from a3c.runtimes.processes import ProcessRuntime
from a3c.stores.shared import SharedStore
from a3c.types import ActorLearner, Counts, Life, Report, StoreHandle, Update
from adding import Adding
from cartpole import commit, timed
from ceiling import spread, trained_run

RESULTS = Path(__file__).parent / "results"
PYTHON = [sys.executable, "-W", "ignore", "-m", "a3c"]
CASES: dict[str, dict[str, Any]] = {env: {"env": env} for env in ("CartPole-v1", "LunarLander-v3", "ALE/Pong-v5")}
PLAYED = ("LunarLander-v3",)  # by a trained policy, on which the time of a step depends
ON_DEVICES: dict[str, dict[str, Any]] = {
    "ALE/Pong-v5, the A3C network": {"env": "ALE/Pong-v5"},
    "ALE/Pong-v5, the residual network": {"env": "ALE/Pong-v5", "torso": "impala"},
}
PAPER = (
    "The paper's A3C (Mnih et al. 2016, table 2) came to its scores 12.5 times sooner with 16 threads, on Atari games."
)
SIZES = (5_000, 700_000, 5_000_000)
WORKERS = [1, 2, 4, 8, 16]
PUSHES_AT_ONCE = 10
STORE_S = 3.0


@dataclass(frozen=True)
class Pushing:
    """A worker that pulls and pushes, for some seconds or so often, and does nothing else."""

    size: int
    workers: int  # that begin together
    seconds: float = math.inf
    pushes: float = math.inf

    def __call__(self, worker: int, store: StoreHandle, life: Life) -> ActorLearner:
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
                assert receipt is not None
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


def measured(case: str, settings: dict[str, Any], device: str, workers: int, seconds: float) -> dict[str, Any]:
    """Training and bare environments with so many workers."""
    run = trained_run(case) if case in PLAYED else None
    subject = Subject.of(**settings, run=run, device=device, workers=workers, quiet=True)
    return {
        "case": case,
        "device": device,
        "workers": workers,
        "steps_per_second": subject.steps_per_second(seconds),
        "environment_only": workers * 1e6 / subject.alone_us("environment", seconds),
    }


def time_to_score(workers: int, seed: int) -> dict[str, Any]:
    """Seconds of a run until it is solved, None if it never is, less those of one that ends at its first update."""
    with tempfile.TemporaryDirectory() as folder:
        train = [*PYTHON, "train", "CartPole-v1", "--workers", str(workers), "--seed", str(seed), "--quiet"]
        empty = timed([*train, "--total-env-steps", "1", "--run-dir", f"{folder}/empty"])
        whole = timed([*train, "--stop-at-return", "475", "--run-dir", f"{folder}/whole"])
        summary = json.loads(Path(folder, "whole", "summary.json").read_text())
    solved = summary["solved_at"] is not None
    return {"seconds": whole - empty if solved else None, "env_steps": summary["env_steps"], "solved": solved}


def training_table(rows: list[dict[str, Any]]) -> list[str]:
    """Steps/s and efficiency, beside those of the environments alone; efficiencies round by round."""
    lines = ["| environment | device | workers | steps/s | efficiency | environments alone | efficiency | of theirs |"]
    lines.append("|---" * 8 + "|")
    for case, device in dict.fromkeys((row["case"], row["device"]) for row in rows):
        own = [row for row in rows if (row["case"], row["device"]) == (case, device)]
        by_workers = {w: [row for row in own if row["workers"] == w] for w in sorted({row["workers"] for row in own})}
        for workers, some in by_workers.items():
            rates, alone = ([row[key] for row in some] for key in ("steps_per_second", "environment_only"))
            ones = by_workers[1][: len(some)]
            efficiency, theirs = (
                [row[key] / workers / one[key] for row, one in zip(some, ones, strict=True)]
                for key in ("steps_per_second", "environment_only")
            )
            share = [own / environments for own, environments in zip(efficiency, theirs, strict=True)]
            lines.append(
                f"| {case} | {device} | {workers} | {spread(rates)} | {spread(efficiency, '.0%')} | {spread(alone)} "
                f"| {spread(theirs, '.0%')} | {spread(share, '.0%')} |"
            )
    return lines


def score_table(rows: dict[int, list[dict[str, Any]]]) -> list[str]:
    """Seconds to the score, and how much sooner than one worker with the same seed."""
    lines = ["| workers | solved | seconds | sooner than one worker | steps |"]
    lines.append("|---|---|---|---|---|")
    for workers, some in rows.items():
        seconds, ones = ([row["seconds"] or math.inf for row in runs] for runs in (some, rows[1]))
        sooner = [one / own for one, own in zip(ones, seconds, strict=True) if min(one, own) < math.inf] or [math.nan]
        lines.append(
            f"| {workers} | {sum(row['solved'] for row in some):.0f} of {len(some)} "
            f"| {spread(seconds, '.2f').replace('inf', 'never')} | {spread(sooner, '.1f')} "
            f"| {spread([row['env_steps'] for row in some])} |"
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
            f"| {key[0]:,} | {key[1]} | {key[2]} | {spread(rates)} | {stale:.2f} "
            f"| {' | '.join(f'{share:.2%}' for share in shares)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of training, and of the environments alone")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--part", choices=["training", "score", "store"], nargs="+")
    what.add_argument(
        "--devices", choices=["cpu", "cuda"], nargs="+", help="measure nothing but Pong, on these devices"
    )
    arguments = parser.parse_args()
    if arguments.workers[0] != 1 or len(set(arguments.workers)) < len(arguments.workers):
        parser.error("efficiency is beside one worker: begin --workers with 1, and name each number once")
    parts = ["training"] if arguments.devices else arguments.part or ["training", "score", "store"]
    sections: list[str] = []
    data: dict[str, Any] = {}
    if "training" in parts:
        cases = ON_DEVICES if arguments.devices else CASES
        rows = []
        for _, case, device, workers in itertools.product(
            range(arguments.runs), cases, arguments.devices or ["cpu"], arguments.workers
        ):
            rows.append(measured(case, cases[case], device, workers, arguments.seconds))
            rate = rows[-1]["steps_per_second"]
            print(f"{case}, {device}, {workers} workers: {rate:,.0f} steps/s", file=sys.stderr, flush=True)
        data["training"] = rows
        sections += ["## Steps a second", "", *training_table(rows), ""]
    if "score" in parts:
        scores: dict[int, list[dict[str, Any]]] = {workers: [] for workers in arguments.workers}
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
        f"runs (least to most); {platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}.",
        "",
    ]
    whole = arguments.part is None and arguments.workers == WORKERS
    enough = set(arguments.devices) == {"cpu", "cuda"} if arguments.devices else arguments.runs >= 5
    if whole and enough:  # less would take the place of the whole record
        name = "devices" if arguments.devices else "scaling"
        (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text("\n".join([*title, *sections]))
    print("\n".join([*title, *sections]))


if __name__ == "__main__":
    main()
