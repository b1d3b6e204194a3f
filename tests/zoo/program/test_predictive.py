"""Rows to predict: data in which what is observed of others is missing, as in ``obs=x.get("y")``."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import experiments
import guides
import zoo

Rows = dict[str, Tensor]


def line(d: Any) -> Tensor:
    """A regression: one unit."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(-1.0).double(), 0.1))
    with pyro.plate("rows", len(d["X"])):
        value: Tensor = pyro.sample("y", dist.Normal(d["X"] @ w, s), obs=d.get("y"))
    return value


def units(d: Any) -> Tensor:
    """Rows that own their latents."""
    with pyro.plate("rows", len(d["X"])):
        z = pyro.sample("z", dist.Normal(d["X"].sum(-1), 1.0))
        value: Tensor = pyro.sample("y", dist.Normal(z, 0.3), obs=d.get("y"))
    return value


def blocks(d: Any) -> Tensor:
    """Both kinds of latents, so that all are one unit, whose size is that of the data."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    with pyro.plate("rows", len(d["X"])):
        z = pyro.sample("z", dist.Normal(d["X"] @ w, 1.0))
        value: Tensor = pyro.sample("y", dist.Normal(z, 0.3), obs=d.get("y"))
    return value


class Own(zoo.Model):
    """The regression as a model of its own."""

    def forward(self, x: Any) -> Tensor:
        return line(x)


@pytest.fixture(scope="module")
def rows() -> Rows:
    torch.manual_seed(0)
    x = torch.randn(40, 2, dtype=torch.double)
    return {"X": x, "y": x @ torch.tensor([1.0, -1.0]).double() + 0.4 * torch.randn(40, dtype=torch.double)}


@pytest.fixture(scope="module")
def new() -> Rows:
    return {"X": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [1.0, 1.0]]).double()}


@pytest.fixture(scope="module", params=[line, Own], ids=["function", "model"])
def fitted(request: Any, rows: Rows) -> experiments.Fit:
    program = request.param() if isinstance(request.param, type) else request.param
    return experiments.fit(program, "full_rank", rows)


@pytest.mark.parametrize("absent", [{}, {"y": None}], ids=["left out", "None"])
def test_stock_predictive_on_new_rows(fitted: experiments.Fit, rows: Rows, new: Rows, absent: dict[str, None]) -> None:
    pyro.set_rng_seed(1)
    drawn = Predictive(fitted.model, guide=fitted.guide, num_samples=400)({**new, **absent})
    assert drawn["y"].shape == (400, 7)
    # At the rows' new places: the least squares' mean, and the noise and the coefficients' spread.
    best = torch.linalg.lstsq(rows["X"], rows["y"][:, None]).solution[:, 0]
    deviation = drawn["y"].std(0)
    assert bool(((drawn["y"].mean(0) - new["X"] @ best).abs() < 5 * deviation / 400**0.5 + 0.1).all())
    assert bool((deviation > 0.25).all())
    assert float(deviation[4]) > float(deviation[3])


def test_by_the_zoo_and_from_posterior_samples(fitted: experiments.Fit, rows: Rows, new: Rows) -> None:
    model, q = fitted.model, fitted.guide
    with zoo.seeded(0):
        z = q.posterior(new).sample((300,))  # type: ignore[arg-type]
        assert torch.allclose(q.posterior(rows).mean, q.posterior(new).mean)
        drawn = model.predict(new, z)["y"]
        samples = model.constrain(new, z)
        stock = Predictive(model, posterior_samples=samples)(new)["y"]
    assert drawn.shape == stock.shape == (300, 7)
    assert "y" not in samples
    error = (drawn.var(0) / 300 + stock.var(0) / 300).sqrt()
    assert bool(((drawn.mean(0) - stock.mean(0)).abs() < 5 * error).all())
    assert torch.allclose(model.unconstrain(new, samples), z)
    tree = experiments.posterior(model, q, new, draws=20, groups=["posterior", "posterior_predictive"])
    assert tree["posterior_predictive"]["y"].shape == (1, 20, 7)


def test_what_needs_observations_says_so(fitted: experiments.Fit, rows: Rows, new: Rows) -> None:
    model = fitted.model
    z = fitted.guide.posterior(rows).sample((3,))
    before = model.log_joint(rows, z)
    model.predict(new, z)
    with pytest.raises(zoo.ZooError, match=r"at site 'y'; got 3; if it is observed, pass its observations in x"):
        model.log_joint(new, z)
    with pytest.raises(zoo.ZooError, match=r"at site 'y'; got 3; if it is observed, pass its observations in x"):
        experiments.fit(model, "mean_field", new)
    with pytest.raises(zoo.ZooError, match=r"expected observed site 'y' to be an entry of x; got X"):
        model.simulate(new)
    assert torch.equal(model.log_joint(rows, z), before)
    with pytest.raises(zoo.ZooError, match="expected a program with observed sites"):
        zoo.as_model(line).latents(new)  # never seen with observations: nothing says that y is one


def test_copies_and_pyro_guides_know_what_is_observed(rows: Rows, new: Rows) -> None:
    done = experiments.fit(line, AutoNormal, rows, steps=50)
    model = copy.deepcopy(done.model)
    z = done.guide.posterior(new).sample((4,))
    assert model.predict(new, z)["y"].shape == (4, 7)
    assert Predictive(done.model, guide=done.guide, num_samples=4)(new)["y"].shape == (4, 7)


def test_units_of_their_own(rows: Rows, new: Rows) -> None:
    model = zoo.as_model(units)
    free = guides.build("mean_field", model, rows)
    with pytest.raises(zoo.ZooError, match="expected the 40 units that this free guide has parameters for; got 7"):
        Predictive(model, guide=free, num_samples=2)(new)
    assert Predictive(model, guide=free, num_samples=2)({"X": rows["X"]})["y"].shape == (2, 40)  # of the rows it was fitted to
    encoder = guides.build("mean_field:encoder", model, rows)
    with pytest.raises(zoo.ZooError, match=r"expected entries X, y of x .* got none for y; add it"):
        Predictive(model, guide=encoder, num_samples=2)(new)
    seen = {**new, "y": torch.arange(7.0).double()}
    assert Predictive(model, guide=encoder, num_samples=2)(seen)["z"].shape == (2, 7)


def test_latents_of_other_rows_are_not_taken_for_these(rows: Rows, new: Rows) -> None:
    for guide in ("mean_field", AutoNormal):
        done = experiments.fit(blocks, guide, rows, steps=2, method="svi")
        with pytest.raises(zoo.ZooError, match=r"expected data whose units have the 42 coordinates .* got 9; build a guide"):
            done.guide.posterior(new)


def test_an_encoder_reads_entries_by_name(rows: Rows) -> None:
    model = zoo.as_model(units)
    encoder = guides.build("mean_field:encoder", model, rows)
    turned = {"y": rows["y"], "X": rows["X"]}
    assert torch.equal(encoder.posterior(turned).mean, encoder.posterior(rows).mean)


def test_real_observations_given_as_whole_numbers_are_simulated_as_real_ones() -> None:
    def level(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=x)

    _, fresh = zoo.as_model(level).simulate(torch.tensor([1, 2, 3]), seed=0)
    assert isinstance(fresh, Tensor)
    assert bool((fresh != fresh.round()).all())
    elbo = experiments.compare(level, [1, 2, 3], ["full_rank"]).rows[0].evaluation.elbo
    assert elbo.value == pytest.approx(-5.6372, abs=1e-3)
