"""The state of a fit as it is saved, and what tells that it does not fit the model, the guide or the method that reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import ZooError


@dataclass(frozen=True)
class State:
    """The state that a fit goes on from: tensors by name, and plain values that JSON can hold."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def copy(self) -> State:
        """Return the state with copies of its tensors."""
        return State({name: value.clone() for name, value in self.tensors.items()}, dict(self.values))

    def numbered(self, prefix: str) -> list[Tensor]:
        """Return the tensors named ``prefix.0``, ``prefix.1``, …, in this order."""
        return [value for _, value in sorted((int(i), value) for i, value in self.part(prefix).items())]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with ``prefix.``, without it."""
        return {k.removeprefix(prefix + "."): v for k, v in self.tensors.items() if k.startswith(prefix + ".")}

    @staticmethod
    def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``tensors`` with ``prefix.`` before their names."""
        return {f"{prefix}.{name}": value for name, value in tensors.items()}


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise a :class:`ZooError` where a saved state does not fit the model, the guide or the method that loads it."""
    try:
        yield
    except ZooError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        text = " ".join(str(error).split())[:160]
        raise ZooError(
            f"expected a state of this fit in {path}; got another ({type(error).__name__}: {text}); remove the directory"
        ) from None


def alike(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return ``values`` in the types and on the devices of ``tensors``; raise a ``ValueError`` where a shape differs."""
    if [value.shape for value in values] != [tensor.shape for tensor in tensors]:
        raise ValueError("tensors of other shapes")
    return [value.to(tensor) for value, tensor in zip(values, tensors, strict=True)]


def check_finite(tensors: Iterable[Tensor]) -> None:
    """Raise a ``ValueError`` if parameters that were read are not finite: no fit leaves such behind."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError("parameters that are not finite")


def amount(value: Any) -> float:
    """Return a saved number of seconds or evaluations; raise a ``ValueError`` where it is none.

    >>> amount(2)
    2.0
    """
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"an amount of {value}")
    return float(value)
