"""The family of mixtures of diagonal normals."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from guides.families.family import Family, Normal, Phi, Start
from zoo.errors import ZooError, check_parameters

#: Components, at most.
COMPONENTS = 1000


class MixtureFamily(Family):
    """q(z) = Σ_k π_k Π_j N(z_j | loc_kj, scale_kj²).

    φ: ``logits`` (K,), ``loc`` (K, d), ``log_scale`` (K, d).

    Args:
        components: K, from 2 to :data:`COMPONENTS`.

    Raises:
        ZooError: fewer components or more, or too many for so many units.

    Source: Bishop et al. (1998), Approximating posterior distributions in belief networks using mixtures,
    https://papers.nips.cc/paper/1392; the gradient: Figurnov, Mohamed and Mnih (2018), Implicit reparameterization gradients,
    https://arxiv.org/abs/1805.08498

    >>> family = MixtureFamily(3)
    >>> phi = family.initial(Start(torch.zeros(5, 2), torch.ones(5, 2), None))
    >>> family.distribution(phi).rsample((4,)).shape
    torch.Size([4, 5, 2])
    """

    spreads = True

    def __init__(self, components: int = 4):
        if not isinstance(components, int) or isinstance(components, bool) or not 2 <= components <= COMPONENTS:
            raise ZooError(
                f"expected the components of mixture to be from 2 to {COMPONENTS:,}; got {components}; write e.g. mixture(4)")
        self.components = components

    def initial(self, start: Start) -> dict[str, Tensor]:
        units, size = start.loc.shape
        check_parameters(units * self.components * (2 * size + 1), f"a mixture of {units:,} units", "lower its components")
        # The same offsets for all units, so that an encoder, which starts at the units' mean, keeps the components apart.
        # They are centred: of two that begin on one side of a unit's start, both end on the mode that lies there.
        # The start's scale is a tenth of the prior's: five of them are half of it.
        drawn = torch.randn(self.components, size, dtype=start.loc.dtype, device=start.loc.device)
        offset = 5 * (drawn - drawn.mean(0))
        return {
            "logits": start.loc.new_zeros(units, self.components),
            "loc": start.loc[:, None] + start.scale[:, None] * offset,
            "log_scale": start.scale.log()[:, None].expand(-1, self.components, -1).clone()}

    def embed(self, phi: Phi, contained: Normal) -> dict[str, Tensor]:
        alike = {name: phi[name][:, None].repeat(1, self.components, 1) for name in ("loc", "log_scale")}
        return {"logits": phi["loc"].new_zeros(len(phi["loc"]), self.components), **alike}

    def loosen(self, phi: Phi) -> dict[str, Tensor]:
        # Components that are alike have the same gradients: they would stay one normal.
        offset = 0.5 * torch.randn_like(phi["loc"])
        return {**phi, "loc": phi["loc"] + phi["log_scale"].exp() * (offset - offset.mean(1, keepdim=True))}

    def distribution(self, phi: Phi) -> MixtureOfNormals:
        return MixtureOfNormals(phi["logits"], phi["loc"], phi["log_scale"].exp())


class MixtureOfNormals(TorchDistribution):
    """A mixture of diagonal normals with reparameterised draws, in any dimension.

    Args:
        logits: (*batch, K).
        loc, scale: (*batch, K, d).
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor):
        self.log_weights, self.loc, self.scale = logits.log_softmax(-1), loc, scale
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfNormals:
        parts = (self.log_weights, self.loc, self.scale)
        events = (self.log_weights.shape[-1:], self.loc.shape[-2:], self.scale.shape[-2:])
        return MixtureOfNormals(*(p.expand(*batch_shape, *event) for p, event in zip(parts, events, strict=True)))

    @property
    def mean(self) -> Tensor:
        return torch.einsum("...k,...kd->...d", self.log_weights.exp(), self.loc)

    @property
    def variance(self) -> Tensor:
        within = self.scale.square() + (self.loc - self.mean[..., None, :]).square()
        return torch.einsum("...k,...kd->...d", self.log_weights.exp(), within)

    def log_prob(self, value: Tensor) -> Tensor:
        return (self.log_weights + self._coordinates(value).sum(-1)).logsumexp(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            which = torch.distributions.Categorical(logits=self.log_weights, validate_args=False).sample(sample_shape)
            index = which[..., None, None].expand(*shape, 1, *self.event_shape)
            loc = self.loc.expand(*shape, *self.loc.shape[-2:]).gather(-2, index)[..., 0, :]
            scale = self.scale.expand(*shape, *self.scale.shape[-2:]).gather(-2, index)[..., 0, :]
            return loc + scale * torch.randn_like(loc)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw z with its derivative in the parameters by implicit reparameterisation.

        u_j = F(z_j | z_1 … z_{j−1}) is uniform whatever the parameters: du_j = 0, so dz_j = −(∂F + Σ_i ∂F/∂z_i dz_i) / p(z_j).
        Coordinate by coordinate, each draw is its value minus a term that is zero and has that derivative.
        """
        z = self.sample(sample_shape)
        joint, drawn = self.log_weights, []
        for j in range(z.shape[-1]):
            loc, scale, value = self.loc[..., j], self.scale[..., j], z[..., j, None]
            share = joint.softmax(-1)
            standard = (value - loc) / scale
            cdf = (share * torch.special.ndtr(standard)).sum(-1)
            density = (share * _log_normal(standard, scale).exp()).sum(-1).detach()
            drawn.append(z[..., j] - (cdf - cdf.detach()) / density.clamp(min=torch.finfo(z.dtype).tiny))
            joint = joint + _log_normal((drawn[-1][..., None] - loc) / scale, scale)
        return torch.stack(drawn, -1)

    def stratified_rsample(self, draws: int) -> tuple[Tensor, Tensor]:
        """Draw as many z from each component, ``draws`` or more in all; return z (n, *batch, d) and log shares (n, *batch).

        Means under q are sums of exp(log share) f(z). The weights' derivatives are in the shares: :meth:`rsample` has them in z
        alone, where few draws between components that lie apart carry all of them, and hardly any fit ever sees one.

        Source: Morningstar et al. (2021), Automatic differentiation variational inference with mixture families,
        https://arxiv.org/abs/2003.01687
        """
        components = self.loc.shape[-2]
        each = -(-draws // components)
        loc, scale = self.loc.movedim(-2, 0), self.scale.movedim(-2, 0)
        noise = torch.randn((each, *loc.shape), dtype=loc.dtype, device=loc.device)
        log_share = self.log_weights.movedim(-1, 0) - math.log(each)
        return (loc + scale * noise).flatten(0, 1), log_share.expand(each, *log_share.shape).flatten(0, 1)

    def _coordinates(self, value: Tensor) -> Tensor:
        """log N(z_j | loc_kj, scale_kj²), (…, K, d)."""
        return _log_normal((value[..., None, :] - self.loc) / self.scale, self.scale)


def _log_normal(standard: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)
