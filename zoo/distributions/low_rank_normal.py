"""A multivariate normal with covariance diagonal plus low rank, stable for scales that nearly vanish."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class LowRankNormal(dist.TorchDistribution):
    """N(loc, S (I + B Bᵀ) S), S = diag(scale).

    With the QR factorisation [B; I] = [Q₁; Q₂] R: log|S (I + B Bᵀ) S| = 2 log|S| + 2 log|R|, and the Mahalanobis distance
    of y = S⁻¹ (z − loc) is the squared residual of [y; 0] after projection on Q. Torch's own class factorises
    I + Bᵀ B and subtracts, which loses all digits where B is large: an optimiser then finds the rounding error instead
    of the optimum.

    Args:
        loc: (..., d).
        loadings: B, (..., d, r).
        scale: (..., d), positive.

    Batch shape (...), event shape (d,).

    >>> q = LowRankNormal(torch.zeros(2), torch.ones(2, 1), torch.tensor([1.0, 3.0]))
    >>> torch.allclose(q.log_prob(torch.ones(2)), dist.MultivariateNormal(q.loc, q.covariance_matrix).log_prob(torch.ones(2)))
    True
    """

    arg_constraints = {
        "loc": constraints.real_vector, "loadings": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1)}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, loadings: Tensor, scale: Tensor, validate_args: bool | None = False):
        self.loc, self.loadings, self.scale = loc, loadings, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)
        eye = torch.eye(loadings.shape[-1], dtype=loadings.dtype, device=loadings.device)
        stacked = torch.cat([loadings, eye.expand(*loadings.shape[:-2], -1, -1)], -2)
        self._q, r = torch.linalg.qr(stacked)
        self._log_det = scale.log().sum(-1) + r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size([*sample_shape, *self.batch_shape, *self.event_shape])
        own = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        shared = torch.randn(*shape[:-1], self.loadings.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * (own + torch.einsum("...ij,...j->...i", self.loadings, shared))

    def log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        size = y.shape[-1]
        along = torch.einsum("...ij,...i->...j", self._q[..., :size, :], y)
        projected = torch.einsum("...ij,...j->...i", self._q, along)
        residual = (y - projected[..., :size]).square().sum(-1) + projected[..., size:].square().sum(-1)
        result: Tensor = -0.5 * (size * math.log(2 * math.pi) + residual) - self._log_det
        return result

    def entropy(self) -> Tensor:
        result: Tensor = self._log_det + 0.5 * self.loc.shape[-1] * (1 + math.log(2 * math.pi))
        return result

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        inner = torch.eye(self.loc.shape[-1]).to(self.loc) + self.loadings @ self.loadings.mT
        return self.scale[..., :, None] * inner * self.scale[..., None, :]

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (1 + self.loadings.square().sum(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> LowRankNormal:
        shape = torch.Size(batch_shape)
        return LowRankNormal(
            self.loc.expand(*shape, -1), self.loadings.expand(*shape, -1, -1), self.scale.expand(*shape, -1))
