"""The family of normalising flows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from guides.families.family import Family, Normal, Phi, Start
from guides.families.gaussian import FullRank
from zoo.nn.flows import FlowDistribution, Triangular, build_flow, compose, damp

#: Length of the vector by which units choose among the flow's maps.
CONTEXT = 8


class FlowFamily(nn.Module, Family):
    """q(z): z = loc + L · G(ε; context), ε ~ N(0, I), L lower triangular, G a flow near the identity at the start.

    φ: ``loc`` (d,), ``tril`` (d (d + 1) / 2,) as in :class:`guides.families.gaussian.FullRank`, ``context`` (8,; none for a
    single unit). The network that turns the context into the map G belongs to the family. All units share the network, and it
    is fitted with φ: "the best member" of this family is the best φ of each unit under the best such network. If G is the
    identity, the family is ``full_rank``.

    Where each unit has its own φ, z is written in the coordinates of a normal that stays fixed: z = centre + factor ·
    (loc + L · G(ε)). If a fit begins at a fitted normal, these are the coordinates of that normal, so a step of Adam is a share
    of the posterior's scale, whatever the units and correlations of the latents.

    Args:
        kind: a key of ``zoo.nn.flows.FLOWS``. Draws take one pass through each kind of flow; the density of an arbitrary z
            takes d passes through ``maf``. A spline moves no draw by more than ten scales, so a fit far from its end stays
            finite; ``realnvp`` is twice as quick, but its shifts are unbounded, and on a variance in logarithms it overflows
            within ten steps.
        layers: the number of layers.
        hidden: the widths of each layer's network.

    Raises:
        ZooError: an unknown kind, no layers.

    Source: Rezende and Mohamed (2015), Variational inference with normalizing flows, https://arxiv.org/abs/1505.05770;
    Kingma et al. (2016), Improving variational inference with inverse autoregressive flow, https://arxiv.org/abs/1606.04934

    >>> family = FlowFamily()
    >>> phi = family.initial(Start(torch.zeros(5, 2), torch.ones(5, 2), None))
    >>> family.distribution(phi).rsample((3,)).shape
    torch.Size([3, 5, 2])
    """

    learning_rate = 0.01

    def __init__(self, kind: str = "spline", layers: int = 3, hidden: Sequence[int] = (32, 32)):
        super().__init__()
        self.kind, self.layers, self.hidden = kind, layers, hidden

    def initial(self, start: Start) -> dict[str, Tensor]:
        units, size = start.loc.shape
        context = CONTEXT if units > 1 else 0
        self.network = build_flow(self.kind, size, context, self.layers, self.hidden, "a flow guide").to(start.loc)
        return {**FullRank().initial(start), **_contexts(start.loc, context)}

    def embed(self, phi: Phi, contained: Normal) -> dict[str, Tensor]:
        loc, factor = phi["loc"], contained.scale_tril(phi)
        damp(self.network, 0.0)
        standard = FullRank().initial(Start(torch.zeros_like(loc), torch.ones_like(loc), None))
        context = _contexts(loc, CONTEXT if len(loc) > 1 else 0)
        return {**standard, **context, "centre": loc, "factor": factor}

    def constants(self, phi: Phi) -> dict[str, Tensor]:
        loc = phi["loc"]
        return {"centre": torch.zeros_like(loc), "factor": torch.diag_embed(torch.ones_like(loc))}

    def distribution(self, phi: Phi) -> FlowDistribution:
        context = phi["context"] if phi["context"].shape[-1] else None
        loc, scale_tril = phi["loc"], FullRank().scale_tril(phi)
        if "factor" in phi:
            loc = phi["centre"] + (phi["factor"] @ loc[..., None])[..., 0]
            scale_tril = phi["factor"] @ scale_tril
        return FlowDistribution(compose(Triangular(loc, scale_tril), self.network(context).inv), loc)


def _contexts(loc: Tensor, size: int) -> dict[str, Tensor]:
    """Draw the units' contexts: off zero, where the weights that read them would have no gradient."""
    return {"context": 0.1 * torch.randn(len(loc), size, dtype=loc.dtype, device=loc.device)}
