import contextlib
import csv
import importlib.util
import json
import math
import os
import resource
import shutil
import struct
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from a3c.errors import UsageError
from a3c.experiment.loggers import LoggerList, NullLogger, finite_number, tensorboard
from a3c.experiment.loggers import background as background_module
from a3c.experiment.loggers import wandb as wandb_module
from a3c.experiment.loggers.background import BackgroundLogger
from a3c.experiment.loggers.episodes_csv import EpisodesCsvLogger
from a3c.experiment.loggers.growing_file import GrowingFile
from a3c.experiment.loggers.jsonl import JsonlLogger
from a3c.experiment.loggers.tensorboard import TensorBoardLogger
from a3c.experiment.loggers.wandb import WandbLogger, check_installed
from leftovers import nothing_left


def episode(number, **other):
    line = {"worker": 1, "env_steps": 10 * number, "seconds": 0.5 * number, "return": 2.0 * number, "length": 7}
    return {"episode": number, "worker_episode": number} | line | other


def metrics(**other):
    return {"env_steps": 640, "seconds": 1.5, "updates": 4, "entropy": 0.6, "return_mean_100": None} | other


class Tape:
    """A sink that keeps what it was told, and raises when told to."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at, self.threads = [], fail_at, set()

    def write(self, step, metrics):
        self._note(("write", step, dict(metrics)))

    def close(self):
        self._note(("close",))

    def _note(self, call):
        self.threads.add(threading.current_thread())
        self.calls.append(call)
        if call[0] == self.fail_at:
            raise OSError(f"{self.fail_at} failed\nand more lines")


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (None, None),
        (math.nan, None),
        (-math.inf, None),
        (np.float64("nan"), None),
        ("1", None),
        (True, None),
        ([1], None),
    ],
)
def test_finite_number(value, number):
    assert finite_number(value) == number


@pytest.mark.parametrize(
    "make",
    [
        lambda path: NullLogger(),
        lambda path: LoggerList([JsonlLogger(path / "a", print), NullLogger()], print),
        lambda path: JsonlLogger(path / "a", print),
        lambda path: EpisodesCsvLogger(path / "a", print),
        lambda path: TensorBoardLogger(path / "a"),
        lambda path: BackgroundLogger("a", lambda: JsonlLogger(path / "a", print)),
    ],
)
def test_every_sink_takes_every_kind_of_line_and_keeps_none_of_them(tmp_path, make):
    sink = make(tmp_path)
    for line in (metrics(), episode(1), metrics(entropy=math.nan)):
        before = dict(line)
        sink.write(640, line)
        assert str(line) == str(before)
    sink.close()


class TestLoggerList:
    @pytest.mark.parametrize("fail_at", ["write", "close"])
    def test_a_sink_that_raises_is_dropped_with_one_line_and_the_rest_go_on(self, fail_at):
        failing, sound, reports = Tape(fail_at), Tape(), []
        sinks = LoggerList([failing, sound], reports.append)
        for step in (1, 2):
            sinks.write(step, {"x": step})
        sinks.close()
        assert sound.calls == [("write", 1, {"x": 1}), ("write", 2, {"x": 2}), ("close",)]
        assert reports == [f"Tape stopped, the run goes on without it: OSError: {fail_at} failed"]
        assert [call[0] for call in failing.calls] == {
            "write": ["write", "close"],  # closed when it is dropped, so that no file stays open
            "close": ["write", "write", "close"],
        }[fail_at]

    def test_closing_again_closes_no_sink_twice(self):
        tape = Tape()
        sinks = LoggerList([tape], print)
        sinks.close()
        sinks.close()
        assert tape.calls == [("close",)]

    def test_ctrl_c_is_no_sinks_failure(self):
        tape = Tape()
        tape.write = lambda step, metrics: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            LoggerList([tape], print).write(0, {})


class TestJsonl:
    def test_one_object_a_line_at_once_with_null_for_what_json_lacks(self, tmp_path):
        logger = JsonlLogger(tmp_path / "metrics.jsonl", print)
        logger.write(640, metrics(a=math.nan, b=math.inf, c=np.float32(0.5), d=np.int64(3), e=np.float32("nan")))
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before close
        logger.write(5, {"x": True})
        logger.write(7, episode(1))
        logger.close()
        assert json.loads(line) == metrics(a=None, b=None, c=0.5, d=3, e=None)
        assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()[1:]] == [
            {"env_steps": 5, "x": True}
        ]

    def test_adds_to_a_file_and_closes_its_torn_line(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"env_steps": 1}\n{"env_st')
        for step in (2, 3):
            logger = JsonlLogger(path, print)
            logger.write(step, {})
            logger.close()
        assert path.read_text().splitlines() == ['{"env_steps": 1}', '{"env_st', '{"env_steps": 2}', '{"env_steps": 3}']


class TestEpisodesCsv:
    def test_columns_and_rows(self, tmp_path):
        path = tmp_path / "episodes.csv"
        for number in (1, 2):  # the second adds to the first's file
            logger = EpisodesCsvLogger(path, print)
            logger.write(0, episode(number, other="ignored"))
            logger.write(0, metrics())
            logger.close()
        header = b"worker,env_steps,seconds,return,length,worker_episode\n"
        assert path.read_bytes() == header + b"1,10,0.5,2.0,7,1\n1,20,1.0,4.0,7,2\n"

    def test_a_file_of_an_older_version_keeps_its_columns(self, tmp_path):
        path = tmp_path / "episodes.csv"
        path.write_text("worker,env_steps,seconds,return,length\n")
        logger = EpisodesCsvLogger(path, print)
        logger.write(0, episode(1))
        logger.close()
        assert path.read_bytes() == b"worker,env_steps,seconds,return,length\n1,10,0.5,2.0,7\n"

    def test_flush_brings_rows_to_the_disk_and_thousands_are_cheap(self, tmp_path):
        logger = EpisodesCsvLogger(tmp_path / "episodes.csv", print)
        started = time.perf_counter()
        for number in range(1, 20_001):
            logger.write(0, episode(number))
        assert time.perf_counter() - started < 2  # about 0.05
        logger.flush()
        with open(tmp_path / "episodes.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 20_000
        assert float(rows[-1]["return"]) == 40_000.0
        logger.close()
        logger.flush()  # nothing left to do


@contextlib.contextmanager
def no_file_larger_than(size):
    """As on a disk that is full: a write is cut short there, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestGrowingFile:
    def test_a_disk_that_is_full_for_a_while_costs_what_came_meanwhile(self, tmp_path):
        path, said = tmp_path / "lines", []
        file = GrowingFile(path, said.append, "header")
        file.add(["one"])
        with no_file_larger_than(13):
            file.add(["two, which fits half", "three"])
            file.add(["four, which fits half"])
        fix = "raise the limit of a file's size (ulimit -f)"
        assert said == [f"lines cannot be written (File too large: {fix}): lines are lost; the run goes on"]
        file.add(["five"])
        assert said[1:] == ["lines is written again; 3 lines of it are lost"]
        file.add(["six"])
        file.close()
        assert path.read_text() == "header\none\nfive\nsix\n"
        assert len(said) == 2

    def test_what_is_missing_at_the_end_is_told(self, tmp_path):
        path, said = tmp_path / "lines", []
        file = GrowingFile(path, said.append)
        with no_file_larger_than(2):
            file.add(["one"])
            file.close(["two", "three"])
        assert said[1:] == ["lines lacks its last 3 lines"]
        assert path.read_text() == ""

    def test_a_file_that_has_vanished_is_begun_anew(self, tmp_path):
        path, said = tmp_path / "run" / "lines", []
        path.parent.mkdir()
        file = GrowingFile(path, said.append, "header")
        file.add(["one"])
        shutil.rmtree(path.parent)
        for line in ("two", "three"):
            file.add([line])
        assert said == [f"{path} has vanished: it is begun anew, its earlier lines are lost"]
        assert path.read_text() == "header\ntwo\nthree\n"
        shutil.rmtree(path.parent)
        path.parent.write_text("in its way")
        file.add(["four"])
        fix = "something that is no directory lies in its way: move that away"
        assert said[1:] == [f"lines cannot be written (File exists: {fix}): lines are lost; the run goes on"]
        path.parent.unlink()
        file.add(["five"])
        file.close()
        assert said[3:] == ["lines is written again; 1 lines of it are lost"]
        assert path.read_text() == "header\nfive\n"


