"""ArviZ trees of tensors: names of dimensions, their labels, and groups joined into one tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.calls import plates_of_categories
from zoo.program.run import traced
from zoo.program.sites.latents import Latents, Site
from zoo.structure.learned import Learned
from zoo.structure.words import network_text

if TYPE_CHECKING:
    from xarray import DataTree

#: Groups of what is given, not drawn: they have no chains and draws.
GIVEN = ("observed_data", "constant_data", "predictions_constant_data")
#: The group of what was learned. ArviZ's schema has none for point estimates: ``constant_data`` is for data that are given, and
#: ``posterior`` for what has draws; the schema allows groups of other names.
THETA = "theta"


def tree_of(
    groups: Mapping[str, Mapping[str, Tensor]], latents: Latents, x: Data, dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Sequence[Any]] | None = None, learned: Learned | None = None,
) -> DataTree:
    """Return an ArviZ tree of ``groups``: values by variable, (draws, …) each, or without draws those of :data:`GIVEN`.

    Args:
        groups: tensors by group and variable.
        latents: the program's sites, whose plates name batch dimensions.
        x: the data; the categories of a frame label the plates that are called like them.
        dims: names of event dimensions by variable.
        coords: labels of dimensions, over those of categories.
        learned: what was learned of the model, for the group :data:`THETA`; the sizes of networks are its attributes.

    Raises:
        ZooError: labels of another number than their dimension has elements.
    """
    import arviz_base as azb
    from xarray import DataTree

    named = {group: names_of(latents, group, values, dims) for group, values in groups.items()}
    arrays = {
        group: {name: _array(value, group) for name, value in values.items()} for group, values in groups.items()}
    rows = {site.nested[0] for site in latents.observed if site.nested}
    own = {**_own_labels(named, arrays), **plates_of_categories(x, rows)}
    if learned is not None and (learned.quantities or learned.networks):
        named[THETA] = {one.name: list(one.dims) for one in learned.quantities}
        arrays[THETA] = {one.name: one.value.cpu().numpy() for one in learned.quantities}
    labels = labels_of(named, arrays, dict(coords or {}), own)
    # One by one: a site's dimensions differ between groups (an observation, and its log-likelihood).
    parts = [
        azb.from_dict(
            {group: values}, dims=named[group], coords=labels, pred_dims=named[group], pred_coords=labels,
            sample_dims=[] if group == THETA else None) for group, values in arrays.items()]
    tree: DataTree = parts[0] if parts else DataTree()
    for part in parts[1:]:
        tree.update(part)
    if THETA in arrays and learned is not None:
        tree[THETA].attrs["networks"] = "\n".join(network_text(one.to_dict()) for one in learned.networks)
    return tree


def _own_labels(
    named: Mapping[str, Mapping[str, list[str]]], arrays: Mapping[str, dict[str, np.ndarray]],
) -> dict[str, list[Any]]:
    """Take entries that are called like a plate out of what is given: they label it, and a variable can't have its name."""
    plates = {plate for names in named.values() for dims in names.values() for plate in dims}
    found = [(group, name) for group in GIVEN if group in arrays for name in arrays[group] if name in plates]
    values = [(name, named[group][name], arrays[group].pop(name)) for group, name in found]
    return {name: value.tolist() for name, dims, value in values if dims == [name] and len(set(value.tolist())) == len(value)}


def _array(value: Tensor, group: str) -> np.ndarray:
    """Return a variable as an array, with one chain before the draws where it was drawn."""
    array: np.ndarray = value.detach().cpu().numpy()
    return array if group in GIVEN else array[None]


def observations(model: Model, x: Data, latents: Latents) -> dict[str, Tensor]:
    """Return what is observed at sites that are not called like an entry of x, from a run of the program."""
    named = {site.name for site in latents.observed} - ({*x} if isinstance(x, Mapping) else set())
    if isinstance(x, Tensor) or not named or latents.improper:
        return {}
    try:
        run = traced(model, x, density=False).nodes
    except (RuntimeError, ValueError, NotImplementedError):  # of a program that fails at draws of its prior
        return {}
    return {name: run[name]["value"] for name in sorted(named) if name in run and run[name].get("is_observed")}


