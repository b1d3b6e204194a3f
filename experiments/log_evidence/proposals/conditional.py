"""Proposals of rows' own latents given those that they share: normals at their modes, heavier tails, and the guide's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from experiments.log_evidence.proposals.lattice import ALONG, Lattice
from experiments.log_evidence.proposals.mixture import Tails
from experiments.optimisers.newton import derivatives
from zoo.data import Data
from zoo.model import Model
from zoo.program.failures.tolerance import tolerant
from zoo.program.sites.blocks import Blocks
from zoo.structure.blocks import blocks, log_block_terms
from zoo.structure.blockwise import Blockwise

#: Local latents of a row up to which their curvature is computed.
FEW = 16
#: Shared latents up to which they are proposed at all.
SHARED = 64
#: Newton's steps to the modes of local latents, at most; nats that a step promises where it is the last.
STEPS, NEAR = 30, 1e-6
#: Shares of the proposals: the normal at the mode, the same with heavier tails and twice as wide, and the guide's own.
SHARES = (0.7, 0.15, 0.15)
#: Spread of conditional log weights, relative to their size, up to which the normal at the mode is the conditional posterior.
EXACT = 1e-9
#: The variance of Σ_i log p̂(x_i | u) over lattices, as their halves tell it, beyond which draws are taken in their place.
ROUGH = 0.1


def proposes(model: Model, x: Data) -> bool:
    """Return whether rows share latents and own others, few enough for a mode of each row's, of a program that vmap runs."""
    found = None if model.latents(x).discrete else blocks(model, x)
    return found is not None and found.both and found.local.shape[1] <= FEW and model.runner.draws.vectorised


def nests(model: Model, x: Data) -> bool:
    """Return whether rows share latents and own others, of either few enough."""
    found = blocks(model, x) if proposes(model, x) else None
    return found is not None and len(found.shared) <= SHARED


