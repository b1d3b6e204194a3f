"""The errors and warnings a user meets: one line, what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class ZooError(ValueError):
    """Input that cannot be used. The text is one line and says how to mend it.

    The command line prints it after ``error:`` and exits with code 2.
    """


class ZooWarning(UserWarning):
    """Something a reader of the numbers must know: a slow path, a regularised component, a stopped fit."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``names``, or an empty string.

    >>> nearest("faithfull", ["faithful", "wine"])
    "; did you mean 'faithful'?"
    """
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def chosen(registry: Mapping[str, T], name: object, what: str, mend: str = "choose one") -> T:
    """Return the entry ``name`` of a registry, or raise a :class:`ZooError` that names all of them and the nearest.

    >>> chosen({"mlp": 1, "conv": 2}, "cnv", "network")
    Traceback (most recent call last):
    ...
    zoo.errors.ZooError: expected network to be one of mlp, conv; got 'cnv'; did you mean 'conv'?
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    hint = nearest(str(name), registry) or f"; {mend}"
    raise ZooError(f"expected {what} to be one of {', '.join(registry)}; got {name!r}{hint}")
