"""The two bounds on log p(x | θ) that log weights of draws give, and how far noise lets them be wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from experiments.runtime.budget import Budget
from experiments.samplers.annealing import MANY
from zoo.errors import ZooError

#: Limits are close enough at this many nats, plus so many per unit.
GOAL, GOAL_PER_UNIT = 0.3, 0.04
#: The share of units in which chains may disagree.
FEW = 0.05
#: P(a bound is wrong by more nats) ≤ 2.5%, whatever its distribution: Markov's inequality.
MARKOV = math.log(40.0)


@dataclass(frozen=True)
class Bracket:
    """Bounds on log p(x | θ), in nats: ``lower`` and ``upper`` hold in expectation, the limits allow for their noise.

    Attributes:
        kind: ``bracketed``: from draws of the exact posterior; ``estimated``: Markov chains replace these draws, and ``upper``
            has the bias of the chains.
        method: the weights that gave both bounds, ``importance`` or ``annealed``.
        lower, upper: the bounds of each unit, (units,).
        lower_total, upper_total: the sums of the bounds over units.
        lower_se, upper_se: Monte-Carlo standard errors of the sums, given x.
        lower_limit, upper_limit: 95% limits for the total log p(x | θ), 2.5% on either side.
        draws: the number of importance draws, or annealed chains, per unit.
        temperatures: the number of temperatures of the annealing, of the unit that has most; 1 for importance weights.
        rhat: split R-hat of the Markov chains of each unit, (units,); ``None`` without Markov chains.
    """

    kind: str
    method: str
    lower: Tensor
    upper: Tensor
    lower_total: float
    upper_total: float
    lower_se: float
    upper_se: float
    lower_limit: float
    upper_limit: float
    draws: int
    temperatures: int = 1
    rhat: Tensor | None = None

    @property
    def width(self) -> float:
        """Nats between the limits."""
        return self.upper_limit - self.lower_limit

    def apart(self, rhat: float) -> int:
        """Return in how many units Markov chains have a larger R-hat than ``rhat``, where a wide bracket rests on them.

        That is 0 where up to 5% of units have, and where the bracket is narrow: the guide then holds the chains' modes.
        """
        if self.rhat is None or self.width <= goal(len(self.lower)):
            return 0
        count = int((~(self.rhat <= rhat)).sum())  # NaN: chains that never moved
        return count if count > FEW * len(self.rhat) else 0


def goal(units: int) -> float:
    """Return the nats between the limits at which they are close enough."""
    return GOAL + GOAL_PER_UNIT * units


def target(units: int, budget: Budget) -> float:
    """Return the nats between the limits at which work on them ends: the budget's, or :func:`goal`."""
    return goal(units) if budget.target is None else budget.target


