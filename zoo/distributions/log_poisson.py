"""The Poisson distribution by the logarithm of its rate."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class LogPoisson(dist.TorchDistribution):
    """Poisson(exp(log_rate)): log p(k) = k · log_rate − exp(log_rate) − log k!.

    torch's ``Poisson`` takes the rate, and the logarithm of it again: a rate that underflows has log-density −∞ there, and a
    linear predictor is not seen, as it is a parameter here (:mod:`zoo.structure.linear_predictor`).

    Args:
        log_rate: logarithms of the rates, of any shape, which is the batch shape.

    >>> counts, log_rate = torch.tensor([0.0, 3.0]), torch.tensor([-0.5, 1.2])
    >>> torch.allclose(LogPoisson(log_rate).log_prob(counts), dist.Poisson(log_rate.exp()).log_prob(counts))
    True
    """

    arg_constraints = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None):
        self.log_rate = torch.as_tensor(log_rate)
        super().__init__(self.log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogPoisson:
        return LogPoisson(self.log_rate.expand(torch.Size(batch_shape)), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        return self.log_rate.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.log_rate - self.log_rate.exp() - (value + 1).lgamma()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return torch.poisson(self.log_rate.exp().expand(torch.Size(sample_shape) + self.batch_shape))
