"""The posterior of each quantity by each guide, beside the best reference at hand: means and deviations, and their errors."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.diagnostics.evaluation import Evaluation, proposal
from experiments.diagnostics.linear_response import linear_response
from experiments.inference.sampling.agreement import RHAT
from experiments.log_evidence.log_weights import log_joint
from experiments.log_evidence.pareto import smoothed
from experiments.runtime.memory import PILOT, affordable, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.posterior import posterior_draws
from guides.drawn import Drawn
from guides.families.family import Normal
from guides.guide import BaseGuide, Guide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import evaluating, seeded
from zoo.program.vectorise import LinAlgError

if TYPE_CHECKING:
    import pandas as pd

#: Draws of each guide and of the reference, and chains where these are the reference.
DRAWS, FEWEST, CHAINS = 4096, 256, 256
#: An error of a mean, in deviations, and of a deviation, as a share, that is worth a remark; and how many remarks there are.
NOTED, MOST = 0.1, 5
#: R-hat above which Markov chains are a rough reference.
ROUGH = 1.05


@dataclass(frozen=True)
class Quantity:
    """One scalar of the posterior by one guide, beside the reference.

    Attributes:
        guide: whose posterior.
        name: the site, and the place in it: ``theta[3]``.
        mean, sd: by the guide.
        reference_mean, reference_sd: by the reference.
        error: (mean − reference_mean) / reference_sd, with its standard error.
        ratio: sd / reference_sd, with its standard error.
    """

    guide: str
    name: str
    mean: float
    sd: float
    reference_mean: float
    reference_sd: float
    error: tuple[float, float]
    ratio: tuple[float, float]

    @property
    def off(self) -> float:
        """By how much the guide is wrong beyond noise: of the mean in deviations, or of the logarithm of the deviation."""
        mean = abs(self.error[0]) - 2 * self.error[1]
        spread = abs(math.log(self.ratio[0])) - 2 * self.ratio[1] / self.ratio[0] if self.ratio[0] > 0 else math.inf
        return max(mean, spread)

    @property
    def spread(self) -> bool:
        """Whether it is the deviation that is more wrong, and not the mean."""
        return self.off > abs(self.error[0]) - 2 * self.error[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the quantity as plain data."""
        return {
            "guide": self.guide, "quantity": self.name, "mean": self.mean, "sd": self.sd, "reference_mean": self.reference_mean,
            "reference_sd": self.reference_sd, "error": self.error[0], "error_se": self.error[1], "sd_ratio": self.ratio[0],
            "sd_ratio_se": self.ratio[1]}


@dataclass(frozen=True)
class Parameters:
    """All quantities by all guides, and what they are compared with.

    Attributes:
        reference: what it is, in words.
        quantities: guide by guide, in the order of the program's sites.
    """

    reference: str
    quantities: tuple[Quantity, ...]

    def worst(self, count: int = MOST) -> list[Quantity]:
        """Return the quantities that are most wrong, beyond noise and a tenth, worst first."""
        found = [each for each in self.quantities if each.off > NOTED]
        return sorted(found, key=lambda each: -each.off)[:count]

    def told(self) -> list[str]:
        """Return what is most wrong in words, a line a guide."""
        worst = self.worst()
        lines = []
        for guide in dict.fromkeys(each.guide for each in worst):
            own = [each for each in worst if each.guide == guide]
            spreads = ", ".join(f"{each.name} {each.ratio[0]:.2f}" for each in own if each.spread)
            means = ", ".join(f"{each.name} {each.error[0]:+.2f} sd" for each in own if not each.spread)
            parts = [f"sd of {spreads} times what it should be"] * bool(spreads) + [f"mean of {means} off"] * bool(means)
            lines.append(f"'{guide}': {'; '.join(parts)} (against {self.reference})")
        return lines

    @property
    def rough(self) -> str:
        """Why the reference can't judge finely: its Markov chains do not agree; empty where they do, or there are none."""
        rhat = re.search(r"R-hat ([\d.]+|inf|nan)", self.reference)
        return f"Markov chains disagree (R-hat {rhat[1]})" if rhat and not float(rhat[1]) <= ROUGH else ""

    def noted(self) -> dict[str, Any]:
        """Return the reference, and what is most wrong: in words, a line a guide, and as plain numbers, worst first."""
        worst = [each.to_dict() for each in self.worst()]
        return {"reference": self.reference, "rough": self.rough, "told": self.told(), "worst": worst}

    def to_dict(self) -> dict[str, Any]:
        """Return the reference in words, and each guide's quantities as plain numbers, ready for JSON."""
        frame = self.to_frame().replace([np.inf, -np.inf], np.nan).astype(object)
        rows = frame.where(frame.notna(), None).reset_index().to_dict("records")
        return {"reference": self.reference, "quantities": rows}

    def to_frame(self) -> pd.DataFrame:
        """Return a row a guide and quantity: errors of means in deviations of the reference, ratios of deviations."""
        import pandas as pd

        return pd.DataFrame([each.to_dict() for each in self.quantities]).set_index(["guide", "quantity"])


