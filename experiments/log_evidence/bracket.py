"""log p(x | θ) between a stochastic lower and a stochastic upper bound."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from scipy.special import stdtrit
from torch import Tensor

from experiments.log_evidence.log_weights import log_joint, log_weights
from experiments.runtime.memory import BRACKET, CACHED, PILOT, affordable, chunks, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.annealing import MANY, Endpoints, checked_draws, pilot, proposal, take_draws
from guides.guide import BaseGuide, paired
from guides.model_based import Prior
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.run import Program, evaluating, seeded

METHODS = ("importance", "annealed")
#: Limits are close enough at this many nats, plus so many per unit.
GOAL, GOAL_PER_UNIT = 0.3, 0.04
#: Temperatures that are tried, fewest first, where their number is not given.
LADDER = (16, 32, 64, 128, 256)
#: P(a bound is wrong by more nats) ≤ 2.5%, whatever its distribution: Markov's inequality.
MARKOV = math.log(40.0)


@dataclass(frozen=True)
class Bracket:
    """Bounds on log p(x | θ), in nats: ``lower`` and ``upper`` hold in expectation, the limits allow for their noise.

    Attributes:
        kind: ``bracketed``, from draws of the exact posterior; or ``estimated``, where Markov chains stood in for them, and
            what bias they have is in ``upper``.
        method: ``importance`` or ``annealed``; it gave both sides.
        lower, upper: of each unit, (units,).
        lower_total, upper_total: their sums.
        lower_se, upper_se: Monte-Carlo standard errors of the sums, given x.
        lower_limit, upper_limit: 95% limits for the total log p(x | θ), 2.5% on either side.
        draws: importance draws, or annealed chains, per unit.
        temperatures: of the annealing; 1 for importance.
        rhat: split R-hat of the Markov chains of each unit, (units,), where there were any.
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


def bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor | None = None, *, method: str | None = None,
    draws: int | None = None, temperatures: int | None = None, chains: int | None = None, seed: int = 0,
) -> Bracket:
    """Bound log p(x | θ) from both sides: by importance weights where they will do, by annealing where they will not.

    Importance comes first. Where its limits are more than 0.3 nats plus 0.04 per unit apart, pilot chains say how many
    temperatures would bring them as close (16 to 256, fewer for large data); annealing with so many then replaces it, on both
    sides, if it promises to be narrower. So the choice looks at widths, not at where the bounds lie, and at those of pilot
    chains where it comes to annealing: neither side is the better of two noisy numbers. Only the exact draws serve twice.

    Args:
        model: a model or a bare Pyro program.
        guide: the guide; the better it is, the less is needed.
        x: the data.
        exact: draws of the exact posterior given ``x``, (draws, units, d). Of simulated data they are the latents it came
            from (``model.simulate``, then ``model.unconstrain``). ``None``: from ``model.posterior``, or where there is none
            from Markov chains that start at the guide; the bracket is then ``estimated``.
        method: ``importance`` or ``annealed``; ``None``: as above. Discrete latents: importance.
        draws: K of importance; ``None``: 32,768 for one unit, down to 256 for large data, or where the program is run draw by
            draw.
        temperatures: of annealing; ``None``: as above.
        chains: K of annealing; ``None``: 16 for many units, up to 256 for few.
        seed: of all that is drawn.

    Raises:
        ZooError: ``exact`` has another shape, an unknown method, annealing of discrete latents, fewer than 2 draws or chains,
            or weights that are not numbers. A ``ZooWarning`` says where a wide bracket rests on chains that disagree.

    >>> import zoo, guides
    >>> x = zoo.dataset("iris").x
    >>> model = zoo.build("ppca", x, latent=2, start="random")
    >>> found = bracket(model, guides.build("prior", model, x), x)
    >>> found.lower_limit < float(model.log_evidence(x).detach().sum()) < found.upper_limit
    True
    """
    model = paired(model, guide)
    if method not in (None, *METHODS):
        raise ZooError(f"expected method to be one of {', '.join(METHODS)}; got '{method}'; choose one, or leave it out")
    with evaluating(model, guide):
        exact, rhat = take_draws(model, guide, x, exact, seed)
        found = None
        if method != "annealed":
            found = importance_bracket(model, guide, x, exact, draws=draws, seed=seed)
        goal = GOAL + GOAL_PER_UNIT * exact.shape[1]
        if method != "importance" and not (found and (found.width <= goal or model.latents(x).discrete)):
            found = _annealed(model, guide, x, exact, temperatures, chains, seed, rival=found)
    assert found is not None, "one of the two methods has run"
    if rhat is None:
        return found
    if found.width > goal:
        _warn_apart(model, rhat)
    return replace(found, kind="estimated", rhat=rhat)


