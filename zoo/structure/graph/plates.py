"""The plates of a graphical model as boxes in boxes; plates that cross share cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from zoo.structure.graph.nodes import Node


@dataclass(frozen=True)
class Box:
    """What lies in ``plates``, of which a box of its own has one and a cell of crossing plates one or more."""

    plates: tuple[str, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Crossing:
    """Plates of which none lies within another, though they share nodes: rows and columns. Each cell is in some of them."""

    plates: tuple[str, ...]
    cells: tuple[Box, ...]


Item: TypeAlias = Node | Box | Crossing


def arrange(nodes: Sequence[Node], opened: frozenset[str] = frozenset()) -> tuple[Item, ...]:
    """Return nodes and boxes of nodes, parents before children where that can be; plates that are ``opened`` lie outside.

    >>> from zoo.structure.graph.nodes import DescribedSite
    >>> def node(name, *plates):
    ...     return Node(name, (DescribedSite(name, "latent", plates=plates),))
    >>> [type(item).__name__ for item in arrange([node("mu"), node("z", "rows"), node("x", "rows", "words")])]
    ['Node', 'Box']
    >>> [cell.plates for cell in arrange([node("a", "rows"), node("b", "columns"), node("y", "rows", "columns")])[0].cells]
    [('rows',), ('columns',), ('rows', 'columns')]
    """
    free = [node for node in nodes if opened.issuperset(node.first.plates)]
    boxes = [_enclosed(part, opened) for part in _connected([node for node in nodes if node not in free], opened)]
    return tuple(_in_order([*free, *boxes]))


def _enclosed(nodes: Sequence[Node], opened: frozenset[str]) -> Box | Crossing:
    """Return the box of nodes that plates connect: of one that holds all of them, or of several that cross."""
    inside = {
        plate: frozenset(node.label for node in nodes if plate in node.first.plates)
        for node in nodes for plate in node.first.plates if plate not in opened}
    whole = next((plate for plate, labels in inside.items() if len(labels) == len(nodes)), None)
    if whole is not None:
        return Box((whole,), arrange(nodes, opened | {whole}))
    outer = tuple(plate for plate, labels in inside.items() if not any(labels < other for other in inside.values()))
    cells: dict[tuple[str, ...], list[Node]] = {}
    for node in nodes:
        cells.setdefault(tuple(plate for plate in outer if node.label in inside[plate]), []).append(node)
    made = [Box(plates, arrange(members, opened | set(outer))) for plates, members in cells.items()]
    return Crossing(outer, tuple(cell for cell in _in_order(made) if isinstance(cell, Box)))


def _connected(nodes: Sequence[Node], opened: frozenset[str]) -> list[list[Node]]:
    """Return the parts that share no plate but those that are ``opened``."""
    parts: list[tuple[set[str], list[Node]]] = []
    for node in nodes:
        plates, members = set(node.first.plates) - opened, [node]
        for part in [part for part in parts if part[0] & plates]:
            parts.remove(part)
            plates, members = plates | part[0], part[1] + members
        parts.append((plates, members))
    order = {node.label: i for i, node in enumerate(nodes)}
    return [sorted(members, key=lambda node: order[node.label]) for _, members in parts]


def nodes_of(item: Item) -> Iterator[Node]:
    """Yield the nodes of an item."""
    if isinstance(item, Node):
        yield item
        return
    for part in item.items if isinstance(item, Box) else item.cells:
        yield from nodes_of(part)


def parents_among(items: Sequence[Item]) -> list[set[int]]:
    """Return for each item which of the others hold parents of its nodes."""
    owner = {node.label: i for i, item in enumerate(items) for node in nodes_of(item)}
    found = [{owner[name] for node in nodes_of(item) for name in node.parents if name in owner} for item in items]
    return [parents - {i} for i, parents in enumerate(found)]


def _in_order(items: Sequence[Item]) -> Iterable[Item]:
    """Yield items after those that they depend on; where boxes depend on each other, the first one first."""
    left, parents = list(range(len(items))), parents_among(items)
    while left:
        one = next((i for i in left if not parents[i] & set(left)), left[0])
        left.remove(one)
        yield items[one]
