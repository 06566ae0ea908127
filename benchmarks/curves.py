"""Learning curves of what benchmarks/learning.py has run: ours, and a peer's beside them.

    python benchmarks/curves.py MinAtar/Breakout-v1 MinAtar/Asterix-v1 --out docs/minatar.png
    python benchmarks/curves.py "PongNoFrameskip-v4 total_env_steps=3500000" --out docs/pong.png --reach 18

For each name of a row (by default the environment's id) it reads the runs' episodes.csv in runs/learning/ and writes
their curves, thinned to 500 points, to benchmarks/results/curves/. The picture is drawn from those, so it can be drawn
again where the runs are gone: mean return of the last 100 episodes, from the 100th on, against steps and against
minutes. `--reach R` prints the first of a curve's points at R or above.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from learning import RUNS, run_directory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = Path(__file__).parent / "results" / "curves"
COLUMNS = ("env_steps", "minutes", "return_mean_100")
LABELS = ("environment steps", "minutes")
LIBRARIES = {"a3c": ("a3c", "#0072B2"), "sb3": ("Stable-Baselines3's A2C", "#D55E00")}
WINDOW, MOST_POINTS = 100, 500

Curve = np.ndarray  # [P, 3], its columns are COLUMNS


def learning_curve(rows: list[str]) -> Curve:
    """The thinned curve of a run from the rows of its episodes.csv; points are about evenly apart in steps."""
    episodes = np.loadtxt(rows, delimiter=",", ndmin=2)  # worker, env_steps, seconds, return, and what is not wanted
    episodes = episodes[np.argsort(episodes[:, 1], kind="stable")]
    _, steps, seconds, returns, *_ = episodes.T
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(last - WINDOW, 0)
    total = np.concatenate(([0.0], np.cumsum(returns)))
    mean = (total[last] - total[first]) / (last - first)
    begin = min(WINDOW, len(steps)) - 1  # a mean of fewer is too rough; a run that has no more is one point
    points = np.searchsorted(steps, np.linspace(steps[begin], steps[-1], MOST_POINTS))
    points = np.unique(np.maximum(points, begin))  # episodes before it may have ended at the same step
    return np.stack([steps, np.maximum.accumulate(seconds) / 60, mean], axis=1)[points]


def seeds_of(name: str, by: str, folder: Path, suffix: str = "") -> list[Path]:
    """The runs of a row in a folder, in the order of their seeds."""
    pattern = re.compile(re.escape(run_directory(name, by, 0)[:-1]) + r"(\d+)" + re.escape(suffix))
    found = [(int(match[1]), path) for path in folder.glob("*") if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def thin(name: str, by: str, runs: Path, curves: Path) -> None:
    """Write the curve of every run that is there and has finished an episode."""
    for run in seeds_of(name, by, runs):
        if rows := (run / "episodes.csv").read_text().splitlines()[1:]:
            header = ",".join(COLUMNS)
            np.savetxt(curves / f"{run.name}.csv", learning_curve(rows), "%.6g", ",", header=header, comments="")


def read_curves(name: str, by: str, curves: Path) -> list[Curve]:
    """One a seed."""
    return [np.loadtxt(p, delimiter=",", skiprows=1, ndmin=2) for p in seeds_of(name, by, curves, ".csv")]


def arrivals(libraries: dict[str, list[Curve]], level: float) -> list[str]:
    """A line for each seed: the steps and minutes of its curve's first point at `level` or above."""
    lines = []
    for by, seeds in libraries.items():
        for number, curve in enumerate(seeds, 1):
            there = np.flatnonzero(curve[:, 2] >= level)
            when = f"after {curve[there[0], 0]:,.0f} steps, {curve[there[0], 1]:.1f} minutes" if len(there) else "never"
            lines.append(f"{by}, run {number}: {level:g} {when}; {curve[-1, 2]:.1f} at the end")
    return lines


def draw(panel: Axes, seeds: list[Curve], x: int, colour: str) -> None:
    """Each seed's curve, and their mean for as long as all of them ran."""
    for curve in seeds:
        panel.plot(curve[:, x], curve[:, 2], color=colour, linewidth=0.6, alpha=0.5)
    grid = np.linspace(max(curve[0, x] for curve in seeds), min(curve[-1, x] for curve in seeds), 400)
    mean = np.mean([np.interp(grid, curve[:, x], curve[:, 2]) for curve in seeds], axis=0)
    panel.plot(grid, mean, color=colour, linewidth=2)


def paint(rows: dict[str, dict[str, list[Curve]]]) -> Figure:
    """A column for each name, over steps and over minutes; a single name's two panels side by side."""
    shape = (2, len(rows)) if len(rows) > 1 else (1, 2)
    figure = Figure(figsize=(max(8.0, 3.2 * shape[1]), 3.0 * shape[0] + 0.6), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False).reshape(2, -1)
    for column, (name, libraries) in enumerate(rows.items()):
        for x, panel in enumerate(panels[:, column]):
            for by, seeds in libraries.items():
                draw(panel, seeds, x, LIBRARIES[by][1])
            if x == 0 or len(rows) == 1:
                panel.set_title(name, fontsize=10)
            panel.set_xlabel(LABELS[x])
            panel.set_xlim(left=0)
            panel.xaxis.set_major_formatter(EngFormatter(sep="") if x == 0 else "{x:g}")
            panel.grid(color="#dddddd", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
    counts = {by: {len(libraries[by]) for libraries in rows.values() if by in libraries} for by in LIBRARIES}
    handles = [
        Line2D([], [], color=colour, linewidth=2.5, label=f"{label}, {' or '.join(map(str, sorted(counts[by])))} seeds")
        for by, (label, colour) in LIBRARIES.items()
        if counts[by]
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    figure.supylabel("return (mean of 100 episodes)", fontsize=10)
    figure.supxlabel("Thick: mean of the seeds, while all of them run. Thin: each seed.", fontsize=8, color="#555555")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a row of benchmarks/learning.py")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    parser.add_argument("--reach", type=float, metavar="R", help="a mean return of 100 episodes")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs' directories")
    parser.add_argument("--results", type=Path, default=CURVES, help="folder of the thinned curves")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, list[Curve]]] = {}
    for name in arguments.names:
        for by in LIBRARIES:
            thin(name, by, arguments.runs, arguments.results)
        rows[name] = {by: seeds for by in LIBRARIES if (seeds := read_curves(name, by, arguments.results))}
        if not rows[name]:
            parser.error(f"no run of {name} in {arguments.runs} has finished an episode, nor is its curve recorded")
        if arguments.reach is not None:
            print(name, *arrivals(rows[name], arguments.reach), sep="\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    paint(rows).savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
