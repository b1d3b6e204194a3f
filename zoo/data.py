"""Data that a program takes as its one argument: a tensor, or a mapping of tensors.

A tensor holds the observations, a row a unit. A mapping holds covariates and observations alike; in it, the
tensors whose first dimension equals the number of units are taken to be per unit, the rest to be shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from zoo.errors import ZooError

Data: TypeAlias = Tensor | Mapping[str, Tensor]
#: Settings that a mapping may hold beside tensors: a program gets them as they are.
PLAIN = (bool, int, float, str)


def tensors(x: Data) -> dict[str, Tensor]:
    """Return the tensors of ``x`` by name; a lone tensor is called ``x``. ``None``, plain numbers and words are left out.

    Raises:
        ZooError: if ``x`` is neither a tensor nor a mapping of tensors.
    """
    entries: Mapping[str, Any] = x if isinstance(x, Mapping) else {"x": x}
    named = {name: value for name, value in entries.items() if value is not None and not isinstance(value, PLAIN)}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            where = f"entry '{name}'" if isinstance(x, Mapping) else "data"
            raise ZooError(f"expected {where} to be a tensor; got {type(value).__name__}; wrap it in torch.as_tensor")
    if not named or any(value.numel() == 0 for value in named.values()):
        raise ZooError("expected data with at least one row; got none; pass a tensor that is not empty")
    return named


def take(x: Data, index: Tensor, units: int) -> Data:
    """Return the units ``index`` of ``x``; ``units`` is how many there are in all.

    >>> take({"y": torch.arange(3.0), "scale": torch.tensor(2.0)}, torch.tensor([2, 0]), units=3)
    {'y': tensor([2., 0.]), 'scale': tensor(2.)}
    """
    if isinstance(x, Tensor):
        return x.index_select(0, index)  # a third of the time of x[index]
    return {k: v.index_select(0, index) if _of_units(v, units) else v for k, v in x.items()}


def _of_units(value: Any, units: int) -> bool:
    """Return whether an entry has a row for each unit."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == units


#: Rows of a table beyond which some stand for all where one asks for a scale or the layout; and how many do for the latter.
MANY, FEW = 2**15, 2**10


def subsample_rows(x: Data, count: int = MANY, beyond: int = MANY) -> Data:
    """Return ``x``, or of a table of more than ``beyond`` rows only ``count``, evenly spaced: a view that copies nothing.

    >>> subsample_rows(torch.zeros(1_000_000, 2)).shape
    torch.Size([32768, 2])
    """
    return x[:: len(x) // count][:count] if isinstance(x, Tensor) and x.ndim == 2 and len(x) > beyond else x


@dataclass(frozen=True, eq=False)
class Identity:
    """Which tensors ``x`` holds, and which version of each: equal only for the very same data, unchanged in place.

    It holds on to the tensors, so that another one can't take their place in memory.
    """

    entries: tuple[tuple[str, Tensor, int], ...]
    settings: tuple[tuple[str, type, Any], ...] = ()

    @classmethod
    def of(cls, x: Data) -> Identity:
        entries = x.items() if isinstance(x, Mapping) else ()
        settings = tuple((name, type(value), value) for name, value in entries if isinstance(value, PLAIN))
        return cls(tuple((name, value, value._version) for name, value in tensors(x).items()), settings)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity) or self.settings != other.settings or len(self.entries) != len(other.entries):
            return False
        return all(
            a[0] == b[0] and a[1] is b[1] and a[2] == b[2] for a, b in zip(self.entries, other.entries, strict=True))

    def __hash__(self) -> int:
        return hash(tuple((name, id(value), version) for name, value, version in self.entries))


