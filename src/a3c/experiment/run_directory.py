"""A run's directory: its files' names, and writing them so that a crash never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from a3c.errors import MORE_FILES, RunDirectoryError

CONFIG, METRICS, EPISODES, SUMMARY = "config.json", "metrics.jsonl", "episodes.csv", "summary.json"
EVALUATIONS = "evaluations.csv"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
ASIDE = ".written-anew.tmp"  # in the latter, while it is told all anew: a name that TensorBoard passes over
ERROR = "error.txt"  # what a worker failed with
_LOCK, _PROBE, _WANDB = ".lock", ".writable", ("wandb", ".wandb")
_MOST_LEVELS = 200  # of JSON in JSON
_MOST_BYTES = 2**26  # of a file of JSON
_LONGEST_LINE, _BLOCK = 2**26, 2**20  # bytes of a log
_FULL, _IN_THE_WAY = "free some space there", "something that is no directory lies in its way: move that away"
_FIXES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"your quota is used up, {_FULL}",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOENT: "it has vanished: see that nothing removes it",
    errno.EACCES: "make it writable for you",
    errno.EPERM: "make it writable for you",
    errno.EROFS: "it lies on a read-only file system",
}
BEST_EVALUATION = "best-evaluation"  # beside the checkpoints, of a policy alone: the one that was evaluated best
REPLACED = ".old.tmp"  # ends the name of a checkpoint that another of the same T takes the place of
_CHECKPOINTS = ("step-*", "damaged-step-*", BEST_EVALUATION)  # what a run leaves in its folder of them
_GROWING = (METRICS, EPISODES, EVALUATIONS)


def default_path(env_name: str, algorithm: str, seed: int) -> Path:
    """runs/ENV-ALGORITHM-SEED-TIME, not yet taken."""
    safe_name = "".join(c if c.isalnum() or c in "-_." else "_" for c in env_name)
    stem = f"{safe_name}-{algorithm}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, n = Path("runs") / stem, 1
    while path.exists():
        n += 1
        path = Path("runs") / f"{stem}-{n}"
    return path


def create(path: Path, *, overwrite: bool) -> RunLock:
    """Make the directory, or take an existing one that holds no run; returns the lock on it.

    With `overwrite` the files of a run that is there are removed first, and nothing else: a directory without a
    run's config.json is not taken for one. That file goes last, so that whoever is killed meanwhile may try again. A
    run that was killed before it had written anything has left empty folders, which are nobody's.

    Raises:
        RunDirectoryError: it holds a run already, is no directory, or cannot be written, or another process trains in
            it.
    """
    files, folders = (METRICS, EPISODES, EVALUATIONS, SUMMARY, ERROR, CONFIG), (CHECKPOINTS, TENSORBOARD)
    taken = [name for name in files if (path / name).exists()]
    taken += [name for name in folders if (path / name).exists() and not _is_empty_folder(path / name)]
    if taken and (CONFIG not in taken or "settings" not in read_json(path / CONFIG)):
        raise RunDirectoryError(f"{path} holds a {taken[0]} that is not of a run: name another --run-dir")
    if taken and not overwrite:
        raise RunDirectoryError(
            f"{path} already holds a run ({taken[0]}): name another --run-dir, or replace it with --overwrite"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as on_failure:
            lock = on_failure.enter_context(contextlib.closing(RunLock(path)))
            for kind in _CHECKPOINTS:
                for leftover in path.glob(f"{CHECKPOINTS}/{kind}"):
                    remove_at_one_stroke(leftover)
            for leftover in path.glob(f"{CHECKPOINTS}/.*.tmp"):
                shutil.rmtree(leftover)
            for events in path.glob(f"{TENSORBOARD}/events.out.tfevents.*"):
                events.unlink()
            for name in files:
                (path / name).unlink(missing_ok=True)
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            probe = path / _PROBE
            probe.write_bytes(b"a full disk takes files without a byte")
            probe.unlink()
            on_failure.pop_all()
            return lock
    except FileNotFoundError as error:  # it has not vanished: it cannot be
        raise RunDirectoryError(
            f"cannot write to the run directory {path} ({error.strerror}): name another --run-dir"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write to the run directory {_why(path, error)}") from None


def holds_checkpoints(path: Path) -> bool:
    """Whether there is a checkpoint in a run's directory, or one that was just being replaced."""
    return any(any(path.glob(f"{CHECKPOINTS}/{kind}")) for kind in ("step-*", f".step-*{REPLACED}"))


