"""Tables of a report, whose columns can be sorted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from experiments.comparison.text import COLUMNS
from experiments.reporting.report.charts import short


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
