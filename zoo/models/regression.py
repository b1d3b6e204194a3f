"""Bayesian regressions: linear with its conjugate prior, and logistic."""

from __future__ import annotations

import math
from contextlib import suppress

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Data, check_magnitude, check_mapping, check_positive, check_table
from zoo.distributions.normal_inverse_gamma import NormalInverseGamma
from zoo.errors import ZooError
from zoo.model import Model
from zoo.nn.likelihoods import BernoulliLogits
from zoo.program.vectorise import LinAlgError

#: Newton's steps to a mode, and halvings of each, at most; and nats from the mode that are near enough to start a fit.
NEWTON, HALVINGS, NEAR = 50, 10, 0.01


class LinearRegression(Model):
    """σ² ~ InverseGamma(a, b), β | σ² ~ N(0, σ²/λ I), y_i ~ N(β₀ + x_iᵀ β, σ²). The data set is one unit.

    Conjugate: (β, σ²) given y is normal-inverse-gamma again, and the evidence a multivariate Student-t, so this is
    the one model with shared latents whose posterior *and* log evidence are exact.

    Latents: ``variance`` σ² (in log coordinates), ``weights`` β (D + 1,), the intercept first.

    Args:
        x: ``{"X": (rows, D), "y": (rows,)}``; standardise the columns of X, or the prior is not what it looks.
        concentration, rate: a and b.
        precision: λ.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; a prior is not positive.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, §3.3 and exercise 3.12;
    https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

    >>> x = {"X": torch.randn(20, 2), "y": torch.randn(20)}
    >>> model = LinearRegression(x)
    >>> model.log_evidence(x).shape, model.posterior(x).event_shape
    (torch.Size([1]), torch.Size([4]))
    """

    pure = True
    dims = {"weights": ("coefficient",)}

    def __init__(self, x: Data, concentration: float = 1.0, rate: float = 1.0, precision: float = 1.0):
        super().__init__()
        check_design(x, self.label)
        check_positive(self.label, concentration=concentration, rate=rate, precision=precision)
        self.concentration, self.rate, self.precision = concentration, rate, precision

    def forward(self, x: dict[str, Tensor]) -> None:
        one = x["X"].new_ones(())
        variance = pyro.sample("variance", dist.InverseGamma(self.concentration * one, self.rate * one))
        prior = dist.Normal(0.0 * one, (variance / self.precision).sqrt())
        weights = pyro.sample("weights", prior.expand([x["X"].shape[1] + 1]).to_event(1))
        with pyro.plate("rows", len(x["y"])):
            pyro.sample("y", dist.Normal(design(x) @ weights, variance.sqrt()), obs=x["y"])

    def posterior(self, x: Data) -> NormalInverseGamma:
        return self._conjugate(x)[0]

    def log_evidence(self, x: Data) -> Tensor:
        posterior, y = self._conjugate(x)
        a, b = torch.as_tensor(self.concentration).to(y), torch.as_tensor(self.rate).to(y)
        log_det = posterior.precision_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        prior_log_det = 0.5 * posterior.loc.shape[-1] * math.log(self.precision)
        evidence: Tensor = (
            prior_log_det - log_det + a * b.log() - posterior.concentration * posterior.rate.log()
            + posterior.concentration.lgamma() - a.lgamma() - 0.5 * len(y) * math.log(2 * math.pi))
        return evidence

    def _conjugate(self, x: Data) -> tuple[NormalInverseGamma, Tensor]:
        data = check_mapping(x, ("X", "y"), self.label)
        y, phi = data["y"], design(data)
        precision = phi.T @ phi + self.precision * torch.eye(phi.shape[1]).to(phi)
        factor = torch.linalg.cholesky(precision)
        loc = torch.cholesky_solve((phi.T @ y)[:, None], factor)[:, 0]
        # yᵀy − locᵀ Λ loc as a sum of squares: no cancellation.
        excess = (y - phi @ loc).square().sum() + self.precision * loc.square().sum()
        concentration = (self.concentration + 0.5 * len(y)) * y.new_ones(1)
        return NormalInverseGamma(loc[None], factor[None], concentration, self.rate + 0.5 * excess[None]), y


