"""The errors and warnings a user meets: one line, what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
