"""What a peer's environments report, whichever the peer: finished episodes and steps, with the time.

Peers install this beside themselves; it needs gymnasium alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym

DIRECTORY = "PEER_RECORD"  # the environment variable that says where to
_PERIOD_S = 0.2  # between two lines of an environment that does not end


class Recorded(gym.Wrapper[Any, Any, Any, Any]):
    """Writes a line for each finished episode, and one now and then: time, steps so far, return or nothing."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._file: Any = None
        self._steps, self._return, self._written = 0, 0.0, 0.0

    def step(self, action: Any) -> Any:
        """The environment's, noted."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        self._return += float(reward)
        now = time.time()
        if terminated or truncated:
            self._write(now, str(self._return))
            self._return = 0.0
        elif now - self._written > _PERIOD_S:
            self._write(now, "")
        return observation, reward, terminated, truncated, info

    def _write(self, now: float, score: str) -> None:
        if self._file is None:  # not before: the peer may have forked meanwhile
            path = Path(os.environ[DIRECTORY]) / f"{os.getpid()}-{id(self)}.csv"
            self._file = open(path, "a", buffering=1)  # noqa: SIM115 - as long as the environment
        self._file.write(f"{now},{self._steps},{score}\n")
        self._written = now


class Reader:
    """Follows what environments write into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self.episodes: list[tuple[float, float]] = []  # time and return, in the order of time
        self.steps: dict[Path, list[tuple[float, int]]] = {}  # time and steps so far, by environment

    def read(self) -> None:
        """Take what has been written since."""
        for path in self._directory.glob("*.csv"):
            with open(path, "rb") as file:
                file.seek(self._offsets.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            for line in whole.decode().splitlines():
                when, steps, score = line.split(",")
                self.steps.setdefault(path, []).append((float(when), int(steps)))
                if score:
                    self.episodes.append((float(when), float(score)))
        self.episodes.sort()

    def steps_at(self, when: float) -> int:
        """Of all environments, up to that time."""
        return sum(max((n for t, n in lines if t <= when), default=0) for lines in self.steps.values())


def solved_at(episodes: list[tuple[float, float]], threshold: float, window: int) -> float | None:
    """When the mean return of so many last episodes first reached the threshold; episodes in the order of time."""
    total = 0.0
    for i, (when, score) in enumerate(episodes):
        total += score
        if i >= window:
            total -= episodes[i - window][1]
        if i >= window - 1 and total / window >= threshold:
            return when
    return None
