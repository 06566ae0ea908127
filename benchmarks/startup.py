"""How soon there is a first update, beside `import torch`, and how soon there is help.

    python benchmarks/startup.py --runs 15

Each is a process of its own, one after another in turn, timed from its start to its exit; the run, of CartPole-v1 with
its preset, two workers, to its first update. That is the first line of its metrics.jsonl, which a worker reports at
once; its seconds count from the start of the process, of which only Linux tells. Results go to
benchmarks/results/startup.md and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from cartpole import commit, timed

RESULTS = Path(__file__).parent / "results"
A3C = [sys.executable, "-m", "a3c"]
UNCOLLECTED = "import gc; gc.disable(); import torch"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    f"python -c '{UNCOLLECTED}'": [sys.executable, "-c", UNCOLLECTED],
    "python -m a3c --help": [*A3C, "--help"],
    "python -m a3c train --help": [*A3C, "train", "--help"],
}
TORCH, FIRST = "python -c 'import torch'", "python -m a3c train CartPole-v1"


def first_update() -> float:
    """Seconds from a run's start to its first update."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        timed([*A3C, "train", "CartPole-v1", "--total-env-steps", "5000", "--quiet", "--run-dir", str(run_dir)])
        first = (run_dir / "metrics.jsonl").read_text().splitlines()[0]
    return float(json.loads(first)["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    if not Path("/proc/self/stat").exists():
        parser.error("this system does not tell when a process was started")
    seconds: dict[str, list[float]] = {name: [] for name in [*COMMANDS, FIRST]}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            seconds[name].append(timed(command))
        seconds[FIRST].append(first_update())
    imports = statistics.median(seconds[TORCH])
    lines = [
        "# Start-up",
        "",
        f"`python benchmarks/startup.py --runs {runs}`, commit {commit()}, {runs} times each, in turn; "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
        "| what | seconds, median (spread) | of `import torch` |",
        "|---|---|---|",
    ]
    for name, took in seconds.items():
        median = statistics.median(took)
        lines.append(f"| `{name}` | {median:.2f} ({min(took):.2f} to {max(took):.2f}) | {median / imports:.2f} |")
    lines += ["", "The last to its first update. Targets: that within 1.2 times `import torch`, help within 0.5 s."]
    record = {"commit": commit(), "cores": os.cpu_count(), "torch": torch.__version__, "seconds": seconds}
    (RESULTS / "startup.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "startup.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
