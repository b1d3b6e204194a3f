"""Proposals that are adapted to a density from weighted pilot draws, round by round: fitted Student's t, and kernels.

A Student's t with the weighted mean and covariance does for a density of one bump. Where it is curved, kernels about some of
the weighted draws follow it. All rounds count together: a draw's weight is over the mean of all rounds' proposals, as if it
could have come from any of them.

Source: Cornuet et al. (2012), Adaptive multiple importance sampling, https://arxiv.org/abs/0907.1254; West (1993),
Approximating posterior distributions by mixtures, https://doi.org/10.1111/j.2517-6161.1993.tb01911.x; Cappé et al. (2008),
Adaptive importance sampling in general mixture classes, https://arxiv.org/abs/0710.4242
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, StudentT, constraints

from experiments.log_evidence.proposals.mixture import Tails

#: Places of kernels, and dimensions up to which they are of use.
PLACES, FEW = 64, 12
#: How much wider than the pilots' spread one component is: for tails that none of them has met.
WIDE = 3.0

#: Points (n, d), and the prior's log density there (n,) → log density (n,).
LogDensity = Callable[[Tensor, Tensor], Tensor]


class Kernels(dist.TorchDistribution):
    """An equal mixture of independent Student's t of 5 degrees of freedom about K places, in the coordinates L⁻¹ (z − place).

    Args:
        places: (K, d).
        scale_tril: L, (d, d), the same for all.

    Batch shape (1,), event shape (d,).

    >>> kernels = Kernels(torch.zeros(4, 2), torch.eye(2))
    >>> kernels.sample((5,)).shape, kernels.log_prob(torch.zeros(3, 1, 2)).shape
    (torch.Size([5, 1, 2]), torch.Size([3, 1]))
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, places: Tensor, scale_tril: Tensor):
        self.places, self.scale_tril, self.each = places, scale_tril, StudentT(places.new_tensor(5.0))
        super().__init__(torch.Size([1]), places.shape[-1:], validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        which = torch.randint(len(self.places), shape, device=self.places.device)
        return self.places[which] + self.each.sample(shape + self.event_shape) @ self.scale_tril.mT

    def log_prob(self, value: Tensor) -> Tensor:
        inverse = torch.linalg.inv(self.scale_tril)
        white, places = value.to(self.places) @ inverse.mT, self.places @ inverse.mT
        each = self.each.log_prob(white[..., None, :] - places).sum(-1)
        found: Tensor = each.logsumexp(-1) - math.log(len(self.places)) - self.scale_tril.diagonal().log().sum()
        return found


@dataclass(frozen=True)
class Pilots:
    """The pilot draws of all rounds, as many in each.

    Attributes:
        points: (n, d).
        target: the log density there, (n,), −∞ where there is none.
        prior: the log density of the prior there, (n,).
        total: the logarithm of the sum of the rounds' proposals there, (n,).
        proposals: the rounds' log densities, of points and the prior's log density there.
    """

    points: Tensor
    target: Tensor
    prior: Tensor
    total: Tensor
    proposals: tuple[LogDensity, ...] = ()

    @classmethod
    def first(cls, points: Tensor, target: Tensor, prior: Tensor, proposal: LogDensity) -> Pilots:
        """Return those of the first round, drawn from ``proposal``."""
        return cls(points, target, prior, proposal(points, prior), (proposal,))

    def beside(self, points: Tensor, target: Tensor, prior: Tensor, proposal: LogDensity) -> Pilots:
        """Return them with those of another round, drawn from ``proposal``."""
        points, target, prior = (torch.cat(pair) for pair in zip(
            (self.points, self.target, self.prior), (points, target, prior), strict=True))
        new = len(self.total)
        before = torch.stack([one(points[new:], prior[new:]) for one in self.proposals]).logsumexp(0)
        total = torch.logaddexp(torch.cat([self.total, before]), proposal(points, prior))
        return Pilots(points, target, prior, total, (*self.proposals, proposal))

    @property
    def log_weight(self) -> Tensor:
        """Log weights over the mean of the rounds' proposals, (n,)."""
        return self.target - self.total + math.log(len(self.proposals))

    @property
    def effective(self) -> float:
        """How many draws of the density itself they are worth."""
        return 1 / float(self.log_weight.softmax(0).square().sum().clamp(min=1e-300))

    def fitted(self, modes: Sequence[Distribution], count: int) -> list[Distribution]:
        """Return about ``count`` components: of each of the ``modes`` as many as it holds mass; of one where none is known.

        Of five, one is a Student's t, one is a wider one, and three are kernels, where dimensions are few. Uses torch's
        generator.
        """
        own = self.log_weight[None]
        if modes:
            kinds = torch.stack([mode.log_prob(self.points[:, None])[:, 0] for mode in modes])
            own = own + kinds.log_softmax(0)
        shares = own.logsumexp(1).softmax(0).tolist()
        return [
            component for log_weight, share in zip(own, shares, strict=True)
            for component in self._fitted(log_weight) * max(1, round(share * count / 5))]

    def _fitted(self, log_weight: Tensor) -> list[Distribution]:
        around, size = of_moments(self.points, log_weight), self.points.shape[1]
        wide = Tails(around.loc, WIDE * around.scale_tril)
        if size > FEW:
            return [*[around] * 4, wide]
        share = log_weight.softmax(0)
        effective = 1 / float(share.square().sum())
        bandwidth = (4 / ((size + 2) * effective)) ** (1 / (size + 4))  # Silverman's
        places = self.points[torch.multinomial(share, PLACES, replacement=True)]
        return [around, wide, *[Kernels(places, bandwidth * around.scale_tril[0])] * 3]


def of_moments(u: Tensor, log_weight: Tensor) -> Tails:
    """Return a Student's t with the weighted mean and covariance of draws; few that hold all the weight are flattened."""
    size, power = u.shape[1], 1.0
    while power > 1e-3:
        share = (power * log_weight).softmax(0)
        if 1 / float(share.square().sum()) >= min(4 * size + 8, len(share) // 4):
            break
        power *= 0.5
    share = share.to(u)
    loc = share @ u
    centred = u - loc
    covariance = (centred * share[:, None]).mT @ centred
    ridge = 1e-8 * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(size).to(covariance)
    tril, failed = torch.linalg.cholesky_ex(covariance + ridge)
    if bool(failed):
        tril = covariance.diagonal().clamp(min=1e-12).sqrt().diag()
    return Tails(loc[None], tril[None])
