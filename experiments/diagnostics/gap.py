"""The gap of a guide: KL(q ‖ posterior) with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.log_evidence.log_weights import Z95, Estimate
from experiments.log_evidence.result import Evidence


@dataclass(frozen=True)
class Gap:
    """KL(q ‖ posterior) = log p(x | θ) − ELBO, in nats, summed over units, with a 95% interval cut at 0.

    ``value`` is the plain difference, which noise may take a little below 0; ``None`` where the evidence is a wide interval:
    then the gap is one, too, and ``se`` is that of its middle.
    Where the evidence is only bounded from below, so is the gap: ``upper`` is ``None``. Of draws without a density and without
    a bound nothing is known: ``lower`` is NaN.
    """

    value: float | None
    se: float
    lower: float
    upper: float | None

    @classmethod
    def between(cls, log_evidence: Evidence, elbo: Estimate) -> Gap:
        """Combine the evidence's interval with the ELBO's error; the two come from independent draws."""
        if math.isnan(elbo.value):  # of draws without a density nothing is known
            return cls(None, math.nan, math.nan, None)
        if not math.isfinite(elbo.value):  # q has mass where p has none: the divergence is infinite, and no noise is in it
            return cls(math.inf, 0.0, math.inf, math.inf)
        middle, se = log_evidence.middle - elbo.value, math.hypot(log_evidence.se, elbo.se)
        value = None if log_evidence.value is None else middle
        below = log_evidence.middle - log_evidence.lower
        if log_evidence.upper is None:  # noise on both sides: it adds up in squares
            return cls(value, se, max(0.0, middle - math.hypot(below, Z95 * elbo.se)), None)
        above = log_evidence.upper - log_evidence.middle  # a quadrature's error is a bound: it adds up plainly
        lower = max(0.0, middle - below - Z95 * elbo.se)
        return cls(value, se, lower, max(lower, middle + above + Z95 * elbo.se))

    def less(self, part: Gap) -> Gap:
        """Return what is left of this gap beside a ``part`` of it; errors of the two are independent, and add up in squares."""
        value = None if self.value is None or part.value is None else self.value - part.value
        middle = self.middle - part.middle
        above = math.inf if part.upper is None else part.upper - part.middle
        lower = max(0.0, middle - math.hypot(self.middle - self.lower, above))
        se = math.hypot(self.se, part.se)
        if self.upper is None:
            return Gap(value, se, lower, None)
        return Gap(value, se, lower, max(lower, middle + math.hypot(self.upper - self.middle, part.middle - part.lower)))

    @property
    def middle(self) -> float:
        """The value, or where there is none the middle of the interval, its lower end where that is all there is."""
        if self.value is not None:
            return self.value
        return self.lower if self.upper is None else 0.5 * (self.lower + self.upper)
