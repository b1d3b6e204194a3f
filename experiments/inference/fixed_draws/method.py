"""Deterministic variational inference: the noise is held fixed, and the ELBO becomes an ordinary function of φ."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from experiments.fits.callbacks import Watch
from experiments.fits.journal import State
from experiments.fits.result import Outcome
from experiments.inference.engine import check_start, trainable
from experiments.inference.fixed_draws.elbo import FixedDrawsELBO
from experiments.inference.method import Method, Problem
from experiments.inference.options import FixedDrawsOptions
from experiments.inference.svi.objectives import enumerated_terms
from experiments.optimisers.lbfgs import Tape, ascend
from experiments.runtime.memory import affordable, work
from experiments.samplers.quasi_random import power_of_two
from guides.amortisation import Free
from guides.families.family import NormalBase
from guides.guide import BaseGuide, Guide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooWarning
from zoo.model import Model
from zoo.program.latents import Latents
from zoo.program.vectorise import LinAlgError

#: When an ascent has settled: nats per unit that so many iterations must raise the ELBO by. Rough while draws may still be
#: doubled; then fine, for one unit and for many, whose hardest one holds up all the others.
ROUGH, FINE = (1e-3, 5), ((1e-6, 20), (1e-7, 10))
#: A climb has also settled where it rises by less than this share of the held draws' optimism: of one unit, and of many.
SETTLED = (0.02, 1e-3)
#: Nats per unit that φ may fall short of the best by.
TOLERANCE = 0.01
#: Draws that are held, at least: of one unit, and of each of many.
FEWEST = (64, 16)
#: Fresh draws that tell the optimism of few held ones, at least.
FRESH = 128


class FixedDraws(Method[FixedDrawsOptions]):
    """The ELBO on held noise, maximised by L-BFGS; the draws are doubled, warm, until fresh noise agrees.

    With few held draws the optimum overfits them. To first order the objective stands as far above the best ELBO as φ's own
    ELBO lies below it, so φ falls short by half of what it loses on fresh noise: draws are doubled until that is under
    :data:`TOLERANCE` nats per unit. Where a program is proved to have a linear predictor, see
    :mod:`zoo.structure.linear_predictor`, the likelihood takes no draws at all, and natural steps go all of the way. Discrete
    guides are summed exactly: no doubling.
    """

    name = "fixed_draws"

    def suits(self, guide: BaseGuide, latents: Latents | None) -> bool:
        return isinstance(guide, Guide) and isinstance(guide.amortisation, Free) and _deterministic(guide)

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
        count = _Count(watch, sum(p.numel() for p in parameters))
        # What was evaluated before it was cut off is on the tape: the fit repeats its steps from there, without evaluating.
        watch.resume(count.load, drawing=False)
        if not isinstance(guide.family, NormalBase):
            return _discrete(model, guide, x, parameters, options.limit, count)
        held = FixedDrawsELBO(model, guide, guide.family, x, parameters, problem.seed, count)
        try:
            done = _doubling(held, options.limit, options.draws)
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
    again = _doubling(double, options.limit - done.steps, options.draws)
    judge = double.noise(_draws_that_judge(double, _draws_at_start(double, options.draws)), 1)
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


@dataclass
class _Count:
    """Counts the iterations of all ascents of a fit, tells the watch of each, and keeps the tape of their evaluations."""

    watch: Watch
    size: int
    taken: int = 0
    value: float = -math.inf
    reconstruction: float | None = None
    kl: float | None = None
    tape: Tape | None = None

    def __post_init__(self) -> None:
        self.tape = Tape() if self.watch.saved else None

    def __call__(self, value: float, gradient_norm: float | None = None) -> None:
        self.taken, self.value = self.taken + 1, value
        self.watch.step(
            self.taken, value, self.snapshot, gradient_norm=gradient_norm, reconstruction=self.reconstruction, kl=self.kl)

    def terms(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        """Return the ELBO, and remember what it is made of."""
        self.reconstruction, self.kl = torch.stack([reconstruction.detach(), kl.detach()]).tolist()
        return reconstruction - kl

    def snapshot(self) -> State:
        assert self.tape is not None, "only a watch that keeps checkpoints asks"
        answers = self.tape.answers
        return State({
            "answers": torch.from_numpy(np.concatenate([np.empty(0), *answers])),
            "lengths": torch.tensor([len(answer) for answer in answers], dtype=torch.long)}, {})

    def load(self, state: State) -> None:
        lengths = state.tensors["lengths"].tolist()
        answers = [part.numpy() for part in state.tensors["answers"].double().split(lengths)] if lengths else []
        self.tape = Tape(answers, size=sum(answer.nbytes for answer in answers))


def _discrete(
    model: Model, guide: Guide, x: Data, parameters: list[nn.Parameter], steps: int, count: _Count,
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


def _enumerated(model: Model, guide: BaseGuide, x: Data, count: _Count) -> Tensor:
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


def _doubling(held: FixedDrawsELBO, steps: int, draws: int | None) -> Outcome:
    latents, size = held.latents, held.size
    number, most = _draws_at_start(held, draws), held.parts.most_draws
    enough = 2 * TOLERANCE * latents.units  # of optimism: twice what φ falls short by
    taken, value = _naturally(held, number, steps)
    if value is not None:
        return Outcome(taken, value, True)
    for attempt in range(12):
        noise, other = held.noise(number, 2 * attempt), partial(held.noise, _draws_that_judge(held, number), 2 * attempt + 1)
        done, fresh = held.climb(noise, other, steps - taken, ROUGH)
        taken += done.iterations
        if done.value - fresh <= enough and taken < steps:
            done, fresh = held.climb(noise, other, steps - taken, _fine(latents.units, done.value - fresh))
            taken += done.iterations
        if done.value - fresh <= enough or draws is not None or taken >= steps or 2 * number > max(most, 2 * size):
            break
        # Optimism falls as one over the draws: as many as that asks for, up to eight times.
        wanted = power_of_two(math.ceil(number * min(8.0, max(2.0, (done.value - fresh) / enough))))
        number = min(wanted, max(2 * number, 2 ** int(math.log2(max(most, 2 * size)))))
    optimism = done.value - fresh
    # Noise may hide a small optimism, but not excuse one that can't be told: half a nat per unit is the most.
    agrees = optimism <= enough or optimism <= min(enough + 2 * held.noise_error(other()), 0.5 * latents.units)
    # What a number of this size is rounded by is no optimism; and more draws may yet come where the steps were cut off.
    if not agrees and taken < steps and optimism > torch.finfo(held.parameters[0].dtype).eps * abs(fresh):
        warnings.warn(ZooWarning(
            f"fixed draws of '{held.guide.text}' flatter it by {optimism / latents.units:.2g} nats per unit at {number} draws; "
            "pass more draws=, or use method svi"), stacklevel=4)
        return Outcome(taken, fresh, False, (
            f"not converged: {number} fixed draws flatter the ELBO; pass more draws=, or use method svi"))
    return Outcome(taken, fresh, done.converged and agrees)


def _naturally(held: FixedDrawsELBO, number: int, steps: int) -> tuple[int, float | None]:
    """Take natural steps, by far the most of the way; return how many, and the ELBO if they went all of it."""
    few = held.noise(_draws_of_natural_steps(held, number), 0)
    if held.exact:
        taken, value = held.climb_accelerated(few, steps, SETTLED[False] * TOLERANCE)
        fresh = held.value(held.noise(_draws_that_judge(held, number), 1))
        return taken, fresh if value is not None and abs(value - fresh) <= 2 * TOLERANCE else None
    return held.climb_naturally(few, steps), None


def _fine(units: int, optimism: float) -> tuple[float, int]:
    """Return when the last ascent has settled: a few draws overfit by far more than the last digits of a climb."""
    rise, window = FINE[units > 1]
    enough = SETTLED[units > 1] * abs(optimism) / units
    return (enough, ROUGH[1]) if enough > rise else (rise, window)


def _draws_at_start(held: FixedDrawsELBO, draws: int | None) -> int:
    """Return how many draws to begin with: as asked, else few, but more where small data affords them."""
    if draws is not None:
        return draws + draws % 2  # antithetic: they come in pairs
    latents = held.model.latents(held.x)
    if latents.units > 1:
        return power_of_two(max(FEWEST[True], 4 * held.size))
    return power_of_two(max(FEWEST[False], 4 * held.size, min(512, 2**13 // work(held.x, 1, latents.size))))


def _draws_of_natural_steps(held: FixedDrawsELBO, number: int) -> int:
    """Return how many draws natural steps go by, by far the most of the way: few, but ``number`` where that costs no more."""
    many = held.latents.units > 1
    few = power_of_two(max(FEWEST[many], 2 * held.size))
    return number if _cheap(held, number) else min(few, number)


def _cheap(held: FixedDrawsELBO, number: int) -> bool:
    """Return whether so many draws of one unit cost no more than the calls that it takes to evaluate them."""
    return held.latents.units == 1 and number * work(held.x, 1, held.latents.size) < 2**14


def _draws_that_judge(held: FixedDrawsELBO, number: int) -> int:
    """Return how many fresh draws tell the optimism of ``number`` held ones.

    One unit's weights may have a long tail, which few draws miss and φ then ignores: more where small data affords them.
    """
    latents = held.latents
    more = min(2048, 2**16 // work(held.x, 1, latents.size)) if latents.units == 1 else 0
    return max(number, FRESH, power_of_two(affordable(held.model, max(1, more), FRESH)))