@dataclass(frozen=True)
class RowDensities:
    """log p(u) and log p(x_i, z_i | u) of a model in nats, at draws of both blocks: −∞ or NaN where they can't be evaluated."""

    model: Model
    x: Data
    blocks: Blocks

    def __call__(self, shared: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u), (draws,), and log p(x_i, z_i | u), (count, draws, rows).

        Args:
            shared: u, (draws, d_shared).
            local: z, (count, draws, rows, d_local).
        """
        count, draws = local.shape[:2]
        z = self.blocks.join(shared.repeat(count, 1), local.flatten(0, 1))
        (prior, rows), _ = tolerant(lambda part: log_block_terms(self.model, self.x, part), z, [], [self.blocks.rows])
        return prior[:draws], rows.reshape(count, draws, -1)


@dataclass(frozen=True)
class RowEvidence:
    """log p(x_i | u) of each row in nats, at draws of u, and draws of the rows' latents.

    Attributes:
        prior: log p(u), (draws,).
        value: log p̂(x_i | u), of which p̂ is unbiased, (draws, rows).
        variance: of p̂(x_i | u), over its square, (draws, rows).
        local: z_i ~ p(z_i | x_i, u), about, (draws, rows, d_local).
    """

    prior: Tensor
    value: Tensor
    variance: Tensor
    local: Tensor


@dataclass(frozen=True)
class LocalProposal:
    """Proposals of the rows' latents at given draws of the shared ones: a mixture, whatever of it there is.

    The mixture is of a normal at the modes of log p(x_i, z_i | u), of a Student's t there, twice as wide, and of the guide's
    q(z_i | u).

    Attributes:
        density: the rows' densities.
        shared: u, (draws, d_shared).
        loc, scale_tril: of the normal, of batch shape (draws, rows).
        guide: the guide, if it has two blocks.
        exact: whether the normal is p(z_i | x_i, u): then it is alone.
    """

    density: RowDensities
    shared: Tensor
    loc: Tensor
    scale_tril: Tensor
    guide: Blockwise | None
    exact: bool = False

    @classmethod
    def at(cls, density: RowDensities, shared: Tensor, start: Tensor, guide: Blockwise | None) -> LocalProposal:
        """Climb to the modes from ``start`` (draws, rows, d_local), and return the proposal there. Uses torch's generator."""
        found = cls(density, shared, *modes(density, shared, start), guide)
        z = found.normal.sample(torch.Size([4]))
        log_weight = density(shared, z)[1] - found.normal.log_prob(z)
        spread = (log_weight.amax(0) - log_weight.amin(0)) / (1 + log_weight.abs().amax(0))
        return replace(found, exact=bool((spread <= max(EXACT, 64 * torch.finfo(spread.dtype).eps)).all()))

    @property
    def normal(self) -> MultivariateNormal:
        return MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)

    @property
    def tails(self) -> Tails:
        return Tails(self.loc, 2 * self.scale_tril)

    @property
    def shares(self) -> tuple[float, ...]:
        if self.exact:
            return (1.0, 0.0, 0.0)
        return SHARES if self.guide is not None else (SHARES[0] + SHARES[2], SHARES[1], 0.0)

    def sample(self, count: int) -> Tensor:
        """Draw z, (count, draws, rows, d_local): each row's from a component of its own."""
        parts = [self.normal.sample(torch.Size([count])), self.tails.sample(torch.Size([count]))]
        if self.guide is not None:
            parts.append(self.guide.draw_local(self.shared, count)[0].to(parts[0]))
        shares = torch.tensor(self.shares[: len(parts)]).to(parts[0])
        which = torch.multinomial(shares, parts[0][..., 0].numel(), replacement=True).view(parts[0].shape[:-1])
        drawn = torch.stack(parts)
        return drawn.gather(0, which[None, ..., None].expand(1, *drawn.shape[1:]))[0]

    def log_prob(self, local: Tensor) -> Tensor:
        """Return the log density at z (count, draws, rows, d_local): (count, draws, rows)."""
        parts = [self.normal.log_prob(local), self.tails.log_prob(local)]
        if self.guide is not None:
            parts.append(self.guide.local_log_prob(self.shared, local).to(parts[0]))
        kept = [part + math.log(share) for part, share in zip(parts, self.shares, strict=False) if share]
        return torch.stack(kept).logsumexp(0)

    def log_weights(self, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u), (draws,), and the log weights of z, (count, draws, rows), −∞ where there is no density."""
        prior, rows = self.density(self.shared, local)
        return prior, (rows - self.log_prob(local)).nan_to_num(nan=-math.inf)

    def evidence(self, count: int, own: Tensor | None = None) -> RowEvidence:
        """Estimate log p(x_i | u): from two draws where the normal is exact, over a lattice of one or two latents, or else,
        and where the lattice does not do, from ``count`` draws. Uses torch's generator.

        Args:
            count: how many draws, or places of the lattice at least.
            own: draws of the posterior, (draws, rows, d_local), which are to be one of each row's.
        """
        if self.exact or self.loc.shape[-1] not in ALONG:
            return self._sampled(2 if self.exact else count, own)
        lattice = Lattice.about(self.loc, self.scale_tril, own)
        prior, log_density = self.density(self.shared, lattice.z)
        value, variance, reaches = lattice.total(log_density)
        found = RowEvidence(prior, value, variance, _chosen(lattice.z, log_density + lattice.log_volume))
        left = (~reaches.all(1) | ~(variance.sum(1) <= ROUGH)).nonzero()[:, 0]
        if not len(left):
            return found
        drawn = self._of(left)._sampled(count, None if own is None else own[left])
        return RowEvidence(*(
            getattr(found, name).index_copy(0, left, getattr(drawn, name)) for name in RowEvidence.__annotations__))

    def _of(self, index: Tensor) -> LocalProposal:
        """Return the proposal at some of the draws of u."""
        return replace(self, shared=self.shared[index], loc=self.loc[index], scale_tril=self.scale_tril[index])

    def _sampled(self, count: int, own: Tensor | None) -> RowEvidence:
        local = self.sample(count)
        if own is not None:
            local[0] = own
        prior, weight = self.log_weights(local)
        value = weight.logsumexp(0) - math.log(count)
        variance = ((weight - value).exp().var(0) / count).nan_to_num(nan=math.inf)
        return RowEvidence(prior, value, variance, _chosen(local, weight))


def _chosen(local: Tensor, weight: Tensor) -> Tensor:
    """Return one of the rows' z (K, draws, rows, d) by their log weights (K, draws, rows): (draws, rows, d)."""
    share = weight.softmax(0).nan_to_num(nan=1 / len(weight)).movedim(0, -1)
    which = torch.multinomial(share.reshape(-1, len(weight)), 1).view(1, *weight.shape[1:], 1)
    return local.gather(0, which.expand(1, *local.shape[1:]))[0]


