"""A fitted guide in two files, and back without the data that it was fitted to."""

from __future__ import annotations

import json
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import experiments
import zoo
from experiments.log_evidence.log_weights import log_weights
from zoo.errors import ZooError


def line(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=y.dtype), 3.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b[0] + b[1] * x, 1.0), obs=y)


X = torch.linspace(-1, 1, 20, dtype=torch.double)
Y = 1.0 + 2.0 * X


def test_an_encoder_serves_new_rows(tmp_path: Path) -> None:
    """Its θ comes with it; neither file holds a row of the data."""
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x[:120])
    done = experiments.fit(model, "full_rank:encoder(hidden=(16,))", x[:120], steps=200)
    file = done.export(tmp_path / "guide.safetensors")
    told = json.loads((tmp_path / "guide.json").read_text())["body"]["values"]
    assert (told["guide"], told["method"], told["data"]) == (
        "full_rank:encoder(hidden=(16,))", "svi", {"x": ["torch.float64", 120, 13]})
    fresh = zoo.build("ppca", x[120:], seed=9)
    guide = experiments.load_guide(file, fresh, x[120:])
    assert torch.equal(guide.posterior(x[120:]).mean, done.guide.posterior(x[120:]).mean)
    mine, other = (log_weights(m, g, x[120:], 100, 1).elbo().value for m, g in ((fresh, guide), (done.model, done.guide)))
    assert mine == other
    assert (tmp_path / "guide.safetensors").stat().st_size < 8 * x.numel()  # smaller than the data


def test_latents_that_all_rows_share_need_no_row_of_the_data(tmp_path: Path) -> None:
    done = experiments.fit(line, "full_rank", X, Y)
    done.export(tmp_path / "guide.safetensors")
    other = torch.zeros(3, dtype=torch.double)
    guide = experiments.load_guide(tmp_path / "guide.safetensors", line, other, other)
    for name, value in done.guide.state_dict().items():
        assert torch.equal(guide.state_dict()[name], value)


def test_pyros_own_guides_are_passed(tmp_path: Path) -> None:
    done = experiments.fit(line, AutoMultivariateNormal, X, Y, steps=200)
    file = done.export(tmp_path / "guide.safetensors")
    with pytest.raises(ZooError, match="expected guide=, the Pyro guide"):
        experiments.load_guide(file, line, X, Y)
    guide = experiments.load_guide(file, line, X, Y, guide=AutoMultivariateNormal)
    data = zoo.arguments(line, X, Y)
    means = [one.posterior(data).sample((4000,)).mean(0) for one in (guide, done.guide)]
    torch.testing.assert_close(*means, atol=0.05, rtol=0.0)


def test_what_was_altered_or_is_of_another_shape_is_refused(tmp_path: Path) -> None:
    done = experiments.fit(line, "full_rank", X, Y)
    file = done.export(tmp_path / "guide.safetensors")
    with pytest.raises(ZooError, match=r"expected a path that ends in .safetensors; got .*guide.pt"):
        done.export(tmp_path / "guide.pt")
    with pytest.raises(ZooError, match="expected the model that was saved, with latents b; got ppca with z"):
        experiments.load_guide(file, zoo.build("ppca", zoo.dataset("iris").x), zoo.dataset("iris").x)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ZooError, match="cut short or altered"):
        experiments.load_guide(file, line, X, Y)
    (tmp_path / "guide.json").unlink()
    with pytest.raises(ZooError, match=r"expected .*guide.json beside the tensors"):
        experiments.load_guide(file, line, X, Y)
