"""θ in tables, quantities that share a dimension side by side: see :class:`zoo.structure.learned.Learned`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.comparison.terminal.layout import WIDTH, wrapped
from zoo.structure.words import FEW, heading, network_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from experiments.comparison.table import Comparison
    from zoo.structure.learned import Learned

    #: Returns an empty table with a title, for a console.
    Empty = Callable[[str, Console], Table]

#: Columns of a quantity above which its longer dimension runs down the table.
WIDE = 8
#: Labels of dimensions, by name.
Labels = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Grid:
    """A table of some of θ: its caption, its heads, and its rows; the first ``names`` cells of a row say what it is of."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    names: int = 1


def plain(learned: Learned, labels: Labels) -> dict[str, Any]:
    """Return what was learned as plain data, with the ``labels`` of the dimensions that have as many elements."""
    sizes = {dim: size for one in learned.quantities for dim, size in zip(one.dims, one.value.shape, strict=True)}
    used = {dim: [str(label) for label in names] for dim, names in labels.items() if sizes.get(dim) == len(names)}
    return {**learned.to_dict(), "labels": used}


def grids(theta: Mapping[str, Any], most: float = float("inf")) -> tuple[list[Grid], list[str]]:
    """Return the tables of the smallest quantities of θ, up to ``most`` numbers, and the headings of those left out.

    Scalars are one table. Vectors and matrices along one dimension are one table, its rows along this dimension. Each
    quantity of more dimensions has its own.

    >>> weights = {"name": "weights", "dims": ["component"], "shape": [2], "values": [0.25, 0.75]}
    >>> grids({"parameters": [weights]})[0][0]
    Grid(caption='weights (component 2)', heads=['component', 'weights'], rows=[['0', '0.2500'], ['1', '0.7500']], names=1)
    """
    labels, known = theta.get("labels", {}), theta.get("parameters", [])
    shown = _within([one for one in known if one["values"] is not None and 0 not in one["shape"]], most)
    left = [heading(one) for one in known if one not in shown]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in map(_upright, shown):
        groups.setdefault((*one["dims"][:1], *one["shape"][:1]) if len(one["shape"]) < 3 else (one["name"],), []).append(one)
    return [_grid(group, labels) for group in groups.values()], left


def _within(known: Sequence[Mapping[str, Any]], most: float) -> list[Mapping[str, Any]]:
    """Return the smallest quantities of at most so many numbers together, in their order."""
    kept, total = [], 0
    for one in sorted(known, key=_size):
        total += _size(one)
        if total <= most:
            kept.append(one)
    return [one for one in known if one in kept]


def _size(one: Mapping[str, Any]) -> int:
    size = 1
    for length in one["shape"]:
        size *= length
    return size


