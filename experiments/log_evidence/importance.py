"""log p(x) by importance weights, with as many draws for each unit as its precision takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.log_evidence.log_weights import log_joint
from experiments.runtime.memory import CHUNK, chunks, within, work
from guides.guide import BaseGuide
from zoo.data import Data, reference, take
from zoo.distributions.scored import scored
from zoo.errors import ZooError, check_number
from zoo.model import Model
from zoo.program.run import evaluating, seeded

#: Draws that each unit begins with: fewer can't tell how unequal its weights are.
FIRST = 128
#: Draws at which a unit is given up: weights that have not settled by then have no variance to speak of.
MOST = 2**17


@dataclass(frozen=True)
class Importance:
    """log p(x) of each unit as the log of its mean importance weight, in nats.

    In expectation the estimate lies below log p(x), by half its variance. The standard error is only reliable if the weights
    have light tails: where the guide is narrower than the posterior, a few draws do not show the long tail of their weights.

    Attributes:
        value: the estimates, (units,).
        se: the standard errors of ``value``, by the delta method, (units,).
        draws: the number of draws of each unit whose weights are averaged, (units,).
        pilot: the number of pilot draws, which show how many draws each unit takes, (units,).
    """

    value: Tensor
    se: Tensor
    draws: Tensor
    pilot: Tensor

    @property
    def evaluations(self) -> int:
        """How many times log p(x_i, z) was evaluated."""
        return int(self.draws.sum() + self.pilot.sum())


def importance(
    model: Model, guide: BaseGuide, x: Data, precision: float = 0.05, *, seed: int = 0, most: int = MOST,
) -> Importance:
    """Draw until the standard error of each unit's log p(x) is at most ``precision``: a unit that has it draws no more.

    The draws that a unit needs are the variance of its weights, relative to their squared mean, over precision². It differs
    between units by orders of magnitude, and the hardest one would set the number for all. Pilot draws tell it, and are not
    averaged: a unit stops when its error looks small, which it does while no large weight has come, and its mean is then low.
    As many fresh ones are, or more.

    Args:
        model: the model.
        guide: whose draws are weighted.
        x: the data.
        precision: nats, of each unit.
        seed: of the draws.
        most: draws of a unit at most, of each kind; then its ``se`` says how far it came.

    Raises:
        ZooError: a precision that is not above 0, or units that are not the first dimension of x.

    Source: Chatterjee and Diaconis (2018), The sample size required in importance sampling, https://arxiv.org/abs/1511.01437

    >>> import zoo, guides
    >>> x = zoo.dataset("wine", standardise=True).x
    >>> model = zoo.build("ppca", x)
    >>> found = importance(model, guides.build("prior", model, x), x, 0.2)
    >>> bool((found.se <= 0.2).all()), bool((found.draws.max() > found.draws.min()))
    (True, True)
    """
    check_number("precision", precision)
    if not precision > 0:
        raise ZooError(f"expected a precision above 0 nats; got {precision}; e.g. 0.05")
    latents = model.latents(x)
    if latents.units > 1 and not latents.rows_first:
        raise ZooError(
            f"expected the units of {model.label} along the first dimension of its observations for a precision of each; got "
            "them along another; leave precision out")
    with seeded(seed), torch.no_grad(), evaluating(model, guide):
        _, _, pilot = _until(model, guide, x, precision, torch.zeros(latents.units), most)
        total, squares, draws = _until(model, guide, x, precision, pilot, most)
    return Importance(total - draws.log(), _error(total, squares, draws), draws.long(), pilot.long())


def _until(
    model: Model, guide: BaseGuide, x: Data, precision: float, least: Tensor, most: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each unit until its error is at most ``precision``, ``least`` draws (units,) or more.

    Returns:
        of its weights the logarithms of their sum and of the sum of their squares, and how many there are, (units,) each.
    """
    total = torch.full((len(least),), -math.inf, dtype=torch.float64, device=reference(x).device)
    squares, draws, least = total.clone(), torch.zeros_like(total), least.to(total)
    left, count = torch.arange(len(least), device=total.device), FIRST
    while len(left) and int(draws.max()) < most:
        one, two = _sums(model, guide, x, left, len(least), count)
        total[left], squares[left] = torch.logaddexp(total[left], one), torch.logaddexp(squares[left], two)
        draws[left] += count
        left = left[(_error(total, squares, draws)[left] > precision) | (draws[left] < least[left])]
        count = int(draws.max())
    return total, squares, draws


def _error(total: Tensor, squares: Tensor, draws: Tensor) -> Tensor:
    """Return the standard error of log mean weight: √(mean of squares / squared mean − 1) / √draws."""
    relative = (squares - 2 * total + draws.log()).exp() - 1
    return (relative.clamp(min=0) / draws).sqrt().nan_to_num(nan=math.inf)


def _sums(model: Model, guide: BaseGuide, x: Data, index: Tensor, units: int, count: int) -> tuple[Tensor, Tensor]:
    """Return log Σ w and log Σ w² over ``count`` fresh draws for the units ``index``."""
    width = max(1, work(x, units, model.latents(x).size) // units)
    ones, twos = [], []
    for part in index.split(within(CHUNK, width * count)):
        whole = len(part) == units
        rows = x if whole else take(x, part, units)
        q = guide.posterior(rows, None if whole else part)
        drawn = [scored(q, number) for number in chunks(count, width * len(part))]
        log_weight = torch.cat([log_joint(model, rows, z) - log_q for z, log_q in drawn]).double()
        ones.append(log_weight.logsumexp(0))
        twos.append((2 * log_weight).logsumexp(0))
    return torch.cat(ones), torch.cat(twos)
