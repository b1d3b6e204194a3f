"""Parts in which a density is evaluated: how many units and draws at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from experiments.runtime.memory import CACHED, FIT, PART, within, work
from zoo.data import Data
from zoo.model import Model
from zoo.program.sites.latents import Latents

#: Draws of one unit that are evaluated at once, at least.
FEWEST = 32


@dataclass(frozen=True)
class Parts:
    """The parts in which a model's density is evaluated on its data."""

    model: Model
    x: Data

    @cached_property
    def latents(self) -> Latents:
        return self.model.latents(self.x)

    @cached_property
    def draws_at_once(self) -> int:
        if self.latents.units > 1:
            return self.most_draws  # units go in parts
        largest = max(math.prod(site.shape) for site in [*self.latents.sites, *self.latents.observed])
        return max(FEWEST, 1 << within(CACHED, largest).bit_length() - 1)

    @cached_property
    def most_draws(self) -> int:
        """How many draws may be held: each unit's are made together, one unit's in parts."""
        budget = FIT if self.latents.units == 1 else FIT // 16
        return within(budget, work(self.x, self.latents.units, self.latents.size), 64)

    @cached_property
    def divisible(self) -> bool:
        """Whether some units can be evaluated without the others."""
        return self.latents.units > 1 and self.latents.rows_first and self.latents.unit is not None

    def units_at_once(self, draws: int) -> int:
        """Return how many units are evaluated together."""
        units = self.latents.units
        return within(PART * units, draws * work(self.x, units, self.latents.size)) if self.divisible else units


def slices(count: int, most: int) -> Iterator[slice]:
    """Yield slices that cut ``count`` into pieces of ``most`` or fewer.

    >>> [(part.start, part.stop) for part in slices(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return (slice(first, min(first + most, count)) for first in range(0, count, most))
