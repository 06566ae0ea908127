"""a3c beside its peers on CartPole-v1: seconds to solve it, and steps per second, in one run, in turn.

    python benchmarks/peers/run.py all                               # solve, then speed, 5 rounds of each
    python benchmarks/peers/run.py solve --seeds 5
    python benchmarks/peers/run.py speed --rounds 5
    python benchmarks/peers/run.py solve --seeds 1 --only a3c "SB3 A2C"
    python benchmarks/peers/run.py table                             # write the table anew from what is recorded

Each peer gets a virtual environment of its own in runs/peers/, made with pip at the first call, and runs with its own
published settings; one that cannot be installed, or fails, is listed with the reason. (The textbook A3C and the PPO run
in ours.) All systems run once, one after another, then all of them again with the next seed, in another order, so that
ratios are between runs of nearly the same time and nobody is always first. Of CleanRL's package the newer releases do
not admit Python 3.11, and the one that does wants a gym of 2021: a PPO in its style, with its settings, stands in
(cleanrl_style_ppo.py).

solve: seconds from the start of the process until the mean return of the last 100 training episodes is 475.
speed: environment steps per second in a window after a warm-up, with the same network everywhere: two hidden layers of
64 units; who has one for policy and value together, and who has two, the table says. Peers' environments are counted
from inside (recording.py), a3c's by its metrics.jsonl.

Results of 5 rounds and more are added to benchmarks/results/peers.jsonl, those of fewer or of --only some are only
printed; the table of the newest whole run is benchmarks/results/peers.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import platform
import random
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recording import DIRECTORY, Reader, solved_at

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from cartpole import commit  # noqa: E402

ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results" / "peers.jsonl"
PLACE = ROOT / "runs" / "peers"
THRESHOLD, WINDOW = 475.0, 100
TORCH = "torch==2.13.0"
TELLING = ("torch", "numpy", "gymnasium", "gym", "stable-baselines3", "stable_baselines3", "pfrl", "sample-factory")
A3C = [sys.executable, "-W", "ignore", "-m", "a3c", "train", "CartPole-v1", "--quiet", "--overwrite"]
ENDLESS = ["--total-env-steps", "1000000000"]
PAPERS_FORM = ["--envs-per-worker", "1", "--rollout-length", "5", "--no-separate-torsos"]
SAME_NETWORK = ["--encoder_mlp_layers", "64", "64"]


class System(NamedTuple):
    """What is compared."""

    name: str
    command: list[str]  # {python}, {seed} and {run_dir} are filled in
    settings: str  # whose
    recorded: bool  # by recording.py; else by a run directory of ours
    peer: str = ""  # its requirements; nothing for our own code


def ours(name: str, settings: str, *arguments: str) -> System:
    """A run of a3c."""
    return System(name, [*A3C, *arguments, "--seed", "{seed}", "--run-dir", "{run_dir}"], settings, recorded=False)


def peer(name: str, peer: str, settings: str, script: str, *arguments: str) -> System:
    """A script here, in an environment of its own."""
    return System(name, ["{python}", "-W", "ignore", str(HERE / script), *arguments], settings, True, peer)


def sb3_at(envs: int, threads: int | None) -> System:
    """SB3's A2C without end, with so many environments and torch threads; None: as many as torch takes."""
    name, settings = f"SB3 A2C, {envs} envs", ZOO if envs == 8 else f"{ZOO}, {envs} environments"
    words = ["a2c", "--seed", "{seed}", "--steps", "1000000000", "--envs", str(envs)]
    if threads is not None:
        suffix = f", threads: {threads}"
        name, settings, words = name + suffix, settings + suffix, [*words, "--threads", str(threads)]
    return peer(name, "sb3", f"{settings}; two networks", "sb3.py", *words)


