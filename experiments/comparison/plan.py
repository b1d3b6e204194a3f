"""The plan of a comparison's fits: θ first, then every guide on the units that it may see."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from experiments.comparison.agreement import beside, most_even
from experiments.comparison.gap_split import Split, fit_free, free_member, split
from experiments.comparison.local_split import local_split
from experiments.comparison.order import once, same_family, source_of, start_of, trainer_of, turn
from experiments.comparison.request import THETA, Entry, Request, spec_of
from experiments.diagnostics.evaluation import Evaluation, evidence_of
from experiments.fits.callbacks import Callback
from experiments.fits.journal import Journal
from experiments.fits.result import Fit
from experiments.inference.containment import CONTAINED, OWN, sibling
from experiments.inference.engine import held
from experiments.inference.fit import fit, one_view
from experiments.inference.method import Problem
from experiments.inference.options import names
from experiments.inference.registry import METHODS, check_options, choose, default_method, entry, misfit, written_method
from experiments.log_evidence.log_weights import LogWeights, log_weights
from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Budget
from experiments.runtime.holdout import Partition, partition
from experiments.runtime.seeds import Stream
from guides.construct import build, sketch
from guides.guide import AnyGuide, BaseGuide
from guides.pyro_guide.guide import as_guide
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.run import Program


@dataclass(frozen=True)
class FittedComparison:
    """The fits of a comparison: of θ, where all guides share one, and of the guides, in the order asked.

    ``exact``: of simulated data, the latents that it was drawn with, (1, units, d).
    """

    plan: ComparisonPlan
    theta: Fit | None
    fits: list[Fit]
    exact: Tensor | None
    seconds: float = 0.0
    own_theta: bool = False
    simulated: bool = False
    #: Whether the gaps of encoders are to be split, which takes a fit of the best free member of each.
    splits: bool = True

    @property
    def evaluations(self) -> float:
        """The evaluations of log p(x_i, z) that all the fits took."""
        own = [done.evaluations for done in self.fits]
        theta = 0.0 if self.theta is None or any(done is self.theta for done in self.fits) else self.theta.evaluations
        return sum(own) + theta


def fit_comparison(
    model: Model | Program, x: Data, request: Request, *, progress: bool | Callback | None = None,
    callbacks: Sequence[Callback] = (), journal: Journal | None = None, pure: bool | None = None, **options: Any,
) -> FittedComparison:
    """Do the fits of a comparison; nothing is evaluated yet.

    Args:
        model, x: as of :func:`experiments.compare`, and so are the others.
        request: what is to be compared.
        progress, callbacks, journal, pure: passed on to every fit.
        options: of the fits, each passed on to those by a method that has it.

    Raises:
        ZooError: as of :func:`experiments.compare`.
    """
    begun = time.perf_counter()
    check_options(options)
    model = request.model(model)
    shown = one_view(x, request.view, request.seed)
    request = request.completed(model, model.facts(shown))
    units = partition(x, model.latents(shown).units, request.holdout or 0.0, request.seed)
    how = {"progress": progress, "callbacks": callbacks, "journal": journal, "pure": pure}
    plan = ComparisonPlan(model, units, request.view, request.seed, request.method, how, options)
    for one in request.entries:
        plan.check_own(one)
    theta = None if request.train_model else plan.fit_theta(request.asked, request.trainer)
    plan, exact = plan.simulated() if request.simulate else (plan, None)
    fits = [plan.fit_own(one) for one in request.entries] if request.train_model else plan.fit_all(request.entries)
    _tell_unused(options, [*fits, *([theta] if theta is not None else [])])
    seconds = time.perf_counter() - begun
    return FittedComparison(plan, theta, fits, exact, seconds, request.train_model, request.simulate)


def _tell_unused(options: Mapping[str, Any], fits: Sequence[Fit]) -> None:
    """Warn of options that were given and that no fit's method has."""
    known = {name for done in fits if done.method in METHODS for name in names(METHODS[done.method].options)} | {"steps"}
    unused = [name for name, value in options.items() if name not in known and value not in (None, False)]
    if unused:
        methods = ", ".join(dict.fromkeys(done.method for done in fits))
        warnings.warn(ZooWarning(
            f"no fit of this comparison has {', '.join(unused)}: they are by {methods}; leave it out, or name another method"),
            stacklevel=3)


def alone(done: Fit, x: Data, seed: int) -> FittedComparison:
    """Return a pair that was fitted together as a comparison of one, on ``x``."""
    theta = done if any(p.requires_grad and p.numel() for p in done.model.parameters()) else None
    units = partition(x, done.model.latents(x).units, 0.0)
    plan = ComparisonPlan(done.model, units, None, seed, None)
    return FittedComparison(plan, theta, [done], None, done.seconds, splits=False)


