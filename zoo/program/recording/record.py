"""Recorded runs: the tensor operations of a pure function, captured once by PyTorch's ``make_fx`` and repeated without Python.

A Pyro program is Python that runs anew for each evaluation, and on small data this takes longer than the program's arithmetic.
If the same tensor operations follow each time, they can be captured, gradients included, and repeated. The Python code remains
the definition of the program, for three reasons. Operations are captured on fake tensors, which have shapes and no numbers, so
a program that looks at a number (``if z > 0``, ``.item()``, ``.tolist()``, ``.numpy()``) can't be captured. Only functions that
are declared or proved pure are captured, since a capture does not see Python's own state. And settings are compared before each
call, and recorded results are compared with Python's again and again.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule

from zoo.errors import ZooError
from zoo.program.recording.settings import Settings
from zoo.program.run import generators, set_generators
from zoo.program.tally import tallied, tally, uncounted
from zoo.program.vectorise import capturing

#: What two results may differ by, in units of rounding of the largest number: a kernel may add in another order.
ROUNDING = 1024
#: C++ compilers that Inductor may use, after the one that the variable CXX names.
COMPILERS = ("g++", "clang++", "c++")

#: (parameters, *inputs) → results without a graph, which nobody changes in place.
Function = Callable[..., tuple[Tensor, ...]]


def capture(function: Function, modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> GraphModule:
    """Return the tensor operations of ``function`` as a graph of the modules' tensors and of the ``inputs``.

    Args:
        function: of the modules' parameters, as a list in their order, and of the inputs.
        modules: whose parameters and buffers may change between calls. Other tensors become constants, by reference.
        inputs: examples, whose shapes and dtypes the graph is for.

    Raises:
        Exception: any, where the function can't be captured: it looks at a number, say.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> graph = capture(lambda parameters, x: (layer(x).sum().detach(),), [layer], [torch.ones(3, 2)])
    >>> [node.op for node in graph.graph.nodes].count("placeholder")
    2
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    names = named_tensors(modules)
    trained = [f"held.{name}" for name, _ in nn.ModuleList(modules).named_parameters()]
    pair = _Pair(modules, function)

    def call(*given: Tensor) -> Any:
        swapped = dict(zip((f"held.{name}" for name in names), given, strict=False))
        return functional_call(pair, swapped, ([swapped[name] for name in trained], *given[len(names):]))

    before = generators()
    with warnings.catch_warnings(), capturing():
        warnings.simplefilter("ignore")
        try:
            # Only so may the data, which no call is given, be constants of a graph of fake tensors.
            graph = make_fx(call, tracing_mode="fake", _allow_non_fake_inputs=True)(*names.values(), *inputs)
        finally:
            set_generators(*before)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def named_tensors(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return the modules' parameters and buffers by name, each once, parameters first."""
    held = nn.ModuleList(modules)
    return {**dict(held.named_parameters()), **dict(held.named_buffers())}


class _Pair(nn.Module):
    """Modules, and a function that uses them: what ``functional_call`` swaps other tensors into."""

    def __init__(self, modules: Sequence[nn.Module], function: Function):
        super().__init__()
        self.held, self.function = nn.ModuleList(modules), function

    def forward(self, *given: Any) -> Any:
        return self.function(*given)


def check_compiler() -> None:
    """Raise a :class:`ZooError` where there is no C++ compiler, which Inductor needs."""
    names = [name for name in (os.environ.get("CXX"), *COMPILERS) if name]
    if not any(map(shutil.which, names)):
        raise ZooError(
            f"expected a C++ compiler for compile=True; got none of {', '.join(names)}; install one, or leave compile out")


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two results are the same but for rounding."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if not a.is_floating_point() or not bool(a.isfinite().all()):
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    size = a.abs().amax() if a.numel() else 1.0
    return bool(((a - b).abs() <= ROUNDING * torch.finfo(a.dtype).eps * size).all())


class Recording:
    """The recorded operations of a function on inputs of one shape, with the settings and constants for which they are valid.

    Args:
        function, modules, inputs: see :func:`capture`.
        compiled: whether Inductor compiles the operations.
    """

    def __init__(self, function: Function, modules: Sequence[nn.Module], inputs: Sequence[Tensor], compiled: bool):
        with uncounted(), tallied() as cost:
            graph = capture(function, modules, inputs)
        self.rows = cost.rows
        self.state, self.shapes, self.settings = [*named_tensors(modules).values()], signature(inputs), Settings(modules)
        constants = (getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr")
        self.constants = [(value, value._version) for value in constants if isinstance(value, Tensor)]
        self.run: Callable[..., Any] = graph.forward
        if compiled:  # random numbers from torch's own generators, as Python draws them
            self.run = torch.compile(graph, dynamic=False, options={"fallback_random": True})

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tally(self.rows)
        with torch.no_grad():
            return tuple(self.run(*self.state, *inputs))

    def holds(self) -> bool:
        """Return whether settings and constants are as they were."""
        return all(value._version == version for value, version in self.constants) and self.settings.hold()


def signature(inputs: Sequence[Tensor]) -> Any:
    """Return the shapes, strides, types and devices that a recording assumes of its inputs."""
    return [(each.shape, each.stride(), each.dtype, each.device) for each in inputs]
