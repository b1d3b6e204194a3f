"""Gaussian-process regression with priors on the kernel's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Data
from zoo.errors import chosen
from zoo.model import Model
from zoo.models.regression import check_design

#: What is added to the variances of y, in units of its own, so that kernel matrices have a Cholesky factor.
JITTER = 1e-6


def _rbf(squared: Tensor) -> Tensor:
    return (-0.5 * squared).exp()


def _matern32(squared: Tensor) -> Tensor:
    scaled = math.sqrt(3) * _root(squared)
    return (1 + scaled) * (-scaled).exp()


def _matern52(squared: Tensor) -> Tensor:
    scaled = math.sqrt(5) * _root(squared)
    return (1 + scaled + scaled.square() / 3) * (-scaled).exp()


def _root(squared: Tensor) -> Tensor:
    """Return the square root, with a gradient of nothing at nothing: the distance of a row from itself."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


#: Correlations as functions of the squared distance in lengthscales.
KERNELS: Mapping[str, Callable[[Tensor], Tensor]] = {"rbf": _rbf, "matern32": _matern32, "matern52": _matern52}


class GaussianProcess(Model):
    """Gaussian-process regression, f ~ GP(m, amplitude² k(|x − x'| / lengthscale)), y_i ~ N(f(x_i), noise²); f integrated out.

    lengthscale ~ LogNormal(0, 1), one for all columns or one for each (``ard``), amplitude, noise ~ HalfNormal(s); m and s are
    the mean and standard deviation of y. All rows share these: the data set is one unit. A density factorises a matrix of
    (rows, rows). :meth:`recover` gives E[f(x_i) | y] at each draw of the parameters.

    Args:
        x: ``{"X": (rows, D), "y": (rows,)}``; standardise the columns of X, as the lengthscale's prior expects. Y scales the
            other priors.
        kernel: ``rbf``, ``matern32`` or ``matern52``.
        ard: give each column its own lengthscale (automatic relevance determination).

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; an unknown kernel.

    Source: Rasmussen and Williams (2006), Gaussian processes for machine learning, §2.2, §4.2 and §5.4.1,
    http://gaussianprocess.org/gpml/

    >>> x = {"X": torch.linspace(-1, 1, 9)[:, None], "y": torch.linspace(-1, 1, 9).sin()}
    >>> GaussianProcess(x).latents(x).coordinates()
    ['lengthscale', 'amplitude', 'noise']
    """

    pure = True
    dims = {"lengthscale": ("column",), "y": ("rows",), "f": ("rows",)}
    centre: Tensor
    spread: Tensor

    def __init__(self, x: Data, kernel: str = "rbf", ard: bool = False):
        super().__init__()
        data = check_design(x, self.label)
        self.kernel, self.word, self.ard = chosen(KERNELS, kernel, "kernel"), kernel, ard
        self.register_buffer("centre", data["y"].mean())
        # Of a constant y the priors are as of one whose standard deviation is 1.
        spread = data["y"].std()
        self.register_buffer("spread", torch.where(spread > 0, spread, 1.0))

    def forward(self, x: dict[str, Tensor]) -> None:
        zero = self.spread.new_zeros(())
        prior = dist.LogNormal(zero, 1.0)
        lengthscale = pyro.sample("lengthscale", prior.expand([x["X"].shape[1]]).to_event(1) if self.ard else prior)
        amplitude = pyro.sample("amplitude", dist.HalfNormal(self.spread))
        noise = pyro.sample("noise", dist.HalfNormal(self.spread))
        _, factor = self.covariance(x["X"], lengthscale, amplitude, noise)
        pyro.sample("y", dist.MultivariateNormal(self.centre.expand(len(x["y"])), scale_tril=factor), obs=x["y"])

    def covariance(self, rows: Tensor, lengthscale: Tensor, amplitude: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the covariance of f at ``rows`` and the Cholesky factor of that of y, (rows, rows) each."""
        # Differences are of the data alone: draws of the lengthscale cost a product, not the differences of each.
        apart, weight = (rows[:, None] - rows).square(), lengthscale**-2
        covariance = amplitude.square() * self.kernel(apart @ weight if self.ard else apart.sum(-1) * weight)
        own = noise.square() + JITTER * self.spread.square()
        return covariance, torch.linalg.cholesky(covariance + own * torch.eye(len(rows)).to(rows))

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return a lengthscale of 1, and half of the variance of y for f and for the noise."""
        columns = check_design(x, self.label)["X"].shape[1]
        one, half = torch.ones_like(self.spread), 0.5**0.5 * self.spread
        return {"lengthscale": one.expand(columns) if self.ard else one, "amplitude": half, "noise": half}

    def recover(self, x: Data, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``f``, the posterior mean of the function at the rows given each draw of the parameters, (draws, rows)."""
        data = check_design(x, self.label)

        def mean(lengthscale: Tensor, amplitude: Tensor, noise: Tensor) -> Tensor:
            covariance, factor = self.covariance(data["X"], lengthscale, amplitude, noise)
            weights = torch.cholesky_solve((data["y"] - self.centre)[:, None], factor)[:, 0]
            return self.centre + covariance @ weights

        return {"f": torch.vmap(mean)(values["lengthscale"], values["amplitude"], values["noise"])}

    def extra_repr(self) -> str:
        return f"kernel={self.word}, ard={self.ard}"