@dataclass(frozen=True)
class ComparisonPlan:
    """The plan of one comparison: the model, the units, the seed and the options that all its fits share."""

    model: Model
    units: Partition
    view: Callable[[Tensor], Tensor] | None
    seed: int
    method: str | None
    #: What is passed on to every fit: progress, callbacks, journal, whether the program is pure; and, to those by a method that
    #: has it, each option.
    how: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def x(self) -> Data:
        """The units on which guides are compared; where there are many views of them, one."""
        return one_view(self.units.held, self.view, self.seed)

    @cached_property
    def train(self) -> Data:
        """The units on which θ and encoders are fitted, one view of them."""
        return one_view(self.units.train, self.view, self.seed)

    def simulated(self) -> tuple[ComparisonPlan, Tensor]:
        """Return the plan on data drawn from the model at its θ, and the latents it came from: exact posterior draws."""
        latent, fresh = self.model.simulate(self.x, seed=self.seed + Stream.SIMULATION)
        exact = self.model.unconstrain(fresh, {name: value[None] for name, value in latent.items()})
        units = replace(self.units, held=fresh, train=self.train if self.units.share else fresh)
        return replace(self, units=units, view=None), exact.detach()

    def build(self, guide: AnyGuide, model: Model | None = None) -> BaseGuide:
        """Build a guide on the units that it is to be fitted on."""
        model = self.model if model is None else model
        spec = spec_of(guide)
        whole = as_guide(model, guide, self.x if spec is None or spec.own_units else self.train)
        if not isinstance(whole, str):
            return whole
        return build(whole, model, self.x if spec is not None and spec.own_units else self.train, seed=self.seed)

    def fit(
        self, model: Model, guide: BaseGuide, train_model: bool, method: str | None = None, held: bool = True, name: str = "",
        start: BaseGuide | str = OWN,
    ) -> Fit:
        """Fit a guide: one that serves new units on the training units, in fresh views; else on the held ones, if ``held``.

        The fit is called ``name``, or as the guide is.
        """
        method = _method_of(guide, method)
        rows, given = self._served(guide, method, held and not guide.new_units)
        return fit(
            model, guide, rows, method=method, train_model=train_model, seed=self.seed, name=name or guide.text, start=start,
            **self.how, **given)

    def _served(self, guide: BaseGuide, method: str | None, held: bool) -> tuple[Data, Mapping[str, Any]]:
        """Return the rows that a guide is fitted on, the ``held`` ones or those trained on, and the options of its method."""
        rows = self.x if held else self.train
        has = names(entry(method or default_method(guide, rows)).options)
        given = {name: value for name, value in self.options.items() if name in has}
        if not held and self.view is not None and "view" in has:
            return self.units.train, {**given, "view": self.view}
        return rows, given

    def of(self, entry: Entry) -> ComparisonPlan:
        """Return the plan of the fit of one entry, with its own options in place of those of all."""
        return replace(self, method=entry.method or self.method, options={**self.options, **entry.fit_options})

    def check_own(self, entry: Entry) -> None:
        """Raise for a wrong option of an entry, or one that the method of its guide lacks."""
        if not entry.options:
            return
        check_options(entry.fit_options)
        guide = sketch(entry.guide, self.model, self.x) if isinstance(entry.guide, str) else self.build(entry.guide)
        problem = Problem(self.model, guide, self.x, False, self.seed)
        method, _ = choose(entry.method or _method_of(guide, self.method), problem, entry.fit_options)
        if found := misfit(method.name, problem):
            raise ZooError(found)

    def fit_theta(self, asked: Sequence[AnyGuide], trainer: Entry | None) -> Fit | None:
        """Fit θ with one guide on the training units; ``None`` where the model has none."""
        if not any(p.requires_grad and p.numel() for p in self.model.parameters()):
            return None
        known = Entry(trainer_of(self.model, self.train, asked)) if trainer is None else trainer
        whole = as_guide(self.model, known.guide, self.train)
        guide = build(whole, self.model, self.train, seed=self.seed) if isinstance(whole, str) else whole
        return self.of(known).fit(self.model, guide, True, known.method, held=False, name=THETA, start=start_of(whole))

    def fit_all(self, entries: Sequence[Entry]) -> list[Fit]:
        """Fit every guide to θ as it is: encoders first, since free guides of their families start at their answers.

        Families that others contain come before these, which start at them.
        """
        done: dict[int, Fit] = {}
        with held(self.model):
            guides = [_named(self.build(entry.guide), entry.name) for entry in entries]
            for i in sorted(range(len(entries)), key=lambda i: turn(guides[i])):
                fitted, own = [fit.guide for fit in done.values()], self.of(entries[i])
                if isinstance(entries[i].guide, str):
                    done[i] = own.fit_beside(guides[i], fitted)
                else:
                    done[i] = own.fit(self.model, guides[i], False, own.method)
        return [done[i] for i in range(len(entries))]

    def fit_beside(self, guide: BaseGuide, fitted: Sequence[BaseGuide]) -> Fit:
        """Fit a guide from where those ``fitted`` lead: its draws' source, its family's encoder, or one that it contains."""
        guide = self._at_encoder(guide, fitted)
        start = source_of(guide, fitted) or sibling(guide, fitted) or CONTAINED
        return self.fit(self.model, guide, False, self.method, start=start)

    def _at_encoder(self, guide: BaseGuide, fitted: Sequence[BaseGuide]) -> BaseGuide:
        """Return a free guide as the answer of the fitted encoder of its family, if there is one; any other as it is."""
        spec = spec_of(guide)
        encoder = same_family(spec, fitted, free=False) if spec is not None and spec.free else None
        if encoder is None:
            return guide
        member = free_member(fitted[encoder], self.x)
        member.text, member.written = guide.text, guide.written  # its own method, if one is written with it
        return member

    def fit_own(self, entry: Entry) -> Fit:
        """Fit a guide together with a θ of its own."""
        model, asked, own = copy.deepcopy(self.model), entry.guide, self.of(entry)
        guide = _named(self.build(asked, model), entry.name)
        if guide.new_units or not self.units.share:
            return own.fit(model, guide, True, own.method, start=start_of(asked))
        # Parameters of the training units are of no use for the held ones: θ from those, then φ for these.
        assert isinstance(asked, str), "built guides of own units are compared without a hold-out"
        own.fit(model, build(asked, model, self.train, seed=self.seed), True, held=False, name=f"theta of {guide.text}")
        return own.fit(model, guide, False, own.method, start=CONTAINED)

    def evidence(
        self, fits: list[Fit], weights: list[LogWeights], fitted: FittedComparison, budget: Budget,
    ) -> list[Evidence]:
        """Return log p(x | θ) for each row: where they share θ, one for all, from the mixture of their guides.

        It is never below what a guide's own ELBO or importance weights say, by more than 4 standard errors.
        """
        def of(done: Sequence[Fit], weights: Sequence[LogWeights]) -> Evidence:
            with held(done[0].model):
                found = evidence_of(
                    done[0].model, self.x, [one.guide for one in done], weights, self.seed, budget, fitted.exact)
            return beside(found, {one.guide.text: weight for one, weight in zip(done, weights, strict=True)})

        if fitted.own_theta:
            return [of([done], [weight]) for done, weight in zip(fits, weights, strict=True)]
        best = once(fits, most_even(weights))
        return [of([fits[i] for i in best], [weights[i] for i in best])] * len(fits)

    def split(
        self, done: Fit, weight: LogWeights, made: Evaluation, fits: list[Fit], weights: list[LogWeights],
    ) -> Split | None:
        """Split an encoder's gap, of a guide of two blocks the local one; ``None`` for other guides."""
        if made.blocks is not None:
            with held(done.model):
                return local_split(done.model, done.guide, self.x, made.blocks, self.seed)
        spec, found = spec_of(done.guide), made.evidence
        if spec is None or not spec.amortised:
            return None
        same = [i for i, other in enumerate(fits) if other.model is done.model]
        sibling = same_family(spec, [fits[i].guide for i in same], free=True)
        if sibling is not None:
            return split(weight, weights[same[sibling]], found)
        with held(done.model):
            free = fit_free(done.model, done.guide, self.x, steps=self.options.get("steps"), seed=self.seed, **self.how)
            drawn = log_weights(done.model, free.guide, self.x, len(weight.log_q), self.seed + Stream.EVALUATION)
            return split(weight, drawn, found)


def _method_of(guide: BaseGuide, method: str | None) -> str | None:
    """Return the method that is named for all guides where this one has parameters, a density, and none written with it."""
    return method if guide.size and guide.density and written_method(guide) is None else None


def _named(guide: BaseGuide, name: str) -> BaseGuide:
    """Return a guide under the name of its row; as it is called where there is none."""
    guide.text = name or guide.text
    return guide
