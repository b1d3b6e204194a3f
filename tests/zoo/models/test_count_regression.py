"""Regressions of counts against SciPy's and Pyro's densities, and integrals that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

import experiments
import zoo
from zoo.program.enumeration.recovery import probabilities

Rows = dict[str, Tensor]


def few(rows: int = 40, groups: int = 4) -> Rows:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, 2, generator=generator, dtype=torch.double)
    y = torch.poisson((0.5 + table[:, 0]).exp(), generator=generator)
    return {"X": table, "y": y, "group": torch.randint(groups, (rows,), generator=generator)}


def at(model: zoo.Model, x: Rows, draws: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    """Return points of the prior and their sites' values."""
    z = model.sample_prior(x, draws)
    return z, model.constrain(x, z)


def log_rates(found: dict[str, Tensor], x: Rows) -> Tensor:
    """Return log rate_i of each draw as a sum over the covariates, (draws, rows)."""
    return found["intercepts"][:, x["group"]] + sum(found["weights"][:, [j]] * x["X"][:, j] for j in range(x["X"].shape[1]))


def test_poisson_regression_has_scipys_density() -> None:
    x = few()
    model = zoo.build("poisson_regression", x, scale=0.5)
    z, found = at(model, x)
    ours = model.log_likelihood(x, z)["y"]
    expected = stats.poisson.logpmf(x["y"].numpy(), log_rates(found, x).exp().numpy())
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)
    prior = stats.norm.logpdf(found["intercept"], 0, 5) + stats.norm.logpdf(found["weights"], 0, 0.5).sum(1)
    prior += stats.halfnorm.logpdf(found["spread"]) + stats.norm.logpdf(found["offsets"]).sum(1)
    jacobian = found["spread"].log()
    torch.testing.assert_close(model.log_terms(x, z)[0][:, 0], torch.from_numpy(prior) + jacobian)
    torch.testing.assert_close(found["intercepts"], (found["intercept"] + found["spread"] * found["offsets"].mT).mT)


def test_a_negative_binomial_is_a_gamma_mixture_of_poissons() -> None:
    """∫ Poisson(y | rate · g) Gamma(g | r, r) dg by SciPy's quad."""
    x = few(rows=12)
    model = zoo.build("negative_binomial_regression", x)
    z, found = at(model, x, 3)
    ours = model.log_likelihood(x, z)["y"]
    rates = log_rates(found, x).exp()
    for draw, row in [(0, 0), (1, 5), (2, 11)]:
        r, y, rate = float(found["concentration"][draw]), float(x["y"][row]), float(rates[draw, row])
        gamma = stats.gamma(r, scale=1 / r)
        value, _ = quad(lambda g, y=y, rate=rate, of=gamma: stats.poisson.pmf(y, rate * g) * of.pdf(g), 0, np.inf, epsabs=1e-13)
        assert float(ours[draw, row].exp()) == pytest.approx(value, rel=1e-6, abs=1e-10)


