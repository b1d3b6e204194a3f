"""A lower bound on log p(x | θ), from one guide's importance weights."""

from __future__ import annotations

import math
import warnings

import torch

from experiments.log_evidence.estimator import Estimator, Question, no_guide
from experiments.log_evidence.importance import importance
from experiments.log_evidence.log_weights import Z95, LogWeights, log_weights
from experiments.log_evidence.result import Evidence
from experiments.runtime.memory import PILOT, within, work
from experiments.runtime.seeds import Stream
from guides.guide import BaseGuide
from guides.model_based import Prior
from zoo.errors import ZooWarning

#: The importance-weighted bound is averaged over this many independent groups of draws.
GROUPS = 16
#: Draws of a group at least.
FEWEST = 32
#: Two-sided 95% of Student's t with GROUPS − 1 degrees of freedom.
T95 = 2.131449545559323


class LowerBound(Estimator):
    """The importance-weighted bound of the first guide: its expectation is at most log p(x | θ).

    With a ``precision``, each unit gets as many draws as the precision takes, see
    :func:`experiments.log_evidence.importance.importance`. Without a ``precision``, the bound is the average over
    :data:`GROUPS` independent groups of draws, by default of as many draws as are affordable.
    """

    def misfit(self, question: Question) -> str:
        return no_guide(question)

    def run(self, question: Question) -> Evidence:
        return grouped(question, question.guides[0]) if question.precision is None else _precise(question, question.precision)


def lower_bound(weights: LogWeights, text: str) -> Evidence:
    """Return the importance-weighted bound that log weights of the guide ``text`` give, with no further draw.

    >>> import zoo, guides
    >>> from experiments.log_evidence.log_weights import log_weights
    >>> model = zoo.build("eight_schools", x := zoo.dataset("eight_schools").x)
    >>> lower_bound(log_weights(model, guides.build("prior", model, x), x, 256), "prior").kind
    'lower_bound'
    """
    units = weights.importance_bound().double()
    if weights.enumerated:
        return Evidence("lower_bound", float(units.sum()), 0.0, float(units.sum()), None, units, text, "importance")
    relative = (weights.log_weight - units).exp().double()
    total, se = float(units.sum()), math.sqrt(float((relative.var(0) / len(relative)).sum()))
    return Evidence("lower_bound", total, se, total - Z95 * se, None, units, text, "importance")


def _precise(question: Question, precision: float) -> Evidence:
    guide = question.guides[0]
    found = importance(question.model, guide, question.x, precision, seed=question.seed)
    short = int((found.se > precision).sum())
    if short:
        warnings.warn(ZooWarning(
            f"{short} of {len(found.se)} units did not come to {precision:g} nats within {int(found.draws.max())} draws of "
            f"'{guide.text}'; use a guide closer to the posterior, or leave precision out"), stacklevel=4)
    total, se = float(found.value.sum()), float(found.se.square().sum().sqrt())
    return Evidence("lower_bound", total, se, total - Z95 * se, None, found.value, guide.text, "importance")


def grouped(question: Question, guide: BaseGuide) -> Evidence:
    """Return the importance-weighted bound of ``guide``, averaged over :data:`GROUPS` independent groups of draws."""
    model, x, draws = question.model, question.x, question.draws
    latents = model.latents(x)
    most = 256 if isinstance(guide, Prior) else 2048  # the prior is drawn by running the program, one by one
    each = draws // GROUPS + 2 if draws is not None else within(
        2 * PILOT // GROUPS, work(x, latents.units, latents.size), 128, most)
    each = max(FEWEST, question.budget.affords(each, GROUPS, 0.5)) if draws is None else each
    groups = torch.stack([
        log_weights(model, guide, x, each, seed=question.seed + Stream.GROUPS + group).importance_bound()
        for group in range(GROUPS)])
    units = groups.mean(0)
    total, se = float(units.sum()), float(groups.sum(1).std()) / math.sqrt(GROUPS)
    return Evidence("lower_bound", total, se, total - T95 * se, None, units, guide.text)
