"""Charts of a report, laid out in per cent of their box: bars for gaps, lines for bounds against time."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.comparison.terminal.text import interval, number
from experiments.log_evidence.log_weights import Z95
from experiments.reporting.report.facts import Trace
from experiments.reporting.smoothing import Curve, smoothed

#: Nats per unit that a chart shows at least.
SHALLOW = 1e-3
#: Bars that a chart shows.
BARS = 60


@dataclass(frozen=True)
class Scale:
    """Numbers from ``low`` to ``high`` laid on 0 … 100: evenly, or by their logarithm above the ``knee``."""

    low: float
    high: float
    knee: float | None = None

    @classmethod
    def over(cls, values: Sequence[float]) -> Scale:
        """Return the scale from 0 to just above the largest value, logarithmic if they differ more than fiftyfold."""
        known = [value for value in values if 1e-6 < value < math.inf] or [1.0]
        return cls(0.0, 1.04 * max(known), min(known) if max(known) > 50 * min(known) else None)

    def at(self, value: float) -> float:
        def bent(part: float) -> float:
            return part if self.knee is None else math.log1p(max(0.0, part) / self.knee)

        return round(min(300.0, max(-200.0, 100 * bent(value - self.low) / bent(self.high - self.low))), 2)

    def within(self, value: float) -> float:
        """Return where ``value`` lies, or the end that it lies beyond."""
        return min(100.0, max(0.0, self.at(value)))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where to put which label: round numbers, far enough apart to be read."""
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 6))
        step *= next(k for k in (1, 2, 5, 10) if (self.high - self.low) / (k * step) <= 6)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        marks = [(k * step, f"{k * step:.{digits}f}") for k in range(math.ceil(self.low / step), int(self.high // step) + 1)]
        if self.knee is not None:
            powers = range(math.ceil(math.log10(self.knee)), math.floor(math.log10(self.high)) + 1)
            marks = [(0.0, "0"), *((10.0 ** power, f"{10.0 ** power:g}") for power in powers)]
        kept: list[tuple[float, str]] = []
        for value, text in marks:
            if not kept or self.at(value) - kept[-1][0] > 13:
                kept.append((self.at(value), text))
        return kept


@dataclass(frozen=True)
class Plane:
    """The scales of a chart, ``x`` of seconds and ``y`` of bounds, and how many ``points``, about, a line has at most."""

    x: Scale
    y: Scale
    points: int

    def path(self, trace: Trace) -> str:
        """Return a line of bounds against seconds as SVG's points."""
        return self._written(thin(trace, self.points))

    def band(self, curve: Curve) -> str:
        """Return the outline of a curve's 95% band as SVG's points: the upper edge, and back along the lower one."""
        kept = slice(None, None, max(1, math.ceil(2 * len(curve.at) / self.points)))
        at, values, errors = curve.at[kept], curve.values[kept], Z95 * curve.errors[kept]
        upper = self._written(zip(at, values + errors, strict=True))
        lower = self._written(zip(at[::-1], (values - errors)[::-1], strict=True))
        return f"{upper} {lower}"

    def _written(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x.at(seconds):g},{100 - self.y.at(bound):.5g}" for seconds, bound in points)


def each(gap: dict[str, Any], units: int) -> dict[str, Any]:
    """Return a gap per unit."""
    return {end: None if value is None else value / units for end, value in gap.items()}


def middle(gap: dict[str, Any]) -> float:
    """Return a gap's value, or the middle of its interval where that is all there is."""
    ends = [gap["value"]] if gap["value"] is not None else [end for end in (gap["lower"], gap["upper"]) if end is not None]
    return float(statistics.fmean(ends))


def bars(gaps: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return gaps per unit as bars: label, interval in words, and value, lower and upper end on the scale."""
    scale = Scale.over([gap[end] for _, gap in gaps for end in ("value", "upper") if gap[end] is not None])
    rows = [
        (name, interval(gap), *(None if gap[end] is None else scale.within(gap[end]) for end in ("value", "lower", "upper")))
        for name, gap in gaps[:BARS]]
    return {"scale": scale, "rows": rows, "left": len(gaps) - len(rows)}


def splits(rows: Sequence[dict[str, Any]], units: int) -> dict[str, Any] | None:
    """Return the parts of gaps per unit as bars: label, and of each part its name, its interval in words, where its bar begins
    and how wide it is on the scale; and the names of all parts that there are."""
    split = {row["guide"]: parts for row in rows if len(parts := parts_of(row, units)) > 1}
    if not split:
        return None
    widths = {guide: {name: max(0.0, middle(gap)) for name, gap in parts.items()} for guide, parts in split.items()}
    scale = max((Scale.over([sum(width.values())]) for width in widths.values()), key=lambda scale: scale.high)
    drawn = []
    for guide, parts in split.items():
        left, bars = 0.0, []
        for name, gap in parts.items():
            width = scale.within(widths[guide][name])
            bars.append((name, interval(gap), left, width))
            left += width
        drawn.append((guide, bars))
    return {"scale": scale, "rows": drawn, "parts": [name for name in PARTS if any(name in parts for parts in split.values())]}


#: The parts that a gap may have, in the order of their bars.
PARTS = ("shared", "local", "approximation", "amortisation")


def parts_of(row: dict[str, Any], units: int) -> dict[str, dict[str, Any]]:
    """Return the parts of a row's gap per unit, by name: a local part that splits gives way to its own parts."""
    found = {name: each(row[f"{name}_gap"], units) for name in PARTS if row.get(f"{name}_gap")}
    return {name: gap for name, gap in found.items() if name != "local" or "approximation" not in found}


def chart(
    traces: dict[str, Trace], level: float | None, points: int, banded: bool = True, objective: str = "ELBO",
    elsewhere: Container[str] = (), quantity: str = "log p(x | θ)",
) -> dict[str, Any]:
    """Return lines for bounds against seconds, on the range where the fits' ends can be told apart.

    Args:
        traces: of each fit; noisy ones are drawn as their moving mean and, if ``banded``, its 95% band.
        level: log p(x | θ) per unit, where it is known.
        points: of a line, at most, about.
        objective: what the bounds are called.
        quantity: what ``level`` is called.
        elsewhere: fits on other units than ``level`` is of, which is then no limit to them.
    """
    curves = {name: _curve(trace, None if name in elsewhere else level) for name, trace in traces.items()}
    lines = {name: list(zip(curve.at.tolist(), curve.values.tolist(), strict=True)) for name, curve in curves.items()}
    top, depth = _shown_range(list(lines.values()), level)
    y = Scale(top - depth, top + 0.08 * depth)
    plane = Plane(Scale.over([trace[-1][0] for trace in traces.values()]), y, points)
    noisy = {name: plane.band(curve) if banded else "" for name, curve in curves.items() if curve.averaged}
    named = {name: re.sub(r"^theta\b", "θ", name) + ", units trained on" * (name in elsewhere) for name in traces}
    return {
        "x": plane.x, "y": y, "level": None if level is None else y.at(level), "smooth": bool(noisy), "banded": banded,
        "objective": objective, "quantity": quantity, "lines": [
            {"name": named[name], "path": plane.path(line), "band": noisy.get(name, ""),
             "end": short(line[-1][1], 0.1 * depth)} for name, line in lines.items()]}


def _curve(trace: Trace, level: float | None) -> Curve:
    return smoothed([at for at, _ in trace], [bound for _, bound in trace], level)


def _shown_range(lines: Sequence[Trace], level: float | None) -> tuple[float, float]:
    """Return the highest of the bounds and ``level``, and how far below it a chart goes, in nats per unit."""
    ends = [line[-1][1] for line in lines]
    top = max([elbo for line in lines for _, elbo in line] + ([] if level is None else [level]))
    depth = max(top - sorted(elbo for _, elbo in line)[int(0.3 * len(line))] for line in lines)
    lag = top - min(ends)
    if lag > SHALLOW:  # the first steps may be thousands of nats below
        depth = max(1.2 * lag, min(depth, 8 * lag))
    return top, max(depth, SHALLOW)


def thin(trace: Trace, most: int) -> Trace:
    """Return the first, the last, the lowest and the highest of each stretch: about ``most`` points."""
    size = math.ceil(2 * len(trace) / most)
    if size <= 2:
        return trace
    kept = {0, len(trace) - 1}
    for start in range(0, len(trace), size):
        stretch = range(start, min(start + size, len(trace)))
        kept |= {min(stretch, key=lambda i: trace[i][1]), max(stretch, key=lambda i: trace[i][1])}
    return [trace[i] for i in sorted(kept)]


def short(value: float | None, error: float | None) -> str:
    """Write a number to the digits that its error allows, without the error.

    >>> short(-31.5261, 0.0142), short(0.00012345, 1e-5)
    ('-31.526', '0.0001234')
    """
    if value is not None and error and error < 1e-4:
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"
    return number(value, error).partition(" ±")[0]
