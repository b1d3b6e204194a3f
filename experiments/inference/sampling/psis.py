"""Importance-corrected draws as a method: those of a fitted guide, resampled by Pareto-smoothed weights."""

from __future__ import annotations

import torch

from experiments.fits.callbacks import Watch
from experiments.fits.result import Outcome
from experiments.inference.method import Problem
from experiments.inference.options import PSISOptions
from experiments.inference.sampling.method import SamplingMethod
from experiments.inference.sampling.weighted import Weighted
from experiments.log_evidence.log_weights import log_joint
from experiments.runtime.memory import CACHED, affordable, chunks, within
from zoo.distributions.scored import scored


class PSIS(SamplingMethod[PSISOptions]):
    """Draws of the source guide, resampled in proportion to their Pareto-smoothed importance weights.

    The lower bound is the log of the mean weight (IWAE), so that log p(x) less it is at least the divergence of one draw. It
    has converged where k̂ of every unit's weights is at most 0.7.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
    https://arxiv.org/abs/1507.02646

    >>> import experiments, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> done = experiments.fit(zoo.build("eight_schools", x), "draws(full_rank)", x, method="psis")
    >>> done.objective, done.guide.source.text
    ('importance-weighted bound', 'full_rank')
    """

    name = "psis"

    def bound(self, problem: Problem, options: PSISOptions) -> str:
        return "importance-weighted bound"

    def run(self, problem: Problem, options: PSISOptions, watch: Watch) -> Outcome:
        guide, model, x = self.drawn(problem), problem.model, problem.x
        latents = problem.latents
        draws = affordable(model, within(CACHED, latents.units * latents.size, 512, options.proposals), 256)
        parts = []
        with torch.no_grad():
            q = guide.source.posterior(x)
            for count in chunks(draws, problem.work):
                z, log_q = scored(q, count)
                parts.append((z, log_joint(model, x, z) - log_q))
        found = Weighted(*(torch.cat(part) for part in zip(*parts, strict=True)))
        found.put(guide)
        watch.step(1, found.total)
        uneven = found.uneven(f"'{guide.source.text}'")
        return Outcome(1, found.total, not uneven, f"not converged: {uneven}" if uneven else "")
