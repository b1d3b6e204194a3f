"""A flow is a composition x = z_K ← … ← z_1 ← z_0, and log-determinants add up over its layers.

With z_{k−1} = f_k(z_k), z_K = x and z_0 ~ N(0, I), the chain rule gives

    log p(x) = log N(z_0; 0, I) + Σ_k log |det ∂z_{k−1}/∂z_k|.

Each layer can do little; the composition can do much: the held-out log-likelihood rises with the number of layers, until
there is nothing left to bend.

Measured on five bent arms: the layers' log-determinants against autograd's Jacobian of the whole; held-out log p(x) of
flows of 0 to 6 coupling layers, paired by row. The flow of no layers is the standardisation alone, a normal density.

Source: Rezende and Mohamed (2015), Variational inference with normalizing flows, §3.1, https://arxiv.org/abs/1505.05770
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
from experiments.reporting.figures import COLOURS
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Found(Findings):
    """States z_0 … z_K (K + 1, n, 2) of held-out rows, the layers' log-determinants (K, n), and log p(x) by layers.

    ``log_likelihood`` (flows, n) are held-out rows under flows of ``layers``.
    """

    arm: Tensor
    states: Tensor
    log_dets: Tensor
    total_error: float
    layers: Sequence[int]
    log_likelihood: Tensor

    def gain(self, i: int, j: int) -> tuple[float, float]:
        """Return the mean rise of held-out log p(x) from flow ``i`` to flow ``j``, and its paired standard error."""
        rise = self.log_likelihood[j] - self.log_likelihood[i]
        return float(rise.mean()), float(rise.std()) / len(rise) ** 0.5

    def checks(self) -> Sequence[Check]:
        first, last = self.gain(0, 1), self.gain(1, -1)
        return (
            Check.at_most("largest |Σ_k log|det J_k| − log|det autograd's Jacobian||, nats", self.total_error, 1e-9),
            Check.above("held-out log p(x), 1 layer − none, nats per row", first[0], 0.0, se=first[1]),
            Check.above(f"held-out log p(x), {self.layers[-1]} layers − 1, nats per row", last[0], 0.0, se=last[1]),
        )

    def draw(self) -> Figure:
        import matplotlib.pyplot as plt

        steps = len(self.states)
        figure = plt.figure(figsize=(2.0 * steps, 5.4), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.4))
        for column, axes in enumerate(top.subplots(1, steps)):
            k = steps - 1 - column
            for i in range(int(self.arm.max()) + 1):
                axes.plot(*self.states[k][self.arm == i].T, ".", color=COLOURS[i], markersize=1.8)
            axes.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
            axes.set_title({steps - 1: f"x = $z_{k}$", 0: "$z_0$, near N(0, I)"}.get(k, f"$z_{k}$"))
            axes.tick_params(labelleft=column == 0)
        log_dets, likelihood = bottom.subplots(1, 2)
        self._log_dets(log_dets)
        self._likelihood(likelihood)
        for axes in (log_dets, likelihood):
            axes.spines[["top", "right"]].set_visible(False)
        return figure

    def _log_dets(self, axes: Axes) -> None:
        """The layers' mean log-determinants, one on the other, in the order in which x meets them."""
        means = self.log_dets.mean(1).flip(0)
        ends = means.cumsum(0)
        for i, (mean, end) in enumerate(zip(means.tolist(), ends.tolist(), strict=True)):
            axes.bar(i, mean, bottom=end - mean, color=COLOURS[0] if mean > 0 else COLOURS[4], width=0.6)
            axes.text(i, max(end, end - mean), f"{mean:+.2f}", ha="center", va="bottom", fontsize=9)
        axes.bar(len(means), float(ends[-1]), color="0.4", width=0.6)
        axes.text(len(means), float(ends[-1].clamp(min=0)), f"{float(ends[-1]):+.2f}", ha="center", va="bottom", fontsize=9)
        axes.axhline(0, color="0.3", linewidth=0.8)
        top = len(means)
        names = [f"$z_{top - i}$→$z_{top - 1 - i}$" for i in range(top)]
        axes.set_xticks(range(top + 1), [*names, "whole flow"])
        axes.margins(y=0.12)
        axes.set_ylabel("mean log|det J| (nats per row)")
        axes.set_title("each layer's share adds up to the whole", loc="left")

    def _likelihood(self, axes: Axes) -> None:
        mean, error = self.log_likelihood.mean(1), self.log_likelihood.std(1) / len(self.arm) ** 0.5
        axes.fill_between(self.layers, mean - 2 * error, mean + 2 * error, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(self.layers, mean, "o-", color=COLOURS[0])
        axes.set_xticks(self.layers)
        axes.set_xlabel("coupling layers")
        axes.set_ylabel("held-out log p(x) (nats per row)")
        axes.set_title("more layers bend further (band: ± 2 standard errors)", loc="left")


def run(quick: bool, seed: int) -> Found:
    """Train flows of a growing number of coupling layers on ``pinwheel``; follow held-out rows through the longest."""
    data = zoo.dataset("pinwheel")
    train, held, arm = data.tensor[::2], data.tensor[1::2], torch.as_tensor(data.labels)[1::2]
    layers = (0, 1, 4) if quick else (0, 1, 2, 4, 6)
    normal = torch.distributions.MultivariateNormal(train.mean(0), torch.diag(train.var(0)))
    values = [normal.log_prob(held)]
    for count in layers[1:]:
        flow = zoo.build("flow", train, kind="realnvp", layers=count, seed=seed)
        experiments.fit(flow, "exact", train, steps=150 if quick else 500, seed=seed)
        with torch.no_grad():
            values.append(flow.log_evidence(held))
        if count == 4:
            shown = flow
    with torch.no_grad():
        composition = shown.composition(held)
        whole = torch.linalg.slogdet(vmap(jacrev(shown.normalise))(held)).logabsdet
        states, log_dets = torch.stack(composition.states), torch.stack(composition.log_abs_dets)
    return Found(
        arm, states, log_dets, float((log_dets.sum(0) - whole).abs().max()), layers, torch.stack(values))
