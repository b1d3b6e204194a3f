"""A draw at which a density can't be evaluated has weight zero and is counted; a gradient that is not finite is told."""

import math
import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.log_evidence.log_weights import LogWeights, log_joint, log_weights
from experiments.optimisers.each import ascend_each
from experiments.samplers.hmc import Kernel, Target, transition
from zoo.errors import ZooError, ZooWarning
from zoo.program.failures.tolerance import UNRAISED, tolerant

ONE = torch.ones((), dtype=torch.double)

SE = 4  # standard errors that a number may be off by
X = torch.tensor([0.3, -0.1, 0.4], dtype=torch.double)


def root(z: Tensor) -> list[Tensor]:
    return [torch.linalg.cholesky(z[:, None, None])[:, 0, 0]]


def halves(z: Tensor) -> list[Tensor]:
    if bool((z < 0).any()):
        raise ArithmeticError("negative")
    return [z.sqrt()]


@pytest.mark.parametrize(("evaluate", "reason"), [(root, "LinAlgError"), (halves, "ArithmeticError: negative")])
def test_only_the_draws_at_fault_are_left_out(evaluate: object, reason: str) -> None:
    z = torch.randn(101, generator=torch.Generator().manual_seed(0)) + 1
    [found], why = tolerant(evaluate, z, [])  # type: ignore[arg-type]
    assert torch.equal(found.isnan(), z < 0)
    assert torch.allclose(found[z >= 0], z[z >= 0].sqrt())
    assert why.startswith(reason)


def test_one_draw_at_fault_takes_few_calls() -> None:
    calls = []

    def counted(z: Tensor) -> list[Tensor]:
        calls.append(len(z))
        return halves(z)

    z = torch.ones(1024)
    z[700] = -1
    tolerant(counted, z, [])
    assert len(calls) <= 2 + 2 * 10


def test_an_error_of_the_input_is_raised() -> None:
    def refuse(z: Tensor) -> list[Tensor]:
        raise ZooError("expected other data")

    with pytest.raises(ZooError, match="expected other data"):
        tolerant(refuse, torch.ones(3), [])


@pytest.mark.parametrize("func", UNRAISED)
def test_functions_that_do_not_raise_say_the_same(func: object) -> None:
    good = torch.eye(2).double() * 2
    args = (good, torch.ones(2, 1).double()) if func is torch.linalg.solve else (good,)
    assert torch.equal(func(*args), UNRAISED[func](*args)[0])  # type: ignore[operator]


def domain(x: Tensor) -> None:
    """A normal mean and a covariance that is none where the second latent is negative."""
    m = pyro.sample("m", dist.Normal(torch.zeros(()).double(), 1.0))
    c = pyro.sample("c", dist.Normal(torch.tensor(1.0).double(), 1.0))
    pyro.sample("x", dist.MultivariateNormal(m.expand(3), c * torch.eye(3).double()), obs=x)


@pytest.fixture
def pair() -> tuple[zoo.Model, guides.BaseGuide]:
    model = zoo.as_model(domain)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.latents(X)
        guide = guides.build("full_rank", model, X)
    with torch.no_grad():  # wide enough for draws outside
        guide.amortisation.phi["loc"].copy_(torch.tensor([[0.2, 1.0]]))
        for name, value in guide.amortisation.phi.items():
            if name != "loc":
                value.zero_()
    return model, guide


def test_weights_of_draws_that_fail_are_nothing_and_are_counted(pair: tuple[zoo.Model, guides.BaseGuide]) -> None:
    model, guide = pair
    with pytest.warns(ZooWarning, match=r"\d+ of 4096 draws of 'full_rank' could not be evaluated on domain .*LinAlgError"):
        found = log_weights(model, guide, X)
    assert 0 < found.failed < 4096
    share = 1 - found.failed / 4096
    assert float(found.log_share) == pytest.approx(math.log(share))
    good = ~found.unevaluated[:, 0]  # type: ignore[index]
    expected = float(found.log_weight[good].mean()) + math.log(share)
    assert found.elbo().value == pytest.approx(expected)
    assert found.elbo().value == pytest.approx(found.reconstruction().value - found.kl_prior().value)
    assert float(found.importance_bound()) == pytest.approx(
        float(found.log_weight[good].logsumexp(0)) - math.log(4096))
    assert bool(found.khat().isfinite().all())  # type: ignore[union-attr]
    assert found.elbo().value < float(found.importance_bound()) < 0


