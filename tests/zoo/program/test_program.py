"""What the zoo reads off a bare Pyro program."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import experiments
import guides
import zoo

X = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.double)
ZERO = torch.zeros((), dtype=torch.double)
ONE = torch.ones((), dtype=torch.double)


def shared(x: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(ZERO, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def owned(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def test_units_are_read_off_the_plates() -> None:
    assert zoo.as_model(shared).latents(X).units == 1
    assert zoo.as_model(owned).latents(X).units == 4
    assert zoo.as_model(owned).latents(X).unit == "rows"


def test_rows_by_time_have_the_unit_plate_at_minus_two() -> None:
    def series(x: Tensor) -> None:
        with pyro.plate("rows", x.shape[0], dim=-2):
            level = pyro.sample("level", dist.Normal(ZERO, 1.0))
            with pyro.plate("time", x.shape[1], dim=-1):
                step = pyro.sample("step", dist.Normal(ZERO, 0.5).expand([2]).to_event(1))
                pyro.sample("x", dist.Normal(level + step.sum(-1), 1.0), obs=x)

    x = torch.randn(5, 3, dtype=torch.double)
    model = zoo.as_model(series)
    latents = model.latents(x)
    assert (latents.units, latents.size, latents.unit) == (5, 7, "rows")
    assert latents.observed[0].plates == ("rows", "time")
    assert latents.sites[0].plates[-2] == "rows"
    z = torch.randn(2, 5, 7, dtype=torch.double)
    level, step = z[..., 0], z[..., 1:].reshape(2, 5, 3, 2)
    expected = (
        dist.Normal(0, 1.0).log_prob(level) + dist.Normal(0, 0.5).log_prob(step).sum((-1, -2))
        + dist.Normal(level[..., None] + step.sum(-1), 1.0).log_prob(x).sum(-1))
    torch.testing.assert_close(model.log_joint(x, z), expected)
    torch.testing.assert_close(model.unconstrain(x, model.constrain(x, z)), z)
    with torch.no_grad():
        ours = float(experiments.log_weights(model, guide := guides.build("mean_field", model, x), x, 4000).elbo().value)
        stock = -sum(pyro.infer.Trace_ELBO().loss(model, guide, x) for _ in range(400)) / 400
    assert ours == pytest.approx(stock, abs=2.0)


def test_log_joint_has_the_jacobian() -> None:
    def positive(x: Tensor) -> None:
        s = pyro.sample("s", dist.Gamma(2 * ONE, ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    z = torch.tensor([[[0.4]]], dtype=torch.double)
    s = z.exp().squeeze()
    expected = dist.Gamma(2 * ONE, ONE).log_prob(s) + z.squeeze() + dist.Normal(0.0, s).log_prob(X).sum()
    assert float(zoo.as_model(positive).log_joint(X, z)) == pytest.approx(float(expected), rel=1e-12)


def test_a_support_may_depend_on_another_latent() -> None:
    def nested(x: Tensor) -> None:
        a = pyro.sample("a", dist.Gamma(3.0 * torch.ones((), dtype=torch.double), 1.0))
        b = pyro.sample("b", dist.Uniform(ZERO, a))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    model = zoo.as_model(nested)
    z = torch.randn(3, 1, 2, dtype=torch.double)
    values = model.constrain(X, z)
    assert bool((values["b"] < values["a"]).all())
    a, u = z[:, 0, 0].exp(), z[:, 0, 1]
    jacobian = z[:, 0, 0] + a.log() + torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
    prior = dist.Gamma(3.0, 1.0).log_prob(a) - a.log() + jacobian
    torch.testing.assert_close(model.log_terms(X, z)[0][:, 0], prior)
    torch.testing.assert_close(model.unconstrain(X, values), z)


def test_scale_and_mask_are_honoured() -> None:
    def weighted(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        with pyro.plate("rows", len(x)), poutine.scale(scale=3.0), poutine.mask(mask=torch.tensor([True, False, True, True])):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    z = torch.tensor([[[0.5]]], dtype=torch.double)
    kept = X[torch.tensor([0, 2, 3])]
    expected = dist.Normal(ZERO, 2 * ONE).log_prob(z.squeeze()) + 3 * dist.Normal(ONE / 2, ONE).log_prob(kept).sum()
    assert float(zoo.as_model(weighted).log_joint(X, z)) == pytest.approx(float(expected), rel=1e-12)


def test_obs_mask_leaves_the_evidence_as_that_of_the_observed_rows() -> None:
    """The masked entries' latents integrate to one; the entries that are observed have no latent to pay for."""
    mask = torch.tensor([True, False, True, True])

    def missing(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x, obs_mask=mask)

    truth = experiments.evidence(shared, X[mask])
    model = zoo.as_model(missing)
    guide = experiments.fit(model, "full_rank", X).guide
    result = experiments.evaluate(model, guide, X)
    assert result.evidence.value == pytest.approx(truth.value, abs=5 * result.evidence.se + 1e-6)
    assert result.elbo.value == pytest.approx(truth.value, abs=1e-3)


