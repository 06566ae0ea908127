"""Whether this machine can train: what is there, what works, and what to do where it does not."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from a3c import __version__
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.errors import A3CError, OutOfResources
from a3c.experiment import shape
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.restarts import FailurePolicy
from a3c.stores.local import LocalStore
from a3c.stores.shared import SharedStore
from a3c.stores.synchronous import SynchronousStore
from a3c.types import Counts, Life, StoreHandle, Update

_LEAST = {"torch": (2, 4), "gymnasium": (1, 1), "numpy": (1, 24)}
_EXTRAS = {
    "atari": "ale-py",
    "box2d": "box2d",
    "mujoco": "mujoco",
    "minatar": "minatar",
    "envpool": "envpool",
    "ray": "ray",
    "video": "imageio-ffmpeg",
    "wandb": "wandb",
}
_LEAST_MEMORY = 2**30  # bytes free
_LEAST_SHARED = 64 * 2**20
_LEAST_FILES = 256
_MORE_FILES = "ulimit -n 4096"
_WRITTEN = 16 * 2**20  # bytes
_SLOW_WRITE_S = 2.0  # a checkpoint of a large network would hold up nobody, but lag behind
_PUSHES, _SIZE, _WORKERS = 50, 1_000, 2
_PATIENCE_S = 60.0


class Finding(NamedTuple):
    """What one look at the machine came to.

    Attributes:
        what: that was looked at.
        ok: whether it is as it should be.
        said: what was found.
        fix: what to do; nothing where it is as it should be.
    """

    what: str
    ok: bool
    said: str
    fix: str = ""


def doctor(run_dir: str | os.PathLike[str] = "runs") -> list[Finding]:
    """Look at this machine: versions, cores, memory, files, processes and stores at work, GPU, the disk.

    Args:
        run_dir: where runs are to go; it is looked at, or the nearest directory above it that exists.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "Python": _python,
        **{name: partial(_package, name, least) for name, least in _LEAST.items()},
        "extras": _extras,
        "cores": _cores,
        "memory": _memory,
        "shared memory": _shared_memory,
        "open files": _open_files,
        **{f"gradients, {method}": partial(_gradients, method) for method in ("forkserver", "spawn")},
        "GPU": _gpu,
        "run directory": partial(_disk, Path(run_dir)),
    }
    return [_looked(what, check) for what, check in checks.items()]


