"""max over q and θ of one ELBO: EM, stochastic gradients and fixed draws climb the same function with other q and other steps.

All of them climb

    ELBO(q, θ) = log p(x | θ) − KL(q ‖ p(z | x, θ)) ≤ max log p(x | θ).

EM sets q to the posterior and θ to its maximiser, by turns. SVI takes noisy gradient steps in θ and φ together. Fixed draws
hold the noise, and then climb a plain function. The q decides where they end: where it may be the posterior (exact; free
categorical or full-rank) the ELBO reaches max log p(x | θ); where it may not (an encoder, mean-field), the ELBO stays below by
the gap, and θ is that of the best ELBO, whose log p(x | θ) is a little lower.

Measured on one mixture and one PPCA from one poor start each: ELBO and log p(x | θ) against steps and seconds.

Source: Neal and Hinton (1998), https://doi.org/10.1007/978-94-011-5014-9_12; Hoffman et al. (2013), Stochastic variational
inference, https://arxiv.org/abs/1206.7051; Cremer, Li and Duvenaud (2018), https://arxiv.org/abs/1801.03558
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import experiments
import zoo
from experiments.reporting.figures import COLOURS, LINES, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What climbs: a name, guide, method, steps, and whether q can be the posterior.
CLIMBERS: dict[str, Sequence[tuple[str, str, str, int, bool]]] = {
    "gmm": (
        ("EM", "exact", "em", 300, True), ("SVI, exact q", "exact", "svi", 300, True),
        ("fixed draws, free q", "categorical", "fixed_draws", 300, True),
        ("SVI, encoder", "categorical:encoder", "svi", 600, False)),
    "ppca": (
        ("EM", "exact", "em", 1000, True), ("SVI, exact q", "exact", "svi", 300, True),
        ("fixed draws, full-rank q", "full_rank", "fixed_draws", 600, True),
        ("SVI, mean-field q", "mean_field", "svi", 800, False),
        ("SVI, full-rank encoder", "full_rank:encoder", "svi", 800, False)),
}


class Path(experiments.Callback):
    """Where a fit has been: (step, seconds, ELBO, log p(x | θ)), thinned, in nats."""

    def __init__(self, every: int):
        self.every, self.rows = every, list[tuple[float, ...]]()

    def on_step(self, now: experiments.Moment) -> None:
        if now.step <= 20 or now.step % self.every == 0:
            self.rows.append((now.step, now.seconds, now.elbo or 0.0, log_p(now.model, now.x)))


@dataclass(frozen=True)
class Climb:
    """One fit: its path (n, 4), where its ELBO ended with the standard error, and log p(x | θ) there; nats per unit."""

    exact: bool
    path: Tensor
    elbo: float
    elbo_se: float
    log_p: float


@dataclass(frozen=True)
class Found(Findings):
    """The climbs of each model by name, and the highest log p(x | θ) that is known, in nats per unit."""

    climbs: dict[str, dict[str, Climb]]
    maximum: dict[str, float]

    def checks(self) -> Sequence[Check]:
        found = []
        for model, climbs in self.climbs.items():
            top = self.maximum[model]
            for name, climb in climbs.items():
                what = f"{model}, {name}:"
                if climb.exact:
                    found.append(Check.near(f"{what} ELBO at the end, nats per row", climb.elbo, top, 0.01, climb.elbo_se))
                    continue
                found += [
                    Check.above(f"{what} gap log p(x | θ) − ELBO, nats per row", climb.log_p - climb.elbo, 0.0, climb.elbo_se),
                    Check.near(f"{what} log p(x | θ) at the end, nats per row", climb.log_p, top, 0.05),
                    Check.at_most(f"{what} log p(x | θ) above the maximum, nats per row", climb.log_p - top, 1e-6)]
        return found

    def draw(self) -> Figure:
        figure, panels = panels_of(12.5, 7.6, 2, 2)
        for row, (model, climbs) in zip(panels, self.climbs.items(), strict=True):
            low = min(float(climb.path[0, 3]) for climb in climbs.values())
            for column, axes in enumerate(row):
                for colour, line, (name, climb) in zip(COLOURS, LINES * 2, climbs.items(), strict=False):
                    _curve(axes, climb, column, self.maximum[model], colour, line, name)
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.set_ylim(1e-4, 3 * (self.maximum[model] - low))
                axes.invert_yaxis()
                axes.set_xlabel(("steps", "seconds")[column])
            row[0].set_ylabel("distance (nats per row)")
            row[0].set_title(f"{model}: distance of the ELBO (lines) and of log p(x | θ) (dots) from the maximum", loc="left")
            row[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


def _curve(axes: Axes, climb: Climb, column: int, top: float, colour: str, line: str, name: str) -> None:
    """Draw what a climb lacks of the maximum, its noisy ELBOs averaged over neighbours."""
    at, elbo, evidence = climb.path[:, column], climb.path[:, 2], climb.path[:, 3]
    width = 1 if "EM" in name or "fixed" in name else max(1, len(at) // 40)
    smooth = elbo.unfold(0, width, 1).mean(1) if len(elbo) >= width else elbo
    axes.plot(at[width - 1:], (top - smooth).clamp(min=1e-5), color=colour, linestyle=line, linewidth=1.6, label=name)
    axes.plot(at[::3], (top - evidence[::3]).clamp(min=1e-5), ".", color=colour, markersize=3)


def run(quick: bool, seed: int) -> Found:
    """Climb from the same start by every way in :data:`CLIMBERS`."""
    climbs: dict[str, dict[str, Climb]] = {}
    maximum = {}
    for name, ways in CLIMBERS.items():
        x, start = starts(name, seed)
        climbs[name] = {}
        for what, guide, method, steps, exact in ways:
            path = Path(every=10 if method == "svi" else 1)
            rate: dict[str, Any] = {"learning_rate": 0.05, "batch_size": len(x)} if method == "svi" else {}
            done = experiments.fit(
                copy.deepcopy(start), guide, x, method=method, steps=steps // 2 if quick and not exact else steps,
                seed=seed, callbacks=[path], **rate)
            elbo = experiments.log_weights(done.model, done.guide, x, 200 if quick else 1000, seed + 1).elbo()
            scaled = torch.tensor(path.rows, dtype=torch.double) / torch.tensor([1, 1, len(x), len(x)])
            climbs[name][what] = Climb(
                exact, scaled, elbo.value / len(x), elbo.se / len(x), log_p(done.model, x) / len(x))
        maximum[name] = max(climb.log_p for climb in climbs[name].values())
    return Found(climbs, maximum)


def starts(name: str, seed: int) -> tuple[Tensor, zoo.Model]:
    """Return data and a model at a poor start, the same for all climbers."""
    if name == "ppca":
        x = zoo.dataset("wine", standardise=True).tensor
        return x, zoo.build("ppca", x, latent=3, start="random", seed=seed)
    x = zoo.dataset("faithful", standardise=True).tensor
    model: Any = zoo.build("gmm", x, seed=seed)
    with torch.no_grad():
        model.means.copy_(torch.tensor([[-0.35, -0.35], [0.35, 0.35]]).to(x))
        model.scale = torch.eye(2).to(x).expand(2, -1, -1).clone()
    return x, model


def log_p(model: zoo.Model, x: Any) -> float:
    """Return log p(x | θ), in nats, summed over units."""
    with torch.no_grad():
        return float(model.log_evidence(x).sum())
