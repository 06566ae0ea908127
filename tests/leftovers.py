"""What a run must not leave behind: processes, shared memory, lock files, sockets."""

import contextlib
import ctypes
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

# Ray's agents, whose raylet has died with the process that began it, try for a minute to tell somebody, and go then.
_LATE = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def descendants(pid: int | None = None) -> set[int]:
    """Live (not zombie) processes below `pid`, by default this one; of a Ray cluster only a run's workers."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(stat.parent.name)] = int(fields[1])
    found, frontier = set(), {pid or os.getpid()}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier} - found
        found |= frontier
    # One that is just ending has no command any more, and the next look will not find it.
    return {pid for pid in found if (command := _command(pid)) not in ("", str(pid)) and not _is_rays_own(command)}


def _is_rays_own(command: str) -> bool:
    program = command.partition(" -c ")[0]  # whose arguments may name Ray's folders, too
    return ("ray::" in program or "/ray/" in program) and "ray::RayWorker" not in program


def shared_files() -> set[str]:
    """Names in /dev/shm, and in the temporary directory lock files, and fork servers' sockets with nobody behind."""
    shm, temporary = Path("/dev/shm"), Path(tempfile.gettempdir())
    names = {str(p) for p in shm.iterdir()} if shm.is_dir() else set()
    listening = Path("/proc/net/unix").read_text()  # not by connecting, which would end the fork server
    sockets = {str(p) for p in temporary.glob("pymp-*/listener-*")}
    names |= {name for name in sockets if name not in listening}
    return names | {str(p) for p in temporary.glob("a3c-lock-*")}


@contextlib.contextmanager
def nothing_left(patience_s: float = 5.0) -> Iterator[None]:
    """Assert that what the block starts has gone when it ends."""
    processes, files = descendants(), shared_files()
    with _taking_in_orphans():
        yield
        deadline = time.monotonic() + patience_s
        while (left := descendants() - processes) | (left_files := shared_files() - files):
            if not left and not (left_files := left_files - _mapped_by_others()):  # files come and go elsewhere
                return
            assert time.monotonic() < deadline, f"left behind: {[_command(pid) for pid in left]} {left_files}"
            time.sleep(0.02)


@contextlib.contextmanager
def _taking_in_orphans() -> Iterator[None]:
    """Whose parent goes meanwhile becomes a child of this process, and not of the system's first: it can be found.

    Only meanwhile: Ray's processes end when the system's first is their parent.
    """
    if sys.platform != "linux":
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _mapped_by_others() -> set[str]:
    """Files that a process has in its memory which is neither this one nor below it."""
    own, found = {os.getpid(), *descendants()}, set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) not in own:
            with contextlib.suppress(OSError):
                found |= {line.split()[-1] for line in maps.read_text().splitlines() if "/dev/shm/" in line}
    return found


@contextlib.contextmanager
def nothing_left_of_children(patience_s: float = 20.0) -> Iterator[dict[str, str]]:
    """Assert that what runs in the environment handed out has gone a while after the block, whoever its parent is."""
    mark = f"A3C_TEST_MARK={uuid.uuid4()}"
    yield os.environ | dict([mark.split("=")])
    deadline = time.monotonic() + patience_s
    while left := _marked(mark):
        assert time.monotonic() < deadline, f"left behind: {[_command(pid) for pid in left]}"
        time.sleep(0.1)


def _marked(mark: str) -> set[int]:
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            pid = int(environment.parent.name)
            if mark.encode() in environment.read_bytes() and not _command(pid).startswith(_LATE):
                found.add(pid)
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return str(pid)
