"""The posteriors of posteriordb: exact log normalisers, and guides against reference draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import experiments
from tests.foreign.posteriors import POSTERIORS, REFERENCE, forward
from tests.foreign.run_posteriors import DEVIATIONS, MEANS, agrees, errors

EXACT = [name for name, reference in REFERENCE.items() if "log_normaliser" in reference]


def log_marginal(x: Tensor, y: Tensor, log_sigma: Tensor, half_cauchy: bool) -> Tensor:
    """Return log ∫ p(y | β, σ) p(σ) dβ at each of log σ, with a flat prior on β: least squares and a determinant."""
    residual = y - x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    free = len(y) - x.shape[1]
    log_det = torch.linalg.slogdet(x.mT @ x)[1]
    log_prior = torch.distributions.HalfCauchy(2.5).log_prob(log_sigma.exp()) if half_cauchy else 0.0
    return (
        log_prior - 0.5 * free * math.log(2 * math.pi) - 0.5 * log_det - free * log_sigma
        - 0.5 * residual.square().sum() * (-2 * log_sigma).exp())


@pytest.mark.parametrize("name", EXACT)
def test_log_normalisers_by_quadrature_in_one_dimension(name: str) -> None:
    """By the trapezoid rule over log σ, which is exact to rounding for such a bell."""
    program, (x, y) = POSTERIORS[name]
    scale = (y - x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0]).square().mean().sqrt().log()
    log_sigma = scale + torch.linspace(-2, 2, 4001, dtype=torch.double)
    half = program.__name__ == "regression_half_cauchy"
    total = (log_marginal(x, y, log_sigma, half) + log_sigma).logsumexp(0) + (log_sigma[1] - log_sigma[0]).log()
    assert float(total) == pytest.approx(REFERENCE[name]["log_normaliser"], abs=1e-4)


def test_products_in_pairs_are_the_forward_algorithm() -> None:
    generator = torch.Generator().manual_seed(0)
    for times in (2, 3, 7, 16):
        likelihood = torch.randn(times, 2, generator=generator, dtype=torch.double)
        transition = torch.randn(2, 2, generator=generator, dtype=torch.double).log_softmax(-1)
        alpha = likelihood[0]
        for each in likelihood[1:]:
            alpha = (alpha[:, None] + transition).logsumexp(0) + each
        assert float(forward(likelihood, transition)) == pytest.approx(float(alpha.logsumexp(0)))


def quick(*names: str) -> list[Any]:
    return [name if name in names else pytest.param(name, marks=pytest.mark.long) for name in EXACT]


@pytest.mark.parametrize("name", quick("earnings-earn_height", "kidiq-kidscore_momiq", "mesquite-mesquite"))
def test_full_rank_has_the_moments_of_the_reference_and_an_elbo_just_below_the_normaliser(name: str) -> None:
    program, arguments = POSTERIORS[name]
    fit = experiments.fit(program, "full_rank", *arguments, progress=False)
    means, (low, high) = errors(fit.model, fit.guide, fit.guide.fitted, REFERENCE[name])
    assert means < MEANS
    assert max(-low, high) < DEVIATIONS
    elbo = experiments.log_weights(fit.model, fit.guide, fit.guide.fitted, 4096).elbo()
    assert -0.15 < elbo.value - REFERENCE[name]["log_normaliser"] < 4 * elbo.se


@pytest.mark.parametrize("name", quick("mesquite-logmesquite_logvolume"))
def test_regressions_have_their_normaliser_in_the_interval(name: str) -> None:
    program, arguments = POSTERIORS[name]
    table = experiments.compare(program, args=arguments, guides=["full_rank"], progress=False)
    assert agrees(table.to_dict()["log_evidence"], REFERENCE[name]["log_normaliser"])
