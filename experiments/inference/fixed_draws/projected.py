"""Means of log p(x, z) under a normal q where each observation sees z through one number: one integral an observation.

Let log p(x | z) = Σ_i log p(y_i | η_i) with η = b + A z, and let q be N(loc, S Sᵀ). Then η_i is normal with mean
b_i + a_iᵀ loc and standard deviation |Sᵀ a_i|. So the mean of each term is an integral over the line, which a few Gauss–Hermite
nodes compute, while draws of z would have to fill d dimensions. The likelihood then has no noise that φ could overfit. Only the
mean of log p(z) is taken over draws, which cost little.

Source: Challis and Barber (2013), Gaussian Kullback–Leibler approximate inference,
https://jmlr.org/papers/v14/challis13a.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.special import roots_hermitenorm
from torch import Tensor

from experiments.inference.fixed_draws.means import cross
from experiments.inference.fixed_draws.parts import slices
from experiments.runtime.memory import CACHED, within
from guides.families.family import Normal, Phi
from zoo.data import Data
from zoo.model import Model
from zoo.program.coordinates import log_prior_and_slope
from zoo.structure.linear_predictor import Predictor

#: Nodes of an observation's integral: so few, but as many more as make so many numbers in all. And of one that these few don't
#: do, at least and at most.
COARSE, CHEAP, FINE, MOST = 16, 2**15, 128, 512
#: Nats by which coarse integrals may be off, together.
CLOSE = 1e-3


@dataclass(frozen=True)
class Expected:
    """E[log p(y_i | η_i)] of each observation, (n,), and the means of its first two derivatives in η_i."""

    value: Tensor
    first: Tensor
    second: Tensor


@dataclass
class GaussHermite:
    """:class:`experiments.inference.fixed_draws.means.Means` of the one unit of a model with a linear predictor."""

    model: Model
    family: Normal
    x: Data
    predictor: Predictor

    def surrogate(self, phi: Phi, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, eta = self.family.transform(phi, noise), self._at(phi["loc"])
        spread = self.family.project(phi, self.predictor.matrix)
        prior, slope = log_prior_and_slope(self.model.runner, self.x, z.detach())
        found = self._expected(eta.detach(), spread.detach(), nodes(noise))
        # Stein's identity: half the second derivative is what a mean gains by a larger variance.
        surrogate = (z * slope).sum() / len(z) + found.first @ eta + 0.5 * found.second @ spread.square().sum(1)
        return prior.mean(0), found.value.sum()[None], surrogate

    def natural(self, phi: Phi, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prior, slope = log_prior_and_slope(self.model.runner, self.x, self.family.transform(phi, noise))
        matrix = self.predictor.matrix
        spread = self.family.project(phi, matrix)
        found = self._expected(self._at(phi["loc"]), spread, nodes(noise))
        mean = slope.mean(0) + matrix.mT @ found.first
        curved = matrix.mT @ (found.second[:, None] * spread[:, : matrix.shape[1]])
        return prior.mean(0), found.value.sum()[None], mean, cross(slope, noise) + curved

    def value(self, phi: Phi, noise: Tensor) -> float:
        prior, _ = log_prior_and_slope(self.model.runner, self.x, self.family.transform(phi, noise))
        found = self._expected(self._at(phi["loc"]), self.family.project(phi, self.predictor.matrix), 2 * nodes(noise))
        return float(prior.mean() + found.value.sum())

    def _at(self, loc: Tensor) -> Tensor:
        return self.predictor(loc)[0]

    def _expected(self, eta: Tensor, spread: Tensor, fine: int) -> Expected:
        """Return the means where η has mean ``eta`` (n,) and moves by ``spread`` (n, d) with the noise."""
        deviation = spread.square().sum(1).sqrt()
        found, off = self._integrals(min(FINE // 2, max(COARSE, CHEAP // len(eta))), eta, deviation)
        if float(off.sum()) > CLOSE:
            rough = (off > CLOSE / len(off)).nonzero()[:, 0]
            found = found.index_copy(1, rough, self._integrals(fine, eta[rough], deviation[rough], rough)[0])
        return Expected(*found)

    def _integrals(
        self, number: int, eta: Tensor, deviation: Tensor, rows: slice | Tensor = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Return the means of observations ``rows``, (3, rows), by ``number`` nodes, and about how far off each is, (rows,).

        By Stein's identity E[ℓ(η)(η − E η)] is E[ℓ′(η)] var η. What nodes leave between the two tells what they miss.
        """
        at, weights = (part.to(eta) for part in gauss_hermite(number))
        pairs = torch.stack([weights, weights * at])
        parts = []
        for some in slices(len(eta), within(CACHED, number)):
            with torch.enable_grad():
                line = (eta[some] + at[:, None] * deviation[some]).requires_grad_()
                which = rows[some] if isinstance(rows, Tensor) else some
                log_prob = self.predictor.log_prob(line, which)
                [slope] = torch.autograd.grad(log_prob.sum(), [line])
            parts.append(torch.cat([pairs @ log_prob.detach(), pairs @ slope]))
        value, covariance, first, along = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        second = torch.where(deviation > 0, along / deviation, 0.0)
        return torch.stack([value, first, second]), (covariance - deviation * first).abs()


def nodes(noise: Tensor) -> int:
    """Return how many nodes a fine integral takes where the prior takes as many draws as there are in ``noise``."""
    return min(MOST, max(FINE, len(noise) // 2))


@lru_cache(16)
def gauss_hermite(number: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the mean under a standard normal, exact for polynomials of degree 2 ``number`` − 1.

    >>> at, weights = gauss_hermite(32)
    >>> float(weights @ at.pow(4))  # doctest: +ELLIPSIS
    3.0...
    """
    at, weights = roots_hermitenorm(number)
    return torch.from_numpy(at), torch.from_numpy(weights / weights.sum())
