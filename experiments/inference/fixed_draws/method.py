"""Deterministic variational inference: the noise is held fixed, and the ELBO becomes an ordinary function of φ."""

from __future__ import annotations

from dataclasses import replace

import torch

from experiments.fits.callbacks import Watch
from experiments.fits.result import Outcome
from experiments.inference.engine import trainable
from experiments.inference.fixed_draws.count import Count
from experiments.inference.fixed_draws.discrete import maximise_sum
from experiments.inference.fixed_draws.doubling import TOLERANCE, climb_doubling
from experiments.inference.fixed_draws.draws import FEWEST, draws_at_start, draws_that_judge
from experiments.inference.fixed_draws.elbo import FixedDrawsELBO
from experiments.inference.method import Method, Problem
from experiments.inference.options import FixedDrawsOptions
from guides.families.family import NormalBase
from guides.guide import BaseGuide, Guide
from zoo.program.sites.latents import Latents
from zoo.program.vectorise import LinAlgError

#: Coordinates of one unit beyond which the method is only used where it is asked for.
LARGE = 1024


class FixedDraws(Method[FixedDrawsOptions]):
    """The ELBO on fixed noise, maximised by L-BFGS; the number of draws is doubled until the ELBO on fresh noise agrees.

    With few fixed draws the optimum overfits them. To first order, the ELBO on the fixed draws lies above the best ELBO by as
    much as φ's own ELBO lies below it. So φ falls short of the best ELBO by half of the difference between the ELBO on the
    fixed draws and the ELBO on fresh draws. The number of draws is doubled until φ falls short by less than :data:`TOLERANCE`
    nats per unit; each climb begins at the φ of the last one. If a program is proved to have a linear predictor, see
    :mod:`zoo.structure.linear_predictor`, the likelihood takes no draws, and natural-gradient steps alone reach the optimum.
    Guides over discrete latents are summed exactly, without any doubling.
    """

    name = "fixed_draws"

    def suits(self, guide: BaseGuide, latents: Latents | None) -> bool:
        # As many draws as it takes twice the coordinates, and each has all of them: of very many coordinates svi takes fewer.
        small = latents is None or latents.units > 1 or latents.size <= LARGE
        return isinstance(guide, Guide) and guide.own_phi and _deterministic(guide) and small

    def misfit(self, problem: Problem) -> str:
        guide = problem.guide
        if not isinstance(guide, Guide):
            return f"expected a guide with parameters for method fixed_draws; got '{guide.text}'; use method em"
        if not _deterministic(guide):
            return f"expected a family with a normal base for method fixed_draws; got '{guide.text}'; use method svi"
        return ""

    def run(self, problem: Problem, options: FixedDrawsOptions, watch: Watch) -> Outcome:
        model, guide, x = problem.model, problem.guide, problem.x
        assert isinstance(guide, Guide), "a misfit otherwise"
        parameters = trainable(model, guide, problem.train_model)
        count = Count(watch, sum(p.numel() for p in parameters))
        # What was evaluated before it was cut off is on the tape: the fit repeats its steps from there, without evaluating.
        watch.resume(count.load, drawing=False)
        if not isinstance(guide.family, NormalBase):
            return maximise_sum(model, guide, x, parameters, options.limit, count)
        held = FixedDrawsELBO(model, guide, guide.family, x, parameters, problem.seed, count)
        try:
            done = climb_doubling(held, options.limit, options.draws)
            if done.converged or done.stopped:
                return done
            if done.steps < options.limit:
                return _in_double(held, done, options)
            return _too_coarse(held, done)
        except LinAlgError as error:  # steps to where it fails are shortened, but draws that judge them are others
            if not count.taken:
                raise
            return Outcome(count.taken, count.value, False, (
                f"not converged: linear algebra fails at draws of the fitted guide ({str(error).splitlines()[0]}); "
                "use method svi, or a program that can be evaluated at all of them"))

    def at_once(self, problem: Problem, options: FixedDrawsOptions) -> float:
        """As many draws as it takes at least."""
        return FEWEST[problem.latents.units > 1] * problem.work


def _deterministic(guide: Guide) -> bool:
    """Return whether the ELBO of a guide is a function of φ alone once noise is held: by a normal base, or by a sum."""
    return isinstance(guide.family, NormalBase) or guide.family.finite_support


def _in_double(held: FixedDrawsELBO, done: Outcome, options: FixedDrawsOptions) -> Outcome:
    """Go on in float64 where no step was seen to raise the ELBO, though its slope promises more; say so where that fails."""
    wide = held.parameters[0].dtype == torch.float64
    double = None if wide else held.doubled()
    if double is None:
        numbers = "float64" if wide else "float32, and the program does not run in float64"
        return replace(done, stopped=(
            f"not converged: no step is seen to raise the ELBO, whose slope promises more, in {numbers}; use method svi"))
    again = climb_doubling(double, options.limit - done.steps, options.draws)
    judge = double.noise(draws_that_judge(double, draws_at_start(double, options.draws)), 1)
    best = double.value(judge)
    for rounded, exact in zip(held.parameters, double.parameters, strict=True):
        rounded.data.copy_(exact.data)
        exact.data.copy_(rounded.data)
    kept = double.value(judge)
    again = replace(again, bound=kept, steps=done.steps + again.steps)
    if again.converged and best - kept > TOLERANCE * held.latents.units:
        return replace(again, converged=False, stopped=(
            f"not converged: parameters in float32 can't hold the best, {best - kept:.2g} nats higher; "
            "pass the data in float64"))
    return again


def _too_coarse(held: FixedDrawsELBO, done: Outcome) -> Outcome:
    """Say that more steps would not help where numbers of this type round the ELBO by more than the tolerance."""
    kind = held.parameters[0].dtype
    rounded = torch.finfo(kind).eps * abs(done.bound)
    if kind == torch.float64 or not rounded > TOLERANCE * held.latents.units:
        return done
    return replace(done, stopped=(
        f"not converged: {done.steps:,} steps in float32, which rounds an ELBO of {done.bound:.4g} by {rounded:.2g} nats; "
        "raise --steps, or pass the data in float64"))
