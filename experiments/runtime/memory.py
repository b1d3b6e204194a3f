"""How much is worked on at once, and how many draws are affordable."""

from __future__ import annotations

from zoo.data import Data, tensors
from zoo.model import Model

#: Numbers held at once while a density is evaluated; more draws go in chunks.
CHUNK = 2**23
#: Of a program that does not run under vmap, one draw in so many is taken.
FEWER = 32


def affordable(model: Model, number: int, least: int) -> int:
    """Return how many draws or chains to take where ``number`` are right for a program that runs under vmap.

    Of one that is run draw by draw, which takes milliseconds each, a :data:`FEWER`-th, and ``least`` at least.
    """
    return number if model.runner.draws.vectorised else min(number, max(least, number // FEWER))


def work(x: Data, units: int, size: int) -> int:
    """Return about how many numbers one draw's density touches."""
    return max(units * size, sum(value.numel() for value in tensors(x).values()))


def chunks(draws: int, each: int) -> list[int]:
    """Split ``draws`` so that no part touches more than ``CHUNK`` numbers.

    >>> chunks(10, 2**21)
    [4, 4, 2]
    """
    most = max(1, CHUNK // max(1, each))
    return [most] * (draws // most) + ([draws % most] if draws % most else [])
