"""How much of an environment's own speed is left where each of its steps takes 20 ms.

    python benchmarks/slow_environment.py [--runs 5]

Such an environment gains nothing by batching: W workers with one environment each should make nearly W / 20 ms steps a
second, however few the cores are. Writes benchmarks/results/slow-environment.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import a3c
from cartpole import commit

STEP_S = 0.02
SECONDS = 10.0
SHAPES = [(1, 1), (4, 1), (16, 1), (32, 1), (2, 8)]  # workers, environments a worker; 32 x 1 where nobody names any
OUT = Path(__file__).parent / "results" / "slow-environment.md"


class Slow(gym.Env[NDArray[np.float32], Any]):
    """Random observations, a step that sleeps, 50 steps an episode."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, step_s: float = STEP_S) -> None:
        self.step_s = step_s

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Wait, and go on."""
        self.wait()
        self.steps += 1
        return self.observe(), float(action == 1), False, self.steps == 50, {}

    def wait(self) -> None:
        """For as long as a step takes."""
        time.sleep(self.step_s)

    def observe(self) -> NDArray[np.float32]:
        """Eight numbers."""
        return self.np_random.uniform(-1, 1, 8).astype(np.float32)


def steps_per_second(
    workers: int, envs: int, seed: int, seconds: float = SECONDS, *, env: Callable[[], Any] = Slow, **settings: Any
) -> float:
    """From the first line of metrics after three rollouts of each worker on, for so many seconds."""
    settings = {"rollout_length": 5} | settings
    all_up = 3 * workers * envs * settings["rollout_length"]
    lines: list[tuple[float, int]] = []

    def enough(line: Mapping[str, Any]) -> bool:
        if line["env_steps"] > all_up:
            lines.append((line["seconds"], line["env_steps"]))
        return bool(lines) and lines[-1][0] >= lines[0][0] + seconds

    with tempfile.TemporaryDirectory() as folder:
        a3c.train(
            env,
            workers=workers,
            envs_per_worker=envs,
            total_env_steps=10**8,
            seed=seed,
            run_dir=folder,
            tensorboard=False,
            quiet=True,
            on_report=enough,
            **settings,
        )
    (first_time, first_steps), (last_time, last_steps) = (
        lines[0],
        next(line for line in lines if line[0] >= lines[0][0] + seconds),
    )  # later ones wait for workers that end
    return (last_steps - first_steps) / (last_time - first_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    rates = {shape: [steps_per_second(*shape, seed) for seed in range(runs)] for shape in SHAPES}
    rows = []
    for (workers, envs), measured in rates.items():
        # The environments of one worker are stepped one after the other.
        ideal = workers / STEP_S
        spread = f"{min(measured):.0f} to {max(measured):.0f}"
        share = statistics.median(measured) / ideal
        rows.append(
            f"| {workers} x {envs} | {ideal:.0f} | {statistics.median(measured):.0f} | {spread} | {share:.0%} |"
        )
    OUT.write_text(
        f"# An environment of {STEP_S * 1000:.0f} ms a step\n\n`python benchmarks/slow_environment.py --runs {runs}`, "
        f"commit {commit()}, medians of {runs} runs of {SECONDS:.0f} s.\n\n"
        "| workers x environments | ideal steps/s | steps/s | spread | of the ideal |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
    print(OUT.read_text())


if __name__ == "__main__":
    main()
