"""log p(x | θ) between a lower bound, from the guides' draws, and an upper one, from draws of the posterior."""

from __future__ import annotations

from experiments.log_evidence.brackets.bracket import bracket
from experiments.log_evidence.brackets.sandwich import Bracket
from experiments.log_evidence.estimator import Estimator, Question, Unsettled, no_guide
from experiments.log_evidence.lower_bound import grouped
from experiments.log_evidence.proposals.pool import Pool, pooled
from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Unaffordable
from experiments.samplers.posterior import checked_draws
from zoo.errors import ZooError

#: R-hat of chains that stand in different modes: their means scatter by √8 times what one chain does.
DIFFERENT = 3.0


class Bracketed(Estimator):
    """A bracket with draws of the exact posterior: those of simulated data, or the model's own."""

    def misfit(self, question: Question) -> str:
        if question.exact is None and not question.model.facts(question.x).exact:
            return f"no draws of the exact posterior of {question.model.label} are known"
        return _misfit(question)

    def run(self, question: Question) -> Evidence:
        if question.exact is not None:
            checked_draws(question.model, question.x, question.exact)
        return _run(question)


class Estimated(Estimator):
    """A bracket with Markov chains in the place of draws of the exact posterior."""

    def misfit(self, question: Question) -> str:
        return _misfit(question)

    def run(self, question: Question) -> Evidence:
        return _run(question)


def _misfit(question: Question) -> str:
    if not question.budget.limit:
        return "no effort is to be spent on an upper end"
    if question.precision is not None:
        return "each unit was asked for to a precision, which importance weights alone have"
    return no_guide(question)


def _run(question: Question) -> Evidence:
    """Bracket log p(x) by the mixture of the guides, and of the modes that none of them holds."""
    model, x, seed = question.model, question.x, question.seed
    pool = pooled(model, question.guides, x, seed, question.budget)
    try:
        found = bracket(model, pool.guide, x, question.exact, draws=question.draws, seed=seed, budget=question.budget)
    except Unaffordable as error:
        return grouped(question, pool.guide).noting("; ".join(filter(None, [pool.remark, f"no upper end: {error}"])))
    except ZooError as error:  # as of a Pyro guide whose density is known at its own draws alone
        raise Unsettled(str(error)) from error
    return _of(found, pool)


def _of(found: Bracket, pool: Pool) -> Evidence:
    """Return what a bracket from ``pool`` says: where modes are missing from it, only that log p(x) is not lower."""
    unmet = (pool.unmet or _apart(found)) if found.kind == "estimated" else ""
    if unmet:
        return Evidence(
            "lower_bound", found.lower_total, found.lower_se, found.lower_limit, None, found.lower, pool.guide.text,
            found.method, pool.remark).noting(unmet)
    units = 0.5 * (found.lower + found.upper)
    return Evidence(
        found.kind, float(units.sum()), 0.5 * (found.lower_se + found.upper_se), found.lower_limit, found.upper_limit, units,
        pool.guide.text, found.method, pool.remark).for_gaps([])


def _apart(found: Bracket) -> str:
    """Say that a wide bracket rests on chains that stand in different modes: its upper end is anything's guess."""
    apart = found.apart(DIFFERENT)
    if not apart or found.rhat is None:
        return ""
    return (
        f"Markov chains stand in different modes in {apart} of {len(found.rhat)} units (R-hat up to "
        f"{float(found.rhat.max()):.2f}): log p(x | θ) is only bounded from below")
