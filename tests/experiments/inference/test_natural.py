"""Natural-gradient steps: where they lead is known for normal posteriors, and they never lead down."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.inference.fixed_draws.natural import Chart, UnitNormals, climb_naturally
from experiments.samplers.quasi_random import normal_noise
from guides.families.family import Normal
from guides.families.natural import REACH, Curvature
from zoo.program.coordinates import log_terms_and_slope

FAMILIES = ("mean_field", "full_rank", "low_rank")


def pair(family: str, rows: int = 12) -> tuple[Any, Any, Tensor]:
    x = zoo.dataset("wine", standardise=True).x[:rows]
    model = zoo.build("factor_analysis", x, latent=3)
    return model, guides.build(family, model, x), x


def statistics(model: Any, guide: Any, x: Tensor, draws: int = 64) -> Any:
    """Return what :class:`UnitNormals` asks for, on held noise."""
    noise = normal_noise(draws, guide.family.noise_size(guide.phi(x)), 0, x)

    def evaluate(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi = guide.amortisation.unflat(rows)
        prior, likelihood, slope = log_terms_and_slope(model, x[index], guide.family.transform(phi, noise).detach())
        cross = torch.einsum("nui,nj->uij", slope, noise[:, 0, : slope.shape[2]]) / draws
        value = (prior + likelihood).mean(0) + guide.family.distribution(phi).entropy()
        return value, likelihood.mean(0), torch.cat([slope.mean(0), cross.flatten(1)], 1)

    return evaluate


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_one_step_leads_to_the_best_normal_of_a_normal_posterior(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides.families.natural, "REACH", 1e9)
    model, guide, x = pair(family)
    evaluate, own = statistics(model, guide, x), guide.amortisation
    every, rows = torch.arange(len(x)), own.flat()
    numbers = evaluate(rows, every)[2]
    phi = own.unflat(rows)
    curvature = guide.family.curvature(phi, numbers[:, 3:].view(-1, 3, 3))
    reached = guide.family.natural_step(phi, numbers[:, :3], curvature, torch.ones(len(x)).double())
    exact, q = model.posterior(x), guide.family.distribution(reached)
    torch.testing.assert_close(q.mean, exact.mean, atol=1e-9, rtol=0)
    wanted = exact.covariance_matrix if family == "full_rank" else torch.diag_embed(
        1 / exact.precision_matrix.diagonal(dim1=-2, dim2=-1))
    found = q.covariance_matrix if family == "full_rank" else torch.diag_embed(q.variance)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chart_begins_where_the_guide_is_and_curves_alike(family: str) -> None:
    model, guide, x = pair(family, 4)
    own, evaluate = guide.amortisation, statistics(model, guide, x)
    climb_naturally(UnitNormals(evaluate, guide.family, own), 20)
    chart = Chart.of(evaluate, guide.family, own, None)
    y = torch.zeros_like(own.flat())
    torch.testing.assert_close(chart.rows(y), own.flat(), atol=1e-12, rtol=0)
    noise = normal_noise(64, guide.family.noise_size(guide.phi(x)), 0, x)

    def elbo(y: Tensor) -> Tensor:
        phi = own.unflat(chart.rows(y.view(len(x), -1)))
        z = guide.family.transform(phi, noise)
        return model.log_joint(x, z).mean(0).sum() + guide.family.distribution(phi).entropy().sum()

    hessian = torch.autograd.functional.hessian(elbo, y.flatten())
    size = y.shape[1] if family != "low_rank" else 2 * 3  # loadings are left as they are
    block = hessian.view(4, y.shape[1], 4, y.shape[1])[0, :size, 0, :size]
    if family == "full_rank":
        torch.testing.assert_close(block, -torch.eye(size).double(), atol=1e-6, rtol=0)
    else:  # the scales' curvature is that of a diagonal; the mean's is exact where loadings are nothing
        torch.testing.assert_close(block[:3, :3], -torch.eye(3).double(), atol=1e-6, rtol=0)
        assert float(torch.linalg.cond(block)) < 10


@pytest.mark.parametrize("family", [
    "mean_field", pytest.param("full_rank", marks=pytest.mark.long), pytest.param("low_rank", marks=pytest.mark.long)])
def test_steps_never_lead_down_and_lead_far(family: str) -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor[:60]
    with zoo.seeded(0):
        model = zoo.build("vae", x, latent=3)
    guide = guides.build(family, model, x)
    told: list[float] = []
    normals = UnitNormals(statistics(model, guide, x), guide.family, guide.amortisation)
    taken = climb_naturally(normals, 50, lambda value, *_: told.append(value), 0.1)
    assert taken == len(told) < 50
    assert told == sorted(told)
    best = experiments.fit(model, family, x, train_model=False, progress=False)
    assert best.elbo is not None
    assert best.elbo - told[-1] < 0.5 * len(x)


def test_a_unit_that_does_not_rise_stays_where_it_was() -> None:
    """log p of a unit that is −∞ off its start: each step is refused, and made shorter until it is given up."""
    family: Any = guides.build("mean_field", *pair("mean_field")[::2]).family
    own = guides.amortisation.Free({"loc": torch.zeros(2, 1).double(), "log_scale": torch.zeros(2, 1).double()}, torch.zeros(2))
    asked: list[list[int]] = []

    def evaluate(rows: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        asked.append(units.tolist())
        off = rows[:, 0] - 1
        value = torch.where((units == 0) & (rows[:, 0] != 0), -torch.inf, -0.5 * off.square())
        return value, value, torch.stack([-off, -torch.ones_like(off)], 1)

    taken = climb_naturally(UnitNormals(evaluate, family, own), 100, rise=1e-6)
    assert own.phi["loc"].flatten().tolist() == [0.0, 1.0]
    assert asked[0] == asked[1] == [0, 1]
    assert taken == len(asked) - 1 < 20


def test_curvature_that_is_not_finite_or_not_positive_still_gives_a_step() -> None:
    matrix = torch.tensor([[[torch.nan, 0.0], [0.0, 1.0]], [[-4.0, 0.0], [0.0, 1e9]]]).double()
    curvature = Curvature.of(-matrix)
    assert curvature.values.tolist() == [[1.0, 1.0], [4.0, 1e4]]
    step = curvature.solve(torch.full((2, 2), 1e6).double(), torch.ones(2).double())
    assert step.norm(dim=1).tolist() == pytest.approx([REACH * 2**0.5] * 2)
    half = curvature.scale_tril(torch.full((2,), 0.5).double())
    torch.testing.assert_close(half[1] @ half[1].mT, torch.diag(torch.tensor([1.0, 1 / 5000.5]).double()))


def test_what_noise_may_have_turned_does_not_count_as_upwards() -> None:
    white = torch.tensor([[[-1.0, 0.0], [0.0, 0.2]], [[-1.0, 0.5], [-0.5, 0.2]]]).double()
    assert Curvature.of(white).upwards.tolist() == [[True, False], [False, False]]


def test_normal_families_are_those_that_know_it() -> None:
    for family in FAMILIES:
        assert isinstance(pair(family)[1].family, Normal)


def test_a_posterior_of_two_modes_far_apart_is_fitted_at_one() -> None:
    """log p curves upwards between them, whatever the steps met there."""
    def two(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 3.0))
        pyro.sample("x", dist.Normal(z.square(), 0.5), obs=x)

    x = torch.tensor(4.0).double()
    done = experiments.fit(two, "full_rank", x, progress=False)
    found = experiments.evaluate(done.model, done.guide, x, draws=4096)
    assert found.kl_gap.value == pytest.approx(math.log(2), abs=0.15)