def modes(density: RowDensities, shared: Tensor, start: Tensor, near: float = NEAR) -> tuple[Tensor, Tensor]:
    """Climb each row's log p(x_i, z_i | u) from ``start`` (draws, rows, d) by Newton's steps; return where they lead.

    A step takes the eigenvalues of the curvature by their size, and counts only for rows that rise; others halve it. Any place
    will do for a proposal: rows that do not settle are left where they are. They have settled where a step promises less than
    ``near`` nats.

    Returns:
        the places (draws, rows, d), and the Cholesky factors (draws, rows, d, d) of the inverse curvature there.
    """
    draws, rows, size = start.shape

    def log_joint(z: Tensor) -> Tensor:
        return log_block_terms(
            density.model, density.x, density.blocks.join(shared.repeat(len(z), 1), z.reshape(-1, rows, size))
        )[1].reshape(len(z), draws * rows)

    z = start.detach().reshape(-1, size)
    length = torch.ones_like(z[:, :1])
    value, gradient, hessian = derivatives(log_joint, z)
    for _ in range(STEPS):
        values, vectors = _curvature(hessian)
        step = (vectors @ ((vectors.mT @ gradient[..., None]) / values[..., None]))[..., 0].nan_to_num()
        if bool(((gradient * step).sum(-1) * length[:, 0] < near).all()):
            break
        trial = z + length * step
        higher, slope, curved = derivatives(log_joint, trial)
        rises = (higher >= value)[:, None]
        z, gradient = torch.where(rises, trial, z), torch.where(rises, slope, gradient)
        value, hessian = torch.where(rises[:, 0], higher, value), torch.where(rises[..., None], curved, hessian)
        length = torch.where(rises, (2 * length).clamp(max=1.0), 0.25 * length)
    values, vectors = _curvature(hessian)
    inverse = (vectors / values[..., None, :]) @ vectors.mT
    factor = inverse.sqrt() if size == 1 else torch.linalg.cholesky(inverse)
    return z.reshape(start.shape), factor.reshape(draws, rows, size, size)


def _curvature(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sizes of the eigenvalues (n, d) of −``hessian`` (n, d, d), away from 0, and its eigenvectors (n, d, d)."""
    if hessian.shape[-1] == 1:  # of very many numbers, a decomposition takes a hundred times as long as their sizes
        number = hessian[..., 0].nan_to_num(nan=1.0, posinf=1.0, neginf=1.0).abs().clamp(min=1e-6)
        return number, torch.ones_like(hessian)
    whole = torch.where(hessian.isfinite().all(-1).all(-1)[:, None, None], -hessian, torch.eye(hessian.shape[-1]).to(hessian))
    values, vectors = torch.linalg.eigh(whole)
    size = values.abs()
    return size.clamp(min=1e-6).maximum(1e-8 * size.amax(-1, keepdim=True)), vectors


def row_proposals(
    density: RowDensities, shared: Tensor, guides: Sequence[Blockwise], start: Tensor,
) -> LocalProposal:
    """Return the proposal at u = ``shared`` (draws, d_shared): the first guide of two blocks has a share, and begins climbs.

    ``start`` (rows, d_local) begins them where there is none.
    """
    guide = guides[0] if guides else None
    if guide is None:
        return LocalProposal.at(density, shared, start.expand(len(shared), *start.shape), None)
    with torch.no_grad():
        begin = guide.draw_local(shared, 8)[0].mean(0).to(shared)
    return LocalProposal.at(density, shared, begin, guide)
