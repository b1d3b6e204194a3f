"""A run, or several compared, as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from experiments.comparison.terminal.text import COLUMNS, interval
from experiments.log_evidence.registry import ESTIMATORS
from experiments.reporting.output import height
from experiments.reporting.record import Record
from experiments.reporting.report.charts import BARS, bars, chart, each, short, splits
from experiments.reporting.report.facts import (
    Trace,
    differing,
    finished,
    objective_of,
    plain,
    settings,
    traces_of,
    trained_elsewhere,
)
from experiments.reporting.report.tables import Cell, Table, summary_table, tables, theta_tables, unit_tables, worst_table
from experiments.reporting.report.verdicts import spread, verdicts, worst
from experiments.runtime.inert import inert_lines

#: Bytes that the page may have (figures beyond are named instead), and of an SVG above which a smaller PNG takes its place.
LARGEST, LARGE_SVG = 2_800_000, 400_000
#: Points a line of one run's chart, and of a chart among several runs.
POINTS, FEW_POINTS = 400, 120
#: Variables of a posterior's summary, bars and lines of a chart, and runs told in full that a page shows.
MOST = {"variables": 60, "bars": BARS, "lines": 12, "runs": 40}


def page(records: Sequence[Record], command: str | None = None) -> str:
    """Return an HTML page on one run, or on several compared. Everything is inline: no network, no other file.

    Args:
        records: the runs, in the order to show them.
        command: what to type to do it again; ``None``: ``zoo run spec.toml`` in the run's directory.

    Raises:
        ValueError: if there is no record.
    """
    if not records:
        raise ValueError("expected at least one record to report on; got none; pass the runs' records")
    several = len(records) > 1
    apart = len({record.name for record in records}) == len(records)
    named = {record.name if apart else str(record.path): record for record in records}
    runs = [_run(name, record, FEW_POINTS if several else POINTS) for name, record in list(named.items())[:MOST["runs"]]]
    told = {
        "title": _title(records), "runs": runs, "left": len(named) - len(runs), "command": command,
        "several": _several(named) if several else None, "most": MOST, "estimators": ESTIMATORS, "plain": plain, "short": short}
    best = max(runs, key=lambda run: _best_elbo(run["table"]))
    _embed(best, LARGEST - len(_template().render(told).encode()), all_or_none=several)
    return _template().render(told).lstrip()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: inert_lines(value) if type(value) is str else value)  # a mark of direction would turn our words
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
    return environment.get_template("report.html")


def _title(records: Sequence[Record]) -> str:
    about = {f"{r.spec.get('model')} on {(r.spec.get('record') or {}).get('data_name') or r.spec.get('data')}" for r in records}
    alike = about.pop() if len(about) == 1 else ""
    return alike if len(records) == 1 else f"{len(records)} runs of {alike}" if alike else f"{len(records)} runs compared"


def _run(name: str, record: Record, points: int) -> dict[str, Any]:
    """Return what the template shows of one run."""
    found, table, traces = verdicts(record), finished(record.comparison), traces_of(record)
    level = _level(table["log_evidence"], table["units"]) if table and table["log_evidence"] else None
    return {
        "name": name, "record": record, "table": table, "verdicts": found, "level": worst(found), "figures": [], "missing": [],
        **_guides(table), "units": unit_tables(record.units),
        "chart": chart(
            traces, level, points, objective=objective_of(record), elsewhere=trained_elsewhere(record),
            quantity="log normaliser" if table and table.get("improper") else "log p(x | θ)") if traces else None,
        "best": _best(table) if table else "",
        "summary": summary_table(record.summary[:MOST["variables"]]) if record.summary else None}


def _best(table: dict[str, Any]) -> str:
    """Return the guide whose draws the posterior's numbers and figures are of, with its gap, in words."""
    row = max(table["guides"], key=lambda one: height(one["elbo"]["value"]))
    gap = f", gap {interval(row['kl_gap'])} nats" if row["kl_gap"]["lower"] is not None else ""
    return f"'{row['guide']}'{gap}"


