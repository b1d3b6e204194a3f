"""Repeating a computation by its tensor operations alone.

A Pyro program is Python that runs anew for each evaluation, and on small data that takes far longer than its arithmetic. But
nearly every program does the same operations each time, on other numbers. :class:`Replay` writes them down in one run, backward
pass included, and from then on does just these. The program stays the only definition: nothing is written by hand, and what was
written down is held against the program again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.operations import Recorder, Unrepeatable, compiled
from zoo.program import generators, replaying

#: What results may differ by, in units of rounding.
ROUNDING = 1024
#: Shapes of inputs of which a function is written down: of more, the others are run by Python.
SHAPES = 8
#: A replay is held against its function at the second call, and again each time that there were so many times as many calls.
AGAIN = 32
#: What may go wrong with operations that are rare, sparse ones say. Python runs these.
FAILURES = (Unrepeatable, RuntimeError, TypeError, ValueError)

Function = Callable[..., tuple[Tensor, ...]]


class Replay:
    """A function from tensors to a tuple of tensors, which does its operations alone once it is known that they are the same.

    The first call runs it and writes its operations down; the second, the 64th, the 2,048th … run it both ways. If the results
    differ by more than rounding, or if Python looks at a number that varies (``if z > 0``), it is run by Python from then on.
    Random numbers are drawn anew each time, from torch's generators, as by the function itself.

    Args:
        function: of the inputs and of tensors that it knows; it returns tensors without a graph, which nobody changes in place.
        varying: tensors that it knows and that change between calls, such as parameters. Others are taken to stay as they are,
            and so are those of whole numbers and masks, by which layers choose columns.
        reason: why it is to be run by Python, if it is.

    Attributes:
        reason: why it is run by Python, if it is.

    >>> square = Replay(lambda x: (x.square().sum(),))
    >>> [float(square(torch.full((2,), float(i)))[0]) for i in range(4)]
    [0.0, 2.0, 8.0, 18.0]
    """

    def __init__(self, function: Function, varying: Iterable[Tensor] = (), reason: str = ""):
        self.function, self.reason = function, reason
        self._varying = {id(tensor): tensor for tensor in varying if tensor.is_floating_point()}
        self._known: dict[Any, _Known] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.reason:
            return self.function(*inputs)
        key = tuple((each.shape, each.stride(), each.dtype, each.device) for each in inputs)
        known = self._known.get(key)
        if known is None:
            return self._write_down(key, inputs)
        known.calls += 1
        if known.calls < known.due:
            with torch.no_grad():
                return known.run(*inputs)
        known.due *= AGAIN
        return self._compare(known, inputs)

    def _write_down(self, key: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(self._known) >= SHAPES:
            return self.function(*inputs)
        recorder = Recorder()
        with recorder:
            outputs = self.function(*inputs)
        try:
            self._known[key] = _Known(compiled(recorder, inputs, outputs, self._varying))
        except FAILURES as error:
            self.reason = str(error)
        return outputs

    def _compare(self, known: _Known, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        before = generators()
        outputs = self.function(*inputs)
        try:
            with replaying(before), torch.no_grad():
                again = known.run(*inputs)
            if not all(_alike(a, b) for a, b in zip(outputs, again, strict=True)):
                self.reason = "it does other operations from call to call"
        except FAILURES as error:
            self.reason = str(error)
        return outputs


def _alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two results are the same but for rounding: a kernel may add in another order, as memory happens to lie."""
    if a.shape != b.shape or not a.is_floating_point() or not bool(a.isfinite().all()):
        return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
    size = a.abs().amax() if a.numel() else 1.0
    return bool(((a - b).abs() <= ROUNDING * torch.finfo(a.dtype).eps * size).all())


@dataclass
class _Known:
    run: Callable[..., tuple[Tensor, ...]]
    calls: int = 1
    due: int = 2