def parameters(
    model: Model, x: Data, guides: Sequence[BaseGuide], made: Sequence[Evaluation], seed: int, responses: bool = False,
) -> Parameters | None:
    """Compare the posteriors of all quantities by each guide with the best reference at hand.

    That is the exact posterior where it is known; chains that are compared and agree; importance-corrected draws of the guide
    of the most even weights, where it does not miss mass that matters; or the ends of other Markov chains.

    Args:
        model, x: the model and the data.
        guides: fitted, and ``made`` what was made of each.
        seed: of the draws.
        responses: whether factorised guides come a second time, with linear-response covariances.

    Returns:
        the quantities; ``None`` for discrete latents, or none at all.

    Source: Vehtari et al. (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646
    """
    latents = model.latents(x)
    if latents.discrete or not latents.size:
        return None
    draws = affordable(model, within(PILOT, work(x, latents.units, latents.size), FEWEST, DRAWS), FEWEST)
    with seeded(seed + Stream.PARAMETERS), torch.no_grad(), evaluating(model, *guides):
        told = _reference(model, x, guides, made, draws, seed)
        reference = told.moments
        found = []
        for guide in guides:
            q = guide.posterior(x)
            if isinstance(q, Enumerated):
                continue
            for text, one in {guide.text: q, **(_responses(model, guide, x, seed) if responses else {})}.items():
                own = _drawn_moments(model, x, guide) if isinstance(guide, Drawn) else _plain(model, x, one, draws)
                found += [_quantity(text, name, own[name], reference[name]) for name in own if name in reference]
    return Parameters(told.name, tuple(found))


def _responses(model: Model, guide: BaseGuide, x: Data, seed: int) -> dict[str, Distribution]:
    """Return a factorised guide's normal with linear-response covariances by its name, if it has one."""
    if not isinstance(guide, Guide) or not isinstance(guide.family, Normal) or guide.family.any_covariance:
        return {}
    with suppress(ZooError):  # of many parameters, or not at an optimum
        return {f"{guide.text}, linear response": linear_response(model, guide, x, seed)}
    return {}


@dataclass(frozen=True)
class _Moment:
    """Mean and deviation of a scalar, with standard errors."""

    mean: float
    sd: float
    mean_se: float
    sd_se: float


@dataclass(frozen=True)
class _Reference:
    """What guides are compared with: its name, and the moments of every quantity."""

    name: str
    moments: dict[str, _Moment]


def _reference(
    model: Model, x: Data, guides: Sequence[BaseGuide], made: Sequence[Evaluation], draws: int, seed: int,
) -> _Reference:
    """Return the best reference at hand."""
    with suppress(NotImplementedError):
        return _Reference("the exact posterior", _plain(model, x, model.posterior(x), draws))
    for guide in guides:
        if isinstance(guide, Drawn) and float(guide.rhat.max()) < RHAT:
            name = f"'{guide.text}', R-hat {float(guide.rhat.max()):.2f}"
            return _Reference(name, _drawn_moments(model, x, guide))
    name, z, log_weight = _weighted(model, x, guides, made, draws, seed)
    return _Reference(name, _moments(model, x, z, log_weight))


