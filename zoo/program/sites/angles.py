"""Supports of continuous sites as maps from the reals; angles, whose support torch calls the whole line, are one turn."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    biject_to,
    constraints,
)
from torch.distributions.transforms import ComposeTransform, Transform

from zoo.program.sites.spheres import Direction, is_sphere

#: Distributions of angles, by the names of their directions; each has a density of period 2π in every coordinate.
CIRCULAR: dict[type, tuple[str, ...]] = {
    torch.distributions.VonMises: ("loc",), dist.SineBivariateVonMises: ("phi_loc", "psi_loc")}

#: Turns to each side over which the density of a :class:`Wound` distribution is summed.
TURNS = 32

#: Distributions that say nothing of the support of the one that they are wrapped around.
WRAPPERS = (dist.MaskedDistribution, Independent, dist.ExpandedDistribution)


class Turn(Transform):
    """The map of the reals onto one turn, (−π, π), that begins and ends opposite ``centre``.

        angle = centre + 2π (Φ(x) − ½), less whole turns, with Φ the standard normal distribution function

    So a uniform angle corresponds to a standard normal x, and a density that lies about ``centre`` is not cut into two parts.
    The inverse accepts any angle, also one outside (−π, π).

    >>> turn = Turn(torch.tensor(3.0))
    >>> round(float(turn(torch.zeros(()))), 4)
    3.0
    >>> bool(turn.inv(torch.tensor(3.0 - 2 * math.pi)).abs() < 1e-5)
    True
    """

    domain = constraints.real
    codomain = constraints.interval(-math.pi, math.pi)
    bijective = True
    sign = 1

    def __init__(self, centre: Tensor):
        super().__init__()
        self.centre = centre

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Turn) and self.centre is other.centre

    __hash__ = None  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        return once(self.centre + 2 * math.pi * (torch.special.ndtr(x) - 0.5))

    def _inverse(self, y: Tensor) -> Tensor:
        info = torch.finfo(y.dtype)
        share = 0.5 + once(y - self.centre) / (2 * math.pi)
        found: Tensor = torch.special.ndtri(share.clamp(info.tiny, 1 - info.eps))
        return found

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * math.log(2 * math.pi) - 0.5 * x.square()


def once(angle: Tensor) -> Tensor:
    """Return ``angle`` less whole turns, in [−π, π].

    >>> once(torch.tensor([3.0, 4.0]))
    tensor([ 3.0000, -2.2832])
    """
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def centre(fn: Any) -> Tensor | None:
    """Return the direction that a distribution of angles is centred at, broadcastable to its shape; ``None`` of other ones."""
    fn = unwrapped(fn)
    if isinstance(fn, dist.SineSkewed):
        return centre(fn.base_dist)
    if isinstance(fn, MixtureSameFamily):
        found = centre(fn.component_distribution)
        return None if found is None else torch.zeros((), dtype=found.dtype, device=found.device)
    names = next((names for kind, names in CIRCULAR.items() if isinstance(fn, kind)), ())
    locs = [getattr(fn, name) for name in names]
    return None if not locs else locs[0] if len(locs) == 1 else torch.stack(torch.broadcast_tensors(*locs), -1)


def bijection(fn: Any) -> Transform:
    """Return the map from unconstrained coordinates onto the support of a continuous distribution.

    A mixture's is that of its components, whose support torch wraps. Angles take one turn: over the line, which torch names
    as their support, their density has no integral.

    Raises:
        NotImplementedError: no map is known.
    """
    base = unwrapped(fn)
    if isinstance(base, TransformedDistribution) and centre(base.base_dist) is not None:
        return ComposeTransform([bijection(base.base_dist), *base.transforms])
    direction = centre(fn)
    if direction is not None:
        return Turn(direction)
    if is_sphere(fn.support):
        return Direction()
    support = getattr(base.support, "base_constraint", None) if isinstance(base, MixtureSameFamily) else None
    found: Transform = biject_to(fn.support if support is None else support)
    return found


def unwrapped(fn: Any) -> Any:
    """Return the distribution that masks, expansions and reinterpreted dimensions are wrapped around."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn


class Wound(dist.TorchDistribution):
    """A univariate distribution on the line, wound around the circle: Σ_k p(value + 2π k), over the turns about its mean.

    Draws are those of the distribution on the line. A guide that draws an angle from a normal has this wound density. With the
    density on the line instead, which becomes ever smaller as the normal widens, the ELBO would rise without end.

    >>> wide = Wound(dist.Normal(0.0, 9.0))
    >>> round(float(wide.log_prob(torch.tensor(1.0)).exp() * 2 * math.pi), 4)
    1.0
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real

    def __init__(self, line: Any):
        self.line, self.has_rsample = line, line.has_rsample
        super().__init__(line.batch_shape, line.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Wound:
        return Wound(self.line.expand(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        found: Tensor = self.line.rsample(sample_shape)
        return found

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        found: Tensor = self.line.sample(sample_shape)
        return found

    def log_prob(self, value: Tensor) -> Tensor:
        turn = 2 * math.pi
        nearest = value + turn * ((self.line.mean.detach() - value.detach()) / turn).nan_to_num().round()
        around = turn * torch.arange(-TURNS, TURNS + 1).to(nearest).reshape(-1, *[1] * nearest.ndim)
        found: Tensor = self.line.log_prob(nearest + around).logsumexp(0)
        return found


def wound(fn: Any) -> Any:
    """Return a distribution of angles that is written on the line as :class:`Wound`, any other one as it is."""
    if isinstance(fn, Independent):
        inner = wound(fn.base_dist)
        return fn if inner is fn.base_dist else Independent(inner, fn.reinterpreted_batch_ndims, validate_args=False)
    on_line = fn.support is constraints.real and not fn.event_shape and centre(fn) is None
    return Wound(fn) if on_line and not isinstance(fn, (dist.Delta, Wound)) else fn


class OneTurn(constraints.Constraint):
    """The support of an angle as a constraint of torch's, for code that asks ``biject_to`` for its map."""

    def __init__(self, transform: Transform):
        self.transform = transform
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = self.transform.codomain.check(value)
        return inside


def with_one_turn(fn: Any) -> Any:
    """Return a copy of a distribution whose support, where it is of angles, is :class:`OneTurn`."""
    direction = centre(fn)
    if direction is None:
        return fn
    found = copy.copy(fn)
    if isinstance(fn, WRAPPERS):
        found.base_dist = with_one_turn(fn.base_dist)
    else:
        found.support = OneTurn(Turn(direction))
    return found


@biject_to.register(OneTurn)  # type: ignore[untyped-decorator]
def _biject_to_one_turn(constraint: OneTurn) -> Transform:
    return constraint.transform
