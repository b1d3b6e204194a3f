"""A bare Pyro program as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.calls import Call, arguments, signature
from zoo.program.params import LocalParams
from zoo.program.run import Program

if TYPE_CHECKING:
    from zoo.program.recording.purity import Purity
    from zoo.structure.description import Description


class FunctionModel(Model):
    """A bare Pyro program as a model. Its ``pyro.param`` statements become this module's parameters.

    A module stays what it was: the names of its sites and parameters are its own, it may have run before, and any number of
    models may hold it. Its parameters are θ, which fits move in place; fits leave it in evaluation mode.
    """

    caches = (*Model.caches, "_proof", "_call")

    def __init__(self, program: Program, pure: bool | None = None):
        super().__init__()
        if pure is not None:
            self.pure = pure
        self._proof: Purity | None = None
        self._call: Call | None = None
        if isinstance(program, nn.Module):
            # PyroModule's own way would rename its sites, and refuse one that has run.
            nn.Module.add_module(self, "module", program)
        else:
            self._function = program

    @property
    def program(self) -> Program:
        """The bare program."""
        # Not as an attribute, on whose reading Pyro takes a module over.
        program: Any = dict(self.named_children()).get("module")
        return program if program is not None else self._function

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_proof": None, "_call": None}  # it holds on to what the program loads

    def given(self, x: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._call is None:
            self._call = Call(self.program, self.label)
        return self._call.given(x)

    def purity(self) -> str:
        if "pure" in vars(self):
            return super().purity()
        if isinstance(self.program, nn.Module):
            return "" if getattr(self.program, "pure", False) else f"{self.label} does not declare pure = True"
        from zoo.program.recording.purity import purity  # reads what all of torch is called, which takes a while

        self._proof = purity(self.program)
        return self._proof.reason

    def unchanged(self) -> bool:
        return self._proof is None or self._proof.holds()

    def forward(self, x: Data) -> Any:
        args, kwargs = self.given(x)
        with LocalParams(self):  # stock Pyro, too, must run the program with this model's θ
            return self.program(*args, **kwargs)

    @property
    def label(self) -> str:
        return getattr(self.program, "__name__", type(self.program).__name__)


def as_model(program: Model | Program, pure: bool | None = None) -> Model:
    """Return ``program`` as a :class:`Model`: itself, or a bare Pyro program wrapped.

    A program of several arguments takes its data as a mapping by the names of its parameters, see :func:`zoo.arguments`. A
    ``PyroModule`` is not changed by this, and can be wrapped any number of times; see :class:`FunctionModel`.

    Args:
        program: a model, or a Pyro program: a function, a module, or another callable.
        pure: declare that the program does the same tensor operations in every run, whatever else Python knows, so that fits
            may record them; ``None``: as it says of itself by an attribute ``pure``, or, of a function, as its code proves.

    Raises:
        ZooError: if it can't be called, or takes no argument.
    """
    if isinstance(program, Model):
        if pure is not None:
            program.pure = pure
        return program
    if not callable(program):
        raise ZooError(f"expected a Pyro program or a zoo.Model; got {type(program).__name__}; pass a function of x")
    if not signature(program).parameters:
        name = getattr(program, "__name__", "the program")
        raise ZooError(f"expected a program that takes its data; got {name}(), which takes no argument; give it one")
    return FunctionModel(program, pure)


def given(program: Model | Program, *args: Any, **kwargs: Any) -> Data:
    """Return the data that a program, bare or wrapped, is called with, see :func:`zoo.arguments`."""
    return arguments(program.program if isinstance(program, FunctionModel) else program, *args, **kwargs)


def describe(
    program: Model | Program, *x: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
) -> Description:
    """Return what a program is on given data: its sites, plates and units, what is summed out, and what depends on what.

    Printed, it is a table and a drawing of the graphical model as text. In a notebook the drawing is an image; ``.svg()``
    returns it. Statements that repeat, as over time, are one line. The program is run a few times from its prior; nothing is
    fitted.

    Args:
        program: a model, or a bare Pyro program.
        x: the data: a tensor, an array, a frame, or a mapping of these; for a program of several arguments all of them, as it
            would be called, see :func:`zoo.arguments`.
        args, kwargs: the program's arguments, in another way.

    Raises:
        ZooError: a program or data that can't be fitted either, see :func:`zoo.program.sites.layout.layout`.

    >>> import pyro, torch, pyro.distributions as dist
    >>> def line(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("rows", len(x)):
    ...         noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    ...         pyro.sample("y", dist.Normal(slope * x, noise), obs=y)
    >>> describe(line, torch.arange(3.0), torch.tensor([0.1, 1.2, 1.9]))
    line
    <BLANKLINE>
    site   kind      support   shape  plates  block
    slope  latent    real      ()             shared
    noise  latent    positive  (3,)   rows    local
    y      observed  real      (3,)   rows
    <BLANKLINE>
    unit plate: rows, 3 units; 1 shared coordinate, 1 local coordinate a unit
    <BLANKLINE>
    ○ slope  Normal
    ┌ rows × 3 ──────────────────────┐
    │ ○ noise  LogNormal             │
    │ ● y      Normal ← slope, noise │
    └────────────────────────────────┘
    <BLANKLINE>
    ○ latent  ● observed  ← depends on
    """
    from zoo.structure.description import Description

    return Description.of(as_model(program), given(program, *x, *args, **(kwargs or {})))
