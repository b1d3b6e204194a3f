"""Priors p(z) with parameters, for models with a decoder network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.nn.flows import FlowDistribution, build_flow
from zoo.nn.networks import mlp


class LatentPrior(nn.Module):
    """A distribution over a unit's latent vector: called, it returns one of event (latent,).

    Args:
        x: the data, for priors that look at it.
        latent: d.
        components: of a mixture.
    """

    def __init__(self, x: Tensor, latent: int, components: int):
        super().__init__()
        self.register_buffer("zero", x.new_zeros(latent))

    zero: Tensor

    def forward(self) -> Any:
        raise NotImplementedError("a prior says what its distribution is")


class Standard(LatentPrior):
    """N(0, I)."""

    def forward(self) -> Any:
        return dist.Normal(self.zero, 1.0).to_event(1)


class Mixture(LatentPrior):
    """Σ_k π_k N(m_k, diag(s_k²)): a GMM prior, θ: ``logits``, ``loc``, ``log_scale``."""

    def __init__(self, x: Tensor, latent: int, components: int):
        super().__init__(x, latent, components)
        if components < 2:
            raise ZooError(f"expected at least 2 components for a mixture prior; got {components}; raise --components")
        self.logits = nn.Parameter(x.new_zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent).to(x))
        self.log_scale = nn.Parameter(x.new_zeros(components, latent))

    def parts(self) -> tuple[Tensor, Any]:
        """Return the logits (K,) and the components, batch (K,), event (latent,)."""
        return self.logits, dist.Normal(self.loc, self.log_scale.exp()).to_event(1)

    def forward(self) -> Any:
        logits, components = self.parts()
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(component = k | z), (…, K), for z (…, latent)."""
        logits, components = self.parts()
        joint: Tensor = logits.log_softmax(-1) + components.log_prob(z[..., None, :])
        return joint.softmax(-1)


class Vamp(Mixture):
    """Σ_k π_k N(m(u_k), diag(s²(u_k))): the components are a network's answers to learned pseudo-inputs u_k.

    The model owns the network: what p(z) is must not depend on the guide that it is compared with. To tie the two, as the
    original does, pass ``model.prior.network`` as the encoder's network.

    Source: Tomczak and Welling (2018), VAE with a VampPrior, https://arxiv.org/abs/1705.07120
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, x: Tensor, latent: int, components: int):
        super().__init__(x, latent, components)
        if components > len(x):
            raise ZooError(
                f"expected at most as many components as the {len(x)} rows for a vamp prior; got {components}; lower it")
        del self.loc, self.log_scale
        # As an encoder reads its columns, so that the two can share a network.
        spread = x.std(0, unbiased=False)
        self.register_buffer("centre", x.mean(0))
        self.register_buffer("spread", torch.where(spread > 0, spread, torch.ones_like(spread)))
        self.pseudo_inputs = nn.Parameter(x[torch.randperm(len(x))[:components]].clone())
        self.network = mlp(x.shape[1], 2 * latent, (64,)).to(x)

    def parts(self) -> tuple[Tensor, Any]:
        loc, log_scale = self.network((self.pseudo_inputs - self.centre) / self.spread).chunk(2, -1)
        return self.logits, dist.Normal(loc, log_scale.exp()).to_event(1)


class FlowOfNormals(LatentPrior):
    """A normalising flow of standard normals, by coupling splines."""

    def __init__(self, x: Tensor, latent: int, components: int):
        super().__init__(x, latent, components)
        self.network = build_flow("spline", latent, hidden=(32, 32), what="a flow prior").to(x)

    def forward(self) -> FlowDistribution:
        return FlowDistribution(self.network(), self.zero)


PRIORS: Mapping[str, type[LatentPrior]] = {
    "standard": Standard, "mixture": Mixture, "vamp": Vamp, "flow": FlowOfNormals}
