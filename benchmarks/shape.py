"""What environments a worker are good for, by the time that a step takes: behind the choice where nobody names any.

    python benchmarks/shape.py [--runs 3]

Environments that keep the processor busy for so long at each step, and nothing else; general defaults, one worker a
core. steps/s beside what the environments alone would make, that is workers / the time of a step. More environments a
worker also mean fewer updates for the same steps, so no more than are needed. `a3c.experiment.shape` chooses by such a
time. Writes benchmarks/results/shape.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import platform
import statistics
import time
from pathlib import Path

from a3c.config import TrainConfig
from a3c.experiment.shape import StepTime, choose, cores
from cartpole import commit
from slow_environment import Slow, steps_per_second

STEPS_S = (5e-6, 50e-6, 500e-6, 5e-3)
ENVS = (1, 4, 8, 16)
SECONDS = 3.0
OUT = Path(__file__).parent / "results" / "shape.md"


class Busy(Slow):
    """An environment that computes for so long at each step."""

    def wait(self) -> None:
        """Compute: whoever waits for a core computes nothing."""
        ends = time.thread_time() + self.step_s
        while time.thread_time() < ends:
            pass


def alone(step_s: float) -> float:
    """Seconds that a step takes in a loop of its own."""
    env = Busy(step_s)
    env.reset()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() < began + SECONDS:
        *_, over, _ = env.step(1)
        steps += 1
        if over:
            env.reset()
    return (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs, workers = parser.parse_args().runs, cores()
    rates: dict[tuple[float, int], list[float]] = {case: [] for case in itertools.product(STEPS_S, ENVS)}
    for seed, (step_s, envs) in itertools.product(range(runs), rates):
        env = functools.partial(Busy, step_s)
        length = TrainConfig().rollout_length
        seconds = max(SECONDS, 20 * length * envs * step_s)  # some updates of each worker
        rates[step_s, envs].append(steps_per_second(workers, envs, seed, seconds, env=env, rollout_length=length))
    alone_s = {step_s: alone(step_s) for step_s in STEPS_S}
    lines = [
        "# Environments a worker, by the time of a step",
        "",
        f"`python benchmarks/shape.py --runs {runs}`, commit {commit()}, {platform.system()} {platform.machine()}, "
        f"{workers} workers on as many cores, medians of {runs} runs (least to most) of {SECONDS:.0f} s or more: "
        "steps/s beside what the environments alone would make.",
        "",
        "| a step takes | chosen | " + " | ".join(f"{envs} a worker" for envs in ENVS) + " |",
        "|---" * (2 + len(ENVS)) + "|",
    ]
    for step_s in STEPS_S:
        cells = []
        for envs in ENVS:
            shares = [rate * alone_s[step_s] / workers for rate in rates[step_s, envs]]
            cells.append(f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})")
        chosen = choose(StepTime(alone_s[step_s], 1.0), workers)[1]
        lines.append(f"| {alone_s[step_s] * 1e6:,.0f} µs | {chosen} | " + " | ".join(cells) + " |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