def test_the_evidence_is_that_of_where_the_program_can_be_evaluated(pair: tuple[zoo.Model, guides.BaseGuide]) -> None:
    model, _ = pair
    m, c = torch.meshgrid(torch.linspace(-8, 8, 801).double(), torch.linspace(1e-4, 9, 4000).double(), indexing="ij")
    log_f = dist.Normal(0.0, 1.0).log_prob(m) + dist.Normal(1.0, 1.0).log_prob(c)
    for v in X:
        log_f = log_f + dist.Normal(m, c.sqrt()).log_prob(v)
    expected = float(log_f.logsumexp((0, 1))) + math.log(16 / 800 * (9 - 1e-4) / 3999)
    z = torch.randn(200_000, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    z = z + torch.tensor([0.0, 1.0])
    log_q = dist.Normal(torch.tensor([0.0, 1.0]).double(), 1.0).log_prob(z).sum(-1)
    log_w = log_joint(model, X, z) - log_q
    found, spread = float(log_w.logsumexp(0)) - math.log(len(z)), float(log_w.exp().std() / log_w.exp().mean())
    assert found == pytest.approx(expected, abs=4 * spread / math.sqrt(len(z)))


def test_chains_leave_and_never_enter_where_nothing_can_be_evaluated(pair: tuple[zoo.Model, guides.BaseGuide]) -> None:
    model, _ = pair
    target = Target((lambda z: model.log_joint(X, z),))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = target.at(torch.tensor([[[0.0, -0.2]], [[0.0, 1.0]]]).double().repeat(8, 1, 1))
        kernel = Kernel.first(torch.ones(1, 2).double(), leapfrogs=3)
        for _ in range(40):
            state, _ = transition(target, state, kernel)
    assert bool((state.z[..., 1] > 0).all())
    assert bool(state.terms.isfinite().all())


def test_nan_counts_as_weight_zero_and_more_than_all_is_an_error() -> None:
    def program(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.factor("f", torch.where(m > 2, torch.nan, 0.0))
        pyro.sample("x", dist.Normal(m, 1.0).expand([3]).to_event(1), obs=x)

    model = zoo.as_model(program)
    guide = guides.build("prior", model, X)
    with pytest.warns(ZooWarning, match=r"'prior' could not be evaluated on program and have weight zero \(log p is NaN"):
        found = log_weights(model, guide, X)
    assert found.failed == pytest.approx(4096 * 0.0228, rel=0.3)

    def never(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.factor("f", m * math.nan)
        pyro.sample("x", dist.Normal(m, 1.0).expand([3]).to_event(1), obs=x)

    model = zoo.as_model(never)
    with pytest.raises(ZooError, match=r"expected a number for log p\(x, z\) of never at some draw of 'prior'; got none"):
        log_weights(model, guides.build("prior", model, X), X)


def test_without_failures_nothing_changes() -> None:
    numbers = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0))
    measure = torch.full((8, 2), -math.log(8))
    plain = LogWeights(*numbers, measure, False)
    marked = LogWeights(*numbers, measure, False, unevaluated=torch.zeros(8, 2, dtype=torch.bool))
    assert plain.failed == marked.failed == 0
    assert plain.elbo().value == marked.elbo().value


def test_a_unit_without_a_finite_start_never_settles() -> None:
    def objective(point: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = -point.square().sum(1) + torch.where(units == 1, torch.nan, 0.0)
        return value, value, -2 * point

    asked = []
    _, done = ascend_each(objective, torch.ones(3, 2).double(), 50, check=lambda: asked.append(True))
    assert not done.converged
    assert asked == [True]


class TestStarts:
    """A start without a finite gradient is refused, and the site and the observation at fault are named."""

    @pytest.mark.parametrize("method", ["svi", "fixed_draws"])
    def test_an_outlier_beyond_float32(self, method: str) -> None:
        def level(x: Tensor) -> None:
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(mu, 1.0), obs=x)

        x = torch.ones(20)
        x[17] = 1e30
        with pytest.raises(ZooError, match=r"log-probability at site 'y' of level, value 1e\+30 at row 17; check"):
            experiments.fit(level, "mean_field", x, method=method)

    @pytest.mark.parametrize("method", ["svi", "fixed_draws"])
    def test_a_finite_density_without_a_gradient(self, method: str) -> None:
        def kink(x: Tensor) -> None:
            m = pyro.sample("m", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.factor("f", -((0 * m).sqrt()))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(m, 1.0), obs=x)

        with pytest.raises(ZooError, match="got non-finite gradient of the log-probability at site 'f' of kink; check"):
            experiments.fit(kink, "mean_field", X, method=method)

    def test_an_observation_at_which_a_density_has_no_slope(self) -> None:
        def powered(x: Tensor) -> None:
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0).double(), 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Weibull(rate, rate + 1), obs=x)

        x = torch.tensor([1.0, 2.0, math.inf], dtype=torch.double)
        with pytest.raises(ZooError, match=r"at site 'y' of powered, value inf at row 2"):
            experiments.fit(powered, "mean_field", x)

    def test_a_parameter_without_a_gradient(self) -> None:
        def scaled(x: Tensor) -> None:
            tau = pyro.param("tau", torch.zeros(()).double())
            m = pyro.sample("m", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(m, 1.0 + tau.abs().sqrt()), obs=x)

        with pytest.raises(ZooError, match="got non-finite gradient of the log-probability at site 'y' of scaled"):
            experiments.fit(scaled, "mean_field", X)


