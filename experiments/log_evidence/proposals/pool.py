"""The pool of proposals for the evidence: the mixture of all guides, and of modes that no guide holds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.distributions import Distribution

from experiments.log_evidence.log_weights import log_joint, log_weights
from experiments.log_evidence.proposals.mixture import EqualMixture, MixtureGuide, Tails, densities_known
from experiments.log_evidence.proposals.restarts import Restarts, search
from experiments.runtime.budget import Budget
from experiments.runtime.memory import PILOT, affordable, chunks, within, work
from experiments.runtime.seeds import Stream
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.run import seeded

#: A mode of at least this share of the mass is worth a remark.
NOTED = 0.01
#: Weights with a k̂ above this are defended by a component with heavier tails; the median's, of several units.
HEAVY = 0.25
#: Draws that tell k̂ and whether weights are even, of a unit at most and at least, of many units together (medians and sums
#: are then of as many weights), and the share of a budget that they may take.
MOST, FEWEST, TOGETHER, PILOTS = 4096, 128, 2**15, 1 / 32


@dataclass(frozen=True)
class Pool:
    """A guide to draw from, and remarks on what it misses.

    Attributes:
        guide: one of the guides, or a mixture of the guides, of modes that restarts have found, and of heavier tails.
        remark: how many of the modes each guide holds; empty if no guide misses a mode.
        unmet: why further modes are to be expected, which neither the guides nor the restarts have met; otherwise empty.
    """

    guide: BaseGuide
    remark: str = ""
    unmet: str = ""


def pooled(model: Model, guides: Sequence[BaseGuide], x: Data, seed: int, budget: Budget | None = None) -> Pool:
    """Mix the guides whose density is known at any z in equal shares, with components for what they miss.

    One is for modes that none of them holds, which are looked for where x is one unit: see
    :func:`experiments.log_evidence.proposals.restarts.search`. One is for tails, see
    :class:`experiments.log_evidence.proposals.mixture.Tails`, where the weights of the others' draws have a k̂ above
    :data:`HEAVY`: the fourth moment that a standard error rests on then need not be finite.

    A guide stands alone where it needs neither and its weights vary less than the mixture's: the others, and mass that they
    would give away, cost draws. The first guide stands alone where no density is known everywhere.

    Of a ``budget`` this takes up to a third.
    """
    budget = budget or Budget()
    with seeded(seed + Stream.RESTARTS):
        known = densities_known(guides, x)
        if not known:
            return Pool(guides[0])
        with torch.no_grad():
            found = search(model, x, [guide.posterior(x) for guide in known], budget)
        components = [] if found is None else found.components()
        alone = None if components else _alone(model, known, x, budget)
        if alone is not None:
            return _told(alone, known, found)
        texts = [*(guide.text for guide in known), *["restarts"] * bool(components)]
        tails = _tails(model, MixtureGuide(model, known, components), x, budget)
        components, texts = components + tails, texts + ["tails"] * len(tails)
    one = len(known) == 1 and not components
    guide = known[0] if one else MixtureGuide(model, known, components, " + ".join(texts))
    return _told(guide, known, found)


def _told(guide: BaseGuide, known: Sequence[BaseGuide], found: Restarts | None) -> Pool:
    """Return a pool that draws from ``guide``, with what the search for modes has ``found`` about the ``known`` ones."""
    return Pool(guide) if found is None else Pool(guide, _missed(found, known), _unmet(found))


def _alone(model: Model, known: Sequence[BaseGuide], x: Data, budget: Budget) -> BaseGuide | None:
    """Return the one of several guides whose weights vary less than those of their mixture, if it has no heavy tails.

    The variances are estimated from draws of the mixture, which reaches what any of them does: at draws of its own a guide that
    misses mass looks best. Uses torch's generator.
    """
    if len(known) < 2:
        return None
    with torch.no_grad():
        components = [guide.posterior(x) for guide in known]
        mixture = EqualMixture(components)
        parts = []
        for count in chunks(_pilots(model, x, budget), work(x, *mixture.batch_shape, *mixture.event_shape)):
            z = mixture.sample(torch.Size([count]))
            each = torch.stack([component.log_prob(z) for component in (mixture, *components)])
            parts.append(log_joint(model, x, z) - each)
        log_weight = torch.cat(parts, 1).double()  # (1 + guides, draws, units)
    share = log_weight[0].softmax(0)
    variance = (share * (log_weight - log_weight[0].logsumexp(0)).exp() * len(share)).sum(1).nan_to_num(nan=math.inf).sum(1)
    best = int(variance[1:].argmin())
    return known[best] if variance[1 + best] < variance[0] and not _tails(model, known[best], x, budget) else None


def _pilots(model: Model, x: Data, budget: Budget) -> int:
    latents = model.latents(x)
    most = min(MOST, max(4 * FEWEST, TOGETHER // latents.units))
    number = affordable(model, within(PILOT, work(x, latents.units, latents.size), FEWEST, most), FEWEST)
    return max(FEWEST // 2, budget.affords(number, 1, PILOTS))


def _tails(model: Model, guide: BaseGuide, x: Data, budget: Budget) -> list[Distribution]:
    """Return a component for the tails of ``guide``, if a pilot's weights have a large k̂. Uses torch's generator."""
    draws = _pilots(model, x, budget)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZooWarning)  # of draws that can't be evaluated: those of the bounds will be told of
            khat = log_weights(model, guide, x, draws, seed=None).khat()
    except ZooError:  # no draw can be evaluated, which the bounds will say
        return []
    if khat is None or not float(khat.nan_to_num(nan=-1.0).median()) > HEAVY:
        return []
    with torch.no_grad():
        return [Tails.of(guide.posterior(x).sample(torch.Size([draws])))]


def _missed(found: Restarts, guides: Sequence[BaseGuide]) -> str:
    """Say which guides miss modes that hold mass."""
    noted = found.share > NOTED * found.share.max()
    count, held = int(noted.sum()), found.held[noted].sum(0).tolist()
    if all(number == count for number in held):
        return ""
    told = ", ".join(f"'{guide.text}' holds {number}" for guide, number in zip(guides, held, strict=True))
    return f"modes that some guides miss: of {count} found, {told}"


def _unmet(found: Restarts) -> str:
    """Say that modes are to be expected which no restart has met."""
    if not found.more:
        return ""
    return (
        f"{found.once} of {len(found.loc)} modes were met by one of {found.starts} restarts from the prior alone: there are "
        "more, and log p(x | θ) is only bounded from below")
