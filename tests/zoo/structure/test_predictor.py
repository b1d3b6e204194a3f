"""Linear predictors: found from the program alone, and means under a normal by one integral an observation."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.integrate import quad
from sklearn.datasets import load_digits
from torch import Tensor

import experiments
import guides
import zoo
from experiments.inference.fixed_draws import elbo, natural, projected
from experiments.inference.fixed_draws.means import MonteCarlo
from experiments.inference.fixed_draws.parts import Parts
from experiments.inference.fixed_draws.projected import GaussHermite
from experiments.samplers.quasi_random import normal_noise
from guides.families.family import Normal
from tests.contracts.cases import case
from zoo.models.regression import design
from zoo.structure.linear_predictor import linear_predictor

FAMILIES = ("mean_field", "full_rank", "low_rank")
ROWS, COLUMNS = 40, 3


def table(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def regression(
    observe: Callable[[Tensor], Any], y: Tensor | None = None, prior: Any = None,
) -> tuple[zoo.Model, dict[str, Tensor]]:
    """Return a regression of ``y``, counts unless given, whose observations are distributed as ``observe`` of η says."""
    x = table()
    counts = torch.arange(ROWS, dtype=torch.double) % 3 if y is None else y

    def program(data: dict[str, Tensor]) -> None:
        weights = pyro.sample("weights", prior or dist.Normal(torch.zeros(COLUMNS).double(), 1.0).to_event(1))
        with pyro.plate("rows", ROWS):
            pyro.sample("y", observe(0.3 + data["X"] @ weights), obs=data["y"])

    return zoo.as_model(program), {"X": x, "y": counts}


FOUND: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "normal": (lambda eta: dist.Normal(eta, 0.7), "loc"),
    "student": (lambda eta: dist.StudentT(3.0, eta, torch.linspace(0.5, 2, ROWS).double()), "loc"),
    "binomial": (lambda eta: dist.Binomial(2 + torch.arange(ROWS) % 3, logits=eta), "logits"),
    "negative binomial": (lambda eta: dist.NegativeBinomial(4.0, logits=eta), "logits"),
    "laplace": (lambda eta: dist.Laplace(2 * eta - 1, 0.5), "loc"),
}
OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "a rate that is no affine map": lambda eta: dist.Poisson(eta.exp()),
    "a clipped predictor": lambda eta: dist.Normal(eta.clamp(-20, 20), 1.0),
    "a scale that moves, too": lambda eta: dist.Normal(eta, 1 + eta[:1].square()),
    "a distribution made of others": lambda eta: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(ROWS, 2)), dist.Normal(torch.stack([eta, -eta], 1), 1.0)),
    "masked rows": lambda eta: dist.Normal(eta, 1.0).mask(torch.arange(ROWS) > 3),
    "a noise of its own": lambda eta: dist.Normal(eta + torch.randn(ROWS), 1.0),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_predictor_is_found_where_one_parameter_is_affine(name: str) -> None:
    observe, parameter = FOUND[name]
    model, x = regression(observe)
    found = linear_predictor(model, x)
    assert found is not None
    assert found.name == parameter
    z = torch.randn(5, 1, COLUMNS, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    torch.testing.assert_close(found.log_prob(found(z[:, 0])), model.log_likelihood(x, z)["y"])
    rows = torch.tensor([3, 0, 17])
    torch.testing.assert_close(found.log_prob(found(z[:, 0])[:, rows], rows), model.log_likelihood(x, z)["y"][:, rows])


def test_that_of_a_logistic_regression_is_its_design(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = case("logistic_regression")
    whole = zoo.structure.linear_predictor.find(model, x)
    monkeypatch.setattr(zoo.structure.linear_predictor, "AT_ONCE", 7 * len(x["y"]))
    found = zoo.structure.linear_predictor.find(model, x)  # its columns in parts
    assert found is not None
    assert whole is not None
    assert torch.equal(found.matrix, whole.matrix)
    torch.testing.assert_close(found.matrix, design(x), rtol=0, atol=1e-14)
    assert found.name == "logits"
    assert not bool(found.offset.any())


@pytest.mark.parametrize("name", OTHERS)
def test_other_programs_have_none(name: str) -> None:
    model, x = regression(OTHERS[name])
    assert linear_predictor(model, x) is None


def test_neither_have_programs_of_other_structure() -> None:
    for name in ("eight_schools", "linear_regression", "bayesian_gmm", "gmm", "ppca"):
        assert linear_predictor(*case(name)[:2]) is None, name

    def scaled(x: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.zeros(()).double(), 1.0))
        with poutine.scale(scale=2.0), pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(slope, 1.0), obs=x)

    def twice(x: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(slope, 1.0), obs=x)
            pyro.sample("again", dist.Normal(slope, 1.0), obs=x)

    for program in (scaled, twice):
        assert linear_predictor(zoo.as_model(program), torch.ones(4).double()) is None


def test_a_table_of_observations_has_one_too() -> None:
    def program(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("columns", x.shape[1], dim=-1), pyro.plate("rows", x.shape[0], dim=-2):
            pyro.sample("x", dist.Normal(z[0] * torch.arange(3).double() + z[1], 1.0), obs=x)

    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    found = linear_predictor(zoo.as_model(program), x)
    assert found is not None
    assert found.matrix.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]] * 4


@pytest.mark.parametrize("what", ["prior", "shift", "noise"])
def test_what_was_found_is_held_against_the_program(what: str) -> None:
    known = {"prior": 1.0, "shift": 0.0, "noise": 1.0}

    def program(x: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2).double(), known["prior"]).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(slope.sum() + known["shift"] + torch.arange(3.0).double(), known["noise"]), obs=x)

    model, x = zoo.as_model(program, pure=True), torch.zeros(3).double()
    first = linear_predictor(model, x)
    assert first is not None
    assert linear_predictor(model, x) is first
    known[what] = 2.0
    assert not first.holds(model, x)
    second = linear_predictor(model, x)
    assert second is not None
    assert second.offset.tolist() == [known["shift"] + i for i in range(3)]
    assert linear_predictor(model, x.clone()) is not second, "other data"


def test_a_fit_after_a_change_is_that_of_a_fresh_model() -> None:
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    changed = zoo.build("logistic_regression", x)
    experiments.fit(changed, "mean_field", x, progress=False)
    changed.scale = 3.0
    fresh = zoo.build("logistic_regression", x, scale=3.0)
    assert experiments.fit(changed, "mean_field", x, progress=False).elbo == experiments.fit(
        fresh, "mean_field", x, progress=False).elbo


@pytest.mark.parametrize("large", [False, True])
def test_a_changed_prior_is_seen_by_the_next_fit(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior's density is kept from fit to fit; what the program takes it from is no attribute of the model."""
    known, table = {"scale": 1.0}, torch.randn(300, 4, generator=torch.Generator().manual_seed(8), dtype=torch.double)

    def program(y: Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(torch.zeros(4).double(), known["scale"]).to_event(1))
        with pyro.plate("rows", 300):
            pyro.sample("y", dist.StudentT(4.0, table @ weights, 1.0), obs=y)

    def fit(model: zoo.Model) -> float:
        fits = experiments.fit(model, "full_rank", y, method="fixed_draws", progress=False)
        assert fits.elbo is not None
        return fits.elbo

    if large:
        monkeypatch.setattr(zoo.structure.linear_predictor, "KEPT", 100)
    model, y = zoo.as_model(program), 4 * table.sum(1)
    monkeypatch.setattr(elbo, "WORTH", 1)
    before = [fit(model) for _ in range(3)]
    assert before[0] == before[1] == before[2]
    known["scale"] = 5.0
    assert fit(model) == pytest.approx(fit(zoo.as_model(program)), abs=1e-9)
    assert fit(model) > before[0] + 3


