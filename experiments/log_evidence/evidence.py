"""The evidence log p(x | θ), by the most trusted estimator that can answer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

from torch import Tensor

from experiments.log_evidence.estimator import Question, Unknown, Unsettled
from experiments.log_evidence.log_weights import ERRORS, log_weights
from experiments.log_evidence.pareto import KHAT
from experiments.log_evidence.registry import ESTIMATORS
from experiments.log_evidence.resolution import Resolution
from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Budget
from experiments.runtime.seeds import Stream
from guides.drawn import Drawn
from guides.guide import BaseGuide, paired
from guides.model_based import Prior
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.calls import as_data
from zoo.program.run import Program, evaluating

#: Draws of the prior that the evidence is held beside, at least and at most, and their least effective sample size.
FEWEST, PRIOR_DRAWS, EFFECTIVE = 512, 4096, 100.0
#: The share of these draws that they have to be worth for their mean weight to be taken for p(x).
EVEN = 0.5


def evidence(
    model: Model | Program, x: Data, guide: BaseGuide | Sequence[BaseGuide] | None = None, *, draws: int | None = None,
    seed: int = 0, exact: Tensor | None = None, precision: float | None = None, effort: str | Budget = "default",
) -> Evidence:
    """Return log p(x | θ) by the most trusted estimator that can answer, with its kind and interval.

    The first registered estimator that can answer is asked: exact where the model knows it; by quadrature where a unit has one
    or two latents and the density is cheap; else a bracket from ``guide``, see :func:`experiments.bracket`. Where that can't be
    had (a Pyro guide whose density is known at its own draws alone), the importance-weighted lower bound of ``guide``.
    Several guides are mixed in equal shares, and modes that none of them holds are looked for from the prior and added: see
    :func:`experiments.log_evidence.proposals.pool.pooled`.

    Args:
        model: a model or a bare Pyro program.
        x: the data.
        guide: whose draws the bounds take, or several, the best first; needed where there is no other way.
        draws: of the importance-weighted bounds, per unit.
        seed: of the draws.
        precision: nats, of each unit: instead of a bracket, the importance-weighted bound of the first guide, with as many
            draws for each unit as that takes: see :func:`experiments.log_evidence.importance.importance`.
        exact: draws of the exact posterior given ``x`` at this very θ, (draws, units, d), where ``x`` was simulated from it.
        effort: ``none``, ``quick``, ``default`` or ``thorough``: how many densities may be evaluated, see
            :data:`experiments.runtime.effort.EFFORTS`. Or what is left to spend.

    Raises:
        ZooError: only bounds are possible and there is no guide, or ``exact`` has another shape.

    Warns:
        ZooWarning: quadrature did not settle, Markov chains disagree, or there is only a lower bound.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> evidence(zoo.build("gmm", x), x).kind
    'exact'
    """
    x = as_data(x)
    guides = [] if guide is None else [guide] if isinstance(guide, BaseGuide) else list(guide)
    guides = [one.source if isinstance(one, Drawn) else one for one in guides]
    model = paired(model, guides[0] if guides else None)
    for other in guides:
        paired(model, other)
    budget = Budget.of(effort, model, x) if isinstance(effort, str) else effort
    with evaluating(model, *guides), budget.counting() if isinstance(effort, str) else nullcontext():
        found = _first(Question(model, x, guides, draws, seed, exact, precision, budget))
        if found.entry.drawn:
            found = _beside_prior(found, model, x, seed, budget)
        return found.resolved(Resolution.of(model, guides[0], x, seed)) if guides and found.kind != "exact" else found


def _beside_prior(found: Evidence, model: Model, x: Data, seed: int, budget: Budget) -> Evidence:
    """Return the evidence as it stands beside naive Monte Carlo, where the weights of prior draws can be relied on.

    Guides, and chains that start at them, may all miss a part of the posterior, as a funnel's neck, that the prior is wide
    enough to hold. Where data say much, the weights are hopeless, and tell nothing.
    """
    latents = model.latents(x)
    draws = budget.affords(PRIOR_DRAWS, 2, 0.25)
    if latents.improper or latents.discrete or draws < FEWEST:
        return found
    with warnings.catch_warnings(), suppress(ZooError):  # of a prior at whose draws the program fails
        warnings.simplefilter("ignore", ZooWarning)
        weights = log_weights(model, Prior(model, "prior"), x, draws, seed + Stream.PRIOR)
        khat, ess = weights.khat(), weights.ess()
        if ess is not None and float(ess.min()) >= EFFECTIVE and (khat is None or not bool((khat > KHAT).any())):
            own = weights.importance_estimate()
            value, margin = own.value, ERRORS * own.se
            covered = found.covering({"naive Monte Carlo, by draws of the prior": (value, own.se)})
            even = float(ess.min()) >= EVEN * draws and 2 * margin < covered.width
            if even and covered.lower <= value <= (covered.upper or math.inf):  # nearly equal weights tell log p by themselves
                return replace(
                    covered, value=value, se=own.se, lower=value - margin, upper=value + margin, units=own.units,
                    source="prior", method="importance")
            return covered
    return found


def _first(question: Question) -> Evidence:
    """Ask the estimators in order of trust; return the first answer, and warn of those that had none to be trusted."""
    reason = ""
    for name, entry in ESTIMATORS.items():
        estimator = entry.build()
        misfit = estimator.misfit(question)
        if misfit:
            reason = misfit
            continue
        try:
            return estimator.run(question)
        except Unknown:
            continue
        except Unsettled as error:
            reason = str(error)
            warnings.warn(ZooWarning(f"log p(x) of {question.model.label} can't be '{name}': {error}"), stacklevel=3)
    raise ZooError(reason)
