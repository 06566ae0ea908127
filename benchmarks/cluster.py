"""What a Ray parameter server takes, and what that means for clusters.

    python benchmarks/cluster.py                          # all of it, on a Ray cluster of this machine alone
    python benchmarks/cluster.py --part server --runs 5
    python benchmarks/cluster.py --address HOST:PORT      # on a cluster that runs

* server: W actors pull and push as fast as they can, for networks of 5 k, 700 k and 5 M parameters: pushes/s, the time
  of a round trip (a push and the pull after it), and from how many workers on there are no more pushes (90% of the most
  that were seen).
* processes: training on an environment that sleeps 5 ms a step, two workers with one environment each, on Ray and in
  processes of this machine, in turn.
* model: throughput of up to 1,000 workers for environments of 0.1 to 20 ms a step, from these numbers, and beside it
  what W workers reach here on an environment that sleeps 5 ms a step, with a network of each size.

The model is a closed queue. A worker's update takes Z seconds by itself: its steps, and what it computes, which a run
of one worker with that network tells. Then it takes s at the server, which serves one at a time. With an update in
flight the round trip is hidden while it is shorter than Z, so throughput is at most min(W / Z, 1 / s); if none were
hidden it would be that of mean value analysis (Reiser and Lavenberg 1980) with think time Z, its other bound.

That gives each worker cores of its own, as many machines would. Here all share C cores, and s is 1 / the most pushes
that there were, with the server, the pushers and Ray on these C: on a core of its own a server takes less, but no less
than the processor time that its process spent on a push, which is told beside. Nor can what is measured here be more
than C / (own + C s), where an update's own computing takes `own` and everything else about it C s of processor time.

Networks between machines add latency, which is hidden likewise, and have a bandwidth, which is not in it. Results go to
benchmarks/results/cluster.md and .json, the picture to docs/cluster.png; those of a --part alone are only printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import cloudpickle
import matplotlib.pyplot as plt
import numpy as np
import ray
import torch

import slow_environment
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.runtimes.ray import ClusterWish, RayRuntime
from a3c.stores.ray import RayStore
from a3c.types import ActorLearner, Counts, Life, Report, StoreHandle, Update
from cartpole import commit
from slow_environment import steps_per_second

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "cluster.png"
HIDDEN = {5_000: 64, 700_000: 829, 5_000_000: 2229}  # width of two layers, for so many parameters or a percent more
SIZES = tuple(HIDDEN)
WORKERS = (1, 2, 4, 8)
PUSHING_S, TRAINING_S = 3.0, 12.0
STEP_S, ROLLOUT = 0.005, 20
MODELLED_STEPS_S = (0.0001, 0.001, 0.005, 0.02)
CHECKED_WORKERS = {5_000: (1, 2, 4, 8, 16), 700_000: (1, 2, 4, 8), 5_000_000: (1, 2, 4)}
CORES = os.cpu_count() or 1
SATURATED = 0.9


class Pushing:
    """A worker that pulls and pushes for some seconds and does nothing else."""

    def __init__(self, size: int, workers: int, seconds: float) -> None:
        self.size, self.workers, self.seconds = size, workers, seconds

    def __call__(self, worker: int, store: StoreHandle, life: Life) -> ActorLearner:
        """Each update's losses are its number of round trips and their seconds."""
        own, gradient = torch.empty(self.size), torch.full((self.size,), 1e-6)
        store.pull(own)
        store.push(None, Counts(0, 1), 0)  # here; an episode stands for a worker
        while store.pull(own).episodes < self.workers:
            time.sleep(0.01)
        ends = time.perf_counter() + self.seconds
        snapshot = store.pull(own)
        while (began := time.perf_counter()) < ends:
            store.push(gradient, Counts(1, 0), snapshot.version)
            snapshot = store.pull(own)
            yield Update({"seconds": time.perf_counter() - began, "trips": 1.0}, 1, 0, (), None)


