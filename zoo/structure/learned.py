"""θ as a reader takes it: what was learned, by name and dimensions, and of networks the sizes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.structure.graph.parameters import Parameter, parameters
from zoo.structure.words import FEW, described, heading, network_text, owner

if TYPE_CHECKING:
    from zoo.model import Model

#: Numbers of a parameter that a record holds; of one layer alone above which it counts as a network.
MOST = 500


@dataclass(frozen=True)
class Form:
    """One form in which a parameter is shown: its name, its dimensions, and the map from the parameter's constrained value.

    Attributes:
        name: the form's name: ``covariances`` of a parameter that holds Cholesky factors.
        dims: names of the form's dimensions.
        show: maps the parameter's value to what is shown.
        read: maps what is shown back to the parameter's value; ``None`` where it does not say all of it, as standard deviations
            do not of a covariance. One form of each parameter has it.
    """

    name: str
    dims: tuple[str, ...]
    show: Callable[[Tensor], Tensor] = torch.clone
    read: Callable[[Tensor], Tensor] | None = torch.clone


@dataclass(frozen=True)
class Quantity:
    """One learned quantity: its name, the names of its dimensions, its value, and the parameter of θ that it is a form of."""

    name: str
    dims: tuple[str, ...]
    value: Tensor
    parameter: str

    def to_dict(self) -> dict[str, Any]:
        """Return the quantity as plain data; ``values`` is ``None`` where it has more than :data:`MOST` numbers."""
        values = self.value.tolist() if self.value.numel() <= MOST else None
        return {"name": self.name, "dims": list(self.dims), "shape": list(self.value.shape), "values": values}


@dataclass(frozen=True)
class Network:
    """A learned network: its name, how many numbers it has, its layers in words, and its parameters' names in θ."""

    name: str
    size: int
    layers: tuple[str, ...]
    parameters: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the network's name, size and layers as plain data."""
        return {"name": self.name, "size": self.size, "layers": list(self.layers)}


@dataclass(frozen=True, repr=False)
class Learned:
    """The learned parameters θ of a model: quantities with names and dimensions, and networks with their sizes.

    >>> import zoo
    >>> x = zoo.dataset("iris").x
    >>> zoo.build("ppca", x, latent=1).learned()
    loadings (column 4, latent 1): ...
    loc (column 4): 5.843, 3.057, 3.758, 1.199
    noise_variance: 0.1141
    """

    quantities: tuple[Quantity, ...]
    networks: tuple[Network, ...]

    @property
    def size(self) -> int:
        """How many numbers the quantities have, forms of one parameter each counted."""
        return sum(one.value.numel() for one in self.quantities)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON: ``parameters`` and ``networks``."""
        return {
            "parameters": [one.to_dict() for one in self.quantities], "networks": [one.to_dict() for one in self.networks]}

    def __repr__(self) -> str:
        lines = [f"{heading(one.to_dict())}{_values(one.value)}" for one in self.quantities]
        return "\n".join([*lines, *(network_text(one.to_dict()) for one in self.networks)]) or "nothing is learned"


def learned(model: Model, dims: Mapping[str, Sequence[str]] | None = None) -> Learned:
    """Return θ of a model as a reader takes it: quantities by name with dimensions, and of networks the sizes.

    A network is a module of several layers, or of one with more than :data:`MOST` numbers, whose parameters are unconstrained
    and named neither in the model's ``dims`` nor in its ``forms``. Every other parameter is a quantity: in its forms, or as it
    is, along the dimensions that ``dims`` (those given here go before the model's own) names, or numbered ones.
    """
    theta = model.theta()
    found = {one.name: one for one in parameters(model, theta)}
    forms, names = model.forms(), {**model.dims, **(dims or {})}
    told = [name for name, one in found.items() if name in forms or name in names or not _is_layer(model, one)]
    networks = _networks(model, found, told)
    inside = {name for network in networks for name in network.parameters}
    order = [name for name in (*names, *forms) if name in found]
    shown = [name for name in dict.fromkeys([*order, *found]) if name not in inside]
    forms = {**_own_forms(found, names), **forms}
    quantities = (_quantity(form.name, form.dims, form.show(theta[name]), name) for name in shown for form in forms[name])
    return Learned(tuple(quantities), networks)


def _own_forms(found: Iterable[str], dims: Mapping[str, Sequence[str]]) -> dict[str, tuple[Form, ...]]:
    """Return each parameter's value as its form, under its name to a reader; under its full name where two share that."""
    labels = {name: plain(name) for name in found}
    shared = {label for label, count in Counter(labels.values()).items() if count > 1}
    return {
        name: (Form(name if label in shared else label, tuple(dims.get(name, dims.get(label, ())))),)
        for name, label in labels.items()}


def _quantity(name: str, dims: Sequence[str], value: Tensor, parameter: str) -> Quantity:
    """Return a quantity whose last dimensions are named and whose others are numbered."""
    named = list(dims)[-value.ndim:] if value.ndim else []
    rest = [f"{name}_dim_{i}" for i in range(value.ndim - len(named))]
    return Quantity(name, (*rest, *named), value, parameter)


def plain(name: str) -> str:
    """Return a parameter's name as a reader knows it.

    >>> plain("module.layer.bias"), plain("decoder$$$0.weight")
    ('layer.bias', 'decoder.0.weight')
    """
    return name.removeprefix("module.").replace("$$$", ".")


def _is_layer(model: Model, one: Parameter) -> bool:
    """Return whether a parameter is of a module that the model holds, and not constrained: an entry of a network, perhaps."""
    statement = one.name.replace(".", "/") in model.__dict__.get("param_constraints", {})
    return bool(owner(plain(one.name))) and one.support == "real" and (not statement or "$$$" in one.name)


def _networks(model: Model, found: Mapping[str, Parameter], told: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks: modules of two layers or more, or of a large one, that hold nothing that is ``told`` by itself."""
    apart = {path for name in told for path in _paths(plain(name))}
    groups: dict[str, list[Parameter]] = {}
    for name, one in found.items():
        root = next((path for path in _paths(plain(name)) if path not in apart), None)
        if name not in told and root is not None:
            groups.setdefault(root, []).append(one)
    return tuple(_network(model, root, group) for root, group in groups.items() if _is_network(group))


def _paths(name: str) -> list[str]:
    """Return the modules that a parameter lies in, from the outermost: ``a`` and ``a.b`` of ``a.b.weight``."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _is_network(group: Sequence[Parameter]) -> bool:
    return len({owner(plain(one.name)) for one in group}) > 1 or _size(group) > MOST


def _size(group: Sequence[Parameter]) -> int:
    return sum(math.prod(one.shape) for one in group)


def _network(model: Model, root: str, group: Sequence[Parameter]) -> Network:
    modules = {plain(name): module for name, module in model.named_modules()}
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for one in group:
        label = plain(one.name)
        layers.setdefault(owner(label), {})[label.rpartition(".")[2]] = one.shape
    words = tuple(described(modules.get(path), shapes) for path, shapes in layers.items())
    return Network(root, _size(group), words, tuple(one.name for one in group))


def _values(value: Tensor) -> str:
    if value.numel() > FEW:
        return f": {value.numel():,} numbers"
    text = json.dumps(_rounded(value.tolist()))
    return f": {text[1:-1] if value.ndim else text}"


def _rounded(value: Any) -> Any:
    return [_rounded(part) for part in value] if isinstance(value, list) else float(f"{value:.4g}")
