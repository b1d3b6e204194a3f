"""EM in the space of parameters: bound, climb, bound again.

For fixed q, L(q, θ) is a function of θ that lies below log p(x | θ) everywhere. With q = p(z | x, θ_old) it touches at
θ_old, and with the same slope, since there the KL is at its minimum. So its maximiser θ_new has
log p(x | θ_new) ≥ L(q, θ_new) ≥ L(q, θ_old) = log p(x | θ_old); and there the next bound is made.

Measured in two spaces. One parameter, the place μ of the long waits among Old Faithful's, all else known: the curve, and
every bound, over the whole space. All eleven parameters of the two-dimensional mixture: the line from θ_old through θ_new, on
which the first bound's maximum must lie at θ_new.

Source: Bishop (2006), Pattern Recognition and Machine Learning, §9.4, fig. 9.14,
https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import experiments
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of the waits of either kind, in minutes: wider than the data's, so that the kinds overlap and the bounds can be told apart.
SPREAD = 11.0


class LongWaits(zoo.Model):
    """Waits are short or long; how long the long ones are, ``place``, is all of θ. Units of minutes."""

    def __init__(self, place: float):
        super().__init__()
        self.place = torch.nn.Parameter(torch.tensor(place, dtype=torch.double))

    def forward(self, x: Tensor) -> None:
        weights, spread = x.new_tensor([0.36, 0.64]), x.new_tensor([SPREAD, SPREAD])
        means = torch.stack([x.new_tensor(54.6), self.place])
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(means[z], spread[z]), obs=x)


@dataclass(frozen=True)
class Slice:
    """log p(x | θ) along ``at``, the bounds made at ``touches`` (bounds, len(at)), and each bound's maximiser; nats."""

    at: Tensor
    log_p: Tensor
    bounds: Tensor
    touches: Sequence[float]
    maxima: Sequence[float]


@dataclass(frozen=True)
class Found(Findings):
    """Both slices, and what is exact about the bounds."""

    place: Slice
    line: Slice
    touch_error: float
    slope_error: float
    line_error: float

    def checks(self) -> Sequence[Check]:
        above = max(float((s.bounds - s.log_p).max()) for s in (self.place, self.line))
        step = float(self.place.at[1] - self.place.at[0])
        peaks = self.place.at[self.place.bounds.argmax(1)]
        apart = max(abs(float(p) - m) for p, m in zip(peaks, self.place.maxima, strict=True))
        heights = torch.tensor([_value(self.place, t) for t in (*self.place.touches, self.place.maxima[-1])])
        return (
            Check.at_most("highest bound above log p(x | θ), nats", above, 1e-8),
            Check.at_most("largest |L − log p| where a bound is made, nats", self.touch_error, 1e-8),
            Check.at_most("largest |slope of L − slope of log p| there, nats per minute", self.slope_error, 1e-6),
            Check.at_most("largest |M-step − the bound's maximum on the grid|, minutes", apart, step),
            Check.at_least("smallest rise of log p from bound to bound, nats", float(heights.diff().min()), 0.0),
            Check.at_most("|maximum on the line − θ_new|, in steps from θ_old to θ_new", self.line_error, 0.011),
        )

    def draw(self) -> Figure:
        figure, (place, line) = panels_of(12.0, 4.6, 2)
        _panel(place, self.place, 3)
        place.set(xlabel="place μ of the long waits (min)", ylabel="nats, summed over rows")
        place.set_title("one parameter: three bounds, each made at the last one's top", loc="left")
        top, first = float(self.place.log_p.max()), _value(self.place, self.place.touches[0])
        place.set_ylim(first - 0.25 * (top - first), top + 0.08 * (top - first))
        place.legend(frameon=False, loc="upper left", fontsize=9)
        _panel(line, self.line, 2)
        line.set(xlabel="along the line: θ_old at 0, θ_new at 1", ylabel="nats, summed over rows")
        line.set_title("all 11 parameters: the line that one EM step takes", loc="left")
        near = self.line.log_p[(self.line.at > -0.8) & (self.line.at < 2.2)]
        line.set_ylim(float(near.min()), float(self.line.log_p.max()) + 0.08 * float(near.max() - near.min()))
        line.legend(frameon=False, loc="upper left", fontsize=9)
        return figure


