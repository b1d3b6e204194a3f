"""log (1/K) Σ_k p(x | z_k), z_k ~ p(z), needs K ≈ exp KL(posterior ‖ prior) draws. A fitted guide needs a handful.

The average is unbiased for p(x), so its log lies below log p(x) in expectation (Jensen), and what it is worth depends on how
many prior draws fall where p(z | x) is: about one in exp KL(p(z | x) ‖ p(z)). In a latent space of d dimensions the
divergence grows like d. With draws of a guide q in place of the prior's,

    log (1/K) Σ_k p(x, z_k) / q(z_k),    z_k ~ q,

the divergence that counts is KL(posterior ‖ q), which fitting q to the ELBO has made small: this is why variational
inference.

Measured on one digit under PPCA of 1 to 50 latent dimensions, where log p(x) is exact: the error of the estimate by K; the K
at which its root mean square falls below 0.1 nats, which for a small error is χ²(posterior ‖ q) / 0.01; the same for
mean-field guides. PPCA's latent space may be turned at will; it is turned at random here, so that posteriors are correlated
and mean-field is not exact.

Source: Chatterjee and Diaconis (2018), The sample size required in importance sampling, https://arxiv.org/abs/1511.01437;
Agapiou et al. (2017), Importance sampling: intrinsic dimension and computational cost, https://arxiv.org/abs/1511.06196
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import experiments
import guides
import zoo
from experiments.reporting.figures import COLOURS, panels_of
from experiments.studies.study import Check, Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Root-mean-square error, in nats, that an estimate should have at most.
ENOUGH = 0.1
#: Independent estimates that an error is averaged over, at least.
REPEATS = 32
#: Draws where more would not help, or are not needed.
FEW = 2**12


@dataclass(frozen=True)
class Found(Findings):
    """By latent dimension: divergences of the posterior, and the errors of estimates by K.

    ``naive`` and ``guided`` are (dimensions, len(draws), 4): mean error, root mean square, and its 5% and 95% quantiles, in
    nats, of estimates from ``draws`` draws of the prior and of the guide.
    """

    dimensions: Sequence[int]
    draws: Sequence[int]
    kl_prior: Tensor
    chi2_prior: Tensor
    kl_guide: Tensor
    naive: Tensor
    guided: Tensor

    def needed(self, errors: Tensor) -> list[float | None]:
        """Return, for each dimension, the K at which the root-mean-square error falls below 0.1 nats; ``None``: beyond."""
        return [_crossing(self.draws, row[:, 1].tolist()) for row in errors]

    def checks(self) -> Sequence[Check]:
        naive = [(k, math.log(n), c) for k, n, c in zip(
            self.kl_prior.tolist(), self.needed(self.naive), self.chi2_prior.tolist(), strict=True) if n is not None]
        slope, se = _slope([k for k, _, _ in naive], [n for _, n, _ in naive])
        off = [n - math.log(c / ENOUGH**2) for _, n, c in naive]
        i = list(self.dimensions).index(5)
        guided = (self.needed(self.guided)[i] or math.inf) / float(self.chi2_prior[i] / ENOUGH**2)
        hopeless = self.naive[-1, list(self.draws).index(FEW), 0]
        highest = self.naive[:, :, 0].nan_to_num(-math.inf).max()
        return (
            Check.at_most("largest mean error of naive estimates, nats: Jensen's bias is never upwards", float(highest), 0.0,
                          se=ENOUGH / REPEATS**0.5),
            Check.at_least(f"slope of log K needed against KL(posterior‖prior), {len(naive)} dimensions", slope, 1.0, se=se),
            Check.near("largest |log K needed − log(χ²(posterior‖prior) / 0.01)|", max(map(abs, off)), 0.0, within=0.7),
            Check.at_most("K needed with a mean-field guide over χ²(posterior‖prior) / 0.01, in 5 dimensions", guided, 0.05),
            Check.at_most(f"mean error of {FEW} prior draws in {self.dimensions[-1]} dimensions, nats", float(hopeless), -10.0),
        )

    def draw(self) -> Figure:
        figure, (error, needed) = panels_of(11.5, 4.4, 2)
        self._errors(error)
        self._needed(needed)
        return figure

    def _errors(self, axes: Axes) -> None:
        """Error against K, for a few dimensions."""
        shown = [i for i, d in enumerate(self.dimensions) if d in (1, 3, 6, 10, 20)]
        for colour, i in zip(COLOURS, shown, strict=False):
            mean, _, low, high = self.naive[i].T
            axes.fill_between(self.draws, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(self.draws, mean, color=colour, label=f"{self.dimensions[i]}")
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(top=2)
        axes.set(xlabel="draws K from the prior", ylabel="log p̂(x) − log p(x) (nats)")
        axes.set_title("naive Monte Carlo: mean error, and 90% of estimates", loc="left")
        axes.legend(title="latent dimensions", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    def _needed(self, axes: Axes) -> None:
        kl = self.kl_prior.tolist()
        most = math.log(1e13)
        line = torch.linspace(0, most, 50)
        axes.plot(line, line.exp(), color="0.3", linewidth=1, label="exp KL(posterior‖prior)")
        inside = [i for i, k in enumerate(kl) if k < most]
        axes.plot([kl[i] for i in inside], [float(self.chi2_prior[i]) / ENOUGH**2 for i in inside], "--", color=COLOURS[0],
                  linewidth=1.2, label="χ²(posterior‖prior) / 0.01")
        for errors, mark, colour, name in (
                (self.naive, "o", COLOURS[0], "prior, measured"), (self.guided, "s", COLOURS[1], "mean-field guide, measured")):
            points = [(k, n) for k, n in zip(kl, self.needed(errors), strict=True) if n is not None and k < most]
            axes.plot(*zip(*points, strict=True), mark, color=colour, label=name)
        self._dimension_axis(axes, most)
        axes.set_yscale("log")
        axes.set_ylim(0.4, 1e13)
        axes.set(xlabel="KL(posterior ‖ prior) of the digit (nats)", ylabel="draws for an error of 0.1 nats")
        axes.legend(frameon=False, loc="upper left")

    def _dimension_axis(self, axes: Axes, most: float) -> None:
        """Draw the latent dimensions whose divergence is below ``most`` nats on a second axis."""
        shown = [(k, str(d)) for k, d in zip(self.kl_prior.tolist(), self.dimensions, strict=True) if k < most]
        top = axes.secondary_xaxis("top")
        top.set_xticks([k for k, _ in shown], [d for _, d in shown])
        top.set_xlabel("latent dimensions")


def run(quick: bool, seed: int) -> Found:
    """Estimate log p(x) of one digit under PPCA of a growing latent dimension."""
    x = zoo.dataset("digits", dtype=torch.float32).tensor
    dimensions = (1, 2, 3, 5, 50) if quick else (1, 2, 3, 4, 5, 6, 8, 10, 20, 50)
    draws = [2**i for i in range(0, 13 if quick else 16)]
    found: dict[str, list[Any]] = {"kl_prior": [], "chi2_prior": [], "kl_guide": [], "naive": [], "guided": []}
    for d in dimensions:
        model, row = turned(x, d, seed)
        with torch.no_grad():
            posterior: Any = model.posterior(row)
            log_p = float(model.log_evidence(row))
        prior = MultivariateNormal(torch.zeros(1, d).to(x), torch.eye(d).to(x))
        found["kl_prior"].append(float(kl_divergence(posterior, prior)))
        found["chi2_prior"].append(chi2(posterior, prior))
        guide = experiments.fit(model, "mean_field", row, train_model=False, seed=seed).guide
        with torch.no_grad():
            q = guide.posterior(row).base_dist  # type: ignore[attr-defined]
            normal = MultivariateNormal(q.loc, scale_tril=torch.diag_embed(q.scale))
            found["kl_guide"].append(float(kl_divergence(posterior, normal)))
        most = draws[-1] if d <= 6 else FEW
        copies = row.expand(FEW, -1)  # copies of a row have latents of their own: draws that are made at once
        prior_guide = guides.build("prior", model, copies)
        weights = experiments.log_weights(model, prior_guide, copies, most * REPEATS // FEW, seed)
        found["naive"].append(errors(weights, log_p, draws))
        found["guided"].append(errors(experiments.log_weights(model, guide, row, FEW * REPEATS, seed), log_p, draws))
    return Found(
        dimensions, draws, torch.tensor(found["kl_prior"]), torch.tensor(found["chi2_prior"]),
        torch.tensor(found["kl_guide"]), torch.stack(found["naive"]), torch.stack(found["guided"]))


def turned(x: Tensor, d: int, seed: int) -> tuple[zoo.Model, Tensor]:
    """Return PPCA of ``d`` dimensions at its maximum, its latent space turned at random, and the row of median KL to the prior.
    """
    model = zoo.build("ppca", x, latent=d)
    with zoo.seeded(seed), torch.no_grad():
        turn = torch.linalg.qr(torch.randn(d, d).to(x)).Q
        model.loadings.copy_(model.loadings @ turn)
        prior = MultivariateNormal(torch.zeros(d).to(x), torch.eye(d).to(x))
        divergence = kl_divergence(model.posterior(x), prior)
    middle = int(divergence.argsort()[len(x) // 2])
    return model, x[middle : middle + 1]


def chi2(p: MultivariateNormal, q: MultivariateNormal) -> float:
    """Return χ²(p ‖ q) = ∫ p² / q − 1 of two normals, ∞ where the integral does not exist."""
    precision = 2 * p.precision_matrix - q.precision_matrix
    if not bool((torch.linalg.eigvalsh(precision) > 0).all()):
        return math.inf
    shift = 2 * p.precision_matrix @ p.loc[..., None] - q.precision_matrix @ q.loc[..., None]
    middle = torch.linalg.solve(precision, shift)
    height = 2 * p.log_prob(p.loc) - q.log_prob(p.loc)  # the integrand is a normal's shape: its height at p's mean …
    off = p.loc[..., None] - middle
    top = height + 0.5 * (off.mT @ precision @ off).flatten()  # … and at its own
    size = p.loc.shape[-1]
    log_integral = top + 0.5 * size * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(precision).logabsdet
    return float(torch.expm1(log_integral))


def errors(weights: experiments.LogWeights, log_p: float, draws: Sequence[int]) -> Tensor:
    """Return, by K, the mean error of estimates, its root mean square, and its 5% and 95% quantiles, (len(draws), 4).

    NaN where the draws are too few for as many estimates as an error is averaged over.
    """
    log_weight = weights.log_weight.T.flatten()
    rows = []
    for k in draws:
        if len(log_weight) < k * REPEATS:
            rows.append([torch.tensor(math.nan)] * 4)
            continue
        error = log_weight.reshape(-1, k).logsumexp(1) - math.log(k) - log_p
        rows.append([error.mean(), error.square().mean().sqrt(), error.quantile(0.05), error.quantile(0.95)])
    return torch.tensor(rows)


def _crossing(draws: Sequence[int], errors: Sequence[float]) -> float | None:
    """Return where the errors fall below ENOUGH for good, between two K on a doubly logarithmic scale."""
    errors = [error for error in errors if not math.isnan(error)]
    if errors[-1] > ENOUGH:
        return None
    above = [i for i, error in enumerate(errors) if error > ENOUGH]
    if not above:
        return float(draws[0])
    i = above[-1]
    share = math.log(errors[i] / ENOUGH) / math.log(errors[i] / errors[i + 1])
    return float(draws[i] * (draws[i + 1] / draws[i]) ** share)


def _slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the least-squares slope of y on x and its standard error."""
    a, b = torch.tensor(x), torch.tensor(y)
    a, b = a - a.mean(), b - b.mean()
    slope = float((a * b).sum() / a.square().sum())
    residual = (b - slope * a).square().sum() / max(1, len(x) - 2)
    return slope, float((residual / a.square().sum()).sqrt())