def server(size: int, workers: int) -> dict[str, Any]:
    """Pushes a second of all workers, and how long a round trip takes one of them."""
    rule = UpdateRule(RMSProp(), constant(1e-4), Budget(None, None))
    store = RayStore(torch.zeros(size), rule, workers)
    runtime = RayRuntime(ClusterWish(worker_cpus=0.01))
    total, used = Report(), []
    with contextlib.closing(runtime.run(Pushing(size, workers, PUSHING_S), store, workers)) as reports:
        for report in reports:
            total.merge(report)
            if report.sums.get("trips"):
                used.append((processor_s(store), store.counters().version))
    store.close()
    (began_s, first), (ended_s, last) = used[0], used[-1]
    return {
        "size": size,
        "workers": workers,
        "pushes_per_second": total.sums["trips"] / PUSHING_S,
        "round_trip_s": total.sums["seconds"] / total.sums["trips"],
        "processor_s": (ended_s - began_s) / max(1, last - first),
    }


def processor_s(store: RayStore) -> float:
    """Seconds of processor time that the server's process has used, all of its threads."""
    return float(ray.get(store.server.__ray_call__.remote(lambda _: time.process_time())))


def training_rate(runtime: str, workers: int, seed: int, size: int = SIZES[0]) -> float:
    """Steps/s of so many workers with one sleeping environment each, and a network of that size."""
    own: dict[str, Any] = {"worker_cpus": 0.01} if runtime == "ray" else {}
    return steps_per_second(
        workers, 1, seed, TRAINING_S, env_kwargs={"step_s": STEP_S}, runtime=runtime, rollout_length=ROLLOUT,
        hidden_sizes=(HIDDEN[size],) * 2, separate_torsos=False, learning_rate=1e-4, checkpoint_every_s=None, **own,
    )  # fmt: skip


def saturation(rows: list[dict[str, Any]], size: int) -> tuple[int, float]:
    """From how many workers on there are no more pushes, and how many there are a second at most."""
    medians = {
        workers: statistics.median(r["pushes_per_second"] for r in rows if (r["size"], r["workers"]) == (size, workers))
        for workers in dict.fromkeys(r["workers"] for r in rows)
    }
    most = max(medians.values())
    return next(workers for workers, rate in medians.items() if rate >= SATURATED * most), most


def bounds(workers: int, think_s: float, service_s: float) -> tuple[float, float]:
    """Updates/s: if no round trip is hidden (mean value analysis), and if all are."""
    queue = throughput = 0.0
    for population in range(1, workers + 1):
        response = service_s * (1 + queue)
        throughput = population / (think_s + response)
        queue = throughput * response
    return throughput, min(workers / think_s, 1 / service_s)


