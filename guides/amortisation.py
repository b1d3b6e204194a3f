"""Amortisation: from x (and the units' numbers) to the parameters φ of a family."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from guides.family import Phi
from zoo.data import Data, reference, tensors
from zoo.errors import ZooError


class Amortisation(nn.Module, abc.ABC):
    """A map from x to φ, built from φ's start (units, *shape) and the data."""

    @abc.abstractmethod
    def forward(self, x: Data, units: int, index: Tensor | None = None) -> Phi:
        """Return φ, (units, *shape) each, for the ``units`` of ``x``; ``index`` says which of the fitted units they are."""


class Free(Amortisation):
    """Every unit has its own φ: the best the family can do, unit by unit, and of no use for a new unit.

    >>> free = Free({"loc": torch.zeros(4, 2)}, torch.zeros(4, 3))
    >>> free(torch.zeros(2, 3), 2, torch.tensor([0, 3]))["loc"].shape
    torch.Size([2, 2])
    """

    def __init__(self, initial: dict[str, Tensor], x: Data):
        super().__init__()
        self.units = len(next(iter(initial.values())))
        self.phi = nn.ParameterDict({name: nn.Parameter(value.detach().clone()) for name, value in initial.items()})

    def forward(self, x: Data, units: int, index: Tensor | None = None) -> Phi:
        if index is not None:
            return {name: value[index] for name, value in self.phi.items()}
        if units != self.units:
            raise ZooError(
                f"expected the {self.units} units that this free guide has parameters for; got {units}; fit a new guide to "
                "this x, or use an encoder")
        return dict(self.phi.items())


class Encoder(Amortisation):
    """A network from a unit's row of x to its φ: one fit serves units it has not seen.

    The columns are standardised with the mean and deviation of the data it was built on. The last layer starts near
    zero with φ's start as its bias, so that all units begin at the family's start.

    Args:
        initial: φ at the start.
        x: the data; per-unit entries of a mapping are joined.
        hidden: widths of the hidden layers.
        network: any module from (units, columns) to (units, outputs) in place of the default one.

    Raises:
        ZooError: the network's output has another shape than φ needs.

    Source: Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    >>> encoder = Encoder({"loc": torch.zeros(4, 2)}, torch.randn(4, 3))
    >>> encoder(torch.randn(9, 3), 9)["loc"].shape
    torch.Size([9, 2])
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self, initial: dict[str, Tensor], x: Data, hidden: Sequence[int] = (64, 64), network: nn.Module | None = None,
    ):
        super().__init__()
        if network is not None and not isinstance(network, nn.Module):
            raise ZooError(f"expected the encoder's network to be a torch module; got {type(network).__name__}; pass one")
        if not all(isinstance(width, int) and width > 0 for width in hidden):
            raise ZooError(f"expected the encoder's hidden widths to be whole numbers above 0; got {hidden}; e.g. (64, 64)")
        self.shapes = {name: value.shape[1:] for name, value in initial.items()}
        self.units = len(next(iter(initial.values())))
        rows = features(x, self.units)
        self.register_buffer("centre", rows.mean(0))
        spread = rows.std(0, unbiased=False)
        self.register_buffer("spread", torch.where(spread > 0, spread, torch.ones_like(spread)))
        bias = torch.cat([value.mean(0).flatten() for value in initial.values()])
        self.network = network if network is not None else _mlp(rows.shape[1], tuple(hidden), bias)
        self.network.to(rows).eval()
        with torch.no_grad():
            outputs = self.network(rows[:2]).shape
        if outputs != (len(rows[:2]), len(bias)):
            raise ZooError(
                f"expected an encoder network from (units, {rows.shape[1]}) to (units, {len(bias)}); got an output of shape "
                f"{tuple(outputs)} for 2 units; change its last layer")

    def forward(self, x: Data, units: int, index: Tensor | None = None) -> Phi:
        rows = features(x, units)
        output = self.network((rows - self.centre) / self.spread)
        parts = output.split([math.prod(shape) for shape in self.shapes.values()], 1)
        return {
            name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def features(x: Data, units: int) -> Tensor:
    """Return the per-unit entries of ``x`` side by side as floating numbers, (units, columns).

    Raises:
        ZooError: no entry of x has a row for each unit.
    """
    like = reference(x)
    named = [v.to(like) for v in tensors(x).values() if v.ndim and len(v) == units]
    if not named:
        raise ZooError(f"expected an entry of x with a row for each of the {units} units; got none; an encoder needs one")
    return torch.cat([v.flatten(1) if v.ndim > 1 else v[:, None] for v in named], 1)


def _mlp(columns: int, hidden: tuple[int, ...], bias: Tensor) -> nn.Sequential:
    widths = (columns, *hidden)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    last = nn.Linear(widths[-1], len(bias))
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(bias)
    return nn.Sequential(*layers, last)
