"""The printed table of a comparison: with colours in a terminal, plain text in a pipe."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.comparison.remarks import Importance, legend, remarks
from experiments.comparison.terminal.layout import SELECTIONS, WIDTH, Column, Part, arranged, fold, wrapped
from experiments.comparison.terminal.theta import comparison_theta
from zoo.errors import chosen

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from experiments.comparison.parameters import Parameters
    from experiments.comparison.table import Comparison
    from experiments.log_evidence.result import Evidence


#: What stands for a number that there is not.
NOTHING = "—"


def number(value: float | None, se: float | None = None) -> str:
    """Write a number to the digits its error allows: two digits of the error, or three decimals where it is exact.

    >>> number(-31.5261, 0.0142), number(3.14159, 0.0), number(None)
    ('-31.526 ± 0.014', '3.142', '—')
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if not se or not math.isfinite(se) or se < 1e-9 * (1 + abs(value)):
        return _exact(value)
    digits = min(6, max(0, 1 - math.floor(math.log10(se))))
    if abs(value) >= 1e7:
        return f"{value:.3e} ± {se:.1e}"
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def _exact(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 1e7 else f"{value:.3e}"
    return "0.000" if text == "-0.000" else text


def interval(gap: dict[str, float | None]) -> str:
    """Write a gap, or evidence without a point, as its interval.

    >>> interval({"value": 0.2, "se": 0.01, "lower": 0.18, "upper": None})
    '≥ 0.180'
    """
    lower, upper, se = gap["lower"], gap["upper"], gap["se"]
    if lower is None or math.isnan(lower):
        return NOTHING
    if math.isinf(lower):
        return "∞"
    digits = min(4, max(0, 1 - math.floor(math.log10(se)))) if se and se > 1e-9 * (1 + abs(lower)) else 3
    if abs(lower) >= 1e7:
        return f"{lower:.2e} …" if upper is None else f"{lower:.2e} … {upper:.2e}"
    if upper is None:
        return f"≥ {lower:.{digits}f}"
    ends = [f"{end:.{digits}f}" for end in (lower, upper)]
    return ends[0] if ends[0] == ends[1] else " … ".join(ends)


def grid(title: str, out: Console) -> Table:
    """Return an empty table: ruled on a terminal, bare columns where it is piped."""
    from rich import box
    from rich.table import Table

    from experiments.comparison.terminal.console import cell

    return Table(
        title=cell(title) if title else None, title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False)


def _scaled(key: str) -> Callable[[dict[str, Any], int], str]:
    return lambda row, units: number(row[key]["value"] / units, row[key]["se"] / units)


def _interval(key: str) -> Callable[[dict[str, Any], int], str]:
    def cell(row: dict[str, Any], units: int) -> str:
        gap = row.get(key)  # runs of earlier versions have none of some
        return "" if gap is None else interval({k: None if v is None else v / units for k, v in gap.items()})

    return cell


def _own_evidence(row: dict[str, Any], units: int) -> str:
    found = row["own_evidence"]
    if found["value"] is None and found["lower"] is not None:
        return interval({key: None if found[key] is None else found[key] / units for key in ("se", "lower", "upper")})
    return _scaled("own_evidence")(row, units)


def _active(row: dict[str, Any], units: int) -> str:
    return NOTHING if row["active"] is None else str(row["active"])


def _khat(row: dict[str, Any], units: int) -> str:
    khat = row["khat"]
    return NOTHING if khat is None else f"{khat:.2f}" if khat < 1e4 else f"{khat:.1e}"


def _ess(row: dict[str, Any], units: int) -> str:
    return NOTHING if row["ess"] is None or math.isnan(row["ess"]) else f"{row['ess']:.0f} of {row['draws']}"


COLUMNS = (
    Column("ELBO", _scaled("elbo")),
    Column("KL(q‖posterior), 95%", _interval("kl_gap"), short="KL(q‖posterior)"),
    Column("shared", _interval("shared_gap"), key="shared_gap", group="parts"),
    Column("local", _interval("local_gap"), key="local_gap", group="parts"),
    Column("approximation", _interval("approximation_gap"), key="approximation_gap", group="parts"),
    Column("amortisation", _interval("amortisation_gap"), key="amortisation_gap", group="parts"),
    Column("log p(x | θ)", _own_evidence, key="own_evidence"),
    Column("reconstruction", _scaled("reconstruction"), group="terms", wanted=False),
    Column("KL(q‖prior)", _scaled("kl_prior"), group="terms", wanted=False),
    Column("active", _active, False, "active", group="terms", wanted=False),
    Column("k̂", _khat, False),
    Column("ESS", _ess, False, rank=1),
    Column("param.", lambda row, units: str(row["parameters"]), False, rank=3),
    Column("steps", lambda row, units: str(row["steps"]), False, group="terms", wanted=False),
    Column("sec.", lambda row, units: f"{row['seconds']:.2f}", False, rank=2),
)


def comparison(table: Comparison, out: Console, columns: str = "default") -> None:
    """Print the table on ``out``, by default in up to 100 characters a line; ``columns``: see :data:`SELECTIONS`.

    No number is cut: what does not fit goes into a further table, or on a very narrow terminal into a block of lines a guide.

    Raises:
        ZooError: no such selection.
    """
    chosen(SELECTIONS, columns, "columns")
    everything, lines = columns == "all", min(out.width, WIDTH)
    comparison_theta(table, out, grid)
    rows = [row.to_dict() for row in table.rows]
    for row in rows:
        row["own_evidence"] = row["log_evidence"] if table.own_theta else None
    _say(_title(table), out, lines, "bold")
    _print_rows(_Sheet(table.units, rows), out, out.width if everything else lines, everything)
    if not table.own_theta:
        _say(_evidence(table), out, lines)
    _say(legend(table.units, everything), out, lines, "dim")
    for remark in remarks(table):
        _say(remark.text, out, lines, "dim" if remark.importance is Importance.NOTE else "")


def _say(text: str, out: Console, width: int, style: str = "") -> None:
    out.print(wrapped(text, width), style=style, markup=False)


@dataclass(frozen=True)
class _Sheet:
    """What the tables show: the rows as plain data, summed over ``units``."""

    units: int
    rows: list[dict[str, Any]]

    def wants(self, column: Column) -> bool:
        """Whether a column is among the default ones, and says something of any row."""
        return column.wanted and any(column.cell(row, 1) != NOTHING for row in self.rows)

    def tables(self, part: Part, out: Console) -> list[Table]:
        """Return the table of a part's columns, and for several units the table of their numbers per unit."""
        found = [self._table(part, out, "guide", 1)]
        each = Part(tuple(column for column in part.columns if column.each), part.fold)
        if self.units > 1 and each.columns:
            found.append(self._table(each, out, f"per unit, of {self.units}", self.units))
        return found

    def _table(self, part: Part, out: Console, first: str, units: int) -> Table:
        from rich.text import Text

        shown = grid("", out)
        if shown.box is not None:  # as narrow on a terminal as in a pipe
            shown.padding = (0, 1, 0, 0)
        shown.add_column(first, no_wrap=True)
        for column in part.columns:
            shown.add_column(column.short or column.head, justify="right", no_wrap=True)
        for row in self.rows:
            shown.add_row(Text(fold(row["guide"], part.fold)), *(column.cell(row, units) for column in part.columns))
        return shown


def _print_rows(sheet: _Sheet, out: Console, width: int, everything: bool) -> None:
    columns = [column for column in COLUMNS if column.shown(sheet.rows) and (everything or sheet.wants(column))]

    def fits(part: Part) -> bool:
        return all(_width(shown, out) <= width for shown in sheet.tables(part, out))

    parts = arranged(columns, fits, drop=not everything)
    if not all(map(fits, parts)):
        return _blocks(sheet, out, columns)
    for part in parts:
        for shown in sheet.tables(part, out):
            out.print(shown)


def _width(shown: Table, out: Console) -> int:
    return out.measure(shown, options=out.options.update(max_width=10_000)).maximum


def _blocks(sheet: _Sheet, out: Console, columns: list[Column]) -> None:
    """Print a block of lines a guide, totals and then per unit."""
    for units in dict.fromkeys((1, sheet.units)):
        shown = [column for column in columns if column.each or units == 1]
        if units > 1:
            out.print(f"per unit, of {units}", markup=False)
        for row in sheet.rows:
            out.print(fold(row["guide"], None), style="bold", markup=False)
            for column in shown:
                if cell := column.cell(row, units):
                    out.print(f"  {(column.short or column.head) + ':':<17}{cell}", markup=False)


def _evidence(table: Comparison) -> str:
    """Say what log p(x | θ) is, and how it is known."""
    found, units = table.evidence, table.units
    kind = found.entry.words.format(source=found.source, method=found.method)
    if not found.entry.drawn or found.upper is None:
        each = _each(f"{found.middle / units:.3f}", units)
        return f"{table.quantity} = {_point(found)} nats{each}, {kind}"
    digits = 3 if found.width > 0.01 else 4
    ends = f"[{found.lower:.{digits}f}, {found.upper:.{digits}f}]"
    if found.value is None:
        each = _each(f"[{found.lower / units:.3f}, {found.upper / units:.3f}]", units)
        return f"{table.quantity} in {ends} nats{each}, {kind}"
    each = _each(f"{found.value / units:.3f}", units)
    return f"{table.quantity} = {found.value:.{digits}f} {ends} nats{each}, {kind}"


def _point(found: Evidence) -> str:
    value = NOTHING if found.value is None else number(found.value, found.se)  # exact, or widened by what contradicts it
    if found.entry.bounded and (found.value is None or found.width > 1e-2):
        value += f" [{found.lower:.3f}, {found.upper:.3f}]"
    return value


def _each(value: str, units: int) -> str:
    return f" ({value} per unit)" if units > 1 else ""


def _title(table: Comparison) -> str:
    units = f"{table.units} unit{'s' if table.units > 1 else ''}"
    if table.partition.share:
        units = f"{table.units} held-out units of {table.partition.total}"
    if table.simulated:
        units += ", simulated at the fitted θ"
    own = ", each guide with a θ of its own" if table.own_theta else ""
    return f"{table.model.label} on {table.data}: {units}{own}, seed {table.seed}"


def parameters(found: Parameters | None, out: Console) -> None:
    """Print the posterior of each quantity by each guide on ``out``, beside the reference."""
    if found is None:
        out.print("no quantity of this model is a real number", markup=False)
        return
    from experiments.comparison.terminal.console import cell

    shown = grid(f"each quantity, against {found.reference}", out)
    for head in ("guide", "quantity"):
        shown.add_column(head, no_wrap=True)
    for head in ("mean", "sd", "reference mean", "sd", "error, sd", "sd ratio"):
        shown.add_column(head, justify="right", no_wrap=True)
    for q in found.quantities:
        numbers = (f"{value:.4g}" for value in (q.mean, q.sd, q.reference_mean, q.reference_sd))
        shown.add_row(cell(q.guide), cell(q.name), *numbers, number(*q.error), number(*q.ratio))
    out.print(shown)


def plain(table: Comparison, columns: str = "default") -> str:
    """Return the table as plain text; ``columns`` as of :func:`comparison`."""
    from experiments.comparison.terminal.console import plain_console

    out = io.StringIO()
    comparison(table, plain_console(out), columns)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
