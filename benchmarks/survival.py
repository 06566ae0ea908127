"""Runs that are damaged while they go on, and what becomes of them.

    python benchmarks/survival.py kills --kills 200            # workers, with each store: does it still solve CartPole?
    python benchmarks/survival.py parents --kills 50           # the run itself, again and again, and resumed
    python benchmarks/survival.py soak --seconds 3600          # memory, files and shared memory while workers die
    python benchmarks/survival.py fuzz --inputs 1000000        # damaged checkpoints and settings
    python benchmarks/survival.py pushes                       # by 8 processes at once: which are lost, or torn
    python benchmarks/survival.py all                          # all of these, one after the other
    python benchmarks/survival.py table                        # write survival.md anew from what is recorded

CartPole is slowed down so that the damage has time. What came of it is added to benchmarks/results/survival.jsonl. The
tests do the same with small numbers (tests/test_survival.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym

from a3c.experiment import checkpoint, presets
from a3c.experiment.loggers.episodes_csv import COLUMNS
from cartpole import commit
from scaling import Pushing, store_alone

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "survival.jsonl"
WORKERS, ENVS = 4, 16
KINDS = ("kills", "parents", "soak", "fuzz", "pushes")
PUSHES, PUSHERS = 10_000, 8
PUSHED_STORES: tuple[Literal["hogwild", "locked"], ...] = ("hogwild", "locked")
PYTHON = [sys.executable, "-W", "ignore"]
A3C = ["-m", "a3c"]
# Whatever has become of the run before: the call that a job is given which may be ended at any time.
BEGIN_OR_GO_ON = "import json, sys, a3c; a3c.train('survival:SlowCartPole', resume=True, **json.loads(sys.argv[1]))"
SOLVED = 475.0  # CartPole-v1's own threshold, of the mean of 100 episodes
SHM = Path("/dev/shm")
STEPS = "SURVIVAL_STEPS"  # names the folder where environments count their steps
SHORTEST = 7  # fewer steps no episode of CartPole's has
STORES = {
    "hogwild": [],
    "locked": ["--store", "locked"],
    "synchronous": ["--algorithm", "a2c"],
}


class SlowCartPole(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole-v1 that takes `pause_s` longer for a step.

    It counts its steps, and the episodes that have ended, where a folder is named for that.
    """

    def __init__(self, pause_s: float = 0.001) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.pause_s = pause_s
        self.counts = own_counts()

    def step(self, action: Any) -> Any:
        """Counted, and after a pause."""
        if self.counts is not None:
            self.counts[0] += 1
        time.sleep(self.pause_s)
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.counts is not None:
            self.counts[1] += terminated or truncated
        return observation, reward, terminated, truncated, info


_counts: dict[int, memoryview] = {}


def own_counts() -> memoryview | None:
    """Steps that this process has begun and episodes that ended in it: in a file, which holds whatever it dies of."""
    folder, pid = os.environ.get(STEPS), os.getpid()
    if folder is not None and pid not in _counts:
        with open(Path(folder) / str(pid), "a+b") as file:
            file.truncate(16)
            _counts[pid] = memoryview(mmap.mmap(file.fileno(), 16)).cast("q")
    return _counts.get(pid)


def counted_by(run_dir: Path) -> Path:
    """The folder where the environments of a run count their steps and episodes."""
    return run_dir.with_name(run_dir.name + "-steps")


def counted(run_dir: Path) -> tuple[int, int]:
    """How many steps a run's environments say that they have begun, and episodes ended, whoever has heard of them."""
    each = [struct.unpack("qq", file.read_bytes()) for file in counted_by(run_dir).iterdir()]
    return sum(steps for steps, _ in each), sum(episodes for _, episodes in each)


def most_in_hand(lives: int) -> tuple[int, int]:
    """How many steps so many lives of workers may have begun and not pushed, and how many episodes ended.

    A worker pushes each rollout before it begins the next, and a round that is open holds one of it, for which it
    waits: so there is one rollout for each life. A reset is no step.
    """
    steps = int(presets.PRESETS["CartPole-v1"]["rollout_length"])
    return lives * ENVS * steps, lives * ENVS * math.ceil(steps / SHORTEST)


