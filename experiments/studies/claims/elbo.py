"""ELBO = E_q[log p(x, z) − log q(z)] ≤ log p(x), and what lacks is KL(q ‖ p(z | x)).

One derivation is Jensen's: log p(x) = log E_q[p(x, z) / q(z)] ≥ E_q[log p(x, z) / q(z)]. The other says by how much. By
Bayes' rule log p(x) = log p(x, z) − log p(z | x) holds at *every* z. Add and subtract log q(z), and average over q:

    log p(x) = E_q[log p(x, z) − log q(z)] + E_q[log q(z) − log p(z | x)] = ELBO + KL(q ‖ posterior).

Measured under a mixture, PPCA and a linear VAE, for many q that were never fitted: the ELBO by draws (of the mixture, by
enumeration); KL(q ‖ posterior) in closed form, from the exact posterior and without the model's density; their sum against
log p(x); and Bayes' rule at every draw.

Source: Jordan et al. (1999), An introduction to variational methods for graphical models,
https://doi.org/10.1023/A:1007665907178; Kingma and Welling (2019), An introduction to variational autoencoders, §2.2,
https://arxiv.org/abs/1906.02691
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import experiments
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Model, data set and guide of each panel.
PAIRS = (("gmm", "faithful", "categorical"), ("ppca", "wine", "full_rank"), ("linear_vae", "iris", "full_rank"))


@dataclass(frozen=True)
class Cloud:
    """Many q under one model: ELBO with its standard error, and KL(q ‖ posterior), (q,) each, in nats per unit."""

    log_p: float
    elbo: Tensor
    se: Tensor
    kl: Tensor
    pointwise: float

    @property
    def off(self) -> Tensor:
        """ELBO + KL − log p(x), in standard errors; of exact sums in 1e-9 nats."""
        return (self.elbo + self.kl - self.log_p) / self.se.clamp(min=1e-9)


@dataclass(frozen=True)
class Found(Findings):
    """The clouds by model."""

    clouds: dict[str, Cloud]

    def checks(self) -> Sequence[Check]:
        found = []
        for name, cloud in self.clouds.items():
            above = float(((cloud.elbo - cloud.log_p) / cloud.se.clamp(min=1e-9)).max())
            found += [
                Check.at_most(
                    f"{name}: highest of {len(cloud.elbo)} ELBOs above log p(x), in its standard errors", above, 0.0, 1.0),
                Check.at_most(f"{name}: largest |ELBO + KL(q‖posterior) − log p(x)|, in standard errors",
                              float(cloud.off.abs().max()), 0.0, 1.0),
                Check.at_most(f"{name}: largest |log p(x, z) − log p(z | x) − log p(x)| over all draws, nats",
                              cloud.pointwise, 1e-8)]
        return found

    def draw(self) -> Figure:
        figure, panels = panels_of(12.0, 4.0, len(self.clouds))
        for axes, colour, (name, cloud) in zip(panels, COLOURS, self.clouds.items(), strict=False):
            most = float(cloud.kl.max()) * 1.05
            axes.axhline(cloud.log_p, color="0.3", linewidth=1.2)
            axes.text(most, cloud.log_p, "log p(x)", ha="right", va="bottom", fontsize=9)
            axes.plot([0, most], [cloud.log_p, cloud.log_p - most], color="0.5", linewidth=0.9, linestyle="--")
            axes.text(0.55 * most, cloud.log_p - 0.62 * most, "log p(x) − KL(q ‖ posterior) ", ha="right", va="top", fontsize=9,
                      color="0.4")
            axes.errorbar(cloud.kl, cloud.elbo, 2 * cloud.se, fmt=".", color=colour, markersize=7, elinewidth=1)
            worst = int(cloud.kl.argsort()[len(cloud.kl) * 4 // 5])
            axes.annotate("", (float(cloud.kl[worst]), cloud.log_p), (float(cloud.kl[worst]), float(cloud.elbo[worst])),
                          arrowprops={"arrowstyle": "<->", "color": "0.3", "shrinkA": 3, "shrinkB": 0})
            axes.text(float(cloud.kl[worst]), cloud.log_p - float(cloud.kl[worst]) / 2, " gap", fontsize=9)
            axes.locator_params(axis="x", nbins=5)
            axes.set_xlabel("KL(q ‖ posterior), closed form (nats per unit)")
            axes.set_title(f"{name}: {len(cloud.elbo)} guides q", loc="left")
        panels[0].set_ylabel("ELBO (nats per unit, ± 2 standard errors)")
        return figure


def run(quick: bool, seed: int) -> Found:
    """Perturb the exact posterior of three models into many q, and measure both sides for each."""
    clouds = {}
    for name, data, guide in PAIRS:
        x = zoo.dataset(data, standardise=name != "gmm").tensor
        model = zoo.build(name, x, seed=seed)
        experiments.fit(model, "exact", x, steps=50)
        clouds[name] = cloud(model, guide, x, 10 if quick else 60, 200 if quick else 1000, seed)
    return Found(clouds)


def cloud(model: zoo.Model, text: str, x: Tensor, count: int, draws: int, seed: int) -> Cloud:
    """Measure ``count`` guides, whose φ lie around those of the fitted one, with noise of many sizes."""
    units, rows, pointwise = len(x), [], 0.0
    fitted = experiments.fit(model, text, x, train_model=False, seed=seed).guide
    best = [phi.detach().clone() for phi in fitted.parameters()]
    with torch.no_grad():
        posterior: Any = model.posterior(x)
        log_p = model.log_evidence(x)
        for i in range(count):
            guide = copy.deepcopy(fitted)
            with zoo.seeded(seed + i):
                size = (8.0 if text == "categorical" else 0.7) * torch.rand(())
                for phi, middle in zip(guide.parameters(), best, strict=True):
                    phi.copy_(middle + size * torch.randn_like(phi))
            weights = experiments.log_weights(model, guide, x, draws, seed + i)
            elbo = weights.elbo()
            rows.append([elbo.value / units, elbo.se / units, divergence(guide.posterior(x), posterior) / units])
        with zoo.seeded(seed):
            z = posterior.enumerate_support() if weights.enumerated else guide.posterior(x).sample((draws,))
        pointwise = float((model.log_joint(x, z) - posterior.log_prob(z) - log_p).abs().max())
    elbo_, se, kl = torch.tensor(rows, dtype=torch.double).T
    return Cloud(float(log_p.mean()), elbo_, se, kl, pointwise)


def divergence(q: Any, posterior: Any) -> float:
    """Return KL(q ‖ posterior) in closed form, summed over units."""
    if hasattr(q, "enumerate_support") and q.has_enumerate_support:
        return float(kl_divergence(Categorical(logits=q.logits), Categorical(logits=posterior.logits)).sum())
    return float(kl_divergence(q, posterior).sum())
