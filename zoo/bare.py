"""A bare Pyro program as a model."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.params import LocalParams
from zoo.program import Program


class FunctionModel(Model):
    """A bare Pyro program as a model. Its ``pyro.param`` statements become this module's parameters.

    A module stays what it was: the names of its sites and parameters are its own, it may have run before, and any number of
    models may hold it. Its parameters are θ, which fits move in place; fits leave it in evaluation mode.
    """

    def __init__(self, program: Program):
        super().__init__()
        if isinstance(program, nn.Module):
            self._modules["module"] = program  # PyroModule's own way would rename its sites, and refuse one that has run
        else:
            self._function = program

    @property
    def program(self) -> Program:
        """The bare program."""
        program: Any = self._modules.get("module")  # not as an attribute, on whose reading Pyro takes a module over
        return program if program is not None else self._function

    def forward(self, x: Data) -> Any:
        with LocalParams(self):  # stock Pyro, too, must run the program with this model's θ
            return self.program(x)

    @property
    def label(self) -> str:
        return getattr(self.program, "__name__", type(self.program).__name__)


def as_model(program: Model | Program) -> Model:
    """Return ``program`` as a :class:`Model`: itself, or a bare Pyro program of one argument wrapped.

    A ``PyroModule`` is not changed by this, and can be wrapped any number of times; see :class:`FunctionModel`.

    Raises:
        ZooError: if it is not callable with exactly one argument.
    """
    if isinstance(program, Model):
        return program
    if not callable(program):
        raise ZooError(f"expected a Pyro program or a zoo.Model; got {type(program).__name__}; pass a function of x")
    if not isinstance(program, nn.Module):
        try:
            inspect.signature(program).bind(None)
        except TypeError:
            name = getattr(program, "__name__", "the program")
            raise ZooError(
                f"expected a program of one argument, x; got {name}{inspect.signature(program)}; "
                "put covariates and observations in one mapping") from None
    return FunctionModel(program)