def server_table(rows: list[dict[str, Any]]) -> list[str]:
    """Medians, with the spread."""
    lines = [
        "| parameters | workers | pushes/s (spread) | round trip, ms | processor time of the server, ms |",
        "|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["size"], row["workers"]) for row in rows):
        some = [row for row in rows if (row["size"], row["workers"]) == key]
        rates = [row["pushes_per_second"] for row in some]
        trip, used = (statistics.median(row[name] for row in some) for name in ("round_trip_s", "processor_s"))
        lines.append(
            f"| {key[0]:,} | {key[1]} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) "
            f"| {1e3 * trip:.2f} | {1e3 * used:.2f} |"
        )
    for size in dict.fromkeys(row["size"] for row in rows):
        workers, most = saturation(rows, size)
        lines += ["", f"{size:,} parameters: saturated from {workers} workers on, {most:,.0f} pushes/s at most."]
    return lines


def processes_table(rows: dict[str, list[float]]) -> list[str]:
    """Both runtimes, and their ratio."""
    lines = ["| runtime | steps/s (spread) |", "|---|---|"]
    for name, rates in rows.items():
        lines.append(f"| {name} | {statistics.median(rates):,.1f} ({min(rates):,.1f} to {max(rates):,.1f}) |")
    ratio = statistics.median(rows["ray"]) / statistics.median(rows["processes"])
    return [*lines, "", f"Ray reaches {ratio:.1%} of the process runtime."]


def own_s_of(checked: dict[int, list[float]]) -> float:
    """What an update takes a worker besides its steps, from the steps/s of one worker alone."""
    return max(0.0, ROLLOUT / statistics.median(checked[1]) - ROLLOUT * STEP_S)


def model_table(checked: dict[int, dict[int, list[float]]], services: dict[int, float]) -> list[str]:
    """What was measured beside the two bounds, and what these cores allow for."""
    lines = [
        "| parameters | own, ms | workers | steps/s measured (spread) | bounds of the model | of these cores "
        "| measured of the least upper one |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, rows in checked.items():
        own_s, service_s = own_s_of(rows), services[size]
        cores = ROLLOUT * CORES / (own_s + CORES * service_s)
        for workers, rates in rows.items():
            low, high = (ROLLOUT * rate for rate in bounds(workers, ROLLOUT * STEP_S + own_s, service_s))
            median = statistics.median(rates)
            lines.append(
                f"| {size:,} | {1e3 * own_s:.1f} | {workers} "
                f"| {median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {low:,.0f} to {high:,.0f} | {cores:,.0f} "
                f"| {median / min(high, cores):.0%}{' (it is made of this)' if workers == 1 else ''} |"
            )
    return lines


def draw(checked: dict[int, dict[int, list[float]]], services: dict[int, float]) -> None:
    """Both bounds for each size of network, one panel for each of some steps' times, and the points."""
    figure, panels = plt.subplots(1, len(MODELLED_STEPS_S), figsize=(14, 3.6), sharey=True)
    workers = np.unique(np.geomspace(1, 1000, 60).astype(int))
    for panel, step_s in zip(panels, MODELLED_STEPS_S, strict=True):
        for size, service_s in services.items():
            think_s = ROLLOUT * step_s + own_s_of(checked[size])
            band = np.array([bounds(int(w), think_s, service_s) for w in workers]) * ROLLOUT
            line = panel.plot(workers, band[:, 1], label=f"{size:,} parameters")[0]
            panel.fill_between(workers, band[:, 0], band[:, 1], color=line.get_color(), alpha=0.3, linewidth=0)
            if step_s == STEP_S:
                medians = [statistics.median(rates) for rates in checked[size].values()]
                panel.plot(list(checked[size]), medians, "o", color=line.get_color(), markeredgecolor="k", markersize=4)
        panel.set(xscale="log", yscale="log", xlabel="workers", title=f"{1e3 * step_s:g} ms a step")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("steps a second")
    panels[MODELLED_STEPS_S.index(STEP_S)].legend(fontsize=7, title="dots: measured", title_fontsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--address", help="of a cluster that runs")
    parser.add_argument("--part", choices=["server", "processes", "model"], nargs="+")
    arguments = parser.parse_args()
    revision = commit()  # before the picture is drawn anew
    parts, runs = arguments.part or ["server", "processes", "model"], range(arguments.runs)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    cloudpickle.register_pickle_by_value(slow_environment)  # other nodes have no such module
    ray.init(address=arguments.address, logging_level=logging.ERROR, log_to_driver=False)
    sections: list[str] = []
    data: dict[str, Any] = {}
    if "server" in parts or "model" in parts:
        rows = [server(size, workers) for _ in runs for size in SIZES for workers in WORKERS]
        data["server"] = rows
        sections += ["## The server", "", *server_table(rows), ""]
    if "processes" in parts:
        rates: dict[str, list[float]] = {"processes": [], "ray": []}
        for seed in runs:
            for name, some in rates.items():
                some.append(training_rate(name, 2, seed))
        data["processes"] = rates
        sections += ["## Beside processes: 5 ms a step, two workers", "", *processes_table(rates), ""]
    if "model" in parts:
        checked = {
            size: {w: [training_rate("ray", w, seed, size) for seed in runs] for w in some}
            for size, some in CHECKED_WORKERS.items()
        }
        services = {size: 1 / saturation(rows, size)[1] for size in SIZES}
        data["checked"] = checked
        sections += [
            f"## The model: rollouts of {ROLLOUT} steps, one environment a worker", "",
            "Besides its steps, an update takes a worker its own time, as one worker alone tells. At "
            f"{1e3 * STEP_S:g} ms a step, with the server and all workers on {CORES} cores:", "",
            *model_table(checked, services), "",
            "![throughput of up to 1,000 workers](../../docs/cluster.png)", "",
        ]  # fmt: skip
        draw(checked, services)
    title = [
        "# A Ray parameter server, and clusters",
        "",
        f"`python benchmarks/cluster.py`, commit {revision}, {arguments.runs} runs, Ray {ray.__version__}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores for the server and all workers together. "
        "Medians, with the spread. Methods are told in the command's docstring.",
        "",
    ]
    text = "\n".join([*title, *sections])
    print(text)
    if arguments.part is None:
        (RESULTS / "cluster.md").write_text(text)
        (RESULTS / "cluster.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
