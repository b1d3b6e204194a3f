"""The figure of a recommendation: gaps against seconds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from experiments.comparison.ladder.recommendation import Recommendation
from experiments.reporting.figures import COLOURS, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Gaps below this share of the tolerance are drawn there: a logarithmic axis has no 0.
FLOOR = 0.1


def gaps_against_seconds(found: Recommendation) -> Figure:
    """KL(q ‖ posterior) a unit of each rung, with its 95% interval, against seconds since the start; the tolerance as a line.

    Rungs without a gap, Markov chains, stand on the axis.
    """
    figure, axes = panels_of(6.8, 4.2)
    units = found.table.units
    tolerance = found.threshold / units
    for i, step in enumerate(found.steps):
        chosen, colour = i == found.chosen, COLOURS[2] if i == found.chosen else COLOURS[0]
        low, high = (max(FLOOR * tolerance, end / units) for end in _ends(step.gap.lower, step.gap.upper, step.gap.middle))
        middle = max(FLOOR * tolerance, 0.0 if math.isnan(step.gap.middle) else step.gap.middle / units)
        axes.plot([step.seconds, step.seconds], [low, high], color=colour, linewidth=2)
        axes.plot([step.seconds], [middle], "o" if chosen else ".", color=colour, markersize=9)
        axes.annotate(step.text, (step.seconds, high), xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
    axes.axhline(tolerance, color=COLOURS[1], linestyle="--", linewidth=1.2, label=f"tolerance, {tolerance:.3g}")
    axes.set_yscale("log")
    axes.set_xlim(0, 1.35 * max(step.seconds for step in found.steps))
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("KL(q ‖ posterior), nats per unit")
    axes.legend(loc="upper right", frameon=False)
    axes.set_title(f"{found.table.model.label}: gap against seconds", loc="left")
    return figure


def _ends(lower: float, upper: float | None, middle: float) -> tuple[float, float]:
    """Return the ends of an interval, as far as they are known."""
    if math.isnan(middle):
        return 0.0, 0.0
    return lower, middle if upper is None else upper
