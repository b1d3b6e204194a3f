"""The variational family: the shapes of φ, and how φ becomes a distribution over a unit's latent vector."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from guides.families.natural import Curvature
    from zoo.data import Data
    from zoo.model import Model

Phi = Mapping[str, Tensor]

PRIOR_DRAWS = 64


@dataclass(frozen=True)
class Start:
    """Where fits begin: ``loc`` and ``scale`` (units, d), and the support (K, d) of discrete latents.

    The scale is a tenth of the prior's scale, so the first draws lie close together, whatever the units of the coordinates.
    """

    loc: Tensor
    scale: Tensor
    values: Tensor | None

    @classmethod
    def of(cls, model: Model, x: Data) -> Start:
        """Take the model's own start, or the prior's median. Uses torch's generator."""
        from zoo.data import reference

        latents, like = model.latents(x), reference(x)
        if latents.discrete:
            empty = like.new_zeros(latents.units, latents.size)
            return cls(empty, empty, latents.support().to(like))
        draws = model.sample_prior(x, PRIOR_DRAWS)
        quartiles = torch.quantile(draws, torch.tensor([0.25, 0.5, 0.75]).to(draws), 0)
        scale = 0.1 * ((quartiles[2] - quartiles[0]) / 1.349).clamp(1e-3, 1e3)
        loc = own_start(model, x)
        return cls(quartiles[1] if loc is None else loc, scale, None)

    @classmethod
    def standard(cls, model: Model, x: Data) -> Start:
        """Take standard normals, or the support of discrete latents: what needs no draw."""
        from zoo.data import reference

        latents, like = model.latents(x), reference(x)
        loc = like.new_zeros(latents.units, latents.size)
        return cls(loc, loc + 1, latents.support().to(like) if latents.discrete else None)


def own_start(model: Model, x: Data) -> Tensor | None:
    """Return the coordinates (units, d) of the model's own start; ``None`` where it has none."""
    values = model.start(x)
    return model.unconstrain(x, {k: v[None] for k, v in values.items()})[0].detach() if values else None


class Family(abc.ABC):
    """A family of distributions, without any network: φ is a dict of unconstrained tensors (units, *shape)."""

    #: Whether its distributions have a finite support, over which an ELBO is a sum.
    finite_support = False
    #: The largest learning rate of Adam that the family bears where nobody says.
    learning_rate = 1.0
    #: Whether the family's own start finds what a start at a contained member misses: other modes.
    spreads = False

    @abc.abstractmethod
    def initial(self, start: Start) -> dict[str, Tensor]:
        """Return φ at the start of a fit; its keys and shapes are the family's."""

    @abc.abstractmethod
    def distribution(self, phi: Phi) -> Distribution:
        """Return q(z; φ): batch shape (units,), event shape (d,).

        It needs ``rsample``, ``log_prob`` and ``expand``; stock Pyro draws from it, too.
        """

    def embed(self, phi: Phi, contained: Normal) -> dict[str, Tensor]:
        """Return the φ, all entries of :meth:`initial`, at which this family is the normal that ``contained`` has at ``phi``.

        Which families a family contains is in ``guides.registry``.

        Raises:
            NotImplementedError: the family contains none.
        """
        raise NotImplementedError(f"{type(self).__name__} contains no other family")

    def loosen(self, phi: Phi) -> Phi:
        """Return a φ near an embedded one from which gradients lead on: an embedded φ may be a stationary point of the ELBO.

        Uses torch's generator.
        """
        return phi

    def constants(self, phi: Phi) -> dict[str, Tensor]:
        """Return what q depends on beside φ where each unit has its own: entries (units, *shape) that :meth:`embed` sets and
        no fit moves."""
        return {}

    def solve(self, log_joint: Tensor) -> dict[str, Tensor] | None:
        """Return the φ that maximises the ELBO where that is known in closed form, from log p(x, z) at all values (K, units).

        ``None`` where it is not: then φ is fitted.
        """
        return None


class NormalBase(Family):
    """A family whose draws are a map of standard normal noise, so that draws can be held fixed while φ moves."""

    @abc.abstractmethod
    def noise_size(self, phi: Phi) -> int:
        """Return how many standard normals a draw takes."""

    @abc.abstractmethod
    def transform(self, phi: Phi, noise: Tensor) -> Tensor:
        """Return z (draws, units, d) from ``noise`` (draws, units or 1, noise_size)."""


class Normal(NormalBase):
    """A family of normals z = loc + S ε that can be climbed by natural gradients.

    See :mod:`guides.families.natural`. In the methods, ``slope`` is E[∇ log p], (units, d), and ``cross`` is E[∇ log p εᵀ],
    (units, d, d), where ∇ log p is the gradient of log p(x, z) in z, and ε has the first d numbers of the noise.

    Attributes:
        complete: whether natural steps move all of φ, so that the family has no better normal where the steps come to rest.
        any_covariance: whether the family contains normals of any covariance, see :meth:`of_normal`.
    """

    complete = True
    any_covariance = False

    def noise_size(self, phi: Phi) -> int:
        return phi["loc"].shape[-1]

    @abc.abstractmethod
    def curvature(self, phi: Phi, cross: Tensor) -> Curvature:
        """Return the curvature that q meets."""

    @abc.abstractmethod
    def natural_step(self, phi: Phi, slope: Tensor, curvature: Curvature, length: Tensor) -> Phi:
        """Return φ after a natural-gradient step of ``length`` (units,), from 0 to 1, each unit's own."""

    def project(self, phi: Phi, matrix: Tensor) -> Tensor:
        """Return A S of the one unit, (n, noise_size), for ``matrix`` A (n, d): how A z moves with the noise."""
        noise = torch.eye(self.noise_size(phi)).to(matrix)[:, None]
        factor = (self.transform(phi, noise) - phi["loc"])[:, 0]  # Sᵀ by rows
        return (factor @ matrix.mT).mT

    @abc.abstractmethod
    def scale_tril(self, phi: Phi) -> Tensor:
        """Return the lower triangular factor of q's covariance, (units, d, d)."""

    def of_normal(self, loc: Tensor, scale_tril: Tensor) -> dict[str, Tensor]:
        """Return the φ of N(loc, L Lᵀ), from ``loc`` (units, d) and L = ``scale_tril`` (units, d, d).

        Raises:
            NotImplementedError: the family does not hold normals of any covariance.
        """
        raise NotImplementedError(f"{type(self).__name__} does not hold normals of any covariance")

    @abc.abstractmethod
    def from_preconditioned(self, phi: Phi, root: Tensor, y: Tensor) -> Phi:
        """Return the φ at coordinates ``y`` (units, size) about ``phi``, in which the ELBO curves alike in all directions.

        ``root`` is that of the curvature. Of y, the mean's coordinates come first.
        """
