"""The picture of a comparison: three learning curves and the time to solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from a3c.errors import UsageError
from a3c.experiment.finished_runs import Axis, FinishedRun, group_curve, group_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by colour-blind readers; yellow is left out, too faint for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_X_LABELS: dict[Axis, str] = {
    "episodes": "episodes",
    "env_steps": "environment steps",
    "seconds": "wall-clock time (s)",
}
_Y_LABEL = "return (mean of 100 episodes)"
_GREY = "#555555"
_BAR_HEIGHT = 0.5
_CAPTION = (
    "Thick: mean of the runs, ± 1 standard deviation; dashed where a run counts at its first value, before its first "
    "episode ended,\nor at its last, after it was solved and stopped. "
    "Thin: each run. Dots: solved runs; crosses: unsolved runs, at the time they ended."
)

Groups = Mapping[str, Sequence[FinishedRun]]


def draw(groups: Groups, out: Path) -> None:
    """Write the picture of the groups, in the format of its suffix. Raises UsageError if it cannot be written."""
    figure = paint(groups)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=200)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written ({error.strerror or error}): name another file") from None


def paint(groups: Groups) -> Figure:
    """The picture of the groups: three panels of curves, and the bars."""
    figure = Figure(figsize=(10.0, max(7.0, 1.0 * len(groups))), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, axis in zip(panels, _X_LABELS, strict=False):
        _draw_curves(panel, groups, axis)
    _draw_time_to_solve(figure.axes[-1], groups)
    figure.legend(
        handles=[Line2D([], [], color=_colour(i), linewidth=2.5, label=name) for i, name in enumerate(groups)],
        loc="outside upper center",
        ncols=min(len(groups), 4),
        frameon=False,
    )
    figure.supxlabel(_CAPTION, fontsize=8, color=_GREY)
    return figure


def _draw_curves(panel: Axes, groups: Groups, axis: Axis) -> None:
    for i, runs in enumerate(groups.values()):
        colour = _colour(i)
        if len(runs) > 1:
            for run in runs:
                panel.plot(run.axis(axis), run.smoothed(), color=colour, linewidth=0.6, alpha=0.35)
        curve = group_curve(runs, axis)
        low, high = curve.mean - curve.spread, curve.mean + curve.spread
        panel.fill_between(curve.grid, low, high, color=colour, alpha=0.18, linewidth=0)
        panel.plot(curve.grid, np.where(curve.all_running, curve.mean, np.nan), color=colour, linewidth=2)
        held = np.where(curve.all_running, np.nan, curve.mean)
        panel.plot(curve.grid, held, color=colour, linewidth=2, linestyle=(0, (3, 1.5)))
    panel.set_xlabel(_X_LABELS[axis])
    panel.set_ylabel(_Y_LABEL)
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter("{x:g}" if axis == "seconds" else EngFormatter(sep=""))
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_time_to_solve(panel: Axes, groups: Groups) -> None:
    for i, (name, runs) in enumerate(groups.items()):
        colour = _colour(i)
        solved = [run.solved_after_s for run in runs if run.solved_after_s is not None]
        unsolved = [run.ended_after_s for run in runs if run.solved_after_s is None]
        median = group_result(name, runs).median_seconds
        if median is not None:
            panel.barh(i, median, height=_BAR_HEIGHT, color=colour, alpha=0.35)
        panel.plot(solved, _spread_out(i, len(solved)), "o", color=colour, markersize=4.5)
        panel.plot(unsolved, _spread_out(i, len(unsolved)), "x", color=colour, markersize=6, markeredgewidth=1.5)
        panel.text(
            0.015,
            i - _BAR_HEIGHT / 2 - 0.05,
            f"{name}: {len(solved)} of {len(runs)} solved",
            transform=panel.get_yaxis_transform(),  # x in parts of the panel's width
            va="bottom",
        )
    panel.set_yticks([])
    panel.set_ylim(len(groups) - 0.6, -0.75)
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("time to solve (s), median, unsolved runs counting as never")
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _spread_out(centre: float, count: int) -> list[float]:
    """Heights around a bar's middle, so that equal times do not hide one another."""
    return [centre + 0.7 * _BAR_HEIGHT * ((k + 0.5) / count - 0.5) for k in range(count)]


def _colour(group: int) -> str:
    return _COLOURS[group % len(_COLOURS)]
