"""p(x) = p(z) |det ∂f/∂x| at z = f(x): a density carried through an invertible map keeps its mass.

A volume element dx maps to |det ∂f/∂x| dx. The mass in it is the same on both sides, p(x) dx = p(z) dz, so

    log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|.

Here f is a flow of four spline layers, trained on two interleaved half circles by maximum likelihood, which needs this
direction, x → z, alone; sampling takes the other, z → x.

Measured on held-out rows: the log-density of the flow against the formula with autograd's own Jacobian; the total mass on
a grid; each direction against the other; and |z|² of the held-out rows, which is χ² with two degrees of freedom if f has
carried the data to the base.

Source: Papamakarios et al. (2021), Normalizing flows for probabilistic modeling and inference, §2.1,
https://arxiv.org/abs/1912.02762
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import jacrev, vmap

import experiments
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Found(Findings):
    """Held-out rows x (n, 2), which moon each is on, their noise z, both sides on a grid, and what the claim compares."""

    x: Tensor
    moon: Tensor
    z: Tensor
    grid_x: Tensor
    grid_y: Tensor
    grid_log_density: Tensor
    grid_log_det: Tensor
    jacobian_error: float
    inverse_error: float
    mass: float
    gain: float
    gain_se: float
    squared_norm: float

    def checks(self) -> Sequence[Check]:
        return (
            Check.at_most("largest |log p(x) − log N(f(x)) − log|det autograd's Jacobian||, nats", self.jacobian_error, 1e-9),
            Check.near("mass of p on the grid", self.mass, 1.0, within=0.01),
            Check.at_most("largest |f⁻¹(f(x)) − x|", self.inverse_error, 1e-9),
            Check.above("held-out log p(x), flow − one normal, nats per row", self.gain, 0.0, se=self.gain_se),
            Check.near("mean |z|² of held-out rows", self.squared_norm, 2.0, within=0.2, se=2 / len(self.z) ** 0.5),
        )

    def draw(self) -> Figure:
        figure, (data, base, stretch) = panels_of(11.5, 3.9, 3)
        for axes, points in ((data, self.x), (base, self.z)):
            for i in (0, 1):
                axes.plot(*points[self.moon == i].T, ".", color=COLOURS[i], markersize=2.5)
        density = self.grid_log_density.exp().T
        data.contour(self.grid_x, self.grid_y, density, levels=[0.05, 0.3, 0.6], colors="0.3", linewidths=[0.5, 0.9, 1.4])
        data.set_title("x, and lines of p(x) = 0.05, 0.3, 0.6", loc="left")
        turn = torch.linspace(0, 2 * torch.pi, 200)
        for mass in (0.5, 0.95):
            radius = (-2 * torch.log(torch.tensor(1 - mass))).sqrt()
            base.plot(radius * turn.cos(), radius * turn.sin(), color="0.3", linewidth=1)
            base.text(0, float(radius), f"{mass:.0%}", fontsize=8, ha="center", va="center", backgroundcolor="white")
        base.set_title("z = f(x), and circles of N(0, I)", loc="left")
        seen = self.grid_log_det.masked_fill(self.grid_log_density < -5, float("nan"))
        most = float(seen.abs().nan_to_num().max())
        image = stretch.pcolormesh(
            self.grid_x.numpy(), self.grid_y.numpy(), seen.T.numpy(), cmap="PuOr", vmin=-most, vmax=most, rasterized=True)
        figure.colorbar(image, ax=stretch, label="log|det ∂f/∂x| (nats)")
        stretch.set_title("where f stretches", loc="left")
        for axes, names in ((data, ("x₁", "x₂")), (base, ("z₁", "z₂")), (stretch, ("x₁", "x₂"))):
            axes.set_xlabel(names[0])
            axes.set_ylabel(names[1])
            axes.set_aspect("equal", adjustable="box" if axes is base else "datalim")
        return figure


def run(quick: bool, seed: int) -> Found:
    """Train a flow on ``two_moons`` and measure both sides of the formula on held-out rows."""
    data = zoo.dataset("two_moons")
    train, held, moon = data.tensor[::2], data.tensor[1::2], torch.as_tensor(data.labels)[1::2]
    model = zoo.build("flow", train, seed=seed)
    experiments.fit(model, "exact", train, steps=200 if quick else 700, seed=seed)
    held, moon = (held[:200], moon[:200]) if quick else (held, moon)
    with torch.no_grad():
        log_density, z = model.log_evidence(held), model.normalise(held)
        inverse_error = float((model.generate(z) - held).abs().max())
        formula = standard_normal(z) + torch.linalg.slogdet(vmap(jacrev(model.normalise))(held)).logabsdet
        wide = [torch.linspace(float(c.min()) - 2, float(c.max()) + 2, 151 if quick else 301).to(held) for c in held.T]
        cell = float(torch.stack([axis[1] - axis[0] for axis in wide]).prod())
        mass = float(model.log_evidence(torch.cartesian_prod(*wide)).exp().sum()) * cell
        axes = [torch.linspace(float(c.min()) - 0.3, float(c.max()) + 0.3, 101).to(held) for c in held.T]
        points = torch.cartesian_prod(*axes)
        grid = model.log_evidence(points)
        log_det = grid - standard_normal(model.normalise(points))
        normal = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
        gain = log_density - normal.log_prob(held)
    return Found(
        held, moon, z, axes[0], axes[1], grid.reshape(101, 101), log_det.reshape(101, 101),
        float((log_density - formula).abs().max()), inverse_error, mass, float(gain.mean()),
        float(gain.std()) / len(held) ** 0.5, float(z.square().sum(1).mean()))


def standard_normal(z: Tensor) -> Tensor:
    """Return log N(z; 0, I) of rows."""
    density: Tensor = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return density
