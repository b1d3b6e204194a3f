"""Lattices in place of draws of rows' own latents, against integrals that are known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import zoo
from experiments.log_evidence.brackets.nested import nested_bracket
from experiments.log_evidence.proposals.conditional import ROUGH, RowDensities, row_proposals
from experiments.log_evidence.proposals.lattice import Lattice
from guides import build
from tests.experiments.log_evidence.test_nested import counts, evidence_of_counts
from zoo.structure.blocks import blocks

DOUBLE = torch.float64


def about(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return places and factors of ``count`` skewed lattices."""
    tril = torch.eye(size, dtype=DOUBLE) + 0.5 * torch.ones(size, size, dtype=DOUBLE).tril(-1)
    return torch.ones(count, size, dtype=DOUBLE), tril.expand(count, size, size)


@pytest.mark.parametrize("size", [1, 2])
def test_the_sum_of_a_normal_is_its_integral(size: int) -> None:
    loc, tril = about(200, size)
    wide = dist.MultivariateNormal(loc + 0.7, scale_tril=1.3 * tril)  # not the one that the lattice is laid for
    with zoo.seeded(0):
        lattice = Lattice.about(loc, tril)
    value, variance, reaches = lattice.total(wide.log_prob(lattice.z))
    assert bool(reaches.all())
    error = value.exp() - 1
    assert float(error.abs().max()) < 2e-3
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(200)  # a random shift makes it unbiased
    assert float(error.square().mean()) < float(variance.mean())


@pytest.mark.parametrize("size", [1, 2])
def test_a_lattice_goes_through_a_draw(size: int) -> None:
    loc, tril = about(50, size)
    with zoo.seeded(0):
        own = dist.MultivariateNormal(loc, scale_tril=tril).sample()
    z = Lattice.about(loc, tril, own).z
    assert float((z - own).norm(dim=-1).amin(0).max()) < 1e-10


def test_a_density_that_goes_on_beyond_is_told() -> None:
    lattice = Lattice.about(*about(10, 1))
    assert not bool(lattice.total(dist.Cauchy(1.0, 1.0).log_prob(lattice.z[..., 0]))[2].any())


def test_rows_of_counts_have_their_conditional_evidence() -> None:
    """An unlikely count, none, and many: log p(x_i | u) at three places of the shared latent."""
    x = torch.tensor([0.0, 1.0, 9.0, 250.0], dtype=DOUBLE)
    model = zoo.as_model(counts)
    u = torch.tensor([[-3.0], [0.0], [2.0]], dtype=DOUBLE)
    with zoo.seeded(0):
        found = row_proposals(RowDensities(model, x, blocks(model, x)), u, [], torch.zeros(4, 1, dtype=DOUBLE)).evidence(16)
    z = torch.linspace(-12, 12, 48_001, dtype=DOUBLE)[:, None, None]
    exact = (dist.Normal(u, 0.7).log_prob(z) + dist.Poisson(z.exp()).log_prob(x)).logsumexp(0) + math.log(24 / 48_000)
    torch.testing.assert_close(found.value, exact, atol=2e-3, rtol=0)
    assert float(found.variance.sum(1).max()) < 1e-3


def test_rows_of_two_latents_have_theirs() -> None:
    def two(x: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(u, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=2 * z[..., 0] + z[..., 1]), obs=x)

    x, u = torch.tensor([0.0, 1.0], dtype=DOUBLE), torch.tensor([[0.0], [1.5]], dtype=DOUBLE)
    model = zoo.as_model(two)
    with zoo.seeded(0):
        found = row_proposals(RowDensities(model, x, blocks(model, x)), u, [], torch.zeros(2, 2, dtype=DOUBLE)).evidence(16)
    t = torch.linspace(-40, 40, 80_001, dtype=DOUBLE)[:, None, None]  # 2 z_1 + z_2 is normal
    exact = (dist.Normal(3 * u, math.sqrt(5.0)).log_prob(t) + dist.Bernoulli(logits=t).log_prob(x)).logsumexp(0)
    torch.testing.assert_close(found.value, exact + math.log(80 / 80_000), atol=5e-3, rtol=0)


def test_rows_that_a_lattice_does_not_reach_are_drawn() -> None:
    """Given u, z is Cauchy times Cauchy: its tails go on beyond a lattice about its mode."""
    def heavy(x: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Cauchy(u, 1.0))
            pyro.sample("x", dist.Cauchy(z, 1.0), obs=x)

    x, u = torch.tensor([0.5, 2.0], dtype=DOUBLE), torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    model = zoo.as_model(heavy)
    proposal = row_proposals(RowDensities(model, x, blocks(model, x)), u, [], torch.zeros(2, 1, dtype=DOUBLE))
    with zoo.seeded(0):
        found = proposal.evidence(40_000)
    exact = dist.Cauchy(u, 2.0).log_prob(x)  # the sum of two is Cauchy, of scales added
    assert float((found.value - exact).abs().max()) < 4 * float(found.variance.amax().sqrt())
    assert float(found.variance.amax()) < ROUGH / 100


def test_many_rows_of_counts_have_a_narrow_bracket() -> None:
    """Random draws of so many rows' latents would take hundreds a row: their noise adds up."""
    with zoo.seeded(0):
        x = dist.Poisson(dist.Normal(torch.full((600,), 0.3, dtype=DOUBLE), 0.7).sample().exp()).sample()
    model = zoo.as_model(counts)
    found = nested_bracket(model, build("mean_field+mean_field", model, x), x, draws=256)
    assert found is not None
    assert found.lower_limit < evidence_of_counts(x) < found.upper_limit
    assert found.width < 0.5
