"""A graphical model as text, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from zoo.structure.graph.nodes import KINDS, Node, shortened
from zoo.structure.graph.plates import Crossing, Item, arrange

#: Columns of a terminal; letters of a label that others are aligned with; letters that a shortened cell keeps.
WIDTH, ALIGNED, LEAST = 80, 20, 10


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Return a table as text; where it is too wide, its widest cells are shortened.

    >>> print(columns(("site", "shape"), [("theta", "(8,)")]))
    site   shape
    theta  (8,)
    """
    table = [tuple(heads), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > LEAST:
        widths[widths.index(max(widths))] -= 1
    lines = ("  ".join(shortened(cell, n).ljust(n) for cell, n in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def drawing(nodes: Sequence[Node], plates: Mapping[str, int], width: int = WIDTH) -> str:
    """Return a graphical model as text: plates as boxes, and after ← what a node depends on; ``plates`` are their rows."""
    lines = _lines(arrange(nodes), plates, width)
    kinds = dict.fromkeys(node.kind for node in nodes)
    legend = "  ".join([*(" ".join(KINDS[kind]) for kind in kinds), "← depends on"])
    return "\n".join([*lines, "", legend])


def _lines(items: Sequence[Item], plates: Mapping[str, int], width: int) -> list[str]:
    labels = [len(item.label) for item in items if isinstance(item, Node)]
    aligned = max((length for length in labels if length <= ALIGNED), default=0)
    lines: list[str] = []
    for item in items:
        if isinstance(item, Node):
            lines += _node(item, aligned, width)
        elif isinstance(item, Crossing):
            for cell in item.cells:
                lines += _box(cell.plates, cell.items, plates, width)
        else:
            lines += _box(item.plates, item.items, plates, width)
    return lines


def _box(names: tuple[str, ...], items: Sequence[Item], plates: Mapping[str, int], width: int) -> list[str]:
    while len(items) == 1 and not isinstance(items[0], Node | Crossing):
        names, items = (*names, *items[0].plates), items[0].items
    title = shortened(", ".join(f"{name} × {plates[name]:,}" for name in names), width - 6)
    inside = _lines(items, plates, width - 4)
    length = max(len(title) + 1, *(len(line) for line in inside))
    return [
        f"┌ {title} {'─' * (length - len(title))}┐", *(f"│ {line.ljust(length)} │" for line in inside),
        f"└{'─' * (length + 2)}┘"]


def _node(node: Node, aligned: int, width: int) -> list[str]:
    parents = [*node.parents, *([node.loop] if node.loop else [])]
    what = node.shape if node.kind == "parameter" else node.first.distribution
    text = " ".join([what, *([f"← {', '.join(parents)}"] if parents else [])]).strip()
    head = f"{KINDS[node.kind][0]} {node.label.ljust(aligned)}"
    if not text:
        return wrap(head, width) or [head]
    if len(head) > ALIGNED + 4:
        return [shortened(head.rstrip(), width), *wrap(text, width, initial_indent=" " * 4, subsequent_indent=" " * 6)]
    return wrap(text, width, initial_indent=f"{head}  ", subsequent_indent=" " * (len(head) + 4))
