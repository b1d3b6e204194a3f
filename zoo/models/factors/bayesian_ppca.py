"""Probabilistic PCA whose parameters are latent."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.data import Data, check_table
from zoo.errors import ZooError
from zoo.model import Model
from zoo.models.linear_gaussian import PPCA


class BayesianPPCA(Model):
    """Probabilistic PCA with priors on its parameters: z_i ~ N(0, I), x_i ~ N(W z_i + μ, σ² I).

    W_jk ~ N(0, s_j²), μ_j ~ N(m_j, s_j²), σ ~ HalfNormal(s̄), with m_j and s_j the columns' means and standard deviations and s̄²
    the mean of s_j². Each row has its own factors z_i, local latents; ``loadings`` W, ``loc`` μ and ``scale`` σ are shared by
    all rows, so the data set is one unit of rows · latent + columns · (latent + 1) + 1 coordinates.

    Turning the factors and the loadings by one rotation leaves the density as it is: the posterior of W has no single mode, but
    a sphere of them, on which a Gaussian guide holds one place.

    Args:
        x: (rows, columns), no column constant. Scales the priors, and starts fits at the principal components.
        latent: d, from 1 to columns − 1.

    Raises:
        ZooError: x is no table, a column is constant, or d is out of range.

    Source: Bishop (1999), Bayesian PCA, NIPS 11, https://papers.nips.cc/paper/1549-bayesian-pca; Ilin and Raiko (2010),
    Practical approaches to principal component analysis in the presence of missing values, JMLR 11,
    https://www.jmlr.org/papers/v11/ilin10a.html

    >>> import torch
    >>> x = torch.randn(10, 4)
    >>> [(site.name, site.size) for site in BayesianPPCA(x).latents(x).sites]
    [('loadings', 8), ('loc', 4), ('scale', 1), ('z', 20)]
    """

    pure = True
    dims = {"loadings": ("column", "latent"), "loc": ("column",), "z": ("latent",), "x": ("column",)}
    centre: Tensor
    spread: Tensor

    def __init__(self, x: Data, latent: int = 2):
        super().__init__()
        x = check_table(x, self.label)
        if not 1 <= latent < x.shape[1]:
            raise ZooError(
                f"expected between 1 latent dimension and one fewer than the {x.shape[1]} columns; got {latent}; set --latent")
        self.latent = latent
        self.register_buffer("centre", x.mean(0))
        self.register_buffer("spread", x.std(0))

    def forward(self, x: Tensor) -> None:
        zero, spread = self.spread.new_zeros(()), self.spread
        loadings = pyro.sample("loadings", dist.Normal(zero, spread[:, None].expand(-1, self.latent)).to_event(2))
        loc = pyro.sample("loc", dist.Normal(self.centre, spread).to_event(1))
        scale = pyro.sample("scale", dist.HalfNormal(spread.square().mean().sqrt()))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).expand([self.latent]).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.mT + loc, scale).to_event(1), obs=x)

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return the maximum of the likelihood of :class:`PPCA`, and the rows' factors there."""
        found = PPCA(x, self.latent)
        return {
            "loadings": found.loadings.detach(), "loc": found.loc.detach(), "scale": found.variance.detach().sqrt(),
            "z": found.posterior(x).mean.detach()}

    def extra_repr(self) -> str:
        return f"latent={self.latent}, columns={len(self.centre)}"
