"""The arguments of a program as data: what people pass, as one tensor or one mapping of tensors by name.

A program of one argument takes the data as it is. One of several takes the entries of a mapping by the names of its
parameters, so that ``model(x, y=None)`` and ``model(*args, **kwargs)`` are data like any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

from zoo.data import PLAIN, Data
from zoo.errors import ZooError


def arguments(program: Callable[..., Any], *args: Any, **kwargs: Any) -> Data:
    """Return the arguments of a call ``program(*args, **kwargs)`` as data: one alone as it is, several by name.

    Tensors stay, and numbers and words, too, beside them; NumPy arrays, lists and columns of a pandas or polars frame become
    tensors; ``None`` stays, as an observation that is to be drawn. A frame alone is a mapping of its columns; among others it
    is a tensor (rows, columns).

    Args:
        program: a bare Pyro program or a PyroModule.
        args, kwargs: as it would be called with.

    Raises:
        ZooError: arguments that the program does not take, or a value that is no tensor and can't be made one.

    >>> import zoo, torch
    >>> def line(x, y=None):
    ...     ...
    >>> arguments(line, torch.zeros(2), y=[1.0, 2.0])
    {'x': tensor([0., 0.]), 'y': tensor([1., 2.])}
    """
    if not args and not kwargs:
        raise ZooError("expected data for the program; got none; pass its arguments")
    if len(args) == 1 and not kwargs:
        return as_data(args[0])
    try:
        bound = signature(program).bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(program, "__name__", type(program).__name__)
        raise ZooError(f"expected arguments of {name}{signature(program)}; got others: {error}; match them") from error
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}_{i}": part for i, part in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif len(bound.signature.parameters) == 1:  # the only one there is, by its name
            return as_data(value)
        else:
            named[name] = value
    return _entries(named)


def as_data(x: Any) -> Data:
    """Return what stands for a program's one argument as a tensor, or a mapping of tensors by name.

    >>> as_data({"y": [1.0, 2.0], "groups": 3})
    {'y': tensor([1., 2.]), 'groups': 3}
    """
    if isinstance(x, Tensor):
        return x
    if is_frame(x):
        return columns(x)
    if not isinstance(x, Mapping):
        return _entry("", x)  # type: ignore[no-any-return]
    if all(value is None or isinstance(value, (Tensor, *PLAIN)) for value in x.values()):
        return x
    return _entries({str(name): value for name, value in x.items()})


def signature(program: Callable[..., Any]) -> inspect.Signature:
    """Return what a program takes: of a module, its ``forward``; of one under Pyro's handlers, what is under them."""
    inner = unwrap(program)
    return inspect.signature(inner.forward if isinstance(inner, nn.Module) else inner)


