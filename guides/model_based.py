"""Guides that ask the model: its exact posterior, and its prior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from guides.guide import BaseGuide
from zoo.data import Data, reference
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.drawing import prior_draws
from zoo.program.run import seeded

#: Runs of a program that tell how many fail, where nothing was drawn.
RUNS = 256


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
        if latents.improper:
            raise ZooError(
                f"expected a proper prior for guide '{self.text}'; got '{latents.improper[0]}' of {self.model.label}, whose "
                "prior is improper; use another guide")
        if not latents.discrete:
            return PriorDistribution(self.model, x, self._tell)
        values = latents.support().to(reference(x))
        log_prior = self.model.log_terms(x, values[:, None].expand(-1, latents.units, -1))[0]
        return Enumerated(log_prior.T, values, validate_args=False)

    def _tell(self, failed: int, runs: int) -> None:
        """Warn, once, of draws at which the program fails."""
        if failed and not self.__dict__.get("_told"):
            self.__dict__["_told"] = True
            warnings.warn(ZooWarning(
                f"{failed} of {runs} draws of 'prior' could not be evaluated on {self.model.label} and have weight zero"),
                stacklevel=4)


class PriorDistribution(dist.TorchDistribution):
    """The prior of a model's program over its unconstrained latent vectors: batch shape (units,), event shape (d,).

    Where the program fails at some draws there is no prior: draws are of the rest, and so is the density, which is divided by
    the share of draws that do not fail. It is told by the runs that the first draws took.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, model: Model, x: Data, tell: Callable[[int, int], None]):
        latents = model.latents(x)
        self.model, self.x, self.tell = model, x, tell
        self._log_share: float | None = None
        super().__init__(torch.Size([latents.units]), torch.Size([latents.size]), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        draws, runs = prior_draws(self.model.runner, self.x, math.prod(sample_shape))
        if self._log_share is None and (runs >= RUNS or runs == len(draws) > 0):
            self._log_share = math.log(len(draws) / runs)
            self.tell(runs - len(draws), runs)
        return draws.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        draws = value.reshape(value.shape[:-2].numel(), *self.batch_shape, *self.event_shape)
        if self._log_share is None:
            with seeded(0), torch.no_grad():
                self.sample(torch.Size([RUNS]))
        assert self._log_share is not None, "draws have told it"
        each = self._log_share / len(draws[0])  # of all units together
        return self.model.log_terms(self.x, draws)[0].reshape(value.shape[:-1]) - each
