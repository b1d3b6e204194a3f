"""What a guide knows of the latents of new data: draws of those that were fitted, and which rows of plates these are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.diagnostics.new_data import NewData, named
from guides.guide import BaseGuide
from guides.model_based import Prior
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.calls import plates_of_categories
from zoo.program.enumeration.recovery import draws as recovered_draws
from zoo.program.sites.carry import Carry, outermost
from zoo.program.sites.latents import Latents, Site, is_observation
from zoo.program.sites.layout import first_run
from zoo.structure.blocks import independent_rows


@dataclass(frozen=True)
class Known:
    """Draws of latents that a guide knows, by site.

    Attributes:
        x: the data that the guide was fitted to; ``None`` where nobody said.
        values: (draws, *shape) of each site; none where all latents are drawn from the prior.
        sites: the sites as they were on the data that the draws are of.
        rows: plates along which observations run, the first of each that is entered, whose rows are new.
        words: of plates whose rows have words of their own, the words that were fitted, and the new rows'.
    """

    x: Data | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    sites: Mapping[str, Site] = field(default_factory=dict)
    rows: frozenset[str] = frozenset()
    words: Mapping[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Model, guide: BaseGuide, new: NewData, before: Data | None, same: Sequence[str], draws: int,
    ) -> Known:
        """Draw the latents that ``guide`` knows of ``new`` data, ``draws`` times.

        Raises:
            ZooError: no data ``before``, although the guide needs them; an unknown plate in ``same``; rows that depend on each
                other's latents.
        """
        before = None if before is None else named(model, before)
        if isinstance(guide, Prior):
            return cls(before)
        found = model.latents(new.x if before is None else before)
        if found.unit is not None and guide.new_units and not new.missing and not same:
            return cls(before, *_drawn(model, guide, new.x, draws)[1:])
        if before is None:
            raise ZooError(f"expected the data that '{guide.text}' was fitted to; got none; pass fitted=")
        z, values, sites = _drawn(model, guide, before, draws)
        rows = _rows(model, before)
        _check_plates(same, rows | _plates(found), model.label)
        words = _words(before, new.x, rows)
        rows -= {*same, *words}
        if rows & _plates(found) and not independent_rows(model, before, z[:1]):
            raise ZooError(
                f"expected rows of plate '{min(rows)}' that depend on their own and on shared latents alone; got rows that "
                "depend on other rows' latents; put p(new rows | fitted ones) into the program, or name the plate in same=")
        _warn_of_vectors(found, before, new)
        owned = found.unit is not None and found.unit in rows
        return cls(before, {} if owned else values, sites, frozenset(rows), words)

    def carry(self, draw: int) -> Carry:
        """Return what puts one draw into a run of the program on new data."""
        return Carry({name: value[draw] for name, value in self.values.items()}, self.sites, self._matches, self.rows)

    def _matches(self, plate: str, now: int, before: int) -> tuple[Tensor, Tensor]:
        if plate in self.words:
            fitted, new = self.words[plate]
            pairs = [(i, fitted.index(word)) for i, word in enumerate(new) if word in fitted]
            index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
            return index[:, 0], index[:, 1]
        count = torch.arange(0 if plate in self.rows else min(now, before))
        return count, count


def _drawn(
    model: Model, guide: BaseGuide, x: Data, draws: int,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Site]]:
    """Return draws of the guide on ``x``: coordinates, and the values of latents, discrete ones too, with their sites."""
    found = model.latents(x)
    z: Tensor = guide.posterior(x).sample((draws,))
    values = {**model.constrain(x, z), **(recovered_draws(model.runner, x, z) if found.summed else {})}
    sites = {site.name: site for site in (*found.sites, *found.summed)}
    return z, {name: values[name] for name in sites}, sites


def _warn_of_vectors(found: Latents, before: Data, new: NewData) -> None:
    """Warn of latents with an element for each fitted row that are in no plate, where new rows have other covariates.

    Where there are as many rows as were fitted, nothing else tells that such elements are the fitted rows' own.
    """
    rows = {site.shape[0] for site in found.observed if site.shape} - {1}
    loose = [
        (site.name, site.shape[i]) for site in found.sites for i in range(len(site.shape))
        if site.shape[i] in rows and (i >= len(site.plates) or site.plates[i] is None)]
    names = {site.name for site in found.observed} | set(new.missing)
    for name, count in loose:
        if any(not torch.equal(now, then) for now, then in _covariates(new.x, before, names, count)):
            warnings.warn(ZooWarning(
                f"latent '{name}' has {count} elements, as many as there are rows, and is in no plate: new rows are predicted "
                "with the fitted rows' elements; put it in the rows' plate if each row has one"), stacklevel=4)


def _covariates(x: Data, before: Data, observed: set[str], rows: int) -> list[tuple[Tensor, Tensor]]:
    """Return the entries of so many ``rows`` that both data have, those that are observed left out."""
    if isinstance(x, Tensor) or isinstance(before, Tensor):
        return []
    pairs = [(value, before.get(name)) for name, value in x.items() if name not in observed]
    return [(now, then) for now, then in pairs if _has_rows(now, rows) and isinstance(then, Tensor) and _has_rows(then, rows)]


def _has_rows(value: object, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def _plates(found: Latents) -> set[str]:
    """Return the plates of latents."""
    return {plate for site in (*found.sites, *found.summed) for plate in site.plates if plate}


def _rows(model: Model, x: Data) -> set[str]:
    """Return the plates along which the observations of ``x`` run."""
    with model.runner.isolated():
        sites = first_run(model, x).values()
    return {plate for site in sites if is_observation(site) if (plate := outermost(site))}


def _words(before: Data, x: Data, rows: set[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Return, of plates called like a frame's column of words in which every fitted row has its own, these and the new ones."""
    fitted, new = plates_of_categories(before, rows), plates_of_categories(x, rows)
    return {
        plate: (fitted[plate], new[plate]) for plate in rows
        if plate in fitted and plate in new and len(set(fitted[plate])) == len(fitted[plate])}


def _check_plates(same: Sequence[str], plates: set[str], label: str) -> None:
    unknown = [plate for plate in same if plate not in plates]
    if unknown:
        raise ZooError(f"expected plates of {label} in same; got '{unknown[0]}'; choose from {', '.join(sorted(plates))}")