def test_a_gaussian_process_whose_covariance_is_singular_at_some_draws() -> None:
    """In float32, without a jitter worth the name, covariances of long length scales have no Cholesky factor."""
    def process(x: dict[str, Tensor]) -> None:
        rho = pyro.sample("rho", dist.LogNormal(0.0, 2.0))
        distance = (x["t"][:, None] - x["t"]).square()
        covariance = torch.exp(-0.5 * distance / rho**2) + 1e-8 * torch.eye(len(x["t"]))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x["t"])), covariance), obs=x["y"])

    t = torch.linspace(0, 3, 12)
    x = {"t": t, "y": torch.sin(2 * t)}
    found = log_joint(zoo.as_model(process), x, torch.linspace(-6, 6, 60)[:, None, None])
    assert 0 < int(found.isfinite().sum()) < 60


def correlated(y: Tensor) -> None:
    """y ~ N(f, 0.3²), f ~ N(0, I + l 11ᵀ), whose factor exists for l > −1/3: at four draws of l in ten the program fails."""
    one = torch.ones(3, dtype=y.dtype)
    covariance = pyro.sample("l", dist.Normal(0 * one[0], 2.0))
    factor = torch.linalg.cholesky(one.diag() + covariance * one[:, None] * one)
    f = pyro.sample("f", dist.MultivariateNormal(0 * one, scale_tril=factor))
    pyro.sample("y", dist.Normal(f, 0.3).to_event(1), obs=y)


def correlated_evidence(y: Tensor) -> float:
    """f summed out, l on a grid: y has variance 1.09 + 3 l along (1, 1, 1) and 1.09 across."""
    grid = torch.linspace(-1 / 3, 14, 200_001, dtype=torch.double)
    along, across = y.sum().square() / 3, (y - y.mean()).square().sum()
    wide = 1.09 + 3 * grid
    log_p = -0.5 * (along / wide + across / 1.09 + wide.log()) - math.log(1.09) - 1.5 * math.log(2 * math.pi)
    return float((log_p + dist.Normal(0.0, 2.0).log_prob(grid)).logsumexp(0) + (grid[1] - grid[0]).log())


