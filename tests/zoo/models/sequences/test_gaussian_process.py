"""Gaussian-process regression against scikit-learn's, and against a grid over its three parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from torch import Tensor

import zoo
from zoo.models.sequences.gaussian_process import JITTER

THEIRS = {"rbf": RBF, "matern32": lambda scale: Matern(scale, nu=1.5), "matern52": lambda scale: Matern(scale, nu=2.5)}


def data(rows: int = 12, columns: int = 2) -> dict[str, Tensor]:
    """Return rows of which two are the same, and a smooth function of them with noise."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(rows, columns, generator=generator, dtype=torch.double)
    table[1] = table[0]
    noise = torch.randn(rows, generator=generator, dtype=torch.double)
    return {"X": table, "y": 3 + table.sin().sum(1) + 0.3 * noise}


def coordinates(model: zoo.Model, x: dict[str, Tensor], **values: Any) -> Tensor:
    return model.unconstrain(x, {name: torch.as_tensor(value, dtype=torch.double)[None] for name, value in values.items()})


def regressor(kernel: str, x: dict[str, Tensor], scale: Any, amplitude: float, noise: float) -> GaussianProcessRegressor:
    """Return scikit-learn's regression at given parameters, fitted to y less its mean."""
    y = x["y"].numpy()
    made = ConstantKernel(amplitude**2) * THEIRS[kernel](scale) + WhiteKernel(noise**2)
    process = GaussianProcessRegressor(made, alpha=JITTER * y.var(ddof=1), optimizer=None)
    return process.fit(x["X"].numpy(), y - y.mean())


@pytest.mark.parametrize("kernel", THEIRS)
@pytest.mark.parametrize(("ard", "scale"), [(False, 0.7), (True, [0.4, 2.5])])
def test_the_likelihood_is_scikit_learns(kernel: str, ard: bool, scale: Any) -> None:
    x = data()
    model = zoo.build("gaussian_process", x, kernel=kernel, ard=ard)
    z = coordinates(model, x, lengthscale=scale, amplitude=1.3, noise=0.4)
    theirs = regressor(kernel, x, scale, 1.3, 0.4)
    assert float(model.log_terms(x, z)[1]) == pytest.approx(theirs.log_marginal_likelihood_value_, abs=1e-8)


@pytest.mark.parametrize("kernel", THEIRS)
def test_the_recovered_function_is_scikit_learns_prediction(kernel: str) -> None:
    x = data()
    model = zoo.build("gaussian_process", x, kernel=kernel)
    z = coordinates(model, x, lengthscale=0.7, amplitude=1.3, noise=0.4)
    found = model.recover(x, model.constrain(x, z))["f"][0]
    process = regressor(kernel, x, 0.7, 1.3, 0.4)
    # Its kernel's white part belongs to f at the rows themselves: the prediction there is of y, less that part.
    smooth = process.kernel_.k1(x["X"].numpy()) @ process.alpha_.ravel()
    np.testing.assert_allclose(found.numpy(), x["y"].numpy().mean() + smooth, atol=1e-8)


@pytest.mark.parametrize("kernel", THEIRS)
def test_gradients_are_finite_at_equal_rows_and_at_huge_and_tiny_lengthscales(kernel: str) -> None:
    x = data()
    model = zoo.build("gaussian_process", x, kernel=kernel)
    for scale in (1e-8, 1.0, 1e8):
        z = coordinates(model, x, lengthscale=scale, amplitude=1.0, noise=0.5).requires_grad_()
        [slope] = torch.autograd.grad(model.log_joint(x, z).sum(), [z])
        assert bool(slope.isfinite().all())


def test_the_evidence_on_a_grid_is_that_of_draws_of_the_priors() -> None:
    """The log-density of five rows summed over 40³ points of its coordinates; 40,000 draws written out come to the same."""
    x = data(5, 1)
    model, y = zoo.build("gaussian_process", x), x["y"]
    spread = float(y.std())
    wide = torch.linspace(-5, 5, 40, dtype=torch.double)
    narrow = math.log(spread) + torch.linspace(-7, 2.5, 40, dtype=torch.double)
    grid = torch.cartesian_prod(wide, narrow, narrow)
    with torch.no_grad():
        each = torch.cat([model.log_joint(x, part[:, None]) for part in grid.split(8000)])
    by_grid = float(each.logsumexp(0)) + math.log(float((wide[1] - wide[0]) * (narrow[1] - narrow[0]) ** 2))
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=40_000))[:, None, None]
    amplitude, noise = (np.abs(rng.normal(0, spread, size=(40_000, 1, 1))) for _ in range(2))
    apart = np.subtract.outer(x["X"][:, 0].numpy(), x["X"][:, 0].numpy())
    covariance = amplitude**2 * np.exp(-0.5 * (apart / scale) ** 2) + (noise**2 + JITTER * spread**2) * np.eye(5)
    error = (y - y.mean()).numpy()
    quadratic = (error * np.linalg.solve(covariance, np.broadcast_to(error[:, None], (40_000, 5, 1)))[..., 0]).sum(-1)
    likelihood = np.exp(-0.5 * (quadratic + np.linalg.slogdet(covariance).logabsdet + 5 * math.log(2 * math.pi)))
    se = likelihood.std() / likelihood.mean() / math.sqrt(40_000)
    assert se < 0.02
    assert abs(math.log(likelihood.mean()) - by_grid) < 4 * se


def test_a_long_table_takes_little_memory_and_its_kernel_is_chosen_by_name() -> None:
    x = zoo.dataset("diabetes", "regression", standardise=True).x
    x = {"X": x["X"][:150], "y": x["y"][:150]}
    model = zoo.build("gaussian_process", x, ard=True, kernel="matern52")
    assert model.latents(x).size == 12
    assert repr(model) == "GaussianProcess(kernel=matern52, ard=True)"
    assert bool(model.log_joint(x, torch.zeros(3, 1, 12).double()).isfinite().all())
    with pytest.raises(zoo.ZooError, match="to be one of rbf, matern32, matern52; got 'rbff'; did you mean 'rbf'"):
        zoo.build("gaussian_process", x, kernel="rbff")