def test_copies_hold_none() -> None:
    model, x = case("logistic_regression")
    model = copy.deepcopy(model)
    predictor = linear_predictor(model, x)
    assert predictor is not None
    assert len(pickle.dumps(model)) < predictor.matrix.nbytes / 10
    assert pickle.loads(pickle.dumps(model)).runner.kept == copy.deepcopy(model).runner.kept == {}


def test_one_that_is_large_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = case("logistic_regression")
    model = copy.deepcopy(model)
    monkeypatch.setattr(zoo.structure.linear_predictor, "KEPT", 1000)
    assert linear_predictor(model, x) is not None
    assert model.runner.kept["linear_predictor"] is None


def pair(family: str, model: zoo.Model, x: Any) -> tuple[GaussHermite, dict[str, Tensor], Tensor]:
    """Return means by projection, φ of a normal that is neither narrow nor at the best place, and noise."""
    guide = guides.build(family, model, x)
    assert isinstance(guide, guides.Guide)
    assert isinstance(guide.family, Normal)
    generator = torch.Generator().manual_seed(5)
    phi = {
        name: (value + 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.double)).detach()
        for name, value in guide.phi(x).items()}
    phi["loc"] = phi["loc"].clamp(-1, 1)
    found = linear_predictor(model, x)
    assert found is not None
    noise = normal_noise(64, guide.family.noise_size(phi), 0, phi["loc"])
    return GaussHermite(model, guide.family, x, found), phi, noise


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["student", "negative binomial"])
def test_means_are_those_that_draws_tell(name: str, family: str) -> None:
    """Sobol's draws are no independent ones, so their spread over seeds is the error of their mean."""
    model, x = regression(FOUND[name][0])
    means, phi, noise = pair(family, model, x)
    one = torch.zeros(1, dtype=torch.long)
    ours = torch.cat([part.flatten() for part in means.natural(phi, noise, one)])
    drawn = MonteCarlo(model, means.family, x, Parts(model, x))
    sets = [normal_noise(512, noise.shape[2], seed, noise) for seed in range(1, 25)]
    theirs = torch.stack([torch.cat([part.flatten() for part in drawn.natural(phi, each, one)]) for each in sets])
    error = theirs.std(0) / math.sqrt(len(sets))
    assert float(((ours - theirs.mean(0)).abs() / (error + 1e-9)).max()) < 4.5
    assert means.value(phi, noise) == pytest.approx(float(ours[:2].sum()), abs=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pull_has_the_gradient_of_the_means(family: str) -> None:
    model, x = regression(FOUND["student"][0])
    means, phi, noise = pair(family, model, x)
    one = torch.zeros(1, dtype=torch.long)
    for name, start in phi.items():
        leaf = start.clone().requires_grad_()
        *_, pull = means.surrogate({**phi, name: leaf}, noise, one)
        [gradient] = torch.autograd.grad(pull, [leaf])
        for i in range(leaf.numel()):
            step = torch.zeros(leaf.numel()).double()
            step[i] = 1e-5
            ends = [
                sum(float(part) for part in means.surrogate({**phi, name: start + sign * step.view_as(leaf)}, noise, one)[:2])
                for sign in (1, -1)]
            assert float(gradient.flatten()[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-5)


def test_integrals_are_right_and_tell_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few nodes do where η hardly varies; the others are told apart by what nodes leave between two sides of an identity."""
    model, x = case("logistic_regression")
    means, _, _ = pair("mean_field", model, x)
    rows = slice(0, 24)
    eta, deviation = torch.linspace(-8, 8, 24).double(), torch.logspace(-2, 1.5, 24).double()

    def by_quadrature(of: Callable[[float], float]) -> float:
        def density(t: float) -> float:
            return of(m + s * t) * math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)

        kink = [-m / s] if abs(m / s) < 12 else None
        return float(quad(density, -12, 12, points=kink, limit=400, epsabs=1e-12, epsrel=1e-12)[0])

    table = []
    for sign, m, s in zip((2 * x["y"] - 1).tolist(), eta.tolist(), deviation.tolist(), strict=False):  # noqa: B007
        table.append([
            by_quadrature(lambda at, sign=sign: min(0.0, sign * at) - math.log1p(math.exp(-abs(at)))),
            by_quadrature(lambda at, sign=sign: sign / (1 + math.exp(sign * at))),
            by_quadrature(lambda at: -1 / (2 + math.exp(at) + math.exp(-at)))])
    exact = torch.tensor(table, dtype=torch.double)
    for number, farthest in ((projected.COARSE, 2.0), (projected.FINE, 10.0), (projected.MOST, 20.0)):
        found, off = means._integrals(number, eta, deviation, rows)
        error = (found - exact.mT).abs()
        assert float(error[:, deviation < farthest].max()) < 1e-3
        assert bool((error[0] <= 10 * off + 1e-9).all()), "what is missed is told"
    assert float(means._integrals(projected.COARSE, eta, deviation, rows)[1].sum()) > 1
    for cheap in (projected.CHEAP, 0):
        monkeypatch.setattr(projected, "CHEAP", cheap)
        refined = means._expected(eta[:16], deviation[:16, None], projected.FINE)
        assert float((refined.value - exact[:16, 0]).abs().sum()) < projected.CLOSE


def test_rows_in_parts_come_to_the_same_and_rows_of_nothing_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(torch.zeros(COLUMNS).double(), 1.0).to_event(1))
        with pyro.plate("rows", ROWS):
            pyro.sample("y", dist.StudentT(3.0, rows @ weights, 1.0), obs=x)

    rows = table()
    rows[4] = 0.0
    one = torch.zeros(1, dtype=torch.long)
    found = []
    for at_once in (projected.CACHED, 300):
        monkeypatch.setattr(projected, "CACHED", at_once)
        means, phi, noise = pair("full_rank", zoo.as_model(program), torch.arange(ROWS).double())
        found.append(means.natural(phi, noise, one))
    for a, b in zip(*found, strict=True):
        assert bool(a.isfinite().all())
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_of_normal_rows_is_the_best_normal(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elbo, "WORTH", 1)
    model, x = regression(FOUND["normal"][0], y=table(ROWS)[:, 0])
    fit = experiments.fit(model, family, x, method="fixed_draws", progress=False)
    precision = torch.eye(COLUMNS).double() + x["X"].mT @ x["X"] / 0.7**2
    loc = torch.linalg.solve(precision, x["X"].mT @ (x["y"] - 0.3) / 0.7**2)
    q: Any = fit.guide.posterior(x)
    assert fit.converged
    torch.testing.assert_close(q.mean[0], loc, rtol=0, atol=1e-4)
    if family != "low_rank":
        wanted = precision.inverse().diagonal() if family == "full_rank" else 1 / precision.diagonal()
        torch.testing.assert_close(q.variance[0], wanted, rtol=1e-3, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["student", "binomial"])
def test_a_fit_is_no_lower_than_by_draws(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prior with heavy tails keeps draws in play: where held ones flatter, there are more of them."""
    monkeypatch.setattr(elbo, "WORTH", 1)
    model, x = regression(FOUND[name][0], prior=dist.StudentT(4.0, torch.zeros(COLUMNS).double(), 0.3).to_event(1))
    ours = experiments.fit(model, family, x, method="fixed_draws", progress=False)
    monkeypatch.setattr(elbo, "linear_predictor", lambda *_: None)
    theirs = experiments.fit(model, family, x, method="fixed_draws", progress=False)
    assert ours.converged
    found = [experiments.evaluate(model, fit.guide, x, draws=4096, seed=1).elbo.value for fit in (ours, theirs)]
    assert found[0] > found[1] - 0.02


def test_a_likelihood_with_two_modes_is_left_to_an_ascent_that_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """log p curves upwards between outliers' modes: the fit ends at a mode, and is no worse than where it began."""
    monkeypatch.setattr(elbo, "WORTH", 1)
    y = torch.cat([torch.full((ROWS // 2,), -4.0), torch.full((ROWS // 2,), 4.0)]).double()
    model, x = regression(lambda eta: dist.StudentT(1.0, eta, 0.3), y=y)
    fit = experiments.fit(model, "full_rank", x, method="fixed_draws", progress=False)
    assert fit.elbo is not None
    assert fit.elbo > fit.history[0][1]
    assert bool(fit.guide.posterior(x).mean.isfinite().all())


def far(scale: float = 100.0) -> tuple[zoo.Model, dict[str, Tensor]]:
    """Return a regression on classes that a plane nearly separates: its likelihood falls off like an exponential."""
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(7), dtype=torch.double)
    y = (x.sum(1) > 0.0).double()
    y[:2] = 1 - y[:2]
    data = {"X": x, "y": y}
    return zoo.build("logistic_regression", data, scale=scale), data


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_extrapolation_saves_steps(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, digit = load_digits(return_X_y=True)
    kept = x.std(0) > 0
    table = torch.from_numpy((x[:, kept] - x[:, kept].mean(0)) / x[:, kept].std(0))
    data = {"X": table, "y": torch.from_numpy(digit % 2).double()}
    model = zoo.build("logistic_regression", data)
    ours = experiments.fit(model, family, data, progress=False, start="own")
    monkeypatch.setattr(natural.Anderson, "propose", lambda *_: None)
    plain = experiments.fit(model, family, data, progress=False, start="own")
    assert ours.converged
    assert ours.elbo > plain.elbo - 0.01
    assert ours.steps < 0.7 * plain.steps


def test_extrapolated_steps_never_lead_down_and_are_not_taken_past_the_limit() -> None:
    model, x = far()
    fit = experiments.fit(model, "mean_field", x, progress=False)
    elbos = [elbo for _, elbo, _ in fit.history]
    assert elbos == sorted(elbos)
    short = experiments.fit(model, "mean_field", x, steps=2, progress=False)
    assert short.steps == 2
    assert not short.converged


def test_a_wild_extrapolation_is_left_for_the_step_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = far()
    best = experiments.fit(model, "mean_field", x, progress=False).elbo
    monkeypatch.setattr(natural.Anderson, "propose", lambda self, start, image: image + 100.0)
    fit = experiments.fit(model, "mean_field", x, progress=False)
    assert fit.elbo == pytest.approx(best, abs=0.01)


def test_small_data_is_left_to_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for a predictor would take longer than it saves."""
    monkeypatch.setattr(elbo, "linear_predictor", lambda *_: pytest.fail("it was looked for"))
    model, x = regression(FOUND["student"][0])
    assert experiments.fit(model, "full_rank", x, method="fixed_draws", progress=False).converged


def test_in_float32_too() -> None:
    x = {name: value.float() for name, value in zoo.dataset("breast_cancer", "binary", standardise=True).x.items()}
    fit = experiments.fit(zoo.build("logistic_regression", x), "full_rank", x, progress=False)
    assert fit.converged
    assert fit.elbo == pytest.approx(-55.47, abs=0.03)
