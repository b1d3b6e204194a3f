"""What a reviewer once found: states that leak, values that are impossible, objects that do not belong together."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import experiments
import guides
import zoo
from experiments.log_evidence.estimator import Question
from experiments.log_evidence.log_weights import LogWeights
from experiments.log_evidence.lower_bound import GROUPS, T95, LowerBound

X = torch.tensor([0.2, 0.9, 1.4, 0.5], dtype=torch.double)
ONE = torch.ones((), dtype=torch.double)


def scaled(x: Tensor) -> None:
    scale = pyro.param("scale", 5 * ONE, constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0 * ONE, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def impossible(x: Tensor) -> None:
    """Component 0 can't give a value over 1: p(x, z = 0) is zero there."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6], dtype=torch.double)))
        pyro.sample("x", dist.Uniform(0 * ONE, 1 + z), obs=x)


def test_the_fitted_theta_of_a_bare_program_is_found_again() -> None:
    fit = experiments.fit(scaled, "mean_field", X)
    by_program = experiments.evaluate(scaled, fit.guide, X)
    assert by_program.elbo.value == experiments.evaluate(fit.model, fit.guide, X).elbo.value
    assert experiments.evidence(scaled, X, fit.guide).value == experiments.evidence(fit.model, X, fit.guide).value
    assert set(fit.model.theta()) == {"scale"}
    assert float(fit.model.theta()["scale"]) < 1


def test_a_guide_of_another_model_is_refused() -> None:
    x = zoo.dataset("wine", standardise=True).x
    first, second = zoo.build("ppca", x), zoo.build("ppca", x, start="random")
    guide = guides.build("exact", first, x)
    for call in (experiments.evaluate, experiments.posterior, experiments.fit):
        with pytest.raises(zoo.ZooError, match="expected a guide of this model; got 'exact' built for another ppca"):
            call(second, guide, x)
    with pytest.raises(zoo.ZooError, match="expected a guide of this model"):
        experiments.compare(second, x, ["prior", guide])


def test_theta_is_constrained_and_named() -> None:
    model = zoo.build("gmm", zoo.dataset("faithful").x)
    theta = model.theta()
    assert set(theta) == {"weights", "means", "scale"}
    assert float(theta["weights"].sum()) == pytest.approx(1)


def test_train_model_false_holds_theta_under_every_method() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    with pytest.raises(zoo.ZooError, match="expected train_model for method em"):
        experiments.fit(model, "exact", x, method="em", train_model=False)
    assert experiments.fit(model, "exact", x, train_model=False).method == "none"


def test_values_that_cannot_be_count_nothing() -> None:
    exact = torch.where(X < 1, 0.4 + 0.6 / 2, torch.full_like(X, 0.6 / 2)).log()
    table = experiments.compare(impossible, X, ["exact", "categorical"])
    assert table.evidence.value == pytest.approx(float(exact.sum()), abs=1e-9)
    assert table.rows[0].evaluation.kl_gap.value == pytest.approx(0, abs=1e-9)
    assert table.rows[1].evaluation.kl_gap.value == pytest.approx(0, abs=1e-9)
    with pytest.raises(zoo.ZooError, match="non-finite log-probability at site 'x' of impossible"):
        experiments.fit(impossible, "categorical:encoder", X)  # a softmax rules nothing out: its ELBO is −∞
    q = guides.build("exact", table.model, X).posterior(X)
    assert bool(q.entropy().isfinite().all())


def test_khat_of_weights_of_which_some_are_zero() -> None:
    with zoo.seeded(0):
        log_w = torch.randn(1000, 2, dtype=torch.double)
    log_w[:450, 0] = -math.inf
    log_w[:, 1] = -math.inf
    log_w[0, 1] = 0.0
    zero = torch.zeros_like(log_w)
    khat = LogWeights(log_w, zero, zero, zero - math.log(1000), False).khat()
    assert 0 < float(khat[0]) < 1
    assert float(khat[1]) == math.inf


