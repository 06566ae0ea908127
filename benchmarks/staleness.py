"""Whether late gradients should count less: A3C on CartPole-v1 with much staleness, treated in three ways.

    python benchmarks/staleness.py --seeds 5

* plain: every gradient is applied as it comes, with the rate of the schedule;
* scaled: the rate of each update is divided by 1 + its staleness;
* dropped: gradients staler than 14, twice what they are on average, are dropped; their steps count.

Staleness comes from 8 workers in processes, and from DelayedStore(7) in one process, where it repeats and is always 7.
Each way has the preset's rate for 2 workers and, since a smaller rate is another remedy, half of it. Told are the
environment steps until the mean return of 100 episodes is 475, over the seeds, and how many came to it within the
preset's budget. Results are in benchmarks/results/staleness.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from a3c.config import TrainConfig
from a3c.core.seeding import model_seed
from a3c.envs.make import EnvSource, examine
from a3c.experiment import presets
from a3c.experiment.launch import make_runtime
from a3c.experiment.recipe import ActorLearnerRecipe
from a3c.experiment.train import make_recipe, make_spec, make_store
from a3c.stores.delayed import DelayedHandle
from a3c.types import ActorLearner, Counts, Life, Receipt, StoreHandle
from cartpole import commit
from scaled_rule import ScaledRule

RESULTS = Path(__file__).parent / "results"
WORKERS, GOAL, WINDOW = 8, 475.0, 100
WAYS = ("plain", "scaled", "dropped")


class Treated:
    """A handle that looks at the staleness of each gradient when it is applied."""

    def __init__(self, handle: Any, way: str) -> None:
        self._handle, self._way = handle, way
        self.leave = handle.leave
        self.pull = handle.pull

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt | None:
        """The store's, with the gradient treated."""
        store = self._handle.store
        staleness = store.counters().version - base_version
        if self._way == "dropped" and staleness > 2 * (WORKERS - 1):
            gradient = None
        if self._way == "scaled":
            store.rule.staleness[0][0] = staleness
        return self._handle.push(gradient, counts, base_version)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TreatedRecipe:
    """A recipe whose workers treat late gradients in a way."""

    recipe: ActorLearnerRecipe
    way: str

    def __call__(self, worker: int, store: StoreHandle, life: Life) -> ActorLearner:
        """See `ActorLearnerRecipe`."""
        handle: Any = store
        if isinstance(handle, DelayedHandle):  # what is applied late is looked at late
            handle.handle = Treated(handle.handle, self.way)
        else:
            handle = Treated(handle, self.way)
        return self.recipe(worker, handle, life)


def settings(form: str, rate: float, seed: int) -> TrainConfig:
    """CartPole's preset with as many environments together, in 8 workers or with gradients 7 pushes late."""
    preset = presets.PRESETS["CartPole-v1"]
    values = preset | {"learning_rate": rate * preset["learning_rate"], "seed": seed}
    if form == "processes":
        return TrainConfig(**values | {"workers": WORKERS, "envs_per_worker": 128 // WORKERS})
    one = {
        "workers": 1,
        "envs_per_worker": 128 // WORKERS,
        "runtime": "serial",
        "store": "delayed",
        "delay": WORKERS - 1,
    }
    return TrainConfig(**values | one)


def steps_to_goal(config: TrainConfig, way: str) -> tuple[int | None, float]:
    """Environment steps until it is solved, None if it is not; and the mean staleness."""
    facts = examine(EnvSource("CartPole-v1"))
    spec, runtime = make_spec(config, facts), make_runtime(replace(config, stop_at_return=GOAL))
    model = spec.build(seed=model_seed(config.seed))
    store: Any = make_store(config, model.flat, runtime, model.normaliser.tracked)
    if way == "scaled":
        inner = getattr(store, "store", store)
        rule = inner.rule
        inner.rule = ScaledRule(rule.optimizer, rule.schedule, rule.budget, rule.max_gradient_norm, ([0],))
    recipe = TreatedRecipe(make_recipe(facts.source, config, spec, "cpu"), way)
    returns, solved, stale, applied = list[float](), None, 0, 0
    with contextlib.closing(runtime):
        runtime.prepare()
        for report in runtime.run(recipe, store, config.workers):
            stale += sum(staleness * count for staleness, count in report.staleness.items())
            applied += sum(report.staleness.values())
            for episode in report.episodes:
                returns.append(episode.episode_return)
                if solved is None and len(returns) >= WINDOW and sum(returns[-WINDOW:]) / WINDOW >= GOAL:
                    solved = episode.env_steps
                    store.request_stop()
    return solved, stale / max(applied, 1)


def measured(seeds: range) -> Iterator[dict[str, Any]]:
    """Every way with every rate, seed by seed."""
    for seed in seeds:
        for form, way, rate in itertools.product(("delayed", "processes"), WAYS, (1.0, 0.5)):
            if (form, way) == ("delayed", "dropped"):
                continue  # all are as stale as each other
            solved, staleness = steps_to_goal(settings(form, rate, seed), way)
            yield {"form": form, "way": way, "rate": rate, "seed": seed, "solved": solved, "staleness": staleness}


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds."""
    lines = [
        "# Late gradients",
        "",
        f"`python benchmarks/staleness.py`, commit {commit()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores; the ways are said there. Steps are medians of the seeds that came to the goal, with "
        "their spread. The rate is a share of the preset's for 2 workers.",
        "",
        "| staleness by | treated | rate | mean staleness | solved | steps |",
        "|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["form"], r["way"], r["rate"]) for r in rows):
        some = [r for r in rows if (r["form"], r["way"], r["rate"]) == key]
        steps = [r["solved"] for r in some if r["solved"] is not None]
        spread = f"{statistics.median(steps):,.0f} ({min(steps):,} to {max(steps):,})" if steps else "-"
        mean = statistics.mean(r["staleness"] for r in some)
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {mean:.1f} | {len(steps)} of {len(some)} | {spread} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    arguments = parser.parse_args()
    rows = []
    for row in measured(range(arguments.first_seed, arguments.first_seed + arguments.seeds)):
        print(row, flush=True)
        rows.append(row)
    (RESULTS / "staleness.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "staleness.md").write_text(table(rows))


if __name__ == "__main__":
    main()
