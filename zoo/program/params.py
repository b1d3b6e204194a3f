"""``pyro.param`` statements of bare programs, kept in the model and not in Pyro's global store."""

from __future__ import annotations

import weakref
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to


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

    The module keeps a slash in place of each dot in a name, since names of a module's parameters can't have dots.
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
            if init is None:
                return  # a PyroParam's, already in the scope that isolated() opened
            if self._owns(init):
                # A PyroModule's own. The store could not take it under vmap; stock SVI finds it by its attribute.
                init.unconstrained = weakref.ref(init)
                msg["value"], msg["done"] = init, True
                return
            constraint = rest[1] if len(rest) > 1 else msg["kwargs"].get("constraint", constraints.real)
            self._adopt(key, init, constraint)
        value: Tensor = transform_to(self.owner.param_constraints[key])(self.params[key])  # type: ignore[index]
        value.unconstrained = weakref.ref(self.params[key])  # type: ignore[attr-defined]  # by which stock SVI finds it
        msg["value"], msg["done"] = value, True

    def _owns(self, init: Any) -> bool:
        if self._own is None:
            self._own = {id(p) for p in self.owner.parameters()}
        return id(init) in self._own

    def _adopt(self, key: str, init: Any, constraint: Any) -> None:
        if not self.params:
            self.owner.params = nn.ParameterDict()
            self.owner.__dict__["param_constraints"] = {}
        value = init if isinstance(init, Tensor) else init()
        if not isinstance(value, nn.Parameter) or constraint is not constraints.real:
            value = nn.Parameter(transform_to(constraint).inv(value.detach()).clone())
        self.params[key] = value
        self.owner.param_constraints[key] = constraint  # type: ignore[index, operator]
