"""A tally of density evaluations: a measure of cost that is the same on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data import Data, reference

#: What an evaluation with its gradient costs, in evaluations: the way back takes about twice as long as the way there.
WITH_GRADIENT = 3


@dataclass
class Tally:
    """How often log p(x_i, z) of a row has been evaluated at a draw of z since the tally began; three times with a gradient."""

    rows: float = 0.0


_OPEN: ContextVar[tuple[Tally, ...]] = ContextVar("open tallies", default=())


@contextmanager
def tallied(into: Tally | None = None) -> Iterator[Tally]:
    """Count the density evaluations of the block, in a tally of its own, or on top of what ``into`` has.

    >>> import zoo
    >>> model = zoo.build("eight_schools", x := zoo.dataset("eight_schools").x)
    >>> with tallied() as cost, torch.no_grad():
    ...     _ = model.log_joint(x, torch.zeros(5, 1, 10))
    >>> cost.rows
    40.0
    """
    own = Tally() if into is None else into
    token = _OPEN.set((*_OPEN.get(), own))
    try:
        yield own
    finally:
        _OPEN.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Keep the evaluations of the block out of all tallies that are open: of checks that another run might not make."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)


def tally(rows: float) -> None:
    """Add evaluations to all tallies that are open."""
    for each in _OPEN.get():
        each.rows += rows


def tally_draws(x: Data, z: Tensor) -> None:
    """Add the evaluations of the rows of ``x`` at draws ``z`` (draws, units, d)."""
    if _OPEN.get():
        tally(len(z) * max(z.shape[1], rows(x)) * (WITH_GRADIENT if torch.is_grad_enabled() else 1))


def rows(x: Data) -> int:
    """Return how many rows ``x`` has."""
    first = reference(x)
    return len(first) if first.ndim else 1
