"""Printed output of commands: remarks, and the summary of a posterior."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from experiments.comparison.terminal.theta import plain, print_table, print_theta
from experiments.runtime.inert import inert, inert_json
from zoo.errors import ZooWarning

if TYPE_CHECKING:
    import pandas as pd
    from xarray import DataArray, DataTree

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
    say(f"remark: {text}")


def say(text: str) -> None:
    """Print a line on standard error, made inert. Where it can't be printed the work goes on without it."""
    with suppress(OSError):
        print(inert(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print plain data as JSON on standard output."""
    print(inert_json(value))


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
    coefficients = distinct(("intercept", *data_set.columns))
    found = {
        "column": columns, "other_column": columns, "item": columns, "coefficient": coefficients,
        "other_coefficient": coefficients, "school": rows,
        "document": rows, "group": distinct(data_set.groups)}
    return {dim: names for dim, names in found.items() if names}


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Number the names that come more than once.

    >>> distinct(("a", "b", "a"))
    ('a', 'b', 'a (2)')
    """
    return tuple(
        f"{name} ({names[: i + 1].count(name)})" if names[:i].count(name) else name for i, name in enumerate(names))


def summary_frame(variables: Mapping[str, DataArray]) -> pd.DataFrame:
    """Return mean, standard deviation and 94 % interval of each number of some variables of a posterior.

    Each variable is summarised by itself: ArviZ 0.8 puts numbers beside the wrong labels where two variables have the same
    dimensions in different orders.
    """
    import arviz_stats as azs
    import pandas as pd
    import xarray as xr

    frames = []
    for name, values in variables.items():
        tree = xr.DataTree.from_dict({"posterior": xr.Dataset({name: values})})
        frames.append(azs.summary(tree, kind="stats", round_to="none", ci_prob=0.94, ci_kind="eti").iloc[:, :4].astype(float))
    return pd.concat(frames) if frames else pd.DataFrame()


def print_summary(
    done: Fit, x: Data, data_set: Dataset, draws: int, seed: int, as_json: bool, every: bool = False,
) -> None:
    """Print what was learned, a summary of a fitted guide's posterior, and how far to trust it.

    Variables of more than ten units are summarised over them, unless ``every`` unit is asked for; others by ArviZ.
    """
    from experiments.comparison.table import finite
    from experiments.diagnostics.evaluation import ratings
    from experiments.diagnostics.posterior import posterior
    from experiments.reporting.report.verdicts import khat_verdict
    from experiments.reporting.units import unit_summaries

    text = done.guide.text
    khat, ess, drawn = ratings(done.model, done.guide, x, seed)
    tree = posterior(
        done.model, done.guide, x, draws=draws, seed=seed, groups=("posterior",), coords=labels(data_set))
    units, told = ([], []) if every else unit_summaries(tree, done.model, done.guide, x)
    found = {
        "model": done.model.label, "data": data_set.name, "guide": text, "draws": draws, "khat": khat,
        "theta": plain(done.model.learned(), labels(data_set)), "units": units, "summary": _summary(tree, told)}
    if as_json:
        return print_json(finite(found))
    _print_found(found)
    remark(khat_verdict(text, khat, ess, drawn).text)


def _summary(tree: DataTree, told: Sequence[str]) -> dict[str, Any]:
    """Return the summary of the variables that are not ``told`` already, by name."""
    left = {str(name): values for name, values in tree["posterior"].data_vars.items() if name not in told}
    summary: dict[str, Any] = summary_frame(left).to_dict("index")
    return summary


def _print_found(found: dict[str, Any]) -> None:
    """Print a summary for people: θ, the units' tables, and a row for each other variable."""
    import pandas as pd

    from experiments.comparison.terminal.console import console
    from experiments.comparison.terminal.text import grid
    from experiments.reporting.units import tables

    out = console()
    print_theta(found["theta"], out, grid)
    for caption, heads, rows in tables(found["units"]):
        out.print(caption, markup=False, soft_wrap=True)
        print_table(heads, rows, 1, out, grid)
    if found["units"]:
        out.print("--all prints a row for each unit", style="dim")
        out.print()
    if found["summary"]:
        frame = pd.DataFrame.from_dict(found["summary"], orient="index").rename(index=inert)
        print(frame.to_string(float_format=lambda value: f"{value:.3f}"))
