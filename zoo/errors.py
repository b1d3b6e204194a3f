"""The errors and warnings a user meets: one line, what was expected, what came, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class ZooError(ValueError):
    """Input that cannot be used. The text is one line and says how to mend it.

    The command line prints it after ``error:`` and exits with code 2.
    """


class Unwritable(ZooError):
    """What a disk refuses to hold: it is full, or fails. The command line exits with code 1."""


class ZooWarning(UserWarning):
    """Something a reader of the numbers must know: a slow path, a regularised component, a stopped fit."""


class Interrupted(BaseException):
    """A run that was asked to stop by a signal, and has written what it knows. No ``except Exception`` holds it up.

    Attributes:
        signal: the signal's number.
        path: the run's directory, where it has one: it goes on from there.
    """

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal
        self.path: Path | None = None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``names``, or an empty string.

    >>> nearest("faithfull", ["faithful", "wine"])
    "; did you mean 'faithful'?"
    """
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def check_number(
    name: str, value: object, *, whole: bool = False, least: float = -math.inf, most: float = math.inf, mend: str = "mend it",
) -> None:
    """Raise a :class:`ZooError` unless ``value`` is a number, ``whole`` or any, from ``least`` to ``most``, not NaN.

    >>> check_number("steps", 2.5, whole=True, least=1)
    Traceback (most recent call last):
    ...
    zoo.errors.ZooError: expected steps as a whole number from 1; got 2.5; mend it
    """
    kind = isinstance(value, int) or (isinstance(value, float) and not whole)
    if kind and not isinstance(value, bool) and least <= value <= most:  # type: ignore[operator]
        return
    ends = (f" from {least:g}" if least > -math.inf else "") + (f" to {most:.12g}" if most < math.inf else "")
    raise ZooError(f"expected {name} as a {'whole ' if whole else ''}number{ends}; got {value!r}; {mend}")


#: Parameters that one part of a fit may have, at most: 2 GB of them in float64, and Adam keeps as many three times more.
PARAMETERS = 2**28


def check_parameters(count: int, what: str, mend: str) -> None:
    """Raise a :class:`ZooError` where ``what`` has more than :data:`PARAMETERS` parameters: before memory is taken for them.

    >>> check_parameters(10**12, "a network", "lower its widths")
    Traceback (most recent call last):
    ...
    zoo.errors.ZooError: expected at most 268,435,456 parameters in a network; got 1,000,000,000,000; lower its widths
    """
    if count > PARAMETERS:
        raise ZooError(f"expected at most {PARAMETERS:,} parameters in {what}; got {count:,}; {mend}")


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
