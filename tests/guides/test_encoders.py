"""Encoders: what they read, along which dimension units lie, and their networks in evaluation mode."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import experiments
import guides
import zoo

ZERO = torch.zeros((), dtype=torch.double)


def test_encoders_read_whole_numbers_and_know_the_units() -> None:
    def counts(x: dict[str, Tensor]) -> None:
        with pyro.plate("rows", len(x["y"])):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Poisson(z.exp() + x["t"].sum()), obs=x["y"])

    x = {"y": torch.tensor([1, 0, 4, 2]), "t": torch.ones(9)}
    guide = guides.build("mean_field:encoder", zoo.as_model(counts), x)
    assert guide.posterior(x).batch_shape == (4,)


def test_networks_are_evaluated_in_evaluation_mode() -> None:
    x = zoo.dataset("wine", standardise=True).x
    network = nn.Sequential(nn.Linear(13, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    model = zoo.build("ppca", x)
    guide = guides.build("mean_field:encoder", model, x, network=network)
    experiments.fit(model, guide, x, train_model=False, steps=10)
    assert torch.equal(guide.posterior(x).mean, guide.posterior(x).mean)


def test_units_along_another_dimension_are_refused_by_encoders_and_minibatches() -> None:
    def columns(x: Tensor) -> None:
        with pyro.plate("c", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            with pyro.plate("r", x.shape[0], dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(8, 8, dtype=torch.double)
    model = zoo.as_model(columns)
    assert model.latents(x).unit == "c"
    with pytest.raises(zoo.ZooError, match="along the first dimension of its observations for 'mean_field:encoder'"):
        guides.build("mean_field:encoder", model, x)
    with pytest.raises(zoo.ZooError, match="expected 4 rows of x to make 4 units of columns"):
        experiments.fit(model, "mean_field", x, method="svi", batch_size=4)
