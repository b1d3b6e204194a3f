"""The climb of a ladder of guides: each rung is fitted from those below, and judged by what is known of log p(x | θ)."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from experiments.comparison.ladder.bounds import own_bound, right, says_no_more
from experiments.comparison.ladder.recommendation import MODES, Recommendation, Step
from experiments.comparison.ladder.rungs import BEST, Rung, Terrain
from experiments.comparison.parameters import parameters
from experiments.comparison.plan import ComparisonPlan, FittedComparison
from experiments.comparison.request import Entry, spec_of
from experiments.comparison.table import Comparison, Cost, Row
from experiments.diagnostics.evaluation import Evaluation, proposal, summarise, summarise_draws
from experiments.diagnostics.gap import Gap
from experiments.fits.progress import Display
from experiments.fits.result import Fit
from experiments.inference.containment import OWN
from experiments.inference.engine import held
from experiments.log_evidence.log_weights import ERRORS, Estimate, LogWeights, log_weights
from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Budget
from experiments.runtime.files import shown
from experiments.runtime.seeds import Stream
from guides.drawn import Drawn
from guides.guide import BaseGuide
from zoo.errors import ZooError
from zoo.program.run import seeded
from zoo.program.vectorise import LinAlgError


@dataclass
class Climb:
    """A climb that is under way: the rungs that were tried, and what is known of log p(x | θ).

    Attributes:
        plan: the data, the seed, and what all fits share.
        ground: what the ladder stands on.
        threshold: nats, over all units, that the gap of a guide that is near enough may have.
        quantities: what has to be right, in place of the gap, if anything.
        effort: of the evaluations.
        ladder: what there is to climb.
        live: the display.
    """

    plan: ComparisonPlan
    ground: Terrain
    threshold: float
    quantities: tuple[str, ...]
    effort: str
    ladder: list[Rung]
    live: Display | None
    fits: list[Fit] = field(default_factory=list)
    weights: list[LogWeights] = field(default_factory=list)
    evidence: Evidence | None = None
    spent: float = 0.0
    fit_seconds: float = 0.0
    refused: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def to_the_end(self) -> Recommendation:
        """Climb until a rung is near enough, or there is none left."""
        begun = time.perf_counter()
        theta = self.plan.fit_theta(["mean_field"], self._trainer())
        self.fit_seconds = 0.0 if theta is None else theta.seconds
        chosen = None
        with held(self.plan.model):
            for place, rung in enumerate(self.ladder):
                if not self._fitted(rung):
                    continue
                self.places.append(place)
                enough = self._enough(len(self.fits) - 1)
                self.seconds.append(time.perf_counter() - begun)
                if enough:
                    chosen = len(self.fits) - 1
                    break
            if not self.fits:
                raise ZooError(self.refused[0] if self.refused else (
                    f"expected a rung that needs no other before it; got {', '.join(rung.text for rung in self.ladder)}; name "
                    "a guide with a density first, such as mean_field"))
            if self.evidence is None or chosen is None:
                self._look()
            chosen = self._cheapest(chosen)
        return self._told(chosen, theta, time.perf_counter() - begun)

    def _trainer(self) -> Entry | None:
        """Return the guide that θ is fitted with, where the model does not say: independent normals, or a network of them."""
        if self.ground.facts.exact or self.plan.model.train_with:
            return None
        return Entry("mean_field:encoder" if self.ground.amortised else "mean_field")

    def _fitted(self, rung: Rung) -> bool:
        """Fit a rung, and draw its weights; return whether it could be fitted."""
        best = self._best()
        text = rung.written(self._best_text)
        if BEST in rung.text and (best is None or (rung.text.endswith("@psis") and self._summary(best).misses_mass)):
            return False  # nothing to correct, or weights that are known to fail
        if any(done.guide.text == text for done in self.fits):
            return False
        try:
            done = self._highest_start(self.plan.build(text), self._limited(rung))
            weights = log_weights(
                done.model, proposal(done.guide), self.plan.x, None, self.plan.seed + Stream.EVALUATION)
        except (ZooError, LinAlgError) as error:  # one rung that is refused does not end the climb
            self.refused.append(f"'{shown(text)}': {error}")
            return False
        self._check_quantities(done.guide)
        self.fits.append(done)
        self.weights.append(weights)
        self.fit_seconds += done.seconds
        return True

    def _limited(self, rung: Rung) -> ComparisonPlan:
        """Return the plan, with the rung's own limits where nobody set them."""
        return replace(self.plan, options={**rung.limits, **self.plan.options})

    def _highest_start(self, guide: BaseGuide, plan: ComparisonPlan) -> Fit:
        """Fit a guide from the highest that leads to it: one of its own family, by another method, or one that it contains."""
        spec = spec_of(guide)
        same = [
            i for i, done in enumerate(self.fits)
            if spec is not None and spec.free and not spec.method and (other := spec_of(done.guide)) is not None
            and other.free and other.same_family(spec)]
        fitted = [done.guide for done in self.fits]
        if not same:
            return plan.fit_beside(guide, fitted)
        top = max(same, key=lambda i: self.weights[i].elbo().value)
        rest = [self.weights[i].elbo().value for i, done in enumerate(self.fits) if done.guide.density and i not in same]
        if rest and max(rest) >= self.weights[top].elbo().value:
            return plan.fit_beside(guide, fitted)
        guide.load_state_dict(self.fits[top].guide.state_dict())
        return plan.fit(plan.model, guide, False, start=OWN)

    def _best(self) -> int | None:
        """Return which rung has the highest ELBO, among guides with a density; ``None`` where there is none yet."""
        rated = [i for i, done in enumerate(self.fits) if done.guide.density]
        return max(rated, key=lambda i: self.weights[i].elbo().value, default=None)

    @property
    def _best_text(self) -> str:
        best = self._best()
        return "" if best is None else self.fits[best].guide.text

    def _bound(self, index: int) -> Estimate:
        """Return the ELBO of a rung, or the bound of its draws."""
        guide = self.fits[index].guide
        if isinstance(guide, Drawn):
            return Estimate(float(guide.bound.sum()), float(guide.bound_se), guide.bound)
        return self.weights[index].elbo()

    def _enough(self, index: int) -> bool:
        """Return whether a rung is near enough; log p(x | θ) is looked for where its own weights leave that open."""
        done = self.fits[index]
        if isinstance(done.guide, Drawn) and not done.converged:
            return False
        bound = self._bound(index)
        if math.isnan(bound.value) or self.quantities:
            if self.evidence is None:
                self._look()
            return not self._lacks(index) and (math.isnan(bound.value) or self._quantitiesright(index))
        if self._least(bound) > self.threshold:
            return False
        if self.evidence is None or self.evidence.width > 0.5 * self.threshold:
            self._look()
        return self._near(index)

    def _lacks(self, index: int) -> bool:
        """Return whether a rung is known to lack mass that others hold: its own weights can't tell that its draws are right.

        Of chains, which have no weights, it is where modes are known that guides miss.
        """
        assert self.evidence is not None, "looked for before"
        bound = self._bound(index)
        if math.isnan(bound.value):
            return MODES in self.evidence.remark
        if self.fits[index].guide.density:
            bound = self.weights[index].importance_estimate()
        return bound.lacks(self.evidence.lower) > 0

    def _near(self, index: int) -> bool:
        """Return whether the upper end of a rung's gap is known to be within the threshold."""
        gap = self._gap(index)
        return gap.upper is not None and gap.upper <= self.threshold

    def _least(self, bound: Estimate) -> float:
        """Return what a gap is at least, by all importance-weighted bounds so far."""
        known = [self._bound(i) for i, done in enumerate(self.fits) if isinstance(done.guide, Drawn) and done.converged]
        tops = [one.value - ERRORS * one.se for one in known if math.isfinite(one.value)]
        tops += [own.value - ERRORS * own.se for own in (weight.importance_estimate() for weight in self.weights)]
        return max(tops) - bound.value - ERRORS * bound.se

    def _look(self) -> None:
        """Look for log p(x | θ), from all guides so far; the narrower of two intervals is kept, if they agree."""
        fitted = sum(done.evaluations for done in self.fits)
        budget = replace(
            Budget.of(self.effort, self.plan.model, self.plan.x, fitted), target=0.5 * self.threshold)
        rated = [replace(done, guide=proposal(done.guide)) for done in self.fits]
        with budget.counting(), nullcontext() if self.live is None else self.live.evaluating(budget):
            found = self.plan.evidence(rated, self.weights, FittedComparison(self.plan, None, self.fits, None), budget)[0]
        self.spent += budget.spent
        if self.evidence is None or not says_no_more(found, self.evidence):
            self.evidence = found.for_gaps([max(0.0, found.middle - weight.elbo().value) for weight in self.weights])

    def _gap(self, index: int) -> Gap:
        assert self.evidence is not None, "looked for before"
        return Gap.between(self.evidence, self._bound(index))

    def _cheapest(self, chosen: int | None) -> int | None:
        """Return the first rung that is near enough by what is known in the end."""
        if self.quantities:
            return chosen
        near = [
            i for i, done in enumerate(self.fits)
            if self._near(i) and (done.converged or not isinstance(done.guide, Drawn))]
        return near[0] if near else chosen

    def _quantitiesright(self, index: int) -> bool:
        """Return whether all that was asked for is right, against importance-corrected draws; such draws are themselves."""
        made, guide = self._summary(index), self.fits[index].guide
        if made.misses_mass or not guide.density:
            return not guide.density
        found = parameters(self.plan.model, self.plan.x, [guide], [made], self.plan.seed)
        assert found is not None, "the quantities are checked"
        return all(right(q) for q in found.quantities if {q.name, q.name.partition("[")[0]} & {*self.quantities})

    def _check_quantities(self, guide: BaseGuide) -> None:
        """Raise a :class:`ZooError` for quantities that the model does not have, at the first rung that is fitted."""
        if self.fits or not self.quantities:
            return
        model, x = self.plan.model, self.plan.x
        with seeded(self.plan.seed), torch.no_grad():
            values = model.constrain(x, guide.posterior(x).sample(torch.Size([1])))
            values = {**values, **model.recover(x, values)}
        shapes = {name: value.shape[1:] for name, value in values.items() if value.is_floating_point()}
        names = {f"{name}[{','.join(map(str, place))}]" for name, shape in shapes.items() for place in itertools.product(
            *map(range, shape)) if place}
        unknown = [name for name in self.quantities if name not in shapes and name not in names]
        if unknown:
            known = ", ".join(shapes) or "none that is a real number"
            raise ZooError(f"expected quantities of {model.label}; got {', '.join(unknown)}; it has {known}")

    def _summary(self, index: int) -> Evaluation:
        done, found = self.fits[index], self.evidence or own_bound(self.weights[index])
        if isinstance(done.guide, Drawn):
            return summarise_draws(done.model, done.guide, self.plan.x, found)
        return summarise(self.weights[index], done.guide.text, found)

    def _told(self, chosen: int | None, theta: Fit | None, seconds: float) -> Recommendation:
        """Return what was found."""
        assert self.evidence is not None, "looked for at the end"
        rows = tuple(Row(done, self._summary(i)) for i, done in enumerate(self.fits))
        evaluations = sum(done.evaluations for done in self.fits)
        rows_of_x = Budget.of(self.effort, self.plan.model, self.plan.x).rows
        cost = Cost(self.effort, self.fit_seconds, seconds - self.fit_seconds, evaluations / rows_of_x, self.spent)
        table = Comparison(
            self.plan.model, self.plan.x, "data", self.ground.units, self.plan.seed, self.evidence, rows, theta,
            self.plan.units, cost=cost)
        tried = [self.ladder[place] for place in self.places]
        steps = tuple(
            Step(rung.text, rung.adds, row, after) for rung, row, after in zip(tried, rows, self.seconds, strict=True))
        return Recommendation(
            table, steps, chosen, self.threshold, self.quantities, self._next(chosen), tuple(self.refused))

    def _next(self, chosen: int | None) -> str:
        """Return the guide of the rung after the chosen one, as it is written; empty where there is none."""
        if chosen is None:
            return ""
        known = {done.guide.text for done in self.fits[: chosen + 1]}
        texts = [rung.written(self._best_text) for rung in self.ladder[self.places[chosen] + 1 :]]
        return next((text for text in texts if text not in known), "")
