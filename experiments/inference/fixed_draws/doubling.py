"""The doubling of held draws: climbs on more and more of them, until fresh ones agree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from experiments.fits.result import Outcome
from experiments.inference.fixed_draws.climbs import climb, take_accelerated_steps, take_natural_steps
from experiments.inference.fixed_draws.draws import draws_at_start, draws_of_natural_steps, draws_that_judge
from experiments.inference.fixed_draws.elbo import FixedDrawsELBO
from experiments.optimisers.lbfgs import Convergence
from experiments.samplers.quasi_random import power_of_two
from zoo.errors import ZooWarning

#: When an ascent has settled, in nats per unit. Rough while draws may still be doubled; then fine, for one unit and for many,
#: whose hardest one holds up all the others.
ROUGH, FINE = Convergence(1e-3, 5), (Convergence(1e-6, 20), Convergence(1e-7, 10))
#: A climb has also settled where it rises by less than this share of the held draws' optimism: of one unit, and of many.
SETTLED = (0.02, 1e-3)
#: Nats per unit that φ may fall short of the best by.
TOLERANCE = 0.01
#: Numbers of draws that are tried, at most.
ATTEMPTS = 12


def climb_doubling(held: FixedDrawsELBO, steps: int, draws: int | None) -> Outcome:
    """Climb on ``draws`` held draws, or where that is ``None`` on more and more of them, until fresh ones agree."""
    units, largest = held.latents.units, max(2 * held.size, held.parts.most_draws)
    number = draws_at_start(held, draws)
    taken, value = _naturally(held, number, steps)
    if value is not None:
        return Outcome(taken, value, True)
    found, number = _doubled(held, number, number if draws is not None else largest, steps - taken)
    taken += found.taken
    agrees = _agrees(held, found)
    # What a number of this size is rounded by is no optimism; and more draws may yet come where the steps were cut off.
    if not agrees and taken < steps and found.optimism > torch.finfo(held.parameters[0].dtype).eps * abs(found.fresh):
        warnings.warn(ZooWarning(
            f"fixed draws of '{held.guide.text}' flatter it by {found.optimism / units:.2g} nats per unit at {number} draws; "
            "pass more draws=, or use method svi"), stacklevel=4)
        return Outcome(taken, found.fresh, False, (
            f"not converged: {number} fixed draws flatter the ELBO; pass more draws=, or use method svi"))
    return Outcome(taken, found.fresh, found.converged and agrees)


def _naturally(held: FixedDrawsELBO, number: int, steps: int) -> tuple[int, float | None]:
    """Take natural steps, by far the most of the way; return how many, and the ELBO if they went all of it."""
    few = held.noise(draws_of_natural_steps(held, number), 0)
    if held.exact:
        taken, value = take_accelerated_steps(held, few, steps, SETTLED[False] * TOLERANCE)
        fresh = held.value(held.noise(draws_that_judge(held, number), 1))
        return taken, fresh if value is not None and abs(value - fresh) <= 2 * TOLERANCE else None
    return take_natural_steps(held, few, steps), None


@dataclass(frozen=True)
class _Climbed:
    """Where climbs on held draws ended.

    Attributes:
        value: the ELBO on the fixed draws.
        fresh: the ELBO at the same φ on fresh draws.
        judges: returns the noise of the fresh draws.
        taken: the iterations of all climbs together.
        converged: whether the last climb has converged.
    """

    value: float
    fresh: float
    judges: Callable[[], Tensor]
    taken: int
    converged: bool

    @property
    def optimism(self) -> float:
        """Nats by which the held draws flatter φ."""
        return self.value - self.fresh


def _doubled(held: FixedDrawsELBO, number: int, largest: int, steps: int) -> tuple[_Climbed, int]:
    """Climb on ``number`` draws, and on more, up to the ``largest`` number, while fresh ones tell of too much optimism.

    Returns where the climbs ended, and the number of draws then.
    """
    taken, enough = 0, _enough(held)
    for attempt in range(ATTEMPTS):
        found = _climb(held, number, attempt, steps - taken)
        taken += found.taken
        if found.optimism <= enough or taken >= steps or 2 * number > largest:
            break
        # Optimism falls as one over the draws: as many as that asks for, up to eight times.
        wanted = power_of_two(math.ceil(number * min(8.0, max(2.0, found.optimism / enough))))
        number = min(wanted, max(2 * number, 2 ** int(math.log2(largest))))
    return replace(found, taken=taken), number


def _climb(held: FixedDrawsELBO, number: int, attempt: int, steps: int) -> _Climbed:
    """Climb on ``number`` draws: roughly, and if fresh ones agree to the end. Each ``attempt`` has draws of its own."""
    noise, judges = held.noise(number, 2 * attempt), partial(held.noise, draws_that_judge(held, number), 2 * attempt + 1)
    done, fresh = climb(held, noise, judges, steps, ROUGH)
    taken = done.iterations
    if done.value - fresh <= _enough(held) and taken < steps:
        done, fresh = climb(held, noise, judges, steps - taken, _fine(held.latents.units, done.value - fresh))
        taken += done.iterations
    return _Climbed(done.value, fresh, judges, taken, done.converged)


def _enough(held: FixedDrawsELBO) -> float:
    """Return the nats of optimism that are let be: twice what φ may fall short by."""
    return 2 * TOLERANCE * held.latents.units


def _agrees(held: FixedDrawsELBO, found: _Climbed) -> bool:
    """Return whether fresh draws tell of no more optimism than is let be, as far as their own noise lets them tell."""
    enough, optimism = _enough(held), found.optimism
    # Noise may hide a small optimism, but not excuse one that can't be told: half a nat per unit is the most.
    return optimism <= enough or optimism <= min(enough + 2 * held.noise_error(found.judges()), 0.5 * held.latents.units)


def _fine(units: int, optimism: float) -> Convergence:
    """Return when the last ascent has settled: a few draws overfit by far more than the last digits of a climb."""
    fine, share = FINE[units > 1], SETTLED[units > 1] * abs(optimism) / units
    return Convergence(share, ROUGH.window) if share > fine.tolerance else fine
