"""Finding the modes of low-dimensional posteriors, so that an integral over them misses none."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.log_evidence.log_weights import log_joint
from experiments.runtime.memory import chunks, work
from guides.families.family import Start
from zoo.data import Data
from zoo.model import Model

#: Local maxima followed per unit, and the most that are kept as modes.
CANDIDATES, KEPT = 24, 6
#: A mode this many nats below the highest holds nothing that a total to 1e-6 nats could show.
DEPTH = 30.0
#: Two maxima are one mode if log p falls by no more than so many nats between them: rounding makes such maxima along a ridge.
DIP = 0.05
#: Where the way between two maxima is looked at.
BETWEEN = torch.arange(1, 8) / 8


@dataclass(frozen=True)
class Modes:
    """The modes of each unit's p(x, z), padded to one number for all units.

    Attributes:
        loc: the modes, (modes, units, d).
        scale: a first estimate of the width of each mode, (modes, units, d).
        present: whether the unit has this mode, (modes, units).
        unit: the scale of the coordinates, in which distances are measured, (units, d).
        spread: an eighth of the smallest distance between two modes, (units,).
    """

    loc: Tensor
    scale: Tensor
    present: Tensor
    unit: Tensor
    spread: Tensor

    def log_share(self, z: Tensor, k: int) -> Tensor:
        """Return log w_k(z), (nodes, units), of a partition of unity: Σ_k w_k(z) = 1 at every z (nodes, units, d).

        The share falls from one to zero about halfway between modes: at the next mode it is under e⁻³², and the fall takes a
        sixty-fourth of the way, which the grids still resolve. A unit with one mode has share one everywhere.
        """
        distance = ((z[None] - self.loc[:, None]) / self.unit).square().sum(-1)
        score = -0.5 * distance / self.spread.square()
        score = torch.where(self.present[:, None], score, -math.inf)
        return score[k] - score.logsumexp(0)


def find_modes(model: Model, x: Data, nodes: int) -> Modes:
    """Look for the local maxima of log p(x, z) on a grid over the prior, and climb from each.

    A peak far narrower than the grid's step is still found where its basin is wider: on the logarithm's scale the slopes
    that lead to it show from afar.
    """
    start = Start.of(model, x)
    units, size = start.loc.shape
    reach = 10 * start.scale  # a prior standard deviation
    axis = torch.linspace(-10, 10, nodes, dtype=reach.dtype, device=reach.device)
    grid = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
    height = _height(model, x, start.loc + grid[:, None] * reach)
    peaks = _local_maxima(height.reshape(*[nodes] * size, units)).reshape(-1, units)
    top = torch.where(peaks, height, -math.inf).topk(min(CANDIDATES, len(grid)), 0)
    loc = start.loc + grid[top.indices] * reach
    loc, climbed = _climb(model, x, loc, float(axis[1] - axis[0]) * reach)
    climbed = torch.where(top.values.isfinite(), climbed, -math.inf)
    # A unit without a finite peak on the grid starts from its highest node, whatever it is.
    return _distinct(model, x, loc, climbed, reach, float(axis[1] - axis[0]))


def _height(model: Model, x: Data, z: Tensor) -> Tensor:
    """Return log p(x, z), (points, units), −∞ where it is no number."""
    _, units, size = z.shape
    parts = [log_joint(model, x, part) for part in z.split(chunks(len(z), work(x, units, size)))]
    return torch.cat(parts).to(z.dtype).nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)


def _local_maxima(height: Tensor) -> Tensor:
    """Mark the nodes of a grid (*nodes, units) that no neighbour along an axis exceeds."""
    peak = height.isfinite()
    for dim in range(height.ndim - 1):
        edge = torch.full_like(height.narrow(dim, 0, 1), -math.inf)
        length = height.shape[dim] - 1
        peak &= height >= torch.cat([edge, height.narrow(dim, 0, length)], dim)
        peak &= height >= torch.cat([height.narrow(dim, 1, length), edge], dim)
    return peak


def _climb(model: Model, x: Data, loc: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Climb from loc (candidates, units, d) by pattern search: to the best neighbour, or else with half the step."""
    offsets = torch.tensor(list(itertools.product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=loc.shape[-1]))).to(loc)
    step = step.expand_as(loc).clone()
    best = _height(model, x, loc)
    for _ in range(48):
        around = loc + offsets[:, None, None] * step  # (neighbours, candidates, units, d)
        height = _height(model, x, around.flatten(0, 1)).reshape(len(offsets), *best.shape)
        value, index = height.max(0)
        moved = value > best
        chosen = around.gather(0, index[None, ..., None].expand(1, *loc.shape))[0]
        loc = torch.where(moved[..., None], chosen, loc)
        best = torch.maximum(best, value)
        step = torch.where(moved[..., None], step, 0.5 * step)
        if float((step / loc.abs().clamp(min=1e-3)).max()) < 1e-7:
            break
    return loc, best


def _least_between(model: Model, x: Data, a: Tensor, others: Tensor) -> Tensor:
    """Return the least log p(x, z) on the straight ways from ``a`` (units, d) to each of ``others`` (others, units, d)."""
    share = BETWEEN.to(a)[:, None, None, None]
    points = a + share * (others - a)
    return _height(model, x, points.flatten(0, 1)).reshape(points.shape[:3]).amin(0)


def _distinct(model: Model, x: Data, loc: Tensor, height: Tensor, reach: Tensor, step: float) -> Modes:
    """Keep the highest of candidates that belong to one mode, and of these the ``KEPT`` highest within ``DEPTH``."""
    order = height.argsort(0, descending=True)
    height = height.gather(0, order)
    loc = loc.gather(0, order[..., None].expand_as(loc))
    new = torch.zeros_like(height, dtype=torch.bool)
    for i in range(len(loc)):
        distance = ((loc[i] - loc[:i]) / reach).abs().amax(-1)
        apart = ~((distance < 0.5 * step) & new[:i]).any(0)
        new[i] = apart & (height[i] > height[0] - DEPTH) & (new[:i].sum(0) < KEPT)
        if i and bool(new[i].any()):
            higher = new[:i].any(1).nonzero()[:, 0]
            same = _least_between(model, x, loc[i], loc[higher]) >= height[i] - DIP
            new[i] &= ~(same & new[higher]).any(0)
    new[0] = True
    rank = torch.where(new, torch.arange(len(loc), device=loc.device)[:, None], len(loc)).sort(0).values
    count = int(new.sum(0).max())
    present = rank[:count] < len(loc)
    picked = rank[:count].clamp(max=len(loc) - 1)
    loc = loc.gather(0, picked[..., None].expand(-1, -1, loc.shape[-1]))
    spread = torch.full_like(height[0], math.inf)
    for a, b in itertools.combinations(range(count), 2):
        distance = ((loc[a] - loc[b]) / reach).square().sum(-1).sqrt()
        spread = torch.where(present[a] & present[b], torch.minimum(spread, 0.125 * distance), spread)
    # One mode: the first grid spans the prior. Several: each starts with a grid that ends where the next begins.
    width = torch.where(spread.isfinite(), (0.8 * spread).clamp(max=1.0), 1.0)
    scale = (width[:, None] * reach).expand_as(loc).clone()
    return Modes(loc, scale, present, reach, torch.where(spread.isfinite(), spread, torch.ones_like(spread)))
