"""The comparison as a table: rich in a terminal, plain where it is piped."""

from __future__ import annotations

import io
import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from experiments.fitting import Fit
    from experiments.table import Comparison

KINDS = {
    "exact": "exact", "quadrature": "by quadrature",
    "lower_bound": "an importance-weighted lower bound, so gaps are lower bounds too",
}


HEADS = ("ELBO", "KL(q‖posterior), 95%", "reconstruction", "KL(q‖prior)", "k̂", "ESS", "param.", "steps", "sec.")


def number(value: float | None, se: float | None = None) -> str:
    """Write a number to the digits its error allows: two digits of the error, or three decimals where it is exact.

    >>> number(-31.5261, 0.0142), number(3.14159, 0.0), number(None)
    ('-31.526 ± 0.014', '3.142', '—')
    """
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if not se or not math.isfinite(se) or se < 1e-9 * (1 + abs(value)):
        text = f"{value:.3f}" if abs(value) < 1e7 else f"{value:.3e}"
        return "0.000" if text == "-0.000" else text
    digits = min(4, max(0, 1 - math.floor(math.log10(se))))
    if abs(value) >= 1e7:
        return f"{value:.3e} ± {se:.1e}"
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def interval(gap: dict[str, float | None]) -> str:
    """Write a gap as its interval.

    >>> interval({"value": 0.2, "se": 0.01, "lower": 0.18, "upper": None})
    '≥ 0.180'
    """
    lower, upper, se = gap["lower"], gap["upper"], gap["se"]
    assert lower is not None, "a gap always has a lower end"
    if math.isinf(lower):
        return "∞"
    digits = min(4, max(0, 1 - math.floor(math.log10(se)))) if se and se > 1e-9 * (1 + abs(lower)) else 3
    if abs(lower) >= 1e7:
        return f"{lower:.2e} …" if upper is None else f"{lower:.2e} … {upper:.2e}"
    if upper is None:
        return f"≥ {lower:.{digits}f}"
    ends = [f"{end:.{digits}f}" for end in (lower, upper)]
    return ends[0] if ends[0] == ends[1] else " … ".join(ends)


def console() -> Console:
    """Return a console on standard output: colours and its width on a terminal, plain and wide where it is piped."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=200, color_system=None, force_terminal=False)


def grid(title: str, out: Console) -> Table:
    """Return an empty table: ruled on a terminal, bare columns where it is piped."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title) if title else None, title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False)


def comparison(table: Comparison, out: Console) -> None:
    """Print the table on ``out``: whole where it fits, else in two, else as a block of lines a guide. No number is cut."""
    units, found = table.units, table.evidence
    rows = [row.to_dict() for row in table.rows]
    whole = [_table(table, rows, out, slice(None))]
    halves = [_table(table, rows, out, slice(0, 4)), _table(table, rows, out, slice(4, None))]
    for parts in (whole, halves):
        if all(out.measure(part, options=out.options.update(max_width=10_000)).maximum <= out.width for part in parts):
            for part in parts:
                out.print(part)
            break
    else:
        _blocks(table, rows, out)
    each = f" ({found.value / units:.3f} per unit)" if units > 1 else ""
    source = f" from '{found.source}'" if found.source else ""
    kind = KINDS[found.kind].replace(", so", f"{source}, so")
    out.print(f"log p(x | θ) = {number(found.value, found.se)} nats{each}, {kind}", markup=False)
    for line in _remarks(table):
        out.print(line, style="dim", markup=False)


def _table(table: Comparison, rows: list[dict[str, Any]], out: Console, columns: slice) -> Table:
    """Return the ``columns`` of the table, and below them the numbers per unit where there are several units."""
    shown = grid(_title(table) if not columns.start else "", out)
    shown.add_column("guide", no_wrap=True)
    for head in HEADS[columns]:
        shown.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(row["guide"], *_cells(row, 1)[columns])
    if table.units > 1 and not columns.start:
        shown.add_section()
        shown.add_row(f"per unit (of {table.units})", style="dim")
        for row in rows:
            shown.add_row(row["guide"], *_cells(row, table.units)[columns])
    return shown


def _blocks(table: Comparison, rows: list[dict[str, Any]], out: Console) -> None:
    out.print(_title(table), style="bold", markup=False)
    for row in rows:
        out.print(row["guide"], style="bold", markup=False)
        for head, cell in zip(HEADS, _cells(row, 1), strict=True):
            out.print(f"  {head + ':':<22}{cell}", markup=False)


def _cells(row: dict[str, Any], units: int) -> list[str]:
    def scaled(key: str) -> str:
        return number(row[key]["value"] / units, row[key]["se"] / units)

    gap = {k: None if v is None else v / units for k, v in row["kl_gap"].items()}
    cells = [scaled("elbo"), interval(gap), scaled("reconstruction"), scaled("kl_prior")]
    if units > 1:
        return [*cells, "", "", "", "", ""]
    khat = "—" if row["khat"] is None else f"{row['khat']:.2f}" if row["khat"] < 1e4 else f"{row['khat']:.1e}"
    ess = "—" if row["ess"] is None or math.isnan(row["ess"]) else f"{row['ess']:.0f} of {row['draws']}"
    return [*cells, khat, ess, str(row["parameters"]), str(row["steps"]), f"{row['seconds']:.2f}"]


def _title(table: Comparison) -> str:
    return f"{table.model.label} on {table.data}: {table.units} unit{'s' if table.units > 1 else ''}, seed {table.seed}"


def _remarks(table: Comparison) -> list[str]:
    lines = ["nats, totals over units, ± Monte-Carlo standard error; k̂ and ESS are the worst unit's"]
    if table.theta is not None:
        t = table.theta
        steps = f"{t.steps} step{'s' if t.steps != 1 else ''}"
        lines.append(f"θ by {t.method} with '{t.guide.text}': {steps}, {t.seconds:.2f} s{_ended(t)}")
    poor = [f"'{row.evaluation.guide}'" for row in table.rows if row.evaluation.misses_mass]
    if poor:
        lines.append(f"k̂ > 0.7: {', '.join(poor)} misses posterior mass that matters; read its intervals with care")
    stopped = [row.fit for row in table.rows if row.fit.stopped or not row.fit.converged]
    return [*lines, *(f"'{f.guide.text}': {_ended(f).removeprefix('; ')}" for f in stopped)]


def _ended(fit: Fit) -> str:
    if fit.stopped:
        return f"; stopped: {fit.stopped}"
    return "" if fit.converged else "; not converged"


def plain(table: Comparison) -> str:
    """Return the table as plain text."""
    from rich.console import Console

    out = io.StringIO()
    comparison(table, Console(file=out, width=200, force_terminal=False, color_system=None, highlight=False))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
