"""What remembers a parameter server, should it die. It imports nothing heavy: its process is small."""

from __future__ import annotations


class Keeper:
    """Remembers what a server is made of, and its last cut, away from it, and counts its lives.

    Both are bytes to it.

    Args:
        contents: what the server is made of.
    """

    def __init__(self, contents: bytes) -> None:
        self._contents = contents
        self._kept: bytes | None = None
        self._incarnation = -1

    def keep(self, kept: bytes) -> None:
        """Remember this cut."""
        self._kept = kept

    def begin(self) -> tuple[int, bytes, bytes | None]:
        """For a server that begins: which of its lives this is, from 0, and what the one before has left."""
        self._incarnation += 1
        return self._incarnation, self._contents, self._kept
