"""Stock Pyro's side of a VAE's training: modules, a model and a guide as in its own tutorial, and its ``SVI``."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from benchmarks.contenders import Arrays


class VAE(nn.Module):
    """A perceptron each way, SiLU between, a normal of independent coordinates for a guide."""

    centre: Tensor
    spread: Tensor

    def __init__(self, arrays: Arrays):
        super().__init__()
        hidden, columns = arrays["encoder.0.weight"].shape
        self.latent = arrays["decoder.0.weight"].shape[1]
        self.decoder = nn.Sequential(nn.Linear(self.latent, hidden), nn.SiLU(), nn.Linear(hidden, columns))
        self.encoder = nn.Sequential(nn.Linear(columns, hidden), nn.SiLU(), nn.Linear(hidden, 2 * self.latent))
        for name, value in self.named_parameters():
            value.data.copy_(torch.tensor(arrays[name]))
        self.register_buffer("centre", torch.from_numpy(arrays["centre"]))
        self.register_buffer("spread", torch.from_numpy(arrays["spread"]))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("rows", len(x)):
            loc, log_scale = self.encoder((x - self.centre) / self.spread).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def train(arrays: Arrays, steps: int, batch: int, rate: float) -> dict[str, object]:
    """Take ``steps`` steps of Adam with one draw of z an image; return the weights."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae, x = VAE(arrays), torch.from_numpy(arrays["x"])
    svi = SVI(vae.model, vae.guide, Adam({"lr": rate}), Trace_ELBO())
    order = torch.empty(0, dtype=torch.long)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            if len(order) < batch:
                order = torch.cat([order, torch.randperm(len(x))])
            index, order = order[:batch], order[batch:]
            svi.step(x[index])
    return {name: value.detach().clone().numpy() for name, value in vae.named_parameters()}


def log_weight(arrays: Arrays) -> float:
    """Return Σ log p(x, z) − log q(z) over the rows of ``arrays['batch']`` and ``arrays['z']``."""
    pyro.clear_param_store()
    vae, batch, given = VAE(arrays), torch.from_numpy(arrays["batch"]), {"z": torch.from_numpy(arrays["z"])}
    with torch.no_grad():
        density = [poutine.trace(poutine.condition(side, given)).get_trace(batch) for side in (vae.model, vae.guide)]
        return float(density[0].log_prob_sum() - density[1].log_prob_sum())
