"""What a3c's presets learn, environment by environment, seed by seed.

    python benchmarks/learning.py                                    # every environment of the table, 5 seeds each
    python benchmarks/learning.py Pendulum-v1 Acrobot-v1 --seeds 5   # some of them
    python benchmarks/learning.py a3c.envs.teaching:Recall --set memory=lstm total_env_steps=200000 --name Recall
    python benchmarks/learning.py BipedalWalker-v3 --first-seed 2000 # seeds that nobody has seen
    python benchmarks/learning.py Hopper-v5 --peer sb3               # Stable-Baselines3's A2C, by peers_learning.py
    python benchmarks/learning.py MinAtar/Breakout-v1 --beside sb3   # both: each seed by a3c, then by the peer
    python benchmarks/learning.py --table                            # write the table anew from what is recorded

Each run is `a3c train ENV --seed S` in a process of its own, one after another, with the environment's preset and no
more steps than its target took; then a greedy evaluation over 100 episodes, by seed 10000 + S. Every run is a line in
benchmarks/results/learning.jsonl as soon as it is done. A run that is there with the same commit of src/ (a peer's: of
its script) is not repeated, with --resume not if it is there at all. The table is benchmarks/results/learning.md; the
runs' directories, for benchmarks/curves.py, are in runs/learning/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from a3c.config import flag, setting_names
from a3c.experiment import presets
from a3c.experiment.evaluate import bootstrap_interval
from a3c.experiment.told import told
from cartpole import git

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "learning.jsonl"
RUNS = Path("runs") / "learning"
EPISODES = 100
FIRST_EVALUATION_SEED = 10_000  # of training seed 0, as in peers_learning.py
SEEDS_OF_A_ROW = 1000  # from a multiple of this to the next
PYTHON = [sys.executable, "-W", "ignore"]
PACKAGES = {"a3c": "a3c", "sb3": "stable-baselines3"}  # whose versions count


class Target(NamedTuple):
    """What there is to reach, and where it comes from."""

    score: float
    steps: int  # that it took, or may take
    source: str


RL_ZOO = "rl-zoo's A2C"
TIANSHOU = "Tianshou's A2C, on an older version of the environment"
TARGETS = {
    "CartPole-v1": Target(500, 500_000, RL_ZOO),
    "Acrobot-v1": Target(-83, 500_000, RL_ZOO),
    "MountainCar-v0": Target(-110, 1_000_000, RL_ZOO),
    "Pendulum-v1": Target(-163, 1_000_000, RL_ZOO),
    "MountainCarContinuous-v0": Target(91, 100_000, RL_ZOO),
    "LunarLander-v3": Target(200, 1_000_000, "solved; rl-zoo's A2C has 155.8 after 200 k steps of v2"),
    "BipedalWalker-v3": Target(280, 5_000_000, f"20 below {RL_ZOO}"),
    "HalfCheetah-v5": Target(1830, 1_000_000, TIANSHOU),
    "Hopper-v5": Target(1253, 1_000_000, TIANSHOU),
    "Walker2d-v5": Target(1092, 1_000_000, TIANSHOU),
}


# Under the table: what a reader must know before comparing.
PEERS = [
    "Rows by sb3 are Stable-Baselines3's A2C with rl-baselines3-zoo's settings, in benchmarks/peers_learning.py. The",
    "zoo did not tune them for each environment, as a3c's presets are: for MuJoCo it has SB3's defaults with",
    "normalisation, one environment; for MinAtar it has none, and those for Atari stand in. An SB3 run is one process",
    "with one thread, an a3c run two workers: its minutes say how long one waits, not what a core does. Each seed was",
    "trained by a3c, then by SB3, in one run of this program (`--beside sb3`), beside other work on the two cores: so",
    "all these minutes are too many.",
]


# What is known of the seeds; a row of before has no evaluation seed in its record.
SEEDS = [
    "The interval is a 95% bootstrap interval of the mean over a row's seeds, each by its 100 episodes; of few seeds",
    "it is rather too narrow. Presets were tuned with seeds below 200, but some were tuned again after a look at what",
    "1000 to 1004 had come to, which flatters their rows of these seeds. Seeds from 2000 on nobody had seen when the",
    "preset was settled: where there are such (`--first-seed 2000`), the table has these. learning.jsonl has all runs.",
]


def code_commit(by: str) -> str:
    """The commit that last changed what makes a result (of a peer: its settings), marked if it has changed since."""
    code = "src" if by == "a3c" else "benchmarks/peers_learning.py"
    commit = git("log", "-1", "--format=%h", "--", code)
    return commit + "+dirty" if git("status", "--porcelain", "--", code) else commit


def run_directory(name: str, by: str, seed: int) -> str:
    """Of a row's run, within a folder of runs."""
    return "-".join([re.sub(r"[^\w.=-]+", "_", name), *([] if by == "a3c" else [by]), str(seed)])


