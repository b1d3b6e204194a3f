"""Closed forms, enumerations, quadratures, and other people's implementations."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis
from sklearn.mixture import GaussianMixture
from torch import Tensor

import experiments
import guides
import zoo
from experiments.log_evidence.log_weights import LogWeights, log_weights
from experiments.log_evidence.quadrature import integrate
from experiments.samplers.quasi_random import normal_noise
from guides.families.gaussian import MeanField
from tests.contracts.cases import held_elbo

SE = 5


def faithful() -> torch.Tensor:
    x = zoo.dataset("faithful").x
    assert isinstance(x, torch.Tensor)
    return x


# -- mixtures -----------------------------------------------------------------------------------------------------------


def test_old_faithful_maximum() -> None:
    x = faithful()
    fit = experiments.fit(zoo.build("gmm", x, components=2), "exact", x)
    assert fit.converged
    assert fit.elbo == pytest.approx(-1130.264, abs=1e-3)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_gmm_is_scikit_learns(covariance: str) -> None:
    """Same start, both to convergence: the same log-likelihood."""
    x = faithful()
    model = zoo.build("gmm", x, components=3, covariance=covariance, seed=4)
    factors = model.covariance.expand(model.scale, 3, 2).detach()
    precisions = torch.linalg.inv(factors @ factors.mT)
    start = {"full": precisions, "tied": precisions[0], "diag": precisions.diagonal(dim1=1, dim2=2),
             "spherical": precisions[:, 0, 0]}[covariance]
    theirs = GaussianMixture(
        3, covariance_type=covariance, reg_covar=0.0, tol=1e-12, max_iter=5000, weights_init=model.weights.detach().numpy(),
        means_init=model.means.detach().numpy(), precisions_init=start.numpy()).fit(x.numpy())
    fit = experiments.fit(model, "exact", x, steps=5000)
    assert fit.elbo / len(x) == pytest.approx(theirs.score(x.numpy()), abs=1e-6)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_gmm_density_is_scikit_learns_at_one_theta(covariance: str) -> None:
    x = faithful()
    model = zoo.build("gmm", x, components=3, covariance=covariance)
    theirs = GaussianMixture(3)
    theirs.weights_, theirs.means_ = model.weights.detach().numpy(), model.means.detach().numpy()
    factors = model.covariance.expand(model.scale, 3, 2).detach()
    theirs.precisions_cholesky_ = torch.linalg.inv(factors).mT.numpy()
    with torch.no_grad():
        np.testing.assert_allclose(model.log_evidence(x).numpy(), theirs.score_samples(x.numpy()), rtol=1e-12)
        np.testing.assert_allclose(model.posterior(x).probs.numpy(), theirs.predict_proba(x.numpy()), atol=1e-12)


def test_free_categorical_guide_finds_the_exact_posterior() -> None:
    x = faithful()
    model = zoo.build("gmm", x)
    experiments.fit(model, "exact", x)
    table = experiments.compare(model, x, ["categorical"], train_with="exact")
    assert abs(table.rows[0].evaluation.kl_gap.value) < 1e-8 * len(x)


# -- linear-Gaussian models --------------------------------------------------------------------------------------------


def wine(standardise: bool = True) -> torch.Tensor:
    x = zoo.dataset("wine", standardise=standardise).x
    assert isinstance(x, torch.Tensor)
    return x


@pytest.mark.parametrize("start", ["principal", "random"])
def test_ppca_maximum_is_scikit_learns(start: str) -> None:
    """scikit-learn divides the covariance by n − 1: on rows scaled by √((n − 1)/n) its fit is the maximum likelihood one."""
    x = wine()
    n = len(x)
    model = zoo.build("ppca", x, latent=3, start=start)
    experiments.fit(model, "exact", x, steps=4000)
    centred = (x - x.mean(0)).numpy()
    theirs = PCA(3).fit(centred * math.sqrt((n - 1) / n))
    with torch.no_grad():
        ours = float(model.log_evidence(x).mean())
    assert ours == pytest.approx(theirs.score(centred), abs=1e-6)


@pytest.mark.parametrize("start", ["principal", pytest.param("random", marks=pytest.mark.long)])
def test_factor_analysis_maximum_is_scikit_learns(start: str) -> None:
    x = wine()
    model = zoo.build("factor_analysis", x, latent=3, start=start, seed=1)
    fit = experiments.fit(model, "exact", x, steps=4000)
    theirs = SklearnFactorAnalysis(3, tol=1e-12, max_iter=20000, svd_method="lapack").fit(x.numpy())
    assert fit.elbo / len(x) == pytest.approx(theirs.score(x.numpy()), abs=1e-6)


def test_mean_field_gap_of_ppca_is_the_closed_form() -> None:
    """½(Σ_d log P_dd − log|P|) per unit, P the posterior precision: reached by the optimiser, not only approached."""
    x = wine()
    model = zoo.build("ppca", x, latent=4, start="random")
    experiments.fit(model, "exact", x, steps=50)
    guide = guides.build("mean_field", model, x)
    fit = experiments.fit(model, guide, x, train_model=False)
    with torch.no_grad():
        posterior, free = model.posterior(x), guide.posterior(x)
    precision = torch.linalg.inv(posterior.covariance_matrix)
    gap = 0.5 * (precision.diagonal(dim1=1, dim2=2).log().sum(1) - torch.logdet(precision))
    assert float(gap.min()) > 1e-3, "the case must have a gap"
    q = torch.distributions.MultivariateNormal(free.mean, torch.diag_embed(free.variance))
    kl = torch.distributions.kl_divergence(q, posterior)
    torch.testing.assert_close(kl, gap, rtol=0, atol=1e-7)
    evaluation = experiments.evaluate(model, guide, x)
    assert abs(evaluation.kl_gap.value - float(gap.sum())) < SE * evaluation.kl_gap.se
    assert fit.elbo == pytest.approx(float((model.log_evidence(x).detach() - gap).sum()), abs=1e-5)


# -- regressions --------------------------------------------------------------------------------------------------------


def test_linear_regression_evidence_is_a_student_t() -> None:
    data = zoo.dataset("diabetes", "regression", standardise=True)
    x = {k: v[:60] for k, v in data.x.items()}
    model = zoo.build("linear_regression", x, concentration=2.0, rate=3.0, precision=0.5)
    phi = np.column_stack([np.ones(60), x["X"].numpy()])
    scale = 3.0 / 2.0 * (np.eye(60) + phi @ phi.T / 0.5)
    expected = stats.multivariate_t(loc=np.zeros(60), shape=scale, df=4.0).logpdf(x["y"].numpy())
    assert float(model.log_evidence(x)) == pytest.approx(expected, rel=1e-10)


def test_linear_regression_posterior_mean_is_ridge() -> None:
    x = zoo.dataset("diabetes", "regression", standardise=True).x
    model = zoo.build("linear_regression", x)
    phi = torch.cat([torch.ones(len(x["y"]), 1), x["X"]], 1)
    ridge = torch.linalg.solve(phi.T @ phi + torch.eye(11), phi.T @ x["y"])
    torch.testing.assert_close(model.posterior(x).mean[0, 1:], ridge)


def test_normal_inverse_gamma_draws_have_their_density() -> None:
    """E_q[p / q] = 1 for a normalised p: the density integrates to one where the draws go."""
    x = {k: v[:40] for k, v in zoo.dataset("diabetes", "regression", standardise=True).x.items()}
    model = zoo.build("linear_regression", x)
    q = model.posterior(x)
    with zoo.seeded(0):
        z = q.rsample((20_000,))[:, 0]
    wide = torch.distributions.MultivariateNormal(z.mean(0), 0.8 * torch.cov(z.T))
    ratio = (wide.log_prob(z) - q.log_prob(z[:, None])[:, 0]).exp()
    assert abs(float(ratio.mean()) - 1) < SE * float(ratio.std()) / math.sqrt(len(z))


def test_logistic_regression_reaches_the_reference_elbos() -> None:
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    model = zoo.build("logistic_regression", x)
    for text, least in (("full_rank", -55.6), ("mean_field", -67.75)):
        fit = experiments.fit(model, text, x)
        assert fit.method == "fixed_draws"
        # On held quasi-random noise that the fit did not see: far less noisy than independent draws.
        noise = normal_noise(8192, 31, 12345, x["y"])
        with torch.no_grad():
            assert float(held_elbo(model, fit.guide, x, noise)) >= least


# -- eight schools ------------------------------------------------------------------------------------------------------


def test_eight_schools_reaches_the_reference_elbos_and_mean() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    for text, least in (("full_rank", -31.56), ("mean_field", -31.62)):
        fit = experiments.fit(model, text, x)
        elbo = log_weights(model, fit.guide, x, 200_000).elbo()
        assert elbo.value >= least
        tree = experiments.posterior(model, fit.guide, x, draws=4000, groups=["posterior"])
        assert float(tree["posterior"]["mu"].mean()) == pytest.approx(4.4, abs=0.35)


def collapsed(x: dict[str, torch.Tensor]) -> None:
    """Eight schools with the schools' effects integrated out by hand: two latents are left."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.double), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0, dtype=torch.double)))
    with pyro.plate("school", 8):
        pyro.sample("y", dist.Normal(mu, (tau**2 + x["sigma"] ** 2).sqrt()), obs=x["y"])


