"""A VAE of the digits, trained once for several benchmarks, and the ELBO of normal posteriors under this VAE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import experiments
import zoo
from benchmarks.suites.normals import noise
from zoo.model import Model

UNITS, LATENT, STEPS = 300, 8, 2000
#: Draws that judge one unit, and any number of them together, whose errors average out.
ALONE, TOGETHER = 2048, 256


@dataclass(frozen=True)
class Digits:
    """A trained VAE with fixed parameters, and the binary images whose posteriors are fitted, (300, 64)."""

    model: Model
    x: Tensor

    @property
    def decoder(self) -> Any:
        """The network from z to the logits."""
        return self.model.network


def trained() -> Digits:
    """Train a VAE in float64 on all digits but the first :data:`UNITS`, whose posteriors are fitted later."""
    x = zoo.dataset("digits", "images", binarise="threshold").tensor
    model = zoo.build("vae", x[UNITS:], latent=LATENT)
    experiments.fit(model, "mean_field:encoder", x[UNITS:], steps=STEPS, progress=False)
    return Digits(model.requires_grad_(False).eval(), x[:UNITS])


def elbo(digits: Digits, loc: Tensor, scale: Tensor, x: Tensor | None = None) -> Tensor:
    """Return the ELBO of a normal posterior for each unit, (units,), in nats, from the same quasi-random draws for all units.

    ``loc`` and ``scale`` are (units, d). ``x`` has the rows of the units; ``None``: all rows of ``digits``.
    """
    rows = digits.x if x is None else x
    draws = ALONE if len(rows) == 1 else TOGETHER
    entropy = scale.log().sum(-1) + 0.5 * loc.shape[1] * (1 + math.log(2 * math.pi))
    total = torch.zeros_like(entropy)
    with torch.no_grad():
        for part in noise(draws, loc.shape[1])[:, None].split(ALONE if len(rows) == 1 else 32):
            total += digits.model.log_joint(rows, loc + scale * part).sum(0)
    return total / draws + entropy