@pytest.mark.parametrize("seed", range(12))
def test_khat_of_an_almost_exact_guide_in_float32(seed: int) -> None:
    def level(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with zoo.seeded(seed):
        x = torch.randn(50) + 2
    row = experiments.compare(level, x, "mean_field").rows[0].evaluation
    assert row.khat is None or not row.misses_mass


def test_a_search_that_gives_up_has_not_converged() -> None:
    def cliff(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
        pyro.sample("x", dist.Uniform(0 * ONE, z.exp()), obs=x)

    with pytest.raises(zoo.ZooError, match="expected a finite ELBO and gradient where the fit starts"):
        experiments.fit(cliff, "mean_field", 1.5 * ONE)


def test_every_free_fit_of_the_cases_converges() -> None:
    x = zoo.dataset("eight_schools").x
    for text in ("mean_field", "full_rank"):
        assert experiments.fit(zoo.build("eight_schools", x), text, x).converged


def test_the_number_of_threads_is_put_back() -> None:
    x = zoo.dataset("eight_schools").x
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        experiments.fit(zoo.build("eight_schools", x), "mean_field", x, steps=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_seed_none_uses_the_generator_as_it_is() -> None:
    model = zoo.build("gmm", zoo.dataset("faithful").x)
    x = zoo.dataset("faithful").x
    with zoo.seeded(4):
        first, second = model.simulate(x)[1], model.simulate(x)[1]
    assert not torch.equal(first, second)


def test_ppca_keeps_its_latent_dimensions() -> None:
    x = torch.randn(4, 10, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert zoo.build("ppca", x, latent=4).loadings.shape == (10, 4)
    with pytest.raises(zoo.ZooError, match="expected at most as many latent dimensions as the 4 rows; got 5"):
        zoo.build("ppca", x, latent=5)


def test_linear_gaussian_evidence_is_exact_where_the_noise_nearly_vanishes() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("factor_analysis", x, latent=2)
    with torch.no_grad():
        noise = model.noise.clone()
        noise[0] = 1e-9
        model.variance = noise
        z = model.posterior(x).sample((3,))
        identity = model.log_joint(x, z) - model.posterior(x).log_prob(z) - model.log_evidence(x)
    # The posterior's precision has condition number 1e9, so of float64's 16 digits seven are left.
    assert float(identity.abs().max()) < 4e9 * torch.finfo(torch.double).eps


def test_a_constrained_parameter_given_as_nn_parameter_starts_at_its_value() -> None:
    def program(x: Tensor) -> None:
        scale = pyro.param("s", nn.Parameter(torch.tensor(2.0)), constraint=constraints.positive)
        pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1), obs=x)

    model = zoo.as_model(program)
    model.latents(X)
    assert float(model.theta()["s"]) == pytest.approx(2.0)


def test_an_overridden_posterior_brings_the_evidence() -> None:
    class Known(zoo.Model):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def posterior(self, x: Tensor) -> dist.Independent:
            return dist.Normal(x[:, None] / 2, math.sqrt(0.5)).to_event(1)

    table = experiments.compare(Known(), X, "exact")
    expected = dist.Normal(0 * ONE, math.sqrt(2.0)).log_prob(X).sum()
    assert table.evidence.kind == "exact"
    assert table.evidence.value == pytest.approx(float(expected), rel=1e-6)


def test_broadcasting_against_a_column_is_refused() -> None:
    def level(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(zoo.ZooError, match=r"got shape \(4, 4\) with plates rows of \[4\]; reshape x, or use .to_event"):
        experiments.compare(level, X[:, None], "mean_field")


def test_encoders_read_whole_numbers_and_know_the_units() -> None:
    def counts(x: dict[str, Tensor]) -> None:
        with pyro.plate("rows", len(x["y"])):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Poisson(z.exp() + x["t"].sum()), obs=x["y"])

    x = {"y": torch.tensor([1, 0, 4, 2]), "t": torch.ones(9)}
    guide = guides.build("mean_field:encoder", zoo.as_model(counts), x)
    assert guide.posterior(x).batch_shape == (4,)


def test_networks_are_evaluated_in_evaluation_mode() -> None:
    x = zoo.dataset("wine", standardise=True).x
    network = nn.Sequential(nn.Linear(13, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    model = zoo.build("ppca", x)
    guide = guides.build("mean_field:encoder", model, x, network=network)
    experiments.fit(model, guide, x, train_model=False, steps=10)
    assert torch.equal(guide.posterior(x).mean, guide.posterior(x).mean)


def test_errors_of_the_program_itself_do_not_turn_vmap_off() -> None:
    model = zoo.as_model(scaled)
    model.latents(X)
    with pytest.raises(zoo.ZooError, match="coordinates"):
        model.log_joint(X, torch.zeros(2, 4, 3, dtype=torch.double))
    assert model._vectorised


def test_steps_are_the_most_there_are() -> None:
    x = zoo.dataset("eight_schools").x
    assert experiments.fit(zoo.build("eight_schools", x), "mean_field", x, steps=1).steps == 1


def test_svi_that_still_climbs_has_not_converged() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x, start="random")
    assert not experiments.fit(model, "mean_field:encoder", x, steps=100, learning_rate=2e-3).converged


def test_guides_are_the_same_however_written() -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.raises(zoo.ZooError, match="got 'mean_field:free' twice"):
        experiments.compare(zoo.build("eight_schools", x), x, ["mean_field", "mean_field:free"])


@pytest.mark.long
def test_the_bound_comes_from_the_most_even_weights_and_has_students_interval() -> None:
    from scipy import stats

    assert pytest.approx(float(stats.t.ppf(0.975, GROUPS - 1))) == T95
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    table = experiments.compare(zoo.build("logistic_regression", x), x, ["mean_field", "full_rank"])
    assert table.evidence.source.startswith("full_rank + mean_field")  # all guides contribute, the most even weights first
    assert table.evidence.kind == "estimated"
    bound = LowerBound().run(Question(table.model, x, [table.guide("full_rank")]))
    assert bound.kind == "lower_bound"
    assert bound.lower == pytest.approx(bound.value - T95 * bound.se)
    assert bound.lower < table.evidence.upper


def test_compare_without_guides_takes_those_that_fit() -> None:
    x = zoo.dataset("faithful").x
    table = experiments.compare(zoo.build("gmm", x), x, steps=20)
    assert [row.evaluation.guide for row in table.rows] == ["exact", "categorical", "categorical:encoder"]


def test_any_csv_file_of_the_package_is_a_table() -> None:
    from zoo.registry import load

    assert load("zoo.datasets.tables:faithful")().columns == ("eruptions", "waiting")
    with pytest.raises(AttributeError, match=r"no table 'nothing\.csv'"):
        load("zoo.datasets.tables:nothing")
