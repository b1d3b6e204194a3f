"""A distribution over the finitely many values of a discrete latent vector."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


def expect(share: Tensor, values: Tensor) -> Tensor:
    """Return share · values, where a value of share zero counts nothing, be it infinite: 0 · (−∞) is 0, gradient too."""
    none = share == 0
    return torch.where(none, 0.0, share * values.masked_fill(none, 0.0))


class Enumerated(dist.TorchDistribution):
    """Probabilities for the K rows of a table of values.

    q(z = values_k) = softmax(logits)_k.

    Args:
        logits: (..., K), need not be normalised.
        values: (K, d), the support: row k is one value of the latent vector. Rows must differ.

    Batch shape (...), event shape (d,). ``enumerate_support`` gives all K values, so that expectations are exact
    sums and no draw is needed.

    >>> q = Enumerated(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0]]))
    >>> q.batch_shape, q.event_shape, q.enumerate_support().shape
    (torch.Size([2]), torch.Size([1]), torch.Size([2, 2, 1]))
    """

    arg_constraints = {"logits": constraints.real_vector}
    has_enumerate_support = True

    def __init__(self, logits: Tensor, values: Tensor, validate_args: bool | None = None):
        self.logits = logits - logits.logsumexp(-1, keepdim=True)
        self.values = values
        super().__init__(logits.shape[:-1], values.shape[1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 1)

    @property
    def probs(self) -> Tensor:
        """Probabilities of the K values, (..., K)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs @ self.values.to(self.logits.dtype)

    def _index(self, value: Tensor) -> Tensor:
        """Return which row of ``values`` each (..., d) ``value`` is; K itself where it is none."""
        match = (value.unsqueeze(-2) == self.values).all(-1)
        return torch.where(match.any(-1), match.int().argmax(-1), len(self.values))

    def log_prob(self, value: Tensor) -> Tensor:
        index = self._index(value)
        logits = torch.cat([self.logits, torch.full_like(self.logits[..., :1], -torch.inf)], -1)
        shape = torch.broadcast_shapes(index.shape, self.batch_shape)
        return logits.expand(*shape, -1).gather(-1, index.expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        index = torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return self.values[index]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.values.reshape(len(self.values), *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def entropy(self) -> Tensor:
        return -expect(self.probs, self.logits).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Enumerated:
        return Enumerated(self.logits.expand(*batch_shape, -1), self.values)
