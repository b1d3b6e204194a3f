"""The curvature that a normal guide meets, and the natural-gradient steps that follow from it.

Let z = loc + S ε with ε ~ N(0, I), so that q is N(loc, S Sᵀ). Stein's identity gives the mean Hessian of log p(x, z) from
gradients:

    Sᵀ E_q[∇² log p] S = E[(Sᵀ ∇ log p) εᵀ].

The *curvature* is minus this matrix; its coordinates are those in which q is standard normal. At the best normal of the family,
the curvature is the identity and the mean gradient is zero. If log p is quadratic in z, one natural-gradient step leads to the
best normal, as Newton's step does.

Source: Amari (1998), Natural gradient works efficiently in learning, https://doi.org/10.1162/089976698300017746; Opper and
Archambeau (2009), The variational Gaussian approximation revisited, https://doi.org/10.1162/neco.2008.08-07-592; Khan and
Nielsen (2018), Fast yet simple natural-gradient descent, https://arxiv.org/abs/1807.04489
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: What a step may divide or multiply a variance by, at most, in any direction. Fits start at a tenth of the prior's scale.
LEAST, MOST = 1e-2, 1e4
#: How far a step may move the mean: so many of q's standard deviations in each direction, taken together. Curvature where q
#: lies now says nothing of what is farther off; a posterior of two modes was seen to be led to the lesser one.
REACH = 2.5


@dataclass(frozen=True)
class Curvature:
    """−E_q[∇² log p(x, z)] of each unit where q is standard normal, by its eigenvalues (units, d) and vectors (units, d, d).

    In a direction in which log p curves upwards, Newton's step of the mean would lead to a minimum, so the step uses the
    absolute value of the eigenvalue there (Dauphin et al. 2014, https://arxiv.org/abs/1406.2572). No scale of q is best in such
    a direction, so q keeps its present scale: with a growing scale, q would come to lie across two modes.
    """

    values: Tensor
    vectors: Tensor
    upwards: Tensor

    @classmethod
    def of(cls, white: Tensor, lower: bool = False) -> Curvature:
        """Return the curvature that draws tell: ``white`` is E[(Sᵀ ∇ log p) εᵀ] as they estimate it, (units, d, d).

        Of an exact one both triangles are alike. Of an estimate their mean counts, or the ``lower`` one alone, and how far they
        are apart tells its noise: eigenvalues below zero by less than that do not count as upwards. An estimate that is not
        finite stands for q's own curvature, the identity.

        >>> curvature = Curvature.of(torch.tensor([[[-4.0, 0.0], [0.0, 2.0]]]))
        >>> curvature.values, curvature.precision(torch.ones(1))
        (tensor([[2., 4.]]), tensor([[1., 4.]]))
        """
        finite, white = white.isfinite().flatten(1).all(1), -white
        if not bool(finite.all()):
            white = torch.where(finite[:, None, None], white, torch.eye(white.shape[-1]).to(white))
        values, vectors = torch.linalg.eigh(white.tril() + white.tril(-1).mT if lower else 0.5 * (white + white.mT))
        # The largest eigenvalue of a matrix of noise is about 2 √d of its entries' deviation.
        noise = 2 / math.sqrt(white.shape[-1]) * (white - white.mT).flatten(1).norm(dim=1) / 2 ** (0.5 if lower else 1.0)
        return cls(values.abs().clamp(LEAST, MOST), vectors, values < -noise[:, None])

    @property
    def downwards(self) -> Tensor:
        """The eigenvalues that q's precision should have, (units, d)."""
        return torch.where(self.upwards, 1.0, self.values)

    def precision(self, length: Tensor) -> Tensor:
        """Return the eigenvalues of q's precision after a step of ``length`` (units,), from 0 to 1, along the way to these."""
        return 1 + length[:, None] * (self.downwards - 1)

    def solve(self, slope: Tensor, length: Tensor) -> Tensor:
        """Return the step of q's mean for the mean gradient ``slope`` (units, d), both where q is standard normal."""
        damped = 1 + length[:, None] * (self.values - 1)
        along = (slope[:, None] @ self.vectors)[:, 0] * length[:, None] / damped
        farthest = REACH * math.sqrt(slope.shape[1])
        along = along * (farthest / along.norm(dim=1, keepdim=True).clamp(min=farthest))
        step: Tensor = (self.vectors @ along[..., None])[..., 0]
        return step

    def scale_tril(self, length: Tensor) -> Tensor:
        """Return the Cholesky factor of q's covariance after the step, (units, d, d)."""
        scaled = self.vectors / self.precision(length)[:, None]
        factor: Tensor = torch.linalg.cholesky(scaled @ self.vectors.mT)
        return factor

    def root(self) -> Tensor:
        """Return the symmetric square root of the inverse, (units, d, d): it maps to coordinates in which log p curves as I."""
        return (self.vectors * self.values.rsqrt()[:, None]) @ self.vectors.mT
