"""A multivariate normal with covariance diagonal plus low rank, stable for scales that nearly vanish."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class LowRankNormal(dist.TorchDistribution):  # type: ignore[misc]
    """N(loc, D² + F Fᵀ), D = diag(scale).

    With A = D⁻¹ F and the QR factorisation [A; I] = [Q₁; Q₂] R: log|D² + F Fᵀ| = 2 log|D| + 2 log|R|, and the
    Mahalanobis distance of y = D⁻¹ (z − loc) is the squared residual of [y; 0] after projection on Q. Torch's own class
    factorises I + Aᵀ A and subtracts, which loses all digits where A is large: an optimiser then finds the rounding
    error instead of the optimum.

    Args:
        loc: (..., d).
        factor: F, (..., d, r).
        scale: (..., d), positive.

    Batch shape (...), event shape (d,).

    >>> q = LowRankNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))
    >>> torch.allclose(q.log_prob(torch.ones(2)), dist.MultivariateNormal(q.loc, q.covariance_matrix).log_prob(torch.ones(2)))
    True
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector, "factor": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1)}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, validate_args: bool | None = False):
        self.loc, self.factor, self.scale = loc, factor, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        stacked = torch.cat([factor / scale[..., None], eye.expand(*factor.shape[:-2], -1, -1)], -2)
        self._q, r = torch.linalg.qr(stacked)
        self._log_det = scale.log().sum(-1) + r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        own = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        shared = torch.randn(*shape[:-1], self.factor.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * own + torch.einsum("...ij,...j->...i", self.factor, shared)

    def log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        size = y.shape[-1]
        along = torch.einsum("...ij,...i->...j", self._q[..., :size, :], y)
        projected = torch.einsum("...ij,...j->...i", self._q, along)
        residual = (y - projected[..., :size]).square().sum(-1) + projected[..., size:].square().sum(-1)
        return -0.5 * (size * math.log(2 * math.pi) + residual) - self._log_det

    def entropy(self) -> Tensor:
        return self._log_det + 0.5 * self.loc.shape[-1] * (1 + math.log(2 * math.pi))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        return torch.diag_embed(self.scale.square()) + self.factor @ self.factor.mT

    @property
    def variance(self) -> Tensor:
        return self.scale.square() + self.factor.square().sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LowRankNormal:
        shape = torch.Size(batch_shape)
        return LowRankNormal(
            self.loc.expand(*shape, -1), self.factor.expand(*shape, -1, -1), self.scale.expand(*shape, -1))
