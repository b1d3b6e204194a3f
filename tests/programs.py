"""Programs of which all is known, for tests of several packages."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

#: Standard deviation of the prior of the location that all rows share.
TAU = 3.0


def hierarchical_normal(x: Tensor) -> None:
    """u ~ N(0, 9), z_i ~ N(u, 1), x_i ~ N(z_i, 1): rows share u, and own z_i."""
    u = pyro.sample("u", dist.Normal(x.new_zeros(()), TAU))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(u, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def simulated(rows: int, seed: int) -> Tensor:
    """Return x of the hierarchical normal model, (rows,), float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows + 1, generator=generator, dtype=torch.float64)
    return TAU * noise[0] + math.sqrt(2.0) * noise[1:]


def log_evidence(x: Tensor) -> float:
    """Return log p(x): rows are normal, with variance 2 of their own and 9 that they share."""
    covariance = 2 * torch.eye(len(x), dtype=x.dtype) + TAU**2
    return float(torch.distributions.MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x))


class MeanFieldOptimum:
    """The best q(u) Π q(z_i) of normals for the hierarchical normal model: ELBO, and the gap by block, in closed form.

    q(u) = N(m, 1 / (1/τ² + n)), q(z_i) = N((x_i + m) / 2, 1/2), m the mean of the posterior of u.
    """

    def __init__(self, x: Tensor):
        rows, precision = len(x), 1 / TAU**2 + len(x) / 2
        self.loc = x.sum() / 2 / precision
        self.scale = (1 / TAU**2 + rows) ** -0.5
        normal = torch.distributions.Normal
        self.shared = float(torch.distributions.kl_divergence(
            normal(self.loc, self.scale), normal(self.loc, precision**-0.5)))
        # p(z_i | x_i, u) = N((x_i + u) / 2, 1/2), whose variance q(z_i) has: the divergence is that of means, (u − m)² / 4.
        self.local = rows * self.scale**2 / 4
        self.elbo = log_evidence(x) - self.shared - self.local
