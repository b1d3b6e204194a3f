"""Observations that are parts of the data: simulated data have them in their places."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import zoo
from zoo.program.sites.parts import Parts


def walk(y: Tensor) -> None:
    """A random walk seen with noise, a step a site."""
    level = torch.zeros(())
    for t in range(len(y)):
        level = pyro.sample(f"level_{t}", dist.Normal(level, 1.0))
        pyro.sample(f"y_{t}", dist.Normal(level, 0.1), obs=y[t])


def autoregression(y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    before = torch.zeros(())
    for t in range(len(y)):
        pyro.sample(f"y_{t}", dist.Normal(slope * before, 1.0), obs=y[t])
        before = y[t]


def generated(y: Tensor) -> None:
    """The same, which goes on from what it has drawn."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    before = torch.zeros(())
    for t in range(len(y)):
        before = pyro.sample(f"y_{t}", dist.Normal(slope * before, 1.0), obs=y[t])


def lagged(y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("t", len(y) - 1):
        pyro.sample("y", dist.Normal(slope * y[:-1], 1.0), obs=y[1:])


def test_each_step_is_put_back() -> None:
    y = torch.arange(6.0)
    latent, fresh = zoo.as_model(walk).simulate(y, seed=0)
    levels = torch.stack([latent[f"level_{t}"] for t in range(6)])
    assert isinstance(fresh, Tensor)
    assert bool(((fresh - levels).abs() < 0.6).all())
    assert not torch.equal(fresh, y)
    assert y.tolist() == list(range(6)), "the data stay as they are"


@pytest.mark.parametrize(("program", "text"), [
    (autoregression, "drawn, too, in autoregression; got site 'y_1', whose distribution depends on the data themselves"),
    (lagged, r"expected one observed site of shape \(6,\); got y"),
])
def test_data_that_depend_on_themselves_are_refused(program: object, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        zoo.as_model(program).simulate(torch.arange(6.0), seed=0)


def test_an_autoregression_that_goes_on_from_its_draws_is_drawn() -> None:
    latent, fresh = zoo.as_model(generated).simulate(torch.arange(400.0), seed=4)
    assert isinstance(fresh, Tensor)
    noise = fresh[1:] - latent["slope"] * fresh[:-1]
    assert abs(float(latent["slope"])) < 0.9
    assert abs(float(noise.var()) - 1) < 4 * (2 / 399) ** 0.5


def test_parts_of_views_are_found_and_others_are_not() -> None:
    table = torch.arange(24.0).reshape(4, 6)
    x = {"left": table[:, :2], "right": table[:, 2:].T}
    parts = Parts.of(x, {"a": table[:, 0], "b": table[:, 1], "c": x["right"][:2], "d": x["right"][2:]})
    assert parts is not None
    filled = parts.put(x, {"a": torch.zeros(4), "b": torch.ones(4), "c": torch.full((2, 4), 2.0), "d": torch.full((2, 4), 3.0)})
    assert filled["left"].tolist() == [[0, 1]] * 4
    assert filled["right"].tolist() == [[2] * 4] * 2 + [[3] * 4] * 2
    assert Parts.of(x, {"a": table[:, 0]}) is None, "half of an entry"
    assert Parts.of(x, {"a": table[:, :2].clone()}) is None, "no view"
    assert Parts.of(x, {"a": x["left"]}) is None, "an entry itself"