class Call:
    """How a program is called on data: with all of it as its one argument, or with the entries by name.

    Args:
        program: the program.
        name: how errors call it.
    """

    def __init__(self, program: Callable[..., Any], name: str):
        self.name, self.parameters = name, dict(signature(program).parameters)
        self.several = sum(p.kind is not inspect.Parameter.VAR_KEYWORD for p in self.parameters.values()) > 1 or any(
            p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for p in self.parameters.values())
        self.required = [
            name for name, p in self.parameters.items() if p.default is p.empty and p.kind not in (
                inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]

    def given(self, x: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments that ``x`` stands for.

        Raises:
            ZooError: a program that needs several arguments, and data without their names.
        """
        if isinstance(x, Mapping) and self.several and self._names(x):
            return self._by_name(x)
        if len(self.required) > 1 or not self.parameters:
            got = f"a mapping of {', '.join(x)}" if isinstance(x, Mapping) else "one tensor"
            raise ZooError(
                f"expected {', '.join(self.parameters) or 'an argument'} for {self.name}; got {got}; pass all arguments, e.g. "
                f"args=(…), or a mapping with these names")
        return (x,), {}

    def _names(self, x: Mapping[str, Any]) -> bool:
        """Return whether the entries of ``x`` are the program's parameters, those without a default among them.

        One at least must be named: a program of ``*args, **kwargs`` would take any mapping for keywords.
        """
        named = any(name in self.parameters or self._is_various(name) for name in x)
        return named and all(self._takes(name) for name in x) and all(name in x for name in self.required)

    def _takes(self, name: str) -> bool:
        kinds = {key: p.kind for key, p in self.parameters.items()}
        return name in kinds or inspect.Parameter.VAR_KEYWORD in kinds.values() or self._is_various(name)

    def _is_various(self, name: str) -> bool:
        """Return whether an entry is one of ``*args``: of these each is called ``args_0``, ``args_1``, …"""
        stem, _, number = name.rpartition("_")
        parameter = self.parameters.get(stem)
        return number.isdigit() and parameter is not None and parameter.kind is inspect.Parameter.VAR_POSITIONAL

    def _by_name(self, x: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rest = dict(x)
        various = [key for key in rest if key not in self.parameters and self._is_various(key)]
        before: list[Any] = []
        for name, parameter in self.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                before += [rest.pop(key) for key in sorted(various, key=lambda key: int(key.rpartition("_")[2]))]
            elif name in rest and (parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
                    various and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)):
                before.append(rest.pop(name))
        return tuple(before), rest


def is_frame(value: Any) -> bool:
    """Return whether a value is a table with named columns, of pandas or polars, neither of which is imported for it."""
    ours = type(value).__module__.split(".")[0] in ("pandas", "polars")
    return ours and hasattr(value, "columns") and hasattr(value, "shape")


class Columns(dict[str, Tensor]):
    """A frame's columns as tensors, by name.

    Attributes:
        categories: of columns of words, their categories: the tensor holds each row's place among them.
    """

    def __init__(self, tensors: Mapping[str, Tensor], categories: Mapping[str, list[str]]):
        super().__init__(tensors)
        self.categories = dict(categories)


def columns(frame: Any) -> Columns:
    """Return the columns of a pandas or polars frame as tensors: numbers in float64, words as their categories' numbers.

    Raises:
        ZooError: a column that holds neither, or lacks values.
    """
    found: dict[str, Tensor] = {}
    categories: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        values = np.asarray(frame[name])
        if values.dtype.kind in "fiub":
            found[name] = torch.as_tensor(values.astype(np.float64) if values.dtype.kind == "f" else values.astype(np.int64))
            continue
        found[name], categories[name] = _coded(f"column '{name}'", values.tolist())
    return Columns(found, categories)


def _coded(what: str, values: Sequence[Any]) -> tuple[Tensor, list[str]]:
    """Return the place of each word among the sorted ones, and these."""
    words = [str(word) for word in values]
    if any(word in ("None", "nan", "NaT", "<NA>") for word in words):
        raise ZooError(f"expected {what} without missing values; got some; drop those rows, or fill them")
    categories = sorted(set(words))
    place = {word: i for i, word in enumerate(categories)}
    return torch.tensor([place[word] for word in words]), categories


def plates_of_categories(x: Data, rows: Container[str] = ()) -> dict[str, list[str]]:
    """Return the categories of a frame's columns of words by the names that a plate of them would have.

    Plates of the frame's ``rows`` have the word of each row, in the rows' order.

    >>> county = Columns({"county": torch.tensor([1, 0])}, {"county": ["Aitkin", "Anoka"]})
    >>> plates_of_categories(county)["counties"], plates_of_categories(county, ["county"])["county"]
    (['Aitkin', 'Anoka'], ['Anoka', 'Aitkin'])
    """
    found: dict[str, list[str]] = {}
    if not isinstance(x, Columns):
        return found
    for name, labels in x.categories.items():
        in_rows = [labels[i] for i in x[name].tolist()]
        plates = (name, f"{name}s", f"{name}es", f"{name.removesuffix('y')}ies")
        found |= {plate: in_rows if plate in rows else labels for plate in plates}
    return found


def _entries(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as tensors by name; columns of words, as ``**frame`` passes them, are coded as a frame's."""
    found: dict[str, Any] = {}
    categories: dict[str, list[str]] = {}
    for name, value in values.items():
        if not isinstance(value, Tensor) and _of_words(value):
            found[name], categories[name] = _coded(f"entry '{name}'", list(value))
        else:
            found[name] = _entry(name, value)
    return Columns(found, categories) if categories else found


def _of_words(value: Any) -> bool:
    """Return whether a value is a column of words: a list, a tuple, an array, or a series of pandas or polars."""
    if not isinstance(value, list | tuple):
        is_column = hasattr(value, "dtype") and getattr(value, "ndim", 1) == 1
        if not is_column or np.asarray(value).dtype.kind not in "OUST":
            return False
    return any(isinstance(word, str) for word in value)


def _entry(name: str, value: Any) -> Any:
    """Return an argument as a tensor; ``None``, numbers and words as they are beside others."""
    if value is None or isinstance(value, Tensor) or (name and isinstance(value, PLAIN)):
        return value
    where = f"entry '{name}'" if name else "data"
    if is_frame(value):
        table = columns(value)
        if not table or table.categories:
            raise ZooError(
                f"expected {where} as a frame of numbers; got columns of words: {', '.join(table.categories)}; pass the "
                "columns one by one, or the frame alone")
        return torch.stack([column.double() for column in table.values()], 1)
    try:
        if isinstance(value, list | tuple):
            return torch.tensor(value)
        array = np.asarray(value)
        return torch.from_numpy(array.copy() if not array.flags.writeable or array.ndim == 0 else array)
    except (TypeError, ValueError, RuntimeError) as error:
        got = type(value).__name__
        raise ZooError(
            f"expected {where} as a tensor, an array, a list of numbers or a frame; got {got}; wrap it in torch.as_tensor"
        ) from error
