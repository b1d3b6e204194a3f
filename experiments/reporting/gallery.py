"""The figures that a comparison has, by name: a run writes all that have a meaning, and ``table.plot`` draws one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from experiments.comparison.table import Comparison
from experiments.reporting import figures, pictures, posterior_figures
from experiments.reporting.output import best_row, labels
from guides.guide import BaseGuide
from zoo.datasets import Dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree


@dataclass(frozen=True)
class Scene:
    """What figures are drawn of: a comparison, and the data set that names its columns and shapes its pictures."""

    table: Comparison
    data: Dataset

    @cached_property
    def best(self) -> Comparison:
        """The comparison, with the model of the guide of the highest ELBO: each guide may have trained a θ of its own."""
        return replace(self.table, model=best_row(self.table).fit.model)

    @property
    def guide(self) -> BaseGuide:
        """The guide of the highest ELBO."""
        return best_row(self.table).fit.guide

    @cached_property
    def posterior(self) -> DataTree:
        """Draws of that guide's posterior."""
        return self._tree(500, "posterior")

    @cached_property
    def predictive(self) -> DataTree:
        """Draws of new data beside those that were observed."""
        return self._tree(60, "posterior_predictive", "observed_data")

    def _tree(self, draws: int, *groups: str) -> DataTree:
        from experiments.diagnostics.posterior import posterior

        table = self.best
        return posterior(
            table.model, self.guide, table.x, draws=draws, groups=groups, seed=table.seed, coords=labels(self.data))


FIGURES: Mapping[str, Callable[[Scene], Figure]] = {
    "elbo": lambda s: figures.elbo_trace(s.best),
    "gap": lambda s: figures.gap_bars(s.best),
    "forest": lambda s: posterior_figures.forest(s.posterior),
    "pair": lambda s: posterior_figures.pair(s.posterior),
    "predictive": lambda s: posterior_figures.predictive_check(s.predictive),
    "density": lambda s: figures.density(s.best.model, s.best.x, s.guide, s.data.columns, s.table.seed),
    "split": lambda s: pictures.split_bars(s.best),
    "samples": lambda s: pictures.samples(s.best),
    "reconstructions": lambda s: pictures.reconstructions(s.best, s.guide, s.data.shape),
    "prior": lambda s: pictures.prior_samples(s.best.model, s.data.shape, s.table.seed),
    "traversal": lambda s: pictures.traversal(s.best, s.guide, s.data.shape),
    "latent_map": lambda s: pictures.latent_map(s.best, s.guide, s.data.labels),
    "worst": lambda s: pictures.worst_units(s.best, s.table.rows[0].evaluation.guide, s.data.shape),
    "layers": lambda s: pictures.flow_layers(s.best, s.guide),
}


class Plots:
    """The figures of a comparison as methods, ``table.plot.gap()``: each returns Matplotlib's axes, a list of several.

    A figure that has no meaning for the model raises a :class:`ZooError`.
    """

    def __init__(self, table: Comparison):
        self._table = table

    def __dir__(self) -> list[str]:
        return [*FIGURES]

    def __getattr__(self, name: str) -> Callable[[], Any]:
        if name not in FIGURES:
            raise AttributeError(f"expected one of {', '.join(FIGURES)}; got '{name}'")
        return partial(self._draw, name)

    def _draw(self, name: str) -> Any:
        drawn = FIGURES[name](Scene(self._table, Dataset(self._table.data, self._table.x))).axes
        return drawn[0] if len(drawn) == 1 else drawn