def _weighted(
    model: Model, x: Data, guides: Sequence[BaseGuide], made: Sequence[Evaluation], draws: int, seed: int,
) -> tuple[str, Tensor, Tensor]:
    """Return what the reference is, draws z (draws, units, d) and their log weights (draws, units)."""
    rated = [
        (guide, one) for guide, one in zip(guides, made, strict=True)
        if guide.density and not one.misses_mass and not one.lacks]
    if rated:
        best, _ = max(rated, key=lambda pair: pair[1].ess or math.inf)  # none: the guide is enumerated, or the posterior
        q = best.posterior(x)
        z = q.sample(torch.Size([draws]))
        return f"importance-corrected draws of '{best.text}'", z, smoothed(log_joint(model, x, z) - q.log_prob(z))
    start = proposal(next((guide for guide in guides if guide.density), guides[0]))
    chains = posterior_draws(model, start, x, chains=affordable(model, CHAINS, 16), seed=seed)
    return f"Markov chains, R-hat {float(chains.rhat.max()):.2f}", chains.z, chains.z.new_zeros(chains.z.shape[:2])


def _plain(model: Model, x: Data, q: Distribution, draws: int) -> dict[str, _Moment]:
    """Return the moments at independent draws of ``q``. Uses torch's generator."""
    z = q.sample(torch.Size([draws]))
    return _moments(model, x, z, z.new_zeros(z.shape[:2]))


def _drawn_moments(model: Model, x: Data, guide: Drawn) -> dict[str, _Moment]:
    """Return the moments at a guide's draws, with the errors of as many independent ones as they are worth."""
    found = _moments(model, x, guide.values, guide.values.new_zeros(guide.values.shape[:2]))
    wider = math.sqrt(len(guide.values) / max(1.0, min(float(guide.ess.min()), len(guide.values))))
    return {name: replace(one, mean_se=wider * one.mean_se, sd_se=wider * one.sd_se) for name, one in found.items()}


def _moments(model: Model, x: Data, z: Tensor, log_weight: Tensor) -> dict[str, _Moment]:
    """Return the moments of every real scalar by its name, at draws z (draws, units, d) of log weights (draws, units)."""
    try:
        values = model.constrain(x, z)
    except LinAlgError:  # at some draws the program fails, where the density counts as zero
        fine = (log_joint(model, x, z) > -math.inf).all(1)
        z, log_weight = z[fine], log_weight[fine]
        values = model.constrain(x, z)
    share = log_weight.softmax(0)
    found: dict[str, _Moment] = {}
    for name, value in {**values, **model.recover(x, values)}.items():
        if not value.is_floating_point():
            continue
        by_unit = share.shape[1] > 1 and value.ndim > 1 and value.shape[1] == share.shape[1]
        weight = share if by_unit else share[:, :1]
        found |= _scalars(name, value.double(), weight.double())
    return found


def _scalars(name: str, value: Tensor, share: Tensor) -> dict[str, _Moment]:
    """Return the moments of the entries of a ``value`` (draws, *shape), by weights (draws, units or 1) along its first one."""
    weight = share.view(*share.shape, *[1] * (value.ndim - 2)) if value.ndim > 1 else share[:, 0]
    mean = (weight * value).sum(0)
    square = (value - mean).square()
    variance = (weight * square).sum(0)
    sd = variance.sqrt()
    mean_se = (weight.square() * square).sum(0).sqrt()
    sd_se = (weight.square() * (square - variance).square()).sum(0).sqrt() / (2 * sd).clamp(min=1e-300)
    columns = [each.reshape(-1).tolist() for each in (mean, sd, mean_se, sd_se)]
    names = [name + (f"[{','.join(map(str, place))}]" if place else "") for place in itertools.product(
        *(range(size) for size in value.shape[1:]))]
    return {each: _Moment(*numbers) for each, numbers in zip(names, zip(*columns, strict=True), strict=True)}


def _quantity(guide: str, name: str, own: _Moment, reference: _Moment) -> Quantity:
    sd = reference.sd if reference.sd > 0 else math.nan
    error, ratio = (own.mean - reference.mean) / sd, own.sd / sd
    error_se = math.hypot(own.mean_se, reference.mean_se) / sd
    ratio_se = math.hypot(own.sd_se / sd, ratio * reference.sd_se / sd)
    return Quantity(guide, name, own.mean, own.sd, reference.mean, reference.sd, (error, error_se), (ratio, ratio_se))
