"""Turning one worker's updates into reports at a bearable rate."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from a3c.errors import A3CError, WorkerFailed
from a3c.types import Report, Update

_Item = TypeVar("_Item")
_LONG_S, _SOON_S = 1.0, 0.02
_EPISODES, _DROPPED, _STALENESS = 50, 5, 100
"""Of each so many that, with all else that a report has, it is less than the 4,096 bytes that Linux writes whole."""


class ReportBatch:
    """Collects updates until a report is due: soon, where an episode has ended and the next update may take long.

    Args:
        every_s: seconds between reports; the first update makes one at once.
        episodes_at_once: report whenever an episode has finished, so that a stop criterion sees it in time.
        pushed_episodes: how many each worker has pushed before; its episodes are numbered from there.
    """

    def __init__(self, every_s: float, *, episodes_at_once: bool, pushed_episodes: Mapping[int, int]) -> None:
        self.every_s = every_s
        self.episodes_at_once = episodes_at_once
        self._pushed_episodes = dict(pushed_episodes)
        self._report = Report()
        self._next_due = self._soon = self._latest = time.monotonic()
        self._longest_s = 0.0  # from one update to the next

    def add(self, worker: int, update: Update) -> Report | None:
        """Count an update; returns the report if it is due now."""
        self._report.add(worker, update, time.time(), self._pushed_episodes[worker])
        self._pushed_episodes[worker] += len(update.episodes)
        now = time.monotonic()
        self._longest_s, self._latest = max(self._longest_s, now - self._latest), now
        soon = self.episodes_at_once or (self._longest_s > _LONG_S and now >= self._soon)
        return self.take() if now >= self._next_due or (soon and self._report.episodes) else None

    def take(self) -> Report:
        """What has been collected, due or not."""
        report, self._report = self._report, Report()
        now = time.monotonic()
        self._next_due, self._soon = now + self.every_s, now + _SOON_S
        return report


def worker_failed(worker: int, error: BaseException) -> WorkerFailed:
    """The failure of a worker; unless its error is one of this library's, with its traceback as text."""
    text = "" if isinstance(error, A3CError) else traceback.format_exc()
    short = isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # the latter is PyTorch's
    fix = " (out of memory: take fewer --workers or --envs-per-worker)" if short else ""
    return WorkerFailed(worker, type(error).__name__, f"{error}{fix}", text)


def report_parts(report: Report) -> Iterator[Report]:
    """Reports that merge to this one, each of which is small; the first has all that cannot be many."""
    episodes, dropped = _chunks(report.episodes, _EPISODES), _chunks(report.dropped, _DROPPED)
    staleness = map(dict, _chunks(list(report.staleness.items()), _STALENESS))
    yield replace(report, episodes=next(episodes, []), dropped=next(dropped, []), staleness=next(staleness, {}))
    yield from (Report(episodes=some) for some in episodes)
    yield from (Report(dropped=some) for some in dropped)
    yield from (Report(staleness=some) for some in staleness)


def _chunks(items: list[_Item], size: int) -> Iterator[list[_Item]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))
