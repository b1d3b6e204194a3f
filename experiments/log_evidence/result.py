"""The result of an estimator of log p(x | θ): a value or none, an interval, and its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from experiments.log_evidence.log_weights import ERRORS
from experiments.log_evidence.registry import ESTIMATORS, EstimatorEntry
from experiments.log_evidence.resolution import LOST, ROUNDED, Resolution

#: A bracket wider than this many nats has no point, nor one wider than the smallest gap that rests on it, unless it is
#: narrower than the second: a guide that is the posterior has no gap at all.
WIDE, NARROW = 1.0, 0.01


@dataclass(frozen=True)
class Evidence:
    """log p(x | θ), or a bound on it, in nats, summed over units.

    Attributes:
        kind: a key of :data:`experiments.log_evidence.registry.ESTIMATORS`: ``exact`` (closed form or enumeration),
            ``quadrature`` (d ≤ 2), ``bracketed`` (between a lower bound and an upper bound from draws of the exact posterior),
            ``estimated`` (the same with draws of Markov chains), or ``lower_bound`` (importance-weighted: the *expectation* of
            the bound is at most log p(x | θ)).
        value: the total over units; for a bracket its middle; ``None`` for a wide bracket, which is only an interval.
        se: the Monte-Carlo standard error of ``value``, or of a wide bracket's middle; 0 where nothing was drawn.
        lower, upper: a 95% interval for log p(x | θ). An exact value is both ends; a quadrature value has its error on both
            sides; a bracket reaches from the limit of the lower bound to the limit of the upper bound. For a lower bound,
            ``lower`` is its limit, and ``upper`` is ``None``.
        units: the values of the units, for brackets their middles, (units,); the sum is ``value``.
        source: the guides that gave the bounds; empty for other kinds.
        method: the weights that gave the bounds, ``importance`` or ``annealed``.
        remark: a remark in one line, e.g. that guides miss modes; empty if there is none.
        rounding: nats by which float32 may have changed the evidence and every bound beside it; 0 if that is too little to
            matter.
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
    def entry(self) -> EstimatorEntry:
        """The registry's entry for the kind of this evidence."""
        return ESTIMATORS[self.kind]

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
        return replace(self, value=None) if wide and self.entry.drawn else self

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
