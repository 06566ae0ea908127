"""Damaged checkpoints, settings and logs, drawn by Hypothesis: what reads them may raise nothing but a3c's own errors.

`python benchmarks/survival.py fuzz` runs it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import hypothesis
import torch
from hypothesis import strategies as st

from a3c.envs.make import EnvSource, examine
from a3c.errors import A3CError
from a3c.experiment import checkpoint, resuming, run_directory
from a3c.experiment.environment import find_player
from a3c.experiment.periodic_evaluation import EvaluatorRecipe, PeriodicEvaluation
from a3c.experiment.policy import Policy
from a3c.experiment.progress import Progress
from a3c.experiment.run_directory import finite, write_json
from a3c.experiment.saved_settings import read_settings
from a3c.experiment.sinks import history_of
from a3c.experiment.train import config_record, make_rule, make_spec
from a3c.runtimes.threads import one_thread
from a3c.stores.local import LocalStore
from a3c.types import Snapshot

EXAMPLES_AT_ONCE = 2_000  # Hypothesis remembers those of a batch, with what it drew


def nested(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


LARGE_BOX = {"kind": "Box", "shape": [2**24], "dtype": "float64", "low": 0, "high": 1}
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 10**4, 2**20, 2**24, 2**31, 2**63, 10**30, -(10**30), 10**400),
    *(0.5, -0.0, 1e-300, 1e308, math.nan, math.inf),
    *("", "x", "/etc/passwd", "inf", "1", "auto", "\ud800", "x" * 10**4),
    *([], {}, [[]], [0], [-1], [2**24], [2**20] * 2, [4096] * 300, [64] * 20_000, ["x"] * 5_000),
    *(nested(50), nested(900), {"x": 1}, {"kind": "Box"}, LARGE_BOX, {"kind": "Tuple", "spaces": [LARGE_BOX] * 40}),
]


WORDS = [b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"99999999999999999999", b"true", b"NaN", b'"F64"']
DEEPER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
VALUES = st.sampled_from(ODD) | DEEPER
DIRECTORY, PIPE, ENDLESS, HUGE = NO_FILES = ("directory", "pipe", "/dev/zero", "a terabyte of nothing")
PATIENCE_S, MOST_BYTES = 60, 8 * 2**30  # for what reads one of these
Keys = tuple[Any, ...]


class Input(NamedTuple):
    """What is to lie in a file's place, bytes or one of NO_FILES, and which reader is to read it."""

    file: str
    reader: int
    content: bytes | str


class Read(NamedTuple):
    """A file of a run and what reads it."""

    path: Path
    reader: Callable[[], Any]


class Whole(NamedTuple):
    """A file as it was written: bytes, of which those from `begin` to `end` are JSON with values at these places."""

    content: bytes
    begin: int
    end: int
    places: list[Keys]

    @staticmethod
    def of(path: Path) -> Whole:
        """The one that lies there; safetensors begins with the length of its JSON, and that."""
        content = path.read_bytes()
        begin, end = 0, len(content) if path.suffix == ".json" else 0
        if path.suffix == ".safetensors":
            begin, end = 8, 8 + int.from_bytes(content[:8], "little")
        places = list(places_of(json.loads(content[begin:end]))) if end else []
        return Whole(content, begin, end, places)

    def with_json(self, data: Any) -> bytes:
        """The file with other JSON in it, and its length in front where that belongs there."""
        text = json.dumps(data).encode()
        return (len(text).to_bytes(8, "little") if self.begin else b"") + text + self.content[self.end :]


