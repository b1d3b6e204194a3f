"""The evaluation of a guide: its ELBO, the parts of it, and the gap to the posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from experiments.diagnostics.block_gap import BlockGap, block_gap
from experiments.diagnostics.gap import Gap
from experiments.inference.fit import pair
from experiments.log_evidence.evidence import evidence
from experiments.log_evidence.log_weights import Estimate, LogWeights, log_weights
from experiments.log_evidence.lower_bound import lower_bound
from experiments.log_evidence.pareto import misses_mass
from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Budget
from experiments.runtime.memory import chunks, work
from experiments.runtime.seeds import Stream
from guides.drawn import Drawn
from guides.guide import AnyGuide, BaseGuide
from zoo.bare import given
from zoo.data import Data
from zoo.model import Model
from zoo.program.failures.tolerance import tolerant
from zoo.program.run import Program, evaluating


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one guide on one θ. Numbers are totals over ``units`` units, in nats.

    Attributes:
        elbo: E_q[log p(x, z) − log q(z)] = ``reconstruction`` − ``kl_prior``. Of draws, which have no density, the bound of
            the method that made them; NaN where it has none.
        evidence: log p(x | θ) and its kind.
        kl_gap: evidence − ELBO = KL(q ‖ posterior). Of draws at least the divergence of one of them.
        reconstruction: E_q[log p(x | z)].
        kl_prior: KL(q ‖ prior).
        khat: PSIS k̂ of the worst unit; ``None`` where q was enumerated or its weights are constant.
        ess: effective sample size of the worst unit, of ``draws``; ``None`` where q was enumerated.
        draws: how many draws of z per unit; the size of the support where q was enumerated.
        active: coordinates that tell the units apart, see :meth:`LogWeights.active`.
        khat_units, ess_units: k̂ and ESS of each unit, (units,).
        remark: what is to be known of the guide's draws in one line; empty where there is nothing.
        lacks: nats of log p(x | θ) that the guide's weighted draws surely do not make up: it misses a mode, or tails.
        blocks: of a guide of two blocks, ``kl_gap`` by block; ``None`` of others.
    """

    guide: str
    units: int
    draws: int
    elbo: Estimate
    evidence: Evidence
    kl_gap: Gap
    reconstruction: Estimate
    kl_prior: Estimate
    khat: float | None
    ess: float | None
    active: int | None
    khat_units: Tensor | None = field(repr=False)
    ess_units: Tensor | None = field(repr=False)
    remark: str = ""
    lacks: float = 0.0
    blocks: BlockGap | None = None

    def worst(self, count: int = 10) -> list[int]:
        """Return the ``count`` units that the guide serves worst, of the largest gap log p(x_i) − ELBO_i, worst first."""
        gaps = self.evidence.units - self.elbo.units
        return [int(i) for i in gaps.argsort(descending=True)[:count]]

    @property
    def misses_mass(self) -> bool:
        """Whether q misses posterior mass that matters, see :func:`experiments.log_evidence.pareto.misses_mass`."""
        return misses_mass(self.khat, self.ess, self.draws)


def evaluate(
    model: Model | Program, guide: AnyGuide, *x: Any, draws: int | None = None, seed: int = 0,
    log_evidence: Evidence | None = None, effort: str = "default",
) -> Evaluation:
    """Evaluate ``guide`` on ``model`` with θ as it is.

    Args:
        model: a model or a bare Pyro program.
        guide: the guide, fitted or not; one written without parameters (``exact``); or any Pyro guide.
        x: the data, or all arguments of the program, as of :func:`experiments.fit`.
        draws: of z, per unit; 4,096 for one unit, at least 512 for many.
        seed: of the draws: the same seed gives the same numbers.
        log_evidence: of the model, where it is known already.
        effort: ``none``, ``quick``, ``default`` or ``thorough``: how many densities may be evaluated beside those draws, see
            :data:`experiments.runtime.effort.EFFORTS`. What the fit took is not known here: the effort's floor is all.

    Raises:
        ZooError: fewer than 2 draws, or log weights that are not numbers.

    >>> import zoo, guides
    >>> x = zoo.dataset("faithful").x
    >>> model = zoo.build("gmm", x)
    >>> abs(evaluate(model, guides.build("exact", model, x), x).kl_gap.value) < 1e-6
    True
    """
    data = given(model, *x)
    model, guide = pair(model, guide, data, seed)
    rated = proposal(guide)
    weights = log_weights(model, rated, data, draws, seed + Stream.EVALUATION)
    budget = Budget.of(effort, model, data).aimed(rough_gaps([weights]))
    with budget.counting():
        if log_evidence is None:
            found, elbo = evidence_of(model, data, [rated], [weights], seed, budget), weights.elbo()
            found = found.covering({f"the ELBO of '{rated.text}'": (elbo.value, elbo.se)})
            log_evidence = found.for_gaps([found.middle - elbo.value])
        if isinstance(guide, Drawn):
            return summarise_draws(model, guide, data, log_evidence)
        done = summarise(weights, guide.text, log_evidence)
        return replace(done, blocks=block_gap(model, guide, data, done.kl_gap, seed) if budget.limit else None)


