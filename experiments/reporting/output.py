"""Printed output of commands: remarks, and the summary of a posterior."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooWarning

if TYPE_CHECKING:
    from experiments.comparison.table import Comparison, Row
    from experiments.fits.result import Fit
    from zoo.data import Data
    from zoo.datasets import Dataset


@contextmanager
def remarks() -> Iterator[None]:
    """Say our own warnings as remarks, each once, and no one else's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", ZooWarning)
        said: set[str] = set()

        def say(message: Warning | str, *rest: Any, **named: Any) -> None:
            if str(message) not in said:
                remark(str(message))
            said.add(str(message))

        warnings.showwarning = say
        yield


def remark(text: str) -> None:
    """Print a remark on standard error."""
    print(f"remark: {text}", file=sys.stderr)


def best_row(table: Comparison) -> Row:
    """Return the row of the highest ELBO, or bound; draws without either come last."""
    return max(table.rows, key=lambda row: height(row.evaluation.elbo.value))


def height(bound: float | None) -> float:
    """Return where a bound stands among others: one that is not known, or that a record can't hold, below all.

    >>> height(-3.0), height(math.nan), height(None)
    (-3.0, -inf, -inf)
    """
    return -math.inf if bound is None or math.isnan(bound) else bound


def labels(data_set: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the labels a data set gives to dimensions: its columns, rows, groups and coefficients."""
    columns, rows = distinct(data_set.columns), distinct(data_set.rows)
    found = {
        "column": columns, "item": columns, "coefficient": distinct(("intercept", *data_set.columns)), "school": rows,
        "document": rows, "group": distinct(data_set.groups)}
    return {dim: names for dim, names in found.items() if names}


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Number the names that come more than once.

    >>> distinct(("a", "b", "a"))
    ('a', 'b', 'a (2)')
    """
    return tuple(
        f"{name} ({names[: i + 1].count(name)})" if names[:i].count(name) else name for i, name in enumerate(names))


def print_summary(done: Fit, x: Data, data_set: Dataset, draws: int, seed: int, as_json: bool) -> None:
    """Print ArviZ's summary of a fitted guide's posterior, and how far to trust it."""
    import arviz_stats as azs

    from experiments.diagnostics.evaluation import worst_ess, worst_khat
    from experiments.diagnostics.posterior import posterior
    from experiments.log_evidence.log_weights import log_weights
    from experiments.reporting.report.verdicts import khat_verdict
    from experiments.runtime.seeds import Stream

    text = done.guide.text
    weights = log_weights(done.model, done.guide, x, None, seed + Stream.EVALUATION)
    khat, ess = worst_khat(weights.khat()), worst_ess(weights.ess())
    tree = posterior(
        done.model, done.guide, x, draws=draws, seed=seed, groups=("posterior",), coords=labels(data_set))
    frame = azs.summary(tree, kind="stats", round_to="none", ci_prob=0.94, ci_kind="eti")
    if as_json:
        print(json.dumps({
            "model": done.model.label, "data": data_set.name, "guide": text, "draws": draws, "khat": khat,
            "summary": json.loads(frame.to_json(orient="index"))}, indent=1, ensure_ascii=False))
        return
    print(frame.to_string(float_format=lambda value: f"{value:.3f}"))
    remark(khat_verdict(text, khat, ess, len(weights.log_q)).text)
