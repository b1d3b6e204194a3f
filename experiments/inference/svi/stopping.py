"""Convergence of a stochastic ascent: means of its iterates, and the gain from going on in the same direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.fits.state import State, alike

#: Nats per unit that a converged ascent may still rise by.
TOLERANCE = 0.02
#: How far an ascent must be able to move each parameter before it can be said to have converged. A scale whose logarithm is off
#: by δ costs δ² nats: one that is off by this, :data:`TOLERANCE`.
REACH = math.sqrt(TOLERANCE)
#: Where the first window of a run without a given end closes, and how many times as far each next one does.
FIRST, LONGER = 750, 4 / 3
#: How many times as far as from window to window the ascent is followed, in a straight line.
AHEAD = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
#: Tensors of which each is followed by itself, too, at most.
FEW = 6
#: Of a longer run, one step in so many counts in a window's mean.
EVERY = 5

#: The bound at a state on held noise and minibatches, (repeats,): the same for each state.
Bound = Callable[[Sequence[Tensor]], Tensor]


def closings(steps: int | None, limit: int) -> list[int]:
    """Return the steps at which windows close, each a third farther than the one before.

    >>> closings(1000, 1000), closings(None, 2000)
    ([563, 750, 1000], [750, 1000, 1334, 1778])
    """
    if steps is not None:
        return sorted({math.ceil(steps / LONGER**k) for k in range(3)})
    count = int(math.log(max(1.0, limit / FIRST), LONGER))
    return [math.ceil(FIRST * LONGER**k - 1e-9) for k in range(count + 1)]


@dataclass
class Windows:
    """The means of an ascent's iterates over a window of its steps, and over the window before.

    Stochastic-gradient steps jitter about a moving centre. The mean of a window estimates this centre, and the means of two
    windows give the direction in which the centre moves. :func:`rises` tells whether the bound gains in this direction.
    """

    every: int
    mean: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Count the state after a step in the window's mean."""
        if step % self.every:
            return
        self.count += 1
        if self.count == 1:
            self.mean = copies(tensors)
            return
        for mean, now in zip(self.mean, tensors, strict=True):
            if mean.is_floating_point():
                mean.lerp_(now.detach(), 1 / self.count)
            else:
                mean.copy_(now)

    def close(self) -> None:
        """Begin the next window."""
        self.before, self.count = self.mean, 0

    @property
    def known(self) -> bool:
        """Whether the steps of a window and of one before it are known."""
        return bool(self.before) and self.count > 0

    def save(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Return what a run needs to go on with these windows."""
        lists = {"window": self.mean, "window_before": self.before}
        tensors = {f"{name}.{i}": value for name, values in lists.items() for i, value in enumerate(values)}
        return tensors, {"window_count": self.count}

    def load(self, state: State, like: Sequence[Tensor]) -> None:
        """Go on with what :meth:`save` gave."""
        self.mean, self.before = (
            list(alike(found, like)) if (found := state.numbered(name)) else [] for name in ("window", "window_before"))
        self.count = int(state.values["window_count"])


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of tensors without a graph."""
    return [tensor.detach().clone() for tensor in tensors]


def put(tensors: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    """Set tensors to a state of theirs, in place."""
    for tensor, value in zip(tensors, state, strict=True):
        tensor.detach().copy_(value)


def rises(bound: Bound, before: Sequence[Tensor], now: Sequence[Tensor], least: float) -> bool:
    """Return whether an ascent gained over ``least`` nats from ``before`` to ``now``, or would by going on as it went.

    The bound is compared on the same noise and minibatches along the straight line through both, behind and up to thousands of
    times as far ahead, so a climb that is slow for its small steps shows as one. Of a few tensors each is followed alone, too:
    the jitter of the others, as many times as large, hides one that creeps. A gain counts less its standard error.
    """
    here = bound(now)
    for start in _starts(before, now):
        for share in (-1.0, *AHEAD):
            there = bound(_along(start, now, share))
            # What was gained on the way lies behind: the bound is lower there.
            if surely((here - there) if share < 0 else (there - here)) > least:
                return True
    return False


def _starts(before: Sequence[Tensor], now: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Yield where the tensors came from, all of them; of a few, each alone, the others being where they are."""
    yield before
    if 1 < len(now) <= FEW:
        for i, tensor in enumerate(before):
            yield [*now[:i], tensor, *now[i + 1:]]


def _along(before: Sequence[Tensor], now: Sequence[Tensor], share: float) -> list[Tensor]:
    pairs = zip(before, now, strict=True)
    return [b.lerp(n, 1 + share) if n.is_floating_point() else n for b, n in pairs]


def surely(gains: Tensor) -> float:
    """Return the mean of gains (repeats,) less their standard error; −∞ where it is no number."""
    error = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    found = float(gains.mean()) - error
    return found if math.isfinite(found) else -math.inf


def standard_error(values: Sequence[float], batches: int = 10) -> tuple[float, float]:
    """Return the mean of successive noisy values and its standard error, by the means of ``batches`` of them in a row.

    Neighbours are alike, as steps wander: the spread of single values would understate the error.

    >>> mean, error = standard_error([0.0, 1.0] * 50)
    >>> mean, error
    (0.5, 0.0)
    """
    numbers = torch.tensor(values, dtype=torch.float64)
    size = max(1, len(numbers) // batches)
    means = torch.stack([part.mean() for part in numbers.split(size)])
    error = float(means.std()) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    return float(numbers.mean()), error