ZOO = "rl-baselines3-zoo's"
SOLVE = [
    ours("a3c", "its preset", "--stop-at-return", "475"),
    peer("SB3 A2C", "sb3", ZOO, "sb3.py", "a2c", "--seed", "{seed}"),
    peer("SB3 PPO", "sb3", ZOO, "sb3.py", "ppo", "--seed", "{seed}"),
    peer("PFRL A3C", "pfrl", "its Atari reproduction's", "pfrl_a3c.py", "--seed", "{seed}"),
    peer(
        "Sample Factory APPO",
        "sample-factory",
        "its example's for CartPole",
        "sample_factory_appo.py",
        "--seed={seed}",
        "--train_dir={run_dir}",
        "--train_for_env_steps=2000000",
    ),
    peer("CleanRL-style PPO", "", "CleanRL's", "cleanrl_style_ppo.py", "--seed", "{seed}"),
    peer("textbook A3C", "", "examples/a3c_one_file.py", "textbook_a3c.py", "--seed", "{seed}"),
]
SPEED = [
    ours("a3c, 2 x 64", "its preset; two networks", *ENDLESS),
    ours("a3c, 2 x 256", "its preset, 256 environments a worker; two networks", *ENDLESS, "--envs-per-worker", "256"),
    ours(
        "a3c, 2 x 1",
        "one environment a worker, 5 steps a rollout, one network; else its preset",
        *ENDLESS,
        *PAPERS_FORM,
    ),
    *(sb3_at(envs, threads) for envs, threads in ((8, None), (8, 1), (64, None), (256, None), (256, 1), (1024, None))),
    peer(
        "SB3 PPO, 8 envs", "sb3", f"{ZOO}; two networks", "sb3.py", "ppo", "--seed", "{seed}", "--steps", "1000000000"
    ),
    peer(
        "PFRL A3C, 2 x 1",
        "pfrl",
        "the paper's; one network",
        "pfrl_a3c.py",
        "--seed",
        "{seed}",
        "--steps",
        "1000000000",
    ),
    peer(
        "Sample Factory APPO",
        "sample-factory",
        "its example's for CartPole but for the sizes; one network",
        "sample_factory_appo.py",
        "--seed={seed}",
        "--train_dir={run_dir}",
        "--train_for_env_steps=1000000000",
        *SAME_NETWORK,
    ),
    peer("CleanRL-style PPO", "", "CleanRL's; two networks", "cleanrl_style_ppo.py", "--seed", "{seed}", *ENDLESS),
    peer(
        "textbook A3C, 2 x 1",
        "",
        "examples/a3c_one_file.py; two networks",
        "textbook_a3c.py",
        "--seed",
        "{seed}",
        "--total-env-steps",
        "1000000000",
        "--stop-at-return",
        "501",
    ),
]


class NotInstalled(Exception):
    """A peer that cannot be had; the message is the reason."""


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment, which is made if it is not there."""
    place = PLACE / "venvs" / peer
    python, reason = place / "bin" / "python", place / "not-installed.txt"
    requirements = HERE / "requirements" / f"{peer}.txt"
    made = place / "made-of.txt"
    if reason.exists():  # in this run of the program: the next one tries again
        raise NotInstalled(reason.read_text())
    if not made.exists() or made.read_text() != requirements.read_text():
        print(f"making an environment for {peer} ...", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for what in ([TORCH], ["--requirement", str(requirements)]):
            tried = subprocess.run([*pip, *what], stderr=subprocess.PIPE, text=True)
            if tried.returncode:
                reason.write_text(why(tried.stderr))
                raise NotInstalled(reason.read_text())
        made.write_text(requirements.read_text())
    return str(python)


def why(text: str) -> str:
    """The telling line of what pip says."""
    lines = [line.strip(" │╰─>×") for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"Error|error:|ERROR|Requires", line)]
    return (telling or lines or ["pip says nothing"])[-1][:200]


class Failed(Exception):
    """A system that ended before its time; the message is the last that it said."""


class Running:
    """A system at work, with its processes; leaves none behind."""

    def __init__(self, system: System, seed: int) -> None:
        self.run_dir = PLACE / "now"
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(parents=True)
        record = self.run_dir / "record"
        record.mkdir()
        python = python_of(system.peer) if system.peer else sys.executable
        words = [word.format(python=python, seed=seed, run_dir=self.run_dir / "run") for word in system.command]
        self.printed = self.run_dir / "printed.txt"
        self.began = time.time()
        with open(self.printed, "w") as file:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {DIRECTORY: str(record)},
                cwd=self.run_dir,
                start_new_session=True,
            )
        self._reader = Reader(record)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            time.sleep(2 if number == signal.SIGTERM else 0)
        self.process.wait()

    def last_words(self) -> str:
        """What it has printed last."""
        lines = [line.strip() for line in self.printed.read_text().splitlines() if line.strip()]
        return f"exit code {self.process.returncode}: {lines[-1][:200] if lines else 'it printed nothing'}"

    def progress(self, system: System) -> tuple[list[tuple[float, float]], Callable[[float], int]]:
        """Finished episodes (time, return) so far, and steps at a time. Times are seconds of `time.time`."""
        if system.recorded:
            self._reader.read()
            return self._reader.episodes, self._reader.steps_at
        run = self.run_dir / "run"
        episodes, lines = [], []
        if (path := run / "episodes.csv").exists():
            rows = [row.split(",") for row in path.read_text().splitlines()[1:]]
            episodes = sorted((self.began + float(row[2]), float(row[3])) for row in rows if len(row) >= 5)
        if (path := run / "metrics.jsonl").exists():
            text = path.read_text()
            lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return episodes, steps_between([(self.began + line["seconds"], line["env_steps"]) for line in lines])


def steps_between(points: list[tuple[float, int]]) -> Callable[[float], int]:
    """The number of steps at a time, from what it was at some times."""

    def steps_at(when: float) -> int:
        for (t0, n0), (t1, n1) in itertools.pairwise(points):
            if t0 <= when <= t1 and t1 > t0:
                return round(n0 + (n1 - n0) * (when - t0) / (t1 - t0))
        return points[-1][1] if points and when > points[-1][0] else 0

    return steps_at


def solve(system: System, seed: int, limit_s: float) -> dict[str, Any]:
    """Seconds until it is solved, or None."""
    with Running(system, seed) as running:
        while True:
            over = running.process.poll() is not None or time.time() - running.began > limit_s
            episodes, _ = running.progress(system)
            solved = solved_at(episodes, THRESHOLD, WINDOW)
            if solved is not None or over:
                break
            time.sleep(0.25)
        if solved is None and running.process.returncode:
            raise Failed(running.last_words())
        return {"seconds": None if solved is None else round(solved - running.began, 2)}


def speed(system: System, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps per second in the window, which begins so long after the first step."""
    warm_up_s, seconds = arguments.warm_up_s, arguments.seconds
    with Running(system, seed) as running:
        first = None
        while first is None or time.time() < first + warm_up_s + seconds + 2:
            if running.process.poll() is not None:
                raise Failed(running.last_words())
            time.sleep(0.5)
            if first is None and time.time() > running.began + arguments.limit_s:
                raise Failed(f"no step within {arguments.limit_s:g} s")
            if first is None and (running.progress(system)[0] or running.progress(system)[1](time.time())):
                first = time.time()
        _, steps_at = running.progress(system)
        begin, end = first + warm_up_s, first + warm_up_s + seconds
        return {"steps_per_second": round((steps_at(end) - steps_at(begin)) / seconds, 1), "window_s": seconds}


