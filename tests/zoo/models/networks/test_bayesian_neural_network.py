"""The Bayesian neural network: its density written out, its output layer integrated out, and its symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import halfnorm, multivariate_normal, norm
from torch import Tensor

import experiments
import zoo


def data(rows: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(rows, 2, generator=generator, dtype=torch.double)
    return {"X": table, "y": 5 + 2 * table[:, 0].tanh() + 0.1 * torch.randn(rows, generator=generator, dtype=torch.double)}


def drawn(x: dict[str, Tensor], draws: int = 1) -> tuple[zoo.Model, Tensor, dict[str, Tensor]]:
    model = zoo.build("bayesian_neural_network", x)
    with zoo.seeded(3):
        z = model.sample_prior(x, draws)
    return model, z, model.constrain(x, z)


def test_the_density_is_the_network_written_out() -> None:
    x = data()
    model, z, values = drawn(x)
    site = {name: value[0].numpy() for name, value in values.items()}
    y, spread = x["y"].numpy(), x["y"].numpy().std(ddof=1)
    units = np.tanh(x["X"].numpy() @ site["hidden_weights"] + site["hidden_bias"])
    mean = y.mean() + spread * (units @ site["weights"] + site["bias"])
    likelihood = norm(mean, spread * site["noise"]).logpdf(y).sum()
    prior = sum(norm.logpdf(site[name]).sum() for name in ("hidden_weights", "hidden_bias", "bias"))
    prior += norm.logpdf(site["weights"], scale=3**-0.5).sum() + halfnorm.logpdf(site["noise"]) + math.log(site["noise"])
    terms = model.log_terms(x, z)
    assert float(terms[1]) == pytest.approx(likelihood, abs=1e-8)
    assert float(terms[0]) == pytest.approx(prior, abs=1e-8)
    np.testing.assert_allclose(site["mean"], mean, atol=1e-10)


def test_the_output_layer_integrates_to_a_normal() -> None:
    """Given hidden units and noise the output layer is a Bayesian linear regression, whose marginal is known."""
    x = data()
    model, _, values = drawn(x)
    site = {name: value[0].numpy() for name, value in values.items()}

    def log_joint(output: Tensor) -> Tensor:
        full = {**{name: values[name] for name in ("hidden_weights", "hidden_bias", "noise")},
                "weights": output[None, :3], "bias": output[None, 3]}
        sites = model.log_probs(x, model.unconstrain(x, full))
        return sites["weights"].sum() + sites["bias"].sum() + sites["y"].sum()

    start = torch.zeros(4, dtype=torch.double)
    curvature = torch.autograd.functional.hessian(log_joint, start)
    top = start - torch.linalg.solve(curvature, torch.func.grad(log_joint)(start))
    integral = log_joint(top) + 2 * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(-curvature).logabsdet
    y = x["y"].numpy()
    units = np.tanh(x["X"].numpy() @ site["hidden_weights"] + site["hidden_bias"])
    covariance = y.var(ddof=1) * (units @ units.T / 3 + 1 + site["noise"] ** 2 * np.eye(len(y)))
    expected = multivariate_normal(np.full(len(y), y.mean()), covariance).logpdf(y)
    assert float(integral) == pytest.approx(expected, abs=1e-8)


def test_renumbered_units_and_turned_signs_are_as_likely() -> None:
    x = data()
    model, z, values = drawn(x, 3)
    order, sign = torch.tensor([2, 0, 1]), torch.tensor([1.0, -1.0, -1.0]).double()
    turned = {**values, **{name: (sign * values[name])[..., order] for name in ("hidden_weights", "hidden_bias", "weights")}}
    torch.testing.assert_close(
        model.log_joint(x, model.unconstrain(x, turned)), model.log_joint(x, z), rtol=0, atol=1e-9)
    assert model.equal_modes == 6 * 8


def test_a_curve_that_no_line_follows_is_learned() -> None:
    rows = torch.linspace(-2, 2, 60, dtype=torch.double)[:, None]
    noise = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    x = {"X": rows, "y": (1.5 * rows[:, 0]).sin() + 0.1 * noise}
    model = zoo.build("bayesian_neural_network", x)
    done = experiments.fit(model, "full_rank", x, progress=False)
    linear = float(zoo.build("linear_regression", x).log_evidence(x))
    assert done.elbo > linear + 20, "a lower bound on the network's evidence, and the line's own"


def test_hidden_units_are_counted_from_one() -> None:
    with pytest.raises(zoo.ZooError, match="expected hidden as a whole number from 1; got 0; set --hidden"):
        zoo.build("bayesian_neural_network", data(), hidden=0)
