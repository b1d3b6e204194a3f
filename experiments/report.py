"""A run, or several compared, as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from experiments.record import Record
from experiments.render import COLUMNS, KINDS, interval, number
from experiments.verdicts import Trace, differing, finished, plain, settings, smooth, spread, thin, traces_of, verdicts, worst

#: Bytes that the page may have (figures beyond are named instead), and of an SVG above which a smaller PNG takes its place.
LARGEST, LARGE_SVG = 2_800_000, 400_000
#: Points a line of one run's chart, and of a chart among several runs.
POINTS, FEW_POINTS = 400, 120
#: Nats per unit that a chart shows at least.
SHALLOW = 1e-3
#: Variables of a posterior's summary, bars and lines of a chart, and runs told in full that a page shows.
MOST = {"variables": 60, "bars": 60, "lines": 12, "runs": 40}


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
        "several": _several(named) if several else None, "most": MOST, "kinds": KINDS, "plain": plain, "short": short}
    best = max(runs, key=lambda run: _best_elbo(run["table"]))
    _embed(best, LARGEST - len(_template().render(told).encode()), all_or_none=several)
    return _template().render(told).lstrip()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
    return environment.get_template("report.html")


def _title(records: Sequence[Record]) -> str:
    about = {f"{r.spec.get('model')} on {(r.spec.get('record') or {}).get('data_name') or r.spec.get('data')}" for r in records}
    alike = about.pop() if len(about) == 1 else ""
    return alike if len(records) == 1 else f"{len(records)} runs of {alike}" if alike else f"{len(records)} runs compared"


def _run(name: str, record: Record, points: int) -> dict[str, Any]:
    """Return what the template shows of one run."""
    found, table, traces = verdicts(record), finished(record.comparison), traces_of(record)
    level = table["log_evidence"]["value"] / table["units"] if table and table["log_evidence"] else None
    rows = table["guides"] if table else []
    return {
        "name": name, "record": record, "table": table, "verdicts": found, "level": worst(found), "figures": [], "missing": [],
        "tables": _tables(rows, table["units"]) if table else [],
        "bars": _bars([(row["guide"], _each(row["kl_gap"], table["units"])) for row in rows]) if table else None,
        "splits": _splits([row for row in rows if row["approximation_gap"]], table["units"]) if table else None,
        "chart": chart(traces, level, points) if traces else None,
        "summary": _summary(record.summary[:MOST["variables"]]) if record.summary else None}


def _best_elbo(table: dict[str, Any] | None) -> float:
    return max((row["elbo"]["value"] / table["units"] for row in table["guides"]), default=-math.inf) if table else -math.inf


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


def _tables(rows: list[dict[str, Any]], units: int) -> list[Table]:
    """Return the comparison's table as the terminal shows it: totals, and per unit where there are several."""
    def table(caption: str, count: int, each: bool) -> Table:
        shown = [column for column in COLUMNS if column.shown(rows) and (column.each or not each)]
        cells = [[Cell(row["guide"]), *(Cell(column.cell(row, count) or "—") for column in shown)] for row in rows]
        return Table(caption, ["guide", *(column.head for column in shown)], cells)

    total = table("Nats, totals over units, ± Monte-Carlo standard error; k̂ and ESS: the worst unit's", 1, False)
    return [total] if units == 1 else [total, table(f"Nats per unit, of {units} units", units, True)]


def short(value: float | None, error: float | None) -> str:
    """Write a number to the digits that its error allows, without the error.

    >>> short(-31.5261, 0.0142), short(0.00012345, 1e-5)
    ('-31.526', '0.0001234')
    """
    if value is not None and error and error < 1e-4:
        return f"{value:.4g}"
    return number(value, error).partition(" ±")[0]


def _summary(rows: list[dict[str, Any]]) -> Table:
    cells = [[Cell(str(row["variable"])), *(
        Cell(short(row[key], row["sd"] and row["sd"] / 10)) for key in ("mean", "sd", "lower", "upper"))] for row in rows]
    return Table("Mean, standard deviation and 94% interval", ["variable", "mean", "sd", "3%", "97%"], cells)


@dataclass(frozen=True)
class Scale:
    """Numbers from ``low`` to ``high`` laid on 0 … 100: evenly, or by their logarithm above the ``knee``."""

    low: float
    high: float
    knee: float | None = None

    @classmethod
    def over(cls, values: Sequence[float]) -> Scale:
        """Return the scale from 0 to just above the largest value, logarithmic if they differ more than fiftyfold."""
        known = [value for value in values if 1e-6 < value < math.inf] or [1.0]
        return cls(0.0, 1.04 * max(known), min(known) if max(known) > 50 * min(known) else None)

    def at(self, value: float) -> float:
        def bent(part: float) -> float:
            return part if self.knee is None else math.log1p(max(0.0, part) / self.knee)

        return round(min(300.0, max(-200.0, 100 * bent(value - self.low) / bent(self.high - self.low))), 2)

    def within(self, value: float) -> float:
        """Return where ``value`` lies, or the end that it lies beyond."""
        return min(100.0, max(0.0, self.at(value)))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where to put which label: round numbers, far enough apart to be read."""
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 6))
        step *= next(k for k in (1, 2, 5, 10) if (self.high - self.low) / (k * step) <= 6)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        marks = [(k * step, f"{k * step:.{digits}f}") for k in range(math.ceil(self.low / step), int(self.high // step) + 1)]
        if self.knee is not None:
            powers = range(math.ceil(math.log10(self.knee)), math.floor(math.log10(self.high)) + 1)
            marks = [(0.0, "0"), *((10.0 ** power, f"{10.0 ** power:g}") for power in powers)]
        kept: list[tuple[float, str]] = []
        for value, text in marks:
            if not kept or self.at(value) - kept[-1][0] > 13:
                kept.append((self.at(value), text))
        return kept


def _each(gap: dict[str, Any], units: int) -> dict[str, Any]:
    return {end: None if value is None else value / units for end, value in gap.items()}


def _bars(gaps: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return gaps per unit as bars: label, interval in words, and value, lower and upper end on the scale."""
    scale = Scale.over([gap[end] for _, gap in gaps for end in ("value", "upper") if gap[end] is not None])
    rows = [
        (name, interval(gap), *(None if gap[end] is None else scale.within(gap[end]) for end in ("value", "lower", "upper")))
        for name, gap in gaps[:MOST["bars"]]]
    return {"scale": scale, "rows": rows, "left": len(gaps) - len(rows)}


