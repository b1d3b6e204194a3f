"""What floating point can't tell of log p(x) is told, and covered."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import betaln
from torch import Tensor

import experiments
import guides
import zoo
from experiments.log_evidence.proposals.restarts import search
from experiments.log_evidence.resolution import Resolution
from experiments.log_evidence.result import Evidence

T = torch.linspace(0, 10, 25, dtype=torch.double)


def successes(a: float, dtype: torch.dtype) -> tuple[zoo.Model, Tensor]:
    def program(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(torch.tensor(a, dtype=dtype), torch.tensor(a, dtype=dtype)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    return zoo.as_model(program), torch.ones(3, dtype=dtype)


def kernel(length: Tensor, t: Tensor) -> Tensor:
    return (-0.5 * ((t[:, None] - t) / length).square()).exp() + 1e-6 * torch.eye(len(t), dtype=t.dtype)


def smooth(y: Tensor) -> None:
    """A Gaussian process all but without noise: float32 can't factor its covariance to the digits that log p asks for."""
    length = pyro.sample("length", dist.LogNormal(torch.zeros((), dtype=y.dtype), 1.0))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), kernel(length, T.to(y))), obs=y)


@pytest.mark.parametrize(("a", "dtype"), [(0.1, torch.double), (0.5, torch.float)])
def test_mass_that_is_rounded_away_leaves_a_lower_bound(a: float, dtype: torch.dtype) -> None:
    """Beta(a, a), three successes: 1 − p is below the resolution of numbers near 1 with a share of the posterior mass."""
    model, y = successes(a, dtype)
    guide = experiments.fit(model, "full_rank", y).guide
    found = experiments.evidence(model, y, guide)
    truth = float(betaln(a + 3, a) - betaln(a, a))
    assert (found.kind, found.upper) == ("lower_bound", None)
    assert found.lower < truth
    assert "of the posterior mass lies where 'p' is rounded to an end of its support" in found.remark


def test_a_prior_that_needs_no_more_digits_is_left_alone() -> None:
    model, y = successes(1.0, torch.double)
    guide = experiments.fit(model, "full_rank", y).guide
    found = experiments.evidence(model, y, guide)
    assert (found.kind, found.remark) == ("quadrature", "")
    assert found.value == pytest.approx(math.log(0.25), abs=1e-4)
    assert Resolution.of(model, guide, y, 0).rounding == 0


def test_a_density_that_float32_rounds_has_an_interval_that_covers_it() -> None:
    y = T.sin().float()
    model = zoo.as_model(smooth)
    guide = guides.build("full_rank", model, y)
    grid = torch.linspace(-4, 4, 2001, dtype=torch.double)
    zero = torch.zeros(25, dtype=torch.double)
    each = torch.stack([dist.MultivariateNormal(zero, kernel(u.exp(), T)).log_prob(y.double()) for u in grid])
    truth = float((each + dist.Normal(0.0, 1.0).log_prob(grid)).logsumexp(0) + (grid[1] - grid[0]).log())
    with torch.no_grad():
        top = grid[each.argmax()]
        guide.amortisation.phi["loc"].fill_(float(top))  # type: ignore[union-attr, operator]
    resolution = Resolution.of(model, guide, y, 0)
    assert abs(resolution.rounding) > 0.1
    units = torch.tensor([78.53])
    found = Evidence("estimated", 78.53, 0.001, 78.528, 78.532, units).resolved(resolution)
    assert found.lower < truth
    assert "float32 changes log p(x | θ) by about" in found.remark
    assert found.covering({"the ELBO": (78.51, 0.003)}).lower < truth  # which is of the same density


def test_one_latent_is_looked_for_far_from_its_prior() -> None:
    """x ~ Cauchy(0), y ~ Cauchy(x), y = 1,000: two modes of one mass, the second beyond all draws of the prior."""
    def program(y: Tensor) -> None:
        one = torch.ones((), dtype=y.dtype)
        x = pyro.sample("x", dist.StudentT(one, 0 * one, one))
        pyro.sample("y", dist.StudentT(one, x, one), obs=y)

    y = torch.tensor(1000.0, dtype=torch.double)
    model = zoo.as_model(program)
    with zoo.seeded(0):
        found = search(model, y, [])
    assert found is not None
    assert sorted(found.loc[:, 0].round().tolist()) == [0.0, 1000.0]
