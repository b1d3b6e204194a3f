"""Repeating a computation by its tensor operations alone.

A Pyro program is Python that runs anew for each evaluation, and on small data that takes far longer than its arithmetic. But
nearly every program does the same operations each time, on other numbers. :class:`Replay` writes them down in one run, backward
pass included, and from then on does just these. The program stays the only definition: nothing is written by hand, and what was
written down is held against the program again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import Data, Identity
from zoo.direct import storage
from zoo.operations import Recorder, Unrepeatable, compiled
from zoo.program import generators, replaying

#: What results may differ by, in units of rounding.
ROUNDING = 1024
#: Shapes of inputs of which a function is written down: of more, the others are run by Python.
SHAPES = 8
#: A replay is held against its function at the second call, and again each time that there were so many times as many calls.
AGAIN = 32
#: Bytes of tensors that a replay which is kept from fit to fit may hold on to.
KEPT = 2**26
#: What may go wrong with operations that are rare, sparse ones say. Python runs these.
FAILURES = (Unrepeatable, RuntimeError, TypeError, ValueError)

Function = Callable[..., tuple[Tensor, ...]]


class Replay:
    """A function from tensors to a tuple of tensors, which does its operations alone once it is known that they are the same.

    The first call runs it and writes its operations down; the second, the 64th, the 2,048th … run it both ways. If the results
    differ by more than rounding, or if Python looks at a number that varies (``if z > 0``), it is run by Python from then on.
    Else what is returned is what the operations come to, of these calls, too: so bits do not hang on what was known before.
    Random numbers are drawn anew each time, from torch's generators, as by the function itself.

    Args:
        function: of the inputs and of tensors that it knows; it returns tensors without a graph, which nobody changes in place.
        varying: tensors that it knows and that change between calls, such as parameters. Others are taken to stay as they are,
            and so are those of whole numbers and masks, by which layers choose columns.
        reason: why it is to be run by Python, if it is.

    Attributes:
        reason: why it is run by Python, if it is.
        function: what it stands for.
        varying: the tensors that it knows and that change.

    >>> square = Replay(lambda x: (x.square().sum(),))
    >>> [float(square(torch.full((2,), float(i)))[0]) for i in range(4)]
    [0.0, 2.0, 8.0, 18.0]
    """

    def __init__(self, function: Function, varying: Iterable[Tensor] = (), reason: str = ""):
        self.function, self.reason = function, reason
        self.varying = [*varying]
        #: Called when it holds on to more than :data:`KEPT` bytes.
        self.let_go: Callable[[], object] = lambda: None
        self._varying = {id(tensor): tensor for tensor in self.varying if tensor.is_floating_point()}
        self._known: dict[Any, _Known] = {}
        #: Shapes that were written down before :meth:`go_on` and not met since; and whether one of them is still to be held
        #: against the function.
        self._old: set[Any] = set()
        self._unsure = False
        self._glance: Function | None = None

    def go_on(self, function: Function, glance: Function | None = None, sure: bool = False) -> None:
        """Go on for ``function``, which should do what was written down.

        That is held against it at the next call, and written down anew if it differs: a number that Python knows may have been
        set to another. With a ``glance``, the next call is held against that instead, on the first row of its inputs: it gives
        the first of what the function does, such as values without their gradients, and each row's hang on no other row. Who is
        ``sure`` that nothing was set to another has seen what the function does since.
        """
        self.function, self._glance, self._old, self._unsure = function, glance, {*self._known}, not sure

    @property
    def _held(self) -> int:
        """Bytes of the tensors that it holds on to, those that vary aside."""
        tensors = (
            value for known in self._known.values() for value in known.run.__globals__.values()
            if isinstance(value, Tensor) and id(value) not in self._varying)
        return sum({storage(each): each.untyped_storage().nbytes() for each in tensors}.values())

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.reason:
            return self.function(*inputs)
        key = tuple((each.shape, each.stride(), each.dtype, each.device) for each in inputs)
        known = self._known.get(key)
        if known is None:
            return self._write_down(key, inputs)
        self._old.discard(key)
        known.calls += 1
        due = known.calls >= known.due
        if not due and not self._unsure:
            with torch.no_grad():
                return known.run(*inputs)
        known.due *= AGAIN if due else 1
        if not due and self._glance is not None:
            return self._look(self._glance, key, known, inputs)
        return self._compare(key, known, inputs)

    def _write_down(self, key: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(self._known) >= SHAPES:
            if not self._old:
                return self.function(*inputs)
            del self._known[self._old.pop()]
        before, recorder = generators(), Recorder()
        with recorder:
            outputs = self.function(*inputs)
        try:
            known = _Known(compiled(recorder, inputs, outputs, self._varying))
            with replaying(before), torch.no_grad():
                outputs = known.run(*inputs)
        except FAILURES as error:
            self.reason = str(error)
            return outputs
        self._known[key] = known
        if self._held > KEPT:
            self.let_go()
        return outputs

    def _compare(self, key: Any, known: _Known, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the operations come to: the same bits whether or not they are held against the function, as here."""
        before = generators()
        outputs = self.function(*inputs)
        try:
            with replaying(before), torch.no_grad():
                again = known.run(*inputs)
            if all(alike(a, b) for a, b in zip(outputs, again, strict=True)):
                self._unsure = False
                return again
            reason = "it does other operations from call to call"
        except FAILURES as error:
            reason = str(error)
        if not self._unsure:
            self.reason = reason
            return outputs
        with replaying(before):
            return self._anew(key, inputs)

    def _look(self, glance: Function, key: Any, known: _Known, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what :meth:`_compare` does, after a look at the first row of the inputs."""
        before = generators()
        with suppress(*FAILURES), torch.no_grad():
            found = known.run(*inputs)
            with replaying(before):
                seen = glance(*(each[:1] for each in inputs))
            if all(alike(a, b[:1]) for a, b in zip(seen, found, strict=False)):
                self._unsure = False
                return found
        with replaying(before):
            return self._anew(key, inputs)

    def _anew(self, key: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forget what was written down, of all shapes, and begin with these inputs."""
        self._known.clear()
        self._old.clear()
        self._unsure = False
        return self._write_down(key, inputs)


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two results are the same but for rounding: a kernel may add in another order, as memory happens to lie."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if not a.is_floating_point() or not bool(a.isfinite().all()):
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    size = a.abs().amax() if a.numel() else 1.0
    return bool(((a - b).abs() <= ROUNDING * torch.finfo(a.dtype).eps * size).all())


@dataclass
class _Known:
    run: Callable[..., tuple[Tensor, ...]]
    calls: int = 1
    due: int = 2


class Replays:
    """A model's replays by name, each on the data that it was last asked for: what one fit wrote down, the next need not.

    Of those that hold on to more than :data:`KEPT` bytes, or whose data do, none is kept: a model should not hold large data
    that nobody else needs any more.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Replay]] = {}

    def of(
        self, name: str, x: Data, function: Function, varying: Iterable[Tensor], settings: Any = None,
        glance: Function | None = None, sure: bool = False,
    ) -> Replay:
        """Return the replay called ``name`` on ``x``, to go on with for ``function``; a new one where none is kept.

        Args:
            name: of what it does.
            x: the data, which are told from others by identity.
            function, varying: as of :class:`Replay`.
            settings: what else Python knows; where it is another, nothing is kept.
            glance, sure: as of :meth:`Replay.go_on`.
        """
        data, varying = Identity.of(x), [*varying]
        if sum(value.nbytes for _, value, _ in data.entries) > KEPT:
            return Replay(function, varying)
        key = data, settings
        known, replay = self._kept.get(name, (None, None))
        if replay is not None and known == key and not replay.reason and [*map(id, replay.varying)] == [*map(id, varying)]:
            replay.go_on(function, glance, sure)
            return replay
        found = Replay(function, varying)
        found.let_go = lambda: self._kept.pop(name, None)
        self._kept[name] = key, found
        return found
