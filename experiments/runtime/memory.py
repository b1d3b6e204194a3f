"""The budgets of all that evaluates densities: how many numbers it may touch at once, so that memory holds them, and in all.

A number takes four or eight bytes. Seconds are no budget: the same fit would do other work on another machine.
"""

from __future__ import annotations

from zoo.data import Data, tensors
from zoo.model import Model

# At once.

#: Densities and their gradients, of some of many units. Beyond, memory is asked of the system and given back at every
#: operation; measured, 300 posteriors of a decoder network took 2.5 to 3 times as long in one piece.
PART = 2**19
#: Densities and their gradients, of one unit: the numbers of its largest site. More do not stay in the cache, fewer are gone
#: before threads have shared them.
CACHED = 2**20
#: Densities alone.
CHUNK = 2**23

# In all.

#: A look at rounding, covariances that are kept, draws that are saved.
GLANCE = 2**22
#: A pilot's draws, a comparison of two states, the gradients of a start.
PILOT = 2**24
#: A quadrature: nodes × units × parameters. Beyond it, as with networks, a bracket is quicker.
QUADRATURE = 2**28
#: The densities of one step at each temperature of a bracket's ladder.
BRACKET = 2**29
#: The held draws of one step of a fit; of many units, whose draws are all made together, a sixteenth.
FIT = 2**30
#: All climbs from restarts.
CLIMBS = 2**31

#: The least that an evaluation may come to, whatever the fits took.
EVALUATION = 2**33

#: Of a program that does not run under vmap, one draw in so many is taken.
FEWER = 32


def within(budget: int, each: int, least: int = 1, most: int | None = None) -> int:
    """Return how many draws, of ``each`` so many numbers, a budget allows: from ``least`` to ``most``.

    >>> within(PILOT, 2**20), within(PILOT, 2**30), within(PILOT, 0, most=64)
    (16, 1, 64)
    """
    number = budget // max(1, each)
    return max(least, number if most is None else min(most, number))


def affordable(model: Model, number: int, least: int) -> int:
    """Return how many draws or chains to take where ``number`` are right for a program that runs under vmap.

    Of one that is run draw by draw, which takes milliseconds each, a :data:`FEWER`-th, and ``least`` at least.
    """
    return number if model.runner.draws.vectorised else min(number, max(least, number // FEWER))


def work(x: Data, units: int, size: int) -> int:
    """Return about how many numbers one draw's density touches."""
    return max(units * size, sum(value.numel() for value in tensors(x).values()))


def chunks(draws: int, each: int) -> list[int]:
    """Split ``draws`` so that no part touches more than :data:`CHUNK` numbers.

    >>> chunks(10, 2**21)
    [4, 4, 2]
    """
    most = within(CHUNK, each)
    return [most] * (draws // most) + ([draws % most] if draws % most else [])
