"""Ascents of log p(x, u), where rows share the latents u and own others: the rows' own are integrated out about their modes.

The tops of log p(x, z) are far from its mass where many rows' latents scale with a shared one. log p(x, u) has few
coordinates, and its tops are where the mass is. Each row's integral is Laplace's approximation, which is exact where its
latents are normal given u.

Source: Rue, Martino and Chopin (2009), Approximate Bayesian inference for latent Gaussian models by using integrated nested
Laplace approximations, https://doi.org/10.1111/j.1467-9868.2008.00700.x
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from experiments.log_evidence.proposals.ascents import Ascents, spread
from experiments.log_evidence.proposals.conditional import RowDensities, modes
from zoo.data import Data, reference
from zoo.distributions.normal_mixture import NormalMixture
from zoo.model import Model
from zoo.structure.blocks import blocks, log_block_terms
from zoo.structure.blockwise import Blockwise

#: How many densities an evaluation takes: climbs to the rows' modes, and places about them.
MARGINAL = 16
#: Nats that a step towards a row's mode promises where it is the last: differences of gradients have to be right.
NEAR = 1e-11
#: Steps of these differences: first in coordinates of the prior's scale, and then in standard deviations.
STEPS = (1e-4, 0.05)
#: Modes that are proposed from, at most.
MOST = 16


@dataclass(frozen=True)
class MarginalAscents(Ascents):
    """Ascents of log p(x, u), in coordinates of the prior's ``scale`` of u.

    Attributes:
        rows: the rows' densities.
        start: where climbs to the rows' modes begin, (rows, d_local).
    """

    rows: RowDensities
    start: Tensor

    rounding: ClassVar[float] = 1e-3  # an end that is not quite at a top seems to bend along a ridge, too
    least: ClassVar[float] = 0.5

    @classmethod
    def of(cls, model: Model, x: Data, drawn: Tensor, each: int) -> MarginalAscents:
        """Return those of a model whose prior draws are ``drawn`` (n, d)."""
        found = blocks(model, x)
        assert found is not None, "it nests"
        u, own = found.split(drawn[:, None].to(reference(x)))
        return cls(model, x, spread(u), each, RowDensities(model, x, found), own.median(0).values)

    def coordinates(self, z: Tensor) -> Tensor:
        return self.rows.blocks.split(z[:, None])[0]

    def log_prob(self, q: Distribution, points: Tensor) -> Tensor | None:
        if not isinstance(q, Blockwise):
            return None
        found: Tensor = q.shared.log_prob(points[:, None].to(q.shared.sample()))[:, 0]
        return found

    def mixture(self, weights: Tensor, loc: Tensor, scale_tril: Tensor) -> list[Distribution]:
        """Return a distribution of two blocks at each of the modes with the largest ``weights``."""
        return [self._about(loc[mode], scale_tril[mode]) for mode in weights.argsort(descending=True)[:MOST].tolist()]

    def _about(self, loc: Tensor, scale_tril: Tensor) -> Blockwise:
        """Return q(u) Π_i q(z_i | u) about a mode of u: normals, of which the rows' have means that are affine in u."""
        like, size = reference(self.x), len(loc)
        shared = NormalMixture(
            loc.new_ones(1), loc[None].to(like), scale_tril[None].to(like), torch.Size([1]))
        white = torch.cat([torch.zeros(1, size), torch.randn(4 * size + 4, size)]).to(like)
        place, factor = modes(self.rows, loc.to(like) + white @ scale_tril.to(like).mT, self._starts(len(white)))
        design = torch.cat([torch.ones(len(white), 1).to(like), white], 1)
        slopes = torch.linalg.lstsq(design, place.flatten(1)).solution.view(size + 1, *place.shape[1:])

        def local(u: Tensor) -> Distribution:
            at = torch.linalg.solve_triangular(scale_tril.to(u), (u - loc.to(u)).mT, upper=False).mT
            mean = slopes[0].to(u) + torch.einsum("ns,srd->nrd", at, slopes[1:].to(u))
            scale = factor[:1].to(u).expand(len(u), *factor.shape[1:])
            return MultivariateNormal(mean.flatten(0, 1), scale_tril=scale.flatten(0, 1), validate_args=False)

        return Blockwise(self.rows.blocks, shared, local, depends=True, same_scale=True)

    def _starts(self, draws: int) -> Tensor:
        return self.start.expand(draws, *self.start.shape)

    def _evaluated(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return Laplace's log p(x, u) (n,) and its gradient (n, d_shared) at ``points``.

        The rows' modes move with u: a Newton's step from where they are, which goes nowhere, has their derivative.
        """
        with torch.no_grad():
            u = (points * self.scale).to(reference(self.x))
            near = max(NEAR, 100 * torch.finfo(u.dtype).eps)
            place, factor = modes(self.rows, u, self._starts(len(u)), near)
        with torch.enable_grad():
            at = points.detach().requires_grad_()
            shared = (at * self.scale).to(place)
            _, _, slope = self._row_terms(shared, place.requires_grad_())
            moved = place.detach() + (factor @ (factor.mT @ slope[..., None]))[..., 0]
            prior, rows, slope = self._row_terms(shared, moved)
            bends = torch.stack([_gradient(slope[..., k], moved) for k in range(place.shape[-1])], -1)
            volume = 0.5 * place.shape[-1] * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(bends)[1]
            value = prior + (rows + volume).sum(1)
            [gradient] = torch.autograd.grad(value.sum(), at)
        return value.detach().double(), gradient

    def _row_terms(self, shared: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(u) (n,), log p(x_i, z_i | u) (n, rows), and its gradient in z_i (n, rows, d_local), with a graph."""
        prior, rows = log_block_terms(self.model, self.x, self.rows.blocks.join(shared, local))
        return prior, rows, _gradient(rows, local)

    def _curvature(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (n, d) and −∇² (n, d, d) of log p(x, u), by differences of gradients."""
        gradient = self.density(points)[1]
        curvature = self._differences(points, points.new_full(points.shape, STEPS[0]))
        bends = curvature.diagonal(dim1=1, dim2=2).clamp(min=1e-6)
        return gradient, self._differences(points, STEPS[1] * bends.rsqrt())

    def _differences(self, points: Tensor, step: Tensor) -> Tensor:
        """Return −∇² (n, d, d) from gradients at a ``step`` (n, d) to either side."""
        offsets = torch.diag_embed(step).movedim(1, 0)  # (d, n, d)
        ahead, behind = (self.density((points + sign * offsets).flatten(0, 1))[1].view(offsets.shape) for sign in (1, -1))
        slopes = (behind - ahead) / (2 * step.mT[..., None])
        return slopes.movedim(0, 1)


def _gradient(values: Tensor, at: Tensor) -> Tensor:
    """Return that of the sum of ``values``, with a graph; zero where they do not depend on ``at``."""
    if not values.requires_grad:
        return torch.zeros_like(at)
    [found] = torch.autograd.grad(values.sum(), at, create_graph=True, allow_unused=True, materialize_grads=True)
    return found