def remove_at_one_stroke(checkpoint: Path) -> None:
    """Remove a checkpoint's directory, half of which could be taken for a damaged one. Raises OSError."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone.tmp")
    shutil.rmtree(gone, ignore_errors=True)  # of one before
    os.replace(checkpoint, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def regular(path: Path) -> Path:
    """The path, unless what lies there is no ordinary file: to open a named pipe is to wait for who writes into it.

    Raises OSError; if nothing lies there, FileNotFoundError.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return path


def sizes(path: Path) -> dict[str, int]:
    """How many bytes the run's growing files have, by name."""
    return {name: (path / name).stat().st_size for name in _GROWING if (path / name).exists()}


def take_up(path: Path, sizes: Mapping[str, Any]) -> list[str]:
    """Bring a run's directory back to what it was at a checkpoint: its growing files to the `sizes` they had.

    What was logged after it happens once more. The summary and what a killed run left half written go.

    Returns what the user is to know. Raises RunDirectoryError if the directory cannot be written.
    """
    messages = list[str]()
    try:
        for name in _GROWING:
            file, size = path / name, sizes.get(name, 0)
            if not file.exists():
                continue
            whole = _end_of_whole_lines(file, size)  # a full disk may have left half a line
            if whole < size:
                messages.append(lines_are_missing(name))
            os.truncate(file, whole)
        (path / SUMMARY).unlink(missing_ok=True)
        for leftover in path.glob(f"{CHECKPOINTS}/.*.tmp"):
            shutil.rmtree(leftover)
    except OSError as error:
        raise RunDirectoryError(f"cannot write to the run directory {path} ({error.strerror or error})") from None
    return messages


def _end_of_whole_lines(path: Path, size: int) -> int:
    """How many of a log's first bytes are whole lines. Raises RunDirectoryError if no line ends for very long."""
    with open(regular(path), "rb") as file:
        end = min(size, os.fstat(file.fileno()).st_size)
        first = max(0, end - _LONGEST_LINE)
        while end > first:
            begin = max(first, end - _BLOCK)
            file.seek(begin)
            if whole := file.read(end - begin).rfind(b"\n") + 1:
                return begin + whole
            end = begin
    if first > 0:
        raise _too_long(path)
    return 0


