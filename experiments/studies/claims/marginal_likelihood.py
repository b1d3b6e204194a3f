"""p(x | θ) = Σ_k π_k N(x | μ_k, Σ_k): the likelihood of a latent-variable model is the joint with the latents summed out.

A mixture draws a component first, z ~ Categorical(π), then a row from it, x | z = k ~ N(μ_k, Σ_k). Nobody sees z, so the
likelihood of a row adds up over it,

    p(x | θ) = Σ_z p(z | θ) p(x | z, θ),

which for a finite z costs K terms. That is what the data are explained by, and what their simulation must obey.

Measured on Old Faithful: log p(x | θ) by enumeration of the program's latent against the formula written out; how often
simulated rows fall into each cell of a grid against the integral of p(x | θ) over the cell, as a χ² statistic; and the
share of rows drawn from each component against π.

Source: Bishop (2006), Pattern Recognition and Machine Learning, §9.2,
https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import experiments
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS, FINE = 24, 12


@dataclass(frozen=True)
class Found(Findings):
    """Rows x (n, 2), some simulated ones with their components, p(x) on a grid, and the mass of its cells twice.

    ``mass`` is the integral of p(x | θ) over each cell, ``share`` the share of ``draws`` simulated rows in it, both (cells,).
    """

    x: Tensor
    simulated: Tensor
    component: Tensor
    grid_x: Tensor
    grid_y: Tensor
    grid_density: Tensor
    formula_error: float
    weights: Tensor
    weights_share: Tensor
    draws: int
    mass: Tensor
    share: Tensor

    def checks(self) -> Sequence[Check]:
        off = float((self.weights_share - self.weights).abs().max())
        se = float((self.weights * (1 - self.weights) / self.draws).sqrt().max())
        chi2, freedom = self.chi2()
        return (
            Check.at_most("largest |log p(x) by enumeration − the formula written out|, nats", self.formula_error, 1e-10),
            Check.near("largest |share of rows from component k − π_k|", off, 0.0, se=se),
            Check.near(
                f"χ² of {freedom + 1} cells' counts over its {freedom} degrees of freedom", chi2 / freedom, 1.0,
                se=(2 / freedom) ** 0.5),
        )

    def chi2(self) -> tuple[float, int]:
        """Return the χ² statistic of counts against masses, and its degrees of freedom: cells of fewer than 20 go together."""
        expected, seen = self.mass * self.draws, self.share * self.draws
        large = expected >= 20
        rest = self.draws - expected[large].sum()
        terms = torch.cat([(seen - expected)[large].square() / expected[large],
                           ((self.draws - seen[large].sum() - rest).square() / rest)[None]])
        return float(terms.sum()), len(terms) - 1

    def draw(self) -> Figure:
        figure, (density, drawn, cells) = panels_of(12.0, 4.0, 3)
        density.contour(self.grid_x, self.grid_y, self.grid_density.T, levels=7, colors="0.3", linewidths=0.8)
        density.plot(*self.x.T, ".", color="0.6", markersize=3, zorder=0)
        density.set_title("the rows, and lines of p(x | θ)", loc="left")
        for k in range(len(self.weights)):
            drawn.plot(
                *self.simulated[self.component == k].T, ".", color=COLOURS[k], markersize=3, label=f"π = {self.weights[k]:.2f}")
        drawn.legend(frameon=False, loc="upper left", title="component", markerscale=2)
        drawn.set_title("simulated: z first, then x | z", loc="left")
        for axes in (density, drawn):
            axes.set(xlabel="eruption (min)", ylabel="waiting (min)", xlim=self.grid_x[[0, -1]].tolist(),
                     ylim=self.grid_y[[0, -1]].tolist())
        expected = self.mass * self.draws
        large = expected >= 20
        off = ((self.share - self.mass) * self.draws / expected.sqrt())[large]
        cells.axhspan(-2, 2, color="0.9", linewidth=0)
        cells.semilogx(self.mass[large], off, ".", color=COLOURS[0], markersize=4)
        cells.axhline(0, color="0.3", linewidth=0.8)
        cells.set(xlabel="mass of the cell, ∫ p(x | θ) dx", ylabel="simulated − expected count (standard errors)", ylim=(-5, 5))
        chi2, freedom = self.chi2()
        cells.set_title(f"{self.draws:,} draws: χ² / df = {chi2 / freedom:.2f}", loc="left")
        return figure


def run(quick: bool, seed: int) -> Found:
    """Fit a mixture to ``faithful`` by EM, simulate from it, and count."""
    x = zoo.dataset("faithful").tensor
    model = zoo.build("gmm", x, seed=seed)
    experiments.fit(model, "exact", x)
    draws = 20_000 if quick else 400_000
    drawn: Any
    latent, drawn = model.simulate(x.new_zeros(draws, 2), seed=seed)
    (component,) = latent.values()
    low, high = x.min(0).values - 0.4 * x.std(0), x.max(0).values + 0.4 * x.std(0)
    edges = [torch.linspace(float(a), float(b), CELLS + 1).to(x) for a, b in zip(low, high, strict=True)]
    counts = torch.histogramdd(drawn.cpu(), [edge.cpu() for edge in edges]).hist
    theta = {name: value.detach() for name, value in model.theta().items()}
    with torch.no_grad():
        mass = cell_mass(model, edges)
        axes = [torch.linspace(float(edge[0]), float(edge[-1]), 97).to(x) for edge in edges]
        density = model.log_evidence(torch.cartesian_prod(*axes)).exp().reshape(97, 97)
        error = float((model.log_evidence(x) - written_out(x, theta)).abs().max())
    share = torch.stack([(component == k).double().mean() for k in range(len(theta["weights"]))])
    return Found(
        x, drawn[:272], component[:272], axes[0], axes[1], density, error, theta["weights"], share.to(x), draws, mass.flatten(),
        (counts / draws).flatten())


def cell_mass(model: zoo.Model, edges: Sequence[Tensor]) -> Tensor:
    """Return the integral of p(x | θ) over each cell, (cells, cells), by the mean of FINE × FINE points in it."""
    fine = []
    for edge in edges:
        step = (edge[1] - edge[0]) / FINE
        fine.append(edge[0] + step * (torch.arange(CELLS * FINE).to(edge) + 0.5))
    values = model.log_evidence(torch.cartesian_prod(*fine)).exp().reshape(CELLS, FINE, CELLS, FINE).mean((1, 3))
    return values * (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])


def written_out(x: Tensor, theta: dict[str, Tensor]) -> Tensor:
    """Return log Σ_k π_k N(x | μ_k, Σ_k) by SciPy's normal densities: no line of it is the model's."""
    covariances = theta["scale"] @ theta["scale"].mT
    parts = [
        weight.log() + torch.as_tensor(multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy()))
        for weight, mean, covariance in zip(theta["weights"], theta["means"], covariances, strict=True)]
    return torch.stack(parts).logsumexp(0)
