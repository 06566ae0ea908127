"""A process beside the workers: it answers, never holds up the caller, and goes when it is told to or alone."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver

import pytest

from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.side_process import SideProcess
from a3c.runtimes.worker import Failure
from leftovers import descendants, nothing_left

pytestmark = pytest.mark.timeout(60)


def make_doubler():
    """From a question to its double; some questions are commands."""

    def answer(question):
        if question == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if question == "raise":
            raise ZeroDivisionError("by nought")
        if question == "leave":
            raise SystemExit(3)
        if question == "sleep":
            time.sleep(600)
        if question == "nice":
            return os.nice(0)
        return 2 * question

    return answer


def make_nothing():
    raise LookupError("no environment here")


@pytest.fixture(params=["forkserver", "spawn"])
def runtime(request):
    with nothing_left():
        runtime = ProcessRuntime(request.param, preload=["torch"])
        runtime._remember_services()
        with contextlib.closing(runtime):
            runtime.prepare()
            yield runtime


@contextlib.contextmanager
def beside(runtime, make_answer=make_doubler):
    with contextlib.closing(SideProcess(runtime.context, make_answer, "a3c-test")) as process:
        yield process


def test_it_answers_one_question_after_another(runtime):
    with beside(runtime) as process:
        for question in (1, [2], "three"):
            assert not process.busy
            process.ask(question)
            assert process.busy
            assert process.answer(30) == 2 * question
        assert not process.busy


def test_the_caller_waits_neither_for_the_start_nor_for_the_answer(runtime):
    large = b"x" * 2**24  # more than a pipe takes
    with beside(runtime) as process:
        began = time.monotonic()
        process.ask(large)
        assert time.monotonic() - began < 1  # the process has hardly begun to import
        assert process.answer() is None
        assert process.busy
        assert process.answer(30) == 2 * large


def test_it_gives_way_to_the_workers(runtime):
    with beside(runtime) as process:
        process.ask("nice")
        assert process.answer(30) > os.nice(0)


@pytest.mark.parametrize(
    ("question", "kind", "words"),
    [
        ("raise", "ZeroDivisionError", "by nought"),
        ("leave", "SystemExit", "3"),
        ("die", "ProcessLookupError", "killed"),
    ],
)
def test_whatever_ends_it_is_a_failure_and_not_an_exception(runtime, question, kind, words):
    with beside(runtime) as process:
        process.ask(question)
        failure = process.answer(30)
        assert isinstance(failure, Failure)
        assert failure.kind == kind
        assert words in failure.summary


def test_a_failure_to_begin_answers_the_first_question(runtime):
    with beside(runtime, make_nothing) as process:
        process.ask(1)
        failure = process.answer(30)
        assert (failure.kind, failure.summary) == ("LookupError", "no environment here")


def test_closing_ends_it_in_the_middle_of_its_work(runtime):
    before = descendants()
    with beside(runtime) as process:
        process.ask("sleep")
        assert process.answer(2.0) is None
        pid = process._process.pid
        assert pid in descendants() - before
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert pid not in descendants()


@pytest.mark.usefixtures("no_fork_server")
def test_closing_ends_it_after_the_fork_server_has_gone():
    with nothing_left():
        runtime = ProcessRuntime("forkserver", preload=["torch"])
        runtime.prepare()
        process = SideProcess(runtime.context, make_doubler, "a3c-test")
        process.ask(1)
        assert process.answer(30) == 2
        process.ask("sleep")
        runtime.close()
        assert forkserver._forkserver._forkserver_pid is None
        pid = process._process.pid
        assert alive(pid)
        assert process.answer(0.2) is None
        process.close()
        deadline = time.monotonic() + 5
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ORPHAN = """
import os, sys, time
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.side_process import SideProcess

def make():
    def answer(question):
        if question == "sleep":
            time.sleep(600)
        return os.getpid()
    return answer

runtime = ProcessRuntime({start_method!r})
runtime.prepare()
process = SideProcess(runtime.context, make, "a3c-test")
process.ask("who")
print(process.answer(30), flush=True)
process.ask("sleep")
time.sleep(600)
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
@pytest.mark.parametrize("to_group", [False, True])
def test_it_goes_with_its_parent_and_ignores_ctrl_c(tmp_path, start_method, to_group):
    script = tmp_path / "script.py"
    script.write_text(ORPHAN.format(start_method=start_method))
    with nothing_left():
        parent = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        pid = int(parent.stdout.readline())
        if to_group:
            for child in descendants(parent.pid):
                if child == pid:
                    os.kill(child, signal.SIGINT)
            time.sleep(0.3)
            assert alive(pid)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 5
        while alive(pid):
            assert time.monotonic() < deadline, "it has outlived its parent"
            time.sleep(0.02)
