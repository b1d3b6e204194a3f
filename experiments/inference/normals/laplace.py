"""Laplace's approximation: a normal at the mode of log p(x, z), whose precision is the curvature there."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from experiments.fits.callbacks import Watch
from experiments.fits.result import LOG_JOINT, Outcome
from experiments.inference.engine import check_start, normal_misfit, put_normals, trainable
from experiments.inference.method import Method, Problem
from experiments.inference.options import Options
from experiments.optimisers.lbfgs import Convergence, ascend
from experiments.optimisers.newton import derivatives

#: Nats per unit by which 20 iterations raise log p(x, z) at a mode, at most.
TOLERANCE = 1e-6


class Laplace(Method[Options]):
    """q(z) = N(z | ẑ, (−∇² log p(x, ẑ))⁻¹), ẑ the mode that L-BFGS climbs to from the guide's own start.

    L-BFGS maximises log p(x, z) in the unconstrained coordinates, not the ELBO. A guide that is fitted by ``fixed_draws`` has a
    higher ELBO, and ``evaluate`` gives the difference. Units are independent, so each unit has its own mode and curvature.

    Source: Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities,
    https://doi.org/10.1080/01621459.1986.10478240

    >>> import experiments, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> done = experiments.fit(zoo.build("eight_schools", x), "full_rank", x, method="laplace")
    >>> done.converged, done.objective
    (True, 'log p(x, z)')
    """

    name = "laplace"
    climbs = False

    def misfit(self, problem: Problem) -> str:
        return normal_misfit(problem, self.name)

    def bound(self, problem: Problem, options: Options) -> str:
        return LOG_JOINT

    def run(self, problem: Problem, options: Options, watch: Watch) -> Outcome:
        guide, model, x = problem.guide, problem.model, problem.x
        trainable(model, guide, False)  # raises where there is nothing to move
        check_start(model, guide, x)
        z = nn.Parameter(guide.posterior(x).mean.detach().clone())
        steps = 0

        def report(value: float, norm: float) -> None:  # keeps no checkpoint: a run that is cut off begins anew
            nonlocal steps
            steps += 1
            watch.step(steps, value, gradient_norm=norm)

        convergence = Convergence(TOLERANCE * problem.latents.units)
        done = ascend(lambda: model.log_joint(x, z[None]).sum(), [z], options.limit, report, convergence)
        if not done.converged:
            return Outcome(steps, done.value, False)
        factor, failed = torch.linalg.cholesky_ex(-derivatives(partial(model.log_joint, x), z)[2])
        if bool(failed.any()) or not bool(factor.isfinite().all()):
            return Outcome(steps, done.value, False, _no_peak(failed))
        covariance = torch.cholesky_inverse(factor)
        put_normals(guide, z.detach(), torch.linalg.cholesky(covariance))
        return Outcome(steps, done.value, True)


def _no_peak(failed: Tensor) -> str:
    """Say that no normal fits where the ascents ended: at the first of the units (units,) whose factor ``failed``."""
    unit = int((failed != 0).nonzero()[0]) if bool(failed.any()) else 0
    where = "" if len(failed) == 1 else f" of unit {unit}"
    return (
        f"not converged: log p(x, z) has no peak where its ascent{where} ended, so no normal fits it; "
        "use method fixed_draws")
