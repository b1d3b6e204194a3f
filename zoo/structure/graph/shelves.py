"""Items in rows: in which order they stand, and where.

Within a row, items stand as near to below and above what they are connected with as their widths allow: a least-squares problem
that the pooling of adjacent violators solves. Then items of a row change places where lines cross less, and meet fewer nodes.

Source: Sugiyama, Tagawa and Toda (1981), Methods for visual understanding of hierarchical system structures,
https://doi.org/10.1109/TSMC.1981.4308636
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

#: Gaps between rows, and between the items of a row, in pixels.
ROWS, APART = 40.0, 22.0
#: Times that the rows are gone through; lines beyond which no items change places; points at which a line is looked at.
SWEEPS, MANY, POINTS = 12, 40, 24
#: What a crossing of two lines costs, in points of lines that lie in other nodes.
CROSSING = 4


@dataclass(frozen=True)
class Spot:
    """Where a node is: its centre, width and height."""

    x: float
    y: float
    width: float
    height: float

    def holds(self, x: float, y: float, more: float = 0.0) -> bool:
        """Return whether a point is in the node, whose ends are round, or within ``more`` of it."""
        radius = min(self.width, self.height) / 2
        dx = max(0.0, abs(x - self.x) - (self.width / 2 - radius))
        dy = max(0.0, abs(y - self.y) - (self.height / 2 - radius))
        return dx * dx + dy * dy <= (radius + more) ** 2


@dataclass(frozen=True)
class Frame:
    """Where a plate's box is, and whether its label stands on the left."""

    plate: str
    x: float
    y: float
    width: float
    height: float
    left: bool = False


@dataclass(frozen=True)
class Layout:
    """A part of the drawing: its size, where its nodes, by label, and plates are, and its own upper left corner."""

    width: float
    height: float
    spots: Mapping[str, Spot]
    frames: tuple[Frame, ...] = ()
    left: float = 0.0
    top: float = 0.0


def moved(part: Layout, x: float, y: float) -> Layout:
    """Return a part of the drawing in another place."""
    return Layout(
        part.width, part.height,
        {label: Spot(s.x + x, s.y + y, s.width, s.height) for label, s in part.spots.items()},
        tuple(Frame(f.plate, f.x + x, f.y + y, f.width, f.height, f.left) for f in part.frames),
        part.left + x, part.top + y)


class Shelf:
    """Parts of a drawing in rows.

    Args:
        parts: the parts.
        rows: which of them stand in each row.
        links: pairs of labels between which lines run.
    """

    def __init__(self, parts: Sequence[Layout], rows: Sequence[Sequence[int]], links: Sequence[tuple[str, str]]):
        self.parts, self.rows = parts, [list(row) for row in rows]
        self.owner = {label: i for i, part in enumerate(parts) for label in part.spots}
        self.links = [(a, b) for a, b in links if a in self.owner and b in self.owner and self.owner[a] != self.owner[b]]
        self.middle = [0.0] * len(parts)
        self.pulls = self._pulls()

    def settled(self) -> list[Layout]:
        """Return the parts in their places."""
        for row in self.rows:
            self._spread(row, dict.fromkeys(row, 0.0))
        for sweep in range(SWEEPS):
            for row in self.rows if sweep % 2 else self.rows[::-1]:
                wanted = self._wanted(row)
                if sweep < SWEEPS // 2:
                    row[:] = [i for _, i in sorted((wanted[i], i) for i in row)]
                self._spread(row, wanted)
        if len(self.links) <= MANY:
            self._exchange()
        return self._parts()

    def _pulls(self) -> list[list[tuple[int, float]]]:
        """Return, for each part, those that lines lead to, and how far from their middle its own makes the line upright."""
        found: list[list[tuple[int, float]]] = [[] for _ in self.parts]
        for a, b in self.links:
            here, there = (
                self.parts[self.owner[label]].spots[label].x - self.parts[self.owner[label]].width / 2 for label in (a, b))
            found[self.owner[a]].append((self.owner[b], there - here))
            found[self.owner[b]].append((self.owner[a], here - there))
        return found

    def _wanted(self, row: Sequence[int]) -> dict[int, float]:
        """Return where the middles of a row's parts were best."""
        return {
            i: sum(self.middle[j] + away for j, away in self.pulls[i]) / len(self.pulls[i]) if self.pulls[i] else self.middle[i]
            for i in row}

    def _spread(self, row: Sequence[int], wanted: Mapping[int, float]) -> None:
        """Put the parts of a row, in their order and apart, as near to the ``wanted`` middles as can be, in least squares."""
        offsets, place = [], 0.0
        for before, i in zip([None, *row[:-1]], row, strict=True):
            place += 0.0 if before is None else (self.parts[before].width + self.parts[i].width) / 2 + APART
            offsets.append(place)
        pools: list[tuple[float, int]] = []
        for i, offset in zip(row, offsets, strict=True):
            mean, count = wanted[i] - offset, 1
            while pools and pools[-1][0] > mean:
                last, size = pools.pop()
                mean, count = (last * size + mean * count) / (size + count), size + count
            pools.append((mean, count))
        shifts = [mean for mean, count in pools for _ in range(count)]
        for i, offset, shift in zip(row, offsets, shifts, strict=True):
            self.middle[i] = offset + shift

    def _parts(self) -> list[Layout]:
        found, y = {}, 0.0
        for row in self.rows:
            height = max(self.parts[i].height for i in row)
            for i in row:
                part = self.parts[i]
                found[i] = moved(part, self.middle[i] - part.width / 2, y + (height - part.height) / 2)
            y += height + ROWS
        return [found[i] for i in range(len(self.parts))]

    def _exchange(self) -> None:
        """Let two parts of a row change places where that makes the drawing clearer."""
        least = self._unclear()
        for row in self.rows:
            for a, b in combinations(range(len(row)), 2):
                before = list(self.middle)
                row[a], row[b] = row[b], row[a]
                self._spread(row, self._wanted(row))
                cost = self._unclear()
                if cost < least:
                    least = cost
                else:
                    row[a], row[b] = row[b], row[a]
                    self.middle = before

    def _unclear(self) -> int:
        """Return how often straight lines would cross, and how far they would run through other nodes."""
        spots = {label: spot for part in self._parts() for label, spot in part.spots.items()}
        lines = [(a, b, spots[a], spots[b]) for a, b in self.links]
        crossings = sum(
            _cross(one[2], one[3], two[2], two[3]) for one, two in combinations(lines, 2) if not {*one[:2]} & {*two[:2]})
        met = sum(
            spot.holds(a.x + t * (b.x - a.x), a.y + t * (b.y - a.y))
            for first, last, a, b in lines for label, spot in spots.items() if label not in (first, last)
            for t in (i / POINTS for i in range(POINTS + 1)))
        return CROSSING * crossings + met


def _cross(a: Spot, b: Spot, c: Spot, d: Spot) -> bool:
    """Return whether the line from ``a`` to ``b`` crosses the one from ``c`` to ``d``."""
    def side(p: Spot, q: Spot, r: Spot) -> bool:
        return (q.x - p.x) * (r.y - p.y) > (q.y - p.y) * (r.x - p.x)

    return side(a, b, c) != side(a, b, d) and side(c, d, a) != side(c, d, b)
