"""The distribution of vectors of no dimensions."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Empty(dist.TorchDistribution):
    """A point: the one vector of length 0, with log-probability 0. The posterior where all latents are functions of x.

    Unlike a delta's, its entropy is finite: 0.

    Args:
        vectors: (..., 0), whose shape, dtype and device the draws have.

    Batch shape (...), event shape (0,).

    >>> q = Empty(torch.zeros(3, 0))
    >>> q.rsample((5,)).shape, q.log_prob(q.mean).tolist()
    (torch.Size([5, 3, 0]), [0.0, 0.0, 0.0])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, vectors: Tensor):
        self.vectors = vectors
        super().__init__(vectors.shape[:-1], vectors.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Empty:
        return Empty(self.vectors.expand(*batch_shape, 0))

    @property
    def mean(self) -> Tensor:
        return self.vectors

    @property
    def variance(self) -> Tensor:
        return self.vectors

    def entropy(self) -> Tensor:
        return self.vectors.new_zeros(self.batch_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.vectors.expand(*sample_shape, *self.vectors.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(value.shape[:-1])