def given_groups(
    x: Data, latents: Latents, entries: Mapping[str, Tensor], seen: Mapping[str, Tensor] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Split the ``entries`` of x into ``observed_data``, under their sites' names, and ``constant_data``.

    ``seen``: what is observed at sites that no entry is called like; the entry that it is then is no constant.
    """
    sites = {site.name: site for site in latents.observed}
    if isinstance(x, Tensor):
        only = next(iter(sites))
        return {"observed_data": {only: x} if len(sites) == 1 and sites[only].shape == x.shape else {}}
    seen = seen or {}
    same = {k for k, v in entries.items() if any(v.shape == one.shape and torch.equal(v, one.to(v)) for one in seen.values())}
    return {
        "observed_data": {**{k: v for k, v in entries.items() if k in sites}, **seen},
        "constant_data": {k: v for k, v in entries.items() if k not in sites and k not in same}}


def names_of(
    latents: Latents, group: str, values: Mapping[str, Tensor], dims: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """Name the dimensions of a group's variables: plates, then event dimensions; those of draws left out."""
    if group == "sample_stats":
        return {name: [latents.unit] if latents.unit else [] for name in values}
    sites = {site.name: site for site in (*latents.sites, *latents.observed, *latents.summed)}
    named: dict[str, list[str]] = {}
    for name, value in values.items():
        shape = tuple(value.shape[0 if group in GIVEN else 1:])
        site = sites.get(name) or sites.get(name.removesuffix("_probs"))
        batch = batch_of(site)[: len(shape)] if site is not None else _plates_of(shape, latents, group, name in dims)
        left = len(shape) - len(batch)
        events = list(dims.get(name, ()))[-left:] if left else []
        rest = [f"{name}_dim_{i}" for i in range(left - len(events))]
        if name in dims and not batch:
            rest = _latent_plates(shape[: len(rest)], latents) or rest
        named[name] = [*batch, *rest, *events]
    return named


def _latent_plates(sizes: tuple[int, ...], latents: Latents) -> list[str]:
    """Return the plates of the latent sites in plates of these sizes; none where they are not the same for all such sites."""
    found = {tuple(batch_of(site)) for site in latents.sites
             if sizes and tuple(site.shape[: len(site.shape) - site.event_dim]) == sizes and None not in site.plates}
    return list(found.pop()) if len(found) == 1 else []


def _plates_of(shape: tuple[int, ...], latents: Latents, group: str, known: bool) -> list[str]:
    """Return the plates of a variable that is no random site, as far as its shape tells.

    A deterministic site or a covariate of the shape of the observations' plates is taken to lie in them.
    """
    site = latents.observed[0]
    plates, sizes = batch_of(site), tuple(site.shape)
    if group.endswith("constant_data"):
        return plates[:1] if shape and sizes and shape[0] == sizes[0] else []
    return plates if not known and shape == sizes[: len(plates)] else []


def batch_of(site: Site) -> list[str]:
    """Return the names of a site's batch dimensions."""
    batch = len(site.shape) - site.event_dim
    return [plate or f"{site.name}_batch_{i}" for i, plate in enumerate(site.plates[:batch])]


def labels_of(
    named: Mapping[str, Mapping[str, list[str]]], arrays: Mapping[str, Mapping[str, np.ndarray]],
    coords: dict[str, Sequence[Any]], categories: Mapping[str, Sequence[str]],
) -> dict[str, list[Any]]:
    """Return the labels whose dimension is in use, those of categories where they are as many; raise where a length differs."""
    sizes: dict[str, int] = {}
    for group, values in arrays.items():
        for name, value in values.items():
            names = named[group][name]
            sizes.update(zip(names, value.shape[value.ndim - len(names):], strict=True))
    coords = {**{dim: labels for dim, labels in categories.items() if sizes.get(dim) == len(labels)}, **coords}
    for dim, labels in coords.items():
        if dim in sizes and len(labels) != sizes[dim]:
            raise ZooError(f"expected {sizes[dim]} labels of dimension '{dim}'; got {len(labels)}; match them")
    return {dim: list(labels) for dim, labels in coords.items() if dim in sizes}
