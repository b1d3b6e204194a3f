"""The two blocks of a program's latents: local ones, of which each observed row has its own, and shared ones.

The *unit plate* is the outermost vectorised plate that holds every observed site; its rows are the units. Latents inside it are
local, z_i; all others are shared, u:

    log p(x, u, z) = log p(u) + Σ_i log p(x_i, z_i | u).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from zoo.program.sites.latents import Latents, Site


@dataclass(frozen=True)
class Blocks:
    """Where the shared and the local latents lie in the one vector of a data set whose rows share latents.

    Attributes:
        plate: the unit plate.
        rows: how many units it has.
        sites: the latent sites, in the program's order: their coordinates follow each other.
    """

    plate: str
    rows: int
    sites: tuple[Site, ...]

    @classmethod
    def of(cls, found: Latents) -> Blocks | None:
        """Return the blocks of a program's latents; ``None`` where no plate holds every observed site, or all latents.

        Discrete latents outside of it that are summed out tie the rows together: then there are none either.
        """
        observed = [site for site in found.observed if site.shape[-1:] != (0,)] or list(found.observed)  # factors are no data
        plate = next((name for name in observed[0].nested if all(name in site.plates for site in observed)), None)
        if found.unit is not None or plate is None or any(plate not in site.plates for site in found.summed):
            return None
        first = observed[0]
        return cls(plate, first.shape[first.plates.index(plate)], found.sites)

    @cached_property
    def shared(self) -> Tensor:
        """The coordinates of shared latents, (d_shared,)."""
        parts = [places.flatten() for site, places in self._places() if self.plate not in site.plates]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    @cached_property
    def local(self) -> Tensor:
        """The coordinates of each row's local latents, (rows, d_local)."""
        parts = [
            places.movedim(site.plates.index(self.plate), 0).reshape(self.rows, -1) for site, places in self._places()
            if self.plate in site.plates]
        return torch.cat(parts, 1) if parts else torch.empty(self.rows, 0, dtype=torch.long)

    @property
    def both(self) -> bool:
        """Whether there are latents in either block."""
        return bool(len(self.shared)) and bool(self.local.shape[1])

    def of_rows(self, rows: int) -> Blocks:
        """Return the blocks of a data set of other ``rows``, as of a minibatch."""
        return self if rows == self.rows else Blocks(self.plate, rows, resized(self.sites, self.plate, self.rows, rows))

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (draws, d_shared) and z (draws, rows, d_local) of the joint vector (draws, 1, d)."""
        return z[:, 0, self.shared], z[:, 0, self.local]

    def join(self, shared: Tensor, local: Tensor) -> Tensor:
        """Return the joint vector (draws, 1, d) of u (draws, d_shared) and z (draws, rows, d_local): inverts :meth:`split`."""
        places = torch.cat([self.shared, self.local.flatten()])
        return torch.cat([shared, local.flatten(1)], 1)[:, places.argsort()][:, None]

    def _places(self) -> list[tuple[Site, Tensor]]:
        """Return each site's coordinates in its own batch shape, those of an event last: (*batch, numbers)."""
        found, first = [], 0
        for site in self.sites:
            batch = site.shape[: len(site.shape) - site.event_dim]
            found.append((site, torch.arange(first, first + site.size).reshape(*batch, -1)))
            first += site.size
        return found


def rows_of(found: Latents, rows: int) -> Latents | None:
    """Return the layout of some ``rows`` of a data set that is one unit; ``None`` where no plate holds every observed site."""
    blocks = Blocks.of(found)
    if blocks is None:
        return None
    kinds = (resized(kind, blocks.plate, blocks.rows, rows) for kind in (found.sites, found.observed, found.summed))
    sites, observed, summed = kinds
    return replace(found, sites=sites, observed=observed, summed=summed)


def resized(sites: Iterable[Site], plate: str, before: int, rows: int) -> tuple[Site, ...]:
    """Return sites whose plate of ``before`` rows has ``rows`` of them."""
    return tuple(_resized(site, site.plates.index(plate), before, rows) if plate in site.plates else site for site in sites)


def _resized(site: Site, axis: int, before: int, rows: int) -> Site:
    shape = torch.Size([*site.shape[:axis], rows, *site.shape[axis + 1:]])
    return replace(site, shape=shape, size=site.size // before * rows)
