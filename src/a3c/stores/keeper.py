"""What remembers a parameter server, should it die. It imports nothing heavy: its process is small."""

from __future__ import annotations


class Keeper:
    """Remembers what a server is made of, and what it is to go on from, away from it, and counts its lives.

    All of that is bytes to it.

    Args:
        contents: what the server is made of.
    """

    def __init__(self, contents: bytes) -> None:
        self._contents = contents
        self._kept: dict[str, bytes] = {}
        self._incarnation = -1

    def keep(self, name: str, what: bytes) -> None:
        """Remember this in place of what had that name."""
        self._kept[name] = what

    def begin(self) -> tuple[int, bytes, dict[str, bytes]]:
        """For a server that begins: which of its lives this is, from 0, and what the one before has left."""
        self._incarnation += 1
        return self._incarnation, self._contents, self._kept
