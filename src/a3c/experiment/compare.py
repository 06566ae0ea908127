"""Runs side by side: a table and one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from a3c.errors import UsageError
from a3c.experiment.finished_runs import FinishedRun, GroupResult, group_result, read_run

FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Comparison:
    """A comparison's rows, and where its picture is. As text it is a table for the terminal.

    Attributes:
        goals: the mean returns at which its runs count as solved, each once, from the least; None for none.
    """

    rows: tuple[GroupResult, ...]
    picture: Path
    goals: tuple[float | None, ...] = ()

    def __str__(self) -> str:
        head = ("group", "runs", "solved", "median steps", "median seconds")
        body = [
            (
                row.group,
                str(row.runs),
                f"{row.solved} of {row.runs}",
                "never" if row.median_steps is None else f"{row.median_steps:,.0f}",
                "never" if row.median_seconds is None else f"{row.median_seconds:.1f}",
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            f"{line[0]:<{widths[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(line[1:], widths[1:], strict=True))
            for line in (head, *body)
        ]
        if len(self.goals) > 1:
            said = ", ".join("none" if goal is None else f"{goal:g}" for goal in self.goals)
            lines.append(f"note that not all runs had the same goal (mean return of 100 episodes: {said})")
        return "\n".join([*lines, f"time to solve, unsolved runs counting as never; picture: {self.picture}"])


def compare(run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Comparison:
    """Draw finished runs side by side and return what each group came to.

    Runs are grouped by their label, else by environment and algorithm; a run that is named twice counts once.
    Three panels show the return (running mean of the last 100 episodes) against episodes, environment steps and
    wall-clock seconds. Each run is a thin line. Each group is a thick line, the mean of its runs on a common
    grid, with a band of one standard deviation to each side. From where the first of them finished an episode,
    a run that has not counts at its first value; a run that was solved and stopped counts at its last. Where a
    run counts so the mean is dashed. A run that ended unsolved has no such last value, so the mean ends where
    the first of those ends. The fourth panel shows the median time to solve, as the table has it, and each
    solved run as a dot; runs that were not solved are crosses at the time they ended, and the label counts them.

    Args:
        run_dirs: directories of finished runs.
        out: the picture, .png, .pdf or .svg.

    Raises:
        UsageError: no run is named, the suffix is another, or the picture cannot be written.
        RunDirectoryError: a run is missing, unfinished or damaged.
    """
    out, paths = Path(out), [Path(path) for path in run_dirs]
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {out}: pictures are {', '.join(FORMATS)}; choose one of these endings")
    if not run_dirs:
        raise UsageError("there is nothing to compare: name at least one run directory")
    runs = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)

    from a3c.experiment.comparison_picture import draw  # noqa: PLC0415  (imports matplotlib)

    draw(groups, out)
    goals = sorted({run.goal for run in runs}, key=lambda goal: (goal is None, goal or 0.0))
    return Comparison(tuple(group_result(name, members) for name, members in groups.items()), out, tuple(goals))
