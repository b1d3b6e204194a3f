"""A proof, by reading its code, that a Python function has no effects and depends on nothing that is not watched.

The tensor operations of a *pure* program may be recorded once and repeated. The reader follows the bytecode of the function,
and of all functions that it calls, on abstract values: for each value, the reader only knows whether the call itself made the
value. A function is proved pure under two conditions. It stores only to its own local variables and to containers and tensors
that it made. And all that it loads from outside is torch, Pyro, their distributions, ``math``, plain numbers and strings,
tensors, and functions that are proved pure themselves. A function with an unknown instruction, or with a name that
:mod:`zoo.program.recording.purity.names` does not list, is never proved pure.

The reader takes arguments to be data: tensors, plain numbers and strings, and dicts, lists and tuples of these.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import CellType, FunctionType, ModuleType
from typing import Any

import pyro
import torch
from pyro.poutine.infer_config_messenger import InferConfigMessenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.utils import lazy_property

from zoo.program.recording.purity.bytecode import Frame
from zoo.program.recording.purity.names import MODULES, PRINCIPAL, intact, known, own
from zoo.program.recording.purity.values import ANY, MINE, Doubt, Values, writes_at

Get = Callable[[Any, Any], Any]  # (key, default) → what a name holds now
MISSING = object()
PLAIN = {bool, int, float, complex, str, bytes, type(None), type(...), range, torch.dtype, torch.device, torch.Size}


@dataclass(frozen=True)
class Purity:
    """The verdict on a function from reading its code: proved pure, or the reason for doubt.

    Attributes:
        reason: why the function is not proved pure, with the name and the line; empty where it is proved.
        tensors: tensors from outside that the function reads; a change of their identity or version ends the proof.
        settings: numbers, strings and other plain values from outside, by the name under which they are read.
    """

    reason: str
    tensors: tuple[Tensor, ...] = ()
    settings: tuple[tuple[str, object], ...] = ()
    _watched: tuple[tuple[Get, str, object], ...] = field(default=(), repr=False)

    @property
    def proved(self) -> bool:
        """Whether the function is proved pure."""
        return not self.reason

    def holds(self) -> bool:
        """Return whether the function is proved pure and every outside name still holds what it held when the code was read.

        Plain values are compared by type and value, tensors by identity and version counter, functions by identity, code and
        defaults. A change that bumps no version counter (through ``.data``, or a NumPy array that shares the memory) is not
        seen. It takes a few microseconds.
        """
        try:
            for get, key, expected in self._watched:
                found = get(key, MISSING)
                if found is not expected and not _equal(found, expected):
                    return False
        except ValueError:  # a closure cell that is empty now
            return False
        return self.proved


def purity(function: Callable[..., Any]) -> Purity:
    """Prove by reading its code that ``function`` is pure, or say why not. Nothing is called.

    Examples:
        >>> import pyro, pyro.distributions as dist
        >>> def coin(flips):
        ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
        ...     with pyro.plate("flips", len(flips)):
        ...         pyro.sample("flip", dist.Bernoulli(p), obs=flips)
        >>> purity(coin).proved
        True
        >>> calls = []
        >>> def counted(flips):
        ...     calls.append(1)
        ...     coin(flips)
        >>> purity(counted).reason
        '`calls` is a list, which can change unseen (line 2 of counted)'
    """
    reader = _Reader()
    try:
        reader.kind(Tensor, "torch.Tensor")
        reader.admit(function, getattr(function, "__name__", "the program"))
    except Doubt as doubt:
        return Purity(str(doubt))
    return Purity("", tuple(reader.tensors), tuple(reader.settings.items()), tuple(reader.watched.values()))


def _plain(value: object) -> bool:
    return type(value) in PLAIN or (type(value) is tuple and all(map(_plain, value)))


def _equal(found: object, expected: object) -> bool:
    """Return whether two plain values are the same: their texts tell 1, 1.0 and True, or 0.0 and −0.0, apart."""
    return _plain(found) and _plain(expected) and repr(found) == repr(expected)


def _default_dtype(key: str, missing: object) -> torch.dtype:
    return torch.get_default_dtype()


def _described(value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}, whose effects are not known"
    if isinstance(value, list | dict | set):
        return f"a {type(value).__name__}, which can change unseen"
    if isinstance(value, type):
        return "a class whose effects are not known"
    if callable(value) and hasattr(value, "__name__"):
        return f"a {type(value).__name__} whose effects are not known"
    return f"an object of type {type(value).__name__}, which can change unseen"


class _Reader:
    """All that a function, and the functions that it calls, read from outside."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.settings: dict[str, object] = {}
        self.watched: dict[tuple[int, str], tuple[Get, str, object]] = {}
        self.functions: list[FunctionType] = []
        self.watch(torch, "default dtype", _default_dtype, torch.get_default_dtype())

    def watch(self, owner: object, key: str, get: Get, expected: object) -> None:
        self.watched[id(owner), key] = get, key, expected

    # What the bytecode asks for.

    def name(self, function: FunctionType, name: str) -> Values:
        """Return what is known of a global or built-in name, or doubt."""
        here, built_in = function.__globals__, vars(builtins)
        self.watch(here, name, here.get, here.get(name, MISSING))
        if name in here:
            return self.setting(here[name], name)
        self.watch(built_in, name, built_in.get, built_in.get(name, MISSING))
        if name not in built_in:
            raise Doubt(f"`{name}` is not defined yet")
        return self.admit(built_in[name], name)

    def cell(self, function: FunctionType, name: str) -> Values:
        """Return what is known of a closure's variable, or doubt."""
        cell: CellType = (function.__closure__ or ())[function.__code__.co_freevars.index(name)]
        try:
            value = cell.cell_contents
        except ValueError:
            raise Doubt(f"`{name}` is not defined yet") from None
        self.watch(cell, "cell_contents", partial(getattr, cell), value)
        return self.setting(value, name)

    def member(self, module: ModuleType, name: str) -> Values:
        """Return what is known of a module's attribute, or doubt."""
        if name not in vars(module):
            raise Doubt(f"`{module.__name__}.{name}` is not known")
        self.watch(module, name, vars(module).get, vars(module)[name])
        return self.admit(vars(module)[name], f"{module.__name__}.{name}")

    def method(self, name: str) -> None:
        """Watch the tensor method ``name``, or doubt one that a user put in its place."""
        found = getattr(Tensor, name, None)
        if isinstance(found, FunctionType) and not own(found):
            raise Doubt(f"`Tensor.{name}` is not torch's own")
        if found is not None:
            self.watch(Tensor, name, partial(getattr, Tensor), found)

    # What is known of a value.

    def setting(self, value: Any, name: str) -> Values:
        """Return what is known of a user's value, and list it where it is plain."""
        if _plain(value):
            self.settings[name] = value
        return self.admit(value, name)

    def admit(self, value: Any, name: str) -> Values:
        """Return what is known of ``value``, or doubt."""
        if _plain(value):
            return MINE
        if type(value) in (Tensor, nn.Parameter):
            return self.tensor(value, name)
        if type(value) is tuple:
            return self.items(value, name)
        if MODULES.get(id(value)) is value:
            return frozenset({value})
        if known(value):
            return self.kind(value, name) if isinstance(value, type) else frozenset({value})
        return self.unlisted(value, name)

    def unlisted(self, value: Any, name: str) -> Values:
        """Read a user's function, a function with bound arguments, a distribution or a constraint; doubt all else."""
        if type(value) is FunctionType and not own(value):
            return self.function(value)
        if isinstance(value, partial):
            return self.bound(value, name)
        if isinstance(value, Distribution | constraints.Constraint) and not isinstance(value, nn.Module):
            return self.instance(value, name)
        raise Doubt(f"`{name}` is {_described(value)}")

    def tensor(self, value: Tensor, name: str) -> Values:
        """List a tensor from outside, and watch its version counter."""
        if value.is_inference():
            raise Doubt(f"`{name}` is an inference tensor, which counts no versions")
        if all(value is not other for other in self.tensors):
            self.tensors.append(value)
        self.watch(value, "_version", partial(getattr, value), value._version)
        return ANY

    def items(self, value: tuple[Any, ...], name: str) -> Values:
        """Read what a tuple holds. Its items are called unseen, with arguments that are not checked."""
        for item in value:
            self.admit(item, f"{name}[...]")
            if writes_at(item) is not None:
                raise Doubt(f"`{name}` holds a function that can work in place")
        return ANY

    def kind(self, value: type, name: str) -> Values:
        """Watch the principal methods of a class, or doubt one whose methods a user changed."""
        if not intact(value):
            raise Doubt(f"`{name}` is a class with methods that are not its own")
        if issubclass(value, Distribution | Transform):
            for method in (m for m in PRINCIPAL if hasattr(value, m)):
                self.watch(value, method, partial(getattr, value), getattr(value, method))
        return frozenset({value})

    def instance(self, value: Any, name: str) -> Values:
        """Read a distribution or constraint from outside: all that it holds, and that it keeps nothing that it computes."""
        self.kind(type(value), name)
        if any(isinstance(member, lazy_property) for base in type(value).__mro__ for member in vars(base).values()):
            raise Doubt(f"`{name}` is a distribution that keeps what it computes; make it inside the function")
        for key in {*vars(value), *PRINCIPAL}:
            self.watch(value, key, vars(value).get, vars(value).get(key, MISSING))
        for key, held in list(vars(value).items()):
            self.admit(held, f"{name}.{key}")
        return ANY

    def bound(self, value: partial[Any], name: str) -> Values:
        """Read a function, and the arguments that it is bound to."""
        if type(value) is not partial:
            return self.configured(value, name)
        for held in (*value.args, *value.keywords.values()):
            self.admit(held, f"an argument of {name}")
        for key in value.keywords:
            self.watch(value, key, value.keywords.get, value.keywords[key])
        self.admit(value.func, name)
        return frozenset({value})

    def configured(self, value: partial[Any], name: str) -> Values:
        """Read ``f`` of ``config_enumerate(f)``: a partial of a private class that holds a partial of a messenger and ``f``."""
        messenger, function = (*getattr(value.func, "args", ()), None, None)[:2]
        configure = getattr(getattr(messenger, "config_fn", None), "func", None)
        if type(messenger) is not InferConfigMessenger or getattr(configure, "__globals__", None) is not vars(pyro.infer.enum):
            raise Doubt(f"`{name}` is {_described(value)}")
        self.watch(messenger, "config_fn", partial(getattr, messenger), messenger.config_fn)
        return self.setting(function, name)

    def function(self, value: FunctionType) -> Values:
        """Read a user's function, once."""
        if any(value is read for read in self.functions):
            return frozenset({value})
        self.functions.append(value)
        if getattr(value, "__builtins__", None) is not vars(builtins):
            raise Doubt(f"`{value.__name__}` has built-in names of its own")
        for key in ("__code__", "__defaults__", "__kwdefaults__"):
            self.watch(value, key, partial(getattr, value), getattr(value, key))
        positional = value.__code__.co_varnames[:value.__code__.co_argcount]
        for key, default in zip(reversed(positional), reversed(value.__defaults__ or ()), strict=False):
            self.setting(default, key)
        for key, default in (named := value.__kwdefaults__ or {}).items():
            self.watch(named, key, named.get, default)
            self.setting(default, key)
        Frame(self, value, value.__code__).read()
        return frozenset({value})
