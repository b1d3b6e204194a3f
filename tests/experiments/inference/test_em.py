"""EM as coordinate ascent on the ELBO: monotone, tight after each E-step, and safe where mixtures degenerate."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import experiments
import zoo
from experiments.inference.em.expectation import e_step, elbo, expected_log_joint, m_step
from experiments.optimisers.anderson import Anderson
from zoo.program.run import seeded

CASES = [("gmm", {"components": 3, "covariance": c}) for c in ("full", "tied", "diag", "spherical")] + [
    ("ppca", {"latent": 3, "start": "random"}), ("factor_analysis", {"latent": 3, "start": "random"})]


def data(name: str) -> torch.Tensor:
    x = zoo.dataset("iris" if name == "gmm" else "wine", standardise=name != "gmm").x
    assert isinstance(x, torch.Tensor)
    return x


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_em_never_lowers_the_likelihood(name: str, options: dict[str, object], seed: int) -> None:
    x = data(name)
    fit = experiments.fit(zoo.build(name, x, seed=seed, **options), "exact", x, steps=150)
    values = [fit.iterations[0].elbo_before, *(i.log_evidence for i in fit.iterations)]
    assert len(values) > 5
    for before, after in pairwise(values):
        assert after >= before - 1e-10 * abs(before)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_both_steps_raise_one_elbo(name: str, options: dict[str, object]) -> None:
    """E-step: the ELBO equals log p(x | θ_old). M-step: it rises. The new log p lies above it by a KL."""
    x = data(name)
    fit = experiments.fit(zoo.build(name, x, **options), "exact", x, steps=20)
    previous = None
    for step in fit.iterations:
        if previous is not None:
            assert step.elbo_before == pytest.approx(previous, rel=1e-9)
        assert step.elbo_after >= step.elbo_before - 1e-10 * abs(step.elbo_before)
        assert step.gap >= -1e-9 * abs(step.log_evidence)
        previous = step.log_evidence


@pytest.mark.parametrize(("name", "options"), CASES)
def test_m_step_is_a_stationary_point(name: str, options: dict[str, object]) -> None:
    """The gradient of E_q[log p(x, z | θ)] vanishes where the closed form puts θ."""
    x = data(name)
    model = zoo.build(name, x, **options)
    q = e_step(model, x)
    m_step(model, x, q)
    gradients = torch.autograd.grad(expected_log_joint(model, x, q), [p for p in model.parameters() if p.requires_grad])
    assert max(float(g.abs().max()) for g in gradients) < 1e-6 * len(x)


def test_e_step_closes_the_gap() -> None:
    x = data("gmm")
    model = zoo.build("gmm", x, components=3)
    with torch.no_grad():
        assert float(elbo(model, x, e_step(model, x))) == pytest.approx(float(model.log_evidence(x).sum()), rel=1e-12)


def test_m_step_without_a_closed_form_climbs_by_gradient() -> None:
    """A bare mixture program, nothing prepared: enumeration gives the E-step, L-BFGS the M-step, and EM the known maximum."""
    x = zoo.dataset("faithful").x

    def mixture(x: torch.Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.5, 0.5]).double(), constraint=constraints.simplex)
        means = pyro.param("means", torch.tensor([[2.0, 55.0], [4.5, 80.0]]).double())
        tril = pyro.param("tril", torch.diag(torch.tensor([0.5, 6.0])).double().repeat(2, 1, 1),
                          constraint=constraints.lower_cholesky)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(means[z], scale_tril=tril[z]), obs=x)

    fit = experiments.fit(mixture, "exact", x, steps=60)
    assert fit.elbo == pytest.approx(-1130.264, abs=1e-2)
    values = [i.log_evidence for i in fit.iterations]
    assert all(b >= a - 1e-10 * abs(a) for a, b in pairwise(values))
    assert not pyro.get_param_store().keys()


def test_a_collapsing_component_is_held_and_said_so() -> None:
    """Two rows far out on one spot would take a component to variance zero and the likelihood to infinity."""
    with zoo.seeded(0):
        x = torch.cat([torch.randn(60, 2, dtype=torch.double), torch.full((3, 2), 30.0, dtype=torch.double)])
    match = r"component\(s\) \d collapsed onto few rows"
    with pytest.warns(zoo.ZooWarning, match=match):
        model = zoo.build("gmm", x, components=2)
    with pytest.warns(zoo.ZooWarning, match=match):
        fit = experiments.fit(model, "exact", x)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    values = [i.log_evidence for i in fit.iterations]
    assert all(b >= a - 1e-10 * abs(a) for a, b in pairwise(values))


def test_an_empty_component_is_reseeded_and_said_so() -> None:
    x = data("gmm")
    model = zoo.build("gmm", x, components=3)
    with torch.no_grad():
        means = model.means.clone()
        means[2] = 1e4
        model.means.copy_(means)
    with pytest.warns(zoo.ZooWarning, match=r"component\(s\) 2 lost all rows and were re-seeded"):
        fit = experiments.fit(model, "exact", x)
    assert float(model.weights.min().detach()) > 1e-3
    assert fit.elbo > -250


def test_em_needs_the_exact_guide_and_parameters() -> None:
    x = zoo.dataset("diabetes", "regression", standardise=True).x
    with pytest.raises(zoo.ZooError, match="expected a model with parameters for method em"):
        experiments.fit(zoo.build("linear_regression", x), "exact", x, method="em")
    with pytest.raises(zoo.ZooError, match="expected guide 'exact' for method em"):
        experiments.fit(zoo.build("linear_regression", x), "mean_field", x, method="em")


def test_an_extrapolation_has_the_same_bits_wherever_its_memory_lies() -> None:
    generator = torch.Generator().manual_seed(0)
    points = [torch.randn(62, generator=generator, dtype=torch.double) for _ in range(10)]
    found, elsewhere = set(), []
    for i in range(500):
        elsewhere.append(torch.empty(1 + i % 97))  # what is made next lies somewhere else
        anderson = Anderson(5)
        for start, image in pairwise(points):
            proposed = anderson.propose(start + 0, image + 0)
        assert proposed is not None
        found.add(tuple(proposed.tolist()))
    assert len(found) == 1


def test_an_extrapolation_from_a_fixed_point_stays_there() -> None:
    anderson, point = Anderson(), torch.ones(3).double()
    assert anderson.propose(point, point.clone()) is None
    proposed = anderson.propose(point, point.clone())
    assert proposed is None or torch.equal(proposed, point)


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


@pytest.mark.parametrize("scale", [1e4, 1e-3])
def test_em_of_linear_vae_does_not_depend_on_the_units(scale: float) -> None:
    x = rows(60, 1) @ rows(4, 1).T + 0.1 * rows(60, 4)
    elbos = [
        experiments.fit(zoo.build("linear_vae", s * x, latent=1, seed=0), "exact", s * x, steps=200).elbo for s in (1.0, scale)]
    assert elbos[0] is not None
    assert elbos[1] == pytest.approx(elbos[0] - x.numel() * math.log(scale), abs=1e-4)
    best = experiments.evidence(zoo.build("ppca", x, latent=1), x).value  # at its maximum from the start
    assert best - 5 < elbos[0] <= best
