"""Pathfinder: normals along L-BFGS paths."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.inference.normals.pathfinder import _normals
from zoo.errors import ZooError

SIZE = 4
PRECISION = torch.tensor([[2.0, 0.6, 0.0, 0.3], [0.6, 1.5, 0.2, 0.0], [0.0, 0.2, 3.0, 0.5], [0.3, 0.0, 0.5, 1.0]],
                         dtype=torch.float64)


def normal(x: Tensor) -> None:
    """A standard normal times a normal about x: the posterior is known."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(SIZE), 1.0).to_event(1))
    pyro.factor("x", -0.5 * (z - x) @ PRECISION @ (z - x))


def skewed(x: Tensor) -> None:
    """The logarithm of a scale beside a location: the mode of the density is not where its mass is."""
    scale = pyro.sample("scale", dist.HalfCauchy(x.new_tensor(5.0)))
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 10.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


X = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def test_inverse_hessians_of_a_quadratic_are_its_covariance() -> None:
    """After d conjugate steps, of exact line searches, the pairs span the space."""
    point, points, gradients = torch.tensor([4.0, -3.0, 2.0, 5.0], dtype=torch.float64), [], []
    direction = slope = -PRECISION @ point
    for _ in range(SIZE + 1):
        points.append(point)
        gradients.append(slope)
        length = (slope @ slope) / (direction @ PRECISION @ direction)
        point = point + length * direction
        after = -PRECISION @ point
        direction, slope = after + (after @ after) / (slope @ slope) * direction, after
    *_, last = _normals(points, gradients)
    torch.testing.assert_close(last.scale_tril @ last.scale_tril.mT, torch.linalg.inv(PRECISION))
    torch.testing.assert_close(last.loc, torch.zeros(SIZE, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_normal_posterior_is_found() -> None:
    done = experiments.fit(normal, "full_rank", X, method="pathfinder", progress=False)
    found = experiments.evaluate(done.model, done.guide, X)
    assert done.converged
    assert done.steps <= 1000
    # Quasi-Newton's curvature is near that of the density, not equal.
    assert found.kl_gap.middle < 0.1
    posterior = torch.linalg.inv(PRECISION + torch.eye(SIZE))
    torch.testing.assert_close(done.guide.posterior(X).mean.detach()[0], posterior @ PRECISION @ X, rtol=0, atol=0.15)


def test_it_is_nearer_than_laplace_where_the_mode_is_no_guide() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    gaps = {
        method: experiments.evaluate(
            model, experiments.fit(model, "full_rank", x, method=method, progress=False).guide, x).kl_gap.middle
        for method in ("laplace", "pathfinder")}
    assert gaps["pathfinder"] < 4 < gaps["laplace"]


def test_its_bound_is_that_of_fresh_draws_and_its_cost_is_kept() -> None:
    x = torch.tensor([1.0, 2.5, 0.3, 4.0, 2.2, 3.1], dtype=torch.float64)
    done = experiments.fit(skewed, "full_rank", x, method="pathfinder", steps=120, paths=4, progress=False)
    again = experiments.fit(skewed, "full_rank", x, method="pathfinder", steps=120, paths=4, progress=False)
    assert done.steps <= 120
    assert done.bound == again.bound
    assert done.elbo is not None
    elbo = experiments.log_weights(done.model, done.guide, x, 4096).elbo()
    assert abs(done.elbo - elbo.value) < 0.4  # of 100 draws
    [remark] = done.remarks
    told = re.fullmatch(r"normals of 4 paths: ELBO from (\S+) to (\S+), k̂ of all their draws \S+", remark)
    assert told is not None
    assert float(told[1]) <= float(told[2]) == pytest.approx(done.elbo, abs=0.01)


@pytest.mark.parametrize(("name", "guide", "text"), [
    ("ppca", "full_rank", "expected one unit for method pathfinder; got 178 units"),
    ("eight_schools", "mean_field", "expected a guide whose units have a normal of any covariance each for method pathfinder"),
])
def test_what_does_not_fit_is_said(name: str, guide: str, text: str) -> None:
    x = zoo.dataset("wine" if name == "ppca" else name, standardise=name == "ppca").x
    model = zoo.build(name, x)
    with pytest.raises(ZooError, match=re.escape(text)):
        experiments.fit(model, guides.build(guide, model, x), x, method="pathfinder", train_model=False, progress=False)


def test_the_command_line_has_it() -> None:
    from typer.testing import CliRunner

    from experiments.cli.app import app

    done = CliRunner().invoke(app, ["compare", "eight_schools", "-g", "full_rank", "--method", "pathfinder", "--paths", "2",
                                        "--no-save", "--effort", "none"])
    assert done.exit_code == 0
    assert "'full_rank': normals of 2 paths: ELBO from" in done.stdout