class LogisticRegression(Model):
    """β ~ N(0, scale² I), y_i ~ Bernoulli(sigmoid(β₀ + x_iᵀ β)). The data set is one unit.

    Latents: ``weights`` β (D + 1,), the intercept first.

    Args:
        x: ``{"X": (rows, D), "y": (rows,) of 0 and 1}``; standardise the columns of X.
        scale: the prior's standard deviation.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; y is not 0 and 1.

    Source: Gelman et al. (2013), Bayesian Data Analysis, §16.3; http://www.stat.columbia.edu/~gelman/book/

    >>> x = {"X": torch.randn(20, 2), "y": torch.ones(20)}
    >>> LogisticRegression(x).latents(x).size
    3
    """

    pure = True
    dims = {"weights": ("coefficient",)}

    def __init__(self, x: Data, scale: float = 1.0):
        super().__init__()
        data = check_design(x, self.label)
        if not bool(((data["y"] == 0) | (data["y"] == 1)).all()):
            raise ZooError("expected y of 0 and 1 for logistic_regression; got other values; recode the classes")
        check_positive(self.label, scale=scale)
        self.scale = scale

    def forward(self, x: dict[str, Tensor]) -> None:
        prior = dist.Normal(x["X"].new_zeros(()), self.scale)
        weights = pyro.sample("weights", prior.expand([x["X"].shape[1] + 1]).to_event(1))
        with pyro.plate("rows", len(x["y"])):
            pyro.sample("y", BernoulliLogits(logits=weights @ design(x).mT), obs=x["y"])

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return the posterior's mode to a hundredth of a nat, by Newton's method. Its log-density is concave.

        A step is halved until the slope along it is smaller at its end than at its beginning.

        Source: Bishop (2006), Pattern Recognition and Machine Learning, §4.3.3 and §4.5.1
        """
        data = check_mapping(x, ("X", "y"), self.label)
        # A column's values one after the other: products over the rows are quicker by a quarter.
        columns, y = design(data).double().mT.contiguous(), data["y"].double()
        weights, precision = y.new_zeros(len(columns)), self.scale**-2

        def slope(at: Tensor) -> tuple[Tensor, Tensor]:
            chance = (at @ columns).sigmoid()
            return columns @ (y - chance) - precision * at, chance

        here, chance = slope(weights)
        with suppress(LinAlgError):  # columns that differ by less than rounding: what was found so far will do
            for _ in range(NEWTON):
                curvature = (chance * (1 - chance) * columns) @ columns.mT + precision * torch.eye(len(weights)).to(y)
                step = torch.cholesky_solve(here[:, None], torch.linalg.cholesky(curvature))[:, 0]
                rise = float(here @ step)
                if rise < 2 * NEAR:  # a quadratic would rise by half of it
                    break
                for _ in range(HALVINGS):
                    ahead, (there, chance) = weights + step, slope(weights + step)
                    if abs(float(there @ step)) < rise:
                        break
                    step, rise = 0.5 * step, 0.5 * rise
                weights, here = ahead, there
        return {"weights": weights.to(data["y"])}


def check_design(x: Data, name: str) -> dict[str, Tensor]:
    """Return ``x`` with X a table without constant columns and y of its length."""
    data = dict(check_mapping(x, ("X", "y"), name))
    check_table(data["X"], name)
    if data["y"].ndim != 1:
        raise ZooError(f"expected y of shape (rows,) for {name}; got {tuple(data['y'].shape)}; pass one column")
    check_magnitude(data["y"], name)
    return data


def design(x: dict[str, Tensor] | Data) -> Tensor:
    """Return (1, X): the intercept's column first."""
    covariates: Tensor = x["X"]  # type: ignore[index]
    return torch.cat([torch.ones_like(covariates[:, :1]), covariates], 1)
