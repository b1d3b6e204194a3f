"""The zoo's side of a VAE's training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import experiments
import guides
import zoo
from benchmarks.contenders import Arrays
from guides.guide import BaseGuide
from zoo.model import Model

LATENT, HIDDEN = 50, 400
GUIDE = f"mean_field:encoder(hidden=({HIDDEN},))"


def build(arrays: Arrays) -> tuple[Model, BaseGuide, torch.Tensor]:
    """Return model, guide and images, with the weights of ``arrays`` where it has any."""
    x = torch.from_numpy(arrays["x"])
    model = zoo.build("vae", x, latent=LATENT, hidden=(HIDDEN,))
    guide = guides.build(GUIDE, model, x, seed=0)
    for name, value in _parameters(model, guide).items():
        if name in arrays:
            value.data.copy_(torch.tensor(arrays[name]))
    return model, guide, x


def weights(model: Model, guide: BaseGuide) -> dict[str, np.ndarray]:
    """Return copies of all weights by name: ``decoder.0.weight`` …, ``encoder.0.weight`` …."""
    return {name: value.detach().clone().numpy() for name, value in _parameters(model, guide).items()}


def train(arrays: Arrays, steps: int, batch: int, rate: float, compile: bool = False) -> dict[str, np.ndarray]:
    """Take ``steps`` steps of Adam with one draw of z an image; return the weights. ``compile``: through Inductor."""
    model, guide, x = build(arrays)
    experiments.fit(
        model, guide, x, method="svi", steps=steps, batch_size=batch, learning_rate=rate, schedule="constant", draws=1,
        progress=False, compile=compile)
    return weights(model, guide)


def log_weight(arrays: Arrays) -> float:
    """Return Σ log p(x, z) − log q(z) over the rows of ``arrays['batch']`` and ``arrays['z']``."""
    model, guide, _ = build(arrays)
    batch, z = torch.from_numpy(arrays["batch"]), torch.from_numpy(arrays["z"])
    with torch.no_grad():
        return float((model.log_joint(batch, z[None])[0] - guide.posterior(batch).log_prob(z)).sum())


def _parameters(model: Any, guide: Any) -> dict[str, torch.nn.Parameter]:
    parts = {"decoder": model.network, "encoder": guide.amortisation.network}
    return {f"{part}.{name}": value for part, network in parts.items() for name, value in network.named_parameters()}
