"""A model: its parameters by name, its simulations, its prior draws, and draws of independent rows at once."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
import zoo.model
from zoo.program import runner
from zoo.program.sites.layout import layout


def test_theta_is_constrained_and_named() -> None:
    model = zoo.build("gmm", zoo.dataset("faithful").x)
    theta = model.theta()
    assert set(theta) == {"weights", "means", "scale"}
    assert float(theta["weights"].sum()) == pytest.approx(1)


def test_seed_none_uses_the_generator_as_it_is() -> None:
    model = zoo.build("gmm", zoo.dataset("faithful").x)
    x = zoo.dataset("faithful").x
    with zoo.seeded(4):
        first, second = model.simulate(x)[1], model.simulate(x)[1]
    assert not torch.equal(first, second)


def test_a_minibatch_is_not_laid_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    x = zoo.dataset("two_moons").tensor[:200]
    model = zoo.build("flow", x, hidden=(8,), layers=1)
    runs: list[int] = []

    def counted(program: Any, data: Any, *rest: Any) -> Any:
        runs.append(len(data))
        return layout(program, data, *rest)

    monkeypatch.setattr(runner, "layout", counted)
    experiments.fit(model, "exact", x, method="svi", steps=20, batch_size=50, progress=False)
    assert len(runs) <= 3, "the data, the first batch that is checked, and the data again"


def test_the_prior_is_drawn_without_what_follows_the_latents() -> None:
    ran: list[str] = []

    def program(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            ran.append("likelihood")
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    model, x = zoo.as_model(program), torch.randn(5)
    model.latents(x)
    ran.clear()
    with zoo.seeded(0):
        z = model.sample_prior(x, 3)
    assert z.shape == (3, 5, 1)
    assert not ran, "the program is left at its last latent site"
    with zoo.seeded(0):
        assert torch.equal(z, torch.randn(3, 5)[..., None]), "nothing else is drawn"


@pytest.mark.parametrize("name", ["gmm", "ppca", "factor_analysis", "linear_vae"])
def test_draws_of_independent_rows_are_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = zoo.dataset("iris", standardise=True).x
    model = zoo.build(name, x)
    assert model.quadratic
    with zoo.seeded(0):
        z = model.sample_prior(x, 4)
    with torch.no_grad():
        at_once = model.log_terms(x, z)
        monkeypatch.setattr(zoo.model, "AT_ONCE", 0)
        mapped = model.log_terms(x, z)
    for one, other in zip(at_once, mapped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