class TestTensorBoard:
    def read(self, directory):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0})
        accumulator.Reload()
        return {
            tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
            for tag in accumulator.Tags()["scalars"]
        }

    def test_tensorboard_reads_the_scalars(self, tmp_path):
        logger = TensorBoardLogger(tmp_path / "new" / "tensorboard")
        logger.write(640, metrics(learning_rate=np.float64(0.25), bad=math.inf, word="no", many=[1]))
        logger.write(1280, metrics(entropy=0.5))
        for number in (2, 1):  # T as workers saw it: it may fall
            logger.write(10 * number, episode(number))
        logger.write(3, {"nothing": None})
        logger.close()
        scalars = self.read(tmp_path / "new" / "tensorboard")
        assert scalars == {
            "seconds": [(640, 1.5), (1280, 1.5)],
            "updates": [(640, 4.0), (1280, 4.0)],
            "entropy": [(640, pytest.approx(0.6)), (1280, 0.5)],
            "learning_rate": [(640, 0.25)],
            "episode/return": [(20, 4.0), (10, 2.0)],
            "episode/length": [(20, 7.0), (10, 7.0)],
        }

    def test_a_directory_that_has_vanished_is_made_anew(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tensorboard, "_FLUSH_EVERY_S", 0.0)
        logger = TensorBoardLogger(tmp_path / "run" / "tensorboard")
        logger.write(1, metrics())
        shutil.rmtree(tmp_path / "run")
        logger.write(2, {"entropy": 0.5})
        logger.close()
        assert self.read(tmp_path / "run" / "tensorboard")["entropy"] == [(2, 0.5)]

    def test_what_was_written_can_be_read_before_close(self, tmp_path):
        logger = TensorBoardLogger(tmp_path)
        logger._next_flush = 0.0
        logger.write(640, {"x": 1.0})
        assert self.read(tmp_path) == {"x": [(640, 1.0)]}
        logger.close()


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, data, records = path.read_bytes(), 7, b"", []
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(data))
            data = b""
    return records


