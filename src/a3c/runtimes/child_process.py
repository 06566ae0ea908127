"""What every process that a run starts has in common: how it is started, and what it does first."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process, resource_tracker, util
from typing import Any, cast

from a3c.errors import UsageError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_PR_SET_PDEATHSIG = 1  # sys/prctl.h
_LOOK_EVERY_S = 0.2
_FORK_SERVER_OF = "A3C_FORK_SERVER_OF"  # in its environment until it has read it
if sys.platform == "linux":
    _PARENT_GONE = signal.SIGUSR2  # for the fork server
_import_watches: list[tuple[threading.Event, threading.Thread]] = []


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's `__main__` into the processes started meanwhile."""
    main = sys.modules["__main__"].__dict__
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(hidden)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Let processes started meanwhile be born deaf to Ctrl-C and SIGTERM; this one gets them afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # first: starting it unblocks them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def dumped(recipe: Callable[..., Any]) -> bytes:
    """The recipe as bytes for another process. Raises UsageError if something that it holds cannot go there."""
    import cloudpickle  # noqa: PLC0415  (only where used)

    try:
        return cast(bytes, cloudpickle.dumps(recipe))
    except Exception as error:  # whatever an object's own way of being pickled raises
        raise UsageError(
            f"the environment, wrapper or model cannot be sent to a worker ({type(error).__name__}: {error}): it holds "
            "something that belongs to this process, such as a lock, an open file or a ready environment; make that "
            "inside the callable, or take --runtime serial"
        ) from error


def loaded(recipe: bytes) -> Callable[..., Any]:
    """The recipe. Raises UsageError if something that it holds by name is not importable in this process."""
    import cloudpickle  # noqa: PLC0415  (only here, where a failure to import is reported)

    try:
        return cast(Callable[..., Any], cloudpickle.loads(recipe))
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the environment, wrapper or model cannot be loaded in a worker ({type(error).__name__}: {error}): "
            "put it into a module that can be imported from anywhere, or define it in the script or notebook itself"
        ) from error


def leave_signals_to_the_parent() -> None:
    """Do nothing on Ctrl-C and SIGTERM."""
    # Ctrl-C and a SIGTERM to the whole group reach the parent, too, and it decides. A handler that does nothing,
    # rather than SIG_IGN and a blocked mask, which an environment's own subprocesses would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def use_one_thread() -> None:
    """Keep torch and NumPy to one thread: W workers with a thread for each core each would fight for the cores."""
    import torch  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.set_num_threads(1)
    threadpool_limits(1)
    for name in _THREADS:  # what is loaded later, by an environment perhaps, reads these
        os.environ.setdefault(name, "1")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed instead of giving it back to the system, where it is glibc.

    A worker frees and takes the same large arrays at every update. Each time, the system would map fresh pages and fill
    them with zeros: for Atari's pictures that took as long as half of the learning itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


class WatchesParent:
    """As the first of a spawned process's arguments: from where it is unpickled on, the process goes with its parent.

    What comes after it may import torch, which takes seconds, before the process gets to `exit_with_parent`.
    """

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return spawned_begins, (os.getpid(),)


def spawned_begins(parent: int) -> None:
    """In a spawned process: go when the parent of this number does."""
    _die_with_parent()
    begin_of_imports(parent)


@contextlib.contextmanager
def own_fork_server() -> Iterator[None]:
    """Tell the fork server that is started meanwhile whose it is, and where that process has put its socket."""
    os.environ[_FORK_SERVER_OF] = f"{os.getpid()} {util.get_temp_dir()}"
    try:
        yield
    finally:
        del os.environ[_FORK_SERVER_OF]


def fork_server_begins() -> None:
    """In the fork server: go when the parent does, and then remove its socket, as it cannot any more.

    Its number is handed over, since it may have gone already. The server's own loop notices by itself that nobody is
    left, but it begins after the imports.
    """
    number, _, directory = os.environ.pop(_FORK_SERVER_OF, f"{os.getppid()} ").partition(" ")
    server, parent = os.getpid(), int(number)

    def remove_socket() -> None:
        if directory and os.getpid() == server and os.getppid() != parent:  # neither a worker's end, nor a mere stop
            shutil.rmtree(directory, ignore_errors=True)

    def look(*_: object) -> None:
        if os.getpid() == server and os.getppid() != parent:  # and not only the thread that has started it
            remove_socket()
            os._exit(1)

    atexit.register(remove_socket)
    if sys.platform == "linux":
        # Its loop would wait for the workers, of which one may not notice: so it is the first to go, and they after it.
        signal.signal(_PARENT_GONE, look)
        _on_parents_death(_PARENT_GONE)
    begin_of_imports(parent, remove_socket)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        signal.signal(_PARENT_GONE, signal.SIG_DFL)  # the fork server's
        _on_parents_death(signal.SIGKILL)


def _on_parents_death(number: int) -> None:
    """Linux: have this process sent a signal when the thread that has started it ends, the fork server's with that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def begin_of_imports(parent: int, last: Callable[[], None] = lambda: None) -> None:
    """Go when the parent of this number does, until `end_of_imports`; `last` is called before.

    Until then, no garbage is collected either: see `a3c.runtimes.importing`.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY_S):
            if os.getppid() != parent:
                last()
                os._exit(1)

    thread = threading.Thread(target=watch, name="a3c-import-watch", daemon=True)
    thread.start()
    _import_watches.append((over, thread))
    gc.disable()


def end_of_imports() -> None:
    """Watch no longer. No thread is left then, so that the fork server may fork."""
    while _import_watches:
        over, thread = _import_watches.pop()
        over.set()
        thread.join()
        gc.freeze()  # what is imported is no garbage; processes that are forked from this one go on sharing its memory
        gc.enable()


def exit_with_parent(*, with_fork_server: bool = True) -> None:
    """Go when the parent does, whatever it died of, and whatever this process is doing: on Linux the system sees to it.

    Elsewhere a thread does, which has to wait for the interpreter where compiled code keeps it; and also in a process
    that is to outlive the fork server it comes from.
    """
    end_of_imports()
    parent = parent_process()
    if with_fork_server or parent is None or os.getppid() == parent.pid:
        _die_with_parent()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="a3c-parent-watch", daemon=True).start()
