"""p(z | x) = p(x, z) / p(x): Bayes' rule in closed form finds what long Markov chains find.

For a mixture, z is one of K values and Bayes' rule is a sum,

    p(z = k | x) = π_k N(x | μ_k, Σ_k) / Σ_j π_j N(x | μ_j, Σ_j).

For PPCA, z and x are jointly normal and Bayes' rule is linear algebra: p(z | x) = N(M⁻¹ Wᵀ (x − μ) / σ², M⁻¹) with
M = I + Wᵀ W / σ². A Metropolis chain needs neither: it asks the Pyro program for log p(x, z) alone, never for p(x).

Measured on iris, for every row at once: split R̂ and effective sample size of four chains a row; their means against the exact
ones in Monte-Carlo standard errors; and ArviZ's Wasserstein distance between chains and exact draws, against the same
distance between two sets of exact draws.

Source: Metropolis et al. (1953), https://doi.org/10.1063/1.1699114; Vehtari et al. (2021), Rank-normalization, folding, and
localization: an improved R̂, https://arxiv.org/abs/1903.08008; Tipping and Bishop (1999), https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import experiments
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHAINS = 4


@dataclass(frozen=True)
class Found(Findings):
    """For mixture and PPCA: R̂ and ESS of the chains, and how far their means lie from the exact ones.

    ``responsibilities`` and ``frequencies`` are (rows, K), with ``frequency_errors``; ``loc`` and ``covariance`` the exact
    posterior of the row shown, ``chain`` states of its chains (n, 2). ``distances`` are of chains and exact draws, a value for
    each repeat, ``distances_exact`` those of exact draws and exact draws.
    """

    responsibilities: Tensor
    frequencies: Tensor
    frequency_errors: Tensor
    loc: Tensor
    covariance: Tensor
    chain: Tensor
    rhat: dict[str, float]
    ess: dict[str, float]
    z_scores: dict[str, Tensor]
    distances: Tensor
    distances_exact: Tensor

    def checks(self) -> Sequence[Check]:
        found = []
        for name in ("mixture", "ppca"):
            z = self.z_scores[name]
            found += [
                Check.at_most(f"{name}: largest split R̂ of {CHAINS} chains", self.rhat[name], 1.01),
                Check.at_least(f"{name}: smallest effective sample size", self.ess[name], 400.0),
                Check.near(
                    f"{name}: mean square of {len(z)} errors of chain means, in standard errors", float(z.square().mean()), 1.0,
                    se=(2 / len(z)) ** 0.5)]
        mean, spread = self.distances_exact.mean(), self.distances_exact.std()
        off = float((self.distances.mean() - mean) / spread)
        found.append(Check.at_most(
            "ppca: Wasserstein distance of chains to exact draws, less that of exact draws to exact draws, in its spreads",
            off, 0.0, se=(1 / len(self.distances) + 1 / len(self.distances_exact)) ** 0.5))
        return found

    def draw(self) -> Figure:
        figure, (mixture, ppca, distance) = panels_of(12.0, 4.0, 3)
        for k in range(self.responsibilities.shape[1]):
            mixture.errorbar(
                self.responsibilities[:, k], self.frequencies[:, k], 2 * self.frequency_errors[:, k], fmt=".",
                color=COLOURS[k], markersize=5, elinewidth=0.8, label=f"component {k + 1}")
        mixture.plot([0, 1], [0, 1], color="0.4", linewidth=0.8, zorder=0)
        mixture.set(xlabel="p(z = k | x) by enumeration", ylabel="share of the chain's states (± 2 MCSE)")
        mixture.set_title("mixture: every row of iris", loc="left")
        mixture.legend(frameon=False)
        ppca.plot(*self.chain.T, ".", color=COLOURS[0], markersize=1.5, alpha=0.3, label="Markov chains")
        turn = torch.linspace(0, 2 * torch.pi, 200).to(self.loc)
        circle = torch.stack([turn.cos(), turn.sin()])
        for mass in (0.5, 0.95):
            radius = (-2 * torch.log(torch.tensor(1 - mass))).sqrt()
            ellipse = self.loc[:, None] + radius * (torch.linalg.cholesky(self.covariance) @ circle)
            ppca.plot(*ellipse, color=COLOURS[1], linewidth=1.6, label=f"exact, {mass:.0%} of the mass")
        ppca.set(xlabel="z₁", ylabel="z₂")
        ppca.set_title("PPCA: one row's posterior", loc="left")
        ppca.margins(y=0.22)
        ppca.legend(frameon=False, fontsize=8, loc="upper left", markerscale=4, ncols=2)
        both = torch.cat([self.distances, self.distances_exact])
        bins = torch.linspace(float(both.min()), float(both.max()), 16).tolist()
        distance.hist(self.distances_exact, bins, color="0.7", density=True, label="exact against exact")
        distance.hist(self.distances, bins, color=COLOURS[0], density=True, histtype="step", linewidth=2,
                      label="chains against exact")
        distance.set(xlabel="Wasserstein distance of 300 draws to 300", ylabel="density")
        distance.set_title("PPCA: no farther than chance", loc="left")
        distance.legend(frameon=False, fontsize=8)
        return figure


def run(quick: bool, seed: int) -> Found:
    """Run Metropolis chains for every row of iris under a mixture and PPCA, and hold them against the exact posteriors."""
    x = zoo.dataset("iris").tensor[:: 3 if quick else 1]
    steps = 3000 if quick else 6000
    mixture = zoo.build("gmm", x, components=3, covariance="tied", seed=seed)
    experiments.fit(mixture, "exact", x, steps=20)
    with zoo.seeded(seed), torch.no_grad():
        probs = mixture.posterior(x).probs  # type: ignore[attr-defined]
        start = torch.randint(3, (CHAINS, len(x), 1)).to(x)
        states = metropolis(mixture, x, start, lambda z: (z + torch.randint_like(z, 1, 3)) % 3, steps)
    shares = torch.nn.functional.one_hot(states[..., 0].long(), 3).to(x)
    unsure = (probs > 0.02) & (probs < 0.98)  # of the others, most chains never see the other value
    mixture_stats = diagnose(shares[:, :, unsure])

    ppca = zoo.build("ppca", x, latent=2, seed=seed)
    with zoo.seeded(seed + 1), torch.no_grad():
        posterior: Any = ppca.posterior(x)
        scale = 1.7 * posterior.variance.sqrt()
        start = posterior.loc + 3 * posterior.variance.sqrt() * torch.randn(CHAINS, len(x), 2).to(x)  # widely spread
        chains = metropolis(ppca, x, start, lambda z: z + scale * torch.randn_like(z), steps)
    ppca_stats = diagnose(chains.flatten(2))
    with zoo.seeded(seed + 2):
        exact = posterior.sample((8000,))
    repeats = 8 if quick else 40
    return Found(
        probs, shares.mean((0, 1)), place(unsure, mixture_stats["mcse"]), posterior.loc[0],
        posterior.covariance_matrix[0], chains[:, :: max(1, steps // 500), 0].flatten(0, 1),
        {"mixture": float(mixture_stats["rhat"].max()), "ppca": float(ppca_stats["rhat"].max())},
        {"mixture": float(mixture_stats["ess"].min()), "ppca": float(ppca_stats["ess"].min())},
        {"mixture": (mixture_stats["mean"] - probs[unsure]) / mixture_stats["mcse"],
         "ppca": (ppca_stats["mean"] - posterior.loc.flatten()) / ppca_stats["mcse"]},
        distances(chains[:, :, 0].flatten(0, 1), exact[:, 0], repeats, seed),
        distances(exact[::2, 0], exact[1::2, 0], repeats, seed + 1))


def metropolis(
    model: zoo.Model, x: Tensor, z: Tensor, propose: Callable[[Tensor], Tensor], steps: int,
) -> Tensor:
    """Run a Metropolis chain of each unit from z (chains, units, d), by a symmetric proposal: (chains, steps, units, d).

    The first third is left out.
    """
    height, states = model.log_joint(x, z), []
    for step in range(steps + steps // 2):
        other = propose(z)
        there = model.log_joint(x, other)
        accept = torch.rand_like(height).log() < there - height
        z, height = torch.where(accept[..., None], other, z), torch.where(accept, there, height)
        if step >= steps // 2:
            states.append(z)
    return torch.stack(states, 1)


def diagnose(draws: Tensor) -> dict[str, Tensor]:
    """Return ArviZ's R̂, ESS and MCSE of the mean of draws (chains, steps, n), and their mean, each (n,)."""
    import arviz_base as azb
    import arviz_stats as azs

    tree = azb.from_dict({"posterior": {"z": draws.numpy()}})
    stats = {"rhat": azs.rhat(tree), "ess": azs.ess(tree), "mcse": azs.mcse(tree)}
    found = {name: torch.as_tensor(value["z"].values) for name, value in stats.items()}
    return {**found, "mean": draws.mean((0, 1))}


def place(mask: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` where ``mask`` is, and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


def distances(first: Tensor, second: Tensor, repeats: int, seed: int) -> Tensor:
    """Return ArviZ's Wasserstein distance between random subsets of 300 of two sets of draws (n, 2), ``repeats`` times."""
    import arviz_base as azb
    import arviz_stats as azs

    found = []
    with zoo.seeded(seed + 3):
        for i in range(repeats):
            one = first[torch.randperm(len(first))[:300]]
            rest = second[torch.randperm(len(second))[:300]]
            a, b = (azb.from_dict({"posterior": {"z": part[None].numpy()}}) for part in (one, rest))
            found.append(float(azs.wasserstein(a, b, joint=False, num_samples=300, round_to="none", random_seed=i)))
    return torch.tensor(found)
