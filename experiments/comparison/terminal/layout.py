"""How a printed table keeps within a width: long names are folded, columns are left out or go into a table of their own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from experiments.runtime.inert import inert

#: Characters that a line of a table, or of the remarks below it, takes at most, unless all columns are asked for.
WIDTH = 100
#: Characters above which a guide's name is folded, if the table would be too wide with the whole name.
NAME = 30
#: A space at which no line is broken.
TIE = "\N{NO-BREAK SPACE}"
#: The selections of columns that a table can show.
SELECTIONS: Mapping[str, str] = {
    "default": "those that say how good a guide is, as far as they fit in 100 characters", "all": "every column"}


@dataclass(frozen=True)
class Column:
    """A column of a comparison's table.

    Attributes:
        head: what reports call it.
        cell: what a row shows under it, given the row as plain data and how many units to divide by.
        each: whether the numbers per unit are shown, too.
        key: of the row's data without which there is nothing to show; empty: there is always something.
        short: what the printed table calls it, where that is shorter.
        group: columns of a group stay together where one table can't hold all.
        rank: 0: shown wherever there is something to show; above: the higher, the sooner the column is left out.
        wanted: whether it is among the default columns.
    """

    head: str
    cell: Callable[[dict[str, Any], int], str]
    each: bool = True
    key: str = ""
    short: str = ""
    group: str = "quality"
    rank: int = 0
    wanted: bool = True

    def shown(self, rows: list[dict[str, Any]]) -> bool:
        """Whether any row has something to show."""
        return not self.key or any(row.get(self.key) is not None for row in rows)


@dataclass(frozen=True)
class Part:
    """One of the tables that together show the rows: its columns, and the characters that names are folded to, if they are."""

    columns: tuple[Column, ...]
    fold: int | None = None


def arranged(columns: Sequence[Column], fits: Callable[[Part], bool], drop: bool) -> list[Part]:
    """Return the tables in which ``columns`` are shown.

    That is one table if one ``fits``, with folded names if need be, and without columns of rank above 0 if they may be left out
    (``drop``). Else each group of columns has a table, and a group that is still too wide has several.
    """
    for part in _candidates(columns, drop):
        if fits(part):
            return [part]
    groups = [list(found) for _, found in groupby(sorted(columns, key=_place(columns)), key=lambda column: column.group)]
    if len(groups) > 1:
        return [part for group in groups for part in arranged(group, fits, drop)]
    kept = [column for column in columns if not (drop and column.rank)] or list(columns)
    count = next((n for n in range(len(kept) - 1, 1, -1) if fits(Part(tuple(kept[:n]), NAME))), 1)
    rest = kept[count:]
    return [Part(tuple(kept[:count]), NAME), *(arranged(rest, fits, drop) if rest else [])]


def _candidates(columns: Sequence[Column], drop: bool) -> list[Part]:
    """Return tables of all columns, whole and with folded names, then with ever fewer of those that may be left out."""
    found = [Part(tuple(columns))]
    for rank in [*sorted({column.rank for column in columns}, reverse=True)] if drop else [max(c.rank for c in columns)]:
        found.append(Part(tuple(column for column in columns if column.rank <= rank), NAME))
    return [part for part in found if part.columns]


def _place(columns: Sequence[Column]) -> Callable[[Column], int]:
    """Return the order of groups: that of their first columns."""
    groups = list(dict.fromkeys(column.group for column in columns))
    return lambda column: groups.index(column.group)


def fold(name: str, width: int | None) -> str:
    """Return a guide's name, inert, and broken between its parts into lines of up to ``width`` characters if it is longer.

    >>> print(fold("full_rank+mean_field:encoder(shared=True, hidden=(32, 32))", 30))
    full_rank+mean_field:
      encoder(shared=True,
      hidden=(32, 32))
    """
    name = inert(name)
    if width is None or len(name) <= width:
        return name
    lines = [""]
    for piece in _pieces(name):
        if len(lines[-1]) + len(piece.rstrip()) > width and lines[-1].strip():
            lines.append("  ")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _pieces(name: str) -> list[str]:
    """Cut a name after each ``+``, ``:`` and comma, but not within the tuples among its arguments."""
    depth, pieces = 0, [""]
    for letter in name:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        pieces[-1] += letter
        if letter in "+: " and depth < 2:
            pieces.append("")
    return pieces


def wrapped(text: str, width: int) -> str:
    """Return a remark, inert, in lines of up to ``width`` characters; all but the first are indented. Names stay whole.

    >>> print(wrapped("log p(x | θ) = -31.308 [-31.333, -31.278] nats, estimated", 36))
    log p(x | θ) = -31.308 [-31.333,
      -31.278] nats, estimated
    """
    whole = re.sub(r"'[^']*'|log p\(x \| θ\)", lambda found: _tied(found[0]), inert(text))
    lines = textwrap.fill(whole, max(width, 20), subsequent_indent="  ", break_on_hyphens=False)
    return lines.replace(TIE, " ")


def _tied(name: str) -> str:
    """Tie the words of a name together, but not the names of a mixture."""
    return " + ".join(part.replace(" ", TIE) for part in name.split(" + "))


def flat(row: dict[str, Any], units: int) -> dict[str, Any]:
    """Return a row of :meth:`Comparison.to_dict` as one level: of what is nested ``key``, ``key_se``, …, ``key_per_unit``."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if not isinstance(value, dict):
            found[key] = value
            continue
        found[key] = value["value"]
        found.update({f"{key}_{k}": v for k, v in value.items() if k != "value"})
        found[f"{key}_per_unit"] = None if value["value"] is None else value["value"] / units
    return found
