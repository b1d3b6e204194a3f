"""Nested importance weights, where rows share latents and own others."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.log_evidence.brackets.nested import nested_bracket
from experiments.log_evidence.proposals.conditional import RowDensities, modes, nests, row_proposals
from tests.programs import TAU, hierarchical_normal, log_evidence, simulated
from zoo.structure.blocks import blocks

X = simulated(60, 0)


def counts(x: Tensor) -> None:
    """A local latent that is not normal given the shared one: log rates of counts."""
    u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(u, 0.7))
        pyro.sample("x", dist.Poisson(z.exp()), obs=x)


def evidence_of_counts(x: Tensor) -> float:
    """Return log p(x) of :func:`counts`, by quadrature of both latents on a grid."""
    u = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    z = u[:, None] + torch.linspace(-6, 6, 1201, dtype=torch.float64)
    step = float(u[1] - u[0])
    prior = dist.Normal(u[:, None], 0.7).log_prob(z)
    values, times = x.unique(return_counts=True)
    rows = [n * (prior + dist.Poisson(z.exp()).log_prob(value)).logsumexp(1) for value, n in zip(values, times, strict=True)]
    total = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(u) + sum(rows)
    return float(total.logsumexp(0)) + (len(x) + 1) * math.log(step)


@pytest.mark.parametrize("text", ["mean_field", "mean_field+mean_field"])
def test_the_bracket_holds_a_conjugate_evidence(text: str) -> None:
    model = zoo.as_model(hierarchical_normal)
    found = nested_bracket(model, experiments.fit(model, text, X, progress=False).guide, X)
    assert found is not None
    assert found.kind == "estimated"
    assert found.lower_limit < log_evidence(X) < found.upper_limit
    assert found.width < 0.15  # the joint weights' own is several nats


def test_the_bracket_holds_an_evidence_by_quadrature() -> None:
    x = torch.tensor([0.0, 3.0, 1.0, 7.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    model = zoo.as_model(counts)
    found = nested_bracket(model, experiments.fit(model, "mean_field+mean_field", x, progress=False).guide, x, seed=2)
    assert found is not None
    assert found.lower_limit < evidence_of_counts(x) < found.upper_limit
    assert found.width < 0.15


def test_exact_posterior_draws_bracket_it_too() -> None:
    model = zoo.as_model(hierarchical_normal)
    guide = experiments.fit(model, "mean_field+mean_field", X, progress=False).guide
    precision = 1 / TAU**2 + len(X) / 2
    with zoo.seeded(0):
        u = X.sum() / 2 / precision + torch.randn(20, 1, dtype=X.dtype) * precision**-0.5
        z = (X + u)[..., None] / 2 + torch.randn(20, 60, 1, dtype=X.dtype) * 0.5**0.5
    found = experiments.bracket(model, guide, X, blocks(model, X).join(u, z), method="nested")
    assert found.kind == "bracketed"
    assert found.lower_limit < log_evidence(X) < found.upper_limit


def test_rows_that_are_normal_given_the_shared_latents_have_constant_weights() -> None:
    model = zoo.as_model(hierarchical_normal)
    density = RowDensities(model, X, blocks(model, X))
    u = torch.tensor([[-1.0], [4.0]], dtype=X.dtype)
    with zoo.seeded(0):
        found = row_proposals(density, u, [], torch.zeros(60, 1, dtype=X.dtype))
        _, weight = found.log_weights(found.sample(3))
    assert found.exact
    exact = dist.Normal(u, 2.0**0.5).log_prob(X)
    torch.testing.assert_close(weight, exact.expand(3, 2, 60), rtol=0, atol=1e-8)


def test_modes_are_where_the_slope_is_nothing() -> None:
    model = zoo.as_model(counts)
    x = torch.tensor([0.0, 40.0], dtype=torch.float64)
    u = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    z, tril = modes(RowDensities(model, x, blocks(model, x)), u, torch.zeros(2, 2, 1, dtype=torch.float64))
    slope = x - z[..., 0].exp() - (z[..., 0] - u) / 0.49
    assert float(slope.abs().max()) < 1e-3
    torch.testing.assert_close(tril[..., 0, 0] ** -2, z[..., 0].exp() + 1 / 0.49, rtol=1e-4, atol=0)


def test_a_bracket_comes_from_nested_weights_where_rows_share_latents() -> None:
    model = zoo.as_model(hierarchical_normal)
    found = experiments.evidence(model, X, experiments.fit(model, "mean_field", X, progress=False).guide)
    assert found.method == "nested"
    assert found.lower < log_evidence(X) < found.upper


def test_other_models_have_none() -> None:
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x, latent=2)
    assert not nests(model, x)
    with pytest.raises(zoo.ZooError, match="expected rows that share up to 64 latents and own up to 16 each"):
        experiments.bracket(model, guides.build("prior", model, x), x, method="nested")


@pytest.mark.long
def test_intervals_of_nested_weights_cover() -> None:
    model, inside = zoo.as_model(hierarchical_normal), 0
    for seed in range(100):
        x = simulated(60, seed)
        found = nested_bracket(model, experiments.fit(model, "mean_field+mean_field", x, progress=False).guide, x, seed=seed)
        inside += found is not None and found.lower_limit <= log_evidence(x) <= found.upper_limit
    assert inside >= 90
