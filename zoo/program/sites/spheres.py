"""Directions: unit vectors, whose support is a sphere, as vectors of the reals."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.transforms import Transform


class Direction(Transform):
    """The map of a vector z of the reals, (…, d), onto its direction z / |z|.

    The length |z| is a coordinate more than a direction has. It gets the density that it has where z is standard normal,
    whatever the direction: a density p(u) on the sphere, in surface measure, becomes p(z / |z|) · area · N(z; 0, I), which has
    the integral of p. The inverse gives vectors of length √d.

    >>> Direction()(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """

    domain = constraints.real_vector
    codomain = constraints.sphere
    bijective = True  # but for the length, which no density depends on
    sign = 1

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Direction)

    __hash__ = None  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        length = x.norm(dim=-1, keepdim=True)
        first = torch.zeros_like(x)
        first[..., 0] = 1.0
        return torch.where(length > 0, x / length.clamp(min=torch.finfo(x.dtype).tiny), first)

    def _inverse(self, y: Tensor) -> Tensor:
        return y * math.sqrt(y.shape[-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        d = x.shape[-1]
        area = math.log(2) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)
        return area - 0.5 * x.square().sum(-1) - 0.5 * d * math.log(2 * math.pi)


def is_sphere(support: Any) -> bool:
    """Return whether a support is the unit vectors."""
    return type(support) is type(constraints.sphere)
