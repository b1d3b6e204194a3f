"""log p(x | θ): the best there is, and it says which."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from experiments.annealing import checked_draws
from experiments.bracketing import Bracket, bracket
from experiments.importance import importance
from experiments.pooling import Pool, pooled
from experiments.quadrature import NODES, integrate
from experiments.resolution import LOST, ROUNDED, Resolution
from experiments.weights import Z95, log_weights, work
from guides.guide import BaseGuide, paired
from guides.whole import Prior
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program import Program, evaluating

#: The importance-weighted bound is averaged over this many independent groups of draws.
GROUPS = 16
#: Two-sided 95% of Student's t with GROUPS − 1 degrees of freedom.
T95 = 2.131449545559323
#: Numbers that a quadrature may touch: nodes × units × parameters. Beyond it, as with networks, a bracket is quicker.
MAX_QUADRATURE_WORK = 2**28
#: A quadrature whose grids differ by more than this many nats per unit is not trusted.
MAX_QUADRATURE_ERROR = 1e-3
#: A bracket wider than this many nats has no point, nor one wider than the smallest gap that rests on it, unless it is
#: narrower than the second: a guide that is the posterior has no gap at all.
WIDE, NARROW = 1.0, 0.01
#: Standard errors by which a lower bound may lie above log p(x | θ).
ERRORS = 4.0


@dataclass(frozen=True)
class Evidence:
    """log p(x | θ), or a bound on it, in nats, summed over units.

    Attributes:
        kind: ``exact`` (closed form or enumeration), ``quadrature`` (d ≤ 2), ``bracketed`` (between a lower bound and, by a
            draw of the exact posterior, an upper bound), ``estimated`` (the same with Markov chains for the exact draw),
            or ``lower_bound`` (importance-weighted: its *expectation* is at most log p(x | θ)).
        value: total over units; of a bracket the middle; ``None`` where the bracket is wide: there is only the interval.
        se: Monte-Carlo standard error of ``value``, or of a wide bracket's middle; 0 where nothing was drawn.
        lower, upper: a 95% interval for log p(x | θ): exact, ± the quadrature's error, from the lower bound's limit to the
            upper bound's, or from the lower bound's up: then ``upper`` is ``None``.
        units: the units' own values, of brackets their middles, (units,).
        source: the guides that gave the bounds, empty for other kinds.
        method: how bounds were had: ``importance`` or ``annealed`` weights.
        remark: what is to be known of it in one line, e.g. that guides miss modes; empty where there is nothing.
        rounding: nats that float32 may have changed it by, and every bound beside it; 0 where that is too little to matter.
    """

    kind: str
    value: float | None
    se: float
    lower: float
    upper: float | None
    units: Tensor
    source: str = ""
    method: str = ""
    remark: str = ""
    rounding: float = 0.0

    @property
    def middle(self) -> float:
        """The value, or where there is none the middle of the interval."""
        if self.value is not None:
            return self.value
        return self.lower if self.upper is None else 0.5 * (self.lower + self.upper)

    @property
    def width(self) -> float:
        """Nats between the ends of the interval; infinite where the upper one is not known."""
        return math.inf if self.upper is None else self.upper - self.lower

    def for_gaps(self, gaps: Sequence[float]) -> Evidence:
        """Return the evidence without a point where it is a bracket wider than 1 nat, or than the smallest of ``gaps``.

        A bracket narrower than 0.01 nats keeps its point, whatever the gaps.

        >>> wide = Evidence("estimated", -3.0, 0.1, -3.2, -2.8, torch.tensor([-3.0]))
        >>> wide.for_gaps([2.0]).value, wide.for_gaps([2.0, 0.3]).value
        (-3.0, None)
        """
        wide = self.width > max(NARROW, min([WIDE, *gaps]))
        return replace(self, value=None) if wide and self.kind in ("bracketed", "estimated") else self

    def covering(self, bounds: Mapping[str, tuple[float, float]]) -> Evidence:
        """Return the evidence with an interval below which no bound on log p(x | θ) lies by more than 4 standard errors.

        A bound that lies, less 4 standard errors, within the interval lifts its lower end. One above it can't be: the interval
        then reaches to the bound, and the remark says so.

        Args:
            bounds: what a lower bound is called, its value and its standard error, in nats.

        >>> found = Evidence("quadrature", -3.0, 0.0, -3.0, -3.0, torch.tensor([-3.0]))
        >>> found.covering({"the ELBO of 'full_rank'": (-2.5, 0.01)}).upper
        -2.46
        """
        known = {what: bound for what, bound in bounds.items() if math.isfinite(bound[0]) and math.isfinite(bound[1])}
        if not known:
            return self
        what, (value, se) = max(known.items(), key=lambda item: item[1][0] - ERRORS * item[1][1])
        least = value - ERRORS * se - self.rounding
        if least <= self.lower + 64 * torch.finfo(self.units.dtype).eps * (1 + float(self.units.abs().sum())):
            return self
        if self.upper is None or least <= self.upper:
            return replace(self, lower=least, value=None if self.value is None else max(self.value, least))
        said = f"{what}, {value:.6g}, lies above the bounds on log p(x | θ), [{self.lower:.6g}, {self.upper:.6g}]: covered, too"
        upper = value + ERRORS * se
        point = None if upper - self.lower > NARROW else self.value
        return replace(self, value=point, upper=upper).noting(said)

    def resolved(self, by: Resolution) -> Evidence:
        """Return the evidence as far as floating point can tell it: an interval that covers what rounding may have changed."""
        found, shift = self, by.rounding
        if abs(shift) > ROUNDED:
            lower, upper = self.lower + min(0.0, shift), None if self.upper is None else self.upper + max(0.0, shift)
            found = replace(self, lower=lower, upper=upper, rounding=abs(shift)).for_gaps([]).noting(
                f"float32 changes log p(x | θ) by about {abs(shift):.2g} nats; pass the data in float64")
        if by.lost > LOST:
            found = replace(found, kind="lower_bound", value=found.lower, upper=None).noting(
                f"a share {by.lost:.2g} of the posterior mass lies where '{by.site}' is rounded to an end of its support, and "
                "more beyond: log p(x | θ) is only bounded from below")
        return found

    def noting(self, remark: str) -> Evidence:
        """Return the evidence with ``remark`` beside its own, unless that says it already."""
        if remark in self.remark:
            return self
        return replace(self, remark="; ".join(filter(None, [self.remark, remark])))


def evidence(
    model: Model | Program, x: Data, guide: BaseGuide | Sequence[BaseGuide] | None = None, *, draws: int | None = None,
    seed: int = 0, exact: Tensor | None = None, precision: float | None = None,
) -> Evidence:
    """Return the best available log p(x | θ), and of which kind it is.

    Exact where the model knows it; by quadrature where a unit has one or two latents and the density is cheap; else a bracket
    from ``guide``: see :func:`experiments.bracket`. Where that can't be had (a Pyro guide whose density is known at
    its own draws alone), the importance-weighted lower bound of ``guide``. Several guides are mixed in equal shares, and modes
    that none of them holds are looked for from the prior and added: see :func:`experiments.pooling.pooled`.

    Args:
        model: a model or a bare Pyro program.
        x: the data.
        guide: whose draws the bounds take, or several, the best first; needed where there is no other way.
        draws: of the importance-weighted bounds, per unit.
        seed: of the draws.
        precision: nats, of each unit: instead of a bracket, the importance-weighted bound of the first guide, with as many
            draws for each unit as that takes: see :func:`experiments.importance.importance`.
        exact: draws of the exact posterior given ``x`` at this very θ, (draws, units, d), where ``x`` was simulated from it.

    Raises:
        ZooError: only bounds are possible and there is no guide, or ``exact`` has another shape.

    Warns:
        ZooWarning: quadrature did not settle, Markov chains disagree, or there is only a lower bound.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> evidence(zoo.build("gmm", x), x).kind
    'exact'
    """
    guides = [] if guide is None else [guide] if isinstance(guide, BaseGuide) else list(guide)
    model = paired(model, guides[0] if guides else None)
    for other in guides:
        paired(model, other)
    with evaluating(model, *guides):
        found = _best(model, x, guides, draws, seed, exact, precision)
        return found.resolved(Resolution.of(model, guides[0], x, seed)) if guides and found.kind != "exact" else found


def _best(
    model: Model, x: Data, guides: Sequence[BaseGuide], draws: int | None, seed: int, exact: Tensor | None,
    precision: float | None,
) -> Evidence:
    try:
        with torch.no_grad():
            units = model.log_evidence(x)
        total = float(units.sum())
        return Evidence("exact", total, 0.0, total, total, units)
    except NotImplementedError:
        pass
    if model.latents(x).size in NODES and _quadrature_work(model, x) <= MAX_QUADRATURE_WORK:
        result = _by_quadrature(model, x)
        if result is not None:
            return result
    if not guides:
        raise ZooError(
            f"expected a guide to bound the evidence of {model.label}, which knows none exactly; got none; pass guide=")
    if precision is not None:
        return _precise(model, guides[0], x, precision, seed)
    if exact is not None:
        checked_draws(model, x, exact)
    pool = pooled(model, guides, x, seed)
    try:
        found = bracket(model, pool.guide, x, exact, draws=draws, seed=seed)
    except ZooError as error:
        warnings.warn(ZooWarning(f"log p(x) of {model.label} is only bounded from below: {error}"), stacklevel=2)
        return _bound(model, guides[0], x, draws, seed)
    return _of(found, pool)


def _of(found: Bracket, pool: Pool) -> Evidence:
    """Return what a bracket from ``pool`` says: where modes are missing from it, only that log p(x) is not lower."""
    if pool.unmet and found.kind == "estimated":
        return Evidence(
            "lower_bound", found.lower_total, found.lower_se, found.lower_limit, None, found.lower, pool.guide.text,
            found.method, pool.remark).noting(pool.unmet)
    units = 0.5 * (found.lower + found.upper)
    return Evidence(
        found.kind, float(units.sum()), 0.5 * (found.lower_se + found.upper_se), found.lower_limit, found.upper_limit, units,
        pool.guide.text, found.method, pool.remark).for_gaps([])


def _quadrature_work(model: Model, x: Data) -> int:
    latents = model.latents(x)
    parameters = sum(p.numel() for p in model.parameters())
    return int(NODES[latents.size] ** latents.size * latents.units * (latents.size + parameters))


def _by_quadrature(model: Model, x: Data) -> Evidence | None:
    integral = integrate(model, x)
    total, error = float(integral.value.sum()), float(integral.error.sum())
    if not math.isfinite(total) or error > MAX_QUADRATURE_ERROR * len(integral.value):
        warnings.warn(ZooWarning(
            f"quadrature of {model.label} did not settle ({error:.2g} nats between grids); "
            "using the importance-weighted bound"), stacklevel=3)
        return None
    return Evidence("quadrature", total, 0.0, total - error, total + error, integral.value)


def _precise(model: Model, guide: BaseGuide, x: Data, precision: float, seed: int) -> Evidence:
    found = importance(model, guide, x, precision, seed=seed)
    short = int((found.se > precision).sum())
    if short:
        warnings.warn(ZooWarning(
            f"{short} of {len(found.se)} units did not come to {precision:g} nats within {int(found.draws.max())} draws of "
            f"'{guide.text}'; use a guide closer to the posterior, or leave precision out"), stacklevel=4)
    total, se = float(found.value.sum()), float(found.se.square().sum().sqrt())
    return Evidence("lower_bound", total, se, total - Z95 * se, None, found.value, guide.text, "importance")


def _bound(model: Model, guide: BaseGuide, x: Data, draws: int | None, seed: int) -> Evidence:
    latents = model.latents(x)
    most = 256 if isinstance(guide, Prior) else 2048  # the prior is drawn by running the program, one by one
    draws = draws // GROUPS + 2 if draws is not None else int(
        min(most, max(128, 2**25 // GROUPS // work(x, latents.units, latents.size))))
    groups = torch.stack([
        log_weights(model, guide, x, draws, seed=seed + 7919 * (group + 1)).importance_bound() for group in range(GROUPS)])
    units = groups.mean(0)
    total, se = float(units.sum()), float(groups.sum(1).std()) / math.sqrt(GROUPS)
    return Evidence("lower_bound", total, se, total - T95 * se, None, units, guide.text)
