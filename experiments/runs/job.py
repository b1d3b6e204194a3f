"""A spec made ready to work: its data loaded, its model built; and the work itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

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
from experiments.runs.programs import arguments_of, is_own, program_of
from experiments.runs.spec import Spec, fitting_options, kind_of
from experiments.runtime.holdout import partition
from guides.spec import default_guides, parse
from zoo.bare import as_model, given
from zoo.construct import build
from zoo.datasets import Dataset, dataset
from zoo.errors import ZooError
from zoo.model import Model
from zoo.registry import MODELS, load


@dataclass(frozen=True)
class Job:
    """What a spec asks for, ready: the model is sized by and started from the rows it may be trained on.

    ``stdout``: where results are printed, where a program of the user's own prints elsewhere.
    """

    spec: Spec
    model: Model
    data: Dataset
    holdout: float
    stdout: TextIO | None = None

    def printing(self) -> AbstractContextManager[Any]:
        """Give standard output back for results, where what a program of the user's own prints goes to standard error."""
        return nullcontext() if self.stdout is None else redirect_stdout(self.stdout)

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


@contextmanager
def prepared(spec: Spec, trust: bool = False) -> Iterator[Job]:
    """Give the job of ``spec``; a program of the user's own is at hand within the block, see :func:`program_of`.

    Raises:
        ZooError: as of :func:`prepare`; a program of the user's own whose code is not to be ``trust``-ed.
    """
    if not is_own(spec.model):
        yield prepare(spec)
        return
    check_trusted(spec, trust)
    stdout = sys.stdout
    with program_of(spec.model) as program:
        yield replace(prepare(spec, program), stdout=stdout)


def check_trusted(spec: Spec, trust: bool) -> None:
    """Raise a :class:`ZooError` where a spec names a program of the user's own, and its code is not to be trusted."""
    if is_own(spec.model) and not trust:
        raise ZooError(
            f"expected --trust to run the code of '{spec.model}'; got a spec that names it, and no word that it may be run; "
            "read it first")


def prepare(spec: Spec, program: Model | Callable[..., Any] | None = None) -> Job:
    """Load the data of ``spec`` and build its model, or take the ``program`` where that is the user's own.

    Raises:
        ZooError: data that can't be read or does not fit the model, options that the data does not allow.
    """
    if is_own(spec.model):
        if program is None:
            raise ZooError(f"expected the program '{spec.model}'; got none, and no code is run for it; pass it as model=")
        return _own(spec, program)
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


def _own(spec: Spec, program: Model | Callable[..., Any]) -> Job:
    """Return the job of a program of the user's own: the guides are those that fit it, where none is named."""
    args, kwargs = arguments_of(program, spec.data)
    x = given(program, *args, **kwargs)
    model = as_model(program)
    facts = model.facts(x)
    guides = spec.guides or tuple(default_guides(facts))
    guides = guides[:1] if spec.command == "fit" else guides
    for guide in (*guides, *([spec.train_with] if spec.train_with else [])):
        parse(guide).check(facts)
    return Job(spec.model_copy(update={"guides": guides}), model, Dataset(Path(spec.data).name, x), spec.holdout or 0.0)
