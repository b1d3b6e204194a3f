"""The evaluation of one guide: k̂, infinite gaps, networks in evaluation mode, and data of other columns."""

from __future__ import annotations

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.log_evidence.log_weights import LogWeights
from zoo.program.run import seeded

ZERO = torch.zeros((), dtype=torch.double)


def test_khat_of_weights_of_which_some_are_zero() -> None:
    with zoo.seeded(0):
        log_w = torch.randn(1000, 2, dtype=torch.double)
    log_w[:450, 0] = -math.inf
    log_w[:, 1] = -math.inf
    log_w[0, 1] = 0.0
    zero = torch.zeros_like(log_w)
    khat = LogWeights(log_w, zero, zero, zero - math.log(1000), False).khat()
    assert 0 < float(khat[0]) < 1
    assert float(khat[1]) == math.inf


@pytest.mark.parametrize("seed", range(12))
def test_khat_of_an_almost_exact_guide_in_float32(seed: int) -> None:
    def level(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with zoo.seeded(seed):
        x = torch.randn(50) + 2
    row = experiments.compare(level, x, "mean_field").rows[0].evaluation
    assert row.khat is None or not row.misses_mass


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


@pytest.mark.long
def test_models_are_scored_in_evaluation_mode() -> None:
    x = (rows(40, 4) > 0).double()
    network = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4)).double()
    model = zoo.build("vae", x, latent=2, network=network)
    guide = guides.build("prior", model, x)
    first = experiments.evaluate(model.train(), guide, x, draws=64, seed=0)
    second = experiments.evaluate(model.eval(), guide, x, draws=64, seed=0)
    assert first.elbo.value == second.elbo.value
    assert first.evidence.value == second.evidence.value


@pytest.mark.parametrize("name", ["linear_vae", "flow"])
def test_data_that_the_model_was_not_built_on_is_named(name: str) -> None:
    model = zoo.build(name, rows())
    with pytest.raises(zoo.ZooError, match=f"expected data that the program of {name} runs on; got x torch.float64"):
        experiments.evaluate(model, "exact", rows(40, 2))


def test_an_elbo_of_minus_infinity_is_an_infinite_gap() -> None:
    def cut(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.factor("f", torch.where(z.abs() < 2, 0.0, -math.inf))

    table = experiments.compare(cut, ZERO, "prior")
    assert table.rows[0].evaluation.kl_gap.value == math.inf
    assert "∞" in str(table)
    assert table.to_dict()["guides"][0]["kl_gap"]["value"] is None
    json.dumps(table.to_dict(), allow_nan=False)
