"""Draws of a distribution with their log densities."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution


def scored(q: Distribution, draws: int) -> tuple[Tensor, Tensor]:
    """Draw z (draws, *batch, d) from q and return it with log q(z) (draws, *batch), from one pass where q has both in one.

    Draws have gradients in q's parameters where q has reparameterised ones. Uses torch's generator.

    >>> import torch
    >>> z, log_q = scored(torch.distributions.Independent(torch.distributions.Normal(torch.zeros(5, 2), 1.0), 1), 3)
    >>> z.shape, log_q.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """
    both = getattr(q, "rsample_and_log_prob", None)
    if both is not None:
        pair: tuple[Tensor, Tensor] = both((draws,))
        return pair
    z = q.rsample((draws,)) if q.has_rsample else q.sample((draws,))
    return z, q.log_prob(z)