def test_factor_and_deterministic_sites() -> None:
    def program(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        pyro.deterministic("double", 2 * m)
        pyro.factor("bonus", 0.25 * m)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    model, z = zoo.as_model(program), torch.tensor([[[0.5]]], dtype=torch.double)
    plain = zoo.as_model(shared).log_joint(X, z)
    assert float(model.log_joint(X, z) - plain) == pytest.approx(0.125)
    assert float(model.constrain(X, z)["double"]) == pytest.approx(1.0)
    tree = experiments.posterior(model, guides.build("mean_field", model, X), X, draws=20)
    assert "double" in tree["posterior"].data_vars
    assert set(tree["posterior_predictive"].data_vars) == {"x"}


def test_deterministic_sites_in_a_plate_keep_their_shape_when_observations_are_drawn() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    assert model.predict(x, model.sample_prior(x, 3))["y"].shape == (3, 8)


def test_a_program_that_branches_falls_back_to_a_loop_and_names_the_site() -> None:
    def branches(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        scale = 1.0 if m > 0 else 2.0
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(m, scale), obs=x)

    model = zoo.as_model(branches)
    z = torch.tensor([[[0.5]], [[-0.5]]], dtype=torch.double)
    with pytest.warns(zoo.ZooWarning, match="branches can't run under vmap .* at or after site 'm'"):
        value = model.log_joint(X, z)
    expected = [dist.Normal(0.0, 2.0).log_prob(m) + dist.Normal(m, s).log_prob(X).sum()
                for m, s in ((z[0, 0, 0], 1.0), (z[1, 0, 0], 2.0))]
    torch.testing.assert_close(value[:, 0], torch.stack(expected))
    model.log_joint(X, z)  # warned once: a second warning would fail this test


def test_discrete_sites_are_enumerated_jointly() -> None:
    def two(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3, dtype=torch.double)))
            b = pyro.sample("b", dist.Categorical(torch.tensor([0.2, 0.5, 0.3], dtype=torch.double)))
            pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)

    model = zoo.as_model(two)
    assert model.latents(X).support().shape == (6, 2)
    weights = torch.tensor([0.7, 0.3]).double()[:, None] * torch.tensor([0.2, 0.5, 0.3]).double()
    centres = torch.tensor([0.0, 1.0]).double()[:, None] + 2 * torch.arange(3).double()
    density = dist.Normal(centres.flatten(), 1.0).log_prob(X[:, None]).exp() @ weights.flatten()
    torch.testing.assert_close(model.log_evidence(X), density.log())
    assert experiments.compare(model, X, ["exact", "categorical"]).rows[1].evaluation.kl_gap.value == pytest.approx(0, abs=1e-9)


def counted(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Poisson(3.0))
        pyro.sample("x", dist.Normal(k, 1.0), obs=x)


def blind(x: Tensor) -> None:
    pyro.sample("m", dist.Normal(ZERO, 2.0))


