"""Guides that ask the model: its exact posterior, and its prior."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from guides.guide import BaseGuide
from zoo.data import Data, reference
from zoo.enumerated import Enumerated
from zoo.model import Model


class Exact(BaseGuide):
    """q(z | x) = p(z | x, θ), where the model knows it: KL(q ‖ posterior) = 0, and the ELBO is log p(x | θ).

    Raises:
        NotImplementedError: from :meth:`posterior`, where the model does not know its posterior.
    """

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        q: Distribution = self.model.posterior(x)
        return q


class Prior(BaseGuide):
    """q(z | x) = p(z | θ). Its importance weights are p(x | z): naive Monte Carlo."""

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        latents = self.model.latents(x)
        if not latents.discrete:
            return PriorDistribution(self.model, x)
        values = latents.support().to(reference(x))
        log_prior = self.model.log_terms(x, values[:, None].expand(-1, latents.units, -1))[0]
        return Enumerated(log_prior.T, values, validate_args=False)


class PriorDistribution(dist.TorchDistribution):
    """The prior of a model's program over its unconstrained latent vectors: batch shape (units,), event shape (d,)."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, model: Model, x: Data):
        latents = model.latents(x)
        self.model, self.x = model, x
        super().__init__(torch.Size([latents.units]), torch.Size([latents.size]), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        draws = self.model.sample_prior(self.x, math.prod(sample_shape))
        return draws.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        draws = value.reshape(value.shape[:-2].numel(), *self.batch_shape, *self.event_shape)
        return self.model.log_terms(self.x, draws)[0].reshape(value.shape[:-1])
