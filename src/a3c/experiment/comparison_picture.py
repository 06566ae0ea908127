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
from a3c.experiment.compare import Axis, group_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from a3c.experiment.compare import FinishedRun

# Okabe and Ito's palette, told apart by colour-blind readers; yellow is left out, too faint for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_X_LABELS: dict[Axis, str] = {
    "episodes": "episodes",
    "env_steps": "environment steps",
    "seconds": "wall-clock time (s)",
}
_Y_LABEL = "return (mean of 100 episodes)"
_GREY = "#555555"
_CAPTION = (
    "Thick: mean of the runs, ± 1 standard deviation; dashed once a solved run has stopped, which then counts at its "
    "last value.\nThin: each run. Dots: solved runs; crosses: unsolved runs, at the time they ended."
)

Groups = Mapping[str, "Sequence[FinishedRun]"]


def draw(groups: Groups, out: Path) -> None:
    """Draw the groups and write the picture, in the format of its suffix.

    Raises UsageError if it cannot be written.
    """
    bar_height = 0.32 * len(groups)
    figure = Figure(figsize=(10.0, 7.0 + max(0.0, bar_height - 2.5)), layout="constrained")
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
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=200)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written ({error.strerror or error}): name another file") from None


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
    if axis != "seconds":
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_time_to_solve(panel: Axes, groups: Groups) -> None:
    labels = []
    for i, (name, runs) in enumerate(groups.items()):
        solved = [run.solved_after_s for run in runs if run.solved_after_s is not None]
        unsolved = [run.ended_after_s for run in runs if run.solved_after_s is None]
        if solved:
            panel.barh(i, float(np.mean(solved)), height=0.6, color=_colour(i), alpha=0.35)
        panel.plot(solved, _spread_out(i, len(solved)), "o", color=_colour(i), markersize=4.5)
        panel.plot(unsolved, _spread_out(i, len(unsolved)), "x", color=_colour(i), markersize=6, markeredgewidth=1.5)
        labels.append(f"{name}\n{len(solved)} of {len(runs)} solved")
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.set_xlim(left=0)
    panel.set_xlabel("time to solve (s), mean of the solved runs")
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _spread_out(centre: float, count: int) -> list[float]:
    """Heights around a bar's middle, so that equal times do not hide one another."""
    return [centre + 0.4 * ((k + 0.5) / count - 0.5) for k in range(count)]


def _colour(group: int) -> str:
    return _COLOURS[group % len(_COLOURS)]
