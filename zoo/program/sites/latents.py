"""What a program's sites are, and how its latent ones pack into one unconstrained vector per unit, and back."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions.transforms import Transform

from zoo.errors import ZooError
from zoo.program.sites.angles import bijection
from zoo.program.sites.masks import domain_shape

MAX_VALUES = 4096


def is_deterministic(site: Any) -> bool:
    """Return whether a site comes from ``pyro.deterministic``."""
    return bool(site["infer"].get("_deterministic", False))


def is_observation(site: Any) -> bool:
    """Return whether a site holds data."""
    return bool(site["is_observed"]) and not is_deterministic(site)


def is_discrete(site: Any) -> bool:
    """Return whether a site's support is discrete."""
    return bool(site["fn"].support.is_discrete)


def support_values(site: Any) -> Tensor:
    """Return the (K, *event) values of one element of a discrete site."""
    fn = site["fn"]
    if not fn.has_enumerate_support:
        raise ZooError(
            f"expected discrete latents of finite support; got site '{site['name']}' of {type(fn).__name__}; marginalise it")
    values: Tensor = fn.enumerate_support(expand=False)
    return values.reshape(values.shape[0], *values.shape[values.ndim - fn.event_dim:])


@dataclass(frozen=True)
class Scheme:
    """How a program's sites are read into units' vectors.

    Attributes:
        unit: the plate whose rows own the latents; ``None`` where the data set is one unit.
        observed: sites that are observed in other data, and are drawn where they are not in these.
        summed: whether discrete latents are summed out, and are no coordinates.
        depth: how many batch dimensions plates take; what lies to their left enumerates discrete latents.
    """

    unit: str | None = None
    observed: frozenset[str] = frozenset()
    summed: bool = False
    depth: int = 0

    def shape(self, fn: Any) -> torch.Size:
        """Return the shape of a site's value, the dimensions that enumerate discrete latents left out."""
        shape: torch.Size = fn.shape()
        return shape[max(0, len(shape) - self.depth - fn.event_dim):] if self.summed else shape


def is_awaited(msg: Any, observed: Container[str]) -> bool:
    """Return whether a site is one of the ``observed`` that has no observation this time, and mark it ``was_observed``.

    It is then drawn by the program and belongs to no unit's vector: rows to predict come without what is observed of others.
    """
    if msg["is_observed"] or msg["name"] not in observed:
        return False
    msg["infer"] = {**msg["infer"], "was_observed": True}
    return True


def unit_frame(site: Any, unit: str | None) -> Any:
    """Return the frame of the plate ``unit`` at ``site``: its (negative) ``dim`` and ``size``; ``None`` without one."""
    return next((frame for frame in site["cond_indep_stack"] if frame.name == unit), None) if unit else None


@dataclass(frozen=True)
class Packing:
    """How one site's value lies in the units' vectors.

    Attributes:
        transform: from unconstrained to the support; ``None`` for a discrete site, whose values are kept.
        shape: shape of the unconstrained value.
        axis: where in ``shape`` the units run; ``None`` where all of it belongs to the one unit.
        extra: event dimensions over which log|det J| is still to be summed.
        dtype: of a discrete site's values; ``None`` for a continuous one.
    """

    transform: Transform | None
    shape: torch.Size
    axis: int | None
    extra: int
    dtype: torch.dtype | None

    @classmethod
    def of(cls, site: Any, scheme: Scheme) -> Packing:
        fn, frame, shape = site["fn"], unit_frame(site, scheme.unit), scheme.shape(site["fn"])
        dim = None if frame is None else frame.dim
        if is_discrete(site):
            axis = None if dim is None else dim - fn.event_dim
            return cls(None, shape, axis, 0, support_values(site).dtype)
        transform = bijection(fn)
        extra = fn.event_dim - transform.codomain.event_dim
        axis = None if dim is None else dim - extra - transform.domain.event_dim
        return cls(transform, domain_shape(transform, shape), axis, extra, None)

    @property
    def size(self) -> int:
        """Coordinates per unit."""
        return math.prod(self.shape) // (1 if self.axis is None else self.shape[self.axis])

    def unpack(self, flat: Tensor) -> Tensor:
        """(units, size) → the site's unconstrained value."""
        if self.axis is None:
            return flat.reshape(self.shape)
        axis = len(self.shape) + self.axis
        rest = [n for i, n in enumerate(self.shape) if i != axis]
        return flat.reshape(flat.shape[0], *rest).movedim(0, axis)

    def pack(self, value: Tensor) -> Tensor:
        """The site's unconstrained value → (units, size)."""
        value = value.expand(self.shape)
        return value.reshape(1, -1) if self.axis is None else value.movedim(self.axis, 0).reshape(value.shape[self.axis], -1)


