"""What the numbers of a run say of how far to trust it: one plain verdict a topic."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from experiments.record import Record
from experiments.render import number

Level = Literal["good", "caution", "bad"]
#: (seconds since the start, nats per unit) of a fit's steps.
Trace = list[tuple[float, float]]
#: From the best to the worst.
LEVELS: tuple[Level, ...] = ("good", "caution", "bad")

#: k̂ above this means that importance weights have no finite variance to speak of. https://arxiv.org/abs/1507.02646
KHAT = 0.7
#: Weights with an effective sample size above this share of the draws are all but equal: what tail they have says nothing.
EVEN = 0.9
#: Effective draws below which means under importance weights are a guess, and below which they are rough.
GUESS, ROUGH = 10, 100
#: Share of the draws below which the effective sample size is called low.
LOW = 0.1
#: Nats per unit that nobody cares about.
NEGLIGIBLE = 1e-3
#: A range of a few seeds up to this many standard errors is what Monte-Carlo noise alone would give.
NOISE = 4.0

EVIDENCE: dict[str, tuple[Level, str]] = {
    "exact": ("good", "log p(x | θ) is exact: a closed form or an enumeration"),
    "quadrature": ("good", "log p(x | θ) is by quadrature, its error within the interval"),
    "bracketed": ("good", "log p(x | θ) is bracketed: an interval that holds on both sides"),
    "estimated": ("caution", "log p(x | θ) is estimated: its upper end comes from Markov chains, which may miss modes"),
    "lower_bound": ("caution", "log p(x | θ) is only bounded from below, so the gaps are lower bounds too"),
}


@dataclass(frozen=True)
class Verdict:
    """What one diagnostic says.

    Attributes:
        topic: ``run``, ``evidence``, ``gap``, ``k̂``, ``ESS``, ``convergence`` or ``seeds``.
        level: ``good``: nothing speaks against it; ``caution``: read on with care; ``bad``: do not rely on it.
        text: what was found and what it means, in a sentence.
    """

    topic: str
    level: Level
    text: str


def worst(found: Sequence[Verdict]) -> Level:
    """Return the worst level of several verdicts; ``good`` where there are none."""
    return max((verdict.level for verdict in found), key=LEVELS.index, default="good")


def verdicts(record: Record) -> list[Verdict]:
    """Judge one run: whether it ended, its evidence, each guide's gap, k̂ and ESS, each fit's end, and its seeds."""
    found = _state(record)
    comparison = record.comparison
    if comparison is not None:
        known = comparison["log_evidence"]
        kinds = {known["kind"]} if known else {row["log_evidence"]["kind"] for row in comparison["guides"]}
        found += [Verdict("evidence", *EVIDENCE[kind]) for kind in EVIDENCE if kind in kinds]
        for judge in (_gap, _khat, _ess):
            found += [verdict for row in comparison["guides"] if (verdict := judge(row)) is not None]
        found += [_convergence(name, fit) for name, fit in _fits(comparison)]
    return found + _seeds(record)


def misses_mass(row: dict[str, Any]) -> bool:
    """Whether a guide misses posterior mass that matters: k̂ > 0.7, and an ESS below nine tenths of its draws."""
    return row["khat"] is not None and row["khat"] > KHAT and (row["ess"] or 0.0) < EVEN * row["draws"]


def _state(record: Record) -> list[Verdict]:
    if record.state == "failed":
        return [Verdict("run", "bad", f"failed: {record.error or 'no reason was written down'}")]
    if record.state == "done":
        return []
    last = record.metrics[-1] if record.metrics else None
    seen = f"last seen in fit '{last['fit']}' at step {last['step']}" if last else "no step was taken"
    return [Verdict("run", "caution", f"unfinished: {seen}; it can be resumed")]


def _gap(row: dict[str, Any]) -> Verdict | None:
    if row["elbo"]["value"] is not None:
        return None
    return Verdict("gap", "bad", f"'{row['guide']}' puts mass where the posterior has none: ELBO −∞, gap ∞")


def _khat(row: dict[str, Any]) -> Verdict:
    guide, khat = row["guide"], row["khat"]
    if khat is None:
        return Verdict("k̂", "good", f"k̂ does not apply to '{guide}': exact, enumerated, or of equal weights")
    if misses_mass(row):
        return Verdict("k̂", "bad", (
            f"k̂ = {khat:.2f} > {KHAT}: '{guide}' misses posterior mass that matters; read its means and intervals with care"))
    if khat > KHAT:
        return Verdict("k̂", "good", f"k̂ = {khat:.2f}, but the weights of '{guide}' are all but equal: their tail says nothing")
    return Verdict("k̂", "good", f"k̂ = {khat:.2f} ≤ {KHAT}: nothing speaks against '{guide}'")


def _ess(row: dict[str, Any]) -> Verdict:
    guide, ess, draws = row["guide"], row["ess"], row["draws"]
    if ess is None:
        return Verdict("ESS", "good", f"ESS does not apply to '{guide}': nothing was drawn")
    text = f"ESS {ess:.0f} of {draws} draws of '{guide}' (worst unit)"
    if ess < GUESS:
        return Verdict("ESS", "bad", f"{text}: weighted means rest on a handful of draws")
    if ess < min(ROUGH, EVEN * draws) or ess < LOW * draws:
        return Verdict("ESS", "caution", f"{text}: low; weighted means are rough")
    return Verdict("ESS", "good", f"{text}: enough")


def _fits(comparison: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return each fit once: where θ and a guide were fitted together, they are one."""
    theta, rows = comparison["theta"], comparison["guides"]
    same = ("steps", "seconds", "method", "guide")
    joint = theta is not None and any(all(theta[key] == row[key] for key in same) for row in rows)
    alone = [] if theta is None or joint else [(f"θ with '{theta['guide']}'", theta)]
    return [*alone, *((f"'{row['guide']}'", row) for row in rows)]