def put_back(x: Data, before: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> Data:
    """Return data like ``x`` with the observations ``before`` (by site) replaced by ``fresh`` ones.

    Raises:
        ZooError: an observed site is no entry of ``x``.
    """
    if isinstance(x, Tensor):
        name = next(iter(fresh))
        if len(fresh) == 1 and before[name].shape == x.shape:
            return _alike(fresh[name], x)
        got = ", ".join(f"{name} {tuple(value.shape)}" for name, value in fresh.items())
        raise ZooError(f"expected one observed site of shape {tuple(x.shape)}; got {got}; pass a mapping")
    data = dict(x)
    for name, value in fresh.items():
        key = next((k for k, v in x.items() if v is before[name]), name)
        if key not in data:
            raise ZooError(f"expected observed site '{name}' to be an entry of x; got {', '.join(x)}; name it so")
        data[key] = _alike(value, data[key])
    return data


def _alike(fresh: Tensor, before: Tensor) -> Tensor:
    """Return observations in the type of those that they replace; real ones stay real where those were whole numbers."""
    whole = before.is_floating_point() or not bool((fresh != fresh.round()).any())
    return fresh.to(before.dtype) if whole else fresh


def reference(x: Data) -> Tensor:
    """Return a tensor of ``x`` whose dtype and device new tensors should have: its first floating one."""
    values = tensors(x).values()
    floating = next((v for v in values if v.is_floating_point()), None)
    return floating if floating is not None else torch.empty((), device=next(iter(values)).device)


def check_finite(x: Data) -> None:
    """Raise a :class:`ZooError` that names the rows and columns of ``x`` that are NaN or infinite."""
    for name, value in tensors(x).items():
        if not value.is_floating_point() or all(bool(extreme.isfinite()) for extreme in value.aminmax()):
            continue
        bad = (~value.isfinite()).nonzero()[:3].tolist()
        where = ", ".join(f"row {i[0]}" + (f", column {i[1]}" if len(i) > 1 else "") if i else name for i in bad)
        count = int((~value.isfinite()).sum())
        raise ZooError(
            f"expected finite data; got {count} NaN or infinite value(s) in '{name}' (from 0: {where}); drop or fill them"
        )


def place(bad: Tensor, before: str = "") -> str:
    """Return the position of the first true element of ``bad`` in words, after ``before``; empty for a lone number.

    >>> place(torch.tensor([[False, False], [False, True]]), "at ")
    'at row 1, column 1'
    """
    first = bad.nonzero()[0].tolist()
    names = ["row", "column", *["then"] * len(first)]
    return before + ", ".join(f"{name} {i}" for name, i in zip(names, first, strict=False)) if first else ""


def check_magnitude(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return each column's least and greatest value.

    Raises:
        ZooError: squares of ``x``, or of its spread, leave the floating-point numbers.
    """
    info = torch.finfo(x.dtype)
    most, least = info.max**0.25, info.tiny**0.25
    low, high = x.aminmax(dim=0) if x.ndim else (x, x)
    spread, size = high - low, torch.maximum(high.abs(), low.abs())
    if bool((size > most).any()) or bool(((spread > 0) & (spread < least)).any()):
        raise ZooError(
            f"expected columns of size and spread between {least:.0e} and {most:.0e} for {name}; got others; "
            "rescale them (--standardise on the command line)")
    return low, high


def check_positive(name: str, **options: float) -> None:
    """Raise a :class:`ZooError` that names the first option that is not a positive finite number."""
    for key, value in options.items():
        if not 0 < value < float("inf"):
            raise ZooError(f"expected a positive, finite {key} of {name}; got {value}; mend it")


def check_table(x: Data, name: str, varying: bool = True) -> Tensor:
    """Return ``x`` as the (rows, columns) floating tensor that the model ``name`` needs.

    Raises:
        ZooError: not a floating 2-d tensor, not finite, one row, or (``varying``) a constant column.
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
        raise ZooError(f"expected a floating tensor of shape (rows, columns) for {name}; got {_described(x)}; reshape it")
    check_finite(tensors(x))
    low, high = check_magnitude(x, name)
    if len(x) < 2:
        raise ZooError(f"expected at least 2 rows for {name}; got {len(x)}; add data")
    constant = (low == high).nonzero().flatten().tolist()
    if constant and (varying or len(constant) == x.shape[1]):
        which = ", ".join(map(str, constant[:6])) + (" …" if len(constant) > 6 else "")
        raise ZooError(
            f"expected columns that vary for {name}; got constant column(s) {which} (from 0); "
            "drop them (--drop-constant on the command line)")
    return x


def as_rows(x: Data) -> Tensor:
    """Return ``x`` as the tensor of rows that it must be.

    Raises:
        ZooError: if it is a mapping.
    """
    if not isinstance(x, Tensor):
        raise ZooError(f"expected a tensor of shape (rows, columns); got {_described(x)}; pass the tensor")
    return x


def _described(x: object) -> str:
    """Return in words what was given where a tensor of other kind or shape was expected."""
    if isinstance(x, Tensor):
        return f"{x.dtype} of shape {tuple(x.shape)}"
    return f"a mapping of {', '.join(x)}" if isinstance(x, Mapping) else type(x).__name__


def check_mapping(x: Data, keys: tuple[str, ...], name: str) -> Mapping[str, Tensor]:
    """Return ``x`` as the mapping with ``keys``, all of one length and finite, that the model ``name`` needs."""
    if not isinstance(x, Mapping) or any(key not in x for key in keys):
        got = f"a mapping of {', '.join(x)}" if isinstance(x, Mapping) else "a tensor"
        raise ZooError(f"expected a mapping with {' and '.join(keys)} for {name}; got {got}; name the entries so")
    check_finite(x)
    for key in keys:
        if not x[key].is_floating_point() or x[key].ndim < 1:
            got = _described(x[key])
            raise ZooError(f"expected {key} to be a floating tensor with a row for each observation; got {got}; convert it")
    _check_one_length({key: len(x[key]) for key in keys}, name)
    return x


def _check_one_length(lengths: Mapping[str, int], name: str) -> None:
    """Raise unless all entries of the data of the model ``name`` have as many rows."""
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{n} of {key}" for key, n in lengths.items())
        raise ZooError(f"expected entries of one length for {name}; got {got}; match their rows")


def in_double(x: Data) -> Data:
    """Return ``x`` with its floating entries in float64."""
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for name, value in x.items()}
