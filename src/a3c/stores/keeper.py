"""What remembers a parameter server, should it die. It imports nothing heavy: its process is small."""

from __future__ import annotations

import warnings

from a3c.errors import ClusterError


class Keeper:
    """Remembers what a server is made of, and what it is to go on from, away from it, and counts its lives.

    All of that is bytes to it. If it dies itself, Ray starts it anew with what the server is made of, and the server,
    at its next words, tells it the rest.

    Args:
        contents: what the server is made of, which is short: Ray does not keep a long one for an actor that dies.
        knows_all: whether it has been there from the beginning; else a server must have spoken before one begins.
    """

    def __init__(self, contents: bytes, knows_all: bool = True) -> None:
        self._contents = contents
        self._kept: dict[str, bytes] = {}
        self._incarnation = -1
        self._knows_all = knows_all

    def keep(self, incarnation: int, name: str, what: bytes) -> None:
        """Remember this in place of what had that name, unless it comes from a life of the server that is past."""
        if incarnation >= self._incarnation:
            self._incarnation = incarnation
            self._kept[name] = what
            if name == "cut":
                self._kept.pop("initial", None)  # which is in it, or past

    def begin(self) -> tuple[int, bytes, dict[str, bytes]] | None:
        """For a server that begins: which of its lives this is, from 0, and what the one before has left.

        None before it has been told the initial θ. Raises ClusterError if what there was is lost.
        """
        if not self._kept.keys() & {"initial", "cut"}:
            if self._knows_all:
                return None
            raise ClusterError("the server and its keeper have been lost, one after the other")
        self._incarnation += 1
        return self._incarnation, self._contents, self._kept


class RayKeeper(Keeper):
    """One in an actor, which Ray may have started anew."""

    def __init__(self, contents: bytes) -> None:
        import ray  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray uses there what it warns of itself
            reconstructed = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(contents, knows_all=not reconstructed)
