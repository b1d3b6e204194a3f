"""Words for what is learned: headings of quantities and layers of networks. Nothing heavy is imported for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: Numbers of θ that are printed.
FEW = 30


def owner(name: str) -> str:
    """Return the path of the module that a parameter belongs to.

    >>> owner("network.0.weight"), owner("scale")
    ('network.0', '')
    """
    return name.rpartition(".")[0]


def described(module: nn.Module | None, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return a layer in words: its kind, how many numbers go in and come out, and the size of a convolution's kernel.

    Args:
        module: the layer; ``None`` where only its parameters are known.
        shapes: of its parameters, by name.

    >>> from torch import nn
    >>> described(nn.Conv2d(1, 8, 4), {"weight": (8, 1, 4, 4), "bias": (8,)}), described(None, {"weight": (3, 2)})
    ('Conv2d 1 → 8, 4 × 4', '2 → 3')
    """
    kind = "" if module is None else f"{type(module).__name__} "
    sides = (getattr(module, "in_channels", None), getattr(module, "out_channels", None))
    weight = shapes.get("weight", ())
    if None not in sides and len(weight) > 2:
        return f"{kind}{sides[0]} → {sides[1]}, {' × '.join(map(str, weight[2:]))}"
    if len(weight) == 2:
        return f"{kind}{weight[1]} → {weight[0]}"
    return f"{kind}{', '.join(f'{name} {shape}' for name, shape in shapes.items())}"


def folded(layers: Sequence[str]) -> str:
    """Return layers in a line, those that repeat in turn written once.

    >>> folded(["1 → 2", "2 → 1", "1 → 2", "2 → 1"]), folded(["8 → 200", "200 → 64"])
    ('2 × (1 → 2; 2 → 1)', '8 → 200; 200 → 64')
    """
    count = len(layers)
    for length in range(1, count // 2 + 1):
        if count % length == 0 and list(layers) == [*layers[:length]] * (count // length):
            return f"{count // length} × ({'; '.join(layers[:length])})"
    return "; ".join(layers)


def heading(quantity: Mapping[str, Any]) -> str:
    """Return the name and the dimensions of a quantity, given as plain data, in words.

    >>> heading({"name": "means", "dims": ["component", "column"], "shape": [2, 3]})
    'means (component 2, column 3)'
    """
    sizes = ", ".join(f"{dim} {size}" for dim, size in zip(quantity["dims"], quantity["shape"], strict=True))
    return f"{quantity['name']} ({sizes})" if sizes else str(quantity["name"])


def network_text(network: Mapping[str, Any]) -> str:
    """Return a network, given as plain data, in a line: its name, its size and its layers."""
    return f"{network['name']}: {network['size']:,} numbers in a network: {folded(network['layers'])}"
