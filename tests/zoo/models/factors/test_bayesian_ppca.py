"""Bayesian PPCA: the factors integrate to PPCA's normal, and turning them changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import experiments
import zoo
from zoo.program.sites.blocks import Blocks


def table(rows: int = 6, columns: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, columns, generator=generator, dtype=torch.double) @ torch.randn(
        columns, columns, generator=generator, dtype=torch.double) + 2


def test_the_factors_integrate_to_the_marginal_normal() -> None:
    """The log-density is quadratic in the factors: its integral is its value at the top and its curvature there."""
    x = table()
    model = zoo.build("bayesian_ppca", x)
    with zoo.seeded(2):
        values = {name: value[0] for name, value in model.constrain(x, model.sample_prior(x, 1)).items()}
    blocks = Blocks.of(model.latents(x))
    assert blocks is not None
    assert (blocks.plate, len(blocks.shared), blocks.local.shape) == ("rows", 8 + 4 + 1, (6, 2))
    shared = {name: value for name, value in values.items() if name != "z"}

    def log_joint(z: Tensor) -> Tensor:
        full = model.unconstrain(x, {**{k: v[None] for k, v in shared.items()}, "z": z.reshape(1, 6, 2)})
        sites = model.log_probs(x, full)
        return sites["z"].sum() + sites["x"].sum()

    start = torch.zeros(12, dtype=torch.double)
    slope = torch.func.grad(log_joint)(start)
    curvature = torch.autograd.functional.hessian(log_joint, start)
    top = start - torch.linalg.solve(curvature, slope)
    integral = log_joint(top) + 6 * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(-curvature).logabsdet
    loadings, loc, scale = (values[name].numpy() for name in ("loadings", "loc", "scale"))
    marginal = multivariate_normal(loc, loadings @ loadings.T + scale**2 * torch.eye(4).numpy())
    assert float(integral) == pytest.approx(marginal.logpdf(x.numpy()).sum(), abs=1e-8)


def test_turned_factors_are_as_likely() -> None:
    x = table()
    model = zoo.build("bayesian_ppca", x)
    z = model.sample_prior(x, 3)
    values = model.constrain(x, z)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.double)
    turned = {**values, "z": values["z"] @ turn, "loadings": values["loadings"] @ turn}
    torch.testing.assert_close(
        model.log_joint(x, model.unconstrain(x, turned)), model.log_joint(x, z), rtol=1e-12, atol=1e-8)


def test_fits_start_at_the_maximum_of_ppca_and_keep_near_it() -> None:
    x = zoo.dataset("iris").x
    assert isinstance(x, Tensor)
    model = zoo.build("bayesian_ppca", x[:40])
    start = model.start(x[:40])
    assert start is not None
    best = zoo.build("ppca", x[:40])
    z = model.unconstrain(x[:40], {name: value[None] for name, value in start.items()})
    found = {name: value[0] for name, value in model.constrain(x[:40], z).items()}
    marginal = best.log_evidence(x[:40]).sum().detach()
    own = multivariate_normal(
        found["loc"].numpy(), (found["loadings"] @ found["loadings"].T + found["scale"]**2 * torch.eye(4)).numpy())
    assert float(own.logpdf(x[:40].numpy()).sum()) == pytest.approx(float(marginal), abs=1e-6)
    done = experiments.fit(model, "mean_field", x[:40], progress=False)
    noise = model.constrain(x[:40], done.guide.posterior(x[:40]).mean[None].detach())["scale"]
    assert float(noise) == pytest.approx(float(found["scale"]), rel=0.2)


@pytest.mark.parametrize("latent", [0, 4])
def test_latent_dimensions_are_fewer_than_columns(latent: int) -> None:
    with pytest.raises(zoo.ZooError, match="between 1 latent dimension and one fewer than the 4 columns; got"):
        zoo.build("bayesian_ppca", table(), latent=latent)
