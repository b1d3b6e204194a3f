"""Display of a benchmark's result on a terminal and in a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from benchmarks.results import Curve, Ratio, Result, Row

#: One colour a contender, in order, all dark enough to read on white.
COLOURS = ("#0b3d91", "#b5420c", "#1b6e3a", "#7a2182", "#5c4a00")
HEADS = ("case", "peer", "goal", "warm", "cold", "spent", "met")


def show(found: Result) -> None:
    """Print a result: first the rows as a table, then the tables and facts."""
    console = Console(highlight=False)
    if found.rows:
        grid = Grid(*HEADS, title=found.name)
        for row in found.rows:
            grid.add_row(*cells(row))
        console.print(grid)
        for line in dict.fromkeys(remarks(row) for row in found.rows):
            console.print(f"  {line}", markup=False)
    for table in found.tables:
        grid = Grid(*table.heads, title=table.title)
        for texts in table.rows:
            grid.add_row(*texts)
        console.print(grid)
    if found.facts:
        console.print(f"{found.name}: {json.dumps(found.facts)}", markup=False)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells, in the order of :data:`HEADS`, as text."""
    return (
        row.case, row.peer, goals(row), ratio(row.warm, row.at_least), ratio(row.cold, row.at_least), spent(row), met(row))


def remarks(row: Row) -> str:
    """Return what was checked to agree, and the note of the row."""
    return row.agrees + (f"; {row.note}" if row.note else "")


def goals(row: Row) -> str:
    """Return the goals of a row as text.

    >>> goals(Row("case", "peer", {}, None, 5.0, "", goal_cold=20.0))
    '≥ 5 warm, ≥ 20 cold'
    """
    asked = [(row.goal_warm, "warm"), (row.goal_cold, "cold")]
    return ", ".join(f"≥ {goal:g} {when}" for goal, when in asked if goal is not None) or "—"


def met(row: Row) -> str:
    """Return in one word whether the goals of a row are met."""
    return "—" if row.met is None else "yes" if row.met else "no"


def ratio(found: Ratio | None, at_least: bool = False) -> str:
    """Return a ratio as text.

    >>> ratio(Ratio(3.456, 3.0, 120.0))
    '3.46 (3–120)'
    """
    if found is None:
        return "—"
    return f"{'> ' if at_least else ''}{number(found.median)} ({number(found.low)}–{number(found.high)})"


def spent(row: Row) -> str:
    """Return the median of each contender, in the row's unit, as text."""
    def each(values: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{name} {number(value)}" for name, value in values)

    cold = f"; cold, s: {each(list(row.spent_cold.items()))}" if row.spent_cold else ""
    return f"{row.unit}: {each(list(row.spent.items()))}{cold}"


def number(value: float) -> str:
    """Return a number in three significant digits, without an exponent.

    >>> number(0.012345), number(12345.6)
    ('0.0123', '12,346')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def draw(found: Result, path: Path) -> None:
    """Draw a result's curves of ELBO against seconds, one panel for each case."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    across = min(2, len(found.curves))
    down = math.ceil(len(found.curves) / across)
    figure, panels = pyplot.subplots(down, across, figsize=(5.6 * across, 4.2 * down), squeeze=False, layout="constrained")
    for panel, curve in zip(panels.flat, found.curves, strict=False):
        _panel(panel, curve)
    for empty in list(panels.flat)[len(found.curves):]:
        empty.set_axis_off()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(panel: object, curve: Curve) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes), "as subplots gives them"
    for colour, (name, points) in zip(COLOURS, curve.series.items(), strict=False):
        seconds, elbos = zip(*points, strict=True)
        panel.plot(seconds, elbos, label=name, color=colour, linewidth=1.8)
    panel.axhline(curve.target, color="#444444", linewidth=0.9, linestyle="--", label="target")
    panel.set_xscale("log")
    panel.set_ylim(curve.target - _depth(curve), curve.target + 0.08 * _depth(curve))
    panel.set_title(curve.case, fontsize=10, color="#111111")
    panel.set_xlabel("seconds, warm", color="#111111")
    panel.set_ylabel("ELBO, nats", color="#111111")
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.grid(alpha=0.25)
    # Below the panel: within it there is always a curve to hide.
    panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, labelcolor="#111111")


def _depth(curve: Curve) -> float:
    """Return how many nats below the target to show: runs begin far below the target, which would flatten the curves."""
    starts = [curve.target - points[0][1] for points in curve.series.values() if points]
    return min(30.0, max(1.0, max(starts, default=1.0)))
