"""What a3c's presets learn, environment by environment, seed by seed.

    python benchmarks/learning.py                                    # every environment of the table, 5 seeds each
    python benchmarks/learning.py Pendulum-v1 Acrobot-v1 --seeds 5   # some of them
    python benchmarks/learning.py Hopper-v5 --peer sb3               # Stable-Baselines3's A2C, by sb3_a2c.py
    python benchmarks/learning.py --table                            # write the table anew from what is recorded

Each run is `a3c train ENV --seed S` in a process of its own, one after another, with the environment's preset; then a
greedy evaluation over 100 episodes. Every run is a line in benchmarks/results/learning.jsonl as soon as it is done, and
a run that is there with the same commit of src/ is not repeated. The table is benchmarks/results/learning.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
RECORDS, TABLE = RESULTS / "learning.jsonl", RESULTS / "learning.md"
RUNS = Path("runs") / "learning"
EPISODES = 100


class Target(NamedTuple):
    """What there is to reach, and where it comes from."""

    score: float
    source: str


RL_ZOO = "rl-zoo's A2C, {} steps"
TIANSHOU = "Tianshou's A2C, 1 M steps, on an older version of the environment"
TARGETS = {
    "CartPole-v1": Target(500, RL_ZOO.format("500 k")),
    "Acrobot-v1": Target(-83, RL_ZOO.format("500 k")),
    "MountainCar-v0": Target(-110, RL_ZOO.format("1 M")),
    "Pendulum-v1": Target(-163, RL_ZOO.format("1 M")),
    "MountainCarContinuous-v0": Target(91, RL_ZOO.format("100 k")),
    "LunarLander-v3": Target(200, "solved; rl-zoo's A2C has 155.8 after 200 k steps of v2"),
    "BipedalWalker-v3": Target(280, "20 below " + RL_ZOO.format("5 M")),
    "HalfCheetah-v5": Target(1830, TIANSHOU),
    "Hopper-v5": Target(1253, TIANSHOU),
    "Walker2d-v5": Target(1092, TIANSHOU),
}
# No more steps than the score to beat took, where the preset would take more.
BUDGETS = {"CartPole-v1": 500_000}


def source_commit() -> str:
    """The commit that last changed src/, marked if src/ has changed since."""
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", "src"], capture_output=True, text=True, check=True
    ).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=True)
    return commit + "+dirty" if dirty.stdout.strip() else commit


def run_ours(env: str, seed: int) -> dict[str, Any]:
    """Train one seed and evaluate what it learned."""
    run_dir = RUNS / f"{env.replace('/', '_')}-{seed}"
    flags = ["--total-env-steps", str(BUDGETS[env])] if env in BUDGETS else []
    command = ["train", env, "--seed", str(seed), *flags]
    python = [sys.executable, "-W", "ignore", "-m", "a3c"]
    subprocess.run([*python, *command, "--run-dir", str(run_dir), "--overwrite", "--quiet"], check=True)
    summary = json.loads((run_dir / "summary.json").read_text())
    evaluate = [*python, "evaluate", str(run_dir), "--episodes", str(EPISODES), "--json"]
    evaluation = json.loads(subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout)
    return {
        "command": " ".join(["a3c", *command]),
        "env_steps": summary["env_steps"],
        "seconds": summary["seconds"],
        "training_return": summary["return_mean_100"],
        "return_mean": evaluation["return_mean"],
        "return_std": evaluation["return_std"],
    }


def run_peer(peer: str, env: str, seed: int) -> dict[str, Any]:
    """The same of another library: its script prints such a record."""
    script = Path(__file__).parent / f"{peer}_a2c.py"
    command = [sys.executable, "-W", "ignore", str(script), env, "--seed", str(seed)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(printed.splitlines()[-1]))


def recorded() -> list[dict[str, Any]]:
    """Every run so far."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def write_table(records: list[dict[str, Any]]) -> None:
    """The newest commit's runs of each environment, ours and the peers'."""
    lines = [
        "# What is learned, and how surely",
        "",
        f"Mean return of a greedy evaluation over {EPISODES} episodes after training with the preset; every seed is",
        "listed. `python benchmarks/learning.py`; each run's record, with its command, is in learning.jsonl. Minutes",
        f"are of one seed ({platform.machine()}, {os.cpu_count()} cores).",
        "",
        "| environment | by | target | mean | each seed | env steps | minutes | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = {(r["env"], r["by"]) for r in records}
    order = list(TARGETS)
    for env, by in sorted(names, key=lambda n: (order.index(n[0]) if n[0] in order else 99, *n)):
        runs = [r for r in records if (r["env"], r["by"]) == (env, by)]
        runs = sorted((r for r in runs if r["commit"] == runs[-1]["commit"]), key=lambda r: r["seed"])
        scores = [r["return_mean"] for r in runs]
        minutes = statistics.mean(r["seconds"] for r in runs) / 60
        target = f"{TARGETS[env].score:g}" if env in TARGETS and by == "a3c" else ""
        lines.append(
            f"| {env} | {by} | {target} | **{statistics.mean(scores):.1f}** | {', '.join(f'{s:.1f}' for s in scores)} "
            f"| {max(r['env_steps'] for r in runs):,} | {minutes:.1f} | {runs[-1]['commit']} |"
        )
    lines += ["", "Where the targets come from:", ""]
    lines += [f"- {env}: {target.score:g}, {target.source}" for env, target in TARGETS.items()]
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer", choices=["sb3"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    by, commit = arguments.peer or "a3c", source_commit()
    for env in arguments.envs if not arguments.table else ():
        for seed in range(arguments.seeds):
            done = [r for r in recorded() if (r["env"], r["by"], r["seed"]) == (env, by, seed)]
            if any(by != "a3c" or r["commit"] == commit for r in done):
                continue
            result = run_peer(by, env, seed) if arguments.peer else run_ours(env, seed)
            record = {"env": env, "by": by, "seed": seed, "commit": commit, **result, "time": time.strftime("%F %T")}
            with open(RECORDS, "a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{env} {by} seed {seed}: {result['return_mean']:.1f} after {result['seconds']:.0f} s", flush=True)
    write_table(recorded())


if __name__ == "__main__":
    main()
