"""Categorical distributions that are rows of one table."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class CategoricalRows(dist.TorchDistribution):
    """Categorical(probs[index]): each element has one of the rows of a table for its probabilities.

    torch's ``Categorical`` first spreads the rows out over all elements. Here a density looks up one number an element: for 136
    sequences of 24 symbols a model takes a third of the time.

    Args:
        probs: (rows, C), each row positive and of sum one.
        index: (...), whole numbers below rows.

    Batch shape (...), event shape ().

    >>> probs = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    >>> CategoricalRows(probs, torch.tensor([0, 1])).log_prob(torch.tensor([0, 1])).exp()
    tensor([0.5000, 0.7500])
    """

    arg_constraints = {"probs": constraints.independent(constraints.simplex, 1), "index": constraints.nonnegative_integer}

    def __init__(self, probs: Tensor, index: Tensor, validate_args: bool | None = False):
        self.probs, self.index = probs, index
        super().__init__(index.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return constraints.integer_interval(0, self.probs.shape[-1] - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalRows:
        return CategoricalRows(self.probs, self.index.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        tiny = torch.finfo(self.probs.dtype).tiny
        found: Tensor = self.probs.clamp(min=tiny).log()[self.index, value.long()]
        return found

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        drawn: Tensor = torch.distributions.Categorical(self.probs[self.index]).sample(sample_shape)
        return drawn