class TestWandb:
    def test_offline_run_from_a_background_thread(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        reports = []
        logger = BackgroundLogger(
            "wandb",
            lambda: WandbLogger("a3c", "a-name", {"seed": 3}, tmp_path, "offline", reports.append),
        )
        for number in (1, 2):
            logger.write(10 * number, episode(number))
        logger.write(640, metrics(seconds=90.0))
        logger.close()

        assert "run in" in reports[0]
        (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
        records = wandb_records(file)
        history = [
            {
                (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                for item in one.history.item
                if not (item.key or item.nested_key[0]).startswith("_")
            }
            for one in records
            if one.HasField("history")
        ]
        assert history[:3] == [
            {"episode": 1, "episode_reward": 2.0, "episode_length": 7, "env_steps": 10},
            {"episode": 2, "episode_reward": 4.0, "episode_length": 7, "env_steps": 20},
            {"env_steps": 640, "seconds": 90.0, "updates": 4, "entropy": 0.6},
        ]
        assert history[3]["running time"] == 1.5  # minutes
        axes = {
            one.metric.name or one.metric.glob_name: one.metric.step_metric for one in records if one.HasField("metric")
        }
        assert axes["episode_reward"] == axes["episode_length"] == "episode"
        assert axes["*"] == "env_steps"
        (run,) = [one.run for one in records if one.HasField("run")][:1]
        assert (run.project, run.display_name) == ("a3c", "a-name")
        assert {item.key: item.value_json for item in run.config.update}["seed"] == "3"

    def test_the_service_process_ends_with_each_run(self, tmp_path):
        for number in range(2):
            with nothing_left():
                logger = WandbLogger("a3c", None, {}, tmp_path / str(number), "offline")
                logger.write(10, episode(1))
                logger.close()

    def test_without_a_login_it_neither_asks_nor_leaves_its_service(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        with nothing_left(), pytest.raises(Exception, match="wandb login"):
            WandbLogger("a3c", None, {}, tmp_path, "online")

    def test_missing_package_is_wrong_usage(self, tmp_path, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"pip install a3c\[wandb\]"):
            WandbLogger("a3c", None, {}, tmp_path, "offline")

    def test_a_folder_of_that_name_is_no_package(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
        with pytest.raises(UsageError):
            check_installed()

    def test_asking_imports_nothing(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "wandb", raising=False)
        wandb_module.check_installed()
        assert "wandb" not in sys.modules


class TestBackground:
    def test_one_other_thread_makes_writes_and_closes_in_order(self):
        tapes = []

        def make():
            tapes.append(Tape())
            return tapes[-1]

        logger = BackgroundLogger("tape", make)
        time.sleep(0.02)
        assert tapes == []  # nothing before the first write
        line = {"x": 1}
        for step in range(1000):
            logger.write(step, line)
        line["x"] = 2  # what was written is a copy
        logger.close()
        (tape,) = tapes
        assert tape.calls == [*(("write", step, {"x": 1}) for step in range(1000)), ("close",)]
        (thread,) = tape.threads
        assert thread is not threading.current_thread()
        assert not thread.is_alive()

    def test_a_slow_sink_holds_nobody_up(self):
        gate, tape = threading.Event(), Tape()

        def make():
            gate.wait()
            return tape

        logger = BackgroundLogger("tape", make)
        started = time.perf_counter()
        for step in range(100):
            logger.write(step, {})
        assert time.perf_counter() - started < 1
        assert tape.calls == []
        gate.set()
        logger.close()
        assert len(tape.calls) == 101

    def test_without_a_line_the_sink_is_never_made(self):
        logger = BackgroundLogger("tape", lambda: pytest.fail("made"))
        logger.close()

    @pytest.mark.parametrize("fail_at", ["make", "write"])
    def test_a_failure_is_raised_at_the_next_write(self, fail_at):
        tape = Tape(fail_at)

        def make():
            if fail_at == "make":
                raise OSError("make failed")
            return tape

        reports = []
        logger = BackgroundLogger("tape", make)
        sinks = LoggerList([logger], reports.append)
        sinks.write(0, {})
        wait_for(lambda: not logger._thread.is_alive())
        sinks.write(1, {})
        sinks.write(2, {})
        sinks.close()
        assert reports == [f"tape stopped, the run goes on without it: OSError: {fail_at} failed"]
        assert [call[0] for call in tape.calls] == ([] if fail_at == "make" else ["write", "close"])

    def test_a_failure_in_close_is_raised_by_close(self):
        logger = BackgroundLogger("tape", lambda: Tape("close"))
        logger.write(0, {})
        with pytest.raises(OSError, match="close failed"):
            logger.close()

    def test_close_waits_no_longer_than_its_bound(self, monkeypatch):
        monkeypatch.setattr(background_module, "_CLOSE_TIMEOUT_S", 0.05)
        gate = threading.Event()
        logger = BackgroundLogger("tape", lambda: gate.wait() and Tape())
        logger.write(0, {})
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            logger.close()
        gate.set()
        logger._thread.join(10)
