"""EM by the rows' moments: the same numbers as by the program on every row, and the program where moments won't do."""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from torch import Tensor
from torch.distributions import Distribution

import experiments
import zoo
from experiments.inference.em.expectation import Expectation, Rows
from experiments.inference.em.moments import QuadraticStatistics, expectation
from zoo.data import Data
from zoo.models.gmm import GMM
from zoo.structure.probe import Probe
from zoo.structure.quadratic import Frame, Moments, by_features, by_matrices, power_sums, responsibilities

COVARIANCES = ["full", "tied", "diag", "spherical"]
LINEAR = [("ppca", {"start": "random"}), ("factor_analysis", {"start": "random"}), ("linear_vae", {})]


def overlapping(rows: int = 400) -> Tensor:
    with zoo.seeded(3):
        means = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]).double()
        return means[torch.randint(3, (rows,))] + torch.randn(rows, 3, dtype=torch.double) @ (
            torch.eye(3) + 0.3 * torch.randn(3, 3)).double()


def frame_of(x: Tensor) -> Frame:
    return Frame.of(power_sums(x, x[0].double()), x[0].double())


@pytest.mark.parametrize("steep", [1, 1000])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_polynomials_are_the_programs_density(covariance: str, steep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are told by gradients or by densities, in parts."""
    monkeypatch.setattr("zoo.structure.probe.STEEP", steep)
    monkeypatch.setattr("zoo.structure.probe.MATRICES", 100)
    x = overlapping()
    model = zoo.build("gmm", x, components=3, covariance=covariance)
    frame, support = frame_of(x), model.latents(x).support().double()
    with torch.no_grad():
        prior, likelihood, off = Probe(frame, support, x)(model)
        assert off < 1e-12
        terms = model.log_terms(x, support[:, None].expand(-1, len(x), -1))
        torch.testing.assert_close(prior @ frame.features(x), terms[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(likelihood @ frame.features(x), terms[1], rtol=1e-10, atol=1e-10)


def test_the_frame_has_mean_zero_and_covariance_one() -> None:
    x = 1e3 + overlapping() * torch.tensor([1e-3, 1.0, 1e4]).double()
    frame = frame_of(x)
    y = frame.features(x)[1:4]
    torch.testing.assert_close(y.mean(1), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.cov(y, correction=0), torch.eye(3).double(), atol=1e-8, rtol=0)
    few = frame.rows()
    torch.testing.assert_close(few.mean(0), x.mean(0))
    torch.testing.assert_close(torch.cov(few.T, correction=0), torch.cov(x.T, correction=0), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("rows", "threads"), [(37, 1), (3000, 1), (3001, 2), (3001, 3)])
def test_features_and_matrices_give_the_same_sums(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.structure.quadratic.PRODUCTS", 2**13)  # several parts
    monkeypatch.setattr("zoo.structure.quadratic.ROWS", 2**10)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)  # rows are shared out as to so many
    with zoo.seeded(5):
        x = 3 + torch.randn(rows, 5, dtype=torch.double) @ torch.randn(5, 5, dtype=torch.double)
        frame = frame_of(x)
        coefficients = torch.randn(3, frame.size, dtype=torch.double)
    (sums, total), (others, also) = (way(frame, x, coefficients) for way in (by_features, by_matrices))
    shares = (coefficients @ frame.features(x)).softmax(0)
    torch.testing.assert_close(sums, shares @ frame.features(x).T, atol=1e-9, rtol=1e-11)
    torch.testing.assert_close(others, sums, atol=1e-9, rtol=1e-11)
    torch.testing.assert_close(also, total, atol=0, rtol=1e-13)
    log_joint = coefficients @ frame.features(x)
    torch.testing.assert_close(total, log_joint.logsumexp(0).sum(), atol=0, rtol=1e-12)


def test_wide_rows_are_fitted_as_the_program_does() -> None:
    """Twenty columns and two components go by matrices."""
    with zoo.seeded(7):
        x = torch.cat([torch.randn(300, 20), 2 + torch.randn(200, 20)]).double()
    model = zoo.build("gmm", x, components=2)
    rows = copy.deepcopy(model)
    one, other = expectation(model, x), Rows(rows, x, rows.latents(x), len(x))
    assert isinstance(one, QuadraticStatistics)
    for step in range(3):
        assert one.expect() == pytest.approx(other.expect(), rel=1e-11), step
        one.maximise()
        other.maximise()
    assert "corners" not in vars(one.frame), "rows for each pair of columns are many, and gradients need none"


def test_sums_give_the_weighted_moments() -> None:
    x = overlapping()
    model = zoo.build("gmm", x, components=3)
    frame, support = frame_of(x), model.latents(x).support().double()
    with torch.no_grad():
        sums, total = responsibilities(frame, x, torch.add(*Probe(frame, support, x[:1])(model)[:2]))
        direct = Moments.of(x, model.posterior(x).probs)
        found = frame.moments(sums)
        assert float(total) == pytest.approx(float(model.log_evidence(x).sum()), rel=1e-12)
    for name in ("count", "mean", "covariance"):
        torch.testing.assert_close(getattr(found, name), getattr(direct, name), rtol=1e-9, atol=1e-9)


def by_program(model: zoo.Model, x: Tensor, steps: int) -> list[float]:
    """EM written out on the rows themselves."""
    values = []
    for _ in range(steps):
        experiments.m_step(model, x, experiments.e_step(model, x))
        with torch.no_grad():
            values.append(float(model.log_evidence(x).sum()))
    return values


@pytest.mark.parametrize(("name", "options"), [*[("gmm", {"components": 3, "covariance": c}) for c in COVARIANCES], *LINEAR])
def test_em_is_the_same_as_on_the_rows(name: str, options: dict[str, object]) -> None:
    x = overlapping()
    model = zoo.build(name, x, **options)
    other = copy.deepcopy(model)
    assert not isinstance(work := expectation(model, x), Rows) or work.share > 1
    fit = experiments.fit(model, "exact", x, method="em", steps=8)
    assert [i.log_evidence for i in fit.iterations] == pytest.approx(by_program(other, x, 8), rel=1e-10)
    for own, direct in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, direct, rtol=1e-6, atol=1e-8)


def test_terms_are_those_of_the_program_between_the_steps() -> None:
    x = overlapping()
    model = zoo.build("gmm", x, components=3)
    latents = model.latents(x)
    ways: list[Expectation] = [
        Rows(copy.deepcopy(model), x, latents, len(x)), QuadraticStatistics(copy.deepcopy(model), x, frame_of(x), latents)]
    for way in ways:
        way.expect()
        way.maximise()
    assert ways[0].terms() == pytest.approx(ways[1].terms(), rel=1e-11)


def test_float32_rows_are_fitted_in_float64() -> None:
    x = overlapping()
    exact = experiments.fit(zoo.build("gmm", x, components=3), "exact", x, steps=10)
    single = experiments.fit(zoo.build("gmm", x.float(), components=3), "exact", x.float(), steps=10)
    assert single.elbo == pytest.approx(exact.elbo, rel=1e-6)
    assert all(p.dtype == torch.float32 for p in single.model.parameters())
    values = [i.log_evidence for i in single.iterations]
    assert all(after >= before - 1e-12 * abs(before) for before, after in pairwise(values))


class Skewed(GMM):
    """Says that it is quadratic, since its parent is, and is not."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(self.weights))
            pyro.sample("x", dist.StudentT(4.0, self.means[z], self.scale[z].diagonal(dim1=-2, dim2=-1)).to_event(1), obs=x)


def test_a_density_that_is_no_polynomial_goes_by_the_program() -> None:
    x = overlapping()
    with zoo.seeded(0):
        model = Skewed(x, 3)
    before = float(model.log_evidence(x).sum().detach())
    work = expectation(model, x)
    assert isinstance(work, QuadraticStatistics)
    assert work.expect() == pytest.approx(before, rel=1e-12)
    assert work.rows is not None


class Left(GMM):
    """Leaves torch for a moment, where no gradient follows."""

    def forward(self, x: Tensor) -> None:
        super().forward(torch.from_numpy(x.numpy()))


def test_a_program_without_gradients_in_x_goes_by_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.structure.probe.STEEP", 1)
    x = overlapping()
    with zoo.seeded(0):
        model = Left(x, 3)
    own, rows = expectation(model, x), Rows(copy.deepcopy(model), x, model.latents(x), len(x))
    assert own.expect() == pytest.approx(rows.expect(), rel=1e-12)
    assert isinstance(own, QuadraticStatistics)
    assert own.rows is not None


class Shrunk(GMM):
    """Has an M-step of its own, from rows."""

    def maximise(self, x: Data, q: Distribution) -> None:
        super().maximise(x, q)
        with torch.no_grad():
            self.means.mul_(0.9)


def test_a_subclass_with_its_own_m_step_keeps_it() -> None:
    x = overlapping()
    with zoo.seeded(0):
        model = Shrunk(x, 2)
    assert isinstance(expectation(model, x), Rows)


@pytest.mark.parametrize(("name", "options"), [("gmm", {"components": 3}), *LINEAR[:2]])
def test_accelerated_em_climbs_as_surely_to_the_same_maximum(name: str, options: dict[str, object]) -> None:
    x = overlapping()
    plain = experiments.fit(zoo.build(name, x, **options), "exact", x, steps=5000)
    fast = experiments.fit(zoo.build(name, x, **options), "exact", x, steps=5000, accelerate=True)
    assert fast.elbo is not None
    assert plain.elbo is not None
    assert fast.converged
    assert fast.elbo >= plain.elbo - 1e-6 * abs(plain.elbo)
    assert fast.steps < 0.7 * plain.steps
    for step, following in pairwise(fast.iterations):
        assert step.elbo_after >= step.elbo_before - 1e-10 * abs(step.elbo_before)
        assert step.log_evidence >= step.elbo_after - 1e-10 * abs(step.elbo_after)
        assert following.elbo_before == pytest.approx(step.log_evidence, rel=1e-12)


def test_accelerated_em_stays_above_the_floor() -> None:
    """Three rows on one spot pull a component's covariance to the floor: steps beyond it would look better than they may."""
    with zoo.seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", zoo.ZooWarning)
        x = torch.cat([torch.randn(60, 2, dtype=torch.double), torch.full((3, 2), 6.0, dtype=torch.double)])
        fit = experiments.fit(zoo.build("gmm", x, components=3), "exact", x, accelerate=True, steps=200)
    values = [fit.iterations[0].elbo_before, *(v for i in fit.iterations for v in (i.elbo_after, i.log_evidence))]
    assert all(after >= before - 1e-9 * abs(before) for before, after in pairwise(values))


def test_acceleration_is_ems_alone() -> None:
    x = overlapping()
    with pytest.raises(zoo.ZooError, match="expected method em with accelerate; got svi"):
        experiments.fit(zoo.build("gmm", x), "categorical:encoder", x, method="svi", accelerate=True)


def test_quick_products_are_for_training_alone() -> None:
    before, seen = torch.get_float32_matmul_precision(), []

    class Watch(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            seen.append(torch.get_float32_matmul_precision())

    x = overlapping().float()
    experiments.fit(zoo.build("ppca", x), "mean_field:encoder", x, steps=2, callbacks=[Watch()])
    assert seen == ["medium", "medium"]
    assert torch.get_float32_matmul_precision() == before


def test_parameters_drawn_by_the_module_still_are_latents() -> None:
    """``PyroSample`` attributes are statements only where the module is called: its program may not be run past that."""
    class Sampled(zoo.Model):
        def __init__(self) -> None:
            super().__init__()
            self.loc = PyroSample(dist.Normal(torch.zeros(()).double(), 1.0))

        def forward(self, x: Tensor) -> None:
            loc = self.loc
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.tensor([1.0, 2.0]).double()
    model = Sampled()
    z = torch.tensor([[[0.5]]]).double()
    normal = torch.distributions.Normal(torch.tensor([0.0, 0.5, 0.5]).double(), 1.0)
    expected = float(normal.log_prob(torch.tensor([0.5, 1.0, 2.0]).double()).sum())
    assert [site.name for site in model.latents(x).sites] == ["loc"]
    assert float(model.log_joint(x, z)) == pytest.approx(expected)