def _convergence(name: str, fit: dict[str, Any]) -> Verdict:
    steps = f"{fit['steps']} step{'s' if fit['steps'] != 1 else ''} of {fit['method']}"
    if not fit["steps"] and not fit["stopped"]:
        return Verdict("convergence", "good", f"{name}: nothing to fit")
    if not fit["converged"] and fit["stopped"]:
        return Verdict("convergence", "bad", f"{name} stopped after {steps}: {fit['stopped']}")
    if not fit["converged"]:
        return Verdict("convergence", "caution", f"{name} had not converged after {steps}; allow more")
    early = f" ({fit['stopped']})" if fit["stopped"] else ""
    return Verdict("convergence", "good", f"{name} converged after {steps}{early}")


def _seeds(record: Record) -> list[Verdict]:
    """Judge the seeds of one run by where they end: the mean of the last fiftieth of their steps."""
    ends = [trace[-max(1, len(trace) // 50):] for fit, trace in traces_of(record).items() if re.fullmatch(r"seed \d+", fit)]
    if len(ends) < 2:
        return []
    tails = [[elbo for _, elbo in end] for end in ends]
    errors = [statistics.stdev(tail) / math.sqrt(len(tail)) if len(tail) > 1 else 0.0 for tail in tails]
    return [_agreement("the best was kept", [statistics.fmean(tail) for tail in tails], errors, None)]


def traces_of(record: Record) -> dict[str, Trace]:
    """Return the ELBO of each fit against time, where it took steps: in nats per unit, or totals before units are known."""
    table, traces = record.comparison or {}, dict[str, Trace]()
    held = table.get("units", 1)
    trained = table["units_in_all"] - held if table.get("holdout") else held
    for row in record.metrics:
        elbo, seconds, fit = row.get("elbo"), row.get("seconds"), row["fit"]
        units = row.get("units") or (trained if fit.startswith("theta") or ":encoder" in fit else held)
        if elbo is not None and seconds is not None and math.isfinite(elbo):
            traces.setdefault(fit, []).append((seconds, elbo / units))
    return {fit: trace for fit, trace in traces.items() if len(trace) > 1}


def smooth(trace: Trace) -> Trace:
    """Return the mean of each fiftieth (or ten steps) of a long trace that often falls; another trace as it is."""
    falls = sum(after[1] < before[1] for before, after in pairwise(trace))
    if len(trace) < 100 or falls < 0.2 * len(trace):
        return trace
    size = max(10, len(trace) // 50)
    blocks = [trace[i:i + size] for i in range(0, len(trace) - size + 1, size)]
    return [(statistics.fmean(at for at, _ in block), statistics.fmean(elbo for _, elbo in block)) for block in blocks]


def thin(trace: Trace, most: int) -> Trace:
    """Return the first, the last, the lowest and the highest of each stretch: about ``most`` points."""
    size = math.ceil(2 * len(trace) / most)
    if size <= 2:
        return trace
    kept = {0, len(trace) - 1}
    for start in range(0, len(trace), size):
        stretch = range(start, min(start + size, len(trace)))
        kept |= {min(stretch, key=lambda i: trace[i][1]), max(stretch, key=lambda i: trace[i][1])}
    return [trace[i] for i in sorted(kept)]


def finished(comparison: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a comparison with the infinities that JSON lacks put back, and each row's own evidence where they differ."""
    if comparison is None:
        return None
    rows = [dict(row) for row in comparison["guides"]]
    for row in rows:
        row["own_evidence"] = row["log_evidence"] if comparison["own_theta"] else None
        for key, lost in (("elbo", -math.inf), ("reconstruction", math.nan), ("kl_prior", math.nan)):
            row[key] = {"value": lost if row[key]["value"] is None else row[key]["value"], "se": row[key]["se"] or 0.0}
        for key in ("kl_gap", "approximation_gap", "amortisation_gap"):
            if row[key] and row[key]["lower"] is None:
                row[key] = {"value": math.inf, "se": 0.0, "lower": math.inf, "upper": math.inf}
    return {**comparison, "guides": rows}


def settings(record: Record) -> dict[str, str]:
    """Return what was asked for as flat text, the model's own options under their names; what is unset is left out."""
    flat = {key: value for key, value in record.spec.items() if key not in ("record", "options")}
    flat |= record.spec.get("options") or {}
    done = record.spec.get("record") or {}
    flat |= {"data checksum": done.get("data_sha256"), "commit": done.get("git_commit")}
    return {key: plain(value) for key, value in flat.items() if value not in (None, "", [], ())}


def plain(value: Any) -> str:
    """Write a value of a spec without quotes and brackets, and of a checksum its beginning.

    >>> plain([400, True]), plain("0123456789abcdef" * 4)
    ('400, true', '0123456789ab…')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", text) else text


def differing(records: Sequence[Record]) -> list[str]:
    """Return the names of the settings that are not the same in all records, in the order of their specs."""
    flat = [settings(record) for record in records]
    names = dict.fromkeys(name for one in flat for name in one)
    return [name for name in names if len({one.get(name) for one in flat}) > 1]


def spread(records: Sequence[Record]) -> list[Verdict]:
    """Judge how far runs that differ in nothing but their seed agree: a verdict a group of runs and guide."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        same = {name: value for name, value in settings(record).items() if name not in ("seed", "commit")}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(record)
    apart = [name for name in differing(records) if name not in ("seed", "commit")]
    found: list[Verdict] = []
    for group in groups.values():
        done = list({str(record.spec.get("seed")): record for record in group if record.comparison is not None}.values())
        told = [f"{name} {value}" for name, value in settings(group[0]).items() if name in apart and name != "guides"]
        if len(done) > 1:
            found += _group(done, ", ".join(told))
    return found


def _group(records: Sequence[Record], told: str) -> list[Verdict]:
    found: list[Verdict] = []
    tables = [record.comparison for record in records if record.comparison is not None]
    for guide in [row["guide"] for row in tables[0]["guides"]]:
        rows = [(row, table["units"]) for table in tables for row in table["guides"] if row["guide"] == guide]
        known = [(row, units) for row, units in rows if row["elbo"]["value"] is not None]
        if len(known) < 2:
            continue
        gaps = [max(0.0, row["kl_gap"]["value"]) / units for row, units in known if row["kl_gap"]["value"] is not None]
        found.append(_agreement(
            f"'{guide}'" + (f", {told}" if told else ""), [row["elbo"]["value"] / units for row, units in known],
            [(row["elbo"]["se"] or 0.0) / units for row, units in known], statistics.median(gaps) if gaps else None))
    return found


def _agreement(what: str, ends: list[float], errors: list[float], gap: float | None) -> Verdict:
    """Judge ELBOs per unit of several seeds by their range: against their errors, then against the gap they measure."""
    width, noise = max(ends) - min(ends), max(errors)
    text = (
        f"{len(ends)} seeds, {what}: ELBO per unit {number(statistics.fmean(ends), statistics.stdev(ends))} (sd), "
        f"range {width:.2g}, Monte-Carlo error {noise:.2g}")
    if width <= max(NOISE * noise, NEGLIGIBLE):
        return Verdict("seeds", "good", f"{text}: the seeds agree")
    if gap is not None and width > gap:
        return Verdict("seeds", "bad", (
            f"{text}: the seeds differ by more than the gap, {gap:.2g}: which optimum is found matters more than the guide"))
    return Verdict("seeds", "caution", f"{text}: the seeds differ by more than noise: other optima, or other units held out")
