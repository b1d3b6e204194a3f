"""Where the nodes and plates of a graphical model are drawn: rows by depth, boxes in boxes, parents above children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

from zoo.structure.graph.nodes import Node, shortened
from zoo.structure.graph.plates import Box, Crossing, Item, arrange, nodes_of, parents_among
from zoo.structure.graph.shelves import APART, ROWS, Frame, Layout, Shelf, Spot, moved

#: Widths of a letter of a node's name, of what stands below it, and of a plate's label, in pixels.
NAME, DETAIL, PLATE = 7.3, 5.9, 6.6
#: Height of a node with one line and with two; the widest row.
HEIGHT, TALL, WIDEST = 30.0, 42.0, 820.0
#: Space between a plate's border and what lies inside, and for its label below.
PADDING, LABEL = 16.0, 17.0
#: Distance between the borders of plates that cross.
STEP = 6.0
#: Letters of a longer name that a node shows.
LETTERS = 28
#: How far the arrow of a node to itself reaches.
LOOP = 26.0


def layout(nodes: Sequence[Node], plates: Mapping[str, int]) -> Layout:
    """Place nodes and plates.

    >>> from zoo.structure.graph.nodes import DescribedSite
    >>> placed = layout([Node("z", (DescribedSite("z", "latent"),)), Node("x", (DescribedSite("x", "observed"),), ("z",))], {})
    >>> placed.spots["z"].y < placed.spots["x"].y, placed.spots["z"].x == placed.spots["x"].x
    (True, True)
    """
    return _rows_of(arrange(nodes), plates)


def plate_label(plate: str, plates: Mapping[str, int]) -> str:
    """Return what is written on a plate's box."""
    return f"{plate} × {plates[plate]:,}"


def _label_width(plate: str, plates: Mapping[str, int]) -> float:
    return PLATE * len(plate_label(plate, plates)) + PADDING


def name(node: Node) -> str:
    """Return what is written on a node."""
    return shortened(node.label, LETTERS)


def detail(node: Node) -> str:
    """Return what is written below a node's name."""
    if node.kind == "parameter":
        return node.shape if node.shape != "()" else ""
    return node.first.distribution


def _placed(item: Item, plates: Mapping[str, int]) -> Layout:
    if isinstance(item, Node):
        width = max(44.0, NAME * len(name(item)) + 24, DETAIL * len(detail(item)) + 24)
        height = TALL if detail(item) else HEIGHT
        room = width + (2 * LOOP if item.loop else 0.0)
        return Layout(room, height, {item.label: Spot(room / 2, height / 2, width, height)})
    if isinstance(item, Crossing):
        return _crossed(item, plates)
    inside = _rows_of(item.items, plates)
    width = max(inside.width + 2 * PADDING, _label_width(item.plates[0], plates))
    height = inside.height + 2 * PADDING + LABEL - 4
    inner = moved(inside, (width - inside.width) / 2, PADDING)
    return Layout(width, height, inner.spots, (Frame(item.plates[0], 0.0, 0.0, width, height), *inner.frames))


def _together(parts: Sequence[Layout], frames: Sequence[Frame] = ()) -> Layout:
    """Return parts that are in their places, and boxes around them, as one whose corner is at the origin."""
    edges = [(part.left, part.top, part.left + part.width, part.top + part.height) for part in parts]
    edges += [(f.x, f.y, f.x + f.width, f.y + f.height) for f in frames]
    left, top, right, bottom = (pick(edge[i] for edge in edges) for i, pick in enumerate((min, min, max, max)))
    spots = {label: spot for part in parts for label, spot in part.spots.items()}
    every = (*frames, *(frame for part in parts for frame in part.frames))
    return replace(moved(Layout(right - left, bottom - top, spots, every), -left, -top), left=0.0, top=0.0)


def _rows_of(items: Sequence[Item], plates: Mapping[str, int]) -> Layout:
    """Place items, which come parents first, in rows."""
    parts = [_placed(item, plates) for item in items]
    rows = _rows(parts, parents_among(items))
    links = [(parent, node.label) for item in items for node in nodes_of(item) for parent in node.parents]
    shelf = Shelf(parts, rows, links)
    return _together(shelf.settled())