def test_negative_binomials_come_to_poissons() -> None:
    x = few()
    poisson, other = (zoo.build(f"{kind}_regression", x) for kind in ("poisson", "negative_binomial"))
    z, _ = at(poisson, x)
    wide = torch.cat([z, torch.full((4, 1, 1), 14.0, dtype=torch.double)], -1)  # a concentration of a million
    rates = log_rates(poisson.constrain(x, z), x).exp()
    ours = other.log_likelihood(x, wide)["y"]
    small = rates < 20  # what is left of the gamma's variance moves a log-probability by up to 20² / 10⁶
    assert bool(small.any())
    torch.testing.assert_close(ours[small], poisson.log_likelihood(x, z)["y"][small], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_inflated_counts_have_pyros_density(dtype: torch.dtype) -> None:
    x = {name: value.to(dtype) for name, value in few().items() if name != "group"}
    x["y"][::3] = 0
    model = zoo.build("zero_inflated_poisson", x)
    z, found = at(model, x)
    rates = (found["intercept"][:, None] + found["weights"] @ x["X"].mT).exp()
    expected = dist.ZeroInflatedPoisson(rates, gate=found["share"][:, None]).log_prob(x["y"])
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(model.log_likelihood(x, z)["y"], expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(model.log_terms(x, z)[1][:, 0], expected.sum(1), rtol=tolerance, atol=tolerance)


def test_the_gradients_of_zero_inflated_counts_are_pyros() -> None:
    x = {name: value for name, value in few().items() if name != "group"}
    model = zoo.build("zero_inflated_poisson", x)
    z = model.sample_prior(x, 4).requires_grad_()

    def pyros() -> Tensor:
        share, log_rates = z[:, 0, 0].sigmoid(), z[:, 0, 1, None] + z[:, 0, 2:] @ x["X"].mT
        return dist.ZeroInflatedPoisson(log_rates.exp(), gate=share[:, None]).log_prob(x["y"]).sum()

    [ours], [theirs] = (torch.autograd.grad(value, z) for value in (model.log_terms(x, z)[1].sum(), pyros()))
    assert bool(ours.isfinite().all())
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gates_are_recovered_by_bayes_rule() -> None:
    x = {name: value for name, value in few().items() if name != "group"}
    model = zoo.build("zero_inflated_poisson", x)
    z, found = at(model, x)
    rates = (found["intercept"][:, None] + found["weights"] @ x["X"].mT).exp()
    share = found["share"][:, None]
    closed = torch.where(x["y"] == 0, share / (share + (1 - share) * (-rates).exp()), 0.0)
    torch.testing.assert_close(probabilities(model.runner, x, z)["gate"][..., 1], closed)


def test_the_evidence_of_two_coefficients_is_the_integral_on_a_grid() -> None:
    """The trapezoid rule on 400 × 400 points over twelve standard deviations to each side, densities by SciPy."""
    x = zoo.dataset("dogs", "count_regression", standardise=True).x
    centre, sd = np.array([0.42, 0.0]), np.array([0.16, 0.16])
    a, b = (c + np.linspace(-12, 12, 400) * s for c, s in zip(centre, sd, strict=True))
    eta = a[:, None, None] + b[:, None] * x["X"][:, 0].numpy()
    total = stats.poisson.logpmf(x["y"].numpy(), np.exp(eta)).sum(-1)
    total += stats.norm.logpdf(a, 0, 5)[:, None] + stats.norm.logpdf(b)
    expected = np.logaddexp.reduce(total, None) + np.log((a[1] - a[0]) * (b[1] - b[0]))
    found = experiments.evidence(zoo.build("poisson_regression", x, grouped=False), x)
    assert found.kind == "quadrature"
    assert found.value == pytest.approx(expected, abs=1e-6)


def test_without_groups_poisson_regression_has_a_linear_predictor() -> None:
    x = few()
    found = zoo.linear_predictor(zoo.build("poisson_regression", x, grouped=False), x)
    assert found is not None
    assert found.name == "log_rate"
    torch.testing.assert_close(found.matrix, torch.cat([torch.ones(40, 1).double(), x["X"]], 1))


@pytest.mark.parametrize("name", ["poisson_regression", "negative_binomial_regression", "zero_inflated_poisson"])
def test_counts_drawn_are_spread_as_the_model_says(name: str) -> None:
    """400 rows of one rate: mean and variance within four standard errors."""
    x = {"X": torch.randn(400, 1, generator=torch.Generator().manual_seed(1)).double(), "y": torch.ones(400).double(),
         "group": torch.arange(400) % 2}
    model = zoo.build(name, x)
    values = {"intercept": 1.5, "weights": 0.0, "spread": 1e-9, "offsets": 0.0, "concentration": 2.0, "share": 0.3}
    sites = model.latents(x).sites
    z = model.unconstrain(x, {s.name: torch.full((1, *s.shape), values[s.name]).double() for s in sites})
    with zoo.seeded(0):
        y = model.predict(x, z)["y"][0]
    assert bool((y == y.round()).all())
    rate = float(np.exp(1.5))
    mean, variance = {
        "poisson_regression": (rate, rate), "negative_binomial_regression": (rate, rate + rate**2 / 2),
        "zero_inflated_poisson": (0.7 * rate, 0.7 * (rate + rate**2) - 0.49 * rate**2)}[name]
    assert abs(float(y.mean()) - mean) < 4 * (variance / 400) ** 0.5
    squares = (y - mean).square()
    assert abs(float(squares.mean()) - variance) < 4 * float(squares.std()) / 20


@pytest.mark.parametrize("name", ["poisson_regression", "negative_binomial_regression", "zero_inflated_poisson"])
@pytest.mark.parametrize(("change", "text"), [
    ({"y": torch.full((40,), 2.5).double()}, r"expected whole numbers from 0 up as y of {name}; got 2.5 in row 0 \(from 0\)"),
    ({"y": -torch.ones(40).double()}, r"got -1 in row 0 \(from 0\); round or drop them"),
    ({"X": torch.ones(40, 2).double()}, "expected columns that vary for {name}"),
    ({"y": torch.ones(39).double()}, "expected entries of one length for {name}; got 40 of X, 39 of y"),
])
def test_data_that_they_cannot_use(name: str, change: Rows, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text.format(name=name)):
        zoo.build(name, {**few(), **change})


def test_groups_are_asked_for_where_there_are_none() -> None:
    x = {name: value for name, value in few().items() if name != "group"}
    with pytest.raises(zoo.ZooError, match="expected a mapping with group for poisson_regression; got none"):
        zoo.build("poisson_regression", x)
    assert zoo.build("poisson_regression", x, grouped=False).latents(x).size == 3


def test_counts_of_files_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("ward,age,visits\na,30,2\nb,41,0\na,29,1.5\n")
    text = r"whole numbers from 0 up for counts in visits.csv; got 1.5 in row 2 \(from 0\), column 'visits'; round them"
    for kind in ("grouped_counts", "count_regression"):
        if kind == "count_regression":
            path.write_text("age,visits\n30,2\n41,0\n29,1.5\n")
        with pytest.raises(zoo.ZooError, match=text):
            zoo.dataset(str(path), kind)


def test_linnerud_and_dogs_are_the_known_tables() -> None:
    data = zoo.dataset("linnerud", "grouped_counts")
    assert data.columns == ("weight", "waist", "pulse", "situps", "jumps")
    assert data.x["group"].tolist() == [*range(20)] * 3
    assert data.x["y"].reshape(3, 20).sum(1).tolist() == [189, 2911, 1406]
    assert data.x["X"][:20, 0].sum() == 3572
    dogs = zoo.dataset("dogs", "count_regression").x
    assert (len(dogs["y"]), float(dogs["y"].sum()), float(dogs["X"].sum())) == (30, 47.0, 187.0)
