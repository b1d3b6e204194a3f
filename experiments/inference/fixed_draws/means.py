"""Means of log p(x, z) under normals of the units' own, and their derivatives in the normals' parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from experiments.inference.fixed_draws.parts import Parts, slices
from guides.families.family import NormalBase, Phi
from zoo.data import Data, take
from zoo.model import Model
from zoo.program.coordinates import log_terms_and_slope


class Means(Protocol):
    """E_q[log p(z)] and E_q[log p(x | z)] of units, from fixed noise (draws, 1, size)."""

    def surrogate(self, phi: Phi, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both means of units ``index``, (k,) each without a graph, and a surrogate whose gradient in φ is theirs."""
        ...

    def natural(self, phi: Phi, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return both means, (k,) each, that of g = ∇ log p(x, z), (k, d), and that of g εᵀ, (k, d, d)."""
        ...

    def value(self, phi: Phi, noise: Tensor) -> float:
        """Return the sum of both means of the one unit."""
        ...


@dataclass
class MonteCarlo:
    """Means over draws of z, whatever the model."""

    model: Model
    family: NormalBase
    x: Data
    parts: Parts
    #: Of one unit, the last draws and their densities.
    last: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None

    def surrogate(self, phi: Phi, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.family.transform(phi, noise)
        prior, likelihood, slope = self._density(z.detach(), index)
        # What z gains by its gradient is what the means do.
        return prior.mean(0), likelihood.mean(0), (z * slope).sum() / len(z)

    def natural(self, phi: Phi, noise: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prior, likelihood, slope = self._density(self.family.transform(phi, noise), index)
        return prior.mean(0), likelihood.mean(0), slope.mean(0), cross(slope, noise)

    def value(self, phi: Phi, noise: Tensor) -> float:
        prior, likelihood, _ = self._density(self.family.transform(phi, noise), torch.zeros(1, dtype=torch.long))
        return float((prior + likelihood).sum(1).mean())

    def _density(self, z: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(z) and log p(x | z), (draws, k) each, of units ``index`` (k,), and ∇ log p(x, z), as z (draws, k, d)."""
        units, rows = self.parts.latents.units, []
        if self.last is not None and torch.equal(self.last[0], z):  # a climb begins where the one before ended
            return self.last[1]
        for draws in z.contiguous().split(self.parts.draws_at_once):
            parts = []
            for some in slices(len(index), self.parts.units_at_once(len(draws))):
                x = self.x if some.stop - some.start == units else take(self.x, index[some], units)
                parts.append(log_terms_and_slope(self.model, x, draws[:, some]))
            rows.append([_joined(each, 1) for each in zip(*parts, strict=True)])
        prior, likelihood, slope = (_joined(each, 0) for each in zip(*rows, strict=True))
        if units == 1:
            self.last = z, (prior, likelihood, slope)
        return prior, likelihood, slope


def cross(slope: Tensor, noise: Tensor) -> Tensor:
    """Return the mean of g εᵀ, (k, d, d), of gradients (draws, k, d) and the noise's first d numbers."""
    return slope.permute(1, 2, 0) @ noise[:, 0, : slope.shape[2]] / len(noise)


def _joined(parts: tuple[Tensor, ...], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]
