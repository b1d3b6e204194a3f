"""Log importance weights, and the ELBO, bounds and diagnostics that are reductions over them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.log_evidence.pareto import tail_shapes
from experiments.runtime.memory import CACHED, affordable, chunks, within, work
from guides.guide import BaseGuide
from zoo.data import Data, reference
from zoo.distributions.enumerated import Enumerated, expect
from zoo.distributions.scored import scored
from zoo.errors import ZooError, ZooWarning, check_number
from zoo.model import Model
from zoo.program.failures.tolerance import tolerant
from zoo.program.run import evaluating, seeded
from zoo.program.sites.latents import Latents

#: Two-sided 95% of a standard normal.
Z95 = 1.959963984540054


#: Standard errors by which a lower bound may lie above log p(x | θ), or an estimate of it below.
ERRORS = 4.0
#: Nats that a guide's importance-weighted bound may lack beyond its errors.
LACKING = 0.02


@dataclass(frozen=True)
class Estimate:
    """A number with its Monte-Carlo standard error, in nats, summed over units.

    Attributes:
        value: total over units.
        se: standard error of ``value`` from the draws alone: 0 where it is exact.
        units: the units' own values, (units,).
    """

    value: float
    se: float
    units: Tensor

    def lacks(self, lower: float) -> float:
        """Return by how many nats ``lower``, an end of an interval for log p, surely lies above this importance-weighted bound.

        0 where it does not, or by up to :data:`LACKING`: then the draws hold what mass there is, as far as they tell.
        """
        lost = lower - self.value - ERRORS * self.se - self.se**2  # a bound of few draws is low itself, by half its variance
        return lost if lost > LACKING else 0.0


@dataclass(frozen=True)
class LogWeights:
    """Log-densities of model and guide at draws z ~ q(z | x), each (draws, units), in nats.

    ``log_weight`` = log p(x, z) − log q(z). ``log_measure`` is the log of each draw's share in an expectation under q. This
    share is 1 / draws for random draws. If the draws are all values of a finite support, the share is q(z), and every
    expectation is an exact sum. The methods are the same in both cases. ``loc`` and ``variance`` are those of z, (units, d).

    ``unevaluated`` (draws, units) marks draws at which the program could not evaluate log p(x, z). These draws have weight
    zero. Expectations are then under q restricted to the other draws; the ELBO of this restricted q is a lower bound, too.
    """

    log_prior: Tensor
    log_likelihood: Tensor
    log_q: Tensor
    log_measure: Tensor
    enumerated: bool
    loc: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    variance: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    unevaluated: Tensor | None = None

    @property
    def failed(self) -> int:
        """How many draws, of ``log_q.numel()`` over all units, could not be evaluated."""
        return 0 if self.unevaluated is None else int(self.unevaluated.sum())

    @property
    def log_share(self) -> Tensor:
        """The log probability under q of draws that can be evaluated, (units,)."""
        return self._evaluated().logsumexp(0) if self.failed else self.log_q.new_zeros(self.log_q.shape[1])

    def _evaluated(self) -> Tensor:
        assert self.unevaluated is not None, "only asked for where draws failed"
        return self.log_measure.masked_fill(self.unevaluated, -math.inf)

    @property
    def log_joint(self) -> Tensor:
        return self.log_prior + self.log_likelihood

    @property
    def log_weight(self) -> Tensor:
        return self.log_joint - self.log_q

    def expectation(self, values: Tensor) -> Estimate:
        """Return E_q[values] for values (draws, units).

        The standard error is that of the per-draw totals, so it holds however the units' draws depend on each other.
        """
        measure = self._evaluated() - self.log_share if self.failed else self.log_measure
        units = expect(measure.exp(), values).sum(0)
        if self.unevaluated is not None and self.failed:
            values = torch.where(self.unevaluated, units, values)  # they tell nothing of the spread
        se = 0.0
        if not self.enumerated and len(values) > 1:
            totals = values.sum(1)
            se = float(totals.std()) / math.sqrt(len(values)) if bool(totals.isfinite().all()) else math.inf
        return Estimate(float(units.sum()), se, units)

    def elbo(self) -> Estimate:
        """Return E_q[log p(x, z) − log q(z)], the evidence lower bound."""
        return self._truncated(self.expectation(self.log_weight), 1)

    def reconstruction(self) -> Estimate:
        """Return E_q[log p(x | z)]."""
        return self.expectation(self.log_likelihood)

    def kl_prior(self) -> Estimate:
        """Return E_q[log q(z) − log p(z)] = KL(q ‖ prior). ELBO = reconstruction − this."""
        return self._truncated(self.expectation(self.log_q - self.log_prior), -1)

    def _truncated(self, found: Estimate, sign: int) -> Estimate:
        """Return an expectation of ∓ log q(z) as that of q where it can be evaluated: q / share has − log q + log share."""
        if not self.failed:
            return found
        units = found.units + sign * self.log_share
        return Estimate(float(units.sum()), found.se, units)

    def importance_bound(self) -> Tensor:
        """Return log Σ_s share_s w_s of each unit, (units,): in expectation at most log p(x), and tighter than the ELBO.

        Source: Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders,
        https://arxiv.org/abs/1509.00519. With q = prior it is naive Monte Carlo.
        """
        # Of a support that is summed over, q's share cancels: Σ_z q (p / q), also where q is 0.
        return self.log_joint.logsumexp(0) if self.enumerated else (self.log_measure + self.log_weight).logsumexp(0)

    def importance_estimate(self) -> Estimate:
        """Return the sum of :meth:`importance_bound` with its standard error, by the delta method; 0 where q was enumerated.

        Of K draws the bound lies below log p by about half its variance.
        """
        bound = self.importance_bound().double()
        if self.enumerated:
            return Estimate(float(bound.sum()), 0.0, bound)
        relative = (self.log_weight.double() - bound).exp()
        return Estimate(float(bound.sum()), math.sqrt(float((relative.var(0) / len(relative)).sum())), bound)

    def lacks(self, lower: float) -> float:
        """Return how many nats these weights lack to ``lower``, an end of an interval for log p: see :meth:`Estimate.lacks`."""
        return 0.0 if self.enumerated else self.importance_estimate().lacks(lower)

    def khat(self) -> Tensor | None:
        """Return each unit's PSIS shape k̂, (units,): above 0.7, q misses mass that matters.

        ``None`` where nothing was drawn; NaN for units whose weights are constant (q is the posterior).

        Source: Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work?, https://arxiv.org/abs/1802.02538
        """
        if self.enumerated:
            return None
        log_weight = self.log_weight.detach().cpu().double().T.numpy()
        # Weights are differences of two densities: equal up to this, they have no tail to fit.
        size = 1 + torch.maximum(self.log_joint.abs(), self.log_q.abs()).nan_to_num(posinf=0.0).amax(0)
        rounding = (1024 * torch.finfo(self.log_q.dtype).eps * size).detach().cpu().double().numpy()
        return torch.as_tensor(tail_shapes(log_weight, rounding))

    def ess(self) -> Tensor | None:
        """Return each unit's effective sample size (Σ w)² / Σ w², (units,); ``None`` where nothing was drawn."""
        if self.enumerated:
            return None
        w = self.log_weight
        return (2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp()

    def active(self) -> int | None:
        """Return how many of the d coordinates tell the units apart; ``None`` for one unit or a finite support.

        Active are those in which Var_x(E_q z) is over a hundredth of the aggregate posterior's variance, Var_x(E_q z) +
        E_x Var_q z. Where few are, the guide has collapsed onto the prior in the rest.

        Source: Burda, Grosse and Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, whose variance of 0.01 is this share
        where the aggregate is standard normal.
        """
        if self.enumerated or len(self.loc) < 2 or not self.loc.shape[1]:
            return None
        within = self.variance.mean(0)
        between = (self.loc.var(0) - within / len(self.log_q)).clamp(min=0)  # less what the means of the draws scatter by
        return int((between > 0.01 * (between + within)).sum())


def log_weights(model: Model, guide: BaseGuide, x: Data, draws: int | None = None, seed: int | None = 0) -> LogWeights:
    """Evaluate the log-densities of ``guide`` and ``model`` at draws of the guide, without gradients, in evaluation mode.

    Args:
        model: the model.
        guide: the guide.
        x: the data.
        draws: how many; ``None``: see :func:`default_draws`. A finite support is enumerated instead.
        seed: of the draws; ``None`` uses torch's generator as it is.

    Raises:
        ZooError: fewer than 2 draws, a log weight that is +∞, a log q(z) that is NaN, or no draw of a unit at which the
            program can be evaluated.

    Warns:
        ZooWarning: how many draws could not be evaluated; see :class:`LogWeights`.
    """
    if not guide.density:
        raise ZooError(f"expected a guide with a density for log weights; got '{guide.text}'; use what it begins from, .source")
    latents = model.latents(x)
    draws = affordable(model, default_draws(latents.units, latents.size), 512) if draws is None else draws
    check_number("draws", draws, whole=True)
    if draws < 2:
        raise ZooError(f"expected at least 2 draws; got {draws}; a standard error needs them")
    with seeded(seed), torch.no_grad(), evaluating(model, guide):
        q = guide.posterior(x)
        found, reason = _evaluated(model, q, x, latents, draws)
    _check_density(q, found.log_q, guide.text)
    counted = found.log_measure > -torch.inf
    failed = found.log_joint.isnan() & ~found.log_q.isnan() & counted
    result = replace(found, unevaluated=failed)
    if bool(failed.any()):
        _tell_failed(model, guide, failed, reason)
        prior, likelihood = found.log_prior.masked_fill(failed, 0.0), found.log_likelihood.masked_fill(failed, -torch.inf)
        result = replace(result, log_prior=prior, log_likelihood=likelihood)
    bad = result.log_weight.isnan() | (result.log_weight == torch.inf)
    if bool((bad & counted).any()):
        raise ZooError(
            f"expected finite log weights of '{guide.text}' on {model.label}; got {int(bad.sum())} NaN or +inf; "
            "refit the guide, or check the model's densities")
    return result


def _evaluated(model: Model, q: Distribution, x: Data, latents: Latents, draws: int) -> tuple[LogWeights, str]:
    """Return the log-densities at draws of ``q``, NaN where the program failed, and why it did; empty where it did not."""
    units, size, enumerated = latents.units, latents.size, isinstance(q, Enumerated)
    parts, reason, first, second = [], "", reference(x).new_zeros(units, size), reference(x).new_zeros(units, size)
    for count in [draws] if enumerated else chunks(draws, work(x, units, size)):
        z, log_q = (q.enumerate_support(), q.logits.movedim(-1, 0)) if isinstance(q, Enumerated) else scored(q, count)
        (prior, likelihood), failure = tolerant(partial(model.log_terms, x), z, [units], [units])
        reason = reason or failure
        parts.append((prior, likelihood, log_q.expand_as(prior)))
        first, second = first + z.sum(0) / draws, second + z.square().sum(0) / draws
    prior, likelihood, log_q = (torch.cat(part) for part in zip(*parts, strict=True))
    measure = log_q if enumerated else torch.full_like(log_q, -math.log(draws))
    variance = (second - first.square()).clamp(min=0)
    return LogWeights(prior, likelihood, log_q, measure, enumerated, first, variance), reason


def log_joint(model: Model, x: Data, z: Tensor) -> Tensor:
    """Return log p(x, z | θ) in nats, (draws, units); −∞ where the program can't be evaluated or gives NaN."""
    [found], _ = tolerant(lambda part: [model.log_joint(x, part)], z, [z.shape[1]])
    return found.masked_fill(found.isnan(), -torch.inf)


def _tell_failed(model: Model, guide: BaseGuide, failed: Tensor, reason: str) -> None:
    """Warn of draws that count as weight zero; raise where a unit has no others."""
    count, because = int(failed.sum()), f" ({reason})" if reason else " (log p is NaN there)"
    if bool(failed.all(0).any()):
        raise ZooError(
            f"expected a number for log p(x, z) of {model.label} at some draw of '{guide.text}'; got none{because}; "
            "refit the guide, or use float64 data")
    warnings.warn(ZooWarning(
        f"{count} of {failed.numel()} draws of '{guide.text}' could not be evaluated on {model.label} and have weight "
        f"zero{because}"), stacklevel=4)


def _check_density(q: Distribution, log_q: Tensor, text: str) -> None:
    """Raise unless −log q averages to q's entropy, where that is known: a singular covariance shows here first.

    Everything else rests on log q. A density that rounding has spoilt would give bounds above log p(x).
    """
    try:
        entropy = float(q.entropy().sum().detach())
    except NotImplementedError:
        return
    if isinstance(q, Enumerated):
        return
    totals = -log_q.sum(1)
    mean, error = float(totals.mean()), float(totals.std()) / math.sqrt(len(totals))
    if not abs(mean - entropy) <= 8 * error + 1e-3 * log_q.shape[1]:
        raise ZooError(
            f"expected −log q of '{text}' to average to its entropy {entropy:.6g}; got {mean:.6g} ± {error:.2g}; its "
            "covariance is singular in floating point: use float64 data or another family")


def default_draws(units: int, size: int) -> int:
    """Return how many draws an evaluation takes: 4,096 for one unit, at least 512 for many.

    >>> default_draws(1, 10), default_draws(1797, 64)
    (4096, 512)
    """
    return within(CACHED, units * size, 512, 4096) // 512 * 512