def _panel(axes: Axes, found: Slice, count: int) -> None:
    axes.plot(found.at, found.log_p, color="black", linewidth=2, label="log p(x | θ)")
    for i in range(count):
        colour = COLOURS[i]
        axes.plot(found.at, found.bounds[i], color=colour, linewidth=1.4, label=f"L(q, θ), q made at θ{i}")
        axes.plot(found.touches[i], _value(found, found.touches[i]), "o", color=colour, markersize=7)
        if i < len(found.maxima):
            top = float(found.bounds[i].max())
            axes.plot(found.maxima[i], top, "^", color=colour, markersize=7)
            axes.plot([found.maxima[i]] * 2, [top, _value(found, found.maxima[i])], ":", color="0.4", linewidth=1.2)


def _value(found: Slice, place: float) -> float:
    """Return log p at a place, between the two next to it."""
    i = int((found.at > place).nonzero()[0].clamp(min=1))
    share = (place - float(found.at[i - 1])) / float(found.at[i] - found.at[i - 1])
    return float(torch.lerp(found.log_p[i - 1], found.log_p[i], share))


def run(quick: bool, seed: int) -> Found:
    """Draw both slices."""
    x = zoo.dataset("faithful").tensor
    place, touch_error, slope_error = one_parameter(x[:, 1], 101 if quick else 401)
    line, line_error = all_parameters(x, 101 if quick else 301, seed)
    return Found(place, line, touch_error, slope_error, line_error)


def one_parameter(x: Tensor, points: int) -> tuple[Slice, float, float]:
    """Take EM steps in μ from a poor start, and draw each bound over the whole space."""
    model = LongWaits(61.0)
    at = torch.linspace(50, 100, points).to(x)
    log_p = torch.stack([_log_p(LongWaits(float(m)), x) for m in at])
    bounds, touches, maxima, apart, slopes = [], [], [], [], []
    for _ in range(4):
        q = experiments.e_step(model, x)
        touches.append(float(model.place.detach()))
        bounds.append(torch.stack([experiments.elbo(LongWaits(float(m)), x, q).detach() for m in at]))
        values = experiments.elbo(model, x, q), model.log_evidence(x).sum()
        apart.append(abs(float((values[0] - values[1]).detach())))
        slope = [float(torch.autograd.grad(value, model.place)[0]) for value in values]
        slopes.append(abs(slope[0] - slope[1]))
        experiments.m_step(model, x, q, iterations=100)
        maxima.append(float(model.place.detach()))
    return Slice(at, log_p, torch.stack(bounds), touches, maxima), max(apart), max(slopes)


def all_parameters(x: Tensor, points: int, seed: int) -> tuple[Slice, float]:
    """Take one EM step of the two-dimensional mixture, and draw both bounds along the line that it takes."""
    old = widest_step(x, seed)
    new = copy.deepcopy(old)
    q_old = experiments.e_step(old, x)
    experiments.m_step(new, x, q_old)
    q_new = experiments.e_step(new, x)
    at = torch.linspace(-1.0, 3.0, points).to(x)
    log_p, first, second = [], [], []
    for share in at:
        model = _between(old, new, float(share))
        log_p.append(_log_p(model, x))
        first.append(experiments.elbo(model, x, q_old).detach())
        second.append(experiments.elbo(model, x, q_new).detach())
    bounds = torch.stack([torch.stack(first), torch.stack(second)])
    top = float(at[bounds[0].argmax()])
    return Slice(at, torch.stack(log_p), bounds, (0.0, 1.0), (top,)), abs(top - 1)


def widest_step(x: Tensor, seed: int) -> zoo.Model:
    """Return the mixture before that step of EM, from a poor start, after which the gap is widest."""
    model: Any = zoo.build("gmm", x, seed=seed)
    with torch.no_grad():
        model.means.copy_(x.mean(0) + 0.2 * x.std(0) * torch.tensor([[-1.0], [1.0]]).to(x))
        model.scale = torch.linalg.cholesky(x.T.cov()).expand(2, -1, -1).clone()
    gaps: list[float] = []
    models: list[zoo.Model] = []
    for _ in range(40):
        models.append(copy.deepcopy(model))
        q = experiments.e_step(model, x)
        experiments.m_step(model, x, q)
        gaps.append(float(_log_p(model, x) - experiments.elbo(model, x, q).detach()))
    return models[max(range(len(gaps)), key=gaps.__getitem__)]


def _between(old: zoo.Model, new: zoo.Model, share: float) -> zoo.Model:
    """Return the model on the line through two, in the unconstrained coordinates of their parameters."""
    model = copy.deepcopy(old)
    with torch.no_grad():
        for parameter, a, b in zip(model.parameters(), old.parameters(), new.parameters(), strict=True):
            parameter.copy_(torch.lerp(a, b, share))
    return model


def _log_p(model: zoo.Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.log_evidence(x).sum()
