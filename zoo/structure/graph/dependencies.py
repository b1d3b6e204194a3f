"""What each site of a program depends on, found by following the tensors of one run.

Every value of a site is a tensor with memory of its own, marked by the site's name. PyTorch hands each operation of the run to
:class:`Sources`, which marks the memory of the results by the names of the arguments. A site's parents are the names that its
log-probability is computed from. So networks, indexing by discrete values and operations in place are followed, too, and θ is
followed like the sites.

What Python reads out of a tensor (``if``, ``.item()``) is no tensor any more. All later sites then count as dependent on it: a
missing edge would claim an independence, an edge too many claims nothing. ``.tolist()`` and ``.numpy()`` pass unseen.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Delta, Unit
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.data import Data
from zoo.program.run import evaluating, seeded
from zoo.program.sites.angles import unwrapped
from zoo.program.sites.latents import is_deterministic
from zoo.program.sites.masks import filled
from zoo.program.sites.stand_ins import Improper
from zoo.program.vectorise import LinAlgError
from zoo.structure.graph.supports import support_of

if TYPE_CHECKING:
    from zoo.model import Model

#: Packages whose code stands between a handler and the line of a program that draws a site.
BETWEEN = ("pyro", "torch", "contextlib", "functools")
#: Runs of a program whose arithmetic may fail at a draw of its prior.
ATTEMPTS = 8


class Sources(TorchDispatchMode):
    """Follows which names the numbers of tensors come from, by the memory that they lie in.

    Attributes:
        read: names of tensors whose numbers Python has looked at.

    >>> a, b = torch.ones(3), torch.ones(3)
    >>> with Sources({"a": a, "b": b}) as sources:
    ...     c = torch.zeros(2)
    ...     c[0] = (a * 2).sum()
    ...     sorted(sources.of(c)), sorted(sources.of(a[1:] + b[1:]))
    (['a'], ['a', 'b'])
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: frozenset[str] = frozenset()
        self._names: dict[int, frozenset[str]] = {}
        self._kept: list[Tensor] = []  # marked memory must not be given to another tensor
        self._heedless = False
        for name, tensor in named.items():
            self.mark(tensor, self.of(tensor) | {name})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else PyTorch imports its compiler first, to keep it from this mode.
        return False

    def mark(self, tensor: Tensor, names: frozenset[str]) -> None:
        """Take the numbers of ``tensor``, and of all that shares its memory, to come from ``names``."""
        place = _place(tensor)
        if place:
            self._names[place] = names
            self._kept.append(tensor)

    def of(self, *values: Any) -> frozenset[str]:
        """Return the names that tensors, alone or in sequences and mappings, come from."""
        return frozenset().union(*(self._names.get(_place(tensor), frozenset()) for tensor in _tensors(values)))

    @contextmanager
    def heedless(self) -> Iterator[None]:
        """Let Python look at numbers."""
        before, self._heedless = self._heedless, True
        try:
            yield
        finally:
            self._heedless = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        names = self.of(args, kwargs)
        if not names:
            return result
        if torch.Tag.data_dependent_output in func.tags and not self._heedless:
            self.read |= names
        for tensor in _tensors(result):
            self.mark(tensor, self.of(tensor) | names)
        return result


class Indexing(TorchFunctionMode):
    """Lets a tensor be indexed by a whole number that is followed: PyTorch looks at it, which is no read of Python's."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.sources = sources

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (Tensor.__getitem__, Tensor.__setitem__):
            return func(*args, **kwargs)
        names = self.sources.of(args[1])
        with self.sources.heedless():
            result = func(*args, **kwargs)
            if not names:
                return result
            if func is Tensor.__getitem__:
                result = result.clone()  # a view would mark all of the memory that it is a part of
            changed = args[0] if result is None else result
            self.sources.mark(changed, self.sources.of(changed) | names)
        return result


def _place(tensor: Tensor) -> int:
    """Return where the memory of a tensor begins; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested sequences and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


@dataclass(frozen=True)
class TracedSite:
    """A site of one run.

    Attributes:
        name: its name.
        message: Pyro's message of it, with its distribution, value and plates.
        parents: the names of sites and parameters that its density, or its value where it is computed, depends on.
        line: where the program draws it: statements that repeat have the same.
        support: its support in words; empty of one that is computed.
    """

    name: str
    message: Any
    parents: frozenset[str]
    line: tuple[str, int]
    support: str


def is_computed(site: Any) -> bool:
    """Return whether a site's value is computed from others: by ``pyro.deterministic``, or by a reparametrisation."""
    return is_deterministic(site) or (bool(site["is_observed"]) and isinstance(unwrapped(site["fn"]), Delta))


class Recorder(Messenger):
    """Notes the sites of a run, and gives their values marked memory of their own. It must be outside of all other handlers."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.sources = sources
        self.sites: list[TracedSite] = []
        self._read = sources.read

    def _pyro_sample(self, msg: Any) -> None:
        # What a sampler looks at, as one that rejects does, says nothing of later sites.
        self._read = self.sources.read

    def _pyro_post_sample(self, msg: Any) -> None:
        self.sources.read = self._read
        if site_is_subsample(msg):
            return
        with self.sources.heedless():
            parents = self._parents(msg) | self.sources.read
            bare = is_computed(msg) or isinstance(msg["fn"], Unit)
            support = "" if bare else support_of(msg["fn"], lambda bound: bool(self.sources.of(bound)))
            if isinstance(msg["value"], Tensor):
                msg["value"] = msg["value"].clone()
                self.sources.mark(msg["value"], frozenset({msg["name"]}))
        self.sites.append(TracedSite(msg["name"], msg.copy(), parents - {msg["name"]}, _line(), support))

    def _parents(self, msg: Any) -> frozenset[str]:
        if is_computed(msg):
            return self.sources.of(msg["value"])
        if isinstance(msg["fn"], Unit):
            return self.sources.of(msg["fn"].log_factor)
        value = filled(msg) if msg["is_observed"] else msg["value"]
        value = value.clone()
        self.sources.mark(value, frozenset())  # a draw comes from what its distribution comes from
        return self.sources.of(msg["fn"].log_prob(value), msg["mask"], msg["scale"])


def _line() -> tuple[str, int]:
    """Return the line of the program whose statement is handled."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and (_package(frame) in BETWEEN or frame.f_globals.get("__name__") == __name__):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@dataclass(frozen=True)
class Trace:
    """The sites of one run in the program's order, and the names of those whose numbers Python looked at."""

    sites: tuple[TracedSite, ...]
    read: frozenset[str]


def trace(model: Model, x: Data, theta: Mapping[str, Tensor]) -> Trace:
    """Run a model's program once from its prior and return its sites, with what each depends on.

    Args:
        model: the model, whose layout on ``x`` is known.
        x: the data.
        theta: the parameters by name, as they lie in memory: not constrained ones.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _trace(model, x, theta, seed=attempt)
        except (LinAlgError, ArithmeticError, ValueError):
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("one of the attempts returns or raises")


def _trace(model: Model, x: Data, theta: Mapping[str, Tensor], seed: int) -> Trace:
    sources = Sources(theta)
    recorder = Recorder(sources)
    with seeded(seed), evaluating(model), model.runner.isolated(), sources, Indexing(sources), recorder, Improper(x):
        model.runner.program(x)
    return Trace(tuple(recorder.sites), sources.read)