def _upright(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn a wide matrix, so that its longer dimension runs down the table."""
    if len(one["shape"]) != 2 or not one["shape"][0] < one["shape"][1] > WIDE:
        return one
    values = [list(column) for column in zip(*one["values"], strict=True)]
    return {**one, "dims": one["dims"][::-1], "shape": one["shape"][::-1], "values": values}


def _grid(group: Sequence[Mapping[str, Any]], labels: Labels) -> Grid:
    caption, first = ", ".join(map(heading, group)), group[0]
    if not first["shape"]:
        return Grid(caption, ["quantity", "value"], [[one["name"], number(one["values"])] for one in group])
    if len(first["shape"]) > 2:
        return _deep(first, caption, labels)
    columns = [column for one in group for column in _columns(one, labels)]
    names = _labels(first["dims"][0], first["shape"][0], labels)
    rows = [[name, *(number(values[i]) for _, values in columns)] for i, name in enumerate(names)]
    return Grid(caption, [first["dims"][0], *(head for head, _ in columns)], rows)


def _columns(one: Mapping[str, Any], labels: Labels) -> list[tuple[str, list[Any]]]:
    """Return the columns of a vector or a matrix: their heads and their values."""
    if len(one["shape"]) == 1:
        return [(one["name"], one["values"])]
    names = _labels(one["dims"][1], one["shape"][1], labels)
    across = zip(*one["values"], strict=True)
    return [(f"{one['name']} {name}", list(values)) for name, values in zip(names, across, strict=True)]


def _deep(one: Mapping[str, Any], caption: str, labels: Labels) -> Grid:
    """Return a quantity of three dimensions or more, its last one across."""
    *outer, across = ([*_labels(dim, size, labels)] for dim, size in zip(one["dims"], one["shape"], strict=True))
    rows = []
    for names, at in zip(itertools.product(*outer), itertools.product(*map(range, one["shape"][:-1])), strict=True):
        values = one["values"]
        for i in at:
            values = values[i]
        rows.append([*names, *map(number, values)])
    return Grid(caption, [*one["dims"][:-1], *(f"{one['name']} {name}" for name in across)], rows, len(outer))


def _labels(dim: str, size: int, labels: Labels) -> list[str]:
    return [str(label) for label in labels.get(dim, range(size))]


def number(value: float | None) -> str:
    """Write a number to four significant digits.

    >>> number(0.35589), number(13.0), number(35551.2), number(-1.5e9), number(None)
    ('0.3559', '13.00', '35551', '-1.500e+09', '—')
    """
    if value is None:
        return "—"
    text = f"{value:#.4g}".rstrip(".")
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e7 else text


def thetas(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return each θ of a comparison, given as plain data, with its title: the one of all guides, or each guide's own."""
    own = table.get("theta_by_guide") or {}
    shared = [("θ", table["theta"])] if table.get("theta") else []
    return [(title, one) for title, one in [*shared, *((f"θ of '{guide}'", one) for guide, one in own.items())]
            if one.get("parameters") or one.get("networks")]


def comparison_theta(table: Comparison, out: Console, grid: Empty) -> None:
    """Print what a comparison learned of the model, in tables that ``grid`` begins; nothing where it learned nothing."""
    for title, theta in thetas(table.thetas()):
        print_theta(theta, out, grid, title)


def print_theta(theta: Mapping[str, Any], out: Console, grid: Empty, title: str = "θ") -> None:
    """Print θ, given as plain data: tables of at most 30 numbers, sizes of networks, and headings of what is left out.

    Lines have at most 100 characters.
    """
    width = min(out.width, WIDTH)
    found, left = grids(theta, FEW)
    for i, one in enumerate(found):
        if i and not out.is_terminal:
            out.print()  # on a terminal tables end in an empty line
        print_table(one.heads, one.rows, one.names, out, grid, "" if i else title)
    more = [network_text(network) for network in theta["networks"]]
    if left:
        more.append(f"{', '.join(left)}: not printed, over {FEW} numbers in all; --json and report.html have them")
    for line in more if found else [f"{title}: {line}" for line in more]:
        out.print(wrapped(line, width), markup=False, soft_wrap=True)
    if found or more:
        out.print()


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], names: int, out: Console, grid: Empty, title: str = "",
) -> None:
    """Print a table whose first ``names`` columns are words, and others numbers; a line for each row where it is too wide."""
    from experiments.comparison.terminal.console import cell

    table = grid(title, out)
    for i, head in enumerate(heads):
        table.add_column(cell(head), justify="left" if i < names else "right")
    for row in rows:
        table.add_row(*map(cell, row))
    if out.measure(table, options=out.options.update(max_width=10_000)).maximum <= (width := min(out.width, WIDTH)):
        return out.print(table)
    if title:
        out.print(title, markup=False, style="bold")
    for row in rows:
        parts = [f"{head} {cell}" for head, cell in zip(heads, row, strict=True)]
        out.print(wrapped(f"{', '.join(parts[:names])}: {', '.join(parts[names:])}", width), markup=False, soft_wrap=True)
    out.print()
