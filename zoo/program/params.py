"""``pyro.param`` statements of bare programs, kept in the model and not in Pyro's global store."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.params import module_from_param_with_module_name
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from zoo.errors import ZooError

#: What Pyro's parameter store holds: unconstrained values and constraints by name, and names by value.
STORED = ("_params", "_constraints", "_param_to_name")


class OwnStore(dict[Any, Any]):
    """A part of the parameter store that programs fill for themselves; ``users`` is that part of the user's own store."""

    def __init__(self, users: dict[Any, Any]):
        super().__init__()
        self.users = getattr(users, "users", users)


@contextmanager
def empty_store() -> Iterator[None]:
    """Swap an empty parameter store in.

    Pyro's own ``scope()`` would do, but it strips the parameters outside of the attribute by which SVI finds them.
    """
    store: Any = pyro.get_param_store()
    before = {name: getattr(store, name) for name in STORED}
    try:
        for name, value in before.items():
            setattr(store, name, OwnStore(value))
        yield
    finally:
        for name, value in before.items():
            setattr(store, name, value)


def users_store() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the unconstrained values and the constraints in the user's own store, also while an empty one is in its place."""
    values, kinds = (getattr(pyro.get_param_store(), name) for name in STORED[:2])
    return getattr(values, "users", values), getattr(kinds, "users", kinds)


def check_stored(name: str, stored: Any, wanted: Any) -> None:
    """Raise unless a parameter in Pyro's store has the shape that its program wants: another one's may have the same name."""
    if stored != wanted:
        raise ZooError(
            f"expected parameter '{name}' of shape {tuple(wanted)}; got {tuple(stored)} in Pyro's parameter store; if that is "
            "another program's, call pyro.clear_param_store()")


def theta(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters by name, constrained and detached."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        kinds = getattr(module, "_pyro_params", {})
        found.update({dot + name: getattr(module, name).detach() for name in kinds})
        plain = (n for n, p in module.named_parameters(recurse=False) if n.removesuffix("_unconstrained") not in kinds)
        found.update({dot + name: module.get_parameter(name).detach() for name in plain})
    for key, kind in model.__dict__.get("param_constraints", {}).items():
        # The pyro.param statements of a bare program, under their own names.
        found[key.replace("/", ".")] = transform_to(kind)(found.pop(f"params.{key}"))
    return found


class LocalParams(Messenger):
    """Serve ``pyro.param`` statements from the module ``owner``, whose parameters they become.

    They start at what the user's own store holds under their names, as a program does that stock Pyro has trained; the
    store stays as it is. The module keeps a slash in place of each dot in a name, since names of a module's parameters can't
    have dots.
    """

    def __init__(self, owner: nn.Module):
        super().__init__()
        self.owner = owner
        self._own: set[int] | None = None  # once a run: a network has many parameters, and each is asked about

    @property
    def params(self) -> Any:
        return self.owner.__dict__["_modules"].get("params", {})

    def _pyro_param(self, msg: Any) -> None:
        name, *rest = msg["args"]
        init = rest[0] if rest else msg["kwargs"].get("init_tensor")
        key = name.replace(".", "/")
        if key not in self.params:
            if init is None and (name in pyro.get_param_store() or name not in users_store()[0]):
                return  # a PyroParam's, already in the scope that isolated() opened
            if self._owns(init):
                # A PyroModule's own. The store could not take it under vmap; stock SVI finds it by its attribute.
                init.unconstrained = weakref.ref(init)
                msg["value"], msg["done"] = init, True
                return
            constraint = rest[1] if len(rest) > 1 else msg["kwargs"].get("constraint", constraints.real)
            self._adopt(key, *self._first(name, init, constraint))
        value: Tensor = transform_to(self.owner.param_constraints[key])(self.params[key])  # type: ignore[index]
        value.unconstrained = weakref.ref(self.params[key])  # type: ignore[attr-defined]  # by which stock SVI finds it
        msg["value"], msg["done"] = value, True

    def _owns(self, init: Any) -> bool:
        if self._own is None:
            self._own = {id(p) for p in self.owner.parameters()}
        return id(init) in self._own

    def _first(self, name: str, init: Any, constraint: Any) -> tuple[nn.Parameter, Any]:
        """Return a parameter's first unconstrained value, from the user's store or from ``init``, and its constraint."""
        values, kinds = users_store()
        registered = module_from_param_with_module_name(name) != name  # by pyro.module: the network itself is what is run
        if name in values and not registered:
            if isinstance(init, Tensor):
                check_stored(name, transform_to(kinds[name])(values[name]).shape, init.shape)
            return nn.Parameter(values[name].detach().clone()), kinds[name]
        value = init if isinstance(init, Tensor) else init()
        if isinstance(value, nn.Parameter) and constraint is constraints.real:
            return value, constraint
        return nn.Parameter(transform_to(constraint).inv(value.detach()).clone()), constraint

    def _adopt(self, key: str, value: nn.Parameter, constraint: Any) -> None:
        if not self.params:
            self.owner.params = nn.ParameterDict()
            self.owner.__dict__["param_constraints"] = {}
        self.params[key] = value
        self.owner.param_constraints[key] = constraint  # type: ignore[index, operator]
