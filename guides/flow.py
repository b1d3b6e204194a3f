"""The family of normalising flows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from guides.family import Family, Phi, Start
from zoo.flows import FlowDistribution, build_flow, compose, standardise

#: Length of the vector by which units choose among the flow's maps.
CONTEXT = 8


class FlowFamily(nn.Module, Family):
    """q(z): z = loc + scale · G(ε; context), ε ~ N(0, I), G a flow near the identity at the start.

    φ: ``loc`` (d,), ``log_scale`` (d,), ``context`` (8,; none where there is one unit). The network that turns the context
    into the map G is the family's own, shared by all units and fitted with φ: "the best member" of this family is the best
    φ of each unit under the best such network. With G the identity it is ``mean_field``.

    Args:
        kind: a key of ``zoo.flows.FLOWS``. Draws take one pass in each; an arbitrary z takes d passes of ``maf``. A spline
            moves no draw by more than ten scales, so that a fit far from its end stays finite; ``realnvp`` is twice as quick,
            but its shifts are unbounded, and on a variance in logarithms it overflows within ten steps.
        layers: how many.
        hidden: widths of each layer's network.

    Raises:
        ZooError: one latent dimension, an unknown kind, no layers.

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
        # Each unit's context starts off zero, where the weights that read it would have no gradient.
        noise = torch.randn(units, context, dtype=start.loc.dtype, device=start.loc.device)
        return {"loc": start.loc.clone(), "log_scale": start.scale.log(), "context": 0.1 * noise}

    def distribution(self, phi: Phi) -> FlowDistribution:
        context = phi["context"] if phi["context"].shape[-1] else None
        place = standardise(phi["loc"], phi["log_scale"].exp())
        return FlowDistribution(compose(place, self.network(context).inv), phi["loc"])
