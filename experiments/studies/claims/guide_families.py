"""KL(q ‖ posterior) = approximation, what the family cannot express, + amortisation, what its encoder has not learned.

A family {q(z; φ)} has a best member for each unit, whose gap is the approximation gap. An encoder x → φ answers all units from
one network, and the ELBO that its answers lack of the best members' is the amortisation gap.

Measured on three models of two latents, whose posteriors are a straight ridge, a bent one, and two modes, by quadrature:
z ~ N(0, I), and x = z₁ + z₂, x = z₂ + z₁², or x = (z₁², z₂), each with normal noise. Four families, each free and with an
encoder, for 24 rows. On the ridge the posterior is normal and the best independent normals are known: their gap is
½ log(Λ₁₁ Λ₂₂ / det Λ) of its precision Λ.

A normal on one of two equal modes that lie far apart has a gap of log 2, and k̂ above 0.7 says that its draws reach mass that
matters too seldom.

Source: Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders, https://arxiv.org/abs/1801.03558;
Yao et al. (2018), Yes, but did it work?, https://arxiv.org/abs/1802.02538; Turner and Sahani (2011), Two problems with
variational expectation maximisation for time-series models, https://doi.org/10.1017/CBO9780511984679.006
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import experiments
import zoo
from experiments.reporting.figures import COLOURS
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = ("mean_field", "full_rank", "mixture(2)", "flow")
#: Which family must beat which, and on what.
BETTER = (("ridge", "full_rank", "mean_field"), ("banana", "flow", "full_rank"), ("two modes", "mixture(2)", "full_rank"))
NOISE = {"ridge": 0.3, "banana": 0.3, "two modes": 0.3}
MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "ridge": lambda z: z.sum(-1, keepdim=True),
    "banana": lambda z: (z[..., 1] + z[..., 0].square())[..., None],
    "two modes": lambda z: torch.stack([z[..., 0].square(), z[..., 1]], -1),
}


def program(name: str) -> Any:
    """Return the Pyro program of a posterior's shape."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(MEANS[name](z), NOISE[name]).to_event(1), obs=x)

    model.__name__ = name.replace(" ", "_")
    return model


@dataclass(frozen=True)
class Target:
    """The rows whose posteriors are approximated: with their model, log p(x) of each, the one shown, and the figure's grid."""

    model: zoo.Model
    x: Tensor
    evidence: experiments.Evidence
    shown: int
    grid: Tensor


@dataclass(frozen=True)
class Family:
    """One family on one posterior: gaps in nats per unit with their standard errors, k̂ and density of the unit shown."""

    approximation: float
    approximation_se: float
    amortisation: float
    amortisation_se: float
    khat: float
    gap_shown: float
    log_q: Tensor


@dataclass(frozen=True)
class Found(Findings):
    """By shape: the true posterior of one unit on a grid (points, points), and every family."""

    at: Tensor
    log_posterior: dict[str, Tensor]
    families: dict[str, dict[str, Family]]
    ridge_gap: float

    def checks(self) -> Sequence[Check]:
        def gap(shape: str, family: str) -> tuple[float, float]:
            found = self.families[shape][family]
            return found.approximation, found.approximation_se

        independent, full = gap("ridge", "mean_field"), gap("ridge", "full_rank")
        found = [
            Check.near("ridge, mean_field: approximation gap against ½ log(Λ₁₁Λ₂₂/det Λ), nats per unit", independent[0],
                       self.ridge_gap, 2e-3, independent[1]),
            Check.near("ridge, full_rank: approximation gap, nats per unit", full[0], 0.0, 2e-3, full[1])]
        for shape, better, worse in BETTER:
            (low, low_se), (high, high_se) = gap(shape, better), gap(shape, worse)
            found.append(Check.above(
                f"{shape}: approximation gap of {worse} − of {better}, nats per unit", high - low, 0.0,
                math.hypot(low_se, high_se)))
        lowest = min(f.amortisation + 4 * f.amortisation_se for shape in self.families.values() for f in shape.values())
        found.append(Check.at_least("smallest amortisation gap, nats per unit, with its 4 standard errors", lowest, 0.0))
        return found

    def draw(self) -> Figure:
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(
            3, 5, figsize=(14, 7.6), layout="constrained", gridspec_kw={"width_ratios": [1, 1, 1, 1, 1.25]})
        for row, (shape, families) in zip(panels, self.families.items(), strict=True):
            for axes, (name, family) in zip(row, families.items(), strict=False):
                self._overlay(axes, self.log_posterior[shape], family)
                axes.set_title(name if shape == "ridge" else "")
            row[0].set_ylabel(shape, fontsize=12)
            _bars(row[-1], families)
        panels[-1, 1].set_xlabel("one row's posterior (blue), and the free q of each family (50% and 95% of its mass)", x=1.0)
        panels[-1, -1].set_xlabel("gap (nats per unit)")
        panels[0, -1].legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, 1.28), ncols=2)
        return figure

    def _overlay(self, axes: Axes, log_posterior: Tensor, family: Family) -> None:
        density = log_posterior.exp()
        axes.contourf(self.at, self.at, density.T, levels=float(density.max()) * torch.linspace(0.03, 1, 10), cmap="Blues")
        levels = _mass_levels(family.log_q.exp(), (0.95, 0.5))
        axes.contour(self.at, self.at, family.log_q.exp().T, levels=levels, colors=COLOURS[1], linewidths=[0.9, 1.5])
        said = f"gap {max(0.0, family.gap_shown):.2f} nats, $\\hat{{k}}$ = {family.khat:.1f}"
        axes.text(0.03, 0.03, said, transform=axes.transAxes, fontsize=8)
        axes.set(xlim=(-3, 3), ylim=(-3.0, 2.4), xticks=(), yticks=())


