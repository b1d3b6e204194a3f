"""Handlers that put a unit's vector into a program's latent sites, and that collect it from them.

They run inside the program, so the supports they see are the ones of that very run: a support may depend on other latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zoo.errors import ZooError
from zoo.program.sites.latents import Packing, Scheme, is_awaited, is_discrete, sum_right
from zoo.program.sites.masks import counting


class Substitute(Messenger):
    """Give the latent sites, in the program's order, the consecutive coordinates of one draw ``z`` (units, d).

    ``log_abs_det[name]`` is then log|det ∂value/∂z| over the site's batch shape, and ``unconstrained[name]`` the site's
    coordinates in its own shape. ``volume[name]`` is what the site's log-density gains from its coordinates: log|det|, and
    a standard normal where a mask leaves coordinates without a density. After the site ``until`` the program is left by
    raising :class:`Collected`. Sites that are observed in other data are drawn where they are not, see :func:`is_awaited`, and
    so are discrete latents that are summed out, unless another handler enumerates them.
    """

    def __init__(self, z: Tensor, scheme: Scheme, until: str = ""):
        super().__init__()
        self.z, self.scheme, self.until, self.taken = z, scheme, until, 0
        self.log_abs_det: dict[str, Tensor] = {}
        self.unconstrained: dict[str, Tensor] = {}
        self.volume: dict[str, Tensor] = {}
        self.last = "the first site"

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self.last = msg["name"]
        if msg["is_observed"] or msg["value"] is not None or is_awaited(msg, self.scheme.observed):
            return
        if self.scheme.summed and is_discrete(msg):
            return
        packing = Packing.of(msg, self.scheme)
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
    program has nothing more to say, and is left by raising :class:`Collected`.
    """

    def __init__(self, values: Mapping[str, Tensor] | None, scheme: Scheme, last: str = ""):
        super().__init__()
        self.values, self.scheme, self.last = values, scheme, last
        self.parts: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if is_awaited(msg, self.scheme.observed) or self.values is None or site_is_subsample(msg):
            return
        if msg["is_observed"] or msg["value"] is not None or (self.scheme.summed and is_discrete(msg)):
            return
        if msg["name"] not in self.values:
            raise ZooError(f"expected a value for latent site '{msg['name']}'; got {', '.join(self.values)}; add it")
        msg["value"] = self.values[msg["name"]].expand(msg["fn"].shape())

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or msg["is_observed"] or msg["infer"].get("was_observed", False):
            return
        if self.scheme.summed and is_discrete(msg):
            return
        packing, value = Packing.of(msg, self.scheme), msg["value"]
        self.parts.append(packing.pack(value if packing.transform is None else packing.transform.inv(value)))
        if msg["name"] == self.last:
            raise Collected


class Collected(Exception):  # a way out, no error
    """All latent sites of a program have been met."""


def latent_log_prob(name: str, site: Any, substitute: Substitute) -> Tensor:
    """Return a latent site's log-probability in unconstrained coordinates, see :class:`Substitute`."""
    log_prob: Tensor = site["log_prob"]
    return log_prob + substitute.volume[name] if name in substitute.volume else log_prob