def _splits(rows: Sequence[dict[str, Any]], units: int) -> dict[str, Any] | None:
    """Return encoders' gaps per unit in two: label, both intervals in words, and both parts' widths on the scale."""
    pairs = [(row["guide"], _each(row["approximation_gap"], units), _each(row["amortisation_gap"], units)) for row in rows]
    if not pairs:
        return None
    scale = max((Scale.over([max(0.0, a["value"]) + max(0.0, b["value"])]) for _, a, b in pairs), key=lambda scale: scale.high)
    return {"scale": scale, "rows": [
        (name, interval(a), interval(b), scale.within(a["value"]), scale.within(b["value"])) for name, a, b in pairs]}


def chart(traces: dict[str, Trace], level: float | None, points: int, faint: bool = True) -> dict[str, Any]:
    """Return lines for ELBOs against seconds, on the range where the fits' ends can be told apart.

    Args:
        traces: of each fit; noisy ones are drawn as the mean of each fiftieth, and, if ``faint``, their steps behind it.
        level: log p(x | θ) per unit, where it is known.
        points: of a line, at most, about.
    """
    lines = {name: smooth(trace) for name, trace in traces.items()}
    ends = [line[-1][1] for line in lines.values()]
    top = max([elbo for line in lines.values() for _, elbo in line] + ([] if level is None else [level]))
    depth = max(top - sorted(elbo for _, elbo in line)[int(0.3 * len(line))] for line in lines.values())
    lag = top - min(ends)
    if lag > SHALLOW:  # the first steps may be thousands of nats below
        depth = max(1.2 * lag, min(depth, 8 * lag))
    depth = max(depth, SHALLOW)
    y = Scale(top - depth, top + 0.08 * depth)
    x = Scale.over([trace[-1][0] for trace in traces.values()])

    def path(trace: Trace) -> str:
        return " ".join(f"{x.at(seconds):g},{100 - y.at(elbo):.5g}" for seconds, elbo in thin(trace, points))

    noisy = {name: path(trace) if faint else "" for name, trace in traces.items() if lines[name] is not trace}
    return {"x": x, "y": y, "level": None if level is None else y.at(level), "smooth": bool(noisy), "faint": faint, "lines": [
        {"name": re.sub(r"^theta\b", "θ", name), "path": path(line), "faint": noisy.get(name, ""),
         "end": short(line[-1][1], 0.1 * depth)} for name, line in lines.items()]}


def _several(named: dict[str, Record]) -> dict[str, Any]:
    """Return what the template shows of several runs together."""
    records = list(named.values())
    apart = [name for name in differing(records) if name != "guides"]
    rows: list[list[Cell]] = []
    gaps: list[tuple[str, dict[str, Any]]] = []
    traces: dict[str, Trace] = {}
    for i, (name, record) in enumerate(named.items()):
        table, asked = finished(record.comparison), settings(record)
        state = Cell(record.state, {"done": "good", "failed": "bad"}.get(record.state, "caution"))
        head = [Cell(name, href=f"#run-{i}" if i < MOST["runs"] else ""), *(Cell(asked.get(key, "—")) for key in apart), state]
        rows += [[*head, *_found(row, table["units"])] for row in table["guides"]] if table else [[*head, *[Cell("—")] * 5]]
        if table:
            gaps += [(f"{name} · {row['guide']}", _each(row["kl_gap"], table["units"])) for row in table["guides"]]
        known = traces_of(record)
        best = max(table["guides"], key=lambda row: row["elbo"]["value"])["guide"] if table else ""
        if table and known:
            traces[name] = known.get("theta") or known.get(best) or list(known.values())[-1]
    kept = sorted(traces, key=lambda name: -traces[name][-1][1])[:MOST["lines"]]
    drawn = chart({name: traces[name] for name in traces if name in kept}, None, FEW_POINTS, faint=False) if traces else None
    heads = ["run", *apart, "state", "guide", "ELBO per unit", "gap per unit, 95%", "k̂", "seconds"]
    return {
        "overview": Table("A row a run and guide; nats", heads, rows), "verdicts": spread(records),
        "bars": _bars(gaps) if gaps else None, "chart": drawn, "left": len(traces) - len(kept),
        "mixed": any(name in apart for name in ("model", "data", "data checksum"))}


def _found(row: dict[str, Any], units: int) -> list[Cell]:
    texts = {column.head: column.cell(row, units) for column in COLUMNS if column.head in ("ELBO", "k̂", "sec.")}
    gap = interval(_each(row["kl_gap"], units))
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