def _looked(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        finding = check()
        return finding._replace(fix="") if finding.ok else finding
    except Exception as error:  # a check that breaks is a finding, too
        short = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        return Finding(what, False, f"{type(error).__name__}: {error}", _MORE_FILES if short else "please report this")


def _python() -> Finding:
    said = f"{platform.python_version()}, a3c {__version__}, {platform.platform()}"
    return Finding("Python", sys.version_info >= (3, 10), said, "a3c needs Python 3.10 or newer")


def _package(name: str, least: tuple[int, ...]) -> Finding:
    version = importlib.metadata.version(name)
    numbers = tuple(int(part) for part in version.split(".")[:2])
    wanted = ".".join(map(str, least))
    return Finding(name, numbers >= least, version, f'pip install "{name}>={wanted}"')


def _extras() -> Finding:
    there = []
    for extra, package in _EXTRAS.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there.append(f"{extra} ({package} {importlib.metadata.version(package)})")
    return Finding("extras", True, ", ".join(there) or "none installed")


def _cores() -> Finding:
    usable = shape.cores()
    said = f"{usable} usable of {os.cpu_count()}; one thread a worker, {usable} workers by default where none is named"
    return Finding("cores", True, said)


def _memory() -> Finding:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except OSError:
        return Finding("memory", True, "not known on this platform")
    return Finding("memory", free >= _LEAST_MEMORY, f"{_size(free)} free", "a worker takes about 300 MB: take fewer")


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("shared memory", True, "no /dev/shm: the temporary directory takes its place")
    fix = "in Docker add --shm-size=1g; meanwhile the temporary directory takes its place where there is no room"
    return Finding("shared memory", free >= _LEAST_SHARED, f"{_size(free)} free in /dev/shm", fix)


def _open_files() -> Finding:
    import resource  # noqa: PLC0415  (not on Windows)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Finding("open files", soft >= _LEAST_FILES, f"up to {soft} (at most {hard})", _MORE_FILES)


class AllStores:
    """One store of each kind, each with a vector of its own, as if they were one."""

    def __init__(self, context: Any) -> None:
        start = torch.zeros(_SIZE)
        self.stores: dict[str, Any] = {
            "locked": SharedStore(start, _rule(), _WORKERS, "locked", context),
            "hogwild": SharedStore(start, _rule(), _WORKERS, "hogwild", context),
            "synchronous": SynchronousStore(start, _rule(), _WORKERS, "mean", context),
        }

    def connect(self, worker: int) -> AllHandles:
        """Its handles."""
        return AllHandles({name: store.connect(worker) for name, store in self.stores.items()})

    def join(self, worker: int) -> None:
        """Count it in."""
        for store in self.stores.values():
            store.join(worker)

    def leave(self, worker: int) -> None:
        """Count it out."""
        for store in self.stores.values():
            store.leave(worker)

    def waits(self, worker: int) -> bool:
        """Whether it waits for others."""
        return any(store.waits(worker) for store in self.stores.values())

    def pushed_episodes(self, worker: int) -> int:
        """Here no episode ends."""
        return 0


class AllHandles:
    """A worker's handles of all of them."""

    def __init__(self, handles: dict[str, StoreHandle]) -> None:
        self.handles = handles

    def leave(self) -> None:
        """Be waited for no more."""
        for handle in self.handles.values():
            handle.leave()


def push_known_gradients(worker: int, store: AllHandles, life: Life) -> Iterator[Update]:
    """An actor-learner that pushes gradients of which it is known what comes of them."""
    theta = torch.empty(_SIZE)
    for _ in range(_PUSHES):
        for name, handle in store.handles.items():
            if name == "hogwild" and worker > 0:
                continue  # without a lock, two may lose a part of each other's updates
            snapshot = handle.pull(theta)
            handle.push(_gradient(), Counts(1, 0), snapshot.version)
        life.beat()
        yield Update({}, 1, 0, (), None)


def _gradient() -> torch.Tensor:
    return torch.linspace(-1, 1, _SIZE)


def _rule() -> UpdateRule:
    return UpdateRule(RMSProp(), constant(0.01), Budget(env_steps=10**9))


def _gradients(method: str) -> Finding:
    """Whether gradients that real processes push come to what they come to in one process."""
    what = f"gradients, {method}"
    if method not in multiprocessing.get_all_start_methods():
        return Finding(what, method != "spawn", "this platform has no such start method", "take another one")
    began = time.monotonic()
    policy = FailurePolicy(timeout_s=_PATIENCE_S)
    runtime = ProcessRuntime(method, preload=["a3c.experiment.doctor"], policy=policy)  # type: ignore[arg-type]
    stores = AllStores(runtime.context)
    try:
        for _ in runtime.run(push_known_gradients, stores, _WORKERS):  # type: ignore[arg-type]
            pass
    except A3CError as error:
        fix = "see the line of open files" if isinstance(error, OutOfResources) else "try the other --start-method"
        return Finding(what, False, str(error).splitlines()[0], fix)
    for name, store in stores.stores.items():
        pushes = _WORKERS * _PUSHES if name == "locked" else _PUSHES
        if not torch.allclose(store.snapshot().parameters, _expected(pushes), rtol=1e-5, atol=1e-7):
            return Finding(what, False, f"{name}: θ is not what the gradients make of it", "please report this")
    took = time.monotonic() - began
    return Finding(what, True, f"exact through {', '.join(stores.stores)} stores, {took:.1f} s")


def _expected(pushes: int) -> torch.Tensor:
    store = LocalStore(torch.zeros(_SIZE), _rule())
    handle = store.connect(0)
    for version in range(pushes):
        handle.push(_gradient(), Counts(1, 0), version)
    return store.snapshot().parameters


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("GPU", True, "none: networks stay on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    product = torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")
    return Finding("GPU", bool((product == 2).all()), ", ".join(names), "its arithmetic is wrong: take --device cpu")


def _disk(run_dir: Path) -> Finding:
    place = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.is_dir())
    probe = place / f".a3c-doctor-{os.getpid()}"
    began = time.monotonic()
    try:
        with open(probe, "wb") as file:
            file.write(b"\0" * _WRITTEN)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("run directory", False, f"{place}: {error.strerror or error}", "name another --run-dir")
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses that, too
            probe.unlink(missing_ok=True)
    took, free = time.monotonic() - began, shutil.disk_usage(place).free
    said = f"{place}: {_WRITTEN / took / 2**20:,.0f} MB/s, {_size(free)} free"
    return Finding("run directory", took < _SLOW_WRITE_S and free > _LEAST_MEMORY, said, "name a --run-dir elsewhere")


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