@pytest.mark.parametrize("centred", [False, pytest.param(True, marks=pytest.mark.long)])
def test_eight_schools_bracket_holds_the_quadrature_of_the_collapsed_model(centred: bool) -> None:
    x = zoo.dataset("eight_schools").x
    truth = experiments.evidence(collapsed, x)
    assert truth.kind == "quadrature"
    assert truth.upper - truth.lower < 1e-3
    model = zoo.build("eight_schools", x, centred=centred)
    guide = experiments.fit(model, "full_rank", x).guide
    # The centred form has a funnel, in which the chains do not mix: the bracket says so, and is wide.
    with pytest.warns(zoo.ZooWarning, match="disagree") if centred else nullcontext():
        found = experiments.evidence(model, x, guide)
    assert found.kind == "estimated"
    assert found.lower <= truth.value <= found.upper
    assert found.upper - found.lower < (8 if centred else 0.5)


# -- quadrature ----------------------------------------------------------------------------------------------------------


def coin(x: torch.Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def test_quadrature_of_a_coin_is_the_beta_integral() -> None:
    x = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.double)
    found = experiments.evidence(coin, x)
    a, b = 2 + float(x.sum()), 2 + float((1 - x).sum())
    exact = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b) - 2 * math.lgamma(2) + math.lgamma(4)
    assert found.kind == "quadrature"
    assert found.value == pytest.approx(exact, abs=1e-5)  # the program's own Beta(2.0, 2.0) is float32
    assert found.lower - 1e-5 <= exact <= found.upper + 1e-5


