"""Normal families: independent, full covariance, and diagonal plus low rank."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from guides.families.family import Normal, Phi, Start
from guides.families.natural import Curvature
from zoo.distributions.low_rank_normal import LowRankNormal
from zoo.errors import ZooError, check_parameters


class MeanField(Normal):
    """q(z) = Π_j N(z_j | loc_j, scale_j²).

    φ: ``loc`` (d,), ``log_scale`` (d,).

    Source: Blei, Kucukelbir and McAuliffe (2017), Variational inference: a review for statisticians,
    https://arxiv.org/abs/1601.00670

    >>> phi = {"loc": torch.zeros(5, 2), "log_scale": torch.zeros(5, 2)}
    >>> MeanField().distribution(phi).batch_shape
    torch.Size([5])
    """

    def initial(self, start: Start) -> dict[str, Tensor]:
        return {"loc": start.loc.clone(), "log_scale": start.scale.log()}

    def distribution(self, phi: Phi) -> dist.Independent:
        q: dist.Independent = dist.Normal(phi["loc"], phi["log_scale"].exp(), validate_args=False).to_event(1)
        return q

    def transform(self, phi: Phi, noise: Tensor) -> Tensor:
        return phi["loc"] + phi["log_scale"].exp() * noise

    def scale_tril(self, phi: Phi) -> Tensor:
        return torch.diag_embed(phi["log_scale"].exp())

    def project(self, phi: Phi, matrix: Tensor) -> Tensor:
        return matrix * phi["log_scale"].exp()

    def curvature(self, phi: Phi, cross: Tensor) -> Curvature:
        return Curvature.of(phi["log_scale"].exp()[..., None] * cross)

    def natural_step(self, phi: Phi, slope: Tensor, curvature: Curvature, length: Tensor) -> Phi:
        scale = phi["log_scale"].exp()
        # The mean moves by the whole curvature, though q can only follow its diagonal: else correlated means would creep.
        own = (curvature.vectors.square() * curvature.downwards[:, None]).sum(-1)
        precision = 1 + length[:, None] * (own - 1)
        return {
            "loc": phi["loc"] + scale * curvature.solve(scale * slope, length),
            "log_scale": phi["log_scale"] - 0.5 * precision.log()}

    def from_preconditioned(self, phi: Phi, root: Tensor, y: Tensor) -> Phi:
        loc, log_scale = y.tensor_split(2, 1)
        return {
            "loc": phi["loc"] + phi["log_scale"].exp() * (root @ loc[..., None])[..., 0],
            "log_scale": phi["log_scale"] + math.sqrt(0.5) * log_scale}


class FullRank(Normal):
    """q(z) = N(z | loc, L Lᵀ), L lower triangular with a positive diagonal.

    φ: ``loc`` (d,), ``tril`` (d (d + 1) / 2,): L row by row, its diagonal in logarithms.

    Source: Kucukelbir et al. (2017), Automatic differentiation variational inference, https://arxiv.org/abs/1603.00788

    >>> phi = {"loc": torch.zeros(5, 2), "tril": torch.zeros(5, 3)}
    >>> FullRank().distribution(phi).covariance_matrix[0]
    tensor([[1., 0.],
            [0., 1.]])
    """

    def initial(self, start: Start) -> dict[str, Tensor]:
        size = start.loc.shape[-1]
        numbers = start.loc.numel() * (size + 3) // 2
        check_parameters(numbers, f"full_rank of {size:,} latents", "use low_rank, mean_field, or an encoder")
        _, diagonal = _triangle(size, start.loc.device)
        tril = start.loc.new_zeros(*start.loc.shape[:-1], len(diagonal))
        tril[..., diagonal] = start.scale.log()
        return {"loc": start.loc.clone(), "tril": tril}

    any_covariance = True

    def embed(self, phi: Phi, contained: Normal) -> dict[str, Tensor]:
        return self.of_normal(phi["loc"], contained.scale_tril(phi))

    def of_normal(self, loc: Tensor, scale_tril: Tensor) -> dict[str, Tensor]:
        return {"loc": loc, "tril": self._entries(scale_tril)}

    def scale_tril(self, phi: Phi) -> Tensor:
        """Return L, (units, d, d)."""
        size, tril = phi["loc"].shape[-1], phi["tril"]
        places, diagonal = _triangle(size, tril.device)
        entries = torch.where(diagonal, tril.exp(), tril)
        scale_tril = entries.new_zeros(*tril.shape[:-1], size * size).index_copy(-1, places, entries)
        return scale_tril.view(*tril.shape[:-1], size, size)

    def distribution(self, phi: Phi) -> dist.MultivariateNormal:
        return TrilNormal(phi["loc"], self.scale_tril(phi))

    def transform(self, phi: Phi, noise: Tensor) -> Tensor:
        return phi["loc"] + torch.einsum("uij,nuj->nui", self.scale_tril(phi), noise)

    def project(self, phi: Phi, matrix: Tensor) -> Tensor:
        return (self.scale_tril(phi)[0].mT @ matrix.mT).mT

    def curvature(self, phi: Phi, cross: Tensor) -> Curvature:
        # Of few draws' estimate the lower triangle: it is the gradient in L, and the identity just where that vanishes.
        return Curvature.of(self.scale_tril(phi).mT @ cross, lower=True)

    def natural_step(self, phi: Phi, slope: Tensor, curvature: Curvature, length: Tensor) -> Phi:
        factor = self.scale_tril(phi)
        white = (slope[:, None] @ factor)[:, 0]
        return {
            "loc": phi["loc"] + (factor @ curvature.solve(white, length)[..., None])[..., 0],
            "tril": self._entries(factor @ curvature.scale_tril(length))}

    def from_preconditioned(self, phi: Phi, root: Tensor, y: Tensor) -> Phi:
        factor = self.scale_tril(phi)
        loc, tril = y.split([phi["loc"].shape[-1], phi["tril"].shape[-1]], 1)
        places, diagonal = _triangle(factor.shape[-1], factor.device)
        # The ELBO curves twice as much in the logarithm of a diagonal entry: in the draws, and in the entropy.
        entries = tril * torch.where(diagonal, math.sqrt(0.5), 1.0).to(tril)
        # L = L₀ (I + step), to first order: the diagonal moves in logarithms, and stays positive.
        step = torch.zeros_like(factor).flatten(1).index_copy(1, places, entries).view_as(factor)
        return {
            "loc": phi["loc"] + (factor @ (root @ loc[..., None]))[..., 0],
            "tril": phi["tril"] + torch.where(diagonal, entries, (factor @ step).flatten(1).index_select(1, places))}

    @staticmethod
    def _entries(scale_tril: Tensor) -> Tensor:
        places, diagonal = _triangle(scale_tril.shape[-1], scale_tril.device)
        entries = scale_tril.flatten(-2).index_select(-1, places)
        return torch.where(diagonal, entries.abs().log(), entries)


@lru_cache(8)
def _triangle(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where the entries of a lower triangle lie in its matrix, row by row, and which of them are the diagonal's."""
    with torch.inference_mode(False):  # else they would be of no use outside of one that a caller may be in
        rows, columns = torch.tril_indices(size, size, device=device)
        return size * rows + columns, rows == columns