def whole_lines(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The whole lines of a log, or of its first so many bytes; it may have grown half of one more.

    Raises RunDirectoryError if a line does not end for very long, and OSError.
    """
    with open(regular(path), "rb") as file:
        while (line := file.readline(_LONGEST_LINE)).endswith(b"\n") and (size is None or file.tell() <= size):
            yield line
    if len(line) == _LONGEST_LINE:
        raise _too_long(path)


def _too_long(path: Path) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} holds a line of more than {_LONGEST_LINE:,} bytes: it is damaged; move it away, and the run "
        "goes on without it"
    )


def lines_are_missing(name: str) -> str:
    """Says that a log has lost lines that it had at the checkpoint."""
    return f"{name} is shorter than it was at the checkpoint: some lines are missing"


class RunLock:
    """Held by the process that trains in a run's directory; the kernel lets go of it when that process dies.

    Where the platform or the file system has no such lock, nobody is kept out.

    Args:
        path: the run's directory.

    Raises RunDirectoryError if another process, or another run of this one, trains there, or if something in it that a
    run writes is a link.
    """

    def __init__(self, path: Path) -> None:
        files = (_LOCK, CONFIG, METRICS, EPISODES, EVALUATIONS, SUMMARY, ERROR, _PROBE, *_WANDB)
        _refuse_links(path / name for name in (*files, CHECKPOINTS, TENSORBOARD))
        self._path = path
        try:
            self._file = self._taken()
        except OSError as error:
            raise RunDirectoryError(f"cannot write to the run directory {_why(path, error)}") from None
        try:  # only now does nobody else change what lies there
            _refuse_links(itertools.chain(path.glob(f"{CHECKPOINTS}/**/*"), path.glob(f"{TENSORBOARD}/*")))
        except RunDirectoryError:
            self.close()
            raise

    def _taken(self) -> IO[str]:
        file = open(self._path / _LOCK, "a")  # noqa: SIM115  (kept until close)
        try:
            import fcntl  # noqa: PLC0415  (not on Windows)

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RunDirectoryError(
                f"{self._path} is being trained in by another process: wait until it has ended"
            ) from None
        except (ImportError, OSError):
            pass
        return file

    def holds(self) -> bool:
        """Whether the directory is still the one that it was taken for."""
        return lies_at(self._file.fileno(), self._path / _LOCK)

    def renew(self) -> bool:
        """Take it again, in a directory made anew, if it has vanished; whether that was so.

        Raises RunDirectoryError if another process trains there by now, OSError if the directory cannot be made.
        """
        if self.holds():
            return False
        self._path.mkdir(parents=True, exist_ok=True)
        gone, self._file = self._file, self._taken()
        gone.close()
        return True

    def close(self) -> None:
        """Let go."""
        self._file.close()


def _refuse_links(own: Iterable[Path]) -> None:
    """Raise RunDirectoryError where something in a run's directory that a run writes is a link, to wherever, or a pipe.

    What is neither file nor folder, like a named pipe, would keep whoever opens it waiting.
    """
    for file in own:
        if file.is_symlink():
            raise RunDirectoryError(f"{file} is a link, which no run writes: put what it points to in its place")
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise RunDirectoryError(f"{file} is neither a file nor a folder, and no run's: remove it")


def why_not_saved(path: Path, error: OSError) -> str:
    """Says that a run directory cannot be written, why, and what helps against that."""
    return f"cannot save to {_why(path, error)}"


def _why(path: Path, error: OSError) -> str:
    fix = _fix(error)
    elsewhere = [] if error.errno in MORE_FILES else ["name another --run-dir"]
    return f"{path} ({error.strerror or error}): {', or '.join([*([fix] if fix else []), *elsewhere])}"


def _fix(error: BaseException) -> str | None:
    return (_FIXES | MORE_FILES).get(getattr(error, "errno", None) or 0)


def reason_and_fix(error: BaseException) -> str:
    """Why something in a run's directory cannot be written, and what helps, if that is known: the run goes on there."""
    fix = _fix(error)
    return f"{getattr(error, 'strerror', None) or error}{': ' + fix if fix else ''}"


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write atomically: the file holds the old content or the new, never a part of it. Its directory may have gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(data), indent=2, allow_nan=False) + "\n"
    with written_aside(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of what lies there, at one stroke, once the block has come to its end."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.unlink(missing_ok=True)  # left by a run that was killed, or a link that somebody has put there
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)  # on a full disk half of it would be in everybody's way


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises RunDirectoryError naming the file if it is missing, unreadable or no object."""
    try:
        if regular(path).stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path.parent.is_dir():
            raise RunDirectoryError(f"{path.parent} is not a run: it has no {path.name}") from None
        raise RunDirectoryError(f"there is no run {path.parent}: check the name") from None
    except NotADirectoryError:
        raise RunDirectoryError(f"{path.parent} is a file, and no run's directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}): the run is damaged") from None
    if not isinstance(data, dict):
        raise RunDirectoryError(f"{path} holds no JSON object: the run is damaged")
    level: list[Any] = [data]
    for _ in range(_MOST_LEVELS):
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
        level = [item for item in level if isinstance(item, dict | list)]
    if level:  # whoever went through it would come to the end of the stack
        raise RunDirectoryError(f"{path} holds more than {_MOST_LEVELS} levels: the run is damaged")
    return data


def lies_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is what lies at the path, and has not been removed or replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def finite(value: Any) -> Any:
    """`value` with None for every NaN and infinity in it, which JSON does not know; tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