def run_ours(env: str, seed: int, settings: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Train one seed and evaluate what it learned."""
    command = ["train", env, "--seed", str(seed), *flags({**budget(env, settings), **settings})]
    python = [*PYTHON, "-m", "a3c"]
    subprocess.run([*python, *command, "--run-dir", str(run_dir), "--overwrite", "--quiet"], check=True)
    summary = json.loads((run_dir / "summary.json").read_text())
    evaluate = [*python, "evaluate", str(run_dir), "--episodes", str(EPISODES), "--trust-code", "--json"]
    evaluation = json.loads(last_line([*evaluate, "--seed", str(FIRST_EVALUATION_SEED + seed)]))
    return {
        "command": " ".join(["a3c", *command]),
        "env_steps": summary["env_steps"],
        "seconds": summary["seconds"],
        "training_return": summary["return_mean_100"],
        "evaluation_seed": evaluation["seed"],
        "return_mean": evaluation["return_mean"],
        "return_std": evaluation["return_std"],
        "return_ci95": evaluation["return_ci95"],
    }


def budget(env: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """What keeps a run within the steps of its target: rollouts under way when the budget is spent still count."""
    if env not in TARGETS:
        return {}
    config, _ = presets.resolve(env, settings)
    most = TARGETS[env].steps - config.workers * config.envs_per_worker * config.rollout_length
    return {"total_env_steps": most} if (config.total_env_steps or 0) > most else {}


def run_sb3(env: str, seed: int, settings: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """The same of Stable-Baselines3: its script prints such a record. Seconds count from its process's start, too."""
    command = [*PYTHON, str(HERE / "peers_learning.py"), env, "--seed", str(seed), *flags(settings)]
    return dict(json.loads(last_line([*command, "--run-dir", str(run_dir), "--began", str(time.time())])))


def last_line(command: list[str]) -> str:
    """Of what a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words += [flag(name) if value else "--no-" + flag(name)[2:]]
        elif isinstance(value, list):
            words += [flag(name), *map(str, value)]
        else:
            words += [flag(name), json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def setting(text: str) -> tuple[str, Any]:
    """NAME=JSON; what is no JSON is a word."""
    name, equals, value = text.partition("=")
    if not equals or name not in setting_names():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE of a setting of a3c")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every run so far. A row goes by its environment where it has no name."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [{"name": record["env"]} | record for record in map(json.loads, lines)]


def undone(name: str, seeds: range, libraries: list[str], results: Path, resume: bool) -> Iterator[tuple[int, str]]:
    """The runs of a row that are to be made, seed by seed: where one library's is, so is the other's, beside it."""
    for seed in seeds:
        records = [r for r in read_records(results) if (r["name"], r["seed"]) == (name, seed)]
        if not all(is_done([r for r in records if r["by"] == by], code_commit(by), resume) for by in libraries):
            yield from ((seed, by) for by in libraries)


def is_done(records: list[dict[str, Any]], commit: str, resume: bool) -> bool:
    """Whether one of these runs of one seed counts, so that it need not be repeated."""
    return any(resume or (r["commit"] == commit and "dirty" not in commit) for r in records)


def evaluation_seeds(records: list[dict[str, Any]]) -> str:
    """By which seeds a3c's policies were evaluated; before they were recorded, all by 0."""
    own = [r for r in records if r["by"] == "a3c"]
    old = sum("evaluation_seed" not in r for r in own)
    return f"Of a3c's {len(own)} policies {old} were evaluated by seed 0, the others by {FIRST_EVALUATION_SEED} + S."


def by_a_peers_seeds(newest: list[dict[str, Any]], rows: Mapping[tuple[str, str, int], Any]) -> list[str]:
    """Where a peer's row is of other seeds than a3c's: what a3c comes to by the peer's."""
    lines = []
    for name, by, thousand in rows:
        if by == "a3c" or (name, "a3c", thousand) in rows:
            continue
        seeds = [r["seed"] for r in rows[name, by, thousand]]
        own = [r for r in newest if (r["name"], r["by"]) == (name, "a3c") and r["seed"] in seeds]
        if own:
            commits = ", ".join(dict.fromkeys(r["commit"] for r in own))
            mean = told(statistics.mean(r["return_mean"] for r in own))
            numbers = ", ".join(str(r["seed"]) for r in own)
            lines.append(f"- {name}: {mean} ({commits}, seeds {numbers})")
    return (
        ["By the seeds of a peer's row, where those of a3c's are others, a3c comes to:", "", *lines, ""]
        if lines
        else []
    )


def table(records: list[dict[str, Any]], results: str = RECORDS.name) -> str:
    """The newest run of each seed, ours and the peers'."""
    newest = {(r["name"], r["by"], r["seed"]): r for r in records}
    rows: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for (name, by, seed), record in sorted(newest.items()):
        rows.setdefault((name, by, seed // SEEDS_OF_A_ROW), []).append(record)
    rows = {row: runs for row, runs in rows.items() if (*row[:2], row[2] + 1) not in rows}  # of unseen seeds, if any
    order = list(TARGETS)
    machines = " or ".join(dict.fromkeys("{platform}, {cores} cores".format(**r["machine"]) for r in newest.values()))
    lines = [
        "# What is learned, and how surely",
        "",
        f"Mean return of a greedy evaluation over {EPISODES} episodes after training; every seed is listed. a3c trains",
        "with the environment's preset, except for what the row names. `python benchmarks/learning.py`; each run's",
        f"record, with its versions and machine, is in {results}. Minutes are of one seed ({machines}). Training",
        "is the mean return of the last 100 episodes of training: mean over the seeds, and least.",
        "",
        "| environment | by | target | mean | 95% interval | min | seeds | each seed | training | env steps | minutes "
        "| commit | command |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, by, _), runs in sorted(
        rows.items(), key=lambda row: order.index(row[0][0]) if row[0][0] in order else 99
    ):
        scores = [r["return_mean"] for r in runs]
        low, high = bootstrap_interval(np.array(scores), 0)
        minutes = [r["seconds"] / 60 for r in runs]
        last = [r["training_return"] for r in runs if r.get("training_return") is not None]
        training = f"{told(statistics.mean(last))} ({told(min(last))})" if last else ""
        target = f"{TARGETS[name].score:g}" if name in TARGETS and by == "a3c" else ""
        commits = ", ".join(dict.fromkeys(r["commit"] for r in runs))
        command = re.sub(r"--seed \d+", "--seed S", runs[-1]["command"])
        lines.append(
            f"| {name} | {by} | {target} | **{told(statistics.mean(scores))}** | {told(low)} to {told(high)} "
            f"| {told(min(scores))} | {runs[0]['seed']} to {runs[-1]['seed']} "
            f"| {', '.join(map(told, scores))} | {training} | {max(r['env_steps'] for r in runs):,} "
            f"| {statistics.mean(minutes):.1f} ({min(minutes):.1f} to {max(minutes):.1f}) | {commits} | `{command}` |"
        )
    lines += [
        "",
        *SEEDS,
        "",
        evaluation_seeds(list(newest.values())),
        "",
        *([*PEERS, ""] if any(by != "a3c" for _, by, _ in rows) else []),
        *by_a_peers_seeds(list(newest.values()), rows),
        "Where the targets come from:",
        "",
    ]
    lines += [
        f"- {env}: {target.score:g} within {target.steps:,} steps, {target.source}"
        for env, target in TARGETS.items()
        if any(name == env for name, _, _ in rows)
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", metavar="ENV", help="an id or module:Class; by default all with a target")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=1000, help="see under the table which were tuned with")
    parser.add_argument("--set", type=setting, nargs="+", action="extend", default=[], metavar="NAME=JSON")
    parser.add_argument("--name", help="of the row; by default the environment and what is --set")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--peer", choices=["sb3"], help="train by a peer")
    who.add_argument("--beside", choices=["sb3"], help="train by a3c and by a peer in turn, seed by seed")
    parser.add_argument("--resume", action="store_true", help="do not repeat what is recorded, whatever the commit")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RECORDS, help="the records; the table goes beside them")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs' directories")
    arguments = parser.parse_args()
    envs, settings = arguments.envs or list(TARGETS), dict(arguments.set)
    libraries = ["a3c", arguments.beside] if arguments.beside else [arguments.peer or "a3c"]
    if arguments.name and len(envs) > 1:
        parser.error("--name is for one environment")
    if libraries != ["a3c"] and set(settings) - {"total_env_steps"}:
        parser.error("--set with --peer or --beside takes total_env_steps alone")
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    for env in envs if not arguments.table else ():
        name = arguments.name or " ".join([env, *(f"{key}={value}" for key, value in settings.items())])
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for seed, by in undone(name, seeds, libraries, arguments.results, arguments.resume):
            commit, row = code_commit(by), (name, by, seed)
            run = run_sb3 if by == "sb3" else run_ours
            result = run(env, seed, settings, arguments.runs / run_directory(*row))
            record = {
                "name": name,
                "env": env,
                "by": by,
                "seed": seed,
                "commit": commit,
                **result,
                "minutes": round(result["seconds"] / 60, 2),
                "versions": {"python": platform.python_version()}
                | {package: version(package) for package in (PACKAGES[by], "torch", "numpy", "gymnasium")},
                "machine": {"platform": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()},
                "time": time.strftime("%F %T"),
            }
            with open(arguments.results, "a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{name} {by} seed {seed}: {result['return_mean']:.1f} after {result['seconds']:.0f} s", flush=True)
    arguments.results.with_suffix(".md").write_text(table(read_records(arguments.results), arguments.results.name))


if __name__ == "__main__":
    main()
