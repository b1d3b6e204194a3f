"""Carrying latents over from data that a guide was fitted on to new data: values of fitted rows, fresh draws for new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zoo.errors import ZooError
from zoo.program.sites.latents import Site
from zoo.program.sites.stand_ins import is_improper

#: Of a plate by name, its rows now and when it was fitted: which rows are fitted ones, and which of these they are.
Matches = Callable[[str, int, int], tuple[Tensor, Tensor]]


class Carry(Messenger):
    """Give latent sites their ``values`` of one draw, as far as the rows of their plates are fitted ones; draw the others.

    A site that has no value is drawn by the program, given all sites before it: from its prior, given the shared latents.

    Args:
        values: the latents' values on the data that a guide was fitted on, by site.
        sites: the sites as they were on these data, by name.
        matches: which rows of a plate are fitted ones.
        sequential: plates that are loops whose rows are new: each row of a loop has sites of its own.

    Attributes:
        fresh: of latents that were drawn, in whole or in part, how many of their plates' rows are new, by plate.
    """

    def __init__(
        self, values: Mapping[str, Tensor], sites: Mapping[str, Site], matches: Matches, sequential: frozenset[str],
    ):
        super().__init__()
        self.values, self.sites, self.matches, self.sequential = values, sites, matches, sequential
        self.fresh: dict[str, dict[str, tuple[int, int]]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or msg["is_observed"] or msg["value"] is not None:
            return
        if msg["infer"].get("was_observed", False):
            return
        name, frames = msg["name"], msg["cond_indep_stack"]
        if name not in self.values or any(not frame.vectorized and frame.name in self.sequential for frame in frames):
            self.fresh[name] = {}
            refuse_improper(msg)
            return
        known, site = self.values[name], self.sites[name]
        plates = plates_of(msg)
        check_alike(msg, site, plates)
        msg["value"] = self._joined(msg, known, plates)

    def _joined(self, msg: Any, known: Tensor, plates: list[str | None]) -> Tensor:
        """Return the fitted values of rows that were fitted, and draws of the others."""
        batch = msg["fn"].batch_shape
        new, old, lacking = [], [], {}
        for plate, size, before in zip(plates, batch, known.shape, strict=False):
            rows, fitted = self.matches(plate, size, before) if plate else (torch.arange(size), torch.arange(size))
            new.append(rows)
            old.append(fitted)
            if plate and len(rows) < size:
                lacking[plate] = (size - len(rows), size)
        kept = known[_grid(old)] if batch else known
        if not lacking:
            return kept
        refuse_improper(msg)
        self.fresh[msg["name"]] = lacking
        value: Tensor = msg["fn"]()
        return value.index_put(_grid(new), kept.to(value.dtype))


def plates_of(site: Any) -> list[str | None]:
    """Return the name of the plate of each batch dimension of a traced site; ``None`` where it is in none."""
    plates: list[str | None] = [None] * len(site["fn"].batch_shape)
    for frame in site["cond_indep_stack"]:
        if frame.vectorized:
            plates[frame.dim] = frame.name
    return plates


def outermost(site: Any) -> str | None:
    """Return the plate along which a traced site's rows run, the first that was entered, or a loop; ``None`` without one."""
    stack = site["cond_indep_stack"]
    return str(stack[0].name) if stack else None


def check_alike(msg: Any, site: Site, plates: list[str | None]) -> None:
    """Raise a :class:`ZooError` where a latent has other plates than when it was fitted, or another shape beside plates."""
    fn, batch = msg["fn"], len(site.shape) - site.event_dim
    before = [n for n, p in zip(site.shape[:batch], site.plates, strict=False) if p is None]
    now = [n for n, p in zip(fn.batch_shape, plates, strict=True) if p is None]
    if tuple(plates) == site.plates[:batch] and before == now and fn.event_shape == site.shape[batch:]:
        return
    got = f"{tuple(fn.shape())} in plates {', '.join(p for p in plates if p) or 'none'}"
    raise ZooError(
        f"expected latent '{msg['name']}' as it was fitted, {tuple(site.shape)} in plates "
        f"{', '.join(p for p in site.plates if p) or 'none'}; got {got}; pass the covariates that it was fitted with, and put "
        "what each row or group has of its own in a plate")


def refuse_improper(msg: Any) -> None:
    """Raise a :class:`ZooError` for a latent that must be drawn and whose prior is improper."""
    if is_improper(msg):
        raise ZooError(
            f"expected priors to draw new rows' latents from; got '{msg['name']}', whose prior is improper; give it a proper "
            "one")


def _grid(rows: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the index of all combinations of rows, one tensor for each dimension."""
    return tuple(index.reshape([-1 if i == j else 1 for j in range(len(rows))]) for i, index in enumerate(rows))
