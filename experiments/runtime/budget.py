"""The budget of an evaluation: the evaluations of densities that its effort allows, and those that it has spent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from experiments.runtime.effort import effort
from experiments.runtime.memory import EVALUATION, within, work
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.tally import Tally, rows, tallied

#: Nats between the ends of an interval for log p(x | θ) that no decision hangs on; and a share of a gap that does as well.
TOLERANCE, SHARE = 0.1, 0.1


class Unaffordable(ZooError):
    """What was asked for would take more evaluations than a budget has left."""


@dataclass
class Budget:
    """What an evaluation may still spend.

    Attributes:
        limit: evaluations of all rows at one draw.
        rows: how many these are.
        target: nats between the ends of an interval for log p(x | θ) at which it is narrow enough; ``None``: as of a bracket.
    """

    limit: float = math.inf
    rows: int = 1
    target: float | None = None
    _spent: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, name: str, model: Model, x: Data, fitted: float = 0.0) -> Budget:
        """Return that of the effort called ``name``, beside fits that took ``fitted`` evaluations of rows."""
        given, latents = effort(name), model.latents(x)
        number = max(latents.units, rows(x))
        floor = within(EVALUATION, work(x, latents.units, latents.size), 0, given.floor)
        return cls(max(floor, given.multiple * fitted / number), number)

    def aimed(self, gaps: Sequence[float]) -> Budget:
        """Return the budget with a target: a tenth of the smallest of ``gaps``, in nats, or 0.1 nats.

        >>> Budget().aimed([30.0, 8.0]).target, Budget().aimed([0.3]).target
        (0.8, 0.1)
        """
        return replace(self, target=max(TOLERANCE, SHARE * min([gap for gap in gaps if math.isfinite(gap)], default=0.0)))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the block evaluates."""
        with tallied(self._spent):
            yield

    @property
    def spent(self) -> float:
        """Evaluations of all rows at one draw so far."""
        return self._spent.rows / self.rows

    @property
    def left(self) -> float:
        """Evaluations that may still be made."""
        return max(0.0, self.limit - self.spent)

    def affords(self, number: int, each: float, share: float = 1.0) -> int:
        """Return how many of ``number`` pieces of work, of ``each`` so many evaluations, a ``share`` of what is left allows.

        >>> Budget(1000.0).affords(64, each=10, share=0.5), Budget().affords(64, each=10)
        (50, 64)
        """
        return int(min(number, share * self.left / each))