def sum_right(value: Tensor, dims: int) -> Tensor:
    """Sum over the last ``dims`` dimensions."""
    return value.flatten(-dims).sum(-1) if dims else value


def by_unit(log_prob: Tensor, site: Any, unit: str | None) -> Tensor:
    """Sum a site's log-probabilities over every dimension but the unit plate's: (units,)."""
    frame = unit_frame(site, unit)
    if frame is None:
        return log_prob.sum().reshape(1)
    shape = [1] * max(0, -frame.dim - log_prob.ndim) + list(log_prob.shape)
    shape[frame.dim] = frame.size
    return log_prob.expand(shape).movedim(frame.dim, 0).reshape(frame.size, -1).sum(1)


@dataclass(frozen=True)
class Site:
    """One site of a program: its shapes, its share of the unit's vector, and the names of its plates.

    ``size`` is how many coordinates it owns (0 for an observed site), ``loose`` whether these hold more than the value tells,
    as the length of a direction; ``plates`` names each batch dimension, ``None`` where it is in no plate; ``nested`` names the
    plates, the outermost first; ``values`` is the support of one element of a discrete site; ``whole`` says of an observed site
    that whole numbers stand for real observations.
    """

    name: str
    shape: torch.Size
    event_dim: int
    plates: tuple[str | None, ...]
    size: int = 0
    values: Tensor | None = None
    loose: bool = False
    nested: tuple[str, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Latents:
    """The latent sites of a program on given data, and who owns them.

    Attributes:
        sites: the latent sites, in the program's order.
        observed: the observed sites.
        unit: the plate whose rows own their latents; ``None`` where the whole data set is one unit.
        units: how many units.
        size: d, the length of a unit's unconstrained vector; 0 where every latent is a function of x.
        awaited: whether an observed site has no observation in these data, as in rows to predict.
        summed: discrete latent sites that the density is summed over: they are no coordinates.
        improper: latent sites whose priors do not integrate to one: there is no prior to draw from, and no evidence.
    """

    sites: tuple[Site, ...]
    observed: tuple[Site, ...]
    unit: str | None
    units: int
    size: int = field(init=False)
    awaited: bool = False
    summed: tuple[Site, ...] = ()
    improper: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(site.size for site in self.sites))

    @property
    def discrete(self) -> bool:
        """Whether the latents are discrete (all of them are, or none is)."""
        return any(site.values is not None for site in self.sites)

    @property
    def depth(self) -> int:
        """How many batch dimensions plates take, at most."""
        return max((len(site.plates) for site in (*self.sites, *self.observed, *self.summed)), default=0)

    @property
    def rows_first(self) -> bool:
        """Whether the units run along the first dimension of every observed site."""
        return all(site.plates[:1] == (self.unit,) for site in self.observed)

    def grown(self, units: int, before: int) -> Latents | None:
        """Return the layout of a table of ``units`` rows from that of ``before`` of them; ``None`` where rows are not units."""
        sites = [*self.sites, *self.observed, *self.summed]
        if self.units != before or any(site.plates[:1] != (self.unit,) for site in sites):
            return None
        latent, observed, summed = (
            tuple(replace(site, shape=torch.Size([units, *site.shape[1:]])) for site in kind)
            for kind in (self.sites, self.observed, self.summed))
        return Latents(latent, observed, self.unit, units, self.awaited, summed, self.improper)

    def support(self) -> Tensor:
        """Return the (K, d) values of a discrete unit's vector: the product of its elements' supports.

        Raises:
            ZooError: over 4,096 values.
        """
        elements: list[Tensor] = []
        for site in self.sites:
            assert site.values is not None, "only discrete latents have a table of values"
            values = site.values.flatten(1) if site.values.ndim > 1 else site.values[:, None]
            elements += [values.double()] * (site.size // values.shape[1])
        count = math.prod(len(values) for values in elements)
        if count > MAX_VALUES:
            raise ZooError(
                f"expected at most {MAX_VALUES} joint values of a unit's discrete latents; got {count}; "
                "put independent rows in a plate that holds latents and observations, or marginalise")
        index = torch.cartesian_prod(*(torch.arange(len(values)) for values in elements)).reshape(count, -1)
        return torch.cat([values[index[:, i]] for i, values in enumerate(elements)], 1)

    def coordinates(self) -> list[str]:
        """Name each of the d coordinates, e.g. ``theta[3]``."""
        return [f"{s.name}[{i}]" if s.size > 1 else s.name for s in self.sites for i in range(s.size)]
