"""Linear-response covariances."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.diagnostics.linear_response import linear_response
from tests.foreign.posteriors import POSTERIORS, REFERENCE
from zoo.errors import ZooError

COVARIANCE = torch.tensor([[1.0, 0.8, -0.3], [0.8, 2.0, 0.1], [-0.3, 0.1, 0.5]], dtype=torch.float64)
X = torch.zeros(4, 3, dtype=torch.float64)


def correlated(x: Tensor) -> None:
    z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(3), COVARIANCE))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(z, 1e3).to_event(1), obs=x)


def rows(x: Tensor) -> None:
    """Each row has a posterior of covariance (C⁻¹ + I)⁻¹."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(3), COVARIANCE))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_covariances_of_normals_are_exact() -> None:
    done = experiments.fit(correlated, "mean_field", X, progress=False)
    found = linear_response(done.model, done.guide, X)
    torch.testing.assert_close(found.covariance_matrix[0], COVARIANCE, rtol=1e-3, atol=1e-4)
    own = done.guide.posterior(X).variance[0].detach()
    torch.testing.assert_close(own, 1 / torch.linalg.inv(COVARIANCE).diagonal(), rtol=1e-3, atol=1e-4)


def test_each_unit_has_its_own() -> None:
    done = experiments.fit(rows, "mean_field", X, progress=False)
    found = linear_response(done.model, done.guide, X)
    exact = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.covariance_matrix, exact.expand(4, 3, 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["arK-arK", "kilpisjarvi_mod-kilpisjarvi", "sblrc-blr"])
def test_deviations_of_posteriordb_are_right_where_mean_fields_are_not(name: str) -> None:
    program, arguments = POSTERIORS[name]
    table = experiments.compare(program, args=arguments, guides=["mean_field"], effort="none", progress=False)
    worst = {}
    for sd in ("guide", "linear_response"):
        tree = experiments.posterior(table.model, table.guide("mean_field"), table.x, draws=8000, groups=["posterior"], sd=sd)
        columns = {}
        for site, values in tree["posterior"].data_vars.items():
            flat = values.values[0].reshape(8000, -1).T
            columns |= {f"{site}[{i + 1}]" if values.ndim > 2 else str(site): column for i, column in enumerate(flat)}
        ratio = np.array([columns[each].std() for each in REFERENCE[name]["names"]]) / REFERENCE[name]["sd"]
        worst[sd] = np.abs(ratio - 1).max()
    assert worst["guide"] > 0.4
    assert worst["linear_response"] < 0.1


def test_what_has_no_linear_response_is_said() -> None:
    bad = zoo.as_model(bimodal)
    guide = guides.build("mean_field", bad, X)
    with torch.no_grad():
        guide.amortisation.phi["loc"].zero_()
        guide.amortisation.phi["log_scale"].fill_(-3.0)
    with pytest.raises(ZooError, match="expected 'mean_field' at an optimum of its ELBO for linear response"):
        linear_response(bad, guide, X)
    model = zoo.as_model(correlated)
    with pytest.raises(ZooError, match="expected a normal guide with parameters of its own for linear response; got 'flow'"):
        linear_response(model, guides.build("flow", model, X), X)
    with pytest.raises(ZooError, match="expected sd as one of guide, linear_response; got 'both'"):
        experiments.posterior(model, "prior", X, sd="both")


def bimodal(x: Tensor) -> None:
    """At the middle of two modes log p bends upwards."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    pyro.factor("x", torch.logaddexp(-50 * (z - 1).square().sum(), -50 * (z + 1).square().sum()))
