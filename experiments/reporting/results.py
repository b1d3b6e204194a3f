"""Result files of a run besides its checkpoints: the table, the posterior's draws and summaries, the figures."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.comparison.table import Comparison, finite
from experiments.reporting.output import best_row, labels, remark, summary_frame
from experiments.reporting.units import unit_summaries
from experiments.runtime.files import whole, writing
from experiments.runtime.memory import GLANCE, within
from zoo.data import tensors
from zoo.datasets import Dataset
from zoo.errors import ZooError

if TYPE_CHECKING:
    from xarray import DataTree

#: Draws of posterior.nc, fewer of many units.
DRAWS = 500
#: Rows of the summary.
ROWS = 60


def write_table(table: Comparison, path: Path) -> None:
    """Write comparison.json and .csv.

    Raises:
        ZooError: if the disk refuses.
    """
    whole(path / "comparison.json", json.dumps(table.to_dict(), indent=1, allow_nan=False, ensure_ascii=False))
    whole(path / "comparison.csv", table.to_frame().to_csv())


def write_posterior(table: Comparison, data: Dataset, path: Path) -> None:
    """Write posterior.nc, the draws of the best guide, their summaries, summary.csv and units.json, and the figures.

    Raises:
        ZooError: if the disk refuses.
    """
    tree, best = posterior_tree(table, data), best_row(table).fit
    # By way of memory: where the disk is full, HDF5 would take the process down when it closes the file, after our own words.
    whole(path / "posterior.nc", bytes(tree.to_netcdf(engine="h5netcdf")))
    units, told = unit_summaries(tree, best.model, best.guide, table.x)
    whole(path / "units.json", json.dumps({"units": finite(units)}, indent=1, allow_nan=False, ensure_ascii=False))
    whole(path / "summary.csv", summary(tree, told).to_csv(index=False))
    write_figures(table, data, path / "figures")


def posterior_tree(table: Comparison, data: Dataset) -> DataTree:
    """Return the draws of the guide with the highest ELBO, as ArviZ has them; of what is large, fewer draws and groups."""
    from experiments.diagnostics.posterior import posterior

    best = best_row(table)
    model, x = best.fit.model, table.x
    latents = model.latents(x)
    observed = sum(value.numel() for value in tensors(x).values())
    draws = within(GLANCE, latents.units * latents.size, 32, DRAWS)
    groups = ["posterior", "sample_stats", "observed_data", "constant_data", "theta"]
    if draws * observed <= GLANCE:
        groups += ["posterior_predictive", "log_likelihood"]
    tree = posterior(model, best.fit.guide, x, draws=draws, seed=table.seed, groups=groups, coords=labels(data))
    tree.attrs.update({"model": model.label, "data": table.data, "guide": best.fit.guide.text})
    return tree


def summary(tree: DataTree, told: Sequence[str] = ()) -> Any:
    """Return mean, sd and 94 % interval of the posterior's first variables that are not ``told``, up to :data:`ROWS` in all."""
    import pandas as pd

    kept = _summarised(tree, told)
    if not kept:
        return pd.DataFrame(columns=["variable", "mean", "sd", "lower", "upper"])
    frame = summary_frame(kept)
    frame.columns = ["mean", "sd", "lower", "upper"]
    return frame.rename_axis("variable").reset_index()


def _summarised(tree: DataTree, told: Sequence[str]) -> dict[str, Any]:
    """Return the numeric variables of the posterior that a summary has room for, in full or their first rows."""
    kept: dict[str, Any] = {}
    left = ROWS
    for name, values in tree["posterior"].data_vars.items():
        if left <= 0 or values.dtype.kind not in "fiu" or name in told:
            continue
        shown = _first_rows(values, left)
        if shown is not None:
            kept[str(name)] = shown
            left -= math.prod(_sizes(shown).values())
    return kept


def _first_rows(values: Any, most: int) -> Any | None:
    """Return a variable, or its first rows where it has more than ``most`` scalars; ``None`` where one row has more."""
    sizes = _sizes(values)
    if math.prod(sizes.values()) <= most:
        return values
    first, *others = sizes
    inner = math.prod(sizes[dim] for dim in others)
    return None if inner > most else values.isel({first: slice(0, most // inner)})


def _sizes(values: Any) -> dict[Any, int]:
    """Return the lengths of a variable's own dimensions, those of chains and draws left out."""
    return {dim: values.sizes[dim] for dim in values.dims if dim not in ("chain", "draw")}


def write_figures(table: Comparison, data_set: Dataset, path: Path) -> None:
    """Write the figures that have a meaning for this model to ``path``, as PNG and SVG.

    Raises:
        ZooError: if the disk refuses.
    """
    import matplotlib as mpl

    from experiments.reporting.figures import save
    from experiments.reporting.gallery import FIGURES, Scene

    with writing(path):
        path.mkdir(exist_ok=True)
    scene = Scene(table, data_set)
    _ = scene.posterior, scene.predictive  # once, and with what they warn of
    for name, make in FIGURES.items():
        with mpl.rc_context({"backend": "agg"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what plotting libraries say to their developers
            try:
                figure = make(scene)
            except (ZooError, NotImplementedError):
                continue  # not every figure has a meaning for every model: discrete latents have no forest
            except Exception as error:  # a figure that fails must not take the numbers with it
                remark(f"figure '{name}' could not be drawn: {(str(error).splitlines() or [type(error).__name__])[0][:160]}")
                continue
            save(figure, path / name)
