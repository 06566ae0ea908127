"""What becomes of workers that fail: which of them hangs, which are started anew, and when."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from typing import NamedTuple

from a3c.errors import WorkerError, WorkerFailed

_FOR_GOOD = ("NonFiniteError", "UsageError", "UnknownEnvironment", "UnsupportedEnvironment", "IllegalCombination")
_HOUR_S = 3600.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 30.0
_QUIET_S = 5.0  # a worker that has lived so long is taken to be sound again
_LONGEST_LOOK_S = 1.0


class FailurePolicy(NamedTuple):
    """What becomes of a worker that fails, dies or hangs."""

    restarts_per_hour: int = 0  # of all workers together; one more failure ends the run
    timeout_s: float = math.inf  # of one step, reset or update; after that the worker is killed


class Restarts:
    """Says which failed workers are to be started anew, and when.

    Each waits twice as long as the last time, up to a bound, unless it has lived for a while since.

    Args:
        per_hour: how many may be, of all workers together.
        each: of each worker, instead.
    """

    def __init__(self, per_hour: int, *, each: bool = False) -> None:
        self.waiting: dict[int, float] = {}  # when, by the monotonic clock
        self._per_hour, self._each = per_hour, each
        self._times = defaultdict[int | None, deque[float]](deque)  # of the restarts of the last hour
        self._last: dict[int, tuple[float, float]] = {}  # each worker's last failure, and how long it waited then

    def allow(self, worker: int) -> bool:
        """Whether the worker, which has failed now, is to be started anew."""
        now, times = time.monotonic(), self._times[worker if self._each else None]
        while times and now - times[0] > _HOUR_S:
            times.popleft()
        if len(times) >= self._per_hour:
            return False
        times.append(now)
        failed, waited = self._last.get(worker, (-math.inf, 0.0))
        wait = min(2 * waited, _LONGEST_BACKOFF_S) if now - failed < waited + _QUIET_S else _FIRST_BACKOFF_S
        self._last[worker] = now, wait
        self.waiting[worker] = now + wait
        return True

    def seconds_to_next(self) -> float:
        """Until somebody is due."""
        return max(0.0, min(self.waiting.values(), default=math.inf) - time.monotonic())

    def due(self, but: Collection[int] = ()) -> list[int]:
        """Who is to be started now, but for some; they wait no longer."""
        now = time.monotonic()
        numbers = [number for number, when in self.waiting.items() if when <= now and number not in but]
        for number in numbers:
            del self.waiting[number]
        return numbers


class Stillness:
    """Finds the worker that hangs: the one that has stood still longest, if that is too long.

    Time in which nobody looked, stopped or busy with something else, counts as one look: workers may have waited for
    whoever looks.

    Args:
        timeout_s: how long is too long.
        start_s: what a worker's start may take besides.
        every_s: seconds between looks, at least.

    Attributes:
        still_s: for how long each worker has made no step; negative while it may still be starting.
    """

    def __init__(self, timeout_s: float, start_s: float, every_s: float = 0.0) -> None:
        self.still_s: dict[int, float] = {}
        self._timeout_s, self._start_s, self._every_s = timeout_s, start_s, min(every_s, timeout_s / 4)
        self._hung: set[int] = set()
        self._looked_at = time.monotonic()

    def begin(self, worker: int) -> None:
        """A worker is started."""
        self.still_s[worker] = -self._start_s

    def step(self, worker: int) -> None:
        """It has made a step."""
        self.still_s[worker] = 0.0

    def end(self, worker: int) -> bool:
        """It has ended; whether it is one that hung."""
        del self.still_s[worker]
        hung = worker in self._hung
        self._hung.discard(worker)
        return hung

    def look(self, moves: Callable[[int], bool]) -> int | None:
        """Who is to be killed, if anybody; the others get time anew, for it may be what they waited for.

        `moves` says of a worker whether it has made a step since the last look, or waits for others.
        """
        now = time.monotonic()
        if math.isinf(self._timeout_s) or now - self._looked_at < self._every_s:
            return None
        passed, self._looked_at = min(now - self._looked_at, self._timeout_s / 4, _LONGEST_LOOK_S), now
        for worker in self.still_s:
            self.still_s[worker] = 0.0 if moves(worker) else self.still_s[worker] + passed
        worst = max(self.still_s, key=self.still_s.__getitem__, default=None)
        if worst is None or self.still_s[worst] <= self._timeout_s or worst in self._hung:
            return None
        self._hung.add(worst)
        for worker in self.still_s:
            self.still_s[worker] = min(self.still_s[worker], 0.0)
        return worst


def may_pass(failed: WorkerError) -> bool:
    """Whether a worker that is started anew may do better."""
    return not (isinstance(failed, WorkerFailed) and failed.kind in _FOR_GOOD)
