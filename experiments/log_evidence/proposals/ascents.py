"""Ascents of one unit's log p(x, z), and the curvature where they end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.optimisers.each import ascend_each
from experiments.runtime.memory import chunks
from zoo.data import Data, reference
from zoo.distributions.normal_mixture import NormalMixture
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.vectorise import FORBIDDEN, LinAlgError

#: Iterations of an ascent.
ITERATIONS = 100
#: Scales of the normals at a mode, and their shares: wider ones for tails that a normal lacks.
WIDER, SHARES = (1.0, 1.6), (0.7, 0.3)
#: An ascent has settled, in nats. A top is one whose quadratic promises no more than the second.
TOLERANCE, RISE = 1e-4, 0.02


@dataclass(frozen=True)
class Ascents:
    """Ascents of log p(x, z), in coordinates of the prior's ``scale`` (d,); ``each`` density touches so many numbers."""

    model: Model
    x: Data
    scale: Tensor
    each: int

    #: The share of a curvature that is rounding: of a ridge, as that of loadings that can be rotated.
    rounding: ClassVar[float] = 1e-10
    #: The share of climbs that come to a top, at least, for tops to be modes, and not places on such a ridge.
    least: ClassVar[float] = 0.0

    @property
    def size(self) -> int:
        """How many coordinates are climbed in."""
        return len(self.scale)

    def coordinates(self, z: Tensor) -> Tensor:
        """Return those of joint vectors z (n, d), not scaled."""
        return z

    def log_prob(self, q: Distribution, points: Tensor) -> Tensor | None:
        """Return the log density of a guide's ``q`` at ``points`` (n, size), not scaled: (n,); ``None`` if it isn't known."""
        found: Tensor = q.log_prob(points[:, None].to(q.sample()))[:, 0]
        return found

    def mixture(self, weights: Tensor, loc: Tensor, scale_tril: Tensor) -> list[Distribution]:
        """Return distributions over z of batch shape (1,): normals at modes (modes, size), of scales (modes, size, size)."""
        return [NormalMixture(
            torch.cat([share * weights for share in SHARES]), loc.repeat(len(WIDER), 1),
            torch.cat([scale * scale_tril for scale in WIDER]), torch.Size([1]))]

    def density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) (n,) and its gradient (n, d) at ``points`` (n, d): −∞ and 0 where it can't be evaluated."""
        parts = [self._density(part) for part in points.split(chunks(len(points), self.each))]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def _density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        try:
            value, gradient = self._evaluated(points)
        except (ZooError, LinAlgError, *FORBIDDEN):
            if len(points) == 1:
                return points.new_full((1,), -math.inf), torch.zeros_like(points)
            halves = [self._density(half) for half in points.split((len(points) + 1) // 2)]
            return torch.cat([half[0] for half in halves]), torch.cat([half[1] for half in halves])
        return value.detach().nan_to_num(nan=-math.inf, posinf=-math.inf), gradient

    def _evaluated(self, points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = points.detach().requires_grad_()
            value = self._log_joint(at)
            [gradient] = torch.autograd.grad(value.sum(), at)
        return value, gradient

    def _log_joint(self, points: Tensor) -> Tensor:
        z = (points * self.scale).to(reference(self.x))
        return self.model.log_joint(self.x, z[:, None])[:, 0].double()

    def ends(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Climb from ``draws`` (n, d); return the ends (n, d), in these coordinates, and their heights (n,)."""
        def objective(points: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            value, gradient = self.density(points)
            return value, torch.zeros_like(value), gradient

        points, _ = ascend_each(objective, draws.double() / self.scale, ITERATIONS, tolerance=TOLERANCE)
        return points, self.density(points)[0]

    def tops(self, points: Tensor) -> list[Tensor | None]:
        """Return the Cholesky factor of the inverse curvature at each point (n, d); ``None`` where there is no top."""
        try:
            gradient, curvature = self._curvature(points)
        except (ZooError, LinAlgError, *FORBIDDEN):
            return [None] * len(points)
        return [_top(*pair, self.rounding) for pair in zip(gradient, curvature, strict=True)]

    def _curvature(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (n, d) and −∇² (n, d, d) of log p(x, z)."""
        parts = []
        for part in points.split(chunks(len(points), 4 * self.each)):
            with torch.enable_grad():
                at = part.detach().requires_grad_()
                [gradient] = torch.autograd.grad(self._log_joint(at).sum(), at, create_graph=True)
                rows = [torch.autograd.grad(g, at, retain_graph=True)[0] for g in gradient.sum(0)]
            parts.append((gradient.detach(), -torch.stack(rows, 1)))
        gradients, curvatures = zip(*parts, strict=True)
        return torch.cat(gradients), torch.cat(curvatures)


def spread(draws: Tensor) -> Tensor:
    """Return a robust scale (d,) of draws (n, d)."""
    quartiles = torch.quantile(draws, torch.tensor([0.25, 0.75]).to(draws), 0)
    return ((quartiles[1] - quartiles[0]) / 1.349).clamp(1e-3, 1e3).double()


def _top(gradient: Tensor, curvature: Tensor, rounding: float) -> Tensor | None:
    """Return the Cholesky factor of the inverse ``curvature`` (d, d), unless it bends up, is flat or promises a rise."""
    if not bool(curvature.isfinite().all()):
        return None
    factor, failed = torch.linalg.cholesky_ex(0.5 * (curvature + curvature.mT))
    # What is left of a coordinate's curvature when the ones before may move along: nothing, on a ridge.
    if float((factor.diagonal().square() / curvature.diagonal()).min()) < rounding:
        return None
    if int(failed) or float(torch.cholesky_solve(gradient[:, None], factor)[:, 0] @ gradient) > 2 * RISE:
        return None
    scale_tril, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor))
    return None if int(failed) else scale_tril
