"""Memory and a lock that several processes share and that the kernel gives back when they are gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.context import BaseContext
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from a3c.errors import OutOfResources, StoreBusy

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NUMPY_DTYPES = {torch.float32: "f4", torch.float64: "f8"}
"""The dtypes that θ may have, as NumPy knows them."""

Layout: TypeAlias = dict[str, tuple[DTypeLike, Sequence[int]]]

_PATIENCE_S, _POLL_S = 2.0, 0.0005
_ARENA = 4 * 2**20  # bytes; the standard library maps up to so many for a smaller array
_CACHE_LINE = 64  # bytes; what different workers write must not share one


class SharedBlock:
    """Named arrays, zeros at first, in one block of anonymous shared memory.

    It has no name in the file system, so nothing can be left behind: the kernel frees it with the last process
    that maps it. It can be sent to a process that is being started (under forkserver and spawn alike), and only
    then.

    Raises OutOfResources if there is no room for it.
    """

    def __init__(self, context: BaseContext, layout: Layout) -> None:
        self._layout = layout
        size = sum(_rounded(dtype, shape) for dtype, shape in layout.values())
        _check_room(size + _CACHE_LINE)
        self._raw: Any = context.RawArray(ctypes.c_byte, size + _CACHE_LINE)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name; views of the shared memory."""
        memory = np.frombuffer(self._raw, np.uint8)
        offset = -memory.ctypes.data % _CACHE_LINE
        arrays = {}
        for name, (dtype, shape) in self._layout.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays[name] = memory[offset : offset + size].view(dtype).reshape(shape)
            offset += _rounded(dtype, shape)
        return arrays


def _check_room(size: int) -> None:
    """Raise OutOfResources where the standard library would map a file that has no room, which is a SIGBUS later.

    It takes an unlinked one, in /dev/shm if that has room for what it maps at once, and else in the temporary
    directory, whatever that has.
    """
    if sys.platform == "win32":
        return
    temporary = tempfile.gettempdir()
    at_once = {"/dev/shm": max(size, _ARENA), temporary: size} if sys.platform == "linux" else {temporary: size}
    free = {place: shutil.disk_usage(place).free for place in at_once if os.path.isdir(place)}
    if all(free[place] < at_once[place] for place in free):
        have = " and ".join(f"{place} has {room / 2**20:,.1f}" for place, room in free.items())
        raise OutOfResources(
            f"no room for {size / 2**20:,.1f} MiB of shared memory: {have} MiB free; enlarge /dev/shm (docker run "
            "--shm-size=1g), or let TMPDIR name a directory with room"
        )


def _rounded(dtype: DTypeLike, shape: Sequence[int]) -> int:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return -(-size // _CACHE_LINE) * _CACHE_LINE


class ProcessLock:
    """A readers-writer lock between processes, which the kernel releases when its holder dies.

    Where it was made, nobody waits for it for ever: after two seconds StoreBusy is raised, since a process that is
    stopped in the middle of an update keeps it for as long as it pleases, and only there somebody can end that process.

    A POSIX record lock on an unlinked file. It belongs to the process: within one process it excludes nobody,
    and it is not to be taken twice. (On Windows a byte of a temporary file, always held alone.)
    """

    def __init__(self) -> None:
        self._home: int | None = os.getpid()
        descriptor, path = tempfile.mkstemp(prefix="a3c-lock-")
        if sys.platform != "win32":
            os.unlink(path)
        self._own(descriptor, path)

    def _own(self, descriptor: int, path: str) -> None:
        # One descriptor a process: closing any other of the same file would drop the lock.
        self._descriptor, self._path = descriptor, path
        weakref.finalize(self, _close, descriptor, path)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other sharers, and with no exclusive holder."""
        try:  # around the locking, too: what a signal raises right behind it must not keep the lock
            self._take(exclusive=False)
            yield
        finally:
            _unlock(self._descriptor)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        try:
            self._take(exclusive=True)
            yield
        finally:
            _unlock(self._descriptor)

    def _take(self, *, exclusive: bool) -> None:
        if os.getpid() != self._home:
            _lock(self._descriptor, exclusive=exclusive)
            return
        deadline = time.monotonic() + _PATIENCE_S
        while not _try_lock(self._descriptor, exclusive=exclusive):
            if time.monotonic() > deadline:
                raise StoreBusy(f"a worker has held the store's lock for {_PATIENCE_S:g} s: it hangs in an update")
            time.sleep(_POLL_S)

    def __getstate__(self) -> dict[str, Any]:
        if sys.platform == "win32":
            return {"path": self._path}
        return {"path": self._path, "descriptor": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._home = None
        if sys.platform == "win32":
            self._own(os.open(state["path"], os.O_RDWR | os.O_BINARY), state["path"])
        else:
            self._own(state["descriptor"].detach(), state["path"])


if sys.platform == "win32":

    def _lock(descriptor: int, *, exclusive: bool) -> None:
        while not _try_lock(descriptor, exclusive=exclusive):
            time.sleep(_POLL_S)

    def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        with contextlib.suppress(OSError):  # it was not held
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

    def _close(descriptor: int, path: str) -> None:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # while others have it open it stays; the last one removes it
            os.unlink(path)

else:

    def _lock(descriptor: int, *, exclusive: bool) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)

    def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
        try:
            fcntl.lockf(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the standard allows either
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)

    def _close(descriptor: int, path: str) -> None:
        os.close(descriptor)