def still_there(run_dir: Path, patience_s: float = 5.0) -> list[str]:
    """What of a run's processes has not gone a while after its end, whoever is their parent by now."""
    mark, deadline = f"{STEPS}={counted_by(run_dir)}".encode(), time.monotonic() + patience_s
    while left := [pid for pid in parents() if mark in environment_of(pid)]:
        if time.monotonic() > deadline:
            return [told_of(pid) for pid in left]
        time.sleep(0.05)
    return []


def environment_of(pid: int) -> list[bytes]:
    """The variables that a process was started with; none if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def settings(total_env_steps: int) -> dict[str, Any]:
    """CartPole's own, for 4 workers and as many environments together."""
    preset = dict(presets.PRESETS["CartPole-v1"])
    rate = presets.rate_for(WORKERS, preset["workers"], preset["learning_rate"])
    return preset | {
        "workers": WORKERS,
        "envs_per_worker": ENVS,
        "total_env_steps": total_env_steps,
        "learning_rate": rate,
    }


def flags(total_env_steps: int, pause_s: float, *more: str) -> list[str]:
    """The settings, and others, for the command line."""
    words = ["--env-kwargs", json.dumps({"pause_s": pause_s})]
    for name, value in settings(total_env_steps).items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        words += ["--no-" + flag[2:]] if value is False else [flag] if value is True else [flag, str(value)]
    return [*words, "--no-tensorboard", "--quiet", *more]


