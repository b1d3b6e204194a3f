"""The figure of a recommendation: gaps against seconds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from experiments.comparison.ladder.recommendation import Recommendation, Step
from experiments.reporting.figures import COLOURS, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Gaps below this share of the tolerance are drawn there: a logarithmic axis has no 0.
FLOOR = 0.05


def gaps_against_seconds(found: Recommendation) -> Figure:
    """KL(q ‖ posterior) a unit of each rung, with its 95% interval, against seconds since the start; the tolerance as a line.

    Rungs are numbered, and named below. Those without a gap, Markov chains, stand at the foot.
    """
    figure, axes = panels_of(6.8, 3.6 + 0.2 * len(found.steps))
    tolerance, bottom = found.threshold / found.table.units, FLOOR * found.threshold / found.table.units
    top = 10 * tolerance
    for i, step in enumerate(found.steps):
        low, middle, high = (max(bottom, value / found.table.units) for value in _gap(step))
        top = max(top, 2 * high)
        colour = COLOURS[2] if i == found.chosen else COLOURS[0]
        axes.plot([step.seconds] * 2, [low, high], color=colour, linewidth=2)
        told = f", {note}" if (note := found.note(i)) else ""
        axes.plot([step.seconds], [middle], "o", color=colour, markersize=5, label=f"{i + 1}  {step.text}{told}")
        axes.annotate(str(i + 1), (step.seconds, middle), xytext=(5, 3), textcoords="offset points", fontsize=9, color=colour)
    axes.axhline(tolerance, color=COLOURS[1], linestyle="--", linewidth=1.2, label=f"tolerance, {tolerance:.3g}")
    axes.set_yscale("log")
    axes.set_ylim(0.8 * bottom, top)
    axes.set_xlim(0, 1.08 * max(step.seconds for step in found.steps))
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("KL(q ‖ posterior), nats per unit")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=9)
    axes.set_title(f"{found.table.model.label}: gap against seconds", loc="left")
    return figure


def _gap(step: Step) -> tuple[float, float, float]:
    """Return the lower end of a gap, its middle and its upper end, as far as they are known; 0 for Markov chains."""
    gap = step.gap
    if math.isnan(gap.middle):
        return 0.0, 0.0, 0.0
    return gap.lower, gap.middle, gap.middle if gap.upper is None else gap.upper
