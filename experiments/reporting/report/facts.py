"""Facts of a run for its report, read from the run's record."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from experiments.fits.result import LOG_JOINT
from experiments.reporting.record import Record

#: (seconds since the start, nats per unit) of a fit's steps.
Trace = list[tuple[float, float]]
#: What a null stands for in an estimate of a row, by its key: JSON has no infinities and no nan.
MEANING_OF_NULL = {"elbo": -math.inf, "reconstruction": math.nan, "kl_prior": math.nan}


def traces_of(record: Record) -> dict[str, Trace]:
    """Return the bound that each fit maximised against time, where it took steps: in nats per unit."""
    traces: dict[str, Trace] = {}
    for row in record.metrics:
        bound, seconds, fit = row.get("bound", row.get("elbo")), row.get("seconds"), row["fit"]
        if row.get("objective") == LOG_JOINT:
            continue
        if bound is not None and seconds is not None and math.isfinite(bound):
            traces.setdefault(fit, []).append((seconds, bound / row["units"]))
    return {fit: trace for fit, trace in traces.items() if len(trace) > 1}


def trained_elsewhere(record: Record) -> set[str]:
    """Return the fits on other units than those that the guides are compared on: of a comparison with a hold-out."""
    table = record.comparison
    if not table or not table["holdout"]:
        return set()
    alike = 2 * table["units"] == table["units_in_all"]  # as many units on both sides: which ones can't be told
    return {row["fit"] for row in record.metrics if alike or row["units"] != table["units"]}


def objective_of(*records: Record) -> str:
    """Return what the bounds that the records' fits maximised are called; of several kinds, ``bound``."""
    found = {str(row.get("objective", "ELBO")) for record in records for row in record.metrics} - {LOG_JOINT}
    return found.pop() if len(found) == 1 else "bound" if found else "ELBO"


def finished(comparison: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a comparison with the infinities that JSON lacks put back, and each row's own evidence where they differ."""
    if comparison is None:
        return None
    rows = [_finished_row(row, comparison["own_theta"]) for row in comparison["guides"]]
    return {**comparison, "guides": rows}


def _finished_row(row: dict[str, Any], own_theta: bool) -> dict[str, Any]:
    found = {**row, "own_evidence": row["log_evidence"] if own_theta else None}
    known = row.get("density", True)  # runs of earlier versions have guides with a density alone
    for key, lost in MEANING_OF_NULL.items():
        lost = lost if known else math.nan
        value, se = row[key]["value"], row[key]["se"]
        found[key] = {"value": lost if value is None else value, "se": se or 0.0}
    for key in ("kl_gap", "shared_gap", "local_gap", "approximation_gap", "amortisation_gap"):
        if known and row.get(key) and row[key]["lower"] is None:
            found[key] = {"value": math.inf, "se": 0.0, "lower": math.inf, "upper": math.inf}
    return found


def settings(record: Record) -> dict[str, str]:
    """Return what was asked for as flat text, the model's own options under their names; what is unset is left out."""
    flat = {key: value for key, value in record.spec.items() if key not in ("record", "options", "fitting")}
    flat |= (record.spec.get("fitting") or {}) | (record.spec.get("options") or {})
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
