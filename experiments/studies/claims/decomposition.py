"""log p(x) = E_q[log p(x | z)] − KL(q ‖ p(z)) + KL(q ‖ p(z | x)): reconstruction − regulariser = ELBO, and the gap on top.

Write log p(x, z) = log p(x | z) + log p(z) in the ELBO: reconstruction asks q to explain x, the regulariser to stay near the
prior. What training sees is their difference; what it does not see is the last term, by which the ELBO may rise while log p
does not, and the other way round.

Measured along one fit of a VAE with one latent on the digits, for held-out images at every checkpoint, each term in a way of
its own: reconstruction from the guide's draws; KL(q ‖ prior) of two normals, in closed form; KL(q ‖ posterior) by numerical
integration over the latent; and log p(x) between stochastic bounds, from the guide's draws and from posterior draws. The sum
of the three must lie between the bounds.

Source: Kingma and Welling (2014), Auto-encoding variational Bayes, eqs 2 and 3, https://arxiv.org/abs/1312.6114; Hoffman and
Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import experiments
import guides
import zoo
from experiments.reporting.figures import COLOURS
from experiments.studies.study import ERRORS, Check, Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Checkpoints(experiments.Callback):
    """Copies of a model and its guide at given steps."""

    def __init__(self, steps: Sequence[int]):
        self.steps, self.kept = steps, list[tuple[int, zoo.Model, guides.BaseGuide]]()

    def on_step(self, now: experiments.Moment) -> None:
        if now.step in self.steps:
            model, guide = copy.deepcopy((now.model, now.guide))  # together: the guide holds its model
            self.kept.append((now.step, model.eval(), guide.eval()))


@dataclass(frozen=True)
class Found(Findings):
    """By checkpoint, in nats per image: the three terms, the standard error of their sum, and the bounds on log p(x).

    ``at`` (points,) and ``log_q``, ``log_posterior`` (checkpoints, points) are of the image shown.
    """

    steps: Tensor
    reconstruction: Tensor
    kl_prior: Tensor
    kl_posterior: Tensor
    se: Tensor
    lower: Tensor
    upper: Tensor
    at: Tensor
    log_q: Tensor
    log_posterior: Tensor

    @property
    def elbo(self) -> Tensor:
        return self.reconstruction - self.kl_prior

    def checks(self) -> Sequence[Check]:
        total = self.elbo + self.kl_posterior
        outside = torch.maximum(self.lower - total, total - self.upper) - ERRORS * self.se
        return (
            Check.at_most("farthest that reconstruction − KL(q‖prior) + KL(q‖posterior) lies outside the bounds on log p(x), "
                          "nats per image", max(0.0, float(outside.max())), 0.0),
            Check.at_most("widest bounds on log p(x), nats per image", float((self.upper - self.lower).max()), 0.1),
            Check.above("rise of the ELBO from first to last checkpoint, nats per image",
                        float(self.elbo[-1] - self.elbo[0]), 0.0, float(self.se[[0, -1]].norm())),
            Check.at_least("smallest KL(q‖posterior), nats per image", float(self.kl_posterior.min()), 0.0),
        )

    def draw(self) -> Figure:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(11.5, 5.0), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(2, 1))
        self._terms(left.subplots())
        middle = len(self.steps) // 2
        for axes, i in zip(right.subplots(3, 1, sharex=True), (0, middle, len(self.steps) - 1), strict=True):
            self._densities(axes, i)
        axes.set_xlabel("z")
        return figure

    def _terms(self, axes: Axes) -> None:
        total = self.elbo + self.kl_posterior
        axes.fill_between(self.steps, self.elbo, self.reconstruction, color=COLOURS[4], alpha=0.35, linewidth=0)
        axes.fill_between(self.steps, self.elbo, total, color=COLOURS[0], alpha=0.35, linewidth=0)
        axes.plot(self.steps, self.reconstruction, color=COLOURS[4], linewidth=1.8)
        axes.plot(self.steps, self.elbo, "o-", color=COLOURS[0], linewidth=1.8, markersize=4)
        axes.errorbar(self.steps, 0.5 * (self.lower + self.upper), 0.5 * (self.upper - self.lower), fmt="none", color="black",
                      capsize=5, linewidth=1.6)
        names = (("reconstruction", self.reconstruction, COLOURS[4], "bottom"), ("ELBO", self.elbo, COLOURS[0], "top"),
                 ("log p(x), bounds", total, "black", "bottom"))
        for name, values, colour, side in names:
            axes.annotate(name, (float(self.steps[-1]), float(values[-1])), (6, 0), textcoords="offset points", color=colour,
                          va=side, fontsize=10, annotation_clip=False)
        last = len(self.steps) - 1
        for low, high, name in ((self.elbo, self.reconstruction, "KL(q‖prior)"), (self.elbo, total, "KL(q‖posterior)")):
            i, side = (last - 1, "center") if name == "KL(q‖prior)" else (0, "left")
            axes.text(float(self.steps[i]), float(0.5 * (low[i] + high[i])), f" {name}", ha=side, va="center", fontsize=9)
        axes.set_xscale("log")
        axes.set(xlabel="training step", ylabel="nats per held-out image")
        axes.set_title("the terms close to log p(x) at every checkpoint", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)

    def _densities(self, axes: Axes, i: int) -> None:
        axes.fill_between(self.at, self.log_posterior[i].exp(), color="0.75", linewidth=0, label="p(z | x)")
        axes.plot(self.at, self.log_q[i].exp(), color=COLOURS[0], linewidth=1.6, label="q(z | x)")
        axes.set_title(f"step {int(self.steps[i])}: one image", loc="left", fontsize=10)
        axes.set_yticks(())
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlim(-4.2, 4.2)
        if not i:
            axes.legend(frameon=False, fontsize=9)


def run(quick: bool, seed: int) -> Found:
    """Fit a VAE of one latent to ``digits``, and take the terms apart at checkpoints of the fit."""
    x = zoo.dataset("digits", "images", binarise="threshold").tensor
    count = 24 if quick else 64
    held, train = x[:count], x[count:]
    model = zoo.build("vae", train, latent=1, hidden=(32,), seed=seed)
    steps = (5, 30, 150) if quick else (5, 15, 50, 150, 400, 1200)
    kept = Checkpoints(steps)
    experiments.fit(model, "mean_field:encoder", train, steps=steps[-1], seed=seed, callbacks=[kept])
    rows, densities = [], []
    for _, then, guide in kept.kept:
        terms, density = measure(then, guide, held, seed)
        rows.append(terms)
        densities.append(density)
    reconstruction, kl_prior, kl_posterior, se, lower, upper = torch.tensor(rows, dtype=torch.double).T
    at, log_q, log_posterior = (torch.stack(part) for part in zip(*densities, strict=True))
    return Found(
        torch.tensor(steps), reconstruction, kl_prior, kl_posterior, se, lower, upper, at[0][::10], log_q[:, ::10],
        log_posterior[:, ::10])


def measure(model: zoo.Model, guide: guides.BaseGuide, x: Tensor, seed: int) -> tuple[list[float], tuple[Tensor, ...]]:
    """Return the terms and bounds in nats per image, and the densities of the first image on the grid."""
    weights = experiments.log_weights(model, guide, x, 1000, seed)
    reconstruction = weights.reconstruction()
    at = torch.linspace(-8, 8, 4001).to(x)
    with torch.no_grad():
        q: Any = guide.posterior(x)
        kl_prior = kl_divergence(q.base_dist, Normal(0.0, 1.0)).sum()
        grid = at[:, None, None].expand(-1, len(x), 1)
        log_joint, log_q = model.log_joint(x, grid), q.log_prob(grid)
        step = at[1] - at[0]
        log_posterior = log_joint - log_joint.logsumexp(0) - step.log()
        kl_posterior = (log_q.exp() * (log_q - log_posterior)).sum() * step
        with zoo.seeded(seed + 1):
            drawn = torch.distributions.Categorical(logits=log_posterior.T).sample((4,))
            exact = at[drawn] + step * (torch.rand(drawn.shape).to(x) - 0.5)
    bounds = experiments.bracket(model, guide, x, exact[..., None], seed=seed + 2)
    terms = [
        reconstruction.value, float(kl_prior), float(kl_posterior), reconstruction.se, bounds.lower_limit, bounds.upper_limit]
    return [term / len(x) for term in terms], (at, log_q[:, 0], log_posterior[:, 0])
