"""Tensor operations written down while Python runs, and what is left of them once all that can be is left out.

For :class:`zoo.replay.Replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor

from zoo.direct import Mode, direct, literal, place, storage, tensors

#: What stands for a file in stacks of the operations.
SOURCE = "<operations>"
#: Operations that are written down at most: a program that is run draw by draw has as many for each.
LONG = 2**14
#: Operations that return a view of their argument, besides those that say so.
VIEWS = {torch.ops.aten.lift_fresh.default, torch.ops.aten._unsafe_view.default}
#: Operations whose outcome hangs on the shape of their argument alone.
FILLED = {
    torch.ops.aten.zeros_like.default, torch.ops.aten.ones_like.default, torch.ops.aten.full_like.default,
    torch.ops.aten.new_zeros.default, torch.ops.aten.new_ones.default, torch.ops.aten.new_full.default}
#: Sums, of which a term may be nothing but zeros.
SUMS = {torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor}
#: What chooses rows.
INDEX = torch.ops.aten.index.Tensor
#: What operations on numbers that vary may not be: Python reads their outcome, or its shape.
READ = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class Unrepeatable(Exception):
    """Why a computation can't be repeated by its operations."""


@dataclass(frozen=True)
class _Facts:
    """What torch says of an operation: asked for once, as its answers take long.

    Attributes:
        name: of the operation, without namespace and overload.
        mutable: it changes an argument in place.
        written: places and names of the arguments that it changes.
        random: it draws random numbers.
        read: Python reads its outcome, or the shape of that hangs on numbers; not so of rows chosen by their places.
        view: it returns a view.
        instead: what returns the view that it makes of its argument's shape in place.
        reshapes: it changes its argument's shape in place.
    """

    name: str
    mutable: bool
    written: tuple[tuple[int, str], ...]
    random: bool
    read: bool
    view: bool
    instead: Any
    reshapes: bool

    @classmethod
    @cache
    def of(cls, func: Any) -> _Facts:
        arguments = enumerate(func._schema.arguments)
        written = tuple((i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)
        tags, mutable = {*func.tags}, func._schema.is_mutable
        return cls(
            name=func._schema.name.split("::")[-1], mutable=mutable, written=written if mutable else (),
            random=torch.Tag.nondeterministic_seeded in tags, read=bool(READ & tags) and func is not INDEX,
            view=func.is_view or func in VIEWS, instead=_view_of(func), reshapes=torch.Tag.inplace_view in tags)


class Recorder(Mode):
    """Writes down every operation below autograd and vmap, of the backward pass, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = _Facts.of(func).instead
        before = args[0].detach() if view is not None else None
        result = func(*args, **(kwargs or {}))
        if before is not None and self._made(args[0]):
            # What came before saw the tensor as it was then: with the view that stands in for it, the same as a new tensor.
            self.calls = [tuple(_instead(part, args[0], before) for part in call) for call in self.calls]
            func, args = view, (before, *args[1:])
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def _made(self, tensor: Tensor) -> bool:
        """Return whether an operation here made a tensor."""
        return any(made is tensor for *_, result in self.calls for made in tensors([result]))


class _Program:
    """The operations of a recording as lines of Python, shorter where that leaves every result as it is.

    Left out are operations that return their argument or a view that is there already, those of constants alone (done once,
    here), those that were done before on the same arguments, and those that nobody uses. Of tensors that are changed in place
    only views are left out.
    """

    def __init__(self, varying: dict[int, Tensor]):
        self.varying = varying
        self.names: dict[int, str] = {}
        self.bound: dict[str, Any] = {}
        self.constant: set[str] = set()
        self.seen: dict[Any, list[str]] = {}
        #: Tensors of which there are views, by the memory that they show.
        self.places: dict[Any, Tensor] = {}
        #: (the results' names, the operation, its arguments, the names it reads, whether it must be kept)
        self.lines: list[tuple[list[str], str, str, list[str], bool]] = []
        #: Memory that is changed in place at some time; and that of each tensor, by identity.
        self.changed: set[int] = set()
        self.lies: dict[int, int] = {}

    def bind(self, value: Any, kind: str) -> str:
        """Return a new name for a value: of ``kind`` k, a tensor; c, another argument; else an operation, by its own name."""
        name = f"{kind}_{len(self.bound)}"
        self.bound[name] = value
        return name

    def name(self, tensor: Tensor) -> str:
        """Return the name of a tensor; one that no operation made is known from outside."""
        if id(tensor) not in self.names:
            self.names[id(tensor)] = name = self.bind(tensor, "k")
            if not tensor.requires_grad and id(tensor) not in self.varying:
                self.constant.add(name)
        return self.names[id(tensor)]

    def expression(self, value: Any, reads: list[str]) -> str:
        """Return an argument as text, and add the names of its tensors to ``reads``."""
        if isinstance(value, Tensor):
            reads.append(self.name(value))
            return reads[-1]
        if isinstance(value, list | tuple):
            inner = "".join(f"{self.expression(each, reads)}, " for each in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        return repr(value) if isinstance(value, bool | int | None) else self.bind(value, "c")

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, met: set[int]) -> None:
        """Take in the next operation of a recording, what it returned, and the memory that it met."""
        results = list(result) if isinstance(result, list | tuple) else [result]
        reads: list[str] = []
        arguments = [self.expression(value, reads) for value in args]
        arguments += [f"{key}={self.expression(value, reads)}" for key, value in kwargs.items()]
        facts = _Facts.of(func)
        free = not (facts.mutable or facts.random or self.changed & met)
        constant = free and (func in FILLED or self.constant.issuperset(reads))
        if not constant and (facts.read or self._masked(func, args) or not all(isinstance(each, Tensor) for each in results)):
            raise Unrepeatable(f"Python reads the outcome of {func}")
        same = self._known_view(args, result) if facts.view else None
        if same is None and free:
            same = self._same(func, args, result)
        if same is not None:
            self.names[id(result)] = self.name(same)
            return
        key = (func, *map(literal, args), *((k, literal(v)) for k, v in kwargs.items()), *reads)
        names = self.seen.get(key) if free else None
        if names is None:
            way = "" if constant else self.bind(direct(func, args, kwargs, result), facts.name)
            names = self._new(way, result, results, arguments, reads, free)
            if free:
                self.seen[key] = names
        for each, name in zip(results, names, strict=True):
            if not (facts.mutable and id(each) in self.names):  # what is changed in place keeps its name
                self.names[id(each)] = name

    def _masked(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Return whether rows are chosen by a mask that varies, on which the outcome's shape hangs. On places it does not."""
        return func is INDEX and any(
            each.dtype == torch.bool and self.name(each) not in self.constant for each in tensors(args[1]))

    def _new(
        self, way: str, result: Any, results: list[Any], arguments: list[str], reads: list[str], free: bool,
    ) -> list[str]:
        """Return names for what an operation returns, after a line that calls it by the name ``way``; "": it is constant."""
        if not way:
            names = [self.bind(each.detach() if isinstance(each, Tensor) else each, "k") for each in results]
            self.constant.update(names)
            return names
        names = [f"t{len(self.lines)}_{i}" for i in range(len(results))]
        target = "".join(f"{name}, " for name in names) if isinstance(result, list | tuple) else names[0]
        self.lines.append((names, f"{target} = {way}", ", ".join(arguments), reads, not free))
        return names

    def _known_view(self, args: tuple[Any, ...], result: Any) -> Tensor | None:
        """Return the tensor that already shows the memory that a view shows, in the same way: so does x what xᵀᵀ does."""
        if not isinstance(result, Tensor):
            return None
        self.places.setdefault(place(args[0]), args[0])
        return self.places.get(place(result))

    def _same(self, func: Any, args: tuple[Any, ...], result: Any) -> Any:
        """Return the argument that an operation returns as it is, if it does."""
        if func is torch.ops.aten.pow.Tensor_Scalar and args[1] == 1:
            return args[0]
        if func is torch.ops.aten.sum.dim_IntList and (args[0].shape, args[0].dtype) == (result.shape, result.dtype):
            return args[0]
        if func in SUMS and len(args) == 2 and all(isinstance(each, Tensor) for each in args):
            for term, other in ((args[0], args[1]), (args[1], args[0]))[: 1 if func is torch.ops.aten.sub.Tensor else 2]:
                if self.name(other) in self.constant and term.shape == result.shape and term.dtype == result.dtype and not bool(
                        other.any()):
                    return term
        return None

    def memory(self, values: Iterable[Any]) -> set[int]:
        """Return the memory of all tensors among values."""
        found = set()
        for each in tensors(values):
            lies = self.lies.get(id(each))
            if lies is None:
                lies = self.lies[id(each)] = storage(each)
            found.add(lies)
        return found

    def source(self, inputs: list[str], outputs: list[str]) -> str:
        """Return the text of a function of ``inputs`` that does what is needed for ``outputs``; values are let go after use."""
        needed, kept = set(outputs), []
        for line in reversed(self.lines):
            if line[4] or needed.intersection(line[0]):
                needed.update(line[3])
                kept.append(line)
        body, last = [], {name: i for i, line in enumerate(reversed(kept)) for name in [*line[3], *line[0]]}
        for i, (names, call, arguments, reads, _) in enumerate(reversed(kept)):
            done = [n for n in dict.fromkeys([*reads, *names]) if last[n] == i and n[0] == "t" and n not in outputs]
            body.append(f"    {call}({arguments})" + "".join(f"; {name} = None" for name in done))
        return f"def run({', '.join(inputs)}):\n" + "\n".join([*body, f"    return ({', '.join(outputs)},)"])


def compiled(
    recorder: Recorder, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], varying: dict[int, Tensor],
) -> Callable[..., tuple[Tensor, ...]]:
    """Return the recorded operations as a function of the inputs.

    Raises:
        Unrepeatable: there are too many, Python reads a number, a tensor from outside is changed in place, or the shape of any.
    """
    if len(recorder.calls) > LONG:
        raise Unrepeatable(f"it takes {len(recorder.calls)} operations")
    program = _Program(varying)
    names = [f"x{i}" for i in range(len(inputs))]
    program.names.update({id(each): name for each, name in zip(inputs, names, strict=True)})
    made: set[int] = set()
    met: list[set[int]] = []
    for func, args, kwargs, result in recorder.calls:
        facts, inside, outside = _Facts.of(func), program.memory([*args, *kwargs.values()]), program.memory([result])
        written = program.memory(args[i] if i < len(args) else kwargs.get(name) for i, name in facts.written)
        if written - made:
            raise Unrepeatable(f"{func} changes a tensor from outside in place")
        if facts.reshapes:  # what is seen of it here is its last shape
            raise Unrepeatable(f"{func} changes a tensor's shape in place")
        program.changed |= written
        made |= outside - inside
        met.append(inside | outside)
    for call, memory in zip(recorder.calls, met, strict=True):
        program.add(*call, memory)
    code = compile(program.source(names, [program.name(each) for each in outputs]), SOURCE, "exec")
    [inner] = (part for part in code.co_consts if isinstance(part, CodeType))
    # What was left out is let go.
    run: Callable[..., tuple[Tensor, ...]] = FunctionType(inner, {name: program.bound[name] for name in inner.co_names})
    return run


def _view_of(func: Any) -> Any:
    """Return the operation that returns what ``func`` makes of its argument's shape in place; ``None`` if that is another."""
    if torch.Tag.inplace_view not in func.tags:
        return None
    packet = getattr(torch.ops.aten, func._schema.name.removeprefix("aten::").removesuffix("_"), None)
    view = getattr(packet, func._overloadname or "default", None)
    return view if view is not None and view.is_view else None


def _instead(value: Any, tensor: Tensor, other: Tensor) -> Any:
    """Return ``value`` with ``other`` in place of ``tensor``, wherever it is."""
    if isinstance(value, list | tuple):
        return type(value)(_instead(each, tensor, other) for each in value)
    if isinstance(value, dict):
        return {key: _instead(each, tensor, other) for key, each in value.items()}
    return other if value is tensor else value
