"""Linear-Gaussian latent-variable models: probabilistic PCA and factor analysis."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo.data import Data, as_rows, check_table
from zoo.distributions.covariances import covariances
from zoo.distributions.low_rank_normal import LowRankNormal
from zoo.errors import ZooError, ZooWarning, chosen
from zoo.model import Model
from zoo.structure.learned import Form
from zoo.structure.quadratic import Frame, power_sums

#: The smallest noise variance, in units of the column's variance.
FLOOR = 1e-9


def _principal(x: Tensor, latent: int, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return W = U (Λ − σ² I)^½ and the residual variances: the maximum of PPCA (Tipping and Bishop 1999, eqs 7, 8).

    Columns are scaled by their own ``variance`` where the model gives each its own noise, so that units do not matter.
    """
    scale = variance.sqrt()
    _, singular, directions = torch.linalg.svd(x / scale, full_matrices=False)
    values = singular.square() / len(x)
    noise = values[latent:].sum() / (x.shape[1] - latent)
    loadings = scale[:, None] * directions[:latent].T * (values[:latent] - noise).clamp(min=0).sqrt()
    return loadings, x.square().mean(0) - loadings.square().sum(1)


def _random(x: Tensor, latent: int, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return normal loadings that explain half of each column's variance, and the other half as noise."""
    loadings = torch.randn(x.shape[1], latent, dtype=x.dtype, device=x.device)
    return loadings * (variance / (2 * latent)).sqrt()[:, None], variance / 2


#: Where W and Ψ start: functions of the centred rows, d and the columns' pooled variances.
STARTS: Mapping[str, Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]]] = {"principal": _principal, "random": _random}


def linear_posterior(x: Tensor, loadings: Tensor, loc: Tensor, noise: Tensor) -> dist.MultivariateNormal:
    """Return p(z | x) of z ~ N(0, I), x | z ~ N(W z + μ, Ψ): N(M⁻¹ Wᵀ Ψ⁻¹ (x − μ), M⁻¹), M = I + Wᵀ Ψ⁻¹ W.

    Args:
        x: (units, D).
        loadings: W, (D, d).
        loc: μ, (D,).
        noise: the diagonal of Ψ, (D,).
    """
    weighted = loadings / noise[:, None]
    precision = torch.eye(loadings.shape[1]).to(weighted) + weighted.T @ loadings
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(weighted.T @ (x - loc).T, factor).T
    scale_tril = torch.linalg.cholesky(torch.cholesky_inverse(factor))
    return dist.MultivariateNormal(mean, scale_tril=scale_tril.expand(len(mean), -1, -1))


def linear_log_evidence(x: Tensor, loadings: Tensor, loc: Tensor, noise: Tensor) -> Tensor:
    """Return log N(x | μ, W Wᵀ + Ψ) of each unit, (units,); arguments as of :func:`linear_posterior`."""
    scale = noise.sqrt()
    return LowRankNormal(loc, loadings / scale[:, None], scale).log_prob(x)


