"""Latents that are directions, on a sphere: their coordinates are vectors of any length, whose density has its integral."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
from zoo.program.sites.spheres import Direction


@pytest.mark.parametrize("d", [2, 3, 4])
def test_the_coordinates_of_a_uniform_direction_are_standard_normal(d: int) -> None:
    z = torch.randn(5, d, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    map_ = Direction()
    u = map_(z)
    uniform = dist.ProjectedNormal(torch.zeros(d).double()).log_prob(u)
    found = uniform + map_.log_abs_det_jacobian(z, u)
    torch.testing.assert_close(found, torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))
    torch.testing.assert_close(map_(map_.inv(u)), u)
    assert float(map_(torch.zeros(d)).norm()) == 1.0


def compass(x: Tensor) -> None:
    u = pyro.sample("u", dist.ProjectedNormal(torch.tensor([1.0, 0.5]).double()))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(u, 0.5).to_event(1), obs=x)


def test_the_evidence_of_a_direction_is_that_by_quadrature() -> None:
    x = torch.tensor([[0.9, 0.1], [0.8, -0.3], [1.1, 0.4]], dtype=torch.double)
    angle = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.double)
    u = torch.stack([angle.cos(), angle.sin()], -1)
    log_p = dist.ProjectedNormal(torch.tensor([1.0, 0.5]).double()).log_prob(u)
    log_p = log_p + dist.Normal(u[:, None], 0.5).log_prob(x).sum((-1, -2))
    truth = math.log(float(torch.trapezoid(log_p.exp(), angle)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*quadrature of compass did not settle")  # the density jumps at length zero
        table = experiments.compare(compass, x, ["full_rank"])
    found = table.evidence
    assert abs(found.middle - truth) < max(5 * found.se, 1e-4)
    tree = experiments.posterior(table.model, table.guide("full_rank"), x, draws=20)
    torch.testing.assert_close(
        torch.as_tensor(tree["posterior"]["u"].values).norm(dim=-1), torch.ones(1, 20, dtype=torch.double))
    z = zoo.as_model(compass).sample_prior(x, 3)
    assert z.shape == (3, 1, 2)
