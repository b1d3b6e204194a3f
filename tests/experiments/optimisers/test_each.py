"""An L-BFGS for each of many units: the same maxima as one for all, and free posteriors where they are known."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.fits.journal import Journal, Stop
from experiments.optimisers.each import ascend_each
from experiments.optimisers.lbfgs import Tape
from experiments.samplers.quasi_random import normal_noise
from tests.contracts.cases import held_elbo
from zoo.errors import Interrupted


def bowls(units: int = 20, size: int = 6) -> tuple[Tensor, Tensor]:
    """Return maxima (units, size) and curvatures (units, size, size) of quadratics, the last a million times as stretched."""
    with zoo.seeded(0):
        top = torch.randn(units, size, dtype=torch.double)
        turn = torch.linalg.qr(torch.randn(units, size, size, dtype=torch.double)).Q
        stretch = torch.logspace(0, 3, size, dtype=torch.double) ** torch.linspace(0, 2, units, dtype=torch.double)[:, None]
    return top, turn @ torch.diag_embed(stretch) @ turn.mT


class Bowls:
    """−½ (p − top)ᵀ H (p − top) of each unit, and which units were asked for."""

    def __init__(self) -> None:
        self.top, self.curvature = bowls()
        self.asked: list[list[int]] = []

    def __call__(self, point: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.asked.append(units.tolist())
        off = point - self.top[units]
        gradient = -(self.curvature[units] @ off[..., None])[..., 0]
        value = 0.5 * (gradient * off).sum(1)
        return value, 2 * value, gradient


def test_each_unit_comes_to_its_own_maximum() -> None:
    objective = Bowls()
    told: list[tuple[float, float, float]] = []
    point, done = ascend_each(
        objective, torch.zeros(20, 6, dtype=torch.double), 500, lambda *numbers: told.append(numbers[:3]), 1e-12)
    assert done.converged
    assert done.value == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(point, objective.top, atol=1e-4, rtol=0)
    values = [value for value, _, _ in told]
    assert values == sorted(values), "it never falls"
    assert len(told) == done.iterations
    assert all(extra == pytest.approx(2 * value) for value, _, extra in told)


def test_a_unit_that_has_settled_is_left_alone() -> None:
    objective = Bowls()
    ascend_each(objective, torch.zeros(20, 6, dtype=torch.double), 500, tolerance=1e-9)
    counts = [sum(unit in asked for asked in objective.asked) for unit in range(20)]
    assert counts[0] < 8, "the round one needs a few steps"
    assert counts[-1] > 3 * counts[0]


def test_trials_that_leave_the_numbers_are_shortened() -> None:
    def objective(point: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = point[:, 0]
        value = torch.where(p > 0, p.log() - p**4, torch.nan)
        return value, value, torch.where(p > 0, 1 / p - 4 * p**3, torch.nan)[:, None]

    point, done = ascend_each(objective, torch.tensor([[5.0], [0.01], [0.7]]).double(), 200)
    assert done.converged
    torch.testing.assert_close(point, torch.full((3, 1), 0.25**0.25, dtype=torch.double), atol=1e-4, rtol=0)


def test_it_stops_where_it_is_told_to() -> None:
    _, done = ascend_each(Bowls(), torch.zeros(20, 6, dtype=torch.double), 3, tolerance=1e-12)
    assert (done.iterations, done.converged) == (3, False)


def test_a_tape_repeats_an_ascent_without_evaluating() -> None:
    tape, start = Tape(), torch.zeros(20, 6, dtype=torch.double)
    first, done = ascend_each(Bowls(), start, 30, tape=tape)
    again = Bowls()
    second, repeated = ascend_each(again, start, 30, tape=Tape(tape.answers))
    assert not again.asked
    assert torch.equal(first, second)
    assert done == repeated


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_free_normals_are_the_ones_known(dtype: torch.dtype) -> None:
    """Of a normal posterior N(m, Λ⁻¹) the best independent normal has mean m and variances 1 / Λ_jj (Bishop 2006, §10.1.2)."""
    x = zoo.dataset("wine", standardise=True).x.to(dtype)
    model = zoo.build("factor_analysis", x, latent=3)
    done = experiments.fit(model, "mean_field", x, train_model=False, progress=False)
    assert done.converged
    with torch.no_grad():
        exact, q = model.posterior(x), done.guide.posterior(x)
        torch.testing.assert_close(q.mean, exact.mean, atol=5e-3, rtol=0)
        best = exact.precision_matrix.diagonal(dim1=1, dim2=2).rsqrt()
        torch.testing.assert_close(q.stddev, best, rtol=5e-3, atol=0)


@pytest.mark.long
def test_each_for_itself_is_no_worse_than_all_together() -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor[:40]
    with zoo.seeded(0):
        model = zoo.build("vae", x, latent=3)
    free = experiments.fit(model, "full_rank", x, train_model=False, draws=64, progress=False)
    noise = normal_noise(64, 3, 0, x)
    joint = guides.build("full_rank", model, x)
    parameters = list(joint.parameters())
    done = experiments.optimisers.lbfgs.ascend(lambda: held_elbo(model, joint, x, noise).sum(), parameters, 1000)
    with torch.no_grad():
        apart = held_elbo(model, free.guide, x, noise) - held_elbo(model, joint, x, noise)
    assert done.converged
    assert float(apart.abs().max()) < 2e-3


def test_free_posteriors_cut_off_end_with_the_same_bits(tmp_path: Path) -> None:
    x = zoo.dataset("iris", standardise=True).x
    model = zoo.build("ppca", x)
    whole = experiments.fit(copy.deepcopy(model), "mean_field", x, train_model=False, progress=False)
    assert whole.steps > 4
    stop = Stop(waits=True)
    journal = Journal(tmp_path, interval=0.0, stop=stop)

    class Cut(experiments.Callback):
        def on_step(self, moment: experiments.Moment) -> None:
            if moment.step == 4:
                stop.signal = 15

    with pytest.raises(Interrupted):
        experiments.fit(
            copy.deepcopy(model), "mean_field", x, train_model=False, progress=False, journal=journal, callbacks=[Cut()])
    done = experiments.fit(copy.deepcopy(model), "mean_field", x, train_model=False, progress=False, journal=tmp_path)
    assert done.steps == whole.steps
    assert [row[:2] for row in done.history] == [row[:2] for row in whole.history]
    for one, other in zip(done.guide.parameters(), whole.guide.parameters(), strict=True):
        assert torch.equal(one, other)
    assert done.elbo == whole.elbo


def test_a_callback_sees_the_guide_of_its_step() -> None:
    x = zoo.dataset("iris", standardise=True).x
    seen: list[tuple[float, float]] = []

    class Look(experiments.Callback):
        def on_step(self, moment: experiments.Moment) -> None:
            with torch.no_grad():
                held = held_elbo(moment.model, moment.guide, x, normal_noise(64, 2, 0, x))
            seen.append((moment.elbo or math.nan, float(held.sum())))

    experiments.fit(zoo.build("ppca", x), "mean_field", x, train_model=False, draws=64, progress=False, callbacks=[Look()])
    assert len(seen) > 3
    for said, found in seen:
        assert said == pytest.approx(found, rel=1e-9)
