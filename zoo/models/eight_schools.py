"""The hierarchical normal model of the eight schools."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.data import Data, check_mapping, reference
from zoo.errors import ZooError
from zoo.model import Model


class EightSchools(Model):
    """μ ~ N(0, 5), τ ~ HalfCauchy(5), θ_j ~ N(μ, τ), y_j ~ N(θ_j, σ_j): effects of one treatment in J places.

    All schools share μ and τ: the data set is one unit. Non-centred (θ = μ + τ η, η ~ N(0, 1)) by default, which
    Gaussian guides follow far better than the funnel of the centred form.

    Args:
        x: ``{"y": (J,), "sigma": (J,)}``: estimates and their standard errors, J ≥ 2.
        centred: sample θ itself.

    Raises:
        ZooError: y or sigma is missing, of other length, not finite, or a sigma is not positive.

    Source: Rubin (1981), Estimation in parallel randomized experiments, J. Educ. Stat. 6,
    https://doi.org/10.3102/10769986006004377; Gelman et al. (2013), Bayesian Data Analysis, §5.5.

    >>> import torch
    >>> x = {"y": torch.tensor([28.0, 8.0]), "sigma": torch.tensor([15.0, 10.0])}
    >>> EightSchools(x).latents(x).coordinates()
    ['mu', 'tau', 'eta[0]', 'eta[1]']
    """

    pure = True
    def __init__(self, x: Data, centred: bool = False):
        super().__init__()
        data = check_mapping(x, ("y", "sigma"), self.label)
        if len(data["y"]) < 2:
            raise ZooError(f"expected at least 2 rows for eight_schools; got {len(data['y'])}; add data")
        if bool((data["sigma"] <= 0).any()):
            row = int((data["sigma"] <= 0).nonzero()[0])
            raise ZooError(f"expected positive standard errors sigma; got {float(data['sigma'][row])} in row {row}; mend it")
        self.centred = centred

    def forward(self, x: dict[str, Tensor]) -> None:
        zero = reference(x).new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
        with pyro.plate("school", len(x["y"])):
            if self.centred:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                eta = pyro.sample("eta", dist.Normal(zero, 1.0))
                theta = pyro.deterministic("theta", mu + tau * eta)
            pyro.sample("y", dist.Normal(theta, x["sigma"]), obs=x["y"])

    def extra_repr(self) -> str:
        return f"centred={self.centred}"
