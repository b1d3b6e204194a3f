"""A Gaussian mixture whose parameters are latent."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Data, check_positive, check_table
from zoo.distributions.normal_mixture import NormalMixture
from zoo.errors import ZooError
from zoo.model import Model
from zoo.models.gmm import check_components, cluster
from zoo.structure.quadratic import Moments


class BayesianGMM(Model):
    """Gaussian mixture with priors on its parameters; the assignments are marginalised.

    weights ~ Dirichlet(α, …, α), μ_k ~ N(m, diag(s²)), σ_k ~ LogNormal(log(s / √K), 1/2), C_k ~ LKJ(η),
    x_i ~ Σ_k weights_k N(μ_k, diag(σ_k) C_k diag(σ_k)), with m and s the columns' means and standard deviations.

    All rows share the parameters: the data set is one unit. Relabelling the components leaves the density as it is, so
    the posterior has K! equal modes; a guide on one of them has a gap of log K! nats at least. :meth:`recover` gives
    the assignment probabilities at each draw of the parameters.

    Args:
        x: (rows, D), no column constant. Sizes the model, scales its priors, and starts fits at a k-means clustering.
        components: K ≥ 2.
        concentration: α.
        shape: η; 1 is uniform over correlation matrices.

    Raises:
        ZooError: fewer distinct rows than components, fewer than 2 components, a constant column, a prior not positive.

    Source: Gelman et al. (2013), Bayesian Data Analysis, ch. 22; Lewandowski, Kurowicka and Joe (2009), Generating
    random correlation matrices, J. Multivariate Analysis 100, https://doi.org/10.1016/j.jmva.2009.04.008

    >>> x = torch.cat([torch.randn(30, 2), torch.randn(30, 2) + 6])
    >>> BayesianGMM(x, components=2).latents(x).size        # 1 weight, 4 means, 4 scales, 2 correlations
    11
    """

    pure = True
    dims = {
        "weights": ("component",), "means": ("column",), "scales": ("column",), "corr_cholesky": ("row", "column"),
        "responsibilities": ("rows", "component"), "x": ("column",)}

    def __init__(self, x: Data, components: int = 2, concentration: float = 1.0, shape: float = 1.0):
        super().__init__()
        x = check_table(x, self.label)
        if components < 2:
            raise ZooError(f"expected at least 2 components for bayesian_gmm; got {components}; raise --components")
        check_positive(self.label, concentration=concentration, shape=shape)
        self.components, self.concentration, self.shape = components, concentration, shape
        self.register_buffer("centre", x.mean(0))
        self.register_buffer("spread", x.std(0))
        check_components(x, components)

    def forward(self, x: Tensor) -> None:
        one = torch.ones_like(self.centre)
        weights = pyro.sample("weights", dist.Dirichlet(self.concentration * one[:1].expand(self.components)))
        with pyro.plate("component", self.components):
            means = pyro.sample("means", dist.Normal(self.centre, self.spread).to_event(1))
            typical = (self.spread / self.components**0.5).log()
            scales = pyro.sample("scales", dist.LogNormal(typical, 0.5 * one).to_event(1))
            factors = torch.diag_embed(scales)
            if len(self.centre) > 1:
                lkj = dist.LKJCholesky(len(self.centre), self.shape * one[0])
                factors = factors @ pyro.sample("corr_cholesky", lkj)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", NormalMixture(weights, means, factors), obs=x)

    @property
    def equal_modes(self) -> int:
        """How many modes the posterior has that differ in the labels of the components alone."""
        return math.factorial(self.components)

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return the k-means clusters' shares, means and standard deviations, without correlation (torch's generator)."""
        x = check_table(x, self.label)
        labels = cluster(x, self.components)
        found = Moments.of(x, torch.nn.functional.one_hot(labels, self.components).to(x))
        scales = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-2 * self.spread)
        eye = torch.eye(len(self.centre)).to(x).expand(self.components, -1, -1)
        return {"weights": found.count / found.count.sum(), "means": found.mean, "scales": scales, "corr_cholesky": eye}

    def recover(self, x: Data, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``responsibilities``, p(assignment_i = k | x_i, parameters), (draws, rows, K)."""
        factors = torch.diag_embed(values["scales"])
        if "corr_cholesky" in values:
            factors = factors @ values["corr_cholesky"]
        rows = check_table(x, self.label)
        each = torch.vmap(lambda *parameters: NormalMixture(*parameters).responsibilities(rows))
        return {"responsibilities": each(values["weights"], values["means"], factors)}

    def extra_repr(self) -> str:
        return f"components={self.components}, columns={len(self.centre)}"
