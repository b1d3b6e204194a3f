"""Tensor operations written down while Python runs, and what is left of them once all that can be is left out.

For :class:`zoo.replay.Replay`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
#: What operations on numbers that vary may not be: Python reads their outcome, or its shape.
READ = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class Unrepeatable(Exception):
    """Why a computation can't be repeated by its operations."""


class Recorder(TorchDispatchMode):
    """Writes down every operation below autograd and vmap, of the backward pass, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to be kept from the compiler, torch would first import it, for a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = _view_of(func)
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
        return any(made is tensor for *_, result in self.calls for made in _tensors([result]))


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
        #: Memory that is changed in place at some time.
        self.changed: set[int] = set()

    def bind(self, value: Any, kind: str) -> str:
        """Return a new name for a value: of ``kind`` k, a tensor; c, another argument; f, an operation."""
        name = f"{kind}{len(self.bound)}"
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

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Take in the next operation of a recording, and what it returned."""
        results = list(result) if isinstance(result, list | tuple) else [result]
        reads: list[str] = []
        positional = [self.expression(value, reads) for value in args]
        named = [f"{key}={self.expression(value, reads)}" for key, value in kwargs.items()]
        free = not (
            func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags
            or self._changed([*_tensors([args, list(kwargs.values()), results])]))
        constant = free and (func in FILLED or all(name in self.constant for name in reads))
        if not constant and (self._read(func, args) or not all(isinstance(each, Tensor) for each in results)):
            raise Unrepeatable(f"Python reads the outcome of {func}")
        same = self._known_view(func, args, result)
        if same is None and free:
            same = self._same(func, args, result)
        if same is not None:
            self.names[id(result)] = self.name(same)
            return
        key = (func, *map(_literal, args), *((k, _literal(v)) for k, v in kwargs.items()), *reads)
        names = self.seen.get(key) if free else None
        if names is None:
            names = self._new(func, result, results, [*positional, *named], reads, free, constant)
            if free:
                self.seen[key] = names
        for each, name in zip(results, names, strict=True):
            if not (func._schema.is_mutable and id(each) in self.names):  # what is changed in place keeps its name
                self.names[id(each)] = name

    def _read(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Return whether the outcome's shape, or what Python does next, hangs on numbers that vary."""
        if func is torch.ops.aten.index.Tensor:  # a mask does, places do not
            return any(each.dtype == torch.bool and self.name(each) not in self.constant for each in _tensors(args[1]))
        return bool(READ & set(func.tags))

    def _new(
        self, func: Any, result: Any, results: list[Any], arguments: list[str], reads: list[str], free: bool, constant: bool,
    ) -> list[str]:
        """Return names for what ``func`` returns, after a line for it if it is to be done each time."""
        if constant:
            names = [self.bind(each.detach() if isinstance(each, Tensor) else each, "k") for each in results]
            self.constant.update(names)
            return names
        names = [f"t{len(self.lines)}_{i}" for i in range(len(results))]
        target = "".join(f"{name}, " for name in names) if isinstance(result, list | tuple) else names[0]
        self.lines.append((names, f"{target} = {self.bind(func, 'f')}", ", ".join(arguments), reads, not free))
        return names

    def _known_view(self, func: Any, args: tuple[Any, ...], result: Any) -> Tensor | None:
        """Return the tensor that already shows the memory that a view shows, in the same way: so does x what xᵀᵀ does."""
        if not (func.is_view or func in VIEWS) or not isinstance(result, Tensor):
            return None
        self.places.setdefault(_place(args[0]), args[0])
        return self.places.get(_place(result))

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

    def _changed(self, tensors: list[Tensor]) -> bool:
        return any(_storage(tensor) in self.changed for tensor in tensors)

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
    for func, args, kwargs, result in recorder.calls:
        written = {_storage(each) for each in _written(func, args, kwargs)}
        if written - made:
            raise Unrepeatable(f"{func} changes a tensor from outside in place")
        if torch.Tag.inplace_view in func.tags:  # what is seen of it here is its last shape
            raise Unrepeatable(f"{func} changes a tensor's shape in place")
        program.changed |= written
        inside = {_storage(each) for each in _tensors([*args, *kwargs.values()])}
        made |= {_storage(each) for each in _tensors([result])} - inside
    for call in recorder.calls:
        program.add(*call)
    text = program.source(names, [program.name(each) for each in outputs])
    scope = {name: program.bound[name] for name in re.findall(r"\b[ckf]\d+\b", text)}
    exec(compile(text, SOURCE, "exec"), scope)
    run: Callable[..., tuple[Tensor, ...]] = scope["run"]
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


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Yield the arguments that ``func`` changes in place."""
    if not func._schema.is_mutable:
        return
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors([args[i] if i < len(args) else kwargs.get(argument.name)])


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _place(tensor: Tensor) -> Any:
    """Return what memory a tensor shows, and how."""
    flags = tensor.dtype, tensor.is_conj(), tensor.is_neg()
    return _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), *flags


def _literal(value: Any) -> Any:
    """Return what tells values that are no tensors apart, in place of a tensor a mark."""
    if isinstance(value, Tensor):
        return Tensor
    return tuple(map(_literal, value)) if isinstance(value, list | tuple) else (type(value), repr(value))
