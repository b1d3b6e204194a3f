"""Multinomial distributions whose numbers of trials differ from row to row."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class RowMultinomial(dist.TorchDistribution):
    """Multinomial(total_i, probs_i) of each row: log p(x) = log total! − Σ_v log x_v! + Σ_v x_v log probs_v.

    torch's ``Multinomial`` has one number of trials for all rows.

    Args:
        total: (*batch,), whole numbers from 0 up, floating.
        probs: (*batch, V), positive, of sum one.

    Batch shape (*batch,), event shape (V,).

    >>> x, probs = torch.tensor([[2.0, 1.0], [0.0, 4.0]]), torch.tensor([0.3, 0.7])
    >>> rows = RowMultinomial(x.sum(-1), probs)
    >>> torch.allclose(rows.log_prob(x)[0], dist.Multinomial(3, probs).log_prob(x[0]))
    True
    """

    arg_constraints = {"total": constraints.nonnegative_integer, "probs": constraints.simplex}

    def __init__(self, total: Tensor, probs: Tensor, validate_args: bool | None = None):
        batch = torch.broadcast_shapes(total.shape, probs.shape[:-1])
        self.total, self.probs = total.expand(batch), probs.expand(*batch, -1)
        super().__init__(batch, probs.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.multinomial(self.total)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RowMultinomial:
        batch = torch.Size(batch_shape)
        return RowMultinomial(self.total.expand(batch), self.probs.expand(*batch, -1), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        # A probability may underflow: the logarithm of zero would spoil the gradients of all the others.
        log_probs = self.probs.clamp(min=torch.finfo(self.probs.dtype).tiny).log()
        return log_orders(value) + (value * log_probs).sum(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw the columns one after the other: each is binomial, of the trials that those before it left."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            left, columns = self.total.to(self.probs).expand(shape).contiguous(), []
            tails = self.probs.flip(-1).cumsum(-1).flip(-1).clamp(min=torch.finfo(self.probs.dtype).tiny)
            for share in (self.probs / tails).clamp(0.0, 1.0).unbind(-1)[:-1]:
                columns.append(torch.binomial(left, share.expand(shape).contiguous()))
                left = left - columns[-1]
            return torch.stack([*columns, left], -1)


def log_orders(counts: Tensor) -> Tensor:
    """Return log n! − Σ_v log n_v!, in how many orders things of these ``counts`` (…, V) may stand; n is their sum.

    >>> round(float(log_orders(torch.tensor([2.0, 1.0])).exp()), 4)       # aab, aba, baa
    3.0
    """
    return (counts.sum(-1) + 1).lgamma() - (counts + 1).lgamma().sum(-1)