def _bars(axes: Axes, families: dict[str, Family]) -> None:
    at = range(len(families))[::-1]
    approximation = [max(0.0, f.approximation) for f in families.values()]
    amortisation = [f.amortisation for f in families.values()]
    axes.barh(at, approximation, color=COLOURS[0], height=0.6, label="approximation")
    axes.barh(at, amortisation, left=approximation, color=COLOURS[4], height=0.6, label="amortisation")
    for i, a, b in zip(at, approximation, amortisation, strict=True):
        axes.text(a + b, i, f" {a:.2f} + {b:.2f}", va="center", fontsize=8)
    axes.set_yticks(at, list(families))
    axes.set_xlim(0, 1.5 * max(a + b for a, b in zip(approximation, amortisation, strict=True)))
    axes.spines[["top", "right"]].set_visible(False)


def _mass_levels(surface: Tensor, masses: Sequence[float]) -> list[float]:
    """Return the heights whose upper level sets hold ``masses`` of what a surface holds."""
    order = surface.flatten().sort(descending=True).values
    share = order.cumsum(0) / order.sum()
    return [float(order[int((share < mass).sum().clamp(max=len(order) - 1))]) for mass in masses]


def run(quick: bool, seed: int) -> Found:
    """Fit four families, free and with an encoder, to three shapes of posterior."""
    rows, steps = (6, 120) if quick else (24, 500)
    at = torch.linspace(-3.6, 3.6, 61 if quick else 91, dtype=torch.double)
    log_posterior, families = {}, {}
    for shape in MEANS:
        model = zoo.as_model(program(shape))
        x: Any = model.simulate(torch.zeros(rows, 2 if shape == "two modes" else 1, dtype=torch.double), seed=seed)[1]
        shown = int((x[:, 0] - 1.0).abs().argmin())
        found = quadrature(model, x)
        grid = torch.cartesian_prod(at, at)[:, None]
        with torch.no_grad():
            log_joint = model.log_joint(x[shown : shown + 1], grid)[:, 0]
        log_posterior[shape] = (log_joint - found.units[shown]).reshape(len(at), len(at))
        target = Target(model, x, found, shown, grid)
        families[shape] = {name: measure(target, name, steps, seed) for name in FAMILIES}
    precision = torch.eye(2) + torch.ones(2, 2) / NOISE["ridge"] ** 2
    ridge_gap = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    return Found(at, log_posterior, families, ridge_gap)


def quadrature(model: zoo.Model, x: Tensor) -> experiments.Evidence:
    """Return log p(x) of each row by the trapezoidal rule on one fine grid; its error: what every second node would change."""
    axis = torch.linspace(-6, 6, 601).to(x)
    values = []
    with torch.no_grad():
        for stride in (1, 2):
            part = axis[::stride]
            grid = torch.cartesian_prod(part, part)[:, None]
            step = float(part[1] - part[0])
            values.append(torch.cat([model.log_joint(row, grid).logsumexp(0) for row in x.split(1)]) + 2 * math.log(step))
    total, error = float(values[0].sum()), float((values[0] - values[1]).abs().sum()) + 1e-9
    return experiments.Evidence("quadrature", total, 0.0, total - error, total + error, values[0])


def measure(target: Target, name: str, steps: int, seed: int) -> Family:
    """Fit a family's encoder, then its best free members from the encoder's answers, and split the gap."""
    model, x, found, shown = target.model, target.x, target.evidence, target.shown
    encoder = experiments.fit(model, f"{name}:encoder", x, steps=steps, seed=seed)
    free = experiments.fit(model, experiments.free_member(encoder.guide, x), x, steps=steps, seed=seed)
    weights = [experiments.log_weights(model, done.guide, x, 2000, seed + 1) for done in (encoder, free)]
    gap = experiments.split(weights[0], weights[1], found)
    best = weights[1]
    khat = best.khat()
    assert khat is not None, "continuous guides are drawn from"
    with torch.no_grad():
        log_q = free.guide.posterior(x[shown : shown + 1], torch.tensor([shown])).log_prob(target.grid)[:, 0]
    side, units = math.isqrt(len(target.grid)), len(x)
    return Family(
        gap.approximation.middle / units, gap.approximation.se / units, gap.amortisation.middle / units,
        gap.amortisation.se / units, float(khat[shown]), float((found.units - best.elbo().units)[shown]),
        log_q.reshape(side, side))
