"""The gap of a guide of two blocks, by block: that of the shared latents, and that of each row's own.

KL(q ‖ posterior) = KL(q(u) ‖ p(u | x)) + Σ_i E_q(u) KL(q(z_i | u) ‖ p(z_i | x_i, u)). A row's part is
E_q(u)[log p(x_i | u) − ELBO_i(u)], where ELBO_i(u) = E_q(z_i | u)[log p(x_i, z_i | u) − log q(z_i | u)]. The rows'
log p(x_i | u) come from importance weights about their modes, see
:mod:`experiments.log_evidence.proposals.conditional`; what is left of the whole gap is the shared latents'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.diagnostics.gap import Gap
from experiments.log_evidence.log_weights import Z95
from experiments.log_evidence.proposals.conditional import RowDensities, proposes, row_proposals
from experiments.runtime.memory import CACHED, PILOT, affordable, within, work
from experiments.runtime.seeds import Stream
from guides.blocks import BlockGuide
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.model import Model
from zoo.program.run import evaluating, seeded
from zoo.structure.blockwise import Blockwise

#: Draws of the shared latents, and of each row's at each of them: of the guide, and of the weights, at first and at most.
DRAWS, LOCAL, PILOTS, MOST = 512, 16, 32, 256
#: The variance of Σ_i log p̂(x_i | u) that is let be: half of it is its bias, which is corrected for.
VARIANCE = 0.05


@dataclass(frozen=True)
class BlockGap:
    """KL(q ‖ posterior) of a guide of two blocks, by block, in nats: ``shared`` + ``local`` is the whole.

    Attributes:
        plate: the unit plate, whose rows own the local latents.
        shared: KL(q(u) ‖ p(u | x)).
        local: Σ_i E_q(u) KL(q(z_i | u) ‖ p(z_i | x_i, u)).
        units: each row's part of ``local``, (rows,), and ``units_se`` its Monte-Carlo standard error. Noise may take a part a
            little below 0.
    """

    plate: str
    shared: Gap
    local: Gap
    units: Tensor = field(repr=False)
    units_se: Tensor = field(repr=False)

    def worst(self, count: int = 10) -> list[int]:
        """Return the ``count`` rows whose latents the guide serves worst, worst first."""
        return [int(i) for i in self.units.argsort(descending=True)[:count]]


def block_gap(model: Model, guide: BaseGuide, x: Data, gap: Gap, seed: int = 0) -> BlockGap | None:
    """Split the whole ``gap`` of a guide by block; ``None`` for a guide of one, or rows with too many latents for their modes.

    Args:
        model, guide, x: as of :func:`experiments.evaluate`.
        gap: KL(q ‖ posterior).
        seed: of the draws.

    >>> import experiments, zoo, guides
    >>> model = zoo.build("eight_schools", x := zoo.dataset("eight_schools").x)
    >>> guide = guides.build("full_rank+mean_field", model, x)
    >>> found = block_gap(model, guide, x, experiments.evaluate(model, guide, x).kl_gap)
    >>> found.plate, found.units.shape
    ('school', torch.Size([8]))
    """
    if not isinstance(guide, BlockGuide) or not proposes(model, x):
        return None
    with seeded(seed + Stream.BLOCKS), torch.no_grad(), evaluating(model, guide):
        rows = _RowGaps(RowDensities(model, x, guide.blocks(x)), guide.posterior(x))
        drawn = rows.measured()
    totals = drawn.gaps.sum(1)
    middle, se = float(totals.mean()), float(totals.std()) / math.sqrt(len(totals))
    margin = Z95 * se + drawn.bias
    lower, upper = max(0.0, middle - margin), max(0.0, middle + margin)
    local = Gap(middle, se, lower, upper if math.isfinite(upper) else None)
    units_se = drawn.gaps.std(0) / math.sqrt(len(totals))
    return BlockGap(guide.blocks(x).plate, gap.less(local), local, drawn.gaps.mean(0), units_se)


@dataclass(frozen=True)
class _Drawn:
    """The rows' gaps at draws of u, (draws, rows), and by how much their sum may be off beside its noise."""

    gaps: Tensor
    bias: float


@dataclass(frozen=True)
class _RowGaps:
    """log p(x_i | u) − ELBO_i(u) of each row, at draws of u."""

    density: RowDensities
    q: Blockwise

    def measured(self) -> _Drawn:
        """Return the gaps at as many draws as are affordable. Uses torch's generator."""
        model, x = self.density.model, self.density.x
        each = work(x, 1, model.latents(x).size)
        rough = float(self._at(self._shared(PILOTS), LOCAL)[1].sum(1).median())
        count = min(MOST, max(LOCAL, math.ceil(LOCAL * min(rough / VARIANCE, MOST))))
        draws = affordable(model, within(16 * PILOT, each * (count + LOCAL), 64, DRAWS), 64)
        parts = [self._at(u, count) for u in self._shared(draws).split(within(CACHED, each * count))]
        gaps, noise = (torch.cat(part) for part in zip(*parts, strict=True))
        bias = 0.5 * noise  # of log p̂: E log p̂ = log p − Var(p̂) / (2 p²) + …
        return _Drawn(gaps + bias, float(bias.sum(1).mean()))

    def _shared(self, draws: int) -> Tensor:
        found: Tensor = self.q.shared.sample(torch.Size([draws]))[:, 0]
        return found

    def _at(self, u: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return log p̂(x_i | u) − ELBO_i(u) of each row, (draws, rows), and the variance of p̂ over its square."""
        found = row_proposals(self.density, u, [self.q], torch.empty(0)).evidence(count)
        local, log_q = self.q.draw_local(u, LOCAL)
        elbo = (self.density(u, local)[1] - log_q).mean(0).double()
        return found.value.double() - elbo, found.variance.double()
