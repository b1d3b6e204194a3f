"""The shortest way from Python to a tensor operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Ways that were found, by operation and kinds of arguments.
_KNOWN: dict[Any, Callable[..., Any]] = {}


class Mode(TorchDispatchMode):
    """A mode that comes without torch's compiler, which torch would import first, for a second, to keep the mode from it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Answering(Mode):
    """Notes each operation that torch comes to, and answers with what is known already; views are made, which is no work."""

    def __init__(self, answer: Any):
        super().__init__()  # type: ignore[no-untyped-call]
        self.answer, self.calls = answer, list[tuple[Any, tuple[Any, ...], Mapping[str, Any]]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {})) if func.is_view else self.answer


def direct(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> Callable[..., Any]:
    """Return what to call in place of ``func``, an operation of ``torch.ops``, on arguments of these kinds.

    To call it by that name takes as long as the operation itself on few numbers. Torch's function or method of the same name
    is called in half the time, but may be something else, too: it is taken only if it leads to just this operation with just
    these arguments, and returns its ``result`` as it is. That is tried, without doing the operation again.

    >>> a = torch.ones(2)
    >>> direct(torch.ops.aten.mul.Tensor, (a, a), {}, a * a) is torch.mul
    True
    """
    key = func, _kinds(args), *((name, _kinds(value)) for name, value in kwargs.items())
    if key not in _KNOWN:
        name = func._schema.name.removeprefix("aten::")
        ways = (getattr(owner, name, None) for owner in (torch, Tensor))
        _KNOWN[key] = next((way for way in ways if way is not None and _leads(way, func, args, kwargs, result)), func._op)
    return _KNOWN[key]


def _leads(way: Any, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> bool:
    """Return whether a function does nothing but the operation, as it is."""
    answering = _Answering(result)
    try:
        with answering, torch.no_grad():
            returned = way(*args, **kwargs)
    except Exception:  # it takes other arguments
        return False
    if type(returned) is not type(result) or [_call(*each) for each in answering.calls] != [_call(func, args, kwargs)]:
        return False
    # Of views the places are alike.
    return [*map(place, tensors([returned]))] == [*map(place, tensors([result]))]


def _kinds(value: Any) -> Any:
    """Return what torch tells a function's forms apart by."""
    if isinstance(value, Tensor):
        return Tensor, value.ndim == 0  # it may pass for a number
    return tuple(map(_kinds, value)) if isinstance(value, list | tuple) else type(value)


def _call(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what tells a call from others: of its tensors which they are, of the other arguments what they are."""
    given = [args, [*kwargs.items()]]
    return func, literal(given), [*map(id, tensors(given))]


def literal(value: Any) -> Any:
    """Return what tells values that are no tensors apart, in place of a tensor a mark."""
    if isinstance(value, Tensor):
        return Tensor
    return tuple(map(literal, value)) if isinstance(value, list | tuple) else (type(value), repr(value))


def tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values and in the lists that these are."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) in (list, tuple):
            found += tensors(value)
    return found


def storage(tensor: Tensor) -> int:
    """Return what tells the memory behind a tensor from others."""
    return int(tensor.untyped_storage()._cdata)


def place(tensor: Tensor) -> Any:
    """Return what memory a tensor shows, and how."""
    flags = tensor.dtype, tensor.is_conj(), tensor.is_neg()
    return storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), *flags
