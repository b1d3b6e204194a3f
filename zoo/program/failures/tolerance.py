"""Evaluation of a density at draws of which some have no number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.errors import ZooError
from zoo.program.vectorise import LinAlgError, out_of_memory

T = TypeVar("T")

#: Draws of which one has to work.
HOPELESS = 100
#: What a program raises where its arithmetic fails: linear algebra and samplers (of torch, RuntimeErrors), a logarithm of
#: nothing, an overflow, a parameter outside its constraint.
FAILURES = (RuntimeError, ArithmeticError, ValueError)

#: Functions that raise for a whole batch of matrices, and their likes that say which of them failed.
UNRAISED: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {
    torch.linalg.cholesky: torch.linalg.cholesky_ex, torch.linalg.inv: torch.linalg.inv_ex, torch.inverse: torch.linalg.inv_ex,
    torch.linalg.solve: torch.linalg.solve_ex}


def tolerant(
    evaluate: Callable[[Tensor], Sequence[Tensor]], z: Tensor, *shapes: Sequence[int],
) -> tuple[list[Tensor], str]:
    """Evaluate at draws ``z`` (draws, …); a draw at which that fails gets NaN, and the others what they would get alone.

    An error stops a whole batch. One of linear algebra is taken for NaN in the matrices at fault, in one more call; of others
    the draws at fault are found by halving the batch: of one in n, with about 2 log₂ n more calls.

    Args:
        evaluate: draws (k, …) → results, (k, \\*shape) each.
        z: the draws.
        shapes: of one draw's results.

    Returns:
        the results, and the first failure in words; empty where there was none.

    Raises:
        ZooError: of ``evaluate``: it speaks of the input, not of a draw.
        torch.OutOfMemoryError: of ``evaluate``.

    >>> def root(z):
    ...     return [torch.linalg.cholesky(z[:, None, None])[:, 0, 0]]
    >>> [values], why = tolerant(root, torch.tensor([4.0, -1.0, 9.0]), [])
    >>> values
    tensor([2., nan, 3.])
    """
    try:
        return list(evaluate(z)), ""
    except LinAlgError as error:
        parts, first = _halved(_Unraised.wrap(evaluate), z), _words(error)
    except FAILURES as error:
        refuse(error)
        parts, first = _halved(evaluate, z), ""
    reason = first or next((_words(part) for part in parts if isinstance(part, Exception)), "")
    rows = [[z.new_full((1, *shape), torch.nan) for shape in shapes] if isinstance(part, Exception) else part for part in parts]
    return [torch.cat(result) for result in zip(*rows, strict=True)], reason


def drawn(draw: Callable[[], T], count: int, what: str) -> tuple[list[T], int]:
    """Call ``draw`` until it has worked ``count`` times; return its results, and how many calls that took.

    A program may fail at what it has just drawn, as a factor of a matrix that is singular there.

    Raises:
        ZooError: the first hundred calls failed, or 99 in 100 did; ``what`` says of what.
    """
    found: list[T] = []
    calls, reason = 0, ""
    while len(found) < count:
        calls += 1
        try:
            found.append(draw())
        except FAILURES as error:
            refuse(error)
            reason = reason or _words(error)
            if calls >= HOPELESS * (1 + len(found)):
                raise ZooError(
                    f"expected {what} that can be drawn; got {calls - len(found)} of {calls} draws that failed ({reason}); "
                    "check its priors") from error
    return found, calls


def _halved(evaluate: Callable[[Tensor], Sequence[Tensor]], z: Tensor) -> list[Sequence[Tensor] | Exception]:
    """Return the results of parts of ``z``, in order; of a draw that fails, its failure."""
    try:
        return [evaluate(z)]
    except FAILURES as error:
        refuse(error)
        if len(z) == 1:
            return [error.with_traceback(None)]
    half = len(z) // 2
    return [*_halved(evaluate, z[:half]), *_halved(evaluate, z[half:])]


def refuse(error: Exception) -> None:
    """Raise an error that says nothing of a draw: one of the input, of what the program is, or of memory."""
    if isinstance(error, ZooError | NotImplementedError) or out_of_memory(error):
        raise error


class _Unraised(TorchFunctionMode):
    """Let matrices that linear algebra fails at have NaN for a result, in place of an error."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        quiet = UNRAISED.get(func)
        if quiet is None:
            return func(*args, **(kwargs or {}))
        result, failed = quiet(*args, **(kwargs or {}))
        dims = result.ndim - failed.ndim
        return torch.where(failed.reshape([*failed.shape, *[1] * dims]) == 0, result, torch.nan)

    @classmethod
    def wrap(cls, evaluate: Callable[[Tensor], Sequence[Tensor]]) -> Callable[[Tensor], Sequence[Tensor]]:
        def quietly(z: Tensor) -> Sequence[Tensor]:
            with cls():
                return evaluate(z)

        return quietly


def _words(error: Exception) -> str:
    return f"{type(error).__name__.strip('_')}: {(str(error).splitlines() or [''])[0][:160]}"