def measure(kind: str, systems: list[System], seeds: range, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All systems in turn, seed by seed, each time in another order."""
    run = f"{commit()} {time.strftime('%F %T')}"
    machine = {"platform": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    for seed in seeds:
        for system in random.Random(seed).sample(systems, len(systems)):
            record = {"kind": kind, "run": run, "system": system.name, "settings": system.settings, "seed": seed}
            record |= {"machine": machine, "python": platform.python_version(), "limit_s": arguments.limit_s}
            try:
                record |= {"versions": versions(system.peer)}
                if kind == "solve":
                    yield record | solve(system, seed, arguments.limit_s)
                else:
                    yield record | speed(system, seed, arguments)
            except NotInstalled as reason:
                yield record | {"not_installed": str(reason)}
            except Failed as reason:
                yield record | {"failed": str(reason)}


@functools.cache
def versions(peer: str) -> list[str]:
    """What a peer's environment, or ours, is made of, as far as it makes a difference."""
    python = python_of(peer) if peer else sys.executable
    command = [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [line for line in listed if line.partition("==")[0].lower() in TELLING]


def spread(numbers: list[float], digits: int) -> str:
    """Median, least and most."""
    median, least, most = statistics.median(numbers), min(numbers), max(numbers)
    return f"{median:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})".replace("inf", "never")


def newest_whole_run(records: list[dict[str, Any]]) -> str | None:
    """The newest run in which each system has a record with each seed."""
    for run in reversed(dict.fromkeys(r["run"] for r in records)):
        seeds: dict[str, set[int]] = {}
        for record in records:
            if record["run"] == run:
                seeds.setdefault(record["system"], set()).add(record["seed"])
        if len({frozenset(each) for each in seeds.values()}) == 1:
            return str(run)
    return None


def table(records: list[dict[str, Any]]) -> str:
    """The newest whole run of each kind."""
    lines = ["# a3c beside its peers", "", "CartPole-v1. `python benchmarks/peers/run.py` has the method."]
    for kind, title, digits in (
        ("solve", "Seconds from the start of the process to a mean return of 475 over 100 episodes", 1),
        ("speed", "Environment steps per second, two hidden layers of 64", 0),
    ):
        if not (some := [r for r in records if r["kind"] == kind]):
            continue
        if (run := newest_whole_run(some)) is None:
            continue
        some = [r for r in some if r["run"] == run]
        key, counted = ("seconds", "solved") if kind == "solve" else ("steps_per_second", "rounds")
        described = {system.name: system.settings for system in (SOLVE if kind == "solve" else SPEED)}  # in their order
        order = [*described]
        names = sorted(dict.fromkeys(r["system"] for r in some), key=lambda n: order.index(n) if n in order else 99)
        if kind == "solve":  # who has not solved it takes for ever
            some = [r | {"seconds": r["seconds"] or math.inf} if "seconds" in r else r for r in some]
        references = {
            name: {r["seed"]: r[key] for r in some if r["system"] == name and r.get(key)}
            for name in names
            if name.startswith("a3c")
        }
        machine = "{platform}, {cores} cores".format(**some[0]["machine"])
        command = some[0].get("command", f"python benchmarks/peers/run.py {kind}")
        lines += [
            "",
            f"## {title}",
            "",
            f"`{command}`, {run} (commit and time), {machine}.",
        ]
        if kind == "solve":
            lines += [
                f"Given up after {max(r.get('limit_s', 0) for r in some):g} s, or at the end of its own budget of "
                "steps, and then never solved. Ratios: its seconds divided by a3c's.",
                "",
            ]
        else:
            lines += [
                "a3c by workers x environments. Ratios: a3c's steps/s divided by the system's, round by round. From 6 "
                "environments a worker on, a3c steps Gymnasium's own vector of CartPoles; the others step environments "
                "one by one, as they come with them, in a wrapper that counts.",
                "",
            ]
        ratios_to = " | ".join(f"ratio, {name}" for name in references)
        lines.append(f"| system | settings | {counted} | {key.replace('_per_', '/')} | {ratios_to} |")
        lines.append("|---" * (4 + len(references)) + "|")
        failures: list[str] = []
        for name in names:
            runs = [r for r in some if r["system"] == name]
            words = f"{name} | {described.get(name, runs[0]['settings'])}"
            if reason := runs[0].get("not_installed"):
                lines.append(f"| {words} | not installed | {reason} |{' |' * len(references)}")
                continue
            done, failed = [r for r in runs if r.get(key)], [r["failed"] for r in runs if "failed" in r]
            finite = sum(r[key] < math.inf for r in done)
            cells = [spread([r[key] for r in done], digits) if done else "-"]
            for reference in references.values():
                pairs = [(r[key], reference[r["seed"]]) for r in done if r["seed"] in reference]
                pairs = [pair for pair in pairs if min(pair) < math.inf]
                ratios = [its / own if kind == "solve" else own / its for its, own in pairs]
                cells.append(spread(ratios, 2) if ratios else "-")
            lines.append(f"| {words} | {finite} of {len(runs)} | {' | '.join(cells)} |")
            failures += [f"- {name} failed in {len(failed)} of {len(runs)}: {failed[-1]}"] if failed else []
        lines += ["", *failures] if failures else []
    return "\n".join(lines) + "\n"


def run_kind(kind: str, systems: list[System], arguments: argparse.Namespace) -> None:
    """Measure systems and record what came of it."""
    systems = [s for s in systems if not arguments.only or s.name in arguments.only]
    for system in systems:  # before anything is measured
        if system.peer:
            (PLACE / "venvs" / system.peer / "not-installed.txt").unlink(missing_ok=True)
            with contextlib.suppress(NotInstalled):
                python_of(system.peer)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    command = shlex.join(["python", "benchmarks/peers/run.py", *sys.argv[1:]])
    for record in measure(kind, systems, seeds, arguments):
        print(record, flush=True)
        if not arguments.only and arguments.seeds >= 5:
            with open(RESULTS, "a") as file:
                file.write(json.dumps(record | {"command": command}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["solve", "speed", "all", "table"])
    parser.add_argument("--seeds", "--rounds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--only", nargs="+", metavar="SYSTEM", help="printed, not recorded")
    parser.add_argument("--limit-s", type=float, default=120.0, help="of a run that is to be solved")
    parser.add_argument("--warm-up-s", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the window in which steps are counted")
    arguments = parser.parse_args()
    kinds = {"solve": SOLVE, "speed": SPEED}
    kinds = {kind: systems for kind, systems in kinds.items() if arguments.kind in (kind, "all")}
    known = {system.name: None for systems in kinds.values() for system in systems}
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"no system {sorted(unknown)[0]!r}; there are: {', '.join(map(repr, known))}")
    for kind, systems in kinds.items():
        run_kind(kind, systems, arguments)
    if RESULTS.exists():
        records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
        RESULTS.with_suffix(".md").write_text(table(records))


if __name__ == "__main__":
    main()