def certain(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def outside(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def crowded(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    many = x.repeat(50)
    with pyro.plate("rows", len(many)):
        pyro.sample("x", dist.Binomial(torch.arange(len(many)), p), obs=many)  # bounds of each row


@pytest.mark.parametrize(("program", "text"), [
    (counted, "expected discrete latents of finite support; got site 'k' of Poisson"),
    (blind, "expected a program with observed sites"),
    (certain, "expected a program with latent sites"),
    (outside, "expected observations at site 'x' in the support Boolean"),
    (crowded, "expected observations at site 'x' in the support IntegerInterval"),
])
def test_programs_that_cannot_be_used_are_refused_in_one_line(program: object, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text) as caught:
        zoo.as_model(program).latents(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "text"), [
    ([1.0, 2.0], "expected data to be a tensor; got list"), (torch.empty(0), "at least one row"),
    ({"x": [1.0]}, "expected entry 'x' to be a tensor; got list"), ({"x": 1.0}, "at least one row")])
def test_data_that_are_no_tensors_are_refused(value: object, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        zoo.as_model(shared).latents(value)


def test_programs_take_their_data() -> None:
    with pytest.raises(zoo.ZooError, match="expected a program that takes its data"):
        zoo.as_model(lambda: None)
    with pytest.raises(zoo.ZooError, match="expected a Pyro program"):
        zoo.as_model(3)


def test_params_of_a_bare_program_are_the_models_own() -> None:
    def program(x: Tensor) -> None:
        scale = pyro.param("scale", lambda: torch.tensor(2.0, dtype=torch.double), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            m = pyro.sample("m", dist.Normal(ZERO, scale))
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    first, second = zoo.as_model(program), zoo.as_model(program)
    for model in (first, second):
        model.latents(X)
    assert [name for name, _ in first.named_parameters()] == ["params.scale"]
    experiments.fit(first, "mean_field", X, steps=200)
    # Marginally x ~ N(0, 1 + scale²): the maximum is known, and joint ascent of (q, θ) reaches it with an exact family.
    scale = math.sqrt(float(X.square().mean()) - 1)
    assert float(next(first.parameters()).detach().exp()) == pytest.approx(scale, rel=1e-3)
    assert float(next(second.parameters()).detach().exp()) == pytest.approx(2.0)
    assert not pyro.get_param_store().keys()


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](1, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
        self.noise = PyroParam(torch.tensor(1.0), constraints.positive)

    def forward(self, x: dict[str, Tensor]) -> None:
        mean = self.linear(x["X"])[:, 0]
        with pyro.plate("rows", len(x["y"])):
            pyro.sample("y", dist.Normal(mean, self.noise), obs=x["y"])


def test_pyro_modules_are_models() -> None:
    x = {"X": torch.randn(12, 1, generator=torch.Generator().manual_seed(0)), "y": torch.arange(12.0) / 6}
    program = Regression()
    table = experiments.compare(program, x, ["mean_field"])
    assert table.model.label == "Regression"
    assert table.evidence.kind == "quadrature"
    assert {n for n, _ in table.model.named_parameters()} == {"module.noise_unconstrained", "module.linear.bias"}
    assert not pyro.get_param_store().keys()


def test_simulate_needs_a_place_for_each_observation() -> None:
    def split(x: dict[str, Tensor]) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("z", dist.Normal(m, 1.0), obs=2 * x["y"])

    with pytest.raises(zoo.ZooError, match="expected observed site 'z' to be an entry of x; got y"):
        zoo.as_model(split).simulate({"y": X})
    latent, fresh = zoo.as_model(shared).simulate(X, seed=3)
    assert fresh.shape == X.shape
    assert set(latent) == {"m"}


def test_simulated_rows_have_the_models_moments() -> None:
    """θ of a mixture → 40,000 rows → their mean and covariance, against the mixture's own."""
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    wide = x[torch.arange(40_000) % len(x)]
    _, fresh = model.simulate(wide, seed=0)
    weights, means = model.weights.detach(), model.means.detach()
    mean = weights @ means
    covariance = torch.einsum("k,kij->ij", weights, model.scale.detach() @ model.scale.detach().mT)
    covariance = covariance + torch.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    error = (covariance.diagonal() / len(fresh)).sqrt()
    assert bool(((fresh.mean(0) - mean).abs() < 5 * error).all())
    assert bool(((torch.cov(fresh.T) / covariance - 1).abs() < 0.05).all())


def test_draws_that_take_too_much_memory_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    z = torch.randn(37, 1, model.latents(x).size, dtype=torch.double)
    expected, values = model.log_joint(x, z), model.constrain(x, z)
    asked: list[int] = []

    def little(function: Any, **options: Any) -> Any:
        def mapped(rows: torch.Tensor) -> Any:
            asked.append(len(rows))
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
        return mapped

    monkeypatch.setattr(torch.func, "vmap", little)
    for _ in range(2):  # the next time, they may fit
        torch.testing.assert_close(model.log_joint(x, z), expected, rtol=0, atol=1e-12)
    assert asked == [37, 37]
    for name, value in model.constrain(x, z).items():
        torch.testing.assert_close(value, values[name], rtol=0, atol=1e-12)
    assert model.runner.draws.vectorised


def scaled(x: Tensor) -> None:
    scale = pyro.param("scale", 5 * ONE, constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0 * ONE, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_the_fitted_theta_of_a_bare_program_is_found_again() -> None:
    fit = experiments.fit(scaled, "mean_field", X)
    by_program = experiments.evaluate(scaled, fit.guide, X)
    assert by_program.elbo.value == experiments.evaluate(fit.model, fit.guide, X).elbo.value
    assert experiments.evidence(scaled, X, fit.guide).value == experiments.evidence(fit.model, X, fit.guide).value
    assert set(fit.model.theta()) == {"scale"}
    assert float(fit.model.theta()["scale"]) < 1


def test_a_constrained_parameter_given_as_nn_parameter_starts_at_its_value() -> None:
    def program(x: Tensor) -> None:
        scale = pyro.param("s", nn.Parameter(torch.tensor(2.0)), constraint=constraints.positive)
        pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1), obs=x)

    model = zoo.as_model(program)
    model.latents(X)
    assert float(model.theta()["s"]) == pytest.approx(2.0)


def test_broadcasting_against_a_column_is_refused() -> None:
    def level(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(zoo.ZooError, match=r"got shape \(4, 4\) with plates rows of \[4\]; reshape x, or use .to_event"):
        experiments.compare(level, X[:, None], "mean_field")


def test_errors_of_the_program_itself_do_not_turn_vmap_off() -> None:
    model = zoo.as_model(scaled)
    model.latents(X)
    with pytest.raises(zoo.ZooError, match="coordinates"):
        model.log_joint(X, torch.zeros(2, 4, 3, dtype=torch.double))
    assert model.runner.draws.vectorised


def sites_come_and_go(x: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(ZERO, 1.0))
    if m > 0:
        m = m + pyro.sample("k", dist.Normal(ZERO, 1.0))
    pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def reads_another_entry(x: dict[str, Tensor]) -> None:
    m = pyro.sample("m", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(m, 1.0), obs=x["yy"])


def test_stock_pyro_runs_a_bare_program_with_its_fitted_parameters() -> None:
    def centred(x: Tensor) -> None:
        m = pyro.param("m", ZERO)
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    model = zoo.as_model(centred)
    guide = experiments.fit(model, "mean_field", X).guide
    ours = experiments.log_weights(model, guide, X, 4000).elbo()
    with zoo.seeded(0), torch.no_grad():
        stock = -sum(pyro.infer.Trace_ELBO().loss(model, guide, X) for _ in range(50)) / 50
    assert stock == pytest.approx(ours.value, abs=0.2)
    with pyro.get_param_store().scope(), zoo.seeded(0):
        before = float(model.params["m"].detach())
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO()).step(X)
        assert float(model.params["m"].detach()) != before, "stock SVI moves θ too"


def test_a_support_that_moves_with_the_latents_is_no_reason_to_refuse() -> None:
    def moving(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Uniform(z - 1, z + 1), obs=x)

    assert zoo.as_model(moving).latents(torch.tensor(0.3, dtype=torch.double)).size == 1


@pytest.mark.parametrize(("program", "x", "text"), [
    (sites_come_and_go, X, "expected the same latent sites in every run of sites_come_and_go"),
    (reads_another_entry, {"y": X}, "expected every entry of x that reads_another_entry reads; got none for 'yy'")])
def test_programs_that_cannot_be_are_refused(program: object, x: object, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        guides.build("mean_field", zoo.as_model(program), x)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_a_model_are_called(register: str) -> None:
    """Also those that come after the program was run for the first time."""
    model, called = zoo.as_model(scaled), []
    z = torch.zeros(1, 4, 1, dtype=torch.double)
    before = model.log_joint(X, z)
    hook = getattr(model, register)(lambda *_: called.append(1))
    assert torch.equal(model.log_joint(X, z), before)
    assert called
    hook.remove()
    called.clear()
    model.log_joint(X, z)
    assert not called
