"""The protocol of a study: measured findings, the checks they must pass, and the figure that shows them."""

from __future__ import annotations

import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments.studies.registry import STUDIES
from zoo.registry import lookup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Standard errors that a Monte-Carlo number may lie from what it should be: one in 16,000 does by chance.
ERRORS = 4.0


@dataclass(frozen=True)
class Check:
    """One number of a study, and whether it is what the claim says.

    Attributes:
        what: what was measured, with its unit.
        value: the number.
        expected: what it should be, in words.
        holds: whether it is.
    """

    what: str
    value: float
    expected: str
    holds: bool

    @classmethod
    def near(cls, what: str, value: float, target: float, within: float = 0.0, se: float = 0.0) -> Check:
        """Expect ``value`` within ``within`` plus four standard errors of ``target``.

        >>> Check.near("sum of the weights", 1.0002, 1.0, se=0.0001).holds
        True
        """
        margin = within + ERRORS * se
        of = f" ({ERRORS:g} standard errors)" if se else ""
        return cls(what, value, f"{target:.6g} ± {margin:.2g}{of}", abs(value - target) <= margin)

    @classmethod
    def at_most(cls, what: str, value: float, limit: float, se: float = 0.0) -> Check:
        """Expect ``value`` at most ``limit``, plus four standard errors.

        >>> Check.at_most("ELBO", -3.0, -4.0)
        Check(what='ELBO', value=-3.0, expected='≤ -4', holds=False)
        """
        return cls(what, value, f"≤ {limit:.6g}" + _of(se), value <= limit + ERRORS * se)

    @classmethod
    def at_least(cls, what: str, value: float, limit: float, se: float = 0.0) -> Check:
        """Expect ``value`` at least ``limit``, less four standard errors."""
        return cls(what, value, f"≥ {limit:.6g}" + _of(se), value >= limit - ERRORS * se)

    @classmethod
    def above(cls, what: str, value: float, limit: float, se: float) -> Check:
        """Expect ``value`` above ``limit`` by more than four standard errors: noise can't have put it there.

        >>> Check.above("rise", 0.3, 0.0, se=0.1).holds
        False
        """
        return cls(what, value, f"> {limit:.6g} by {ERRORS * se:.2g} ({ERRORS:g} standard errors)", value > limit + ERRORS * se)


def _of(se: float) -> str:
    return f" (± {ERRORS * se:.2g}, {ERRORS:g} standard errors)" if se else ""


class Findings(ABC):
    """The findings of a study. Subclasses are frozen dataclasses, whose fields are the numbers.

    A claim is checked, drawn and written from these numbers alone, so what the figure shows is what was tested.
    """

    @abstractmethod
    def checks(self) -> Sequence[Check]:
        """Return the numbers that the claim is about, and what they should be."""

    @abstractmethod
    def draw(self) -> Figure:
        """Return the figure."""

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks())

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data, ready for JSON; infinite and undefined numbers are ``None``."""
        found = {f.name: plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"holds": self.holds, "checks": [plain(vars(check)) for check in self.checks()], "found": found}


def plain(value: Any) -> Any:
    """Turn tensors, dataclasses and collections into plain data."""
    if isinstance(value, Tensor):
        return plain(_numbers(value))
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _numbers(value: Tensor) -> float | list[Tensor]:
    """Return a tensor as a list of its rows, or a tensor without dimensions as a number of seven digits."""
    return float(f"{float(value):.7g}") if not value.ndim else list(value)


def run(name: str, *, quick: bool = False, seed: int = 0) -> Findings:
    """Run the study ``name`` on one torch thread and return its findings.

    Args:
        name: a key of :data:`STUDIES`.
        quick: at the reduced size of the tests.
        seed: of all that is drawn.

    Raises:
        ZooError: a study that there is not.

    >>> run("em-coordinate-ascent", quick=True).holds
    True
    """
    module = importlib.import_module(lookup(STUDIES, name, "study", "zoo study").module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the densities are small, and studies run side by side
    try:
        found: Findings = module.run(quick, seed)
    finally:
        torch.set_num_threads(threads)
    return found


def claim(name: str) -> str:
    """Return what the study claims, with its formula and source: its module's docstring."""
    module = importlib.import_module(lookup(STUDIES, name, "study", "zoo study").module)
    return inspect.getdoc(module) or ""