def _warn_apart(model: Model, rhat: Tensor) -> None:
    """Warn of chains that disagree in over 5% of units. A narrow bracket does not rest on them: the guide holds their modes."""
    apart = int((~(rhat <= 1.1)).sum())  # NaN: chains that never moved
    if apart > 0.05 * len(rhat):
        warnings.warn(ZooWarning(
            f"Markov chains for {model.label} disagree in {apart} of {len(rhat)} units (R-hat up to {float(rhat.max()):.2f}), "
            "and the upper bound rests on them; fit the guide better"), stacklevel=4)


def importance_bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor, *, draws: int | None = None, seed: int = 0,
) -> Bracket:
    """Bound log p(x | θ) by the importance weights of the guide's draws and of ``exact``: see :func:`sandwich`.

    Discrete latents are drawn, not enumerated: nine tenths from the guide and one from the prior. For arguments and errors see
    :func:`bracket`.

    >>> import zoo, guides
    >>> model = zoo.build("gmm", x := zoo.dataset("faithful").x)
    >>> exact = model.posterior(x).sample((1,))
    >>> found = importance_bracket(model, guides.build("prior", model, x), x, exact)
    >>> found.upper_total - found.lower_total < 0.01 * len(x)
    True
    """
    model = paired(model, guide)
    forward = _weights(model, guide, x, draws, seed + Stream.IMPORTANCE)
    with torch.no_grad():
        q = proposal(model, guide, x)
        reverse = torch.cat([log_joint(model, x, z) - q.log_prob(z) for z in checked_draws(model, x, exact).split(1)])
    return sandwich(forward, reverse)


def _weights(model: Model, guide: BaseGuide, x: Data, draws: int | None, seed: int) -> Tensor:
    """Return log weights of ``draws`` draws of the guide, (draws, units)."""
    latents = model.latents(x)
    each = work(x, latents.units, latents.size)
    if draws is None:
        most = 2**10 if isinstance(guide, Prior) and not latents.discrete else 2**15  # its program is run draw by draw
        draws = affordable(model, max(2**8, min(most, within(CACHED, latents.units), within(PILOT, each))), 2**8)
    if not latents.discrete:
        return log_weights(model, guide, x, draws, seed).log_weight
    parts = []
    with seeded(seed), torch.no_grad():
        q = proposal(model, guide, x)
        for count in chunks(draws, each * len(latents.support())):
            z = q.sample(torch.Size([count]))
            parts.append(log_joint(model, x, z) - q.log_prob(z))
    return torch.cat(parts)


def annealed_bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor, *, temperatures: int = 64, chains: int | None = None,
    seed: int = 0,
) -> Bracket:
    """Bound log p(x | θ) by annealing, forward from the guide and back from ``exact``: see :func:`sandwich`.

    Kernels are adapted on pilot chains, which are thrown away. Arguments and errors as of :func:`bracket`; however bad the
    guide, the bounds hold in expectation. See :class:`experiments.samplers.annealing.Annealing`.
    """
    model = paired(model, guide)
    return _annealed(model, guide, x, checked_draws(model, x, exact), temperatures, chains, seed)


def _annealed(
    model: Model, guide: BaseGuide, x: Data, exact: Tensor, temperatures: int | None, chains: int | None, seed: int,
    rival: Bracket | None = None,
) -> Bracket:
    """Return the annealed bracket, or ``rival`` where that is narrower than what pilot chains promise."""
    units = exact.shape[1]
    chains = affordable(model, min(256, max(16, 4096 // units)), 16) if chains is None else chains
    with seeded(seed + Stream.PILOT):
        path, forward = pilot(Endpoints.of(model, guide, x), chains=None if model.runner.draws.vectorised else 8)
        each = chains * _cost(model, x, units, exact.shape[2])
        most = within(BRACKET, each, 0, affordable(model, LADDER[-1], LADDER[1]))
        reverse = path.reverse(exact)
        tried = [t for t in LADDER if t <= max(most, LADDER[0])] if temperatures is None else [temperatures]
        for steps in tried:
            width = expected_width(forward, reverse, steps / (len(path.betas) - 1), chains)
            if width <= GOAL + GOAL_PER_UNIT * units:
                break
        if rival is not None and width >= rival.width:
            return rival
        path = path.refined(steps)
        return sandwich(path.forward(chains), path.reverse(exact), "annealed", steps)


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