def places_of(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """The keys that lead to each value in JSON, from the outermost in; the first leads to the whole."""
    yield keys
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places_of(item, (*keys, key))


@st.composite
def distorted(draw: st.DrawFn, whole: Whole) -> bytes:
    """The file with one value of its JSON, at any place in it, taken away, added, or in the place of another."""
    data, keys, odd = json.loads(whole.content[whole.begin : whole.end]), draw(st.sampled_from(whole.places)), None
    kind = draw(st.sampled_from(["another", "added", "gone"]))
    if kind != "gone":
        odd = draw(VALUES)
    if not keys:
        return whole.with_json(odd)
    container = data
    for key in keys[:-1]:
        container = container[key]
    if kind == "gone":
        del container[keys[-1]]
    elif kind == "another":
        container[keys[-1]] = odd
    elif isinstance(container, list):
        container.insert(keys[-1], odd)
    else:
        container[draw(st.text(max_size=10))] = odd
    return whole.with_json(data)


@st.composite
def damaged(draw: st.DrawFn, whole: Whole) -> bytes:
    """The file with one thing wrong in its bytes."""
    data = bytearray(whole.content)
    places = st.integers(0, max(0, len(data) - 1))
    at, kind = draw(places), draw(st.sampled_from(["cut", "added", "gone", "changed", "word"]))
    if kind == "cut":
        del data[at:]
    elif kind == "added":
        data[at:at] = draw(st.binary(min_size=1, max_size=8))
    elif kind == "gone":
        del data[at : at + draw(st.integers(1, 63))]
    elif kind == "changed":
        for place, byte in draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
            data[place : place + 1] = bytes([byte])
    else:
        data[at : at + draw(st.integers(0, 11))] = draw(st.sampled_from(WORDS))
    return bytes(data)


def damages(readers: list[Read], wholes: dict[Path, Whole]) -> st.SearchStrategy[Input]:
    """Any damage of any of these files, for one of its readers."""
    kinds = {}
    for path, whole in wholes.items():
        kinds[path] = damaged(whole) | st.sampled_from(NO_FILES)
        if whole.places:
            kinds[path] = distorted(whole) | distorted(whole) | kinds[path]
    return st.sampled_from(range(len(readers))).flatmap(
        lambda number: st.builds(
            Input, st.just(readers[number].path.name), st.just(number), kinds[readers[number].path]
        )
    )


def readers_of(run_dir: Path) -> list[Read]:
    """The files of a run that resuming, or playing what it has learned, reads; and what reads them."""
    folder = checkpoint.checkpoints(run_dir)[-1]
    best = run_dir / "checkpoints" / run_directory.BEST_EVALUATION
    config = resuming.changed(read_settings(run_dir).config, {"total_env_steps": 10**9})[0]
    facts = examine(EnvSource("CartPole-v1"))
    spec, rule = make_spec(config, facts), make_rule(config)
    start, newest = spec.build(), checkpoint.read_checkpoint(folder)
    evaluator = EvaluatorRecipe(facts.source, spec, 1, 0)
    evaluation = PeriodicEvaluation(1000, evaluator, None, run_dir, lambda: 0.0, lambda _: None)
    logs, now = run_directory.sizes(run_dir), config_record(facts.source, config, spec)

    def state_taken_up(progress: Progress) -> resuming.Resumed:
        store = LocalStore(start.flat, rule, tracked=start.normaliser.tracked)
        found = resuming.find_newest(run_dir, spec)
        return resuming.take_up(run_dir, config, *found, store, progress, rule, rule)

    def taken_up() -> None:
        progress = Progress(time.time(), None)
        resumed = state_taken_up(progress)
        resumed.say_what_is_new(now)
        json.dumps(finite(resumed.record(now, {})))
        logs_brought_back(progress, resumed)
        evaluation.restore(resumed.evaluation)

    def logs_brought_back(progress: Progress, resumed: resuming.Resumed) -> None:
        resuming.bring_back_logs(run_dir, resumed, progress)
        json.dumps(finite(progress.summary(Snapshot(0, 0, 0, stop=False), "failed")))

    whole = state_taken_up(Progress(time.time(), None))

    def only_logs_brought_back() -> None:
        progress = Progress(time.time(), None)
        progress.restore(newest.progress, 0)
        logs_brought_back(progress, whole._replace(messages=[]))
        deque(history_of(run_dir, run_directory.sizes(run_dir), 0.0), maxlen=0)

    def settled() -> None:
        saved = read_settings(run_dir)
        config = resuming.changed(saved.config, {})[0]
        resuming.check_code(run_dir, saved, None, {}, trust_code=False)
        rule = make_rule(config)
        rule.schedule(rule.budget.used(1000, 10))
        newest.spec.stands_for(make_spec(config, facts))
        find_player(run_dir)

    def settled_and_taken_up() -> None:
        read_settings(run_dir)
        taken_up()

    # Each by what looks at the whole of it, and at little else: most of the time goes into building networks.
    model, policy = "model.safetensors", "policy.json"
    return [
        *(Read(folder / name, lambda: checkpoint.read_checkpoint(folder)) for name in (model, policy)),
        *(Read(folder / name, taken_up) for name in ("optimizer.safetensors", "state.json", "progress.json", policy)),
        Read(folder / "checksums.json", lambda: checkpoint.newest_whole_checkpoint(run_dir, lambda _: None)),
        Read(run_dir / "config.json", settled),
        Read(run_dir / "config.json", settled_and_taken_up),
        *(Read(best / name, lambda: Policy.load(run_dir, checkpoint=best.name)) for name in (model, policy)),
        *(
            Read(best / name, lambda: checkpoint.best_evaluation(run_dir))
            for name in ("progress.json", "checksums.json")
        ),
        *(Read(run_dir / name, only_logs_brought_back) for name in logs),
    ]


def fuzz(run_dir: Path, inputs: int, seed: int) -> dict[str, Any]:
    """Read so many damaged checkpoints, settings and logs; what raises anything but the library's own errors is shown.

    Hypothesis draws them, in batches with a seed each.
    """
    import resource

    count, began = {"inputs": 0, "refused": 0, "read": 0}, time.monotonic()
    readers = readers_of(run_dir)
    wholes = {each.path: Whole.of(each.path) for each in readers}
    logs = run_directory.sizes(run_dir)

    def read(given: Input) -> None:
        path, reader = readers[given.reader]
        count["inputs"] += 1
        put(path, given.content)
        if given.content in (PIPE, ENDLESS, HUGE):  # not an alarm, which would be heard only after the wait
            faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        try:
            with contextlib.ExitStack() as as_written:
                if path.name != "checksums.json":  # else nothing of it would be read; a stranger can make them anew
                    as_written.enter_context(mock.patch.object(checkpoint, "damage_of", return_value=None))
                reader()
            count["read"] += 1
        except A3CError:
            count["refused"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
            put(path, wholes[path].content)
            for name, size in run_directory.sizes(run_dir).items():
                if size != logs[name]:  # cut back, as a damaged checkpoint said
                    put(run_dir / name, wholes[run_dir / name].content)

    drawn(VALUES, 100, "0")(lambda _: None)()  # at first Hypothesis looks for numbers and words in this program's files
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while count["inputs"] < inputs:
        at_once = min(EXAMPLES_AT_ONCE, inputs - count["inputs"])
        batch = drawn(damages(readers, wholes), at_once, f"{seed} {count['inputs']}")(read)
        # Seeding devices that are not there formats the stack for each of them, a quarter of the time.
        with mock.patch.object(torch, "manual_seed", torch.default_generator.manual_seed):
            batch()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**count, "grown_kib": grown, "seconds": round(time.monotonic() - began)}


def drawn(strategy: st.SearchStrategy[Any], examples: int, seed: str) -> Callable[[Callable[[Any], None]], Any]:
    """Has a function called with so many arguments that are drawn; the smallest that it raises for is shown."""
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    return lambda function: hypothesis.seed(seed)(settings(hypothesis.given(strategy)(function)))


def put(path: Path, content: bytes | str) -> None:
    """Let this lie there, instead of whatever does."""
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        path.rmdir()
    elif not stat.S_ISREG(mode) or content in NO_FILES:
        path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == DIRECTORY:
        path.mkdir()
    elif content == PIPE:
        os.mkfifo(path)
    elif content == HUGE:
        path.touch()
        os.truncate(path, 2**40)
    else:
        path.symlink_to(content)


def fuzz_together(folder: Path, inputs: int, processes: int, seed: int) -> dict[str, Any]:
    """`fuzz` in so many processes, each with a run of its own and a seed of its own; their sums, the largest growth."""
    runs = [tiny_run(folder / str(number)) for number in range(processes)]
    shares = [inputs // processes + (number < inputs % processes) for number in range(processes)]
    seeds = [seed + number for number in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        results = list(pool.map(fuzz_in_a_process, runs, shares, seeds))
    together: dict[str, Any] = {name: sum(r[name] for r in results) for name in ("inputs", "refused", "read")}
    return together | {name: max(r[name] for r in results) for name in ("grown_kib", "seconds")}


def fuzz_in_a_process(run_dir: Path, inputs: int, seed: int) -> dict[str, Any]:
    """`fuzz_alone` in a process of its own, which shows what it finds."""
    command = [sys.executable, "-W", "ignore", __file__, str(run_dir), str(inputs), str(seed)]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def fuzz_alone(run_dir: Path, inputs: int, seed: int) -> dict[str, Any]:
    """`fuzz` with one thread: networks of a few weights are built, threads would only wait for each other.

    It may take only so much memory, and is ended where it waits for ever.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    with one_thread():
        return fuzz(run_dir, inputs, seed)


def tiny_run(run_dir: Path) -> Path:
    """A run to damage the files of."""
    python, where = [sys.executable, "-W", "ignore", "-m", "a3c"], ["--run-dir", str(run_dir)]
    command = ["train", "CartPole-v1", "--total-env-steps", "2000", "--hidden-sizes", "8", "--runtime", "serial"]
    command += ["--evaluate-every", "1000", "--evaluate-episodes", "1"]  # so that the best policy is kept
    subprocess.run([*python, *command, *where, "--quiet", "--no-tensorboard"], check=True)
    write_json(run_dir / "config.json", json.loads((run_dir / "config.json").read_text()))
    return run_dir


if __name__ == "__main__":
    print(json.dumps(fuzz_alone(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
