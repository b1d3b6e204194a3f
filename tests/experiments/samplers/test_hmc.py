"""Hamiltonian Monte Carlo: many independent chains at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import zoo
from experiments.samplers.hmc import Kernel, Target, adapt, leapfrog, rhat, run, transition

SE = 5
DOUBLE = torch.double


def normal_target(units: int, size: int, correlation: float = 0.6) -> tuple[Target, MultivariateNormal]:
    """Return normal densities whose scales differ between units and coordinates by factors of a hundred."""
    scale = torch.logspace(-1, 1, units * size, dtype=DOUBLE).reshape(units, size)
    covariance = correlation * torch.ones(size, size, dtype=DOUBLE) + (1 - correlation) * torch.eye(size, dtype=DOUBLE)
    p = MultivariateNormal(scale, scale[:, :, None] * covariance * scale[:, None])
    return Target((p.log_prob,)), p



@pytest.mark.parametrize("dense", [False, True])
def test_hmc_leaves_a_normal_as_it_is(dense: bool) -> None:
    target, p = normal_target(3, 4)
    kernel = Kernel.first(p.scale_tril if dense else p.stddev, leapfrogs=3)
    with zoo.seeded(1):
        state, _, _ = run(target, target.at(p.sample((4000,))), kernel, 10)
    whitened = torch.linalg.solve_triangular(p.scale_tril, (state.z - p.loc)[..., None], upper=False)[..., 0]
    assert float(whitened.mean(0).abs().max()) < SE / math.sqrt(4000)
    second = torch.einsum("cui,cuj->uij", whitened, whitened) / 4000
    assert float((second - torch.eye(4, dtype=DOUBLE)).abs().max()) < SE * math.sqrt(2 / 4000)


def test_hmc_finds_the_normal_from_elsewhere_after_adapting() -> None:
    target, p = normal_target(3, 4)
    with zoo.seeded(2):
        start = target.at(torch.zeros(200, 3, 4, dtype=DOUBLE))
        state, kernel = adapt(target, start, Kernel.first(torch.ones(3, 4, dtype=DOUBLE), leapfrogs=3), 90)
        state, _, states = run(target, state, kernel, 40)
        acceptance = torch.stack([transition(target, state, kernel)[1] for _ in range(5)]).mean((0, 1))
    assert float((acceptance - 0.8).abs().max()) < 0.1, "step sizes are adapted, unit by unit"
    torch.testing.assert_close(kernel.scale, p.stddev, rtol=0.25, atol=0)
    assert float(((state.z.mean(0) - p.loc) / p.stddev).abs().max()) < SE / math.sqrt(200)
    assert float((state.z.var(0) / p.variance - 1).abs().max()) < SE * math.sqrt(2 / 200)
    assert float(rhat(states).max()) < 1.05


def test_leapfrog_is_reversible_and_keeps_the_energy_for_small_steps() -> None:
    target, p = normal_target(2, 3)
    step = torch.full((5, 2), 0.02, dtype=DOUBLE)
    kernel = Kernel(step[0], p.scale_tril, leapfrogs=50)
    with zoo.seeded(3):
        start, momentum = target.at(p.sample((5,))), torch.randn(5, 2, 3, dtype=DOUBLE)
    end, turned, alive = leapfrog(target, start, momentum, kernel, step)
    assert bool(alive.all())
    back, again, _ = leapfrog(target, end, -turned, kernel, step)
    torch.testing.assert_close(back.z, start.z, rtol=0, atol=1e-10)
    torch.testing.assert_close(again, -momentum, rtol=0, atol=1e-10)
    energy = [0.5 * m.square().sum(-1) - target.log_density(s) for s, m in ((start, momentum), (end, turned))]
    assert float((end.z - start.z).abs().max()) > 1, "it went somewhere"
    torch.testing.assert_close(energy[0], energy[1], rtol=0, atol=1e-2)


def test_where_the_density_is_no_number_proposals_are_rejected() -> None:
    """A normal cut at 0 by −∞, by +∞, by NaN, and by a density whose gradient is NaN: what is left is half a normal."""

    def cut(z: Tensor) -> Tensor:
        assert bool(z.isfinite().all()), "no program is run at NaN"
        x = z[..., 0]
        outside = torch.tensor([-math.inf, math.inf, math.nan, 0.0], dtype=DOUBLE)
        nothing = torch.cat([torch.zeros_like(x[:, :3]), 0.0 * (x + x.abs())[:, 3:].sqrt()], 1)  # its slope is 0 · ∞ below 0
        return torch.where(x > 0, -0.5 * x**2, outside) + nothing

    target = Target((cut,))
    beyond = target.at(-torch.ones(1, 4, 1, dtype=DOUBLE))
    assert beyond.gradients.isnan().flatten().tolist() == [False, False, False, True]
    kernel = Kernel(torch.full((4,), 0.9, dtype=DOUBLE), torch.ones(4, 1, dtype=DOUBLE), leapfrogs=2)
    with zoo.seeded(4):
        start = torch.randn(4000, 4, 1, dtype=DOUBLE).abs()
        state, _, states = run(target, target.at(start), kernel, 10)
    assert bool(states.isfinite().all())
    assert bool((states > 0).all())
    assert bool(target.log_density(state).isfinite().all())
    scale = math.sqrt(1 - 2 / math.pi)
    assert float((state.z.mean(0) - math.sqrt(2 / math.pi)).abs().max()) < SE * scale / math.sqrt(4000)


def test_hmc_does_not_depend_on_how_chains_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    target, p = normal_target(2, 3)
    kernel, ends = Kernel.first(p.stddev, leapfrogs=2), []
    for chunk in (2**23, 1):
        monkeypatch.setattr("experiments.runtime.memory.CHUNK", chunk)
        with zoo.seeded(5):
            start = target.at(p.sample((6,)))
            ends.append(run(Target(target.terms, each=1), start, kernel, 3)[0].z)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


def test_a_kernel_needs_leapfrog_steps() -> None:
    with pytest.raises(zoo.ZooError, match="expected 1 or more leapfrog steps; got 0; raise leapfrogs"):
        Kernel(torch.ones(1), torch.ones(1, 1), 0)
