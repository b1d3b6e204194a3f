"""Natural steps on fresh noise: their mean is the best normal, and how far it may be from that is told."""

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
from experiments.averaging import FEWEST, Place, average_naturally, shortfall
from experiments.noise import moved_noise, normal_noise
from guides.family import Normal


def still() -> float:
    return 0.0


def quiet(*told: Any) -> None:
    pass


def family() -> Normal:
    x = zoo.dataset("eight_schools").x
    found: Any = guides.build("full_rank", zoo.build("eight_schools", x), x)
    assert isinstance(found.family, Normal)
    return found.family


def free(size: int) -> Any:
    start = {"loc": torch.zeros(1, size).double(), "tril": torch.zeros(1, size * (size + 1) // 2).double()}
    return guides.amortisation.Free(start, torch.zeros(1))


def test_on_a_normal_posterior_the_mean_of_the_steps_is_the_best_normal() -> None:
    size = 4
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(size, size, generator=generator).double()
    precision, top = root @ root.T + 0.5 * torch.eye(size).double(), torch.randn(size, generator=generator).double()
    known, own = family(), free(size)
    noise = moved_noise(64, size, top)

    def fresh(step: int) -> Any:
        def evaluate(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            draws = noise(step)
            slope = -(known.transform(own.unflat(rows), draws) - top) @ precision
            cross = torch.einsum("nui,nj->uij", slope, draws[:, 0]) / len(draws)
            return torch.zeros(1), torch.zeros(1), torch.cat([slope.mean(0), cross.flatten(1)], 1)

        return evaluate

    taken, elbo = average_naturally(fresh, still, known, own, 1000, quiet, 1e-15)
    assert elbo == 0
    assert taken > FEWEST
    q = known.distribution(own.phi)
    torch.testing.assert_close(q.mean[0], top, atol=1e-4, rtol=0)
    torch.testing.assert_close(q.covariance_matrix[0], precision.inverse(), atol=1e-6, rtol=1e-6)


def test_curvature_that_turns_upwards_ends_the_steps() -> None:
    own, asked = free(2), list[int]()

    def fresh(step: int) -> Any:
        def evaluate(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            asked.append(step)
            return torch.zeros(1), torch.zeros(1), torch.tensor([[0.0, 0.0, 1e3, 0.0, 0.0, 1e3]]).double()

        return evaluate

    taken, elbo = average_naturally(fresh, still, family(), own, 1000, quiet, 0.01)
    assert elbo is None
    assert taken == len(asked) - 1 < FEWEST


def test_steps_that_run_out_keep_their_mean_only_if_it_is_better() -> None:
    known = family()

    def fresh(step: int) -> Any:
        return lambda rows, index: (torch.zeros(1), torch.zeros(1), torch.tensor([[1.0, -1.0]]).double())

    for better in (True, False):
        own, judged = free(1), iter([0.0, 1.0 if better else -1.0])
        taken, elbo = average_naturally(fresh, lambda told=judged: next(told), known, own, 5, quiet, 0.01)
        assert (taken, elbo) == (5, None)
        assert (float(own.phi["loc"].detach()) > 0) == better


def test_an_elbo_that_is_not_finite_ends_the_steps() -> None:
    own, value = free(2), torch.full((1,), math.nan)
    taken, elbo = average_naturally(
        lambda step: lambda rows, index: (value, value, torch.zeros(1, 6)), still, family(), own, 1000, quiet, 0.01)
    assert (taken, elbo) == (0, None)


def places(count: int, noise: float, drift: float, generator: torch.Generator, size: int = 60) -> list[Place]:
    """Return places whose curvature is one in all directions, on a straight way to 0, the best, that is half done."""
    way = torch.linspace(2.0, 1.0, count)[:, None] * drift
    loc = noise * torch.randn(count, size, generator=generator).double() + way
    return [Place(row, torch.eye(size).double()) for row in loc]


def test_the_shortfall_is_told() -> None:
    """That of noise; and of a drift what it made of the way, as far as halves tell: how far it leads nobody knows."""
    generator, known, count, size = torch.Generator().manual_seed(2), family(), 24, 60
    told = torch.tensor([shortfall(places(count, 1.0, 0.0, generator), known) for _ in range(100)])
    truth, error = 0.5 * size / count, float(told.std()) / 10
    # Neither of its parts is ever below zero, so it is rather too large than too small: by less than a half.
    assert -4 * error < float(told.mean()) - truth < 0.5 * truth
    drift = shortfall(places(count, 0.0, 0.3, generator), known)
    assert drift == pytest.approx(0.5 * size * (0.3 * 12 / 23) ** 2)
    both = torch.tensor([shortfall(places(count, 1.0, 0.3, generator), known) for _ in range(100)])
    assert float(both.mean()) == pytest.approx(truth + drift, abs=0.5 * truth + 4 * float(both.std()) / 10)


def test_moved_noise_is_fresh_and_standard() -> None:
    noise = moved_noise(64, 3, torch.zeros((), dtype=torch.double))
    first, again, other = noise(5)[:, 0], noise(5)[:, 0], noise(6)[:, 0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for draws in (first, other):
        torch.testing.assert_close(draws.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
        torch.testing.assert_close(draws.T @ draws / 64, torch.eye(3).double(), atol=1e-9, rtol=0)
    fourth = torch.stack([noise(seed)[:, 0].pow(4).mean() for seed in range(200)])
    # Identity second moments take a little off the tails.
    assert abs(float(fourth.mean()) - 3) < 4 * float(fourth.std()) / math.sqrt(200) + 0.1


def test_fits_end_as_high_as_on_very_many_held_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """One judge, on noise of its own, says what the mean of steps on 128 draws each and a climb on 4,096 came to."""
    monkeypatch.setattr(zoo.Model, "linear_predictor", lambda *_: None)  # whose integrals take no draws
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    model = zoo.build("logistic_regression", x)
    averaged = experiments.fit(model, "full_rank", x, progress=False)
    climbed = experiments.fit(model, "full_rank", x, draws=4096, progress=False)
    assert averaged.converged
    assert averaged.steps < climbed.steps + 40
    noise = normal_noise(4096, model.latents(x).size, 4711, x["y"])
    values = []
    for done in (averaged, climbed):
        guide: Any = done.guide
        with torch.no_grad():
            phi = guide.phi(x)
            z = guide.family.transform(phi, noise)
            values.append(float(model.log_joint(x, z).mean() + guide.family.distribution(phi).entropy().sum()))
    assert values[0] > values[1] - 0.02


def test_one_that_upward_curvature_sends_astray_is_climbed_all_the_same() -> None:
    """A posterior of two modes far apart: the fit is that of one mode, whatever the steps met."""
    def two(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 3.0))
        pyro.sample("x", dist.Normal(z.square(), 0.5), obs=x)

    x = torch.tensor(4.0).double()
    done = experiments.fit(two, "full_rank", x, progress=False)
    found = experiments.evaluate(done.model, done.guide, x, draws=4096)
    assert found.kl_gap.value == pytest.approx(math.log(2), abs=0.15)
