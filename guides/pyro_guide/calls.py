"""How a Pyro guide is called: on what its model is given, and for the first time, when it makes its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pyro
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger, unwrap
from torch import nn

from guides.pyro_guide.trace import Params
from zoo.bare import FunctionModel
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.calls import signature
from zoo.program.params import LocalParams, check_stored, users_store
from zoo.program.run import Program, isolated
from zoo.program.sites.angles import with_one_turn

if TYPE_CHECKING:
    from guides.pyro_guide.guide import ProgramGuide

#: Positional and keyword arguments of a call.
Given: TypeAlias = tuple[tuple[Any, ...], Mapping[str, Any]]


def takes_places(model: Model, program: Program, text: str, x: Data) -> bool:
    """Return whether a guide takes what its model is given by their places, as ``guide(x, _)`` and ``guide(*args)`` do.

    Stock Pyro calls both alike. A guide that has all the model's names takes the arguments by these.

    Args:
        model: the model.
        program: its guide.
        text: how errors call the guide.
        x: the data.

    Raises:
        ZooError: a guide that takes other arguments, or an ``AutoGuide`` of another model.
    """
    _check_model(model, program, text)
    takes, by_name = signature(program), guide_arguments(model, program, x, False)
    if all(name in takes.parameters for name in by_name[1]) and _binds(takes, by_name):
        return False
    if _binds(takes, guide_arguments(model, program, x, True)):
        return True
    if _binds(takes, by_name):
        return False
    raise ZooError(
        f"expected a guide program of the arguments of {model.label}; got {text}{takes}; let both take the same")


def guide_arguments(model: Model, program: Program, x: Data, places: bool) -> Given:
    """Return what a guide is called with on ``x``: by ``places``, or by the model's names."""
    if isinstance(program, AutoGuide) and unwrap(program.model) is model:
        return (x,), {}  # of the model itself, not of the bare program that it wraps
    given = model.given(x)
    if not places or not isinstance(model, FunctionModel):
        return given
    bound = signature(model.program).bind(*given[0], **given[1])
    bound.apply_defaults()
    return bound.args, bound.kwargs


def make_parameters(guide: ProgramGuide, x: Data, fresh: bool) -> None:
    """Let a guide's program make the parameters that it makes on its first call: an ``AutoGuide`` all of its own.

    Args:
        guide: the guide.
        x: the data.
        fresh: whether those of an ``AutoGuide`` start anew, whatever the user's store holds under their names.

    Raises:
        ZooError: θ among them, or a parameter in the store that is of another shape.
    """
    program, model = guide.program, guide.model
    parts = program.modules() if isinstance(program, nn.Module) else ()
    new = [part for part in parts if getattr(part, "prototype_trace", part) is None]
    fixed = [p for p in model.parameters() if not p.requires_grad]
    for part in new:
        with isolated(LocalParams(model)):  # it runs the model, whose θ must not become φ
            _set_up(part, *guide.given(x))
    for p in fixed:
        p.requires_grad_(False)  # Pyro's store, which the model runs with there, asks for gradients of all that it takes in
    if new and not fresh:
        with isolated(Params(guide)), _Stored():
            guide.called(x)
    with isolated(Params(guide)):
        guide.called(x)
    theta = {id(p): name for name, p in model.named_parameters()}
    shared = [theta[id(p)] for p in guide.parameters() if id(p) in theta]
    if shared:
        raise ZooError(
            f"expected '{guide.text}' to have parameters of its own; got '{shared[0]}' of {model.label} among them; don't "
            "register the model as its submodule")


def _set_up(guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Let an AutoGuide make its parameters; in a call of it they would be taken for pyro.param's."""
    guide._setup_prototype(*args, **kwargs)
    for site in guide.prototype_trace.nodes.values():
        if site.get("type") == "sample":
            site["fn"] = with_one_turn(site["fn"])  # its coordinates of an angle would be the angle on the line


class _Stored(Messenger):
    """Put what the user's store holds into the parameters of modules that run, in place."""

    def _pyro_param(self, msg: Any) -> None:
        (name, *init), store = msg["args"], cast("Any", pyro.get_param_store())
        own = init[0] if init else store[name].unconstrained() if name in store else None
        stored = users_store()[0].get(name)
        if stored is not None and isinstance(own, nn.Parameter):
            check_stored(name, stored.shape, own.shape)
            own.data.copy_(stored)


def _binds(takes: inspect.Signature, given: Given) -> bool:
    try:
        takes.bind(*given[0], **given[1])
    except TypeError:
        return False
    return True


def _check_model(model: Model, program: Program, text: str) -> None:
    if isinstance(program, AutoGuide):
        own = unwrap(program.model)
        if own is not model and not (isinstance(model, FunctionModel) and own == model.program):
            raise ZooError(
                f"expected {text} of this {model.label}; got one built for another model; build it with {text}(model)")
