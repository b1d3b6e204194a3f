"""Summaries of a posterior over units: of more than ten rows, what they come to together, and the most uncertain of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.diagnostics.tree import batch_of
from zoo.distributions.enumerated import Enumerated

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

    from guides.guide import BaseGuide
    from zoo.data import Data
    from zoo.model import Model
    from zoo.program.sites.latents import Latents

#: Units that are listed one by one; the most uncertain ones named; coordinates of a variable that are summarised.
LISTED, NAMED, COORDINATES = 10, 3, 20
#: Quantiles of the units' means, by name.
QUANTILES = {"least": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "greatest": 1.0}


def unit_summaries(tree: DataTree, model: Model, guide: BaseGuide, x: Data) -> tuple[list[dict[str, Any]], list[str]]:
    """Summarise each variable of a posterior that more than :data:`LISTED` units have, as plain data.

    Of discrete latents: ``counts``, the expected number of units by value, ``mean_entropy`` in nats, and ``most_uncertain``
    units with their probabilities. Of real variables, for each coordinate: ``means``, quantiles of the units' posterior means,
    ``mean_sd``, and ``largest_sd``, the units of the largest standard deviations.

    Args:
        tree: draws of the guide, with the group ``posterior``.
        model, guide, x: what they are of.

    Returns:
        the summaries, and the names of the variables summarised.
    """
    latents = model.latents(x)
    variables = {str(name): values for name, values in tree["posterior"].data_vars.items()}
    by_unit = {name: dim for name, values in variables.items()
               if (dim := _long_plate(values, plates(latents))) is not None}
    with torch.no_grad():
        q = guide.posterior(x) if latents.discrete and latents.unit in by_unit.values() else None
    found: list[dict[str, Any]] = []
    told = []
    for name, dim in by_unit.items():
        values = variables[name]
        if isinstance(q, Enumerated) and name in {site.name for site in latents.sites}:
            found += _discrete(name, dim, _names(values, dim), latents, q)
        elif values.dtype.kind in "fiu":
            found += _continuous(name, dim, values)
        else:
            continue
        told.append(name)
    return found, told


def plates(latents: Latents) -> set[str]:
    """Return the names of all plates of a program."""
    return {plate for site in (*latents.sites, *latents.observed, *latents.summed) for plate in batch_of(site)}


def _long_plate(values: DataArray, known: set[str]) -> str | None:
    """Return the first dimension of a variable that is a plate of many units; ``None`` where it has none."""
    return next((str(dim) for dim in values.dims if dim in known and values.sizes[dim] > LISTED), None)


def _names(values: DataArray, dim: str) -> list[str]:
    return [str(label) for label in values[dim].values] if dim in values.coords else [*map(str, range(values.sizes[dim]))]


def _discrete(name: str, dim: str, units: Sequence[str], latents: Latents, q: Enumerated) -> Iterable[dict[str, Any]]:
    """Summarise the coordinates of a discrete latent by the exact probabilities of their values."""
    sites = [site.name for site in latents.sites for _ in range(site.size)]
    for i, label in enumerate(latents.coordinates()):
        if sites[i] != name:
            continue
        values, which = q.values[:, i].unique(return_inverse=True)
        probs = q.probs.new_zeros(len(q.probs), len(values)).index_add_(1, which, q.probs)
        entropy = torch.special.entr(probs).sum(1)
        worst = entropy.argsort(descending=True, stable=True)[:NAMED].tolist()
        yield {
            "variable": label, "dim": dim, "units": len(units),
            "counts": {f"{value:g}": count for value, count in zip(values.tolist(), probs.sum(0).tolist(), strict=True)},
            "mean_entropy": float(entropy.mean()), "greatest_entropy": math.log(len(values)),
            "most_uncertain": [
                {"unit": units[j], "entropy": float(entropy[j]), "probabilities": probs[j].tolist()} for j in worst]}


def _continuous(name: str, dim: str, values: DataArray) -> Iterable[dict[str, Any]]:
    """Summarise each coordinate of a real variable: how the units' means and standard deviations spread."""
    rows = values.transpose("chain", "draw", dim, ...).values.astype(float)
    rows = rows.reshape(-1, *rows.shape[2:])
    shape, units = rows.shape[2:], _names(values, dim)
    inner = [_names(values, str(other)) for other in values.dims if other not in ("chain", "draw", dim)]
    means, sds = (part.reshape(len(units), -1) for part in (rows.mean(0), rows.std(0, ddof=1 if len(rows) > 1 else 0)))
    for i in range(min(means.shape[1], COORDINATES)):
        at = ", ".join(names[j] for names, j in zip(inner, np.unravel_index(i, shape), strict=True)) if shape else ""
        worst, noise = np.argsort(-sds[:, i], kind="stable")[:NAMED].tolist(), 1e-9 * float(np.abs(means[:, i]).max())
        yield {
            "variable": f"{name}[{at}]" if at else name, "dim": dim, "units": len(units),
            "means": {word: float(np.quantile(means[:, i], share)) for word, share in QUANTILES.items()},
            "mean_sd": float(sds[:, i].mean()),
            "largest_sd": [{"unit": units[j], "sd": float(sds[j, i])} for j in worst if sds[j, i] > noise],
            "coordinates_left": max(0, means.shape[1] - COORDINATES) if i == 0 else 0}


def tables(found: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return summaries of units as tables: a caption, heads, and rows each; one of all real variables of the same units."""
    made = [_counts_table(one) for one in found if "counts" in one]
    for units in dict.fromkeys((one["dim"], one["units"]) for one in found if "means" in one):
        made.append(_means_table([one for one in found if "means" in one and (one["dim"], one["units"]) == units]))
    return made


def _counts_table(one: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    uncertain = "; ".join(
        f"{unit['unit']} ({_number(unit['entropy'])}: {', '.join(map(_number, unit['probabilities'][:COORDINATES]))})"
        for unit in one["most_uncertain"] if unit["entropy"] is None or unit["entropy"] >= 5e-4)
    text = (
        f"{one['variable']} of {_rows(one)}: mean entropy {_number(one['mean_entropy'])} nats of at most "
        f"{_number(one['greatest_entropy'])}" + (f"; most uncertain: {uncertain}" if uncertain else ""))
    rows = [[value, _number(count, 1), _number(None if count is None else count / one["units"], 4)]
            for value, count in one["counts"].items()]
    return text, [one["variable"], "expected count", "share"], rows


def _means_table(group: Sequence[dict[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    first = group[0]
    left = sum(one["coordinates_left"] for one in group)
    more = f"; {left} more coordinates are left out" if left else ""
    rows = [[
        one["variable"], *(_number(one["means"][word]) for word in QUANTILES), _number(one["mean_sd"]),
        ", ".join(f"{unit['unit']} ({_number(unit['sd'])})" for unit in one["largest_sd"]) or "—"] for one in group]
    heads = ["variable", *QUANTILES, "mean sd", "rows of the largest sd"]
    return f"Posterior means of {_rows(first)}, and their sds{more}", heads, rows


def _number(value: float | None, digits: int = 3) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _rows(one: dict[str, Any]) -> str:
    """Say how many rows were summarised, and of which plate where it is not called rows."""
    return f"{one['units']} rows" if one["dim"] == "rows" else f"{one['units']} rows of plate '{one['dim']}'"
