"""A normalising flow as a density of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from zoo.data import Data, check_table
from zoo.errors import ZooError
from zoo.model import Model
from zoo.nn.flows import Composition, FlowDistribution, build_flow, compose, layer_log_density, standardise


class Flow(Model):
    """x_i = T⁻¹(z_i), z_i ~ N(0, I), T invertible: log p(x) = log N(T(x)) + log|det ∂T/∂x|. Each row is a unit.

    z_i is a function of x_i: given the row nothing is left to infer. The posterior is a point, the log evidence is exact
    and the gap is zero; ``exact`` is its guide, with nothing but θ to fit.

    T is a standardisation of the columns followed by ``layers`` layers of one ``kind``.

    Args:
        x: (rows, D), D ≥ 2, no column constant. Sizes and standardises the flow.
        kind: ``spline`` (coupling, the default: both directions take one pass, and few layers bend far), ``realnvp``, ``maf``.
        layers: K − 1, beside the standardisation.
        hidden: widths of each layer's network.

    Raises:
        ZooError: x is no table, has one column, an unknown kind, or no layers.

    Source: Rezende and Mohamed (2015), Variational inference with normalizing flows, https://arxiv.org/abs/1505.05770;
    Papamakarios et al. (2021), Normalizing flows for probabilistic modeling and inference, https://arxiv.org/abs/1912.02762

    >>> import torch
    >>> x = torch.randn(50, 2, dtype=torch.double)
    >>> model = Flow(x)
    >>> torch.allclose(model.generate(model.normalise(x)), x)
    True
    """

    pure = True
    dims = {"z": ("rows", "latent"), "x": ("column",)}
    holdout = 0.2
    learning_rate = 0.003
    centre: Tensor
    spread: Tensor

    def __init__(self, x: Data, kind: str = "spline", layers: int = 4, hidden: Sequence[int] = (64, 64)):
        super().__init__()
        x = check_table(x, self.label)
        if x.shape[1] < 2:
            raise ZooError(
                f"expected at least 2 columns for {self.label}, whose layers move some given the others; got {x.shape[1]}; "
                "use gmm for one column")
        self.kind, self.layers = kind, layers
        self.register_buffer("centre", x.mean(0))
        self.register_buffer("spread", x.std(0))
        self.network = build_flow(kind, x.shape[1], 0, layers, hidden, self.label).to(x)

    def forward(self, x: Tensor) -> None:
        flow = FlowDistribution(self.transform(), x)
        with pyro.plate("rows", len(x)):
            x = pyro.sample("x", flow, obs=x)
            pyro.deterministic("z", flow.normalise(x)[0], event_dim=1)

    def transform(self) -> Any:
        """Return T as a transform of vectors: standardisation, then the layers; x → z_0."""
        return compose(standardise(self.centre, self.spread), self.network())

    def normalise(self, x: Tensor) -> Tensor:
        """Map rows (…, D) to their base noise z_0."""
        z: Tensor = self.transform()(x)
        return z

    def generate(self, z: Tensor) -> Tensor:
        """Map base noise (…, D) to rows: the inverse of :meth:`normalise`."""
        x: Tensor = self.transform().inv(z)
        return x

    def composition(self, x: Tensor) -> Composition:
        """Return the states z_0, …, z_K = x of rows (rows, D), and each layer's log|det J|."""
        return Composition.of(self.transform(), x)

    def layer_density(self, k: int, points: Tensor) -> Tensor:
        """Return the log-density of the state z_k at ``points`` (n, D): k = 0 is the base, k = K is p(x)."""
        return layer_log_density(self.transform(), k, points)

    def extra_repr(self) -> str:
        return f"kind={self.kind}, layers={self.layers}, columns={len(self.centre)}"
