"""Verdicts on how far to trust a run: one sentence a topic, from the run's numbers."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.comparison.terminal.text import number
from experiments.log_evidence.pareto import EVEN, KHAT, misses_mass
from experiments.log_evidence.registry import ESTIMATORS, Level
from experiments.reporting.record import Record
from experiments.reporting.report.charts import middle
from experiments.reporting.report.facts import differing, objective_of, settings, traces_of

#: From the best to the worst.
LEVELS: tuple[Level, ...] = ("good", "caution", "bad")

#: Effective draws below which means under importance weights are a guess, and below which they are rough.
GUESS, ROUGH = 10, 100
#: Share of the draws below which the effective sample size is called low.
LOW = 0.1
#: Nats per unit that nobody cares about.
NEGLIGIBLE = 1e-3
#: Settings in which runs may differ and still be of one group.
REPEATS = ("seed", "commit")
#: A range of a few seeds up to this many standard errors is what Monte-Carlo noise alone would give.
NOISE = 4.0


@dataclass(frozen=True)
class Verdict:
    """The verdict of one diagnostic.

    Attributes:
        topic: ``run``, ``evidence``, ``draws``, ``gap``, ``k̂``, ``ESS``, ``convergence`` or ``seeds``.
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
        found += _evidence(comparison)
        for judge in (_gap, _khat, _ess):
            found += [verdict for row in comparison["guides"] if (verdict := judge(row)) is not None]
        found += [_convergence(name, fit) for name, fit in _fits(comparison)]
    return found + _seeds(record)


def _evidence(comparison: dict[str, Any]) -> list[Verdict]:
    """Judge the kinds of evidence there are, and pass on what is remarked of them and of the guides' draws."""
    rows, evidences = comparison["guides"], _evidences(comparison)
    kinds, remarks = {found["kind"] for found in evidences}, dict.fromkeys(found.get("remark", "") for found in evidences)
    judged = [Verdict("evidence", entry.level, entry.verdict) for kind, entry in ESTIMATORS.items() if kind in kinds]
    judged += [Verdict("evidence", "caution", remark) for remark in remarks if remark]
    return judged + [Verdict("draws", "caution", f"'{row['guide']}': {row['remark']}") for row in rows if row.get("remark")]


def _evidences(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the evidence that all guides share; where each has a θ of its own, each one's."""
    shared = comparison["log_evidence"]
    return [shared] if shared else [row["log_evidence"] for row in comparison["guides"]]


def _state(record: Record) -> list[Verdict]:
    if record.state in ("failed", "damaged"):
        return [Verdict("run", "bad", f"{record.state}: {record.error or 'no reason was written down'}")]
    if record.state == "done":
        return []
    last = record.metrics[-1] if record.metrics else None
    seen = f"last seen in fit '{last['fit']}' at step {last['step']}" if last else "no step was taken"
    return [Verdict("run", "caution", f"unfinished: {seen}; it can be resumed")]


def _gap(row: dict[str, Any]) -> Verdict | None:
    if row["elbo"]["value"] is not None or not row.get("density", True):
        return None
    return Verdict("gap", "bad", f"'{row['guide']}' puts mass where the posterior has none: ELBO −∞, gap ∞")


def _khat(row: dict[str, Any]) -> Verdict:
    return khat_verdict(row["guide"], row["khat"], row["ess"], row["draws"])


def khat_verdict(guide: str, khat: float | None, ess: float | None, draws: int) -> Verdict:
    """Say what the worst unit's k̂ means for means and intervals under a guide."""
    if khat is None:
        return Verdict("k̂", "good", (
            f"k̂ does not apply to '{guide}': exact, enumerated, of weights that are all but equal, or Markov chains"))
    if misses_mass(khat, ess, draws):
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
    if fit["stopped"].startswith("not converged"):
        return Verdict("convergence", "caution", f"{name}: {fit['stopped']}")
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
    return [_agreement("the best was kept", [statistics.fmean(tail) for tail in tails], errors, None, objective_of(record))]


def spread(records: Sequence[Record]) -> list[Verdict]:
    """Judge how far runs that differ in nothing but their seed agree: a verdict a group of runs and guide."""
    apart = [name for name in differing(records) if name not in REPEATS]
    found: list[Verdict] = []
    for group in _alike(records):
        done = list({str(record.spec.get("seed")): record for record in group if record.comparison is not None}.values())
        told = [f"{name} {value}" for name, value in settings(group[0]).items() if name in apart and name != "guides"]
        if len(done) > 1:
            found += _group(done, ", ".join(told))
    return found


def _alike(records: Sequence[Record]) -> list[list[Record]]:
    """Group the runs that were asked for alike, their seeds and the code's commit aside."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        same = {name: value for name, value in settings(record).items() if name not in REPEATS}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(record)
    return list(groups.values())


def _group(records: Sequence[Record], told: str) -> list[Verdict]:
    """Judge each guide of runs that are alike; ``told``: what sets these runs apart from others."""
    tables = [record.comparison for record in records if record.comparison is not None]
    about = f", {told}" if told else ""
    found: list[Verdict] = []
    for guide in [row["guide"] for row in tables[0]["guides"]]:
        rows = _finite_rows(tables, guide)
        if len(rows) > 1:
            found.append(_guide_agreement(f"'{guide}'{about}", rows))
    return found


def _finite_rows(tables: Sequence[dict[str, Any]], guide: str) -> list[tuple[dict[str, Any], int]]:
    """Return a guide's rows of finite ELBO, each with how many units its table is of."""
    rows = [(row, table["units"]) for table in tables for row in table["guides"] if row["guide"] == guide]
    return [(row, units) for row, units in rows if row["elbo"]["value"] is not None]


def _guide_agreement(what: str, rows: Sequence[tuple[dict[str, Any], int]]) -> Verdict:
    """Judge how far the runs' ELBOs per unit of one guide agree, given its rows and their numbers of units."""
    ends = [row["elbo"]["value"] / units for row, units in rows]
    errors = [(row["elbo"]["se"] or 0.0) / units for row, units in rows]
    gaps = [max(0.0, middle(row["kl_gap"])) / units for row, units in rows if row["kl_gap"]["lower"] is not None]
    return _agreement(what, ends, errors, statistics.median(gaps) if gaps else None)


def _agreement(
    what: str, ends: list[float], errors: list[float], gap: float | None, objective: str = "ELBO",
) -> Verdict:
    """Judge bounds per unit of several seeds by their range: against their errors, then against the gap they measure."""
    width, noise = max(ends) - min(ends), max(errors)
    text = (
        f"{len(ends)} seeds, {what}: {objective} per unit {number(statistics.fmean(ends), statistics.stdev(ends))} (sd), "
        f"range {width:.2g}, Monte-Carlo error {noise:.2g}")
    if width <= max(NOISE * noise, NEGLIGIBLE):
        return Verdict("seeds", "good", f"{text}: the seeds agree")
    if gap is not None and width > gap:
        return Verdict("seeds", "bad", (
            f"{text}: the seeds differ by more than the gap, {gap:.2g}: which optimum is found matters more than the guide"))
    return Verdict("seeds", "caution", f"{text}: the seeds differ by more than noise: other optima, or other units held out")
