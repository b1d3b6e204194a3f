"""Weighted draws: what is known of them, and how they become equally weighted ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from experiments.log_evidence.pareto import KHAT, misses_mass, smoothed, tail_shapes
from guides.drawn import Drawn

#: Draws that are left after resampling.
KEPT = 4096


@dataclass(frozen=True)
class Weighted:
    """Draws ``z`` (draws, units, d) whose weights have mean p(x_i), and the logs of these, (draws, units), in nats."""

    z: Tensor
    log_weight: Tensor

    @cached_property
    def bound(self) -> Tensor:
        """The log of the mean weight of each unit, (units,): a lower bound on log p(x_i), in expectation."""
        return self.log_weight.double().logsumexp(0) - math.log(len(self.log_weight))

    @property
    def total(self) -> float:
        """The bound summed over units."""
        return float(self.bound.sum())

    @property
    def bound_se(self) -> float:
        """The standard error of the total, by the delta method on each unit's weights."""
        relative = (self.log_weight.double() - self.bound).exp()
        return float((relative.var(0) / len(relative)).sum().sqrt())

    @cached_property
    def khat(self) -> Tensor:
        """k̂ of each unit's weights, (units,); NaN where they are constant."""
        columns = self.log_weight.double().nan_to_num(nan=-math.inf).T.cpu().numpy()
        return torch.as_tensor(tail_shapes(columns, np.full(len(columns), 1e-9)))

    @cached_property
    def ess(self) -> Tensor:
        """The effective sample size of each unit, (units,)."""
        w = self.log_weight.double()
        found: Tensor = (2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp()
        return found

    def uneven(self, whose: str) -> str:
        """Say that the weights can't be relied on, and what to do; empty where they can. ``whose`` draws they are, in words."""
        worst, ess = float(self.khat.nan_to_num(nan=-math.inf).max()), float(self.ess.min())
        if not misses_mass(worst, ess, len(self.log_weight)):
            return ""
        return f"k̂ {worst:.2f} of the weights of {whose} is above {KHAT}; use ais, or begin from a richer guide"

    def put(self, guide: Drawn) -> None:
        """Resample, and put the draws and what is known of them into a guide. Uses torch's generator."""
        values = self.resampled()
        rounding = 8 * torch.finfo(self.log_weight.dtype).eps * float(self.bound.abs().sum())
        error = math.hypot(self.bound_se, rounding)
        guide.put(values, bound=self.bound, bound_se=error, khat=self.khat, ess=self.ess.clamp(max=len(values)))

    def resampled(self) -> Tensor:
        """Return equally weighted draws (draws, units, d): systematic resampling of each unit by its smoothed weights."""
        share = smoothed(self.log_weight).softmax(0)
        count = min(KEPT, len(share))
        points = (torch.arange(count) + torch.rand(())) / count
        ends = share.T.double().cumsum(1).contiguous()
        ends = ends / ends[:, -1:]  # rounding must not leave the last draw a share of its own
        index = torch.searchsorted(ends, points.to(ends).expand(len(ends), -1).contiguous()).clamp(max=len(share) - 1)
        picked = self.z.gather(0, index.T[..., None].expand(-1, -1, self.z.shape[-1]))
        return picked[torch.randperm(count, device=picked.device)]
