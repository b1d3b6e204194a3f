"""Snapshots of the plain Python state of modules, which a recording of tensor operations does not see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Entries of a container, and elements of an array, up to which it is compared by value; a larger one by identity and length.
SMALL = 256
#: How deep containers and objects are looked into.
DEPTH = 4
#: Types whose values never change in place: these are compared by equality.
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)

_MISSING = object()


class Settings:
    """A snapshot of all attributes of modules but the values of their parameters and buffers.

    Plain or small attributes are compared by value: numbers, text, containers, arrays, the attributes of objects, and what
    functions load from outside. Other attributes are compared by identity. Tensors are compared by identity and by their
    version counter, which counts changes in place. An added or removed attribute counts as a change, and so do a parameter that
    is replaced or frozen, a module that is switched from training to evaluation, and another default dtype. Attributes that a
    class names in ``caches`` are left out, because they only keep results that are already known.

    Args:
        modules: the modules whose attributes are remembered, with those of their submodules.

    >>> layer = nn.Linear(2, 1)
    >>> layer.scales = {"x": 1.0}
    >>> settings = Settings([layer])
    >>> settings.hold()
    True
    >>> layer.scales["x"] = 2.0
    >>> settings.hold()
    False
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self._dtype = torch.get_default_dtype()
        parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self._of = [_Attributes(vars(part), frozenset(getattr(type(part), "caches", ()))) for part in parts]
        self._of += [
            _Attributes(entries, frozenset(), by_identity=True)
            for part in parts for entries in (part._parameters, part._buffers, part._modules)]
        self._trained = [(p, p.requires_grad) for module in modules for p in module.parameters()]

    def hold(self) -> bool:
        """Return whether nothing has changed since."""
        same = torch.get_default_dtype() is self._dtype and all(p.requires_grad is flag for p, flag in self._trained)
        return same and all(each.hold() for each in self._of)


class _Attributes:
    """The entries of one namespace as they were; ``ignored`` ones left out, ``by_identity`` compared no further."""

    def __init__(self, entries: Mapping[str, Any], ignored: frozenset[str], by_identity: bool = False):
        self.entries, self.size = entries, len(entries)
        self.ignored = [name for name in ignored if name in entries]
        self.plain: list[tuple[str, Any]] = []
        self.empty: list[str] = []
        self.others: list[tuple[str, Any, Any]] = []
        kept = {name: value for name, value in entries.items() if name not in ignored and name not in MEMBERS}
        for name, value in kept.items():
            self.remember(name, value, by_identity)

    def remember(self, name: str, value: Any, by_identity: bool) -> None:
        """Put an entry among those that are compared in the same way."""
        if by_identity or isinstance(value, PLAIN):
            self.plain.append((name, value))
        elif isinstance(value, list | dict | set) and not value:
            # Of nearly all containers of a module, those of its hooks, it is quickest to say that they are still empty.
            self.empty.append(name)
        else:
            self.others.append((name, fingerprint(value), value))

    def hold(self) -> bool:
        entries = self.entries
        if len(entries) != self.size or any(name not in entries for name in self.ignored):
            return False
        for name, value in self.plain:
            now = entries.get(name, _MISSING)
            if now is not value and not _equal(now, value):
                return False
        if any(entries.get(name, _MISSING) for name in self.empty):
            return False
        return all(fingerprint(entries.get(name, _MISSING)) == mark for name, mark, _ in self.others)


#: Namespaces of a module that are compared entry by entry.
MEMBERS = ("_parameters", "_buffers", "_modules")


def _equal(now: Any, before: Any) -> bool:
    return type(now) is type(before) and isinstance(now, PLAIN) and fingerprint(now) == fingerprint(before)


def fingerprint(value: Any, depth: int = DEPTH) -> Any:
    """Return what is equal for two states of a value only where a program that asks for the value sees the same.

    >>> fingerprint({"a": [1.0, 2.0]}) == fingerprint({"a": [1.0, 2.0]}), fingerprint(1) == fingerprint(True)
    (True, False)
    """
    if isinstance(value, PLAIN):
        return type(value), repr(value) if isinstance(value, float) and math.isnan(value) else value
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, np.ndarray | np.generic):
        return (value.dtype.str, value.shape, value.tobytes()) if value.size <= SMALL else (id(value), value.shape)
    if isinstance(value, nn.Module | ModuleType | type) or depth == 0:
        return id(value)
    if isinstance(value, Mapping | Sequence | set | frozenset):
        return _of_container(value, depth - 1)
    return _of_object(value, depth - 1)


def _of_container(value: Any, depth: int) -> Any:
    if len(value) > SMALL:
        return id(value), len(value)
    if isinstance(value, Mapping):
        return type(value), tuple((fingerprint(k, depth), fingerprint(v, depth)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(fingerprint(each, depth) for each in value)
    return type(value), tuple(fingerprint(each, depth) for each in value)


def _of_object(value: Any, depth: int) -> Any:
    """Return the fingerprint of a function, its code and what it loads from outside, or of another object, its attributes."""
    if isinstance(value, FunctionType):
        outside = [cell.cell_contents for cell in value.__closure__ or ()]
        outside += [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
        outside += [value.__defaults__, value.__kwdefaults__]
        return id(value.__code__), tuple(fingerprint(each, depth) for each in outside)
    return id(value), fingerprint(vars(value), depth) if hasattr(value, "__dict__") else None
