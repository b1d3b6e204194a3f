"""How many draws a fit on held noise takes: to begin with, for natural steps, and to judge the held ones by."""

from __future__ import annotations

from experiments.inference.fixed_draws.elbo import FixedDrawsELBO
from experiments.runtime.memory import affordable, work
from experiments.samplers.quasi_random import power_of_two

#: Draws that are held, at least: of one unit, and of each of many.
FEWEST = (64, 16)
#: Fresh draws that tell the optimism of few held ones, at least.
FRESH = 128


def draws_at_start(held: FixedDrawsELBO, draws: int | None) -> int:
    """Return how many draws to begin with: as asked, else few, but more where small data affords them."""
    if draws is not None:
        return draws + draws % 2  # antithetic: they come in pairs
    latents = held.model.latents(held.x)
    if latents.units > 1:
        return power_of_two(max(FEWEST[True], 4 * held.size))
    return power_of_two(max(FEWEST[False], 4 * held.size, min(512, 2**13 // work(held.x, 1, latents.size))))


def draws_of_natural_steps(held: FixedDrawsELBO, number: int) -> int:
    """Return how many draws natural steps go by, by far the most of the way: few, but ``number`` where that costs no more."""
    many = held.latents.units > 1
    few = power_of_two(max(FEWEST[many], 2 * held.size))
    return number if _cheap(held, number) else min(few, number)


def _cheap(held: FixedDrawsELBO, number: int) -> bool:
    """Return whether so many draws of one unit cost no more than the calls that it takes to evaluate them."""
    return held.latents.units == 1 and number * work(held.x, 1, held.latents.size) < 2**14


def draws_that_judge(held: FixedDrawsELBO, number: int) -> int:
    """Return how many fresh draws tell the optimism of ``number`` held ones.

    One unit's weights may have a long tail, which few draws miss and φ then ignores: more where small data affords them.
    """
    latents = held.latents
    more = min(2048, 2**16 // work(held.x, 1, latents.size)) if latents.units == 1 else 0
    return max(number, FRESH, power_of_two(affordable(held.model, max(1, more), FRESH)))
