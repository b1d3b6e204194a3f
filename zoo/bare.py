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
    """A bare Pyro program as a model. Its ``pyro.param`` statements become this module's parameters."""

    def __init__(self, program: Program):
        super().__init__()
        if isinstance(program, nn.Module):
            self.module = program
        else:
            self._function = program

    @property
    def program(self) -> Program:
        """The bare program."""
        program: Program = self.module if "module" in self._modules else self._function
        return program

    def forward(self, x: Data) -> Any:
        with LocalParams(self):  # stock Pyro, too, must run the program with this model's θ
            return self.program(x)

    @property
    def label(self) -> str:
        return getattr(self.program, "__name__", type(self.program).__name__)


def as_model(program: Model | Program) -> Model:
    """Return ``program`` as a :class:`Model`: itself, or a bare Pyro program of one argument wrapped.

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
