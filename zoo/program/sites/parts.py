"""Observations that are parts of an entry of the data, as ``obs=x["y"][:, t]`` of each step of a sequence, put back into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError

#: By how much log-probabilities of the same observation may differ by rounding, relative to their size.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Parts:
    """Where the observations of sites lie in entries of the data.

    Attributes:
        places: {site: (entry, where in the flattened entry its elements lie)}.
    """

    places: Mapping[str, tuple[str, Tensor]]

    @classmethod
    def of(cls, x: Data, before: Mapping[str, Tensor]) -> Parts | None:
        """Find the observations ``before`` (by site) in ``x``.

        ``None`` where one of them is an entry of x, or none that is shared with it, or where they leave out elements of an
        entry: what is not observed there may be what others depend on, as the first values of an autoregression.

        >>> y = torch.zeros(2, 3)
        >>> Parts.of({"y": y}, {"a": y[:, 0], "b": y[:, 1:]}).put({"y": y}, {"a": torch.ones(2), "b": torch.ones(2, 2)})["y"]
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
        >>> Parts.of({"y": y}, {"a": y[:, 0]}) is None
        True
        """
        entries = _entries(x)
        found = {
            site: next(((key, place) for key, entry in entries.items() if (place := _place(value, entry)) is not None), None)
            for site, value in before.items()}
        places = {site: spot for site, spot in found.items() if spot is not None}
        if len(places) < len(before) or any(value is entry for value in before.values() for entry in entries.values()):
            return None
        covered = {key: torch.cat([place for other, place in places.values() if other == key]) for key, _ in places.values()}
        whole = all(len(place.unique()) == len(place) == entries[key].numel() for key, place in covered.items())
        return cls(places) if whole else None

    def put(self, x: Data, fresh: Mapping[str, Tensor]) -> Data:
        """Return data like ``x`` with the ``fresh`` observations in their places."""
        entries = _entries(x)
        flat: dict[str, Tensor] = {}
        for site, (key, place) in self.places.items():
            into = flat.get(key, entries[key].flatten())
            kind = into.dtype if not bool((fresh[site] != fresh[site].to(into.dtype)).any()) else fresh[site].dtype
            flat[key] = into.to(kind).index_put((place,), fresh[site].flatten().to(kind))
        filled = {key: value.reshape(entries[key].shape) for key, value in flat.items()}
        return filled[""] if isinstance(x, Tensor) else {**x, **filled}


def check_independent(ours: Mapping[str, Any], theirs: Mapping[str, Any], fresh: Mapping[str, Tensor], label: str) -> None:
    """Raise a :class:`ZooError` where an observation was drawn given the old data, as in an autoregression on ``x[t - 1]``.

    Args:
        ours, theirs: the sites of the run that drew the observations, and of one on the data that hold them.
        fresh: the observations.
        label: what an error calls the program.
    """
    for site, value in fresh.items():
        one, other = (sites[site]["fn"].log_prob(value) for sites in (ours, theirs))
        if not torch.allclose(one, other, ROUNDING, ROUNDING, equal_nan=True):
            raise ZooError(
                f"expected observations drawn given others that are drawn, too, in {label}; got site '{site}', whose "
                "distribution depends on the data themselves; go on from the values that pyro.sample returns")


def _entries(x: Data) -> dict[str, Tensor]:
    return {"": x} if isinstance(x, Tensor) else {key: value for key, value in x.items() if isinstance(value, Tensor)}


def _place(part: Tensor, whole: Tensor) -> Tensor | None:
    """Return where in the flattened ``whole`` the elements of ``part`` lie; ``None`` where it is no view of it."""
    same = part.dtype == whole.dtype and part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    if not same or not part.numel() or not whole.numel():
        return None
    theirs, order = _addresses(whole).sort()
    wanted = _addresses(part)
    found = order[torch.searchsorted(theirs, wanted).clamp(max=len(theirs) - 1)]
    return found if bool((_addresses(whole)[found] == wanted).all()) else None


def _addresses(value: Tensor) -> Tensor:
    """Return where in its storage each element of a tensor lies, flattened."""
    where = torch.tensor(value.storage_offset())
    for size, stride in zip(value.shape, value.stride(), strict=True):
        where = where[..., None] + stride * torch.arange(size)
    return where.flatten()
