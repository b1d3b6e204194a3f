"""New data for a fitted program: in the fitted data's categories and precision, with something for what is missing.

A program that takes ``None`` for its observations, as in ``obs=x.get("y")``, gets none. Another one, such as ``obs=x["y"]`` in
a plate of ``len(x["y"])`` rows, is given values in their place, which it may use in ``obs=`` alone: see :class:`NewData`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.bare import FunctionModel
from zoo.data import PLAIN, Data, reference
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.calls import Call, Columns


@dataclass(frozen=True)
class NewData:
    """Data to predict.

    Attributes:
        x: what the program is run on: fitted rows in the place of NaN, and fitted settings in that of absent ones.
        missing: the tensors of the fitted data that are absent, ``None`` or NaN throughout; a lone tensor is called ``x``.
    """

    x: Data
    missing: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, x: Data, before: Data | None) -> NewData:
        """Return ``x`` in the categories and the precision of the data ``before``, on which a guide was fitted."""
        x = named(model, x)
        if before is None:
            if blank := _blank(x):
                raise ZooError(
                    f"expected observations in '{blank[0]}', or fitted=, data that have some; got NaN throughout; pass either")
            return cls(x, ())
        before = named(model, before)
        if isinstance(x, Tensor) or isinstance(before, Tensor):
            if isinstance(x, Mapping):
                raise ZooError(
                    f"expected a tensor, as the guide was fitted to; got a mapping of {', '.join(x)}; pass the tensor")
            assert isinstance(before, Tensor), "a program of one argument takes what it was fitted with"
            kind, blank = reference(before).dtype, _blank(x)
            return cls(_stand_in(x, before) if blank else x.to(kind) if x.is_floating_point() else x, blank)
        same = in_categories(x, before)
        cast = {name: _alike(value, before.get(name), reference(before).dtype) for name, value in same.items()}
        cast = {**{name: value for name, value in before.items() if isinstance(value, PLAIN)}, **cast}
        absent = tuple(name for name, value in before.items() if isinstance(value, Tensor) and x.get(name) is None)
        blank = _blank({name: value for name, value in cast.items() if isinstance(before.get(name), Tensor)})
        cast |= {name: _stand_in(cast[name], before[name]) for name in blank}
        return cls(Columns(cast, same.categories) if isinstance(same, Columns) else cast, (*absent, *blank))

    def fill(self, before: Data) -> NewData:
        """Return data with the first fitted row for each new row in the place of what is absent."""
        if isinstance(self.x, Tensor) or isinstance(before, Tensor):
            return self
        filled = dict(self.x)
        for name in (name for name in self.missing if not isinstance(self.x.get(name), Tensor)):
            value = before[name]
            if not value.ndim:
                raise ZooError(f"expected entry '{name}' in x, as the guide was fitted with; got none; add it")
            filled[name] = value[:1].expand(self._rows(name, before), *value.shape[1:]).clone()
        return NewData(Columns(filled, self.x.categories) if isinstance(self.x, Columns) else filled, self.missing)

    def other(self, before: Data, missing: str) -> Data:
        """Return the data with another fitted row in the place of what is ``missing``."""
        if isinstance(self.x, Tensor) or isinstance(before, Tensor):
            whole = isinstance(self.x, Tensor) and isinstance(before, Tensor)
            return _stand_in(self.x, before, another=True) if whole else self.x  # type: ignore[arg-type]
        value = self.x.get(missing)
        return {**self.x, missing: _stand_in(value, before[missing], another=True)} if isinstance(value, Tensor) else self.x

    def _rows(self, name: str, before: Mapping[str, Any]) -> int:
        """Return how many rows an entry that is missing has: as many as those that had as many before."""
        counts = {
            len(value) for key, value in self.x.items()  # type: ignore[union-attr]
            if _is_rows(value) and _is_rows(before.get(key)) and len(before[key]) == len(before[name])}
        if len(counts) != 1:
            raise ZooError(
                f"expected to know how many rows entry '{name}' has; got none for it in x; pass it as NaN, one for each row")
        return counts.pop()


def named(model: Model, x: Data) -> Data:
    """Return a lone tensor for a program of several arguments under the name of its first one."""
    if not isinstance(x, Tensor) or not isinstance(model, FunctionModel):
        return x
    call = Call(model.program, model.label)
    first = next(iter(call.parameters.values()))
    positional = first.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {first.name: x} if call.several and positional else x


def in_categories(x: Mapping[str, Any], before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return new rows with words coded as ``before``; words that were not there have the numbers that follow.

    Raises:
        ZooError: words in a column that had numbers.
    """
    if not isinstance(x, Columns):
        return x
    known = before.categories if isinstance(before, Columns) else {}
    coded: dict[str, Any] = dict(x)
    categories = dict(known)
    for name, words in x.categories.items():
        if name in before and name not in known:
            raise ZooError(f"expected numbers in column '{name}', as the guide was fitted with; got words; code them alike")
        categories[name] = [*known.get(name, []), *(word for word in words if word not in known.get(name, []))]
        place = {word: i for i, word in enumerate(categories[name])}
        coded[name] = torch.tensor([place[word] for word in words])[coded[name]]
    return Columns(coded, categories)


def _alike(value: Any, before: Any, kind: torch.dtype) -> Any:
    """Return an entry in the type of the fitted one, or else in the precision of the fitted data."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or isinstance(before, Tensor)):
        return value
    if isinstance(before, Tensor) and (before.is_floating_point() or not value.is_floating_point()):
        return value.to(before.dtype)
    whole = isinstance(before, Tensor) and bool((value == value.round()).all())
    return value.to(before.dtype if whole else kind)


def _blank(x: Data) -> tuple[str, ...]:
    """Return which entries are NaN throughout."""
    entries = {"x": x} if isinstance(x, Tensor) else x
    return tuple(
        name for name, value in entries.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() and bool(value.isnan().all()))


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _stand_in(like: Tensor, fitted: Tensor, another: bool = False) -> Tensor:
    """Return the first fitted row, or ``another`` that differs, for each row of ``like``: values that a program can run on.

    Where all fitted rows are alike, another one is them plus one. NaN would do no better: a program may take it for a count.
    """
    row = fitted[:1] if fitted.ndim else fitted
    if another:
        differ = (fitted != row).reshape(len(fitted), -1).any(1).nonzero().flatten() if fitted.ndim else fitted.new_zeros(0)
        row = fitted[differ[:1]] if len(differ) else ~row if row.dtype is torch.bool else row + 1
    return row.expand(like.shape).clone()
