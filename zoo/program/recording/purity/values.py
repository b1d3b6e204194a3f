"""Abstract values of a function's code: where a value came from, and what may be done with it.

A function may change a value that the call itself made. It may call a value that torch or Pyro returned, and may enter such a
value in a ``with`` statement. Of all other values, such as arguments and items, it may only read attributes that are known to
be free of effects.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any, Protocol

from zoo.program.recording.purity.names import ATTRIBUTES, CHANGING, COPYING, FRESH, VIEWING, known

Values = frozenset[Any]  # all that may stand in one place: the marks below; modules, functions, classes; inner functions' code
NULL, VALUE, OWN, MADE, COPIER = "null", "value", "own", "made", "copier"  # MADE: by torch or Pyro. COPIER: it returns OWN
ANY, MINE = frozenset({VALUE}), frozenset({OWN})  # OWN: the call made it, or it can't be changed
_WRITES = {"out", "inplace"}  # arguments by which a function of torch's changes a tensor that it is given
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>"}


class Doubt(Exception):
    """The function is not proved pure; the text says why."""


class Outside(Protocol):
    """What is known of names from outside."""

    def name(self, function: FunctionType, name: str) -> Values:
        """Return what is known of a global or built-in name, or doubt."""

    def cell(self, function: FunctionType, name: str) -> Values:
        """Return what is known of a closure's variable, or doubt."""

    def member(self, module: ModuleType, name: str) -> Values:
        """Return what is known of a module's attribute, or doubt."""

    def method(self, name: str) -> None:
        """Watch the tensor method ``name``, or doubt."""


def attribute(outside: Outside, receiver: Values, name: str) -> Values:
    """Return what is known of the attribute ``name`` of whatever ``receiver`` may be."""
    found: Values = frozenset()
    for one in receiver:
        if isinstance(one, ModuleType):
            found |= outside.member(one, name)
        else:
            _check_attribute(one, name)
            outside.method(name)
            own = name in COPYING or (one == OWN and (name in VIEWING or name.endswith("_")))
            found |= {COPIER if own else MADE}
    return found


def _check_attribute(one: Any, name: str) -> None:
    """Doubt an attribute of anything but a module whose effects are not known, or that changes what the call did not make."""
    if one not in (VALUE, OWN, MADE):
        raise Doubt(f"it reads the attribute `{name}` of a function or a class")
    if name in CHANGING and one != OWN:
        raise Doubt(f"it calls `{name}`, which may change something that it did not make")
    if name not in CHANGING and name not in ATTRIBUTES:
        raise Doubt(f"it reads the attribute `{name}`, whose effects are not known")


def writes_at(value: Any) -> int | None:
    """Return the first place of an argument ``inplace`` or ``out`` of a function of torch's, or none.

    >>> import torch
    >>> writes_at(torch.nn.functional.relu), writes_at(torch.exp)  # torch.exp takes `out` by keyword alone
    (1, None)
    """
    if isinstance(value, partial):
        return writes_at(value.func)
    if not isinstance(value, FunctionType) or not known(value):
        return None
    return next((k for k, name in enumerate(inspect.signature(value).parameters) if name in _WRITES), None)


def check_kept(values: Collection[Values]) -> None:
    """Doubt a function that can work in place where others might call it with what the reader does not see."""
    for one in (one for value in values for one in value):
        if writes_at(one) is not None:
            raise Doubt("it passes on a function that can work in place")


def result(callee: Values, positional: int, names: Collection[str]) -> Values:
    """Return what a call of whatever ``callee`` may be comes to, or doubt it."""
    return frozenset(_called(one, positional, names) for one in callee)


def _called(one: Any, positional: int, names: Collection[str]) -> str:
    if isinstance(one, partial):
        return _called(one.func, positional + len(one.args), {*names, *one.keywords})
    _check_no_writes(one, positional, names)
    if known(one):
        return _listed_called(one)
    if isinstance(one, CodeType | FunctionType):
        return OWN if isinstance(one, CodeType) and one.co_name in _COMPREHENSIONS else VALUE
    if one not in (MADE, COPIER):
        raise Doubt("it calls a value that reading can't follow")
    return OWN if one == COPIER else MADE


def _check_no_writes(one: Any, positional: int, names: Collection[str]) -> None:
    """Doubt a call by which a function of torch's may change a tensor that it is given."""
    place = writes_at(one)
    if _WRITES & {*names} and (one in (MADE, COPIER) or (known(one) and not isinstance(one, type))):
        raise Doubt("it calls with `out` or `inplace`, or with keywords that may hold them")
    if place is not None and positional > place:
        raise Doubt(f"it may call `{one.__name__}` in place")


def _listed_called(one: Any) -> str:
    """Return what a call of a listed function or class comes to."""
    if id(one) in FRESH:
        return OWN
    return VALUE if one.__module__ == "builtins" else MADE
