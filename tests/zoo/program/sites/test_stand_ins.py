"""Improper priors, of which nothing can be drawn, and plates that subsample: both are taken as they are written."""

from __future__ import annotations

import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor
from torch.distributions import constraints

import experiments
import zoo

COUNT = 40


def data() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(COUNT, 2, generator=draw, dtype=torch.double)
    return {"X": X, "y": X @ torch.tensor([1.0, -2.0]).double() + 0.5 * torch.randn(COUNT, generator=draw, dtype=torch.double)}


def flat(x: dict[str, Tensor]) -> None:
    b = pyro.sample("b", dist.ImproperUniform(constraints.real, (), (2,)))
    s = pyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.factor("one_over_s", -s.log())
    with pyro.plate("rows", COUNT):
        pyro.sample("y", dist.Normal(x["X"] @ b, s), obs=x["y"])


def log_normaliser(x: dict[str, Tensor]) -> float:
    """Return log ∫∫ p(y | b, s) / s db ds: normal in b, and inverse gamma in s²."""
    X, y, nu = x["X"], x["y"], COUNT - 2
    rest = y - X @ torch.linalg.solve(X.T @ X, X.T @ y)
    gamma = math.lgamma(nu / 2) - nu / 2 * math.log(math.pi * float(rest.square().sum())) - math.log(2)
    return gamma - 0.5 * float(torch.logdet(X.T @ X))


def test_an_improper_prior_has_a_log_normaliser_and_gaps(tmp_path: Path) -> None:
    x = data()
    table = experiments.compare(flat, x, ["mean_field", "full_rank"], seed=1)
    truth, found = log_normaliser(x), table.evidence
    assert abs(found.middle - truth) < 5 * found.se
    gap = table.rows[1].evaluation.kl_gap
    assert 0 <= gap.lower < gap.upper < 0.1
    assert str(table).count("log p(x") == 0
    assert "log normaliser = " in str(table)
    assert "no marginal likelihood: improper prior of b, s" in str(table)
    assert table.to_dict()["improper"] == ["b", "s"]
    tree = experiments.posterior(table.model, table.guide("full_rank"), x, draws=50)
    assert "prior" not in tree.children
    assert "posterior_predictive" in tree.children


def test_nothing_is_drawn_from_an_improper_prior() -> None:
    x = data()
    model = zoo.as_model(flat)
    with pytest.raises(zoo.ZooError, match="'b' of flat, whose prior is improper; use another guide"):
        experiments.compare(model, x, ["prior"])
    with pytest.raises(zoo.ZooError, match="expected priors to draw from in flat; got 'b'"):
        model.simulate(x)


def subsampling(x: dict[str, Tensor]) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 2.0).to_event(1))
    with pyro.plate("rows", COUNT, subsample_size=7) as index:
        pyro.sample("y", dist.Normal(x["X"][index] @ w, 0.5), obs=x["y"][index])


def whole(x: dict[str, Tensor]) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 2.0).to_event(1))
    with pyro.plate("rows", COUNT):
        pyro.sample("y", dist.Normal(x["X"] @ w, 0.5), obs=x["y"])


def test_a_plate_that_subsamples_holds_all_its_rows() -> None:
    x = data()
    model, twin = zoo.as_model(subsampling), zoo.as_model(whole)
    with zoo.seeded(0):
        z = model.sample_prior(x, 3)
    assert torch.equal(model.log_joint(x, z), twin.log_joint(x, z))
    assert model.predict(x, z)["y"].shape == (3, COUNT)
    ours = experiments.compare(model, x, ["full_rank"]).rows[0].evaluation.elbo.value
    assert ours == pytest.approx(experiments.compare(twin, x, ["full_rank"]).rows[0].evaluation.elbo.value, abs=1e-9)


def test_plates_subsample_again_outside_of_our_runs() -> None:
    init = SubsampleMessenger.__init__
    zoo.as_model(subsampling).latents(data())
    assert SubsampleMessenger.__init__ is init
    with zoo.seeded(0):
        trace = pyro.poutine.trace(subsampling).get_trace(data())
    assert trace.nodes["y"]["value"].shape == (7,)
