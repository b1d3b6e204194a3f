"""The shape k̂ of the tail of importance weights, by a generalised Pareto distribution; weights smoothed by it; what it tells.

ArviZ computes the same number; this is a line of algebra over all units at once, and a comparison need not wait for ArviZ,
xarray and pandas to load.

Source: Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution,
https://doi.org/10.1198/tech.2009.08017; Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
https://arxiv.org/abs/1507.02646
"""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: k̂ above this means that importance weights have no finite variance to speak of. Source: Vehtari, Simpson, Gelman, Yao and
#: Gabry (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646
KHAT = 0.7
#: Weights with an effective sample size above this share of the draws are all but equal: what tail they have says nothing.
EVEN = 0.9
#: Draws below which no tail is fitted.
FEWEST = 25
#: Nats between the largest weights and a quarter into the tail beyond which most of it underflows.
UNDERFLOWS = 600.0
#: The prior of the shape, a mean and as many observations as it counts for; and that of the scale, in quarters of the tail.
MEAN, COUNTS, QUARTERS = 0.5, 10, 3
#: Nats between the largest and the smallest weight up to which they are left as they are.
FLAT = 1e-3
#: Numbers that are worked on at once.
CHUNK = 2**22


def tail_shapes(log_weight: NDArray[np.float64], rounding: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return k̂ of each unit's log weights (units, draws): (units,).

    NaN where they are equal up to ``rounding`` (units,), in nats, or too few; ∞ where hardly any draw has weight.

    >>> weights = np.random.default_rng(0).pareto(2.0, size=(1, 100_000)) + 1  # a tail of shape 1 / 2
    >>> tail_shapes(np.log(weights), np.zeros(1)).round(1)
    array([0.5])
    """
    units, draws = log_weight.shape
    found = np.full(units, np.nan)
    if draws < FEWEST:
        return found
    size = math.floor(min(0.2 * draws, 3 * math.sqrt(draws)))
    top = np.sort(np.partition(log_weight, draws - size - 1, axis=1)[:, -size - 1:], axis=1)
    spread = log_weight.max(1) - log_weight.min(1)
    with np.errstate(invalid="ignore"):
        excess = top[:, 1:] - top[:, :1]
        some, all_but_none = np.isfinite(top[:, 0]), excess[:, -1] - excess[:, size // 4] > UNDERFLOWS
        told = (excess[:, -1] - excess[:, 0] > rounding) & (spread > rounding)
    found[~some & (spread > rounding)] = np.inf
    # Hill's estimator (1975, https://doi.org/10.1214/aos/1176343247) needs no exponentials, and agrees for shapes so large;
    # most of the tail underflows beside the largest weight, and a fit to the rest would look perfect.
    hill = some & all_but_none & told
    found[hill] = excess[hill].mean(1)
    fitted = np.flatnonzero(some & ~all_but_none & told)
    for part in np.array_split(fitted, max(1, math.ceil(len(fitted) * size * _places(size) / CHUNK))):
        found[part] = _shapes(top[part])
    return found


def _places(size: int) -> int:
    return 30 + int(math.sqrt(size))


def _shapes(top: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shapes of tails: of sorted log weights (units, 1 + size), of which the first is the threshold.

    The likelihood of shape and scale has one free parameter, b = −shape / scale: at each b the best shape is the mean of
    log(1 − b x) over the tail. Its posterior mean is a sum over places that the prior lays.
    """
    weight = np.exp(top - top[:, -1:])
    tail = weight[:, 1:] - weight[:, :1]  # (units, size), over the largest weight
    size = tail.shape[1]
    count = _places(size)
    lowest = 1 - np.sqrt(count / (np.arange(count) + 0.5))
    with np.errstate(all="ignore"):
        b = 1 / tail[:, -1:] + lowest / (QUARTERS * tail[:, int(size / 4 + 0.5) - 1, None])  # (units, places)
        shape = np.log1p(-b[..., None] * tail[:, None]).mean(-1)
        log_likelihood = size * (np.log(-b / shape) - shape - 1)
        share = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
        share = np.where(share >= 10 * np.finfo(float).eps * share.sum(1, keepdims=True), share, 0.0)
        best = (np.where(share > 0, b, 0.0) * share).sum(1) / share.sum(1)
        found = np.log1p(-best[:, None] * tail).mean(1)
    mixed: NDArray[np.float64] = (size * found + COUNTS * MEAN) / (size + COUNTS)
    return mixed


def smoothed(log_weight: Tensor) -> Tensor:
    """Return Pareto-smoothed log weights (draws, units), by ArviZ; those of a constant unit as they are.

    Source: Vehtari et al. (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646

    >>> smoothed(torch.zeros(100, 2)).shape
    torch.Size([100, 2])
    """
    from arviz_stats.base import array_stats

    found = log_weight.double().nan_to_num(nan=-math.inf).cpu().numpy()
    for row in found.T:
        with np.errstate(all="ignore"), suppress(ValueError):  # of a tail that is flat, which needs no smoothing
            smooth = array_stats.psislw(-np.maximum(row, row.max() - 1e5))[0]  # it negates its input
            if np.isfinite(smooth).all() and np.ptp(row) > FLAT:  # weights that are all but equal have no tail, but ties
                row[:] = smooth
    return torch.as_tensor(found).to(log_weight)


def misses_mass(khat: float | None, ess: float | None, draws: int) -> bool:
    """Whether a guide misses posterior mass that matters: k̂ > 0.7 with uneven weights.

    Args:
        khat, ess: of the worst unit; ``None`` where nothing was drawn.
        draws: of z per unit.

    >>> misses_mass(0.9, 40.0, 1000), misses_mass(0.9, 990.0, 1000), misses_mass(None, None, 2)
    (True, False, False)
    """
    return khat is not None and khat > KHAT and (ess or 0.0) < EVEN * draws
