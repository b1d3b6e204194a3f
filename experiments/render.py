"""The comparison as a table: rich in a terminal, plain where it is piped."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.comparison import Comparison
    from experiments.fitting import Fit

KINDS = {
    "exact": "exact", "quadrature": "by quadrature",
    "lower_bound": "importance-weighted lower bound, so gaps are lower bounds too",
}


def number(value: float | None, se: float | None = None) -> str:
    """Write a number to the digits its error allows: two digits of the error, or three decimals where it is exact.

    >>> number(-31.5261, 0.0142), number(3.14159, 0.0), number(None)
    ('-31.526 ± 0.014', '3.142', '—')
    """
    if value is None or math.isnan(value):
        return "—"
    if not se or not math.isfinite(se):
        text = f"{value:.3f}" if abs(value) < 1e7 else f"{value:.3e}"
        return "0.000" if text == "-0.000" else text
    digits = min(6, max(0, 1 - math.floor(math.log10(se))))
    if abs(value) >= 1e7:
        return f"{value:.3e} ± {se:.1e}"
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def interval(gap: dict[str, float | None]) -> str:
    """Write a gap as its interval.

    >>> interval({"value": 0.2, "se": 0.01, "lower": 0.18, "upper": None})
    '≥ 0.18'
    """
    lower, upper, se = gap["lower"], gap["upper"], gap["se"]
    assert lower is not None, "a gap always has a lower end"
    digits = min(6, max(0, 1 - math.floor(math.log10(se)))) if se else 3
    if abs(lower) >= 1e7:
        return f"{lower:.2e} …" if upper is None else f"{lower:.2e} … {upper:.2e}"
    if upper is None:
        return f"≥ {lower:.{digits}f}"
    ends = [f"{end:.{digits}f}".replace("-0.000", "0.000") for end in (lower, upper)]
    return ends[0] if ends[0] == ends[1] else " … ".join(ends)


def comparison(table: Comparison, console: Console) -> None:
    """Print the table on ``console``."""
    from rich.table import Table

    data = table.to_dict()
    units, found = data["units"], data["log_evidence"]
    grid = Table(title=_title(data), caption=_caption(table), title_justify="left", caption_justify="left")
    grid.add_column("guide", no_wrap=True)
    for head in ("ELBO", "KL(q‖posterior), 95%", "reconstruction", "KL(q‖prior)", "k̂", "ESS", "param.", "steps", "sec."):
        grid.add_column(head, justify="right", no_wrap=True)
    for row in data["guides"]:
        grid.add_row(*_cells(row, 1))
    if units > 1:
        grid.add_section()
        grid.add_row(f"per unit (of {units})", style="dim")
        for row in data["guides"]:
            grid.add_row(*_cells(row, units))
    console.print(f"log p(x | θ) = {number(found['value'], found['se'])} nats, {KINDS[found['kind']]}", highlight=False)
    console.print(grid)


def _cells(row: dict[str, Any], units: int) -> list[str]:
    def scaled(key: str) -> str:
        return number(row[key]["value"] / units, row[key]["se"] / units)

    gap = {k: None if v is None else v / units for k, v in row["kl_gap"].items()}
    cells = [row["guide"], scaled("elbo"), interval(gap), scaled("reconstruction"), scaled("kl_prior")]
    if units > 1:
        return [*cells, "", "", "", "", ""]
    khat = "—" if row["khat"] is None else f"{row['khat']:.2f}" if row["khat"] < 1e4 else f"{row['khat']:.1e}"
    ess = "—" if row["ess"] is None else f"{row['ess']:.0f} of {row['draws']}"
    return [*cells, khat, ess, str(row["parameters"]), str(row["steps"]), f"{row['seconds']:.2f}"]


def _title(data: dict[str, Any]) -> str:
    return f"{data['model']} on {data['data']}: {data['units']} unit{'s' if data['units'] > 1 else ''}, seed {data['seed']}"


def _caption(table: Comparison) -> str:
    lines = ["nats, totals over units ± Monte-Carlo standard error; k̂ and ESS of the worst unit"]
    if table.theta is not None:
        t = table.theta
        lines.append(f"θ by {t.method} with '{t.guide.text}': {t.steps} steps, {t.seconds:.2f} s{_ended(t)}")
    stopped = [row.fit for row in table.rows if row.fit.stopped or not row.fit.converged]
    lines += [f"'{f.guide.text}'{_ended(f)}" for f in stopped]
    return "\n".join(lines)


def _ended(fit: Fit) -> str:
    if fit.stopped:
        return f"; stopped: {fit.stopped}"
    return "" if fit.converged else "; not converged (more --steps would go on)"


def fitted(fit: Fit, data: str, console: Console) -> None:
    """Print what a fit came to."""
    console.print(
        f"{fit.model.label} on {data} with '{fit.guide.text}', method {fit.method}: {fit.steps} steps in "
        f"{fit.seconds:.2f} s{_ended(fit)}", highlight=False)


def plain(table: Comparison) -> str:
    """Return the table as plain text, 160 columns wide."""
    from rich.console import Console

    out = io.StringIO()
    comparison(table, Console(file=out, width=160, force_terminal=False, color_system=None))
    return out.getvalue().rstrip()


__all__ = ["comparison", "fitted", "interval", "number", "plain"]
