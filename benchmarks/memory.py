"""What a worker holds in memory beyond its environments, and whether that stays so.

    python benchmarks/memory.py                            # an hour of CartPole-v1, then two minutes of each other one
    python benchmarks/memory.py --seconds 60 --envs ALE/Pong-v5
    python benchmarks/memory.py --seconds 90 --envs LunarLander-v3 --alone    # do the environments grow by themselves?

Each run is `a3c train ENV` with its preset and no end of steps. Now and then the proportional set size (PSS: what is
shared counts in parts) of each of its processes is read from /proc. A process that makes the same environments and
steps them at random, and knows nothing of PyTorch, says what they take by themselves. Results go to
benchmarks/results/memory.md and .json; those of --envs or --seconds are only printed.
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
from pathlib import Path
from typing import Any

import torch

from a3c.experiment import presets
from cartpole import commit
from survival import below, memory_of, workers_of

RESULTS = Path(__file__).parent / "results"
PYTHON = [sys.executable, "-W", "ignore"]
ENVS = ("CartPole-v1", "LunarLander-v3", "HalfCheetah-v5", "MinAtar/Breakout-v1", "ALE/Pong-v5")
ALONE = """
import sys, time
sys.modules["torch"] = None  # so that nothing of it is counted
from gymnasium.vector.utils import batch_space
from a3c.envs.make import EnvSource

many = int(sys.argv[2])
envs = EnvSource(sys.argv[1], action_mask=False).make_bare(many)
actions = batch_space(getattr(envs.envs[0], "single_action_space", envs.envs[0].action_space), many)
for number, env in enumerate(envs.envs):
    env.reset(seed=number)
now, steps = time.monotonic(), 0
ends, told = now + float(sys.argv[3]), now
while now < ends:
    envs.step(actions.sample())
    now, steps = time.monotonic(), steps + many
    if now > told + 10:
        told = now
        print(steps, flush=True)
print(steps, flush=True)
print("done", flush=True)
sys.stdin.read()  # as long as it is looked at
"""


def pss_mb(pid: int) -> float:
    """The proportional set size of a process, in MB; 0 if it is gone."""
    return round(memory_of(pid).pss * 1024 / 1e6, 1)


def sampled(env: str, seconds: float, every_s: float) -> tuple[int, list[dict[str, Any]]]:
    """A run's steps, and its processes, looked at now and then after its start."""
    with tempfile.TemporaryDirectory() as folder:
        train = ["train", env, "--run-dir", f"{folder}/run", "--quiet", "--max-seconds", str(seconds)]
        command = [*PYTHON, "-m", "a3c", *train, "--total-env-steps", str(10**12)]
        samples = []
        began = time.monotonic()
        with subprocess.Popen(command) as process:
            while process.poll() is None:
                time.sleep(every_s)
                if workers := workers_of(process.pid):
                    everybody = [process.pid, *below(process.pid)]
                    workers_mb = [pss_mb(pid) for pid in sorted(workers)]
                    if not all(workers_mb):  # one that has just gone
                        continue
                    samples.append(
                        {
                            "seconds": round(time.monotonic() - began, 1),
                            "workers_mb": workers_mb,
                            "all_mb": round(sum(pss_mb(pid) for pid in everybody), 1),
                            "own_mb": pss_mb(process.pid),
                            "open_files": len(os.listdir(f"/proc/{process.pid}/fd")),
                        }
                    )
        if process.returncode:
            raise SystemExit(f"the run of {env} failed")
        steps = json.loads(Path(folder, "run", "summary.json").read_text())["env_steps"]
    return steps, samples


def alone(env: str, many: int, seconds: float = 5) -> list[tuple[int, float]]:
    """What the environments take in a process of their own, Python and NumPy included: after so many steps, so many MB.

    Every ten seconds and at the end.
    """
    command = [*PYTHON, "-c", ALONE, env, str(many), str(seconds)]
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline().strip()).isdigit():
            found.append((int(line), pss_mb(process.pid)))
    if not found:
        raise SystemExit(f"{env} cannot be made and stepped alone")
    return found


def measured(env: str, seconds: float) -> dict[str, Any]:
    """One environment."""
    config, _ = presets.resolve(env, {})
    steps, samples = sampled(env, seconds, max(1.0, min(10.0, seconds / 60)))
    return {
        "env": env,
        "seconds": seconds,
        "workers": config.workers,
        "envs_per_worker": config.envs_per_worker,
        "bare_mb": alone(env, config.envs_per_worker)[-1][1],
        "env_steps": steps,
        "samples": samples,
    }


def row(result: dict[str, Any]) -> str:
    """Its line of the table: the largest worker at a tenth of the time, when all has begun, and at the end."""
    samples = result["samples"]
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[-1:], samples[-tenth:]

    def largest(some: list[dict[str, Any]]) -> float:
        return float(statistics.median(max(sample["workers_mb"]) for sample in some))

    def whole(some: list[dict[str, Any]], what: str) -> float:
        return float(statistics.median(sample[what] for sample in some))

    return (
        f"| {result['env']} | {result['workers']} x {result['envs_per_worker']} | {result['seconds'] / 60:.3g} "
        f"| {result['env_steps']:,} | {result['bare_mb']:.0f} | {largest(early):.0f} | {largest(late):.0f} "
        f"| {largest(late) - result['bare_mb']:.0f} | {whole(early, 'own_mb'):.0f} | {whole(late, 'own_mb'):.0f} "
        f"| {whole(early, 'all_mb'):.0f} | {whole(late, 'all_mb'):.0f} "
        f"| {whole(early, 'open_files'):.0f} | {whole(late, 'open_files'):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="of each; default 3600 of the first, 120 of the others")
    parser.add_argument("--envs", nargs="+")
    parser.add_argument("--alone", action="store_true", help="only the environments of one worker, and print")
    arguments = parser.parse_args()
    if arguments.seconds is not None and arguments.seconds < 10:
        parser.error("--seconds: a run takes some of them to begin; 10 or more")
    if arguments.alone:
        for env in arguments.envs or ENVS:
            config, _ = presets.resolve(env, {})
            for steps, mb in alone(env, config.envs_per_worker, arguments.seconds or 120):
                print(f"{env}, {config.envs_per_worker} environments: {mb:.0f} MB after {steps:,} steps", flush=True)
        return
    results = []
    for index, env in enumerate(arguments.envs or ENVS):
        results.append(measured(env, arguments.seconds or (120 if index else 3600)))
        print(row(results[-1]), flush=True)
    lines = [
        "# Memory",
        "",
        f"`python benchmarks/memory.py`, commit {commit()}; {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}. PSS in MB: of the "
        "larger worker, of the process that was started, of all. Early is the second tenth of the time, late the last; "
        "medians. The environments alone are a process of their own, with Python, Gymnasium and NumPy but no PyTorch.",
        "",
        "| environment | W x B | minutes | env steps | environments alone | worker, early | late | beyond those "
        "| own process, early | late | all, early | late | open files, early | late |",
        "|---" * 14 + "|",
        *map(row, results),
    ]
    if arguments.envs is None and arguments.seconds is None:  # less would take the place of the whole record
        (RESULTS / "memory.json").write_text(json.dumps(results) + "\n")
        (RESULTS / "memory.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