def regress(x: Tensor, q: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    """Regress x (units, D) on z ~ q: return the W (D, d) and μ (D,) that maximise E_q[log N(x | W z + μ, Ψ)] whatever Ψ is,
    and each column's mean squared residual E_q[(x − W z − μ)²], (D,)."""
    mean = torch.cat([q.mean, torch.ones_like(q.mean[:, :1])], 1)
    second, covariance = mean.T @ mean, covariances(q).sum(0)
    second[:-1, :-1] += covariance
    weights = torch.linalg.solve(second, mean.T @ x).T
    centred = x - mean @ weights.T
    spread = ((weights[:, :-1] @ covariance) * weights[:, :-1]).sum(1)
    return weights[:, :-1], weights[:, -1], (centred.square().sum(0) + spread) / len(x)


class LinearGaussian(Model):
    """z_i ~ N(0, I_d), x_i | z_i ~ N(W z_i + μ, Ψ), Ψ diagonal. Each row is a unit.

    Exact: p(z | x) = N(M⁻¹ Wᵀ Ψ⁻¹ (x − μ), M⁻¹) with M = I + Wᵀ Ψ⁻¹ W, and x ~ N(μ, W Wᵀ + Ψ). The M-step is a least-
    squares regression of x on z, with E_q[z] and E_q[z zᵀ] for the unknown z: it is right for any q, not only the exact.

    Subclasses say what Ψ is: ``noise`` is its diagonal, ``average`` how the M-step pools the columns' residuals.
    """

    pure = True
    dims = {"z": ("latent",), "x": ("column",), "loadings": ("column", "latent"), "loc": ("column",)}
    varying = True
    quadratic = True
    variance: Any
    floor: Tensor

    def __init__(self, x: Data, latent: int = 2, start: str = "principal"):
        super().__init__()
        x = check_table(x, self.label, varying=self.varying)
        columns = x.shape[1]
        if columns < 2:
            raise ZooError(f"expected at least 2 columns for {self.label}; got {columns}; add columns or use another model")
        if not 1 <= latent < columns:
            raise ZooError(
                f"expected 1 to {columns - 1} latent dimensions for {columns} columns; got {latent}; set --latent")
        if latent > len(x):
            raise ZooError(f"expected at most as many latent dimensions as the {len(x)} rows; got {latent}; lower --latent")
        begin = chosen(STARTS, start, "start")
        # The start asks for the data's mean and covariance alone, and of many rows a few have the same.
        few = x if len(x) <= 4 * columns else Frame.of(power_sums(x, x[0].double()), x[0].double()).rows()
        mean, variance = few.mean(0), few.var(0, unbiased=False)
        loadings, noise = (found.to(x) for found in begin(few - mean, latent, self.average(variance).expand(columns)))
        self.register_buffer("floor", (FLOOR * variance.clamp(min=float(variance.mean()) * 1e-6)).to(x))
        self.loc = torch.nn.Parameter(mean.to(x))
        self.loadings = torch.nn.Parameter(loadings)
        self.variance = PyroParam(torch.maximum(self.average(noise), self.average(self.floor)), constraints.positive)

    def average(self, residual: Tensor) -> Tensor:
        """Return what θ keeps of the columns' residual variances (D,)."""
        raise NotImplementedError("a subclass says how Ψ is pooled")

    @property
    def noise(self) -> Tensor:
        """Diagonal of Ψ, (D,)."""
        variance: Tensor = self.variance
        return variance.expand(len(self.loc))

    def forward(self, x: Tensor) -> None:
        loadings, loc, scale = self.loadings, self.loc, self.noise.sqrt()
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(loc.new_zeros(()), 1.0).expand([loadings.shape[1]]).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T + loc, scale).to_event(1), obs=x)

    def posterior(self, x: Data) -> dist.MultivariateNormal:
        return linear_posterior(as_rows(x), self.loadings, self.loc, self.noise)

    def log_evidence(self, x: Data) -> Tensor:
        return linear_log_evidence(as_rows(x), self.loadings, self.loc, self.noise)

    def maximise(self, x: Data, q: Distribution) -> None:
        x = as_rows(x)
        with torch.no_grad():
            loadings, loc, residual = regress(x, q)
            self.loadings.copy_(loadings)
            self.loc.copy_(loc)
            self.variance = self._floored(self.average(residual))

    def confine(self) -> None:
        with torch.no_grad():
            self.variance = torch.maximum(self.variance, self.average(self.floor))

    def _floored(self, variance: Tensor) -> Tensor:
        floor = self.average(self.floor)
        if bool((variance < floor).any()):
            which = ", ".join(map(str, (variance < floor).reshape(-1).nonzero().flatten().tolist()))
            warnings.warn(ZooWarning(
                f"noise variance of column(s) {which} held at {FLOOR:g} of the column's (a Heywood case); "
                "use fewer latent dimensions"), stacklevel=2)
        return torch.maximum(variance, floor)

    def forms(self) -> Mapping[str, Sequence[Form]]:
        return {"variance": (Form("noise_variance", ("column",)[: self.variance.ndim]),)}

    def extra_repr(self) -> str:
        return f"latent={self.loadings.shape[1]}, columns={self.loadings.shape[0]}"


class PPCA(LinearGaussian):
    """Probabilistic PCA: :class:`LinearGaussian` with Ψ = σ² I. Its maximum spans the principal subspace.

    θ: ``loadings`` W (D, d), ``loc`` μ (D,), ``variance`` σ² ().

    Args:
        x: (rows, D). Sizes and starts the model.
        latent: d, from 1 to D − 1.
        start: ``principal``, the maximum of the likelihood in closed form, or ``random`` (torch's generator), for EM to
            climb from.

    Raises:
        ZooError: x is no table, has fewer rows than d, or d is out of range.

    Source: Tipping and Bishop (1999), Probabilistic principal component analysis, JRSS B 61;
    https://doi.org/10.1111/1467-9868.00196

    >>> x = torch.randn(100, 5, dtype=torch.double)
    >>> PPCA(x, latent=2).posterior(x).event_shape
    torch.Size([2])
    """

    varying = False  # σ² pools the columns, so a constant one does no harm

    def average(self, residual: Tensor) -> Tensor:
        return residual.mean()


class FactorAnalysis(LinearGaussian):
    """Factor analysis: :class:`LinearGaussian` with Ψ = diag(ψ_1 … ψ_D).

    θ: ``loadings`` W (D, d), ``loc`` μ (D,), ``variance`` ψ (D,).

    Args:
        x: (rows, D), no column constant. Sizes and starts the model.
        latent: d, from 1 to D − 1.
        start: ``principal`` components, or ``random`` (torch's generator).

    Raises:
        ZooError: x is no table, a column is constant, or d is out of range.

    Source: Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47;
    https://doi.org/10.1007/BF02293851

    >>> x = torch.randn(100, 5, dtype=torch.double)
    >>> FactorAnalysis(x, latent=2).noise.shape
    torch.Size([5])
    """

    def average(self, residual: Tensor) -> Tensor:
        return residual
