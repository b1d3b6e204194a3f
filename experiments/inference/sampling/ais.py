"""Annealed importance sampling as a method: paths from a fitted guide to the posterior."""

from __future__ import annotations

import math

from experiments.fits.callbacks import Watch
from experiments.fits.result import Outcome
from experiments.inference.method import Problem
from experiments.inference.options import AISOptions
from experiments.inference.sampling.method import SamplingMethod
from experiments.inference.sampling.weighted import Weighted
from experiments.log_evidence.pareto import KHAT
from experiments.runtime.memory import PILOT, affordable, within
from experiments.samplers.annealing import Endpoints, pilot

#: Temperatures of the first paths, and chains at least.
FIRST, FEWEST = 32, 128
#: Paths are long enough where the effective sample size is this share of them, in every unit.
EVEN = 0.5


class AIS(SamplingMethod[AISOptions]):
    """Ends of annealed paths from the source guide to the joint, resampled in proportion to their weights.

    Kernels adapt on pilot chains that are thrown away. A step is a round of paths; each has twice the temperatures of the one
    before, until the effective sample size is half of the paths in every unit, and k̂ at most 0.7. The lower bound is the log of
    the mean weight.

    Source: Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008

    >>> import experiments, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> done = experiments.fit(zoo.build("eight_schools", x), "draws(mean_field)", x, method="ais", annealed=256)
    >>> done.converged, done.guide.values.shape
    (True, torch.Size([256, 1, 10]))
    """

    name = "ais"

    def bound(self, problem: Problem, options: AISOptions) -> str:
        return "annealed bound"

    def run(self, problem: Problem, options: AISOptions, watch: Watch) -> Outcome:
        guide = self.drawn(problem)
        chains = affordable(problem.model, within(PILOT, problem.work, FEWEST, options.annealed), FEWEST)
        path, _ = pilot(Endpoints.of(problem.model, guide.source, problem.x), FIRST)
        for step in range(1, options.limit + 1):
            found = Weighted(*path.weighted(chains))
            watch.step(step, found.total)
            heavy = float(found.khat.nan_to_num(nan=-math.inf).max())
            if enough := float(found.ess.min()) >= EVEN * chains and heavy <= KHAT:
                break
            path = path.refined(FIRST * 2**step)
        found.put(guide)
        even, temperatures = float(found.ess.min()), FIRST * 2 ** (step - 1)
        stopped = "" if enough else (
            f"not converged: effective sample size {even:.0f} of {chains} paths, k̂ {heavy:.2f}, at {temperatures:,} "
            "temperatures; raise steps or begin from a richer guide")
        return Outcome(step, found.total, enough, stopped)
