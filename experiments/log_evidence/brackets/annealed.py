"""A bracket by annealing, forward from a guide and back from draws of the exact posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from experiments.log_evidence.brackets.sandwich import Bracket, sandwich, target
from experiments.runtime.budget import Budget
from experiments.runtime.memory import BRACKET, affordable, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.annealing import STEP, Endpoints, pilot, pilot_cost
from experiments.samplers.posterior import checked_draws
from guides.guide import BaseGuide, paired
from zoo.data import Data
from zoo.model import Model
from zoo.program.run import Program, seeded

#: Temperatures that are tried, fewest first, where their number is not given.
LADDER = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class AnnealingOptions:
    """How to anneal: how many temperatures and chains, ``None`` as of :func:`experiments.bracket`; the seed, and the budget."""

    temperatures: int | None = None
    chains: int | None = None
    seed: int = 0
    budget: Budget = field(default_factory=Budget)


def annealed_bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor, *, temperatures: int = 64, chains: int | None = None,
    seed: int = 0,
) -> Bracket:
    """Bound log p(x | θ) by annealing, forward from the guide and back from ``exact``: see :func:`sandwich`.

    Kernels are adapted on pilot chains, which are thrown away. Arguments and errors as of :func:`experiments.bracket`;
    however bad the guide, the bounds hold in expectation. See :class:`experiments.samplers.annealing.Annealing`.
    """
    model = paired(model, guide)
    return anneal(model, guide, x, checked_draws(model, x, exact), AnnealingOptions(temperatures, chains, seed))


def anneal(
    model: Model, guide: BaseGuide, x: Data, exact: Tensor, options: AnnealingOptions, rival: Bracket | None = None,
) -> Bracket:
    """Return the annealed bracket, or ``rival`` where that is narrower than what pilot chains promise, or the budget ends."""
    units, budget = exact.shape[1], options.budget
    if rival is not None and budget.left < 2 * pilot_cost(units):
        return rival
    chains = affordable(model, min(256, max(16, 4096 // units)), 16) if options.chains is None else options.chains
    with seeded(options.seed + Stream.PILOT):
        path, forward = pilot(Endpoints.of(model, guide, x), chains=None if model.runner.draws.vectorised else 8)
        most = min(_most_temperatures(model, x, exact, chains), budget.affords(LADDER[-1], STEP * (chains + len(exact))))
        if rival is not None and most < LADDER[0]:
            return rival
        reverse = path.reverse(exact)
        tried = [t for t in LADDER if t <= max(most, LADDER[0])] if options.temperatures is None else [options.temperatures]
        for steps in tried:
            width = expected_width(forward, reverse, steps / (len(path.betas) - 1), chains)
            if width <= target(units, budget):
                break
        if rival is not None and width >= rival.width:
            return rival
        path = path.refined(steps)
        return sandwich(path.forward(chains), path.reverse(exact), "annealed", steps)


def _most_temperatures(model: Model, x: Data, exact: Tensor, chains: int) -> int:
    """Return how many temperatures so many chains may pass, by what their densities cost."""
    each = chains * _cost(model, x, exact.shape[1], exact.shape[2])
    return within(BRACKET, each, 0, affordable(model, LADDER[-1], LADDER[1]))


def _cost(model: Model, x: Data, units: int, size: int) -> int:
    """Return about what a draw's density costs: the numbers it touches, and a network's products, 16 of which take as long."""
    return work(x, units, size) + units * sum(p.numel() for p in model.parameters()) // 16


def expected_width(forward: Tensor, reverse: Tensor, longer: float, chains: int) -> float:
    """Return how far apart the limits should come out, in nats, with ``longer`` times a pilot's temperatures.

    On long paths log weights are about normal; their standard deviation falls as 1 / √length, and their mean nears log p(x),
    from below (pilot chains, units) and from above (exact draws, units), as 1 / length.

    Source: Neal (2001), §4, https://arxiv.org/abs/physics/9803008
    """
    forward, reverse = forward.double().repeat(math.ceil(chains / len(forward)), 1)[:chains], reverse.double()
    low, high = forward.nan_to_num(neginf=math.nan).nanmean(0), reverse.mean(0)
    if not bool((low + high).isfinite().all()):
        return math.inf
    middle, half = (low + high) / 2, (high - low).clamp(min=0) / 2 / longer
    found = sandwich(
        middle - half + (forward - low) / math.sqrt(longer), middle + half + (reverse - high) / math.sqrt(longer))
    # Of weights that are nothing like normal: the upper bound is at least log v / (K + 1).
    return max(found.width, float((2 * half - math.log(chains + 1)).clamp(min=0).sum()))
