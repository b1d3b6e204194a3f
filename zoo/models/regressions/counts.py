"""Regressions of counts: Poisson and negative binomial, with an intercept for each group, and zero-inflated Poisson."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Data, check_positive
from zoo.distributions.log_poisson import LogPoisson
from zoo.errors import ZooError
from zoo.model import Model
from zoo.models.regression import check_design
from zoo.models.regressions.hierarchical import count_groups

#: The standard deviation of the intercept's prior: e^±10 lies within two of them.
WIDE = 5.0


class CountRegression(Model):
    """The logarithm of a rate as a linear function of covariates, with an intercept for each group or one for all.

        intercept ~ N(0, 5²),  weights ~ N(0, scale² I),  log rate_i = intercept + x_iᵀ weights [+ spread · offsets_{j[i]}],
        [spread ~ HalfNormal(1),  offsets_j ~ N(0, 1)]

    A subclass says how counts are distributed around their rates. All its latents are shared, so the data set is one unit.

    Args:
        x: ``{"X": (rows, D), "y": (rows,) of whole numbers}``, and where ``grouped``, ``"group"``: (rows,) whole numbers from
            0.
        grouped: whether each group has an intercept of its own.
        scale: the standard deviation of the weights' prior.
    """

    pure = True
    dims = {"weights": ("column",)}

    def __init__(self, x: Data, grouped: bool = True, scale: float = 1.0):
        super().__init__()
        check_counts(check_design(x, self.label)["y"], self.label)
        check_positive(self.label, scale=scale)
        self.groups = count_groups(x, self.label) if grouped else 0
        self.scale = scale

    def log_rates(self, x: dict[str, Tensor]) -> Tensor:
        """Sample the coefficients and return log rate_i, (rows,)."""
        zero = x["X"].new_zeros(())
        intercept = pyro.sample("intercept", dist.Normal(zero, WIDE))
        weights = pyro.sample("weights", dist.Normal(zero, self.scale).expand([x["X"].shape[1]]).to_event(1))
        slopes: Tensor = weights @ x["X"].mT
        if not self.groups:
            return intercept + slopes
        spread = pyro.sample("spread", dist.HalfNormal(zero + 1.0))
        with pyro.plate("group", self.groups):
            offsets = pyro.sample("offsets", dist.Normal(zero, 1.0))
            intercepts = pyro.deterministic("intercepts", intercept + spread * offsets)
        return intercepts.index_select(-1, x["group"]) + slopes

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class PoissonRegression(CountRegression):
    """Poisson regression: y_i ~ Poisson(rate_i), with an intercept for each group or one for all.

        intercept ~ N(0, 5²),  weights ~ N(0, scale² I),  spread ~ HalfNormal(1),  offsets_j ~ N(0, 1),
        log rate_i = intercept + x_iᵀ weights + spread · offsets_{j[i]}

    All latents are shared: the rows of the unit plate own none, so the data set is one unit. Without groups the last term is
    left out, and the program has a linear predictor.

    Latents: ``intercept``; ``weights`` (D,); of groups ``spread`` and ``offsets``, whose sums with the intercept are
    ``intercepts``.

    Args:
        x: ``{"X": (rows, D), "y": (rows,) of whole numbers}``, and where ``grouped``, ``"group"``: (rows,) whole numbers from
            0; standardise the columns of X.
        grouped: whether each group has an intercept of its own.
        scale: the standard deviation of the weights' prior.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; y is not whole; fewer than 2
            groups.

    Source: Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models, §6.2 and ch. 15,
    http://www.stat.columbia.edu/~gelman/arm/

    >>> x = {"X": torch.randn(20, 2), "y": torch.arange(20.0), "group": torch.arange(20) % 4}
    >>> PoissonRegression(x).latents(x).size               # 1 intercept, 2 weights, 1 spread, 4 offsets
    8
    """

    def forward(self, x: dict[str, Tensor]) -> None:
        log_rates = self.log_rates(x)
        with pyro.plate("rows", len(x["X"])):
            pyro.sample("y", LogPoisson(log_rates), obs=x.get("y"))


class NegativeBinomialRegression(CountRegression):
    """Negative binomial regression: counts that spread more than a Poisson's around their rates.

        concentration ~ Gamma(2, 0.1),  y_i ~ NegativeBinomial(mean rate_i, variance rate_i + rate_i² / concentration),

    with rates and their coefficients as those of :class:`PoissonRegression`, to which the model comes for large concentrations.
    All latents are shared: the data set is one unit.

    Latents: those of :class:`PoissonRegression`, and ``concentration``.

    Args:
        x: ``{"X": (rows, D), "y": (rows,) of whole numbers}``, and where ``grouped``, ``"group"``: (rows,) whole numbers from
            0; standardise the columns of X.
        grouped: whether each group has an intercept of its own.
        scale: the standard deviation of the weights' prior.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; y is not whole; fewer than 2
            groups.

    Source: Gelman and Hill (2007), §6.2 and ch. 15, http://www.stat.columbia.edu/~gelman/arm/; for the prior: Prior choice
    recommendations of Stan, https://github.com/stan-dev/stan/wiki/Prior-Choice-Recommendations

    >>> x = {"X": torch.randn(20, 2), "y": torch.arange(20.0)}
    >>> NegativeBinomialRegression(x, grouped=False).latents(x).coordinates()
    ['intercept', 'weights[0]', 'weights[1]', 'concentration']
    """

    def forward(self, x: dict[str, Tensor]) -> None:
        log_rates, one = self.log_rates(x), x["X"].new_ones(())
        concentration = pyro.sample("concentration", dist.Gamma(2.0 * one, 0.1 * one))
        with pyro.plate("rows", len(x["X"])):
            logits = log_rates - concentration.log()
            pyro.sample("y", dist.NegativeBinomial(concentration, logits=logits), obs=x.get("y"))


class ZeroInflatedPoisson(CountRegression):
    """Poisson regression of counts some of which are zero whatever their rate: those whose gate is closed.

        share ~ Beta(1, 1),  gate_i ~ Bernoulli(share),  y_i ~ Poisson(rate_i) where gate_i = 0, else y_i = 0,
        intercept ~ N(0, 5²),  weights ~ N(0, scale² I),  log rate_i = intercept + x_iᵀ weights

    The gates are local, one for each row of the unit plate, and are summed out by enumeration; all other latents are shared, so
    the data set is one unit. ``experiments.posterior(..., infer_discrete=True)`` has the gates again.

    Latents: ``share``, ``intercept``, ``weights`` (D,); ``gate`` (rows,), summed out.

    Args:
        x: ``{"X": (rows, D), "y": (rows,) of whole numbers}``; standardise the columns of X.
        scale: the standard deviation of the weights' prior.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; y is not whole.

    Source: Lambert (1992), Zero-inflated Poisson regression, with an application to defects in manufacturing, Technometrics 34,
    https://doi.org/10.2307/1269547

    >>> x = {"X": torch.randn(20, 2), "y": torch.arange(20.0) % 3}
    >>> ZeroInflatedPoisson(x).latents(x).coordinates()
    ['share', 'intercept', 'weights[0]', 'weights[1]']
    """

    def __init__(self, x: Data, scale: float = 1.0):
        super().__init__(x, grouped=False, scale=scale)

    def forward(self, x: dict[str, Tensor]) -> None:
        one = x["X"].new_ones(())
        share = pyro.sample("share", dist.Beta(one, one))
        log_rates = self.log_rates(x)
        with pyro.plate("rows", len(x["X"])):
            gate = pyro.sample("gate", dist.Bernoulli(share), infer={"enumerate": "parallel"})
            counts = dist.MaskedMixture(gate > 0, LogPoisson(log_rates), dist.Poisson(torch.zeros_like(log_rates)))
            pyro.sample("y", counts, obs=x.get("y"))

    def extra_repr(self) -> str:
        return ""


def check_counts(y: Tensor, name: str) -> None:
    """Raise a :class:`ZooError` unless ``y`` of the model ``name`` has whole numbers from 0 up alone."""
    bad = ((y < 0) | (y != y.round())).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ZooError(
            f"expected whole numbers from 0 up as y of {name}; got {float(y[row]):g} in row {row} (from 0); round or drop "
            "them, or use a regression of real numbers")