class TestPriorThatFails:
    y = torch.tensor([1.0, 0.9, 1.1], dtype=torch.double)

    def test_naive_monte_carlo_counts_what_fails_as_nothing(self) -> None:
        model = zoo.as_model(correlated)
        guide = guides.build("prior", model, self.y)
        with pytest.warns(ZooWarning, match=r"\d+ of \d+ draws of 'prior' could not be evaluated on correlated"):
            weights = log_weights(model, guide, self.y, 4000)
        found = weights.log_weight.logsumexp(0) - math.log(4000)
        relative = (weights.log_weight - found).exp().std() / math.sqrt(4000)
        assert abs(float(found) - correlated_evidence(self.y)) < SE * math.hypot(float(relative), (0.43 / 0.57 / 4000) ** 0.5)
        share = 0.5 + 0.5 * math.erf((1 / 3) / 2 / math.sqrt(2))  # Φ(1/6): of l > −1/3
        z = guide.posterior(self.y).sample(torch.Size([2]))
        assert float((guide.posterior(self.y).log_prob(z) - model.log_terms(self.y, z)[0])[0, 0]) == pytest.approx(
            -math.log(share), abs=SE * (0.43 / 0.57 / 256) ** 0.5)

    def test_a_fit_whose_guide_reaches_where_nothing_can_be_evaluated_has_not_converged(self) -> None:
        fit = experiments.fit(correlated, "full_rank", self.y)
        assert not fit.converged
        assert fit.stopped.startswith("not converged: linear algebra fails at draws of the fitted guide")
        assert fit.elbo is not None
        assert math.isfinite(fit.elbo)

    @pytest.mark.long
    def test_a_comparison_holds_the_evidence_and_says_what_failed(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZooWarning)
            table = experiments.compare(correlated, self.y, ["full_rank", "prior"])
        assert table.evidence.upper is not None
        assert table.evidence.lower < correlated_evidence(self.y) < table.evidence.upper
        assert "not converged: linear algebra fails at draws of the fitted guide" in str(table)
        assert re.search(r"'full_rank': \d+ of 4096 draws could not be evaluated", str(table))

    def test_data_are_simulated_at_draws_that_do_not_fail(self) -> None:
        model = zoo.as_model(correlated)
        for seed in range(12):  # four in ten of them fail at the first draw
            assert bool(model.simulate(self.y, seed=seed)[1].isfinite().all())

    def test_a_prior_that_always_fails_is_refused_in_one_line(self) -> None:
        runs = []

        def program(y: Tensor) -> None:
            scale = pyro.sample("scale", dist.Normal(torch.ones(()).double(), 0.1))
            if len(runs) > 3:
                torch.linalg.cholesky(-scale * torch.eye(2).double())
            runs.append(0)
            pyro.sample("y", dist.Normal(0.0, scale.abs()).expand([3]).to_event(1), obs=y)

        model = zoo.as_model(program)
        model.latents(self.y)
        runs += [0] * 4
        with pytest.raises(ZooError, match=r"expected a prior of program that can be drawn; got 100 of 100 draws that failed"):
            model.simulate(self.y)


def test_a_step_to_where_linear_algebra_fails_is_shortened() -> None:
    def objective(point: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.linalg.cholesky((1.5 - point[0, 0]) * torch.eye(2).double())
        value = -(point - 1.0).square().sum(1) * 0.25
        return value, value, -0.5 * (point - 1.0)

    point, done = ascend_each(objective, torch.full((1, 1), -4.0).double(), 50)
    assert done.converged
    assert float(point) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ZooError, match=r"expected linear algebra to work out where the fit starts; got linalg\.cholesky"):
        ascend_each(objective, torch.full((1, 1), 2.0).double(), 50)


def impossible(x: Tensor) -> None:
    """Component 0 can't give a value over 1: p(x, z = 0) is zero there."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6], dtype=torch.double)))
        pyro.sample("x", dist.Uniform(0 * ONE, 1 + z), obs=x)


def test_values_that_cannot_be_count_nothing() -> None:
    x = torch.tensor([0.2, 0.9, 1.4, 0.5], dtype=torch.double)
    exact = torch.where(x < 1, 0.4 + 0.6 / 2, torch.full_like(x, 0.6 / 2)).log()
    table = experiments.compare(impossible, x, ["exact", "categorical"])
    assert table.evidence.value == pytest.approx(float(exact.sum()), abs=1e-9)
    assert table.rows[0].evaluation.kl_gap.value == pytest.approx(0, abs=1e-9)
    assert table.rows[1].evaluation.kl_gap.value == pytest.approx(0, abs=1e-9)
    with pytest.raises(zoo.ZooError, match="non-finite log-probability at site 'x' of impossible"):
        experiments.fit(impossible, "categorical:encoder", x)  # a softmax rules nothing out: its ELBO is −∞
    q = guides.build("exact", table.model, x).posterior(x)
    assert bool(q.entropy().isfinite().all())
