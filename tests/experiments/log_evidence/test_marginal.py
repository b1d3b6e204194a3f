"""Ascents of log p(x, u), and the modes of shared latents that they find."""

from __future__ import annotations

import pytest
import torch

import experiments
import zoo
from experiments.log_evidence.proposals.marginal import MarginalAscents
from experiments.log_evidence.proposals.restarts import search
from tests.experiments.log_evidence.test_nested import counts
from tests.programs import TAU, hierarchical_normal, log_evidence, simulated

X = simulated(60, 0)


def test_density_gradient_and_curvature_are_exact_where_rows_are_normal() -> None:
    """p(u, x) = N(u | 0, τ²) Π_i N(x_i | u, 2)."""
    model = zoo.as_model(hierarchical_normal)
    with zoo.seeded(0), torch.no_grad():
        ascents = MarginalAscents.of(model, X, model.sample_prior(X, 32)[:, 0], 1)
        u = torch.tensor([[-0.5], [0.3]], dtype=torch.float64)
        value, gradient = ascents.density(u / ascents.scale)
        _, curvature = ascents._curvature(u / ascents.scale)
    normal = torch.distributions.Normal
    expected = normal(torch.zeros_like(u[:, 0]), TAU).log_prob(u[:, 0]) + normal(u, 2**0.5).log_prob(X).sum(1)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)
    slope = -u / TAU**2 + (X - u).sum(1, keepdim=True) / 2
    torch.testing.assert_close(gradient / ascents.scale, slope, rtol=1e-9, atol=1e-9)
    bend = 1 / TAU**2 + len(X) / 2
    torch.testing.assert_close(curvature[:, 0, 0] / ascents.scale**2, torch.full((2,), bend, dtype=torch.float64))


def test_the_mass_of_rows_that_are_not_normal_is_near() -> None:
    x = torch.tensor([0.0, 3.0, 1.0, 7.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    model = zoo.as_model(counts)
    with zoo.seeded(0):
        found = search(model, x, [])
    assert found is not None
    assert found.loc.shape == (1, 1)
    exact = experiments.evidence(model, x, experiments.fit(model, "full_rank", x, progress=False).guide)
    assert abs(float(found.log_mass[0]) - exact.value) < 0.1


def test_a_mass_is_exact_where_all_is_normal_and_its_components_are_the_posterior() -> None:
    model = zoo.as_model(hierarchical_normal)
    with zoo.seeded(0), torch.no_grad():
        found = search(model, X, [])
        assert found is not None
        assert float(found.log_mass[0]) == pytest.approx(log_evidence(X), abs=1e-5)
        [component] = found.components()
        z = component.sample(torch.Size([16]))
        weight = model.log_joint(X, z)[:, 0] - component.log_prob(z)[:, 0]
    torch.testing.assert_close(weight, torch.full_like(weight, log_evidence(X)), rtol=0, atol=1e-4)


def test_a_good_guide_at_one_of_two_modes_is_no_evidence_that_there_is_one() -> None:
    """Loadings of either sign are as good: without the other mode, log p(x) came out log 2 too low, and narrow."""
    x = zoo.dataset("iris").x[::5]
    model = zoo.build("bayesian_ppca", x, latent=1)
    fitted = experiments.fit(model, "full_rank+full_rank:free(shared=True)", x, progress=False)
    found = experiments.evidence(model, x, fitted.guide)
    assert found.kind == "estimated"
    assert found.lower is not None
    assert found.upper is not None
    # −119.6437 ± 0.0012 by 1,200,000 draws about both modes, with log p(x, u) in closed form.
    assert found.lower < -119.644 < found.upper
    assert found.upper - found.lower < 0.35
    assert "of 2 found, 'full_rank+full_rank:free(shared=True)' holds 1" in found.remark


def test_a_ridge_has_no_modes() -> None:
    """Two columns of loadings can be rotated: ends are all over a circle, and each would pass for a mode of its own."""
    x = zoo.dataset("iris").x[::5]
    with zoo.seeded(0):
        assert search(zoo.build("bayesian_ppca", x, latent=2), x, []) is None
