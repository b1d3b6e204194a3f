"""A graphical model as an SVG image: plates are boxes, observed nodes are shaded, latent ones open, summed-out ones dashed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from zoo.structure.graph.edges import Line, Point, line
from zoo.structure.graph.layout import LOOP, detail, layout, name, plate_label
from zoo.structure.graph.nodes import KINDS, Node
from zoo.structure.graph.shelves import Frame, Spot

MARGIN, TITLE, KEY = 16.0, 28.0, 30.0
#: Fill, stroke and dashes of each kind of node.
DASHED = ("#ffffff", "#222222", "4 3")
STYLES: Mapping[str, tuple[str, str, str]] = {
    "latent": ("#ffffff", "#222222", ""), "enumerated": DASHED, "summed out": DASHED, "observed": ("#cfd4da", "#222222", ""),
    "predicted": ("#eef0f2", "#222222", "1 2"), "computed": ("#ffffff", "#888888", ""), "factor": ("#444444", "#444444", ""),
    "parameter": ("#e3edf9", "#b4c8e4", ""),
}
#: Kinds with corners; the others have round ends.
CORNERED = ("computed", "factor", "parameter")
FONTS = "font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\""
SMALL = "font-family=\"'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif\""


def svg(nodes: Sequence[Node], plates: Mapping[str, int], title: str) -> str:
    """Return a graphical model as the text of an SVG image; ``plates`` are how many rows each plate has.

    >>> from zoo.structure.graph.nodes import DescribedSite
    >>> svg([Node("x", (DescribedSite("x", "observed", "Normal"),))], {}, "one").count("<rect")
    3
    """
    placed = layout(nodes, plates)
    kinds = list(dict.fromkeys(node.kind for node in nodes))
    key_width = sum(_key_length(kind) for kind in kinds)
    width = max(placed.width, key_width, 8.2 * len(title)) + 2 * MARGIN
    height = placed.height + TITLE + KEY + 2 * MARGIN
    left = (width - placed.width) / 2
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 11}" font-size="13" font-weight="bold" fill="#222222" {SMALL}>{escape(title)}</text>',
        f'<g transform="translate({left:.1f} {MARGIN + TITLE})">',
        *(_frame(frame) for frame in placed.frames),
        *(part for node in nodes for part in _edges(node, placed.spots)),
        *(_label(frame, plates) for frame in placed.frames),
        *(part for node in nodes for part in _node(node, placed.spots[node.label])),
        "</g>",
        *_key(kinds, height - MARGIN - 6),
        "</svg>"])


def _frame(frame: Frame) -> str:
    return (
        f'<rect x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}" rx="7" '
        'fill="#000000" fill-opacity="0.02" stroke="#8a9099"/>')


def _label(frame: Frame, plates: Mapping[str, int]) -> str:
    """Return the label of a plate, with a margin of white, over the arrows."""
    x, anchor = (frame.x + 8, "start") if frame.left else (frame.x + frame.width - 8, "end")
    return (
        f'<text x="{x:.1f}" y="{frame.y + frame.height - 7:.1f}" text-anchor="{anchor}" font-size="11" fill="#555b63" '
        f'stroke="#ffffff" stroke-width="3" paint-order="stroke" {SMALL}>{escape(plate_label(frame.plate, plates))}</text>')


def _edges(node: Node, spots: Mapping[str, Spot]) -> Iterator[str]:
    """Yield the arrows to a node, and the one from it to itself."""
    own = spots[node.label]
    for parent in node.parents:
        others = [spot for label, spot in spots.items() if label not in (parent, node.label)]
        yield _arrow(line(spots[parent], own, others))
    if node.loop:
        x, y = own.x + own.width / 2 - 3, own.y
        start, end = (x, y - 9), (x + 3, y + 9)
        pulls = ((x + 1.2 * LOOP, y - 20), (x + 1.2 * LOOP, y + 20))
        yield _stroke(f"M{_at(start)} C{_at(pulls[0])} {_at(pulls[1])} {_at(end)}") + _head(pulls[1], end)


def _arrow(found: Line) -> str:
    return _stroke(f"M{_at(found.start)} Q{_at(found.pull)} {_at(found.end)}") + _head(found.pull, found.end)


def _stroke(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#444444" stroke-width="1.1"/>'


def _head(tail: Point, tip: Point) -> str:
    """Return the head of an arrow that comes from ``tail``."""
    dx, dy = tip[0] - tail[0], tip[1] - tail[1]
    length = (dx * dx + dy * dy) ** 0.5 or 1.0
    dx, dy = dx / length, dy / length
    sides = [(tip[0] - 8 * dx + 3.2 * side * dy, tip[1] - 8 * dy - 3.2 * side * dx) for side in (1, -1)]
    return f'<polygon points="{_at(tip)} {_at(sides[0])} {_at(sides[1])}" fill="#444444"/>'


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _node(node: Node, spot: Spot) -> Iterator[str]:
    below = detail(node)
    if len(node.sites) > 1:
        yield from (_shape(node.kind, Spot(spot.x + away, spot.y + away, spot.width, spot.height)) for away in (5, 2.5))
    yield _shape(node.kind, spot)
    ink = "#ffffff" if node.kind == "factor" else "#111111"
    y = spot.y - 3 if below else spot.y + 4
    whole = "" if name(node) == node.label else f"<title>{escape(node.label)}</title>"  # where the pointer rests
    yield (f'<text x="{spot.x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="12" fill="{ink}" {FONTS}>'
           f"{whole}{escape(name(node))}</text>")
    if below:
        yield (f'<text x="{spot.x:.1f}" y="{spot.y + 12:.1f}" text-anchor="middle" font-size="10" fill="#555b63" {SMALL}>'
               f"{escape(below)}</text>")


def _shape(kind: str, spot: Spot) -> str:
    fill, stroke, dashes = STYLES[kind]
    round_by = 3 if kind in CORNERED else spot.height / 2
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<rect x="{spot.x - spot.width / 2:.1f}" y="{spot.y - spot.height / 2:.1f}" width="{spot.width:.1f}" '
        f'height="{spot.height:.1f}" rx="{round_by:.1f}" fill="{fill}" stroke="{stroke}" stroke-width="1.2"{dashed}/>')


def _key(kinds: Sequence[str], y: float) -> Iterator[str]:
    """Yield what the looks of nodes mean."""
    x = MARGIN
    for kind in kinds:
        yield _shape(kind, Spot(x + 10, y - 4, 20, 12))
        yield f'<text x="{x + 26:.1f}" y="{y:.1f}" font-size="11" fill="#555b63" {SMALL}>{KINDS[kind][1]}</text>'
        x += _key_length(kind)


def _key_length(kind: str) -> float:
    return 26 + 6.6 * len(KINDS[kind][1]) + 18
