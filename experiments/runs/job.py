"""A spec made ready to work: its data loaded, its model built; and the work itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.comparison.compare import fit_one, settle
from experiments.comparison.plan import FittedComparison, alone, fit_comparison
from experiments.comparison.request import Request
from experiments.comparison.table import Comparison
from experiments.fits.callbacks import Callback
from experiments.fits.journal import Journal
from experiments.fits.progress import display
from experiments.inference.fit import one_view
from experiments.inference.seeds import fit_seeds
from experiments.reporting.output import labels
from experiments.runs.spec import Spec, fitting_options, kind_of
from experiments.runtime.holdout import partition
from zoo.construct import build
from zoo.datasets import Dataset, dataset
from zoo.model import Model
from zoo.registry import MODELS, load


@dataclass(frozen=True)
class Job:
    """What a spec asks for, ready: the model is sized by and started from the rows it may be trained on."""

    spec: Spec
    model: Model
    data: Dataset
    holdout: float

    def work(self, journal: Journal | None = None, callbacks: Sequence[Callback] = (), show: bool | None = None) -> Comparison:
        """Fit, evaluate, and return the table. With a ``journal``, what it holds is not fitted again.

        Raises:
            ZooError: any error of ``fit``, ``compare`` and ``evaluate``.
            Interrupted: if the journal was told to stop.
        """
        how: dict[str, Any] = {"journal": journal, "callbacks": callbacks}
        spec, name = self.spec, self.data.name
        if spec.command == "compare":
            with display(show) as live:
                table = settle(self.fit_comparison(progress=live or False, **how), spec.draws, name, spec.effort, live)
        else:
            table = fit_one(
                self.model, self.data.x, spec.guides[0], self._seeds, {**self._fitting, **how}, data=name, draws=spec.draws,
                effort=spec.effort, progress=show)
        return replace(table, labels=labels(self.data))

    def fit_comparison(self, **how: Any) -> FittedComparison:
        """Do the fits of a comparison, and nothing else."""
        spec = self.spec
        request = Request(
            spec.guides, spec.seed, spec.method, spec.train_with, spec.train_model, self.holdout, self.data.view, spec.simulate)
        return fit_comparison(self.model, self.data.x, request, **fitting_options(spec), **how)

    def fitted(self, journal: Journal, callbacks: Sequence[Callback] = ()) -> FittedComparison:
        """Do the fits that the journal lacks, and return all of them; a pair that is fitted by itself as a plan of one.

        Raises:
            ZooError: any error of ``fit``; a fit that is not done in a sealed journal.
        """
        if self.spec.command == "compare":
            return self.fit_comparison(journal=journal, callbacks=callbacks)
        spec = self.spec
        done = fit_seeds(
            self.model, spec.guides[0], self.data.x, seeds=self._seeds, journal=journal, callbacks=callbacks,
            progress=False, **self._fitting)[0]
        return alone(done, one_view(self.data.x, self.data.view, spec.seed), spec.seed)

    @property
    def _seeds(self) -> range:
        return range(self.spec.seed, self.spec.seed + self.spec.seeds)

    @property
    def _fitting(self) -> dict[str, Any]:
        view = {} if self.data.view is None else {"view": self.data.view}
        return {"method": self.spec.method, **fitting_options(self.spec), **view}


def prepare(spec: Spec) -> Job:
    """Load the data of ``spec`` and build its model.

    Raises:
        ZooError: data that can't be read or does not fit the model, options that the data does not allow.
    """
    data = dataset(
        spec.data, kind_of(spec), target=spec.target, standardise=spec.standardise, drop_constant=spec.drop_constant,
        binarise=spec.binarise)
    entry = MODELS[spec.model]
    share = load(entry.path).holdout if spec.holdout is None else spec.holdout
    held = share if entry.units == "rows" and spec.command == "compare" else 0.0
    rows = data.x
    if held and not isinstance(rows, Mapping):
        rows = partition(rows, len(rows), held, spec.seed).train
    model = build(spec.model, one_view(rows, data.view, spec.seed), seed=spec.seed, **spec.options)
    return Job(spec, model, data, held)
