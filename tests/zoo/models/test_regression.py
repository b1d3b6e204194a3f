"""Where fits of a logistic regression start."""

from __future__ import annotations

import pytest
import torch

import experiments
import guides
import zoo


def data(rows: int, columns: int, spread: float = 1.0, flips: float = 0.1) -> dict[str, torch.Tensor]:
    """Return covariates of a given spread and classes that a plane tells apart, but for a share of them."""
    generator = torch.Generator().manual_seed(rows)
    table = torch.randn(rows, columns, generator=generator, dtype=torch.double) * spread
    y = (table.sum(1) > 0).double()
    flip = torch.rand(rows, generator=generator) < flips
    return {"X": table, "y": torch.where(flip, 1 - y, y)}


#: Rows of very different sizes, on which whole steps of Newton's method lead ever farther off.
FAR = torch.tensor([
    [-27.48, 14.0], [1.728, -2.079], [0.185, 0.0252], [0.682, -0.0482], [-0.00253, 460.6], [-0.153, -126.6], [1.101, -0.201],
    [0.00527, -0.321], [-8.334, -0.00785], [-0.0264, 0.00878], [-0.452, 0.0118], [1.769, -2.179]]).double()


@pytest.mark.parametrize(("x", "scale"), [
    (data(300, 4), 1.0), (data(60, 20), 0.1), (data(200, 5, flips=0.0), 100.0), (data(200, 3, spread=1e3), 10.0),
    (data(20, 40), 3.0), ({"X": FAR, "y": torch.eye(12).double()[-1]}, 300.0),
])
def test_a_logistic_regression_starts_at_its_mode(x: dict[str, torch.Tensor], scale: float) -> None:
    model = zoo.build("logistic_regression", x, scale=scale)
    start = model.start(x)
    assert start is not None

    def log_joint(weights: torch.Tensor) -> torch.Tensor:
        return model.log_joint(x, weights[None, None]).sum()

    slope = torch.autograd.functional.jacobian(log_joint, start["weights"])
    curvature = -torch.autograd.functional.hessian(log_joint, start["weights"])
    assert 0.5 * float(slope @ torch.linalg.solve(curvature, slope)) < 0.01
    assert torch.equal(guides.build("full_rank", model, x).posterior(x).mean[0], start["weights"])


def test_the_mode_saves_most_of_the_way() -> None:
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    model = zoo.build("logistic_regression", x)
    near = experiments.fit(model, "full_rank", x, progress=False, start="own")
    model.start = lambda x: None  # type: ignore[method-assign]
    far = experiments.fit(model, "full_rank", x, progress=False, start="own")
    assert near.converged
    assert near.steps < far.steps
    assert near.history[0][1] > far.history[0][1] + 50
    assert near.elbo == pytest.approx(far.elbo, abs=0.02)


def test_columns_that_hardly_differ_do_not_stop_a_start() -> None:
    x = data(50, 2, spread=1e7)
    x["X"] = torch.cat([x["X"], x["X"] + 1e-9], 1)
    model = zoo.build("logistic_regression", x, scale=1e4)
    start = model.start(x)
    assert start is not None
    assert bool(start["weights"].isfinite().all())
