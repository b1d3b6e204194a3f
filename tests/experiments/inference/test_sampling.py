"""Methods that sample: nuts, psis and ais, and the guides that hold their draws."""

from __future__ import annotations

import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from guides.drawn import Drawn
from zoo.errors import ZooError

SIZE = 3
PRECISION = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.5, 0.2], [0.0, 0.2, 1.0]], dtype=torch.double)
X = torch.tensor([3.0, -1.0, 0.5], dtype=torch.double)
POSTERIOR = torch.linalg.inv(torch.eye(SIZE, dtype=torch.double) + PRECISION)
MEAN = POSTERIOR @ PRECISION @ X
METHODS = ("nuts", "psis", "ais")
#: Those with a bound, whose source can be what they need.
BOUNDED = ("draws(mean_field)@psis", "draws(mean_field)@ais", "draws(full_rank)@pathfinder")


def normal(x: Tensor) -> None:
    """A standard normal times a normal about x: the posterior is known."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(SIZE), 1.0).to_event(1))
    pyro.sample("x", dist.MultivariateNormal(z, precision_matrix=PRECISION), obs=x)


def evidence() -> float:
    covariance = torch.eye(SIZE, dtype=torch.double) + torch.linalg.inv(PRECISION)
    return float(dist.MultivariateNormal(torch.zeros(SIZE, dtype=torch.double), covariance).log_prob(X))


@pytest.mark.parametrize("method", METHODS)
def test_draws_have_the_moments_of_the_posterior(method: str) -> None:
    done = experiments.fit(normal, f"draws(mean_field)@{method}", X, progress=False)
    guide = done.guide
    assert isinstance(guide, Drawn)
    assert done.converged
    assert done.method == method
    z, worth = guide.values[:, 0], float(guide.ess.min())
    deviation = POSTERIOR.diagonal().sqrt()
    assert bool(((z.mean(0) - MEAN).abs() < 4 * deviation / math.sqrt(worth)).all())
    torch.testing.assert_close(z.std(0) / deviation, torch.ones(SIZE, dtype=torch.double), rtol=0, atol=3 / math.sqrt(worth))


@pytest.mark.parametrize("text", BOUNDED)
def test_the_bound_is_that_of_weights_of_mean_p_of_x(text: str) -> None:
    done = experiments.fit(normal, text, X, progress=False)
    assert float(done.guide.bound.sum()) == pytest.approx(evidence(), abs=4 * float(done.guide.bound_se))
    found = experiments.evaluate(done.model, done.guide, X)
    assert found.elbo.value == float(done.guide.bound.sum())
    assert found.kl_gap.lower <= 4 * found.elbo.se


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", ["draws(mean_field)@psis", "draws(full_rank@laplace)@psis", "draws(full_rank)@pathfinder"])
def test_draws_of_the_posterior_itself_stay_apart(text: str, dtype: torch.dtype) -> None:
    """Weights that are equal up to rounding have no tail to smooth: they are left as they are."""
    def conjugate(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    for shift in range(4):
        x = torch.tensor([1.0, 2.0, 3.0], dtype=dtype) + 0.3 * shift
        values = experiments.fit(conjugate, text, x, progress=False).guide.values.double()
        assert float(values.mean()) == pytest.approx(float(x.sum()) / 4, abs=4 * 0.5 / 64 + 1e-3)
        assert float(values.std()) == pytest.approx(0.5, rel=0.06)


def test_a_density_is_not_asked_of_draws() -> None:
    done = experiments.fit(normal, "draws(mean_field)@psis", X, progress=False)
    with pytest.raises(ZooError, match="expected a guide with a density for log weights"):
        experiments.log_weights(done.model, done.guide, X)
    found = experiments.evidence(done.model, X, done.guide)
    assert found.lower <= evidence() <= found.upper
    with pytest.raises(ZooError, match="fit it first"):
        experiments.evaluate(done.model, guides.build("draws(mean_field)", done.model, X), X)


def test_chains_have_no_bound_and_say_so() -> None:
    table = experiments.compare(normal, X, guides=["mean_field", "draws(mean_field)@nuts"], progress=False)
    row = table.rows[1]
    assert math.isnan(row.evaluation.elbo.value)
    assert row.evaluation.kl_gap.value is None
    assert row.evaluation.kl_gap.upper is None
    told = table.to_dict()["guides"][1]
    assert told["elbo"]["value"] is None
    assert told["density"] is False
    assert "—" in str(table).splitlines()[3]
    assert table.evidence.lower <= evidence() <= table.evidence.upper


def test_draws_of_all_paths_hold_a_mode_that_the_best_normal_misses() -> None:
    """z² is observed: paths from several starts end at either root, and their draws together hold both."""
    x = torch.tensor(16.0, dtype=torch.double)

    def square(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 3.0))
        pyro.sample("x", dist.Normal(z.square(), 1.0), obs=x)

    done = experiments.fit(square, "draws@pathfinder", x, progress=False)
    assert done.converged
    share = float((done.guide.values > 0).double().mean())
    assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(float(done.guide.ess.min())))
    assert float(done.guide.khat.max()) < 0.7
    z = torch.linspace(-20, 20, 200_001, dtype=torch.double)
    joint = dist.Normal(0.0, 3.0).log_prob(z) + dist.Normal(z.square(), 1.0).log_prob(x)
    log_p = float(joint.logsumexp(0) + math.log(40 / 200_000))
    assert done.bound == pytest.approx(log_p, abs=4 * float(done.guide.bound_se))


def test_draws_begin_from_the_fit_of_their_source_that_is_compared() -> None:
    table = experiments.compare(normal, X, guides=["draws(full_rank)@psis", "full_rank"], progress=False)
    fitted, drawn = table.guide("full_rank"), table.guide("draws(full_rank)@psis")
    for one, other in zip(fitted.parameters(), drawn.source.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_chains_that_agree_are_the_reference_of_parameters() -> None:
    table = experiments.compare(normal, X, guides=["mean_field", "draws(mean_field)@nuts"], progress=False)
    found = table.parameters()
    assert found.reference.startswith("'draws(mean_field)@nuts', R-hat 1.0")
    frame = found.to_frame().loc["mean_field"]
    for i in range(SIZE):
        row = frame.loc[f"z[{i}]"]
        assert abs(row["reference_mean"] - float(MEAN[i])) < 4 * row["error_se"] * row["reference_sd"]


def test_one_comparison_has_several_methods() -> None:
    texts = ["full_rank@laplace", "full_rank@pathfinder", "full_rank"]
    table = experiments.compare(normal, X, guides=texts, progress=False)
    assert [row.fit.method for row in table.rows] == ["laplace", "pathfinder", "fixed_draws"]


def test_local_latents_have_weights_of_their_own() -> None:
    """PPCA's rows are units: bounds and draws are of each, and the posterior is known."""
    x = zoo.dataset("iris").x[:12]
    model = zoo.build("ppca", x)
    experiments.fit(model, "exact", x, progress=False)
    for method in METHODS:
        done = experiments.fit(model, f"draws(mean_field)@{method}", x, train_model=False, progress=False)
        with torch.no_grad():
            exact, log_p = model.posterior(x), model.log_evidence(x).double()
            error = (done.guide.values.mean(0) - exact.mean).abs() / exact.variance.sqrt()
        assert float(error.max()) < 5 / math.sqrt(float(done.guide.ess.min()))
        if method != "nuts":
            torch.testing.assert_close(done.guide.bound, log_p, rtol=0, atol=0.05)


