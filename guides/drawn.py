"""A guide that is known by draws: what a method that samples leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.sites.latents import Latents


class Drawn(BaseGuide):
    """q(z | x) as equally weighted draws, which a method that samples puts there: it has no density.

    Args:
        model: the model.
        source: the guide with a density that the draws begin from; its parameters are φ.
        latents: the layout of z.
        text: how the guide is written.

    Attributes:
        values: the draws, (draws, units, d); none before a method has run.
        bound: a lower bound on log p(x_i) of each unit, (units,), in nats: log p − ``bound`` is at least the divergence
            KL(q ‖ posterior) of one draw. NaN where the method has none, as of Markov chains.
        bound_se: the standard error of its sum.
        khat, ess, rhat: k̂ of each unit's importance weights, effective sample size, and split R-hat, (units,); NaN where the
            method has none.

    Source: Domke and Sheldon (2018), Importance weighting and variational inference, https://arxiv.org/abs/1808.09034, for
    the bound.

    >>> import guides, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> guide = guides.build("draws(mean_field)", zoo.build("eight_schools", x), x)
    >>> guide.put(torch.zeros(5, 1, 10))
    >>> guide.posterior(x).sample((3,)).shape
    torch.Size([3, 1, 10])
    """

    values: Tensor
    density = False
    new_units = False
    minibatches = False

    def __init__(self, model: Model, source: BaseGuide, latents: Latents, text: str):
        super().__init__(model, text)
        self.source = source
        like = next(source.parameters())
        for name in ("bound", "khat", "ess", "rhat"):
            self.register_buffer(name, torch.full((latents.units,), math.nan, dtype=torch.double, device=like.device))
        self.register_buffer("bound_se", torch.tensor(math.nan, dtype=torch.double, device=like.device))
        self.register_buffer("values", like.new_zeros(0, latents.units, latents.size))

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        if not len(self.values):
            raise ZooError(f"expected draws in '{self.text}'; got none yet; fit it first, by a method that samples")
        self.check_size(x, self.values.shape[-1], index)
        return Empirical(self.values)

    def put(self, values: Tensor, **known: Tensor | float) -> None:
        """Put draws (draws, units, d) in the place of those there are, with what is ``known`` of them: attributes by name."""
        self.values = values.detach().clone().to(self.values)
        for name in ("bound", "bound_se", "khat", "ess", "rhat"):
            value = torch.as_tensor(known.get(name, math.nan), dtype=torch.double, device=values.device)
            getattr(self, name).copy_(value.detach())

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take as many draws as were saved: their number is not known when the guide is built."""
        if f"{prefix}values" in state:
            self.values = torch.empty_like(state[f"{prefix}values"], device=self.values.device)
        super()._load_from_state_dict(state, prefix, *rest)


class Empirical(dist.TorchDistribution):
    """Equally likely ``values`` (draws, units, d): batch shape (units,), event shape (d,). It has no density.

    All units of a sample are of one draw.

    >>> q = Empirical(torch.tensor([[[0.0]], [[2.0]]]))
    >>> q.mean, q.variance
    (tensor([[1.]]), tensor([[1.]]))
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, values: Tensor):
        self.values = values
        super().__init__(values.shape[1:2], values.shape[2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.values.mean(0)

    @property
    def variance(self) -> Tensor:
        return self.values.var(0, correction=0)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw: each of the values in turn, in a random order, so often as that takes."""
        count = math.prod(sample_shape)
        turns = [torch.randperm(len(self.values), device=self.values.device) for _ in range(-(-count // len(self.values)))]
        found = self.values[torch.cat(turns)[:count]]
        return found.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError("draws have no density")
