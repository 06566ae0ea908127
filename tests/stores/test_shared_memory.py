"""Shared memory and the lock between processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest

from a3c.stores.shared_memory import ProcessLock, SharedBlock
from leftovers import nothing_left

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server and /proc"),
]

LAYOUT = {"five": ("f4", (5,)), "table": ("f8", (3, 2)), "counts": ("i8", (2,))}
A_WHILE_S = 0.1


@pytest.fixture
def context(fork_server):
    """No process, segment or file outlives a test."""
    with nothing_left():
        yield fork_server
        assert not multiprocessing.active_children()


def test_arrays_have_their_shapes_are_zero_and_share_no_cache_line(context):
    arrays = SharedBlock(context, LAYOUT).arrays()
    assert {name: (a.dtype.str, a.shape) for name, a in arrays.items()} == {
        "five": ("<f4", (5,)),
        "table": ("<f8", (3, 2)),
        "counts": ("<i8", (2,)),
    }
    assert all(not a.any() for a in arrays.values())
    assert [a.ctypes.data % 64 for a in arrays.values()] == [0, 0, 0]
    starts = [a.ctypes.data for a in arrays.values()]
    assert np.diff(starts).tolist() == [64, 64]


def test_arrays_are_views_of_the_same_memory_each_time(context):
    block = SharedBlock(context, LAYOUT)
    block.arrays()["table"][2, 1] = 7.5
    assert block.arrays()["table"].tolist() == [[0, 0], [0, 0], [0, 7.5]]


def test_the_memory_outlives_the_block_while_an_array_does(context):
    array = SharedBlock(context, LAYOUT).arrays()["five"]
    gc.collect()
    others = [SharedBlock(context, LAYOUT).arrays()["five"] for _ in range(10)]
    for other in others:
        other[:] = 1.0
    assert not array.any()


def add_one(block):
    for array in block.arrays().values():
        array += 1


def test_a_child_writes_what_the_parent_reads(context):
    block = SharedBlock(context, LAYOUT)
    process = context.Process(target=add_one, args=(block,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {name: a.tolist() for name, a in block.arrays().items()} == {
        "five": [1.0] * 5,
        "table": [[1.0, 1.0]] * 3,
        "counts": [1, 1],
    }


class Holder:
    """A process that takes the lock, says so, and gives it back when told."""

    def __init__(self, context, lock, kind):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=hold, args=(lock, kind, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self.pipe.recv() == "started"

    def has_it(self, within_s=A_WHILE_S):
        return self.pipe.poll(within_s)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pipe.close()  # gives it back
        self.process.join(5)
        self.process.close()


def hold(lock, kind, pipe):
    pipe.send("started")
    with getattr(lock, kind)():
        pipe.send("mine")
        try:
            pipe.recv()
        except EOFError:
            return


@pytest.mark.parametrize(
    ("held", "wanted", "at_once"),
    [
        ("exclusive", "exclusive", False),
        ("exclusive", "shared", False),
        ("shared", "exclusive", False),
        ("shared", "shared", True),
    ],
)
def test_exclusive_excludes_and_shared_shares(context, held, wanted, at_once):
    lock = ProcessLock()
    with Holder(context, lock, wanted) as first:
        assert first.has_it(5)
    with getattr(lock, held)(), Holder(context, lock, wanted) as other:
        assert other.has_it(5 if at_once else A_WHILE_S) == at_once
        if not at_once:
            other.process.kill()


def test_a_waiting_process_gets_the_lock_when_it_is_given_back(context):
    lock = ProcessLock()
    with lock.exclusive():
        other = Holder(context, lock, "exclusive")
        assert not other.has_it()
    with other:
        assert other.has_it(5)


def test_the_lock_of_a_killed_process_is_free(context):
    lock = ProcessLock()
    with Holder(context, lock, "exclusive") as holder:
        assert holder.has_it(5)
        holder.process.kill()
        began = time.monotonic()
        with lock.exclusive():
            assert time.monotonic() - began < 5


def test_an_exception_inside_gives_the_lock_back(context):
    lock = ProcessLock()
    with pytest.raises(RuntimeError, match="inside"), lock.exclusive():
        raise RuntimeError("inside")
    with Holder(context, lock, "exclusive") as other:
        assert other.has_it(5)


def test_an_exception_from_a_signal_while_waiting_leaves_nothing_locked(context):
    def interrupt(number, frame):
        raise InterruptedError("by a signal")

    lock, before = ProcessLock(), signal.signal(signal.SIGALRM, interrupt)
    try:
        with Holder(context, lock, "exclusive") as holder:
            assert holder.has_it(5)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptedError, match="by a signal"), lock.exclusive():
                pass
    finally:
        signal.signal(signal.SIGALRM, before)
    with Holder(context, lock, "exclusive") as other:
        assert other.has_it(5)


def test_a_lock_has_no_name_and_closes_its_file(context):
    with nothing_left():
        lock = ProcessLock()
    descriptor = lock._descriptor
    del lock
    gc.collect()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
