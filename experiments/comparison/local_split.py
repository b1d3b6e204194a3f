"""The split of the local gap of a guide of two blocks: what its family cannot express, and what its network has not learned.

The best member of the local family is found from the network's answers, with q(u) as it is: one for each row, where q(z_i) is
the same at any u; one for each row at each of some draws of u, where the network reads u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from scipy.special import stdtrit
from torch import Tensor

from experiments.comparison.gap_split import Split
from experiments.diagnostics.block_gap import BlockGap
from experiments.diagnostics.gap import Gap
from experiments.log_evidence.proposals.conditional import RowDensities
from experiments.optimisers.each import ascend_each
from experiments.runtime.memory import PILOT, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.quasi_random import normal_noise
from guides.amortisation import Free
from guides.blocks import BlockGuide
from guides.families.family import NormalBase, Phi
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.model import Model
from zoo.program.run import evaluating, seeded

#: Draws on which the best members are found, of z where the network reads u, at how many draws of u these are then, and steps.
DRAWS, EACH, PLACES, STEPS = 512, 64, 16, 200
#: Nats that a row's ELBO rises by no more where it has settled.
RISE = 1e-4


def local_split(model: Model, guide: BaseGuide, x: Data, found: BlockGap, seed: int = 0) -> Split | None:
    """Split the local gap of a guide of two blocks whose rows' φ come from a network; ``None`` for other guides.

    ``None``, too, for a local family whose draws are no map of normal noise: its best member would be that of a few draws.

    Args:
        model, guide, x: as of :func:`experiments.evaluate`.
        found: the gap by block.
        seed: of the draws.

    Source: Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders,
    https://arxiv.org/abs/1801.03558
    """
    if not isinstance(guide, BlockGuide) or isinstance(guide.amortisation.local, Free):
        return None
    if not isinstance(guide.family.local, NormalBase):
        return None
    with seeded(seed + Stream.SPLIT), torch.no_grad(), evaluating(model, guide):
        members = _Members.of(model, guide, x)
        before = members.rows(members.start)
        after, _ = ascend_each(partial(members.objective, members.held()), before.double(), STEPS, tolerance=RISE)
        fresh = members.fresh()
        gains = members.weights(after.to(before), fresh) - members.weights(before, fresh)
    # What varies over draws; where rows have a member at each of a few places, what varies over these, too.
    totals = gains.sum(1) if members.u is None else gains.mean(0).view(members.places, -1).sum(1)
    value, se = float(totals.mean()), float(totals.std()) / math.sqrt(len(totals))
    quantile = float(stdtrit(len(totals) - 1, 0.975))
    # An ascent that has bettered nothing, by these draws, leaves the network's answers the best.
    amortisation = Gap(max(0.0, value), se, *(max(0.0, value + sign * quantile * se) for sign in (-1, 1)))
    return Split(found.local.less(amortisation), amortisation)


@dataclass(frozen=True)
class _Members:
    """The members of the local family that each row may have.

    Attributes:
        density: the rows' densities.
        guide: the guide; its shared part stays as it is.
        start: the network's φ, (members, *shape).
        u: draws of u at which rows have a member each, (places, d_shared); ``None``: each row has one for all.
    """

    density: RowDensities
    guide: BlockGuide
    start: Phi
    u: Tensor | None

    @classmethod
    def of(cls, model: Model, guide: BlockGuide, x: Data) -> _Members:
        """Take the network's answers as members. Uses torch's generator."""
        found = guide.blocks(x)
        density, part = RowDensities(model, x, found), guide.amortisation
        if not part.reads:
            return cls(density, guide, part.local(x, found.rows), None)
        u = guide.posterior(x).shared.sample(torch.Size([PLACES]))[:, 0]
        return cls(density, guide, guide.local_phi(x, u), u)

    @property
    def places(self) -> int:
        """At how many draws of u each row has a member."""
        return 1 if self.u is None else len(self.u)

    @property
    def family(self) -> NormalBase:
        family = self.guide.family.local
        assert isinstance(family, NormalBase), "only such a family has a split"
        return family

    def held(self) -> tuple[Tensor, Tensor]:
        """Return u (draws, d_shared) and quasi-random noise (draws, 1, size), on which members are found."""
        model, x = self.density.model, self.density.x
        size = self.family.noise_size(self.start)
        each = 64 * work(x, 1, model.latents(x).size) * self.places
        draws = within(4 * PILOT, each, max(64, 2 * size), DRAWS if self.u is None else EACH)
        return self._beside(normal_noise(2 * (draws // 2), size, 0, next(iter(self.start.values()))))

    def fresh(self) -> tuple[Tensor, Tensor]:
        """Return twice as many independent draws, on which members are compared: u, and noise (draws, members, size).

        Uses torch's generator.
        """
        noise, rows = self.held()[1], len(next(iter(self.start.values())))
        return self._beside(torch.randn(2 * len(noise), rows, noise.shape[2], dtype=noise.dtype, device=noise.device))

    def _beside(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        if self.u is not None:
            return self.u, noise
        q = self.guide.posterior(self.density.x).shared
        return q.sample(torch.Size([len(noise)]))[:, 0], noise

    def rows(self, phi: Phi) -> Tensor:
        """Return φ as a row for each member, (members, size)."""
        return torch.cat([value.flatten(1) for value in phi.values()], 1)

    def phi(self, rows: Tensor) -> Phi:
        """Return rows as of :meth:`rows` as φ."""
        shapes = {name: value.shape[1:] for name, value in self.start.items()}
        parts = rows.split([shape.numel() for shape in shapes.values()], 1)
        return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def log_joint(self, z: Tensor, u: Tensor) -> Tensor:
        """Return log p(x_i, z_i | u) of each member's z (draws, members, d_local): (draws, members)."""
        local = z[None] if self.u is None else z.reshape(len(z), self.places, -1, z.shape[-1])
        found = self.density(u, local)[1]
        return found[0] if self.u is None else found.flatten(1)

    def weights(self, rows: Tensor, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """Return log p(x_i, z_i | u) − log q(z_i) of each member, (draws, members), at drawn u and noise."""
        phi = self.phi(rows)
        z = self.family.transform(phi, drawn[1])
        return self.log_joint(z, drawn[0]) - self.family.distribution(phi).log_prob(z)

    def objective(self, held: tuple[Tensor, Tensor], point: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ELBOs of members ``index`` (k,) at ``point`` (k, size), twice, and their slopes."""
        with torch.enable_grad():
            at = point.to(self.rows(self.start)).detach().requires_grad_()
            phi = self.phi(self.rows(self.start).detach().index_copy(0, index, at))
            terms = self.log_joint(self.family.transform(phi, held[1]), held[0]).mean(0)
            value = (terms + self.family.distribution(phi).entropy())[index]
            [slope] = torch.autograd.grad(value.sum(), [at])
        found = value.detach().double()
        return found, found, slope.double()