def _guides(table: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the template shows of a comparison: θ, its guides' tables, bars of their gaps, and their worst quantities."""
    if not table:
        return {"tables": [], "bars": None, "splits": None, "thetas": [], "worst": None}
    rows, units = table["guides"], table["units"]
    gaps = [(row["guide"], each(row["kl_gap"], units)) for row in rows if row["kl_gap"]["lower"] is not None]
    return {
        "tables": tables(rows, units), "bars": bars(gaps) if gaps else None,
        "splits": splits(rows, units), "thetas": theta_tables(table), "worst": worst_table(table.get("quantities"))}


def _level(found: dict[str, Any], units: int) -> float | None:
    """Return log p(x | θ) per unit, or the middle of its interval where that is all there is."""
    ends = [found["value"]] if found["value"] is not None else [found["lower"], found["upper"]]
    return None if None in ends else sum(ends) / len(ends) / units


def _best_elbo(table: dict[str, Any] | None) -> float:
    rows, units = (table["guides"], table["units"]) if table else ((), 1)
    return max((height(row["elbo"]["value"]) / units for row in rows), default=-math.inf)


def _several(named: dict[str, Record]) -> dict[str, Any]:
    """Return what the template shows of several runs together."""
    records = list(named.values())
    apart = [name for name in differing(records) if name != "guides"]
    compared = {name: table for name, record in named.items() if (table := finished(record.comparison))}
    traces = {name: trace for name, table in compared.items() if (trace := _main_trace(named[name], table))}
    shown, objective = _highest(traces, MOST["lines"]), objective_of(*records)
    drawn = chart(shown, None, FEW_POINTS, banded=False, objective=objective) if traces else None
    return {
        "overview": _overview(named, compared, apart), "verdicts": spread(records),
        "bars": _gap_bars(compared), "chart": drawn, "left": len(traces) - len(shown),
        "mixed": any(name in apart for name in ("model", "data", "data checksum"))}


def _main_trace(record: Record, table: dict[str, Any]) -> Trace | None:
    """Return the trace of the fit of θ; where there is none, of the guide with the highest ELBO; ``None`` without traces."""
    known = traces_of(record)
    best = max(table["guides"], key=lambda row: height(row["elbo"]["value"]))["guide"]
    return (known.get("theta") or known.get(best) or list(known.values())[-1]) if known else None


def _highest(traces: dict[str, Trace], most: int) -> dict[str, Trace]:
    """Return the ``most`` traces that end highest, in the order of ``traces``."""
    kept = sorted(traces, key=lambda name: -traces[name][-1][1])[:most]
    return {name: trace for name, trace in traces.items() if name in kept}


def _gap_bars(compared: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the gaps per unit of all runs' guides as bars; ``None`` where no run was compared."""
    gaps = [
        (f"{name} · {row['guide']}", each(row["kl_gap"], table["units"]))
        for name, table in compared.items() for row in table["guides"] if row["kl_gap"]["lower"] is not None]
    return bars(gaps) if gaps else None


def _overview(named: dict[str, Record], compared: dict[str, dict[str, Any]], apart: list[str]) -> Table:
    """Return a table of a row a run and guide, with the settings ``apart`` that differ between runs."""
    rows: list[list[Cell]] = []
    for i, (name, record) in enumerate(named.items()):
        asked, table = settings(record), compared.get(name)
        state = Cell(record.state, {"done": "good", "failed": "bad", "damaged": "bad"}.get(record.state, "caution"))
        head = [Cell(name, href=f"#run-{i}" if i < MOST["runs"] else ""), state]
        told = [_found(row, table["units"]) for row in table["guides"]] if table else [[Cell("—")] * 5]
        rows += [[*head, *found, *(Cell(asked.get(key, "—")) for key in apart)] for found in told]
    heads = ["run", "state", "guide", "ELBO per unit", "gap per unit, 95%", "k̂", "seconds", *apart]
    return Table("A row a run and guide; nats", heads, rows)


def _found(row: dict[str, Any], units: int) -> list[Cell]:
    texts = {column.head: column.cell(row, units) for column in COLUMNS if column.head in ("ELBO", "k̂", "sec.")}
    gap = interval(each(row["kl_gap"], units))
    return [Cell(text) for text in (row["guide"], texts["ELBO"], gap, texts["k̂"], texts["sec."])]


def _embed(run: dict[str, Any], room: int, all_or_none: bool) -> None:
    """Put figures that the page does not draw itself into ``run`` while there is room, and name those left out."""
    drawn = {"elbo": run["chart"], "gap": run["bars"], "split": run["splits"]}
    for name, path in [(name, path) for name, path in run["record"].figures.items() if not drawn.get(name)]:
        uri = _uri(path)
        if uri and len(uri) + 500 <= room:
            run["figures"].append((name, uri))
            room -= len(uri) + 500
        else:
            run["missing"].append(path)
    if all_or_none and run["missing"]:
        run["figures"], run["missing"] = [], []


def _uri(path: Path) -> str:
    """Return a figure as a data: URI, its PNG where that is much smaller; an empty one where it can't be read."""
    try:
        small, size = path.with_suffix(".png"), path.stat().st_size
        chosen = small if size > LARGE_SVG and small.is_file() and small.stat().st_size < size else path
        kind = "png" if chosen.suffix == ".png" else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(chosen.read_bytes()).decode()}"
    except OSError:
        return ""
