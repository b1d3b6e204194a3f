"""The efforts of an evaluation: how many densities it may evaluate, beside what the fits took.

The registry is plain data, so listing it imports nothing heavy; :mod:`experiments.runtime.budget` counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import ZooError, nearest


@dataclass(frozen=True)
class Effort:
    """How many evaluations of log p(x, z) an evaluation may take: of all rows at one draw; one with its gradient counts three.

    Attributes:
        multiple: of those that the fits took.
        floor: that it may take anyhow, fewer of large data.
        summary: what it is for, in one line.
    """

    multiple: float
    floor: int
    summary: str


EFFORTS: Mapping[str, Effort] = {
    "none": Effort(0, 0, "ELBO, k̂ and ESS; log p(x | θ) in closed form, or else bounded from below by the same draws"),
    "quick": Effort(1, 2**17, "at most what the fits took: a first look"),
    "default": Effort(5, 2**19, "at most five times what the fits took"),
    "thorough": Effort(50, 2**23, "at most fifty times what the fits took: for numbers to publish"),
}


def effort(name: str) -> Effort:
    """Return the effort called ``name``.

    Raises:
        ZooError: there is none.
    """
    if name in EFFORTS:
        return EFFORTS[name]
    hint = nearest(str(name), list(EFFORTS)) or "; choose one"
    raise ZooError(f"expected effort as one of {', '.join(EFFORTS)}; got '{name}'{hint}")
