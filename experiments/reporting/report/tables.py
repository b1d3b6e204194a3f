"""Tables of a report, whose columns can be sorted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from experiments.comparison.terminal.text import COLUMNS, number
from experiments.comparison.terminal.theta import grids, thetas
from experiments.comparison.terminal.theta import number as significant
from experiments.reporting.report.charts import short
from experiments.reporting.units import tables as tables_of_units
from zoo.structure.words import network_text


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text; ``level``: of a verdict; ``href``: where in the page it leads."""

    text: str
    level: str = ""
    href: str = ""

    @property
    def key(self) -> float | None:
        """The number that the text starts with; ``None`` where it is none.

        >>> Cell("-31.526 ± 0.014").key, Cell("≥ 0.180").key, Cell("7 of 512").key, Cell("digits").key
        (-31.526, 0.18, 7.0, None)
        """
        if self.text in ("∞", "−∞"):
            return math.inf if self.text == "∞" else -math.inf
        match = re.fullmatch(r"(?:≥ )?([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?: (?:±|…|of)(?: .*)?)?", self.text)
        return float(match[1]) if match else None


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted; the first cell of a row is its head."""

    caption: str
    heads: list[str]
    rows: list[list[Cell]]

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds nothing but numbers, where it holds anything."""
        columns = [[cell for cell in column if cell.text not in ("", "—")] for column in zip(*self.rows, strict=True)]
        return [bool(column) and all(cell.key is not None for cell in column) for column in columns]


def tables(rows: list[dict[str, Any]], units: int) -> list[Table]:
    """Return the comparison's table as the terminal shows it: totals, and per unit where there are several."""
    def table(caption: str, count: int, each: bool) -> Table:
        shown = [column for column in COLUMNS if column.shown(rows) and (column.each or not each)]
        cells = [[Cell(row["guide"]), *(Cell(column.cell(row, count) or "—") for column in shown)] for row in rows]
        return Table(caption, ["guide", *(column.head for column in shown)], cells)

    total = table("Nats, totals over units, ± Monte-Carlo standard error; k̂ and ESS: the worst unit's", 1, False)
    return [total] if units == 1 else [total, table(f"Nats per unit, of {units} units", units, True)]


def summary_table(rows: list[dict[str, Any]]) -> Table:
    """Return a posterior's summary as a table, each number to the digits that a tenth of its standard deviation allows."""
    cells = [[Cell(str(row["variable"])), *(
        Cell(short(row[key], row["sd"] and row["sd"] / 10)) for key in ("mean", "sd", "lower", "upper"))] for row in rows]
    return Table("Mean, standard deviation and 94% interval", ["variable", "mean", "sd", "3%", "97%"], cells)


@dataclass(frozen=True)
class Theta:
    """What a page shows of θ: its title, tables of its quantities, and lines on networks and on what has too many numbers."""

    title: str
    tables: list[Table]
    lines: list[str]


def theta_tables(comparison: dict[str, Any]) -> list[Theta]:
    """Return what was learned of a comparison's model, or of each guide's own; nothing of runs of earlier versions."""
    shown = []
    for title, theta in thetas(comparison):
        found, left = grids(theta)
        lines = [network_text(network) for network in theta.get("networks", [])]
        lines += [f"{heading}: too many numbers for this page" for heading in left]
        shown.append(Theta(title, [_plain(one.caption, one.heads, one.rows) for one in found], lines))
    return shown


def unit_tables(units: list[dict[str, Any]]) -> list[tuple[str, Table]]:
    """Return a sentence and a table for each of a posterior's summaries over units."""
    return [(text, _plain("", heads, rows)) for text, heads, rows in tables_of_units(units)]


def worst_table(found: dict[str, Any] | None) -> Table | None:
    """Return the quantities that are most wrong as a table; ``None`` where none is, or nothing was compared."""
    if not found or not found["worst"]:
        return None
    heads = ["quantity", "guide", "mean", "sd", "reference mean", "reference sd", "error of mean, sd", "sd ratio"]
    return _plain(f"Against {found['reference']}", heads, [_worst_row(one) for one in found["worst"]])


def _worst_row(one: dict[str, Any]) -> list[str]:
    numbers = [significant(one[key]) for key in ("mean", "sd", "reference_mean", "reference_sd")]
    errors = [number(one[key], one[f"{key}_se"]) for key in ("error", "sd_ratio")]
    return [one["quantity"], one["guide"], *numbers, *errors]


def _plain(caption: str, heads: list[str], rows: list[list[str]]) -> Table:
    return Table(caption, heads, [[Cell(text) for text in row] for row in rows])