def proposal(guide: BaseGuide) -> BaseGuide:
    """Return the guide whose importance weights tell of log p(x | θ): the guide, or the one that its draws begin from."""
    return guide.source if isinstance(guide, Drawn) else guide


def rough_gaps(weights: Sequence[LogWeights]) -> list[float]:
    """Return by how many nats each guide's ELBO lies below the best importance-weighted bound of all."""
    best = max(float(weight.importance_bound().sum()) for weight in weights)
    return [best - weight.elbo().value for weight in weights]


def evidence_of(
    model: Model, x: Data, guides: Sequence[BaseGuide], weights: Sequence[LogWeights], seed: int, budget: Budget,
    exact: Tensor | None = None,
) -> Evidence:
    """Return log p(x | θ) within a budget; where there is none to spend, in closed form, or by the weights that were drawn.

    Args:
        model, x: the model and the data.
        guides: the best first, and ``weights`` the log weights of each.
        seed: of the draws.
        budget: what may be spent.
        exact: as of :func:`experiments.evidence`.
    """
    if budget.limit or model.facts(x).exact:
        return evidence(model, x, guides, seed=seed, exact=exact, effort=budget)
    return lower_bound(weights[0], guides[0].text)


def summarise(weights: LogWeights, text: str, found: Evidence) -> Evaluation:
    """Reduce log weights to an :class:`Evaluation`."""
    elbo, khat, ess = weights.elbo(), weights.khat(), weights.ess()
    failed, drawn = getattr(weights, "failed", 0), len(weights.log_q)
    return Evaluation(
        guide=text, units=weights.log_q.shape[1], draws=len(weights.log_q), elbo=elbo, evidence=found,
        kl_gap=Gap.between(found, elbo), reconstruction=weights.reconstruction(), kl_prior=weights.kl_prior(),
        khat=worst_khat(khat), ess=worst_ess(ess), active=weights.active(), khat_units=khat, ess_units=ess,
        remark=f"{failed} of {drawn} draws could not be evaluated" if failed else "", lacks=weights.lacks(found.lower))


def summarise_draws(model: Model, guide: Drawn, x: Data, found: Evidence) -> Evaluation:
    """Reduce draws that have no density to an :class:`Evaluation`: their bound takes the place of the ELBO.

    Raises:
        ZooError: there are no draws yet.
    """
    guide.posterior(x)  # raises
    count, units = guide.values.shape[:2]
    each = work(x, units, guide.values.shape[2])
    with torch.no_grad(), evaluating(model):
        parts = [
            tolerant(lambda part: [model.log_terms(x, part)[1]], part, [units])[0][0]
            for part in guide.values.split(chunks(count, each))]
    likelihood = torch.cat(parts).double()
    likelihood = likelihood[likelihood.isfinite().all(1)]  # rounding may put a draw where the program fails
    effective = float(guide.ess.min())
    elbo = Estimate(float(guide.bound.sum()), float(guide.bound_se), guide.bound)
    unknown = guide.bound.new_full((units,), math.nan)
    reconstruction = Estimate(
        float(likelihood.mean(0).sum()), float(likelihood.sum(1).std()) / math.sqrt(max(1.0, effective)), likelihood.mean(0))
    weighted = not bool(guide.khat.isnan().all())
    return Evaluation(
        guide=guide.text, units=units, draws=count, elbo=elbo, evidence=found, kl_gap=Gap.between(found, elbo),
        reconstruction=reconstruction, kl_prior=Estimate(math.nan, math.nan, unknown),
        khat=worst_khat(guide.khat) if weighted else None, ess=effective, active=None,
        khat_units=guide.khat if weighted else None, ess_units=guide.ess)


def ratings(model: Model, guide: BaseGuide, x: Data, seed: int) -> tuple[float | None, float | None, int]:
    """Return k̂ and the effective sample size of the worst unit, and of how many draws; ``None`` where they do not apply."""
    if isinstance(guide, Drawn):
        weighted = not bool(guide.khat.isnan().all())
        return worst_khat(guide.khat) if weighted else None, float(guide.ess.min()), len(guide.values)
    weights = log_weights(model, guide, x, None, seed + Stream.EVALUATION)
    return worst_khat(weights.khat()), worst_ess(weights.ess()), len(weights.log_q)


def worst_khat(khat: Tensor | None) -> float | None:
    """Return the largest k̂ of the units; ``None`` where nothing was drawn, or all weights are constant."""
    return None if khat is None or bool(khat.isnan().all()) else float(khat[~khat.isnan()].max())


def worst_ess(ess: Tensor | None) -> float | None:
    """Return the least effective sample size of the units; ``None`` where nothing was drawn."""
    return None if ess is None else float(ess.min())
