"""How a program's latent sites pack into one unconstrained vector per unit, and back.

Three Pyro messengers share one description of a site, :class:`Packing`. They run inside the program, so the
supports they see are the ones of that very run: a support may depend on other latents.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.transforms import Transform

from zoo.errors import ZooError
from zoo.program.angles import bijection
from zoo.program.masks import counting, domain_shape

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
    def of(cls, site: Any, unit: str | None) -> Packing:
        fn, frame = site["fn"], unit_frame(site, unit)
        dim = None if frame is None else frame.dim
        if is_discrete(site):
            axis = None if dim is None else dim - fn.event_dim
            return cls(None, fn.shape(), axis, 0, support_values(site).dtype)
        transform = bijection(fn)
        extra = fn.event_dim - transform.codomain.event_dim
        axis = None if dim is None else dim - extra - transform.domain.event_dim
        return cls(transform, domain_shape(transform, fn.shape()), axis, extra, None)

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


class Substitute(Messenger):
    """Give the latent sites, in the program's order, the consecutive coordinates of one draw ``z`` (units, d).

    ``log_abs_det[name]`` is then log|det ∂value/∂z| over the site's batch shape, and ``unconstrained[name]`` the site's
    coordinates in its own shape. ``volume[name]`` is what the site's log-density gains from its coordinates: log|det|, and
    a standard normal where a mask leaves coordinates without a density. After the site ``until`` the program is left by
    raising :class:`Collected`. Sites that are ``observed`` in other data are drawn where they are not, see :func:`is_awaited`.
    """

    def __init__(self, z: Tensor, unit: str | None, until: str = "", observed: Container[str] = ()):
        super().__init__()
        self.z, self.unit, self.until, self.taken, self.observed = z, unit, until, 0, observed
        self.log_abs_det: dict[str, Tensor] = {}
        self.unconstrained: dict[str, Tensor] = {}
        self.volume: dict[str, Tensor] = {}
        self.last = "the first site"

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self.last = msg["name"]
        if msg["is_observed"] or msg["value"] is not None or is_awaited(msg, self.observed):
            return
        packing = Packing.of(msg, self.unit)
        flat = self.z[:, self.taken : self.taken + packing.size]
        if flat.shape[1] < packing.size:
            raise ZooError(
                f"expected {self.taken + packing.size} or more coordinates at site '{msg['name']}'; got {self.z.shape[1]}; "
                "if it is observed, pass its observations in x; latent sites must not depend on their values")
        self.taken += packing.size
        value = packing.unpack(flat)
        if packing.transform is None:
            msg["value"] = value.to(packing.dtype)
            return
        msg["value"] = packing.transform(value)
        log_abs_det = packing.transform.log_abs_det_jacobian(value, msg["value"])
        self.log_abs_det[msg["name"]] = sum_right(log_abs_det, packing.extra)
        self.unconstrained[msg["name"]] = value
        self.volume[msg["name"]] = _volume(packing, msg, value, log_abs_det)

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.until and msg["name"] == self.until:  # the trace around this handler has noted the site
            raise Collected


def _volume(packing: Packing, site: Any, value: Tensor, log_abs_det: Tensor) -> Tensor:
    """Return log|det J|, with a standard normal in its place where a mask leaves a site's coordinates without a density.

    A density of nothing would have no integral. This one has the integral one, so the evidence is that without the masked
    latents, and a guide has something to match. A mask that is ``False`` as a whole is Pyro's way to write an improper prior,
    and stays one.
    """
    counts = counting(site)
    transform = packing.transform
    if counts is None or transform is None or not counts.ndim:
        return sum_right(log_abs_det, packing.extra)
    for _ in range(transform.codomain.event_dim):
        counts = counts.select(-1, 0)
    normal = sum_right(-0.5 * (value.square() + math.log(2 * math.pi)), transform.domain.event_dim)
    return sum_right(torch.where(counts, log_abs_det, normal), packing.extra)


class Pack(Messenger):
    """Collect the latent sites' unconstrained coordinates, (units, size) each, in ``parts``.

    The sites are set to ``values`` (one draw) where given, and drawn by the program where not. After the site ``last`` the
    program has nothing more to say, and is left by raising :class:`Collected`. ``observed``: as of :class:`Substitute`.
    """

    def __init__(
        self, values: Mapping[str, Tensor] | None, unit: str | None, last: str = "", observed: Container[str] = (),
    ):
        super().__init__()
        self.values, self.unit, self.last, self.observed = values, unit, last, observed
        self.parts: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if is_awaited(msg, self.observed) or self.values is None or site_is_subsample(msg):
            return
        if msg["is_observed"] or msg["value"] is not None:
            return
        if msg["name"] not in self.values:
            raise ZooError(f"expected a value for latent site '{msg['name']}'; got {', '.join(self.values)}; add it")
        msg["value"] = self.values[msg["name"]].expand(msg["fn"].shape())

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or msg["is_observed"] or msg["infer"].get("was_observed", False):
            return
        packing, value = Packing.of(msg, self.unit), msg["value"]
        self.parts.append(packing.pack(value if packing.transform is None else packing.transform.inv(value)))
        if msg["name"] == self.last:
            raise Collected


class Collected(Exception):  # a way out, no error
    """All latent sites of a program have been met."""


def sum_right(value: Tensor, dims: int) -> Tensor:
    """Sum over the last ``dims`` dimensions."""
    return value.flatten(-dims).sum(-1) if dims else value


@dataclass(frozen=True)
class Site:
    """One site of a program: its shapes, its share of the unit's vector, and the names of its plates.

    ``size`` is how many coordinates it owns (0 for an observed site); ``plates`` names each batch dimension, ``None`` where
    it is in no plate; ``values`` is the support of one element of a discrete site.
    """

    name: str
    shape: torch.Size
    event_dim: int
    plates: tuple[str | None, ...]
    size: int = 0
    values: Tensor | None = None


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
    """

    sites: tuple[Site, ...]
    observed: tuple[Site, ...]
    unit: str | None
    units: int
    size: int = field(init=False)
    awaited: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(site.size for site in self.sites))

    @property
    def discrete(self) -> bool:
        """Whether the latents are discrete (all of them are, or none is)."""
        return any(site.values is not None for site in self.sites)

    @property
    def rows_first(self) -> bool:
        """Whether the units run along the first dimension of every observed site."""
        return all(site.plates[:1] == (self.unit,) for site in self.observed)

    def grown(self, units: int, before: int) -> Latents | None:
        """Return the layout of a table of ``units`` rows from that of ``before`` of them; ``None`` where rows are not units."""
        sites = [*self.sites, *self.observed]
        if self.units != before or any(site.plates[:1] != (self.unit,) for site in sites):
            return None
        latent, observed = (
            tuple(replace(site, shape=torch.Size([units, *site.shape[1:]])) for site in kind)
            for kind in (self.sites, self.observed))
        return Latents(latent, observed, self.unit, units, self.awaited)

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