def sandwich(forward: Tensor, reverse: Tensor, method: str = "importance", temperatures: int = 1) -> Bracket:
    """Reduce the log weights of draws, or annealed paths, from the guide and from the exact posterior to bounds.

    With w_1 … w_K the weights of those from the guide, and v of one from the posterior, for each unit

        lower = log (w_1 + … + w_K) / K,        upper = log (v + w_1 + … + w_K) / (K + 1).

    E[lower] ≤ log p(x) by Jensen's inequality. Let P put one path from the posterior at a random place among K from the
    guide, and Q have all K + 1 from the guide: dP/dQ is the mean weight over p(x), so E_P[upper] − log p(x) = KL(P ‖ Q) ≥ 0.
    This takes one exact draw, and is about as tight as −log(mean of 1/v) over K + 1 independent ones. Over several exact
    draws, dependent or not, ``upper`` is the average. Noise, given x:

    - of ``lower``: by the delta method on each unit's weights; units are independent, so variances add. Limits use Student's t
      with Satterthwaite's degrees of freedom.
    - of ``upper``: that of ``lower``, whose weights it shares, and that of upper − lower. Where upper − lower is larger than
      the variance of ``lower``, it takes its place: both estimate the same number, but exact draws reach tails of the
      weights that the guide's hardly do.
    - of upper − lower: from 16 units on, its standard deviation over units. Of fewer, the larger of its standard deviation
      over exact draws, as if all of them were but one (a short chain has not been everywhere), and that over the guide's
      paths weighted to the posterior.
    - No margin exceeds log 40: E[exp(lower)] ≤ p(x) and E[exp(−upper)] ≤ 1 / p(x), whence Markov's inequality.

    Posterior mass that neither the guide's paths nor the exact draws have met is in none of this.

    Args:
        forward: log weights (K, units), K ≥ 2.
        reverse: log weights (exact draws, units).
        method, temperatures: what to call it.

    Raises:
        ZooError: K < 2, a weight of the guide that is NaN or +∞, or one of the posterior that is NaN.

    Source: Burda, Grosse and Salakhutdinov (2016), https://arxiv.org/abs/1509.00519; Grosse, Ghahramani and Adams (2015),
    https://arxiv.org/abs/1511.02543; Sobolev and Vetrov (2019), https://arxiv.org/abs/1909.10039

    >>> same = torch.full((4, 2), -3.0)
    >>> found = sandwich(same, same[:1])
    >>> found.lower.tolist(), round(found.upper_total, 12), round(found.width, 4)
    ([-3.0, -3.0], -6.0, 0.0)
    """
    eps = torch.finfo(forward.dtype).eps
    forward, reverse = forward.double(), reverse.double()
    bad = int((forward.isnan() | (forward == math.inf)).sum() + reverse.isnan().sum())
    if len(forward) < 2:
        raise ZooError(f"expected at least 2 draws or chains; got {len(forward)}; a standard error needs them")
    if bad:
        raise ZooError(f"expected finite log weights; got {bad} NaN or +inf; refit the guide, or check the model's densities")
    draws = len(forward)
    lower = forward.logsumexp(0) - math.log(draws)
    each = torch.logaddexp(forward.logsumexp(0), reverse) - math.log(draws + 1)
    total, top = float(lower.sum()), float(each.mean(0).sum())
    se, t = _lower_noise(forward - lower)
    upper_se = math.hypot(max(se, math.sqrt(max(0.0, top - total))), _excess_noise(forward, each - lower))
    rounding = 8 * eps * float(lower.nan_to_num(neginf=0.0).abs().sum())
    floor, ceiling = total - _margin(t * se) - rounding, top + _margin(t * upper_se) + rounding
    return Bracket(
        "bracketed", method, lower, each.mean(0), total, top, se, upper_se, floor, max(floor, ceiling), draws, temperatures)


def _margin(nats: float) -> float:
    return min(nats, MARKOV) if math.isfinite(nats) else MARKOV


def _lower_noise(relative: Tensor) -> tuple[float, float]:
    """Return the standard error of Σ_i log mean exp and its t quantile, from log weights relative to their mean (K, units)."""
    variance = relative.exp().var(0) / len(relative)
    total = float(variance.sum().nan_to_num(nan=math.inf))
    degrees = (len(relative) - 1) * total**2 / float(variance.square().sum()) if 0 < total < math.inf else math.inf
    return math.sqrt(total), float(stdtrit(degrees, 0.975))


def _excess_noise(forward: Tensor, excess: Tensor) -> float:
    """Return the standard error of Σ_i (upper_i − lower_i) given the forward weights (K, units).

    ``excess`` is upper − lower of each exact draw, (draws, units).
    """
    units = excess.shape[1]
    if units >= MANY:
        return math.sqrt(units) * float(excess.mean(0).std())
    share, seen = forward.softmax(0), torch.nn.functional.softplus(forward - forward.logsumexp(0))
    variance = (share * (seen - (share * seen).sum(0)).square()).sum(0)
    if len(excess) > 1:
        variance = torch.maximum(variance, excess.var(0))
    return math.sqrt(float(variance.sum()))