def _rows(parts: Sequence[Layout], parents: Sequence[set[int]]) -> list[list[int]]:
    """Return which items stand in each row: below their parents, and what has none right above its first child."""
    above = [{j for j in one if j < i} for i, one in enumerate(parents)]  # boxes may depend on each other
    rank: list[int] = []
    for one in above:
        rank.append(max((rank[j] + 1 for j in one), default=0))
    for i, one in enumerate(above):
        children = [rank[j] for j in range(len(parts)) if i in above[j]]
        if not one and children:
            rank[i] = min(children) - 1
    rows: list[list[int]] = []
    for level in sorted(set(rank)):
        rows += _broken([i for i in range(len(parts)) if rank[i] == level], parts)
    return rows


def _broken(row: Sequence[int], parts: Sequence[Layout]) -> list[list[int]]:
    """Return a row as several of about as many items where it is too wide."""
    lines = int(sum(parts[i].width + APART for i in row) // WIDEST) + 1
    each = -(-len(row) // lines)
    return [list(row[first : first + each]) for first in range(0, len(row), each)]


def _crossed(item: Crossing, plates: Mapping[str, int]) -> Layout:
    """Place the cells of plates that cross side by side, each below what it depends on, and the plates' boxes around them."""
    cells = _lined_up(item)
    parts = [_widened(_rows_of(cell.items, plates), [_label_width(plate, plates) for plate in cell.plates]) for cell in cells]
    rank: list[int] = []
    for i, parents in enumerate(parents_among(item.cells)):
        rank.append(max((rank[j] + 1 for j in parents if j < i), default=0))
    tops = _tops([rank[item.cells.index(cell)] for cell in cells], [part.height for part in parts])
    done, x = [], 0.0
    for part, top in zip(parts, tops, strict=True):
        done.append(moved(part, x, top))
        x += part.width + 2 * _around(len(item.plates)) + APART
    height = max(part.top + part.height for part in done)
    frames = [
        Frame(plate, done[a].left - out, -out, done[b].left + done[b].width - done[a].left + 2 * out,
              height + 2 * out + LABEL - 4, i % 2 == 0)
        for i, plate in enumerate(item.plates) for out in (_around(i),) for a, b in _stretches(plate, cells)]
    return _together(done, frames)


def _around(nth: int) -> float:
    """Return how far the box of the ``nth`` of plates that cross is from its cells: borders must not coincide."""
    return PADDING + STEP * nth


def _widened(part: Layout, widths: Sequence[float]) -> Layout:
    """Return a part that is as wide as the labels of its plates, with its nodes in the middle."""
    more = max(0.0, *widths) - part.width
    return part if more <= 0 else replace(moved(part, more / 2, 0.0), width=part.width + more, left=0.0)


def _tops(level: Sequence[int], heights: Sequence[float]) -> list[float]:
    """Return where cells begin: each below all cells of lower levels."""
    below, y = {}, 0.0
    for one in sorted(set(level)):
        below[one] = y
        y += max(height for height, at in zip(heights, level, strict=True) if at == one) + ROWS
    return [below[one] for one in level]


def _lined_up(item: Crossing) -> tuple[Box, ...]:
    """Return the cells in an order in which, where one is found, those of each plate stand side by side."""
    if len(item.cells) > 6:
        return item.cells
    return min(permutations(item.cells), key=lambda cells: sum(len(_stretches(plate, cells)) for plate in item.plates))


def _stretches(plate: str, cells: Sequence[Box]) -> list[tuple[int, int]]:
    """Return the first and the last of each stretch of cells in a plate."""
    found: list[tuple[int, int]] = []
    for i, cell in enumerate(cells):
        if plate in cell.plates:
            found[-1:] = [(found[-1][0], i)] if found and found[-1][1] == i - 1 else [*found[-1:], (i, i)]
    return found
