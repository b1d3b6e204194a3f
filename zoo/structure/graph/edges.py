"""The lines from parents to children in a drawing: straight where no other node is in the way, else bent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.structure.graph.shelves import Spot

Point = tuple[float, float]
#: How far from the middle of a line its bend may be pulled, in pixels: the first that meets no node is taken.
BENDS = (0.0, 30.0, -30.0, 60.0, -60.0, 100.0, -100.0, 150.0, -150.0)
#: Distance that a line keeps from other nodes, and its head from its own; points at which a line is looked at.
CLEAR, GAP, POINTS = 5.0, 2.0, 60


@dataclass(frozen=True)
class Line:
    """A quadratic Bézier curve: its start, the point that pulls it, and its end."""

    start: Point
    pull: Point
    end: Point

    def at(self, t: float) -> Point:
        """Return the point at ``t`` between 0 and 1."""
        return self._blossom(t, t)

    def between(self, first: float, last: float) -> Line:
        """Return the part of the curve from ``first`` to ``last``."""
        return Line(self._blossom(first, first), self._blossom(first, last), self._blossom(last, last))

    def _blossom(self, s: float, t: float) -> Point:
        weights = ((1 - s) * (1 - t), s * (1 - t) + t * (1 - s), s * t)
        x, y = (
            sum(w * point[i] for w, point in zip(weights, (self.start, self.pull, self.end), strict=True)) for i in (0, 1))
        return x, y


def line(parent: Spot, child: Spot, others: Sequence[Spot]) -> Line:
    """Return the line from the border of one node to that of another, around the ``others`` where that can be.

    >>> above, below, between = Spot(0, 0, 40, 40), Spot(0, 200, 40, 40), Spot(0, 100, 40, 40)
    >>> line(above, below, []).pull[0] == 0, line(above, below, [between]).pull[0] != 0
    (True, True)
    """
    found = _clearest(parent, child, np.array([(o.x, o.y, o.width, o.height) for o in others]).reshape(-1, 4))
    steps = [i / POINTS for i in range(POINTS + 1)]
    first = max((t for t in steps if parent.holds(*found.at(t))), default=0.0)
    last = min((t for t in steps if child.holds(*found.at(t), GAP)), default=1.0)
    return found.between(first, last) if first < last else found


def _clearest(parent: Spot, child: Spot, others: np.ndarray) -> Line:
    """Return the first bent line that meets none of the others, (nodes, 4), or else the one that meets them least."""
    best, least = _bent(parent, child, 0.0), -1
    for bend in BENDS:
        one = _bent(parent, child, bend)
        met = _met(one, others)
        if met == 0:
            return one
        if least < 0 or met < least:
            best, least = one, met
    return best


def _bent(parent: Spot, child: Spot, bend: float) -> Line:
    dx, dy = child.x - parent.x, child.y - parent.y
    length = (dx * dx + dy * dy) ** 0.5 or 1.0
    middle = ((parent.x + child.x) / 2 + 2 * bend * -dy / length, (parent.y + child.y) / 2 + 2 * bend * dx / length)
    return Line((parent.x, parent.y), middle, (child.x, child.y))


def _met(one: Line, others: np.ndarray) -> int:
    """Return at how many of its points a line lies in other nodes, whose ends are round."""
    points = np.array([one.at(i / POINTS) for i in range(POINTS + 1)])
    x, y, width, height = others.T[:, :, None]
    radius = np.minimum(width, height) / 2
    dx = np.maximum(0.0, np.abs(points[:, 0] - x) - (width / 2 - radius))
    dy = np.maximum(0.0, np.abs(points[:, 1] - y) - (height / 2 - radius))
    return int((dx**2 + dy**2 <= (radius + CLEAR) ** 2).sum())
