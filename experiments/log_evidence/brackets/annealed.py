"""A bracket by annealing, forward from a guide and back from draws of the exact posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.log_evidence.brackets.sandwich import Bracket, sandwich, target
from experiments.runtime.budget import Budget
from experiments.runtime.memory import BRACKET, affordable, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.annealing import MANY, STEP, Annealing, Endpoints, pilot, pilot_cost
from experiments.samplers.posterior import checked_draws
from guides.guide import BaseGuide, paired
from zoo.data import Data
from zoo.model import Model
from zoo.program.run import Program, seeded

#: Temperatures that are tried, fewest first, where their number is not given.
LADDER = (16, 32, 64, 128, 256)
#: Temperatures of the pilot chains; nats by which one that lost its way lies below the others.
PILOT, LOST = 32, 1e3


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
        path, forward = pilot(Endpoints.of(model, guide, x), PILOT, None if model.runner.draws.vectorised else 8)
        most = min(_most_temperatures(model, x, exact, chains), budget.affords(LADDER[-1], STEP * (chains + len(exact))))
        if rival is not None and most < LADDER[0]:
            return rival
        reverse = path.reverse(exact)
        if options.temperatures is None:
            steps = temperatures_of(forward, reverse, chains, most, target(units, budget), by_unit(model, guide, x))
        else:
            steps = torch.full((units,), options.temperatures)
        width = expected_width(forward, reverse, steps / PILOT, chains)
        if rival is not None and width >= rival.width:
            return rival
        return sandwich(*_annealed(model, guide, x, exact, path, steps, chains), "annealed", int(steps.max()))


def _annealed(
    model: Model, guide: BaseGuide, x: Data, exact: Tensor, path: Annealing, steps: Tensor, chains: int,
) -> tuple[Tensor, Tensor]:
    """Return the log weights of paths with each unit's own number of temperatures, forward (chains, units) and back."""
    order, parts = steps.argsort(stable=True), []
    for index in order.split(steps.unique(return_counts=True)[1].tolist()):
        some = len(index) < len(steps)
        part = path.of_units(index, Endpoints.of(model, guide, x, index)) if some else path
        part = part.refined(int(steps[index[0]]))
        parts.append((part.forward(chains), part.reverse(exact[:, index])))
    forward, reverse = (torch.cat(found, 1)[:, order.argsort()] for found in zip(*parts, strict=True))
    return forward, reverse


def by_unit(model: Model, guide: BaseGuide, x: Data) -> bool:
    """Return whether units may have numbers of temperatures of their own: many units, and a guide that takes some."""
    latents = model.latents(x)
    return latents.units >= MANY and latents.rows_first and guide.minibatches


def temperatures_of(
    forward: Tensor, reverse: Tensor, chains: int, most: float, close: float, by_unit: bool = True,
) -> Tensor:
    """Return how many temperatures each unit should have, (units,), for limits that are ``close`` nats apart.

    All begin with 16. What a unit still lacks is told by the variance v of its pilot's log weights, which falls as 1 / length:
    about log(1 + (eᵛ − 1) / K) nats of K chains. Units that gain most by a temperature are given twice as many, until the
    limits should be close enough, or the mean is ``most``.

    Draws of the exact posterior, which serve the bracket again, say when to end, but not which units are longer: a unit whose
    draw is likely, and bound low, would else be let off, and the sum of the upper bounds would be too low.

    Args:
        forward, reverse: log weights of the pilot's chains (chains, units), and of those back from exact draws.
        chains: that will be run, K.
        most: the mean number of temperatures at most.
        close: nats between the limits.
        by_unit: whether units may differ.

    >>> easy, hard = torch.linspace(-1, 1, 8)[:, None].expand(8, 30), torch.linspace(-9, 9, 8)[:, None].expand(8, 2)
    >>> pilot = torch.cat([easy, hard], 1)
    >>> temperatures_of(pilot, pilot[-1:], 16, most=64, close=13.0).unique(return_counts=True)
    (tensor([16, 64]), tensor([30,  2]))
    """
    steps = torch.full((forward.shape[1],), LADDER[0], device=forward.device)
    variance = PILOT * forward.double().nan_to_num(neginf=-LOST).var(0)

    def lacks(steps: Tensor) -> Tensor:
        return torch.logaddexp(torch.full_like(variance, max(chains - 1, 1)).log(), variance / steps)

    while expected_width(forward, reverse, steps / PILOT, chains) > close:
        gain = torch.where(steps < LADDER[-1], (lacks(steps) - lacks(2 * steps)) / steps, -1.0)
        longer = (gain >= 0.5 * gain.max()) & (steps < LADDER[-1]) if by_unit else steps < LADDER[-1]
        wanted = torch.where(longer, 2 * steps, steps)
        if not bool(longer.any()) or float(wanted.double().mean()) > most:
            break
        steps = wanted
    return steps


def _most_temperatures(model: Model, x: Data, exact: Tensor, chains: int) -> int:
    """Return how many temperatures so many chains may pass, by what their densities cost."""
    each = chains * _cost(model, x, exact.shape[1], exact.shape[2])
    return within(BRACKET, each, 0, affordable(model, LADDER[-1], LADDER[1]))


def _cost(model: Model, x: Data, units: int, size: int) -> int:
    """Return about what a draw's density costs: the numbers it touches, and a network's products, 16 of which take as long."""
    return work(x, units, size) + units * sum(p.numel() for p in model.parameters()) // 16


def expected_width(forward: Tensor, reverse: Tensor, longer: float | Tensor, chains: int) -> float:
    """Return how far apart the limits should come out, in nats, with ``longer`` times a pilot's temperatures, per unit or all.

    On long paths log weights are about normal; their standard deviation falls as 1 / √length, and their mean nears log p(x),
    from below (pilot chains, units) and from above (exact draws, units), as 1 / length.

    Source: Neal (2001), §4, https://arxiv.org/abs/physics/9803008
    """
    forward, reverse = forward.double().repeat(math.ceil(chains / len(forward)), 1)[:chains], reverse.double()
    low, high = forward.nan_to_num(neginf=math.nan).nanmean(0), reverse.mean(0)
    if not bool((low + high).isfinite().all()):
        return math.inf
    root = longer**0.5
    middle, half = (low + high) / 2, (high - low).clamp(min=0) / 2 / longer
    found = sandwich(
        middle - half + (forward - low) / root, middle + half + (reverse - high) / root)
    # Of weights that are nothing like normal: the upper bound is at least log v / (K + 1).
    return max(found.width, float((2 * half - math.log(chains + 1)).clamp(min=0).sum()))
