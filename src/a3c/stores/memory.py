"""Memory and a lock that several processes share and that the kernel gives back when they are gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from io import FileIO
from multiprocessing import reduction
from multiprocessing.context import BaseContext
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

if sys.platform == "win32":
    import msvcrt
    import time
else:
    import fcntl

NUMPY_DTYPES = {torch.float32: "f4", torch.float64: "f8"}
"""The dtypes that θ may have, as NumPy knows them."""

Layout: TypeAlias = dict[str, tuple[DTypeLike, Sequence[int]]]

_CACHE_LINE = 64  # bytes; what different workers write must not share one


class SharedBlock:
    """Named arrays, zeros at first, in one block of anonymous shared memory.

    It has no name in the file system, so nothing can be left behind: the kernel frees it with the last process
    that maps it. It can be sent to a process that is being started (under forkserver and spawn alike), and only
    then.
    """

    def __init__(self, context: BaseContext, layout: Layout) -> None:
        self._layout = layout
        size = sum(_rounded(dtype, shape) for dtype, shape in layout.values())
        # The standard library maps an unlinked file, in /dev/shm if that has room and else in the
        # temporary directory, so a small /dev/shm is no SIGBUS.
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


def _rounded(dtype: DTypeLike, shape: Sequence[int]) -> int:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return -(-size // _CACHE_LINE) * _CACHE_LINE


class ProcessLock:
    """A readers-writer lock between processes, which the kernel releases when its holder dies.

    A POSIX record lock on an unlinked file. It belongs to the process: within one process it excludes nobody,
    and it is not to be taken twice. (On Windows a byte of a temporary file, always held alone.)
    """

    def __init__(self) -> None:
        descriptor, self._path = tempfile.mkstemp(prefix="a3c-lock-")
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        if sys.platform != "win32":
            os.unlink(self._path)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other sharers, and with no exclusive holder."""
        _lock(self._file, exclusive=False)
        try:
            yield
        finally:
            _unlock(self._file)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        _lock(self._file, exclusive=True)
        try:
            yield
        finally:
            _unlock(self._file)

    def __getstate__(self) -> dict[str, Any]:
        if sys.platform == "win32":
            return {"path": self._path}
        return {"path": self._path, "descriptor": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._path = state["path"]
        if sys.platform == "win32":
            self._file = open(self._path, "r+b", buffering=0)  # noqa: SIM115  (kept for the store's lifetime)
        else:
            self._file = os.fdopen(state["descriptor"].detach(), "r+b", buffering=0)


if sys.platform == "win32":

    def _lock(file: FileIO, *, exclusive: bool) -> None:
        while True:
            try:
                file.seek(0)
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(0.0005)

    def _unlock(file: FileIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _lock(file: FileIO, *, exclusive: bool) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)

    def _unlock(file: FileIO) -> None:
        fcntl.lockf(file, fcntl.LOCK_UN)
