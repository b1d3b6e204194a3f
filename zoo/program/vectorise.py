"""Mapping a run of a program over draws: by vmap, or one by one where the program forbids it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.errors import ZooError, ZooWarning

#: What a program does that vmap can't follow, and what goes wrong for other reasons and would in a loop too.
FORBIDDEN = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
LinAlgError: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
OTHER = (ZooError, LinAlgError)


#: Whether operations are being captured: what fails on tensors without numbers says nothing of the program.
_CAPTURING: ContextVar[bool] = ContextVar("capturing", default=False)


@contextmanager
def capturing() -> Iterator[None]:
    """Let :class:`OverDraws` raise where vmap fails."""
    token = _CAPTURING.set(True)
    try:
        yield
    finally:
        _CAPTURING.reset(token)


class Labelled(Protocol):
    """A program with a label, its name in tables and errors."""

    @property
    def label(self) -> str: ...


class OverDraws:
    """Maps runs of one program over draws: by vmap, or one by one from the first time that vmap can't, with a warning.

    A single row is run without vmap, because vmap nearly doubles the time of small operations. Rows that do not fit into memory
    together are run one by one, without the warning, and later rows go by vmap again.

    Args:
        program: the program; the warning names its ``label``.
        quiet: whether to hide torch's own warnings of operations that torch maps in a loop.

    Attributes:
        vectorised: whether vmap has been able to run the program so far.
    """

    def __init__(self, program: Labelled, quiet: bool = False):
        self.program, self.quiet, self.vectorised = program, quiet, True

    def __call__(self, one: Callable[[Any], Any], rows: Any, drawing: bool = False) -> Any:
        """Return ``one`` of each row of ``rows``, stacked.

        Args:
            one: a run of the program at one row.
            rows: a tensor, or a dict of tensors, of as many rows.
            drawing: the program draws observations, for which not every sampler runs under vmap: it is run row by row.
        """
        if not self.vectorised or drawing or count(rows) == 1:
            return loop(one, rows)
        try:
            with _without_torchs_own() if self.quiet else nullcontext():
                # A decoder that drops units out while it trains drops others for each draw.
                return torch.func.vmap(one, randomness="different")(rows)
        except (*OTHER, *FORBIDDEN) as error:
            if out_of_memory(error):
                return loop(one, rows)
            if isinstance(error, OTHER) or _CAPTURING.get():
                raise
            result, reason = loop(one, rows), str(error).splitlines()[0][:120]
            self.give_up(f"at or after site '{last_site(one, rows)}': {reason}")
            return result

    def give_up(self, reason: str) -> None:
        """Run the program draw by draw from now on, and warn why."""
        self.vectorised = False
        warnings.warn(ZooWarning(
            f"{self.program.label} can't run under vmap and will be run draw by draw, which is slower: {reason}"), stacklevel=5)


@contextmanager
def _without_torchs_own() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


#: What torch says of tensors that are larger than memory, or than a number of bytes can be.
NO_MEMORY = ("DefaultCPUAllocator", "Storage size calculation overflowed", "Overflow when unpacking long")


def out_of_memory(error: Exception) -> bool:
    """Return whether a device, or the system, had no memory left, or can't even count it: torch has no class for the latter."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in NO_MEMORY)


def count(rows: Any) -> int:
    """Return the length of the first dimension of ``rows``, a tensor or a dict of tensors."""
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def loop(one: Callable[[Any], Any], rows: Any) -> Any:
    """Map ``one`` over ``rows``, a tensor or a dict of tensors, one by one; stack what it returns."""
    results = [one({k: v[i] for k, v in rows.items()} if isinstance(rows, dict) else rows[i]) for i in range(count(rows))]
    first = results[0]
    if isinstance(first, Tensor):
        return torch.stack(results)
    if isinstance(first, dict):
        return {k: torch.stack([result[k] for result in results]) for k in first}
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def last_site(one: Callable[[Any], Any], rows: Any) -> str:
    """Return the site that the program had reached when vmap failed."""
    seen = _Seen()

    def watched(row: Any) -> Any:
        with seen:
            return one(row)

    with suppress(*FORBIDDEN):
        torch.func.vmap(watched)(rows)
    return seen.name


class _Seen(Messenger):
    name = "the first site"

    def _pyro_sample(self, msg: Any) -> None:
        self.name = msg["name"]
