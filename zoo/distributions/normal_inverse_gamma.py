"""The conjugate distribution of a regression's weights and noise."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Gamma, constraints


class NormalInverseGamma(dist.TorchDistribution):
    """(log σ², β) with σ² ~ InverseGamma(a, b) and β | σ² ~ N(loc, σ² Λ⁻¹), Λ = L Lᵀ.

    Over the *unconstrained* vector (log σ², β): the Jacobian of the logarithm is in the density.

    Args:
        loc: (..., p).
        precision_factor: L, (..., p, p), lower triangular.
        concentration, rate: a and b, (...).

    Batch shape (...), event shape (p + 1,).

    Source: O'Hagan and Forster (2004), Kendall's Advanced Theory of Statistics 2B, §11.5.

    >>> q = NormalInverseGamma(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), torch.ones(1))
    >>> q.rsample((3,)).shape, q.log_prob(torch.zeros(1, 3)).shape
    (torch.Size([3, 1, 3]), torch.Size([1]))
    """

    arg_constraints = {
        "loc": constraints.real_vector, "precision_factor": constraints.lower_cholesky,
        "concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, precision_factor: Tensor, concentration: Tensor, rate: Tensor,
        validate_args: bool | None = None,
    ):
        self.loc, self.precision_factor = loc, precision_factor
        self.concentration, self.rate = concentration, rate
        super().__init__(loc.shape[:-1], torch.Size([loc.shape[-1] + 1]), validate_args=validate_args)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        log_variance = -Gamma(self.concentration, self.rate).rsample(sample_shape).log()
        noise = torch.randn(*log_variance.shape, self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        step = torch.linalg.solve_triangular(self.precision_factor.mT, noise[..., None], upper=True)[..., 0]
        return torch.cat([log_variance[..., None], self.loc + (0.5 * log_variance).exp()[..., None] * step], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        log_variance, residual = value[..., 0], value[..., 1:] - self.loc
        scaled = (self.precision_factor.mT @ residual[..., None])[..., 0]
        log_det = self.precision_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        size = self.loc.shape[-1]
        normal = log_det - 0.5 * size * (log_variance + math.log(2 * math.pi))
        normal = normal - 0.5 * scaled.square().sum(-1) * (-log_variance).exp()
        # p(σ²) |dσ²/d log σ²|: the density's (σ²)^−(a+1) loses one power.
        gamma = self.concentration * self.rate.log() - self.concentration.lgamma()
        return normal + gamma - self.concentration * log_variance - self.rate * (-log_variance).exp()

    @property
    def mean(self) -> Tensor:
        return torch.cat([(self.rate.log() - self.concentration.digamma())[..., None], self.loc], -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalInverseGamma:
        shape = torch.Size(batch_shape)
        return NormalInverseGamma(
            self.loc.expand(*shape, -1), self.precision_factor.expand(*shape, -1, -1),
            self.concentration.expand(shape), self.rate.expand(shape))
