"""A text file that grows by whole lines, whatever happens to the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from a3c.experiment.run_directory import lies_at, reason_and_fix


class GrowingFile:
    """Owns a file that lines are added to.

    Lines that cannot be written are lost, whole ones only, and later ones are tried again: a disk that is full for a
    while costs what came meanwhile. A file that has vanished is begun anew. Each of this is reported, once.

    An existing file is added to; a torn last line is closed first, so that it costs only itself.

    Args:
        path: where it lies.
        report: is called with a line of text for what the user is to know.
        header: the first line of a file that is new.

    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: Path, report: Callable[[str], None], header: str = "") -> None:
        self._path = path
        self._report = report
        self._header = header
        self._fails = False
        self._lost = 0  # lines, since it was last written
        self._open()
        self.add(())

    def add(self, lines: Sequence[str]) -> None:
        """Bring these lines to the disk, together, or lose them."""
        try:
            if not lies_at(self._file.fileno(), self._path):
                self._begin_anew()
            self._write(lines)
        except OSError as error:
            self._lose(lines, error)

    def close(self, lines: Sequence[str] = ()) -> None:
        """Add the last lines, wherever the file lies by now, and close it."""
        try:
            if lines:
                self._write(lines)
        except OSError as error:
            self._lose(lines, error)
        if self._lost:
            self._report(f"{self._path.name} lacks its last {self._lost} lines")
        self._file.close()

    def _open(self) -> None:
        self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115  (kept until close)
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - 1))
        self._torn = self._file.read(1) not in (b"\n", b"")

    def _begin_anew(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        gone = self._file
        self._open()
        gone.close()
        self._report(f"{self._path} has vanished: it is begun anew, its earlier lines are lost")

    def _write(self, lines: Sequence[str]) -> None:
        size = self._file.seek(0, os.SEEK_END)
        before = [self._header] if size == 0 and self._header else [""] if self._torn else []
        data = "".join(f"{line}\n" for line in (*before, *lines)).encode()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)  # half a line would be in the next one's way
            raise
        self._torn = False
        if self._lost:
            self._report(f"{self._path.name} is written again; {self._lost} lines of it are lost")
        self._fails, self._lost = False, 0

    def _lose(self, lines: Sequence[str], error: OSError) -> None:
        if not self._fails:
            reason = reason_and_fix(error)
            self._report(f"{self._path.name} cannot be written ({reason}): lines are lost; the run goes on")
        self._fails = True
        self._lost += len(lines)