def test_quadrature_per_unit_is_the_exact_evidence_of_ppca() -> None:
    x = wine()[:20]
    model = zoo.build("ppca", x, latent=2, start="random")
    integral = integrate(model, x)
    torch.testing.assert_close(integral.value, model.log_evidence(x).detach(), rtol=1e-9, atol=1e-9)
    assert float(integral.error.max()) < 1e-6


def test_quadrature_finds_a_posterior_far_from_the_prior_and_with_two_modes() -> None:
    def far(x: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.double), 100.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(m, 0.05), obs=x)

    x = torch.full((4,), 180.0, dtype=torch.double)
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.double), 1e4 + 0.0025 * torch.eye(4, dtype=torch.double)).log_prob(x)
    assert experiments.evidence(far, x).value == pytest.approx(float(exact), abs=1e-5)

    def two(x: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.double), 3.0))
        pyro.sample("x", dist.Normal(m.abs(), 0.3), obs=x)

    y = torch.tensor(2.0, dtype=torch.double)
    half = stats.norm(0, math.sqrt(9.09)).pdf(2.0)
    left = stats.norm(2.0 * 9 / 9.09, math.sqrt(9 * 0.09 / 9.09)).sf(0)
    assert experiments.evidence(two, y).value == pytest.approx(math.log(2 * half * left), abs=1e-5)


@pytest.mark.parametrize(("prior", "noise", "x"), [(10.0, 0.01, 20.0), (1.0, 0.05, 2.0), (3.0, 1.0, 1.5)])
def test_quadrature_misses_no_mode(prior: float, noise: float, x: float) -> None:
    """x ~ N(|m|, noise): two modes, some far narrower than the first grid's step, some that overlap. By SciPy's quad."""
    from scipy.integrate import quad

    def two(x: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.double), prior))
        pyro.sample("x", dist.Normal((m * m + 1e-4).sqrt(), noise), obs=x)

    def density(m: float) -> float:
        return stats.norm(0, prior).pdf(m) * stats.norm(math.sqrt(m * m + 1e-4), noise).pdf(x)

    half, _ = quad(density, 0, x + 40 * noise, points=[x], epsabs=1e-14, limit=500)
    found = experiments.evidence(two, torch.tensor(x, dtype=torch.double))
    assert found.kind == "quadrature"
    assert found.value == pytest.approx(math.log(2 * half), abs=1e-5)


