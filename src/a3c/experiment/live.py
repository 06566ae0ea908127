"""What a person sees while a run goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from a3c.experiment.loggers import finite_number
from a3c.experiment.told import ENOUGH_EPISODES, told, told_return

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

_REFRESH_EVERY_S = 0.25
_LINE_EVERY_S = 2.0
_BAR_WIDTH = 30  # characters
_BARS, _MOST_BARS = " ▁▂▃▄▅▆▇█", 24


class LiveView(Protocol):
    """Shows the metrics lines of a run as they come; a context manager that closes itself."""

    def show(self, metrics: Mapping[str, object]) -> None:
        """Take the newest line; costs next to nothing while it is not yet time to draw again."""

    def message(self, text: str) -> None:
        """Show a note or a warning that stays. May be called from any thread."""

    def close(self) -> None:
        """Show the last line and let go of the terminal. Closing again does nothing."""

    def __enter__(self) -> LiveView:
        """The view itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class QuietView(LiveView):
    """Shows nothing but messages, and these on standard error: a warning is never lost."""

    def show(self, metrics: Mapping[str, object]) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Print to standard error."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing."""


class PlainView(LiveView):
    """Prints a line every two seconds or so, for a standard output that is no terminal.

    Args:
        total_env_steps, total_episodes, max_seconds: the budget; None where there is none.
    """

    def __init__(
        self, total_env_steps: int | None, total_episodes: int | None, max_seconds: float | None = None
    ) -> None:
        self._budget = _Budget(total_env_steps, total_episodes, max_seconds)
        self._evaluation: object = None  # the newest one's mean return, until it has been printed
        self._unprinted: Mapping[str, object] | None = None
        self._next_line = 0.0

    def show(self, metrics: Mapping[str, object]) -> None:
        """Print the line if the last one is long enough ago, else keep it for `close`."""
        self._budget.see(metrics)
        self._unprinted = metrics
        self._evaluation = _or(metrics.get("evaluation_return_mean"), self._evaluation)
        if time.monotonic() >= self._next_line:
            self._print()

    def message(self, text: str) -> None:
        """Print the text."""
        self._say(text)

    def close(self) -> None:
        """Print the last line, if it has not been printed."""
        self._print()

    def _say(self, text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:  # whoever read this has gone (`| head`); the run has not
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (for the rest of the process)

    def _print(self) -> None:
        metrics, self._unprinted = self._unprinted, None
        if metrics is None:
            return
        parts = [
            _clock(metrics.get("seconds")),
            *([] if self._budget.share is None else [f"{self._budget.share:.0%}"]),
            f"{_count(metrics.get('env_steps'))} steps",
            f"{_count(metrics.get('steps_per_second'))}/s",
            f"{_count(metrics.get('episodes'))} episodes",
            f"return {told_return(metrics.get('return_mean'), metrics.get('episodes'))}",
            f"staleness {_decimal(metrics.get('staleness_mean'), 2)} (max {_count(metrics.get('staleness_max'))})",
        ]
        if alive := metrics.get("workers_alive"):  # at the end none is
            parts.append(f"{_count(alive)} workers")
        if self._evaluation is not None:
            parts.append(f"evaluation {told(self._evaluation)}")
            self._evaluation = None
        self._say("  ".join(parts))
        self._next_line = time.monotonic() + _LINE_EVERY_S


class RichLiveView(LiveView):
    """A panel in the terminal that is redrawn in place, a few times a second at most, by the caller's `show`.

    Args:
        title: what runs, for the panel's head.
        total_env_steps, total_episodes, max_seconds: the budget; None where there is none.
        workers: how many actor-learners there should be.
        console: where to draw; standard output by default.
    """

    def __init__(
        self,
        title: str,
        total_env_steps: int | None,
        total_episodes: int | None,
        workers: int,
        max_seconds: float | None = None,
        console: Console | None = None,
    ) -> None:
        from rich.live import Live  # noqa: PLC0415  (only where used)

        self.title = title
        self.workers = workers
        self._budget = _Budget(total_env_steps, total_episodes, max_seconds)
        self._evaluation: object = None  # the newest one's mean return
        self._metrics: Mapping[str, object] = {}
        self._next_refresh = 0.0
        self._live = Live(self._panel(), console=console, auto_refresh=False)
        self._live.start(refresh=True)

    def show(self, metrics: Mapping[str, object]) -> None:
        """Redraw if the last time is long enough ago, else keep the line for the next time."""
        self._budget.see(metrics)
        self._metrics = metrics
        self._evaluation = _or(metrics.get("evaluation_return_mean"), self._evaluation)
        if time.monotonic() >= self._next_refresh:
            self._live.update(self._panel(), refresh=True)
            self._next_refresh = time.monotonic() + _REFRESH_EVERY_S

    def message(self, text: str) -> None:
        """Print the text above the panel."""
        self._live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Draw the last line and leave the panel standing."""
        if self._live.is_started:
            self._live.update(self._panel())
            self._live.stop()

    def _panel(self) -> Panel:
        from rich.panel import Panel  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        get = self._metrics.get
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        table.add_row("time", self._time_row())
        table.add_row(
            "steps", f"{_of(get('env_steps'), self._budget.total_env_steps)}, {_count(get('steps_per_second'))}/s"
        )
        table.add_row("episodes", _of(get("episodes"), self._budget.total_episodes))
        # Not by markup, which is not read where a message is printed while the panel stands.
        few = min(int(finite_number(get("episodes")) or 0), ENOUGH_EPISODES)
        over = f" (mean of the last {few} episodes)" if few else ""
        table.add_row("return", Text.assemble((told(get("return_mean")), "bold"), (over, "dim")))
        if self._evaluation is not None:
            table.add_row("evaluation", told(self._evaluation))
        stale = f"{_decimal(get('staleness_mean'), 2)} mean, {_count(get('staleness_max'))} max"
        table.add_row("staleness", f"{stale}  {_bars(get('staleness_counts'))}")
        if alive := get("workers_alive"):  # at the end none is
            table.add_row("workers", f"{_of(alive, self.workers)} alive")
        return Panel(table, title=Text(self.title), title_align="left", border_style="blue", expand=False)

    def _time_row(self) -> Table:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        share = self._budget.share
        row = Table.grid(padding=(0, 1))
        elapsed = f"{_clock(self._metrics.get('seconds'))} elapsed"
        if share is None:
            row.add_row(elapsed)
        else:
            bar = ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH)
            row.add_row(bar, f"{share:.0%}", f"{elapsed}, ETA {_clock(self._budget.remaining_s)}")
        return row


def choose_view(
    quiet: bool,
    *,
    title: str,
    total_env_steps: int | None,
    total_episodes: int | None,
    workers: int,
    max_seconds: float | None = None,
) -> LiveView:
    """The view for this standard output: the panel in a terminal, plain lines elsewhere, nothing if quiet."""
    if quiet:
        return QuietView()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return RichLiveView(title, total_env_steps, total_episodes, workers, max_seconds)
    return PlainView(total_env_steps, total_episodes, max_seconds)


class _Budget:
    """How much of a run's budget is spent, and how long the rest takes at the pace since the first line.

    Of several budgets the one that is furthest spent counts, since it will end the run.
    """

    def __init__(
        self, total_env_steps: int | None, total_episodes: int | None, max_seconds: float | None = None
    ) -> None:
        self.total_env_steps = total_env_steps
        self.total_episodes = total_episodes
        self.max_seconds = max_seconds
        without = total_env_steps is None and total_episodes is None and max_seconds is None
        self.share: float | None = None if without else 0.0
        self.remaining_s: float | None = None
        self._first: tuple[float, float] | None = None  # share, seconds

    def see(self, metrics: Mapping[str, object]) -> None:
        """Take a metrics line into account."""
        spent = [
            (finite_number(metrics.get(key)) or 0.0) / total
            for key, total in (
                ("env_steps", self.total_env_steps),
                ("episodes", self.total_episodes),
                ("seconds", self.max_seconds),
            )
            if total is not None
        ]
        seconds = finite_number(metrics.get("seconds"))
        if not spent or seconds is None:
            return
        self.share = min(max(spent), 1.0)
        self._first = self._first or (self.share, seconds)
        done, took = self.share - self._first[0], seconds - self._first[1]
        self.remaining_s = (1.0 - self.share) * took / done if done > 0 else None


def _bars(counts: object) -> str:
    """How the updates of a line are distributed over staleness: a bar for each of 0, 1, 2 ... and one for the rest."""
    if not isinstance(counts, Mapping) or not counts:
        return ""
    heights = [0] * (min(max(map(int, counts)), _MOST_BARS - 1) + 1)
    for staleness, count in counts.items():
        heights[min(int(staleness), _MOST_BARS - 1)] += count
    tallest = max(heights)
    # Whoever is there at all is seen.
    return "".join(_BARS[-(-height * (len(_BARS) - 1) // tallest)] for height in heights)


def _count(value: object) -> str:
    number = finite_number(value)
    return "-" if number is None else f"{number:,.0f}"


def _decimal(value: object, digits: int) -> str:
    number = finite_number(value)
    return "-" if number is None else f"{number:,.{digits}f}"


def _or(value: object, otherwise: object) -> object:
    return otherwise if value is None else value


def _of(value: object, total: int | None) -> str:
    return _count(value) if total is None else f"{_count(value)} of {_count(total)}"


def _clock(seconds: object) -> str:
    number = finite_number(seconds)
    if number is None:
        return "-:--"
    minutes, second = divmod(int(number), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