class TrilNormal(dist.MultivariateNormal):
    """torch's multivariate normal, from a mean (*batch, d) and a factor (*batch, d, d), without broadcasting of shapes.

    To broadcast shapes, torch first imports SymPy, and this import takes longer than most fits.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor):
        self.loc, self.scale_tril, self._unbroadcasted_scale_tril = loc, scale_tril, scale_tril
        Distribution.__init__(self, loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TrilNormal:
        shape = torch.Size(batch_shape)
        return TrilNormal(self.loc.expand(*shape, -1), self.scale_tril.expand(*shape, -1, -1))


class LowRank(Normal):
    """q(z) = N(z | loc, S (I + B Bᵀ) S), S = diag(scale), B of ``rank`` columns.

    φ: ``loc`` (d,), ``log_scale`` (d,), ``loadings`` B (d, rank). The low-rank part is in units of the scale. So the units of
    the coordinates do not make it harder to fit, and the density stays computable if a scale nearly vanishes.

    Args:
        rank: columns of B, from 1 to d; ``None``: 2, or 1 where d is 1.

    Raises:
        ZooError: the rank is not a whole number above 0.

    Source: Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance structure,
    https://arxiv.org/abs/1701.03208

    >>> phi = {"loc": torch.zeros(5, 3), "log_scale": torch.zeros(5, 3), "loadings": torch.ones(5, 3, 1)}
    >>> LowRank(1).distribution(phi).variance[0]
    tensor([2., 2., 2.])
    """

    complete = False

    def __init__(self, rank: int | None = None):
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
            raise ZooError(f"expected the rank of low_rank to be a whole number above 0; got {rank}; write e.g. low_rank(2)")
        self.rank = rank

    def initial(self, start: Start) -> dict[str, Tensor]:
        rank = self._rank(start.loc.shape[-1])
        if rank > start.loc.shape[-1]:
            raise ZooError(
                f"expected the rank of low_rank to be at most the {start.loc.shape[-1]} latent dimensions; got {rank}; "
                "lower it, or use full_rank")
        zeros = start.loc.new_zeros(*start.loc.shape, rank)
        return self.loosen({"loc": start.loc.clone(), "log_scale": start.scale.log(), "loadings": zeros})

    def embed(self, phi: Phi, contained: Normal) -> dict[str, Tensor]:
        loc = phi["loc"]
        return {"loc": loc, "log_scale": phi["log_scale"], "loadings": loc.new_zeros(*loc.shape, self._rank(loc.shape[-1]))}

    def loosen(self, phi: Phi) -> dict[str, Tensor]:
        # B = 0 is a stationary point of the ELBO, so the loadings start off it.
        return {**phi, "loadings": phi["loadings"] + 0.1 * torch.randn_like(phi["loadings"])}

    def _rank(self, size: int) -> int:
        return min(2, size) if self.rank is None else self.rank

    def scale_tril(self, phi: Phi) -> Tensor:
        loadings = phi["loadings"]
        inner = torch.eye(loadings.shape[-2]).to(loadings) + loadings @ loadings.mT
        factor: Tensor = torch.linalg.cholesky(inner)
        return phi["log_scale"].exp()[..., None] * factor

    def distribution(self, phi: Phi) -> LowRankNormal:
        return LowRankNormal(phi["loc"], phi["loadings"], phi["log_scale"].exp())

    def noise_size(self, phi: Phi) -> int:
        return phi["loc"].shape[-1] + phi["loadings"].shape[-1]

    def transform(self, phi: Phi, noise: Tensor) -> Tensor:
        size = phi["loc"].shape[-1]
        own, shared = noise[..., :size], noise[..., size:]
        return phi["loc"] + phi["log_scale"].exp() * (own + torch.einsum("uij,nuj->nui", phi["loadings"], shared))

    # The first d numbers of the noise move z as an independent normal's do, and tell the same curvature. Natural steps move
    # that part alone: what the loadings add is left to the ascent that follows.

    def curvature(self, phi: Phi, cross: Tensor) -> Curvature:
        return MeanField().curvature(phi, cross)

    def natural_step(self, phi: Phi, slope: Tensor, curvature: Curvature, length: Tensor) -> Phi:
        return {**MeanField().natural_step(phi, slope, curvature, length), "loadings": phi["loadings"]}

    def from_preconditioned(self, phi: Phi, root: Tensor, y: Tensor) -> Phi:
        own, loadings = y.tensor_split([2 * phi["loc"].shape[-1]], 1)
        steps = loadings.reshape(phi["loadings"].shape)
        return {**MeanField().from_preconditioned(phi, root, own), "loadings": phi["loadings"] + steps}
