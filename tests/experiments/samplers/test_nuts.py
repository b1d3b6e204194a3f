"""The no-U-turn sampler in lockstep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from experiments.samplers.hmc import Kernel, Target
from experiments.samplers.nuts import DIVERGENT, transition, turning, warm_up
from zoo.program.run import seeded

COVARIANCE = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 25.0]], dtype=torch.double)


def normal(z: Tensor) -> Tensor:
    return -0.5 * torch.einsum("cui,ij,cuj->cu", z, torch.linalg.inv(COVARIANCE), z)


def skewed(z: Tensor) -> Tensor:
    """The logarithm of a gamma variable of shape 2: its mean is ψ(2), its variance ψ′(2)."""
    return (2 * z - z.exp()).sum(-1)


def draws(density: object, size: int, iterations: int = 400, step: float | None = None) -> Tensor:
    """Return (iterations, chains, units, d) of 32 chains of two units each."""
    target = Target((density,))
    with seeded(0):
        state = target.at(torch.randn(32, 2, size, dtype=torch.double))
        kernel = Kernel.first(torch.ones(2, size, dtype=torch.double), 1)
        if step is None:
            state, kernel = warm_up(target, state, kernel, 150)
        else:
            kernel = Kernel(torch.full((2,), step, dtype=torch.double), kernel.scale, 1)
        found = []
        for _ in range(iterations):
            state = transition(target, state, kernel).state
            found.append(state.z)
    return torch.stack(found)


def test_draws_of_a_normal_have_its_moments() -> None:
    z = draws(normal, 3)
    for unit in range(2):
        one = z[:, :, unit].flatten(0, 1)
        deviation = COVARIANCE.diagonal().sqrt()
        assert bool((one.mean(0).abs() < 4 * deviation / math.sqrt(len(one) / 5)).all())
        torch.testing.assert_close(torch.cov(one.T) / torch.outer(deviation, deviation),
                                   COVARIANCE / torch.outer(deviation, deviation), rtol=0, atol=0.06)


def test_draws_of_a_skewed_density_have_its_moments() -> None:
    z = draws(skewed, 1).flatten()
    mean, variance = float(torch.special.digamma(torch.tensor(2.0))), float(torch.special.polygamma(1, torch.tensor(2.0)))
    assert abs(float(z.mean()) - mean) < 4 * math.sqrt(variance / (len(z) / 5))
    assert float(z.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("step", [0.9, 1.4])
def test_the_kernel_leaves_its_target_invariant_at_any_step(step: float) -> None:
    """Steps at which a good share of the trajectory's states is far off in energy: weights must make up for it."""
    target = Target((normal,))
    with seeded(1):
        exact = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.double), COVARIANCE).sample((20_000, 1))
        kernel = Kernel(torch.full((1,), step * 0.3, dtype=torch.double), torch.ones(1, 3, dtype=torch.double), 1)
        state = target.at(exact)
        for _ in range(3):
            state = transition(target, state, kernel).state
    for power in (1, 2):
        before, after = exact[:, 0] ** power, state.z[:, 0] ** power
        se = (before.std(0) + after.std(0)) / math.sqrt(len(before))
        assert bool(((before.mean(0) - after.mean(0)).abs() < 4 * se).all())


def test_a_trajectory_stops_where_it_turns() -> None:
    """On a standard normal a trajectory turns within half a period, π / step leapfrog steps, which doubling may overshoot.

    Those that begin near where they turn are short.
    """
    target = Target((lambda z: -0.5 * z.square().sum(-1),))
    with seeded(0):
        kernel = Kernel(torch.full((1,), 0.1, dtype=torch.double), torch.ones(1, 1, dtype=torch.double), 1)
        rounds = [transition(target, target.at(torch.randn(1, 1, 1, dtype=torch.double)), kernel).leapfrogs for _ in range(50)]
    assert max(rounds) <= 64
    assert sorted(rounds)[25] >= 16


def test_divergences_are_counted_and_no_chain_leaves_the_support() -> None:
    def cliff(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0, -10 * DIVERGENT * z[..., 0], -0.5 * z[..., 0].square())

    target = Target((cliff,))
    with seeded(0):
        kernel = Kernel(torch.full((1,), 1.0, dtype=torch.double), torch.ones(1, 1, dtype=torch.double), 1)
        done = transition(target, target.at(-torch.rand(64, 1, 1, dtype=torch.double)), kernel)
    assert bool(done.diverged.any())
    assert bool((done.state.z < 0.1).all())


def test_turning() -> None:
    ahead, aside = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert not bool(turning(ahead, aside, 2 * ahead + 2 * aside))
    assert bool(turning(ahead, -ahead, 0.0 * ahead))


def test_chains_of_other_units_do_not_move_a_unit() -> None:
    """Units of one run are independent: one that turns early waits, and its draws have its own moments."""
    def two(z: Tensor) -> Tensor:
        wide = torch.tensor([1.0, 10.0], dtype=torch.double)
        return -0.5 * (z[..., 0] / wide).square()

    target = Target((two,))
    with seeded(0):
        state, kernel = target.at(torch.randn(64, 2, 1, dtype=torch.double)), Kernel.first(
            torch.ones(2, 1, dtype=torch.double), 1)
        state, kernel = warm_up(target, state, kernel, 150)
        found = []
        for _ in range(200):
            state = transition(target, state, kernel).state
            found.append(state.z[..., 0])
    deviations = torch.stack(found).flatten(0, 1).std(0)
    torch.testing.assert_close(deviations, torch.tensor([1.0, 10.0], dtype=torch.double), rtol=0.05, atol=0)