def test_quadrature_in_two_dimensions_misses_no_mode() -> None:
    def four(x: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.double), 10.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(m.abs(), 0.3).to_event(1), obs=x)

    total = experiments.evidence(four, torch.tensor([20.0, 20.0], dtype=torch.double))
    each = math.log(2) + stats.norm(0, math.sqrt(100.09)).logpdf(20.0)
    assert total.value == pytest.approx(2 * each, abs=1e-5)


@pytest.mark.long
def test_a_quadrature_that_does_not_settle_says_so_and_gives_a_bracket() -> None:
    def banana(x: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.double), 2.0))
        b = pyro.sample("b", dist.Normal(a**2, 0.02))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    x = torch.tensor(1.0, dtype=torch.double)
    guide = experiments.fit(banana, "full_rank", x).guide
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert experiments.evidence(guide.model, x, guide).kind == "estimated"
    assert any("quadrature of banana did not settle" in str(w.message) for w in said)


# -- diagnostics ---------------------------------------------------------------------------------------------------------


def gaussian_weights(q_scale: float, p_scale: float, seed: int = 0, draws: int = 200_000) -> LogWeights:
    with zoo.seeded(seed):
        z = q_scale * torch.randn(draws, 1, dtype=torch.double)
    q, p = dist.Normal(0.0, q_scale).log_prob(z), dist.Normal(0.0, p_scale).log_prob(z)
    return LogWeights(p, torch.zeros_like(p), q, torch.full_like(q, -math.log(draws)), False)


def test_khat_sign() -> None:
    """q = N(0, 1), p = N(0, 4): k̂ ≈ 1 − 1/4 = 0.75. The other way round the weights are bounded and k̂ is below 0.

    With the wrong sign the first would look perfect. At finite t the tail's local shape is 1 / (4/3 + 1 / (2 log 2t)), so
    0.66 at these thresholds, rising to 0.75; one estimate's error is (1 + k) / √1341 = 0.05.
    """
    khats = [float(gaussian_weights(1.0, 2.0, seed).khat()) for seed in range(6)]
    assert 0.66 - SE * 0.05 / math.sqrt(6) < np.mean(khats) < 0.75 + SE * 0.05 / math.sqrt(6)
    assert float(gaussian_weights(2.0, 1.0).khat()) < 0


def test_khat_of_hopeless_weights_is_not_mistaken_for_a_good_one() -> None:
    with zoo.seeded(0):
        log_w = 1e5 * torch.randn(1000, 1, dtype=torch.double)
    zero = torch.zeros_like(log_w)
    assert float(LogWeights(log_w, zero, zero, zero - math.log(1000), False).khat()) > 100


def test_ess_of_equal_and_of_single_weights() -> None:
    zero = torch.zeros(100, 1, dtype=torch.double)
    measure = zero - math.log(100)
    assert float(LogWeights(zero, zero, zero, measure, False).ess()) == pytest.approx(100)
    one = zero.clone()
    one[3] = 800.0
    assert float(LogWeights(one, zero, zero, measure, False).ess()) == pytest.approx(1)


def test_importance_bound_with_the_prior_is_naive_monte_carlo() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    weights = log_weights(model, guides.build("prior", model, x), x, 200)
    naive = torch.logsumexp(weights.log_likelihood, 0) - math.log(200)
    torch.testing.assert_close(weights.importance_bound(), naive)
    assert weights.kl_prior().value == pytest.approx(0, abs=1e-12)


def test_held_noise_makes_quadratics_exact() -> None:
    noise = normal_noise(64, 5, 3, torch.zeros((), dtype=torch.double))[:, 0]
    torch.testing.assert_close(noise.mean(0), torch.zeros(5, dtype=torch.double), atol=1e-12, rtol=0)
    torch.testing.assert_close(noise.T @ noise / 64, torch.eye(5, dtype=torch.double), atol=1e-9, rtol=0)
    phi = {"loc": torch.tensor([[1.0, 2.0]]).double(), "log_scale": torch.tensor([[0.1, -0.4]]).double()}
    z = MeanField().transform(phi, normal_noise(64, 2, 0, phi["loc"]))
    torch.testing.assert_close(z.square().mean(0), (phi["loc"].square() + (2 * phi["log_scale"]).exp()))


def test_counts_with_a_program_in_double_precision() -> None:
    def categories(x: Tensor) -> None:
        w = pyro.sample("w", dist.Dirichlet(torch.ones(2, dtype=torch.double)))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Categorical(w), obs=x)

    found = experiments.evidence(categories, torch.tensor([0, 1, 1]))
    assert found.value == pytest.approx(math.log(1 * 2 / (2 * 3 * 4)), abs=1e-4)