def test_theta_is_fitted_with_the_source() -> None:
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x)
    done = experiments.fit(model, "draws(full_rank)@psis", x, progress=False)
    assert float(model.log_evidence(x).sum().detach()) == pytest.approx(done.bound, abs=0.5)


def test_a_finished_fit_is_restored(tmp_path: Path) -> None:
    first = experiments.fit(normal, "draws(mean_field)@psis", X, journal=tmp_path, progress=False)
    again = experiments.fit(normal, "draws(mean_field)@psis", X, journal=tmp_path, progress=False)
    torch.testing.assert_close(first.guide.values, again.guide.values, rtol=0, atol=0)
    assert again.bound == first.bound


def test_weights_of_a_guide_that_misses_mass_are_told_of() -> None:
    """A normal at the mode of eight schools is far from where the mass is: importance weights fail, and say so."""
    x = zoo.dataset("eight_schools").x
    done = experiments.fit(zoo.build("eight_schools", x), "draws(full_rank@laplace)@psis", x, progress=False)
    assert not done.converged
    assert "use ais" in done.stopped


@pytest.mark.parametrize(("text", "method", "message"), [
    ("full_rank", "psis", r"expected draws\(guide\) for method psis; got 'full_rank'"),
    ("draws(full_rank)", "svi", r"expected a guide with a density for method svi; got 'draws\(full_rank\)'; use method path"),
    ("full_rank@laplace", "svi", "expected one method for 'full_rank@laplace'; got method svi, too"),
    ("full_rank@hmc", None, "unknown method 'hmc'"),
    ("draws(exact)", None, "expected a guide with parameters in 'draws\\(exact\\)'"),
    ("draws(draws)", None, "expected a guide with parameters in 'draws\\(draws\\)'"),
    ("mean_field@svi@fixed_draws", None, "expected one method behind a guide"),
    ("draws()", None, "expected a guide as family"),
])
def test_what_does_not_fit_is_refused(text: str, method: str | None, message: str) -> None:
    with pytest.raises(ZooError, match=message):
        experiments.fit(normal, text, X, method=method, progress=False)


def test_discrete_latents_are_refused() -> None:
    x = zoo.dataset("faithful").x
    with pytest.raises(ZooError, match="it needs continuous latents"):
        guides.build("draws(categorical)", zoo.build("gmm", x), x)


def test_draws_that_there_are_not_are_asked_for() -> None:
    model = zoo.as_model(normal)
    with pytest.raises(ZooError, match="fit it first"):
        guides.build("draws(mean_field)", model, X).posterior(X)


def test_a_tree_of_draws_has_no_weights() -> None:
    done = experiments.fit(normal, "draws(mean_field)@psis", X, progress=False)
    tree = experiments.posterior(done.model, done.guide, X, draws=50)
    assert set(tree["sample_stats"].data_vars) == {"log_p"}
    assert tree["posterior"]["z"].shape == (1, 50, SIZE)
