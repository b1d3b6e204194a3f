"""Noisy curves of bounds, as figures and reports draw them: a moving mean with its band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

#: A curve of so many steps, of which so large a share falls, is noisy.
LONG, FALLING = 100, 0.2
#: The window of a moving mean, as a share of the run: the least, and the most that it is widened to.
NARROW, WIDE = 1 / 50, 1 / 5
#: Standard errors that a mean may be off by chance, of as many windows as a run has.
NOISE = 4.0


@dataclass(frozen=True)
class Curve:
    """A curve to draw: where, the values, and their standard errors, which are 0 where nothing was averaged."""

    at: np.ndarray
    values: np.ndarray
    errors: np.ndarray

    @property
    def averaged(self) -> bool:
        """Whether the curve is of means."""
        return bool(self.errors.any())


def smoothed(at: Sequence[float], values: Sequence[float], level: float | None = None) -> Curve:
    """Return a noisy curve as its moving mean with standard errors; another as it is.

    The window is a fiftieth of the run, or ten steps. Where the mean of a bound lies above ``level``, log p(x), the window is
    doubled, up to a fifth of the run; what then lies above by less than :data:`NOISE` standard errors is put at ``level``, the
    estimate of a mean that is known to be no higher. More than that is no noise, and is shown.

    >>> rng = np.random.default_rng(0)
    >>> curve = smoothed(range(1000), rng.standard_normal(1000))
    >>> len(curve.values), bool(np.abs(curve.values).max() < 1)
    (981, True)
    """
    x, y = np.asarray(at, dtype=float), np.asarray(values, dtype=float)
    if len(y) < LONG or (np.diff(y) < 0).mean() < FALLING:
        return Curve(x, y, np.zeros(len(y)))
    size = max(10, round(len(y) * NARROW))
    found = _means(x, y, size)
    while level is not None and found.values.max() > level and 2 * size <= len(y) * WIDE:
        size *= 2
        found = _means(x, y, size)
    if level is None:
        return found
    noise = found.values <= level + NOISE * found.errors
    return replace(found, values=np.where(noise, np.minimum(found.values, level), found.values))


def _means(x: np.ndarray, y: np.ndarray, size: int) -> Curve:
    """Return the means of windows, with standard errors from how much windows beside each other differ.

    The spread within a window would not do: a pass over the data meets each unit once, so that minibatches' noise cancels.
    """
    windows = np.lib.stride_tricks.sliding_window_view
    means = windows(y, size).mean(1)
    squares = 0.5 * np.square(means[size:] - means[:-size])
    around = min(3 * size, len(squares))
    local = windows(squares, around).mean(1)
    centres = np.arange(len(local)) + 0.5 * (around - 1 + size)
    return Curve(windows(x, size).mean(1), means, np.sqrt(np.interp(np.arange(len(means)), centres, local)))
