"""Natural-gradient steps on fresh noise, and the mean of where they lead.

Few draws tell a step only roughly, but the errors of steps on fresh draws are independent, and their mean counts as all draws
together. So the way to the best normal takes many cheap steps instead of a few on very many draws.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from experiments.each import Objective, Report, State, recorded
from experiments.optimise import Tape
from guides.amortisation import Free
from guides.family import Normal, Phi
from guides.natural import Curvature, hessian
from zoo.vectorise import LinAlgError

#: What the curvature and the mean of a step weigh against those before. Whole steps overshoot, as the curvature where q lies
#: changes with q; much shorter ones take long to forget where they began. Measured on the digits (62 coefficients).
CURVATURE, MEAN = 0.3, 0.8
#: Of the first steps, which still tell of where they began, the mean leaves half out, up to so many; and a quarter at least.
FORGOTTEN = 24
#: Steps after which it is asked whether they have settled, about half as many again each time. The first few tell too little.
CHECKS = (8, 16, 24, 32, 48, 64, 96, 128, 192)
FEWEST, MOST = CHECKS[1], CHECKS[-1]


@dataclass(frozen=True)
class Place:
    """A normal by its mean (d,) and the curvature that it met, its precision (d, d)."""

    loc: Tensor
    curvature: Tensor

    @classmethod
    def mean(cls, places: list[Place]) -> Place:
        return cls(torch.stack([p.loc for p in places]).mean(0), torch.stack([p.curvature for p in places]).mean(0))

    def phi(self, family: Normal) -> Phi:
        """Return φ of the family's normal here.

        Raises:
            LinAlgError: the curvature is not positive definite.
        """
        return family.of_precision(self.loc[None], self.curvature[None])

    def apart(self, other: Place, family: Normal) -> float:
        """Return about how many nats the ELBO is lower at ``other`` than here, were it highest here."""
        still = torch.zeros_like(self.loc)
        here, there = (family.distribution(Place(still, p.curvature).phi(family)) for p in (self, other))
        moved = other.loc - self.loc
        return float(0.5 * moved @ self.curvature @ moved + kl_divergence(there, here).sum())


def average_naturally(
    fresh: Callable[[int], Objective], judge: Callable[[], float], family: Normal, own: Free, iterations: int, report: Report,
    within: float, tape: Tape | None = None,
) -> tuple[int, float | None]:
    """Move the one unit's φ to the mean of natural-gradient steps on fresh noise.

    The mean is of the later steps: by then, most of what they started from is forgotten. They have settled when
    their :func:`shortfall` is at most ``within`` nats, and the steps since the last check raised the ELBO by no more: a slow
    drift shows in what it gains before it shows in the way that it makes.

    Args:
        fresh: number of the step → :func:`experiments.natural.climb_naturally`'s objective on noise of its own.
        judge: the ELBO of φ as it is, on noise that is always the same.
        family: of the guide.
        own: φ at the start; in the end, that of the mean, or as it was where that is no better.
        iterations: at most.
        report: told of each, with the mean up to there.
        within: nats.
        tape: as of :func:`experiments.each.ascend_each`.

    Returns:
        steps taken; and the ELBO that ``judge`` gives the mean if they settled, on one no lower than at the start.

    Source: Polyak and Juditsky (1992), Acceleration of stochastic approximation by averaging,
    https://doi.org/10.1137/0330046; Khan and Lin (2017), https://arxiv.org/abs/1703.04265
    """
    start = own.flat()

    @cache
    def before() -> float:
        """The ELBO at the start, which the first steps need not wait for."""
        here = own.flat()
        own.set(start)
        found = judge()
        own.set(here)
        return found

    rows, places = start, list[Place]()
    last: float | None = None
    one = torch.zeros(1, dtype=torch.long, device=rows.device)
    with suppress(LinAlgError):  # log p curves upwards: that is left to an ascent that searches
        while len(places) < min(MOST, iterations):
            state = recorded(fresh(len(places)), tape)(rows, one)
            if not bool(state.loss.isfinite().all()):
                break
            places.append(_next(family, own.unflat(rows), state, places[-1] if places else None))
            rows = own.rows(places[-1].phi(family))
            later = places[forgotten(len(places)) :]
            mean = own.rows(Place.mean(later).phi(family))
            own.set(mean)
            size = len(places[-1].loc)
            report(-float(state.loss.sum()), float(state.gradient[:, :size].norm()), float(state.told.sum()), mean)
            if len(places) in CHECKS:
                known, last = before() if last is None else last, judge()
                still = last - known <= within and shortfall(later, family) <= within
                if len(places) >= FEWEST and still and last >= before() - within:
                    return len(places), last
    highest = before()
    if not judge() >= highest:
        own.set(start)
    return len(places), None


def forgotten(steps: int) -> int:
    """Return how many of so many steps, the first ones, the mean leaves out.

    >>> [forgotten(steps) for steps in (1, 8, 48, 80, 192)]
    [0, 4, 24, 24, 48]
    """
    return max(min(steps // 2, FORGOTTEN), steps // 4)


def shortfall(places: list[Place], family: Normal) -> float:
    """Return about how many nats the ELBO at the mean of consecutive steps' places is below the highest.

    Halves of the steps have means that noise alone sets four times as far apart, in nats, as it sets the mean of all from the
    truth, quarters eight times. A drift, of steps that still lead somewhere, sets quarters apart by a fourth of what it does
    halves, so the two distances tell noise and drift. About as much as halves are apart is still to come where a step leaves
    nine tenths of the way; the digits, the hardest case measured, leave less.
    """
    halves, quarters = ([Place.mean(part) for part in _split(places, parts)] for parts in (2, 4))
    far = halves[1].apart(halves[0], family)
    near = 0.5 * sum(quarters[i + 1].apart(quarters[i], family) for i in (0, 2))
    noise = max(0.0, (4 * near - far) / 28)
    return noise + max(0.0, far - 4 * noise)


def _split(places: list[Place], parts: int) -> list[list[Place]]:
    return [places[i * len(places) // parts : (i + 1) * len(places) // parts] for i in range(parts)]


def _next(family: Normal, phi: Phi, state: State, last: Place | None) -> Place:
    """Return where a step leads from φ, and the curvature that it goes by."""
    loc, size = phi["loc"][0], phi["loc"].shape[1]
    slope, cross = -state.gradient[0, :size], -state.gradient[0, size:].view(size, size)
    factor = family.scale_tril(phi)
    if last is None:
        met = Curvature.of(factor.mT @ cross)
        inverse = torch.linalg.inv(factor)[0]
        curvature = inverse.mT @ (met.vectors[0] * met.values[0]) @ met.vectors[0].mT @ inverse
    else:
        curvature = last.curvature.lerp(-hessian(factor, cross[None])[0], CURVATURE)
    return Place(loc + MEAN * torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(curvature))[:, 0], curvature)