@contextlib.contextmanager
def training(run_dir: Path, command: list[str], program: list[str] = A3C) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, which is ended with the block; what it says is in a file beside its directory."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    counted_by(run_dir).mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": path, STEPS: str(counted_by(run_dir))}
    # Not a pipe: one that nobody empties is full after some hundred failures, and holds the run up.
    with open(said_by(run_dir), "w") as said:
        process = subprocess.Popen([*PYTHON, *program, *command], env=environment, stderr=said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said_by(run_dir: Path) -> Path:
    """Where it is what the latest run in a directory has said."""
    return run_dir.with_name(run_dir.name + "-said.txt")


def wait_for_a_line(run_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the run has logged something, or has ended."""
    metrics = run_dir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)


def parents() -> dict[int, int]:
    """The parent of each process that is not a zombie."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(file.parent.name)] = int(fields[1])
    return found


def below(pid: int) -> set[int]:
    """All processes below one."""
    tree, found, frontier = parents(), set[int](), {pid}
    while frontier:
        frontier = {child for child, parent in tree.items() if parent in frontier} - found
        found |= frontier
    return found


def workers_of(pid: int) -> list[int]:
    """The worker processes of a run: the fork server's children."""
    tree = parents()
    return [child for child in below(pid) if tree.get(child) != pid]


def summary_of(run_dir: Path) -> dict[str, Any]:
    """What the run came to."""
    return dict(json.loads((run_dir / "summary.json").read_text()))


def solving(summary: dict[str, Any], killed_at: list[int]) -> dict[str, Any]:
    """Whether a run ends solved, and where it first was; `killed_at` is T at each kill."""
    at, mean = summary["solved_at"], summary["return_mean_100"]
    steps = None if at is None else int(at["env_steps"])
    return {
        "solved": mean is not None and mean >= SOLVED,
        "return_mean_100": mean,
        "solved_at": steps,
        "kills_before_solved": sum(steps is None or each < steps for each in killed_at),
    }


def steps_of(run_dir: Path) -> int:
    """T at the newest checkpoint that is whole."""
    return int(checkpoint.newest_whole_checkpoint(run_dir, lambda _: None).name.removeprefix("step-"))


def episodes_of(run_dir: Path) -> int:
    """How many episodes have been pushed, by the newest checkpoint that is whole."""
    state = checkpoint.newest_whole_checkpoint(run_dir, lambda _: None) / "state.json"
    return int(json.loads(state.read_text())["episodes"])


def log_of(run_dir: Path) -> dict[str, Any]:
    """Whether each line of the logs is there once, by their own numbers."""
    numbers = [json.loads(line)["env_steps"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [row.split(",") for row in (run_dir / "episodes.csv").read_text().splitlines()[1:]]
    return {
        "metrics_in_order": numbers == sorted(numbers),
        "episode_rows": len(rows),
        "whole_rows": all(len(row) == len(COLUMNS) for row in rows),
        "rows_twice": len(rows) - len({(row[0], row[-1]) for row in rows}),
        "steps_in_rows": sum(int(row[COLUMNS.index("length")]) for row in rows),
    }


def kill_workers(
    run_dir: Path, store: str, kills: int, total_env_steps: int, pause_s: float, every_s: tuple[float, float], seed: int
) -> dict[str, Any]:
    """Kill so many workers, one after another, while a run goes on; what came of it."""
    chance = random.Random(seed)
    more = [*STORES[store], "--seed", str(seed), "--on-worker-failure", "restart", "--max-restarts-per-hour", "100000"]
    command = ["train", "survival:SlowCartPole", "--run-dir", str(run_dir), "--overwrite"]
    began, killed_at = time.monotonic(), list[int]()  # T
    shutil.rmtree(counted_by(run_dir), ignore_errors=True)
    with training(run_dir, [*command, *flags(total_env_steps, pause_s, *more)]) as process:
        wait_for_a_line(run_dir, process)
        while len(killed_at) < kills and process.poll() is None:
            time.sleep(chance.uniform(*every_s))
            if victims := workers_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    killed_at.append(last_logged(run_dir))
        code = process.wait()
    left = still_there(run_dir)
    summary = summary_of(run_dir)
    steps, episodes = counted(run_dir)
    steps_in_hand, episodes_in_hand = most_in_hand(WORKERS + summary["worker_restarts"])
    return {
        "store": store,
        "kills": len(killed_at),
        "exit_code": code,
        **solving(summary, killed_at),
        "left_processes": len(left),
        "which_left": left,
        "seconds": round(time.monotonic() - began, 1),
        "checkpoint_env_steps": steps_of(run_dir),
        "checkpoint_episodes": episodes_of(run_dir),
        "counted_env_steps": steps,
        "most_env_steps_in_hand": steps_in_hand,
        "counted_episodes": episodes,
        "most_episodes_in_hand": episodes_in_hand,
        **{
            name: summary[name]
            for name in (
                "env_steps",
                "episodes",
                "lost_episodes",
                "worker_restarts",
                "best_return_mean_100",
                "exit_reason",
            )
        },
        **log_of(run_dir),
    }


def kill_parents(
    run_dir: Path,
    kills: int,
    total_env_steps: int,
    pause_s: float,
    lives_s: tuple[float, float],
    seed: int,
    start_s: float = 4.0,
) -> dict[str, Any]:
    """Kill a run and begin it again, so many times, and let it end; what came of it.

    The first tenth of the kills and every third fall within a life's first seconds, its imports included: the run may
    not have a directory by then, or be taking up what lies there. The others wait for a checkpoint of their life, and
    half of them for another that is being written, and fall into that.
    """
    chance = random.Random(seed)
    began, orphans, resumed_from, lost, ages_s = time.monotonic(), list[str](), list[int](), list[int](), list[float]()
    in_start_up, begun_anew, in_a_write = 0, 0, 0
    shutil.rmtree(counted_by(run_dir), ignore_errors=True)
    for number in range(kills):
        has_checkpoint = newest_name(run_dir) is not None
        by_command = number % 2 == 1 and has_checkpoint and steps_of(run_dir) < total_env_steps
        begun_anew += number > 0 and not has_checkpoint
        with next_life(run_dir, total_env_steps, pause_s, seed, by_command=by_command) as run:
            before, soon = newest_name(run_dir), number < kills // 10 or number % 3 == 0
            if soon:
                wait_at_most(run, chance.uniform(0.0, start_s))
            else:
                while newest_name(run_dir) == before and run.poll() is None:
                    time.sleep(0.01)
                wait_at_most(run, chance.uniform(*lives_s))
                if number % 3 == 2:
                    stop_in_a_write(run_dir, run)
            if run.poll() is not None:
                break  # it has come to its end
            run.send_signal(signal.SIGSTOP)  # else it might still start a process that is not looked for
            children = below(run.pid)
            run.kill()
            killed_at = time.time()
            run.wait()
        in_a_write += is_being_written(run_dir)
        deadline = time.monotonic() + 5
        while (left := children & set(parents())) and time.monotonic() < deadline:
            time.sleep(0.05)
        orphans += [f"kill {number}: {told_of(each)}" for each in left]
        if newest_name(run_dir) == before:
            in_start_up += 1
            resumed_from.append(0 if before is None else steps_of(run_dir))
            continue
        resumed_from.append(steps_of(run_dir))
        lost.append(last_logged(run_dir) - resumed_from[-1])
        newest = checkpoint.newest_whole_checkpoint(run_dir, lambda _: None)
        ages_s.append(round(killed_at - newest.stat().st_mtime, 3))
    with next_life(run_dir, total_env_steps, pause_s, seed) as run:  # what has come to its end stays as it is
        run.wait()
    summary = summary_of(run_dir)
    return {
        "kills": len(resumed_from),
        "kills_in_start_up": in_start_up,
        "begun_anew": begun_anew,
        "kills_during_a_checkpoints_write": in_a_write,
        "orphans": len(orphans),
        "which_orphans": orphans,
        "taken_up_at_the_newest": follow_each_other(taken_up_at(run_dir), [0, *resumed_from]),
        "never_back": resumed_from == sorted(resumed_from) and summary["env_steps"] >= max(resumed_from, default=0),
        **solving(summary, resumed_from),
        "lost_steps_median": statistics.median(lost) if lost else 0,
        "lost_steps_max": max(lost, default=0),
        "lost_seconds_median": statistics.median(ages_s) if ages_s else 0,
        "lost_seconds_max": max(ages_s, default=0),
        "seconds": round(time.monotonic() - began, 1),
        "checkpoint_episodes": episodes_of(run_dir),
        "counted_env_steps": counted(run_dir)[0],
        **{name: summary[name] for name in ("env_steps", "episodes", "lost_episodes", "exit_reason")},
        **log_of(run_dir),
    }


@contextlib.contextmanager
def next_life(
    run_dir: Path, total_env_steps: int, pause_s: float, seed: int, by_command: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is begun or taken up by one call, or taken up by `a3c resume`; it must not fail in the block."""
    wanted = settings(total_env_steps) | {
        "env_kwargs": {"pause_s": pause_s},
        "run_dir": str(run_dir),
        "seed": seed,
        "checkpoint_every_s": 0.2,
        "tensorboard": False,
        "quiet": True,
    }
    program, command = ["-c", BEGIN_OR_GO_ON], [json.dumps(wanted)]
    if by_command:
        program, command = A3C, ["resume", str(run_dir), "--trust-code", "--quiet"]
    with training(run_dir, command, program) as process:
        yield process
        code = process.poll()
    if code is not None and code > 0:
        raise SystemExit(f"a run was not taken up:\n{said_by(run_dir).read_text()}")


def wait_at_most(process: subprocess.Popen[bytes], seconds: float) -> None:
    """For its end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def taken_up_at(run_dir: Path) -> list[int]:
    """T at each time that a run was taken up, as far as it has come to say so."""
    return [each["env_steps"] for each in json.loads((run_dir / "config.json").read_text()).get("resumed", [])]


def follow_each_other(some: list[int], among: list[int]) -> bool:
    """Whether some numbers are among others, in the same order."""
    rest = iter(among)
    return all(number in rest for number in some)


def is_being_written(run_dir: Path) -> bool:
    """Whether a checkpoint is; after a kill, whether one was."""
    aside = (run_dir / "checkpoints").glob(".step-*.tmp")
    return any(not path.name.endswith(".old.tmp") for path in aside)  # the others are being removed


def stop_in_a_write(run_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a checkpoint is being written, and stop the run in the middle of it, unless it has ended."""
    while process.poll() is None:
        if is_being_written(run_dir):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.002)
            if is_being_written(run_dir):
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0005)


def newest_name(run_dir: Path) -> str | None:
    """Of the newest checkpoint, whole or not."""
    found = checkpoint.checkpoints(run_dir)
    return found[-1].name if found else None


def last_logged(run_dir: Path) -> int:
    """T of the last whole line of the metrics."""
    text = (run_dir / "metrics.jsonl").read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return int(json.loads(lines[-1])["env_steps"]) if lines else 0


def soak(
    run_dir: Path,
    seconds: float,
    pause_s: float,
    every_s: tuple[float, float],
    sample_s: float,
    seed: int,
    least_restarts: int = 0,
) -> dict[str, Any]:
    """Kill workers all the time, and look now and then at what the processes hold.

    That goes on for so long, and longer where there were not as many restarts as are wanted.
    """
    chance, samples = random.Random(seed), []
    more = ["--seed", str(seed), "--on-worker-failure", "restart", "--max-restarts-per-hour", "100000"]
    command = ["train", "survival:SlowCartPole", "--run-dir", str(run_dir), "--overwrite"]
    kills = 0
    with training(run_dir, [*command, *flags(10**9, pause_s, *more)]) as process:
        wait_for_a_line(run_dir, process)
        began = time.monotonic()
        next_sample = began + sample_s
        while process.poll() is None and (time.monotonic() - began < seconds or restarts_of(run_dir) < least_restarts):
            time.sleep(chance.uniform(*every_s))
            if victims := workers_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    kills += 1
            if time.monotonic() >= next_sample:
                next_sample += sample_s
                samples.append({"seconds": round(time.monotonic() - began, 1), **held(process.pid)})
        process.send_signal(signal.SIGINT)
        process.wait(60)
    half = samples[len(samples) // 2 :]
    return {
        "kills": kills,
        "seconds": round(time.monotonic() - began, 1),
        "restarts": summary_of(run_dir)["worker_restarts"],
        "samples": samples,
        "first_half": {
            key: statistics.median(s[key] for s in samples[: len(samples) // 2]) for key in held(os.getpid())
        },
        "second_half": {key: statistics.median(s[key] for s in half) for key in held(os.getpid())},
    }


def restarts_of(run_dir: Path) -> int:
    """How many workers a run has started anew, as far as its log tells."""
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return int(json.loads(lines[-1])["worker_restarts"]) if lines else 0


def told_of(pid: int) -> str:
    """Which process it is that has been left, and what it is doing."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]
        state = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State")]
        return f"{pid}, {state}: {command}"
    return f"{pid}, gone a moment later"


class Memory(NamedTuple):
    """Parts of a process's memory in KiB; what several share counts in parts."""

    pss: int = 0
    anonymous: int = 0
    shared: int = 0  # without a file that has a name

    @property
    def allocated(self) -> int:
        """Without the pages of files, of which another program that has loaded the same libraries takes a part."""
        return self.anonymous + self.shared


def memory_of(pid: int) -> Memory:
    """What a process has; nothing if it is gone."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
        sizes = {words[0]: int(words[1]) for words in lines}
        if "Pss:" in sizes:
            return Memory(sizes["Pss:"], sizes["Pss_Anon:"], sizes["Pss_Shmem:"])
    return Memory()


def held(pid: int) -> dict[str, int]:
    """What a run holds: memory (KiB) of the run's own process and of all, their open files, and shared memory.

    a3c's own has no name: it is in what the processes share, and in what is taken of /dev/shm, by whomever.
    """
    processes = (pid, *below(pid))
    memory = [memory_of(each) for each in processes]
    files = []
    for each in processes:
        with contextlib.suppress(OSError):
            files.append(len(os.listdir(f"/proc/{each}/fd")))
    return {
        "own_pss_kib": memory[0].pss,
        "all_pss_kib": sum(each.pss for each in memory),
        "own_allocated_kib": memory[0].allocated,
        "all_allocated_kib": sum(each.allocated for each in memory),
        "all_shared_kib": sum(each.shared for each in memory),
        "open_files": files[0] if files else 0,
        "all_open_files": sum(files),
        "shm_names": len(os.listdir(SHM)) if SHM.is_dir() else 0,
        "shm_taken_kib": taken_kib(SHM) if SHM.is_dir() else 0,
    }


def taken_kib(place: Path) -> int:
    """What is in use of the file system that a directory lies on, named or not."""
    room = os.statvfs(place)
    return (room.f_blocks - room.f_bfree) * room.f_frsize // 1024


def pushed(size: int, locking: Literal["hogwild", "locked"], pushes: int = PUSHES) -> dict[str, Any]:
    """So many pushes by 8 processes, each of which adds 1 to every parameter."""
    record = store_alone(Pushing(size, PUSHERS, pushes=pushes // PUSHERS), locking)
    return {"parameters": record.pop("size"), **record}


def table(records: list[dict[str, Any]]) -> str:
    """The newest record of each kind."""
    newest = {(r["what"], r.get("store", ""), r.get("parameters", "")): r for r in records}
    lines = ["# Runs that are damaged", "", "`python benchmarks/survival.py` has the method."]
    for (what, store, _), record in newest.items():
        shown = {k: v for k, v in record.items() if k not in ("what", "store", "samples", "command", "commit", "time")}
        lines += [
            "",
            f"## {what}{' ' + store if store else ''}",
            "",
            f"`{record['command']}`, {record['commit']}, {record['time']}",
            "",
        ]
        lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in shown.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KINDS, "all", "table"])
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2, help="that damage files at the same time")
    parser.add_argument("--stores", nargs="+", choices=list(STORES), default=list(STORES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "all":
        for kind in KINDS:
            subprocess.run([*PYTHON, __file__, kind, *sys.argv[2:]], check=True)
        return
    records: list[dict[str, Any]] = []
    in_memory = SHM if arguments.what == "fuzz" and SHM.is_dir() else None  # files by the million
    with tempfile.TemporaryDirectory(dir=in_memory) as directory:
        run_dir = Path(directory) / "run"
        if arguments.what == "kills":
            for store in arguments.stores:
                kills = arguments.kills or 200
                # 1.5 s a kill, at the pace of 4 workers that wait a millisecond for each step, and a while to recover
                records.append(
                    kill_workers(run_dir, store, kills, 5_000 * kills + 200_000, 0.001, (1.0, 2.0), arguments.seed)
                )
                shutil.rmtree(run_dir)
        elif arguments.what == "parents":
            records.append(kill_parents(run_dir, arguments.kills or 50, 600_000, 0.001, (0.0, 3.0), arguments.seed))
        elif arguments.what == "soak":
            records.append(soak(run_dir, arguments.seconds, 0.001, (2.0, 4.0), 10.0, arguments.seed))
        elif arguments.what == "fuzz":
            from fuzzing import fuzz_together  # with Hypothesis, for which workers that import this need not wait

            records.append(fuzz_together(run_dir, arguments.inputs, arguments.processes, arguments.seed))
        elif arguments.what == "pushes":
            records += [pushed(size, store) for store in PUSHED_STORES for size in (5_000, 700_000)]
    for record in records:
        record |= {"what": arguments.what, "command": " ".join(["python benchmarks/survival.py", *sys.argv[1:]])}
        record |= {"commit": commit(), "time": time.strftime("%F %T")}
        print({key: value for key, value in record.items() if key != "samples"}, flush=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(record) + "\n")
    if RESULTS.exists():
        RESULTS.with_suffix(".md").write_text(table([json.loads(line) for line in RESULTS.read_text().splitlines()]))


if __name__ == "__main__":
    main()
