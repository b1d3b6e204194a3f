"""Guides of discrete latents: their ELBO is an exact sum, and no noise is held."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from experiments.fits.result import Outcome
from experiments.inference.engine import check_start
from experiments.inference.fixed_draws.count import Count
from experiments.inference.svi.objectives import enumerated_terms
from experiments.optimisers.lbfgs import ascend
from guides.amortisation import Free
from guides.guide import BaseGuide, Guide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.model import Model


def maximise_sum(
    model: Model, guide: Guide, x: Data, parameters: Sequence[nn.Parameter], steps: int, count: Count,
) -> Outcome:
    """Maximise the exact sum. A free family that can solve for φ does so first, and again after each ascent.

    For free logits that is a natural-gradient step of length one (Amari 1998,
    https://doi.org/10.1162/089976698300017746). Plain gradients vanish where a softmax saturates: without the step a
    unit that overshoots into a wrong corner stays there.
    """
    own = {id(p) for p in guide.parameters()}
    value, taken, converged = -math.inf, 0, False
    while taken < steps:
        solved = _solve(model, guide, x)
        if solved:
            start = float(_enumerated(model, guide, x, count).detach())
            taken += 1
            if not math.isfinite(start):
                check_start(model, guide, x)
            count(start)
            if all(id(p) in own for p in parameters) or start - value < 1e-9 * abs(start):
                return Outcome(taken, start, True)
        else:
            check_start(model, guide, x)
        done = ascend(lambda: _enumerated(model, guide, x, count), parameters, steps - taken, count, tape=count.tape)
        value, taken, converged = done.value, taken + done.iterations, done.converged
        if not solved:
            break
    return Outcome(taken, value, converged)


def _enumerated(model: Model, guide: BaseGuide, x: Data, count: Count) -> Tensor:
    q = guide.posterior(x)
    assert isinstance(q, Enumerated), "only a finite support can be summed"
    return count.terms(*enumerated_terms(model, q, x))


def _solve(model: Model, guide: Guide, x: Data) -> bool:
    """Set a free guide's φ to its family's closed-form maximum; return whether there is one."""
    if not isinstance(guide.amortisation, Free):
        return False
    with torch.no_grad():
        q = guide.posterior(x)
        solution = guide.family.solve(model.log_joint(x, q.enumerate_support()))
        for name, value in (solution or {}).items():
            # Logits of values that are impossible stay finite, so that gradients do.
            guide.amortisation.phi[name].copy_(value.clamp(min=-1e4))
    return solution is not None
