"""CartPole-v1 from the shell prompt to the end of the run: how many seeds solve it, in how many seconds.

    python benchmarks/cartpole.py --seeds 50                         # the defaults
    python benchmarks/cartpole.py --seeds 5 --variants               # other algorithms, workers and runtimes
    python benchmarks/cartpole.py --seeds 5 -- --workers 8           # anything else, after --

Each run is `a3c train CartPole-v1 --stop-at-return 475 --seed S ...` in a process of its own, timed from its
start to its exit, one after another; then a greedy evaluation over 20 episodes. `python -c "import torch"` is
timed before every fifth of them; the bound that the defaults are held to is 1.2 times its median, plus 1.2 s.
Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
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
from typing import Any

import torch

import a3c

RESULTS = Path(__file__).parent / "results"

VARIANTS = {
    "A3C, defaults": [],
    "A2C": ["--algorithm", "a2c"],
    "A3C, 1 worker": ["--workers", "1"],
    "A3C, 3 workers": ["--workers", "3"],
    "A2C, 3 workers": ["--algorithm", "a2c", "--workers", "3"],
    "A3C, 8 workers": ["--workers", "8"],
    "A3C, serial": ["--runtime", "serial"],
    "A2C, serial": ["--algorithm", "a2c", "--runtime", "serial"],
    "A2C, 1 worker": ["--algorithm", "a2c", "--workers", "1"],
    "A2C, 8 workers": ["--algorithm", "a2c", "--workers", "8"],
    "A3C, locked store": ["--store", "locked"],
    "A3C, spawn": ["--start-method", "spawn"],
}


def timed(command: list[str]) -> float:
    """Seconds from start to exit; raises if it fails."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def run_seed(seed: int, flags: list[str], directory: Path) -> dict[str, Any]:
    """Train one seed and evaluate what it learned."""
    run_dir = directory / str(seed)
    command = [sys.executable, "-m", "a3c", "train", "CartPole-v1", "--stop-at-return", "475", "--quiet"]
    seconds = timed([*command, "--seed", str(seed), "--run-dir", str(run_dir), *flags])
    summary = json.loads((run_dir / "summary.json").read_text())
    evaluation = a3c.evaluate(run_dir, episodes=20, seed=0)
    return {
        "seed": seed,
        "solved": summary["solved_at"] is not None,
        "seconds": round(seconds, 3),
        "env_steps": summary["env_steps"],
        "updates": summary["updates"],
        "steps_per_second": summary["steps_per_second"],
        "greedy_return": evaluation.return_mean,
    }


def measure(name: str, flags: list[str], seeds: Sequence[int]) -> dict[str, Any]:
    """All seeds of one variant."""
    rows, imports = [], []
    with tempfile.TemporaryDirectory() as directory:
        for i, seed in enumerate(seeds):
            if i % 5 == 0:
                imports.append(timed([sys.executable, "-c", "import torch"]))
            rows.append(run_seed(seed, flags, Path(directory)))
            print(name, rows[-1], flush=True)
    solved = [row for row in rows if row["solved"]]
    return {
        "name": name,
        "flags": flags,
        "runs": len(rows),
        "solved": len(solved),
        "seconds_median": statistics.median(row["seconds"] for row in rows),
        "seconds_min": min(row["seconds"] for row in rows),
        "seconds_max": max(row["seconds"] for row in rows),
        "env_steps_median": statistics.median(row["env_steps"] for row in rows),
        "greedy_return_mean": statistics.fmean(row["greedy_return"] for row in solved) if solved else None,
        "greedy_return_min": min((row["greedy_return"] for row in solved), default=None),
        "import_torch_median": round(statistics.median(imports), 3),
        "rows": rows,
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| variant | solved | seconds: median (min to max) | steps, median "
        "| greedy return: mean (min) | import torch, s | bound, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        greedy = (
            "-" if r["greedy_return_mean"] is None else f"{r['greedy_return_mean']:.1f} ({r['greedy_return_min']:.1f})"
        )
        lines.append(
            f"| {r['name']} | {r['solved']} of {r['runs']} | {r['seconds_median']:.2f} "
            f"({r['seconds_min']:.2f} to {r['seconds_max']:.2f}) | {r['env_steps_median']:,.0f} | {greedy} "
            f"| {r['import_torch_median']:.2f} | {1.2 * r['import_torch_median'] + 1.2:.2f} |"
        )
    return "\n".join(lines)


def git(*arguments: str) -> str:
    """What a git command prints, called where the repository begins."""
    root = Path(__file__).parents[1]
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, cwd=root).stdout.strip()


def commit() -> str:
    """The commit that is checked out, marked if the tree differs from it in more than results."""
    try:
        name = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def save(name: str, results: list[dict[str, Any]]) -> None:
    """Print the results and write them to benchmarks/results/NAME.json and .md."""
    record = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "results": results,
    }
    text = table(results)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(f"`{record['command']}`, commit {record['commit']}\n\n{text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--variants", action="store_true", help="run all variants instead of the defaults alone")
    parser.add_argument("--out", help="name of the result files; by default the recorded ones, or none for other seeds")
    parser.add_argument("flags", nargs="*", help="flags for `a3c train`, after --")
    options = parser.parse_args()
    torch.set_num_threads(1)
    variants = VARIANTS if options.variants else {" ".join(options.flags) or "A3C, defaults": options.flags}
    results = [measure(name, flags, range(options.seeds)) for name, flags in variants.items()]
    # The recorded figures are only replaced by as many runs as they are of.
    recorded = {(50, False): "cartpole", (5, True): "cartpole-variants"}
    name = options.out or (None if options.flags else recorded.get((options.seeds, options.variants)))
    if name is None:
        print(table(results))
    else:
        save(name, results)


if __name__ == "__main__":
    main()
