"""Amortisation: from x (and the units' numbers) to the parameters φ of a family."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from guides.families.family import Phi
from zoo.data import Data, reference, tensors
from zoo.errors import ZooError
from zoo.nn.networks import attempt, check_hidden, check_shapes, network_kind

#: Rows at a time of a network's inputs where no gradients are asked for.
PART = 2**14

#: Rows that a network is tried on when it is passed.
FEW = 64


class Amortisation(nn.Module, abc.ABC):
    """A map from x to φ, built from φ's start (units, *shape) and the data.

    ``new_units``: whether it can serve units that it was not fitted on. ``pure``: whether it does the same tensor operations in
    every run; a network that was passed says so by an attribute ``pure``. ``reads``: whether its network reads latents that all
    units share.
    """

    new_units = False
    pure = True
    reads = False

    @abc.abstractmethod
    def forward(self, x: Data, units: int, index: Tensor | None = None, shared: Tensor | None = None) -> Phi:
        """Return φ, (units, *shape) each, for the ``units`` of ``x``; ``index`` says which of the fitted units they are.

        Where a network ``reads`` shared latents, ``shared`` (draws, their number) holds standardised draws of them, and each
        entry of φ is (draws, units, *shape). An entry ``slope`` (units, d, their number) says by how much they move each
        unit's loc.
        """


class Free(Amortisation):
    """Every unit has its own φ: the best the family can do, unit by unit, and of no use for a new unit.

    Args:
        initial: φ at the start.
        x: the data.
        constants: more entries of φ, (units, *shape), which no fit moves: see ``Family.constants``.
        shared: how many latents all units share: each unit's loc is then an affine map of them. 0: it does not hang on any.

    >>> free = Free({"loc": torch.zeros(4, 2)}, torch.zeros(4, 3))
    >>> free(torch.zeros(2, 3), 2, torch.tensor([0, 3]))["loc"].shape
    torch.Size([2, 2])
    """

    def __init__(
        self, initial: dict[str, Tensor], x: Data, constants: Mapping[str, Tensor] | None = None, shared: int = 0,
    ):
        super().__init__()
        if shared:
            self.slope = nn.Parameter(initial["loc"].new_zeros(len(initial["loc"]), initial["loc"].shape[-1], shared))
        self.units = len(next(iter(initial.values())))
        self.constants = tuple(constants or ())
        for name, value in (constants or {}).items():
            self.register_buffer(name, value.detach().clone())
        self.phi = nn.ParameterDict({name: nn.Parameter(value.detach().clone()) for name, value in initial.items()})
        self.shapes = {name: value.shape[1:] for name, value in initial.items()}

    def forward(self, x: Data, units: int, index: Tensor | None = None, shared: Tensor | None = None) -> Phi:
        phi = {**dict(self.phi.items()), **{name: getattr(self, name) for name in self.constants}}
        if hasattr(self, "slope"):
            phi["slope"] = self.slope
        if index is not None:
            return {name: value[index] for name, value in phi.items()}
        if units != self.units:
            raise ZooError(
                f"expected the {self.units} units that this free guide has parameters for; got {units}; fit a new guide to "
                "this x, or use an encoder")
        return phi

    def put(self, phi: Phi) -> None:
        """Put the units' φ in the place of what it is, constants included."""
        with torch.no_grad():
            for name, value in phi.items():
                (getattr(self, name) if name in self.constants else self.phi[name]).copy_(value)

    def flat(self) -> Tensor:
        """Return φ as a row for each unit, (units, size), float64."""
        return self.rows({name: value.detach().double() for name, value in self.phi.items()})

    def rows(self, phi: Phi) -> Tensor:
        """Return any units' φ as a row for each, (units, size)."""
        return torch.cat([phi[name].flatten(1) for name in self.shapes], 1)

    def unflat(self, rows: Tensor) -> Phi:
        """Return rows as of :meth:`flat`, of any units, as φ."""
        parts = rows.split([shape.numel() for shape in self.shapes.values()], 1)
        return {
            name: part if len(shape) == 1 else part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def set(self, rows: Tensor) -> None:
        """Put rows as of :meth:`flat` into φ."""
        with torch.no_grad():
            for name, value in self.unflat(rows).items():
                self.phi[name].copy_(value)


class Encoder(Amortisation):
    """A network from a unit's row of x to its φ: one fit serves units it has not seen.

    The columns are standardised with the mean and deviation of the data it was built on. The last layer starts near
    zero with φ's start as its bias, so that all units begin at the family's start.

    Args:
        initial: φ at the start.
        x: the data; per-unit entries of a mapping are joined.
        hidden: widths of the hidden layers.
        network: ``mlp``, ``conv`` (pictures, or rows of square ones; hidden are its channels), or any module from (units,
            columns), standardised, to (units, outputs). Where x is pictures, they keep their shape for a module that takes
            it. In place of loc and log_scale side by side a module may return the pair (loc, scale).
        shared: how many latents all units share, which the network reads beside the columns; 0: none.

    Raises:
        ZooError: the network's output has another shape than φ needs, or is a pair where φ is not loc and log_scale, or whose
            second part is not positive.

    Source: Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    >>> encoder = Encoder({"loc": torch.zeros(4, 2)}, torch.randn(4, 3))
    >>> encoder(torch.randn(9, 3), 9)["loc"].shape
    torch.Size([9, 2])
    """

    new_units = True
    centre: Tensor
    spread: Tensor

    def __init__(
        self, initial: dict[str, Tensor], x: Data, hidden: Sequence[int] = (64, 64), network: nn.Module | str = "mlp",
        shared: int = 0,
    ):
        super().__init__()
        self.reads = shared > 0
        if not isinstance(network, nn.Module | str):
            raise ZooError(
                f"expected the encoder's network to be a name or a torch module; got {type(network).__name__}; pass one")
        self.shapes = {name: value.shape[1:] for name, value in initial.items()}
        self.units = len(next(iter(initial.values())))
        self.names = tuple(name for name, value in tensors(x).items() if value.ndim and len(value) == self.units)
        rows = features(x, self.units)
        self.register_buffer("centre", rows.mean(0))
        spread = rows.std(0, unbiased=False)
        self.register_buffer("spread", torch.where(spread > 0, spread, torch.ones_like(spread)))
        bias = torch.cat([value.mean(0).flatten() for value in initial.values()])
        few = (rows[:FEW] - self.centre) / self.spread
        few, entries = torch.cat([few, few.new_zeros(len(few), shared)], 1), tensors(x)
        shape = entries[self.names[0]].shape[1:] if len(self.names) == 1 and not shared else torch.Size()
        self.network = _network(network, few, shape if len(shape) > 1 else few.shape[1:], check_hidden(hidden), bias, initial)
        self.pure = isinstance(network, str) or bool(getattr(network, "pure", False))

    def forward(self, x: Data, units: int, index: Tensor | None = None, shared: Tensor | None = None) -> Phi:
        rows = (features(x, units, self.names) - self.centre) / self.spread
        if self.reads:
            assert shared is not None, "a network that reads shared latents needs them"
            draws = len(shared)
            pairs = [rows.expand(draws, *rows.shape), shared[:, None].expand(draws, units, -1)]
            inputs = torch.cat(pairs, 2).flatten(0, 1)
            # Without gradients, layers' values are thrown away: of few at a time they stay in the cache.
            parts = [inputs] if torch.is_grad_enabled() else inputs.split(PART)
            output = torch.cat([self.network(part) for part in parts]).reshape(draws, units, -1)
        else:
            output = self.network(rows)
        entries = output.split([math.prod(shape) for shape in self.shapes.values()], -1)
        return {
            name: entry.reshape(*output.shape[:-1], *shape)
            for (name, shape), entry in zip(self.shapes.items(), entries, strict=True)}


class Semi(Amortisation):
    """φ = encoder(x) + a correction of each unit's own: as close as ``free``, from where the encoder leaves off.

    Args:
        initial: φ at the start.
        x: the data.
        hidden, network, shared: of the :class:`Encoder`; the correction is an affine map of shared latents, too.

    Source: Kim et al. (2018), Semi-amortized variational autoencoders, https://arxiv.org/abs/1802.02550 (which takes gradient
    steps from the encoder's answer; here the correction is a parameter).

    >>> semi = Semi({"loc": torch.zeros(4, 2)}, torch.randn(4, 3))
    >>> semi(torch.randn(4, 3), 4)["loc"].shape
    torch.Size([4, 2])
    """

    def __init__(
        self, initial: dict[str, Tensor], x: Data, hidden: Sequence[int] = (64, 64), network: nn.Module | str = "mlp",
        shared: int = 0,
    ):
        super().__init__()
        self.reads = shared > 0
        self.encoder = Encoder(initial, x, hidden, network, shared)
        self.pure = self.encoder.pure
        self.correction = Free({name: torch.zeros_like(value) for name, value in initial.items()}, x, shared=shared)

    def forward(self, x: Data, units: int, index: Tensor | None = None, shared: Tensor | None = None) -> Phi:
        own, common = self.correction(x, units, index, shared), self.encoder(x, units, index, shared)
        return {**own, **{name: common[name] + own[name] for name in common}}


def features(x: Data, units: int, names: Sequence[str] | None = None) -> Tensor:
    """Return the per-unit entries of ``x`` side by side as floating numbers, (units, columns).

    Those called ``names``, in their order, where an encoder was built on them.

    Raises:
        ZooError: no entry of x has a row for each unit, or one of the ``names`` is missing or has none.
    """
    like, given = reference(x), tensors(x)
    rows = {name: value.to(like) for name, value in given.items() if value.ndim and len(value) == units}
    named = list(rows.values()) if names is None else _entries(rows, units, names)
    if not named:
        raise ZooError(f"expected an entry of x with a row for each of the {units} units; got none; an encoder needs one")
    parts = [v.flatten(1) if v.ndim > 1 else v[:, None] for v in named]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _entries(rows: Mapping[str, Tensor], units: int, names: Sequence[str]) -> list[Tensor]:
    """Return those of the per-unit entries ``rows`` that an encoder was built on, in the order of ``names``."""
    missing = [name for name in names if name not in rows]
    if missing:
        raise ZooError(
            f"expected entries {', '.join(names)} of x with a row for each of the {units} units, as the encoder was "
            f"built on; got none for {', '.join(missing)}; add it: of a unit without observations only the prior is known")
    return [rows[name] for name in names]


class OwnNetwork(nn.Module):
    """A user's network that takes pictures of a ``shape``, or returns a ``pair`` (loc, scale), as one from rows to φ."""

    def __init__(self, network: nn.Module, shape: Sequence[int], pair: bool):
        super().__init__()
        self.network, self.shape, self.pair = network, tuple(shape), pair

    def forward(self, rows: Tensor) -> Tensor:
        output = self.network(rows.unflatten(-1, self.shape) if len(self.shape) > 1 else rows)
        if not self.pair:
            return output  # type: ignore[no-any-return]
        loc, scale = output
        return torch.cat([loc, scale.log()], -1)


def _adapted(network: nn.Module, rows: Tensor, shape: Sequence[int], phi: Phi) -> nn.Module:
    """Return a user's network as one from rows to the entries of φ side by side."""
    as_pictures = attempt(network, rows.unflatten(1, shape)) if len(shape) > 1 else None
    takes = shape if as_pictures is not None else rows.shape[1:]
    answer = as_pictures if as_pictures is not None else attempt(network, rows)
    pair = isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, Tensor) for part in answer)
    if pair and list(phi) != ["loc", "log_scale"]:
        raise ZooError(
            f"expected an encoder network that returns one tensor with {', '.join(phi)} side by side; got one that returns a "
            "pair; use it for mean_field, whose φ is loc and scale")
    if pair and not bool((answer[1] > 0).all()):
        raise ZooError(
            f"expected positive scales from an encoder network that returns (loc, scale); got {float(answer[1].min()):g}; "
            "return log_scale.exp(), or one tensor with loc and log_scale side by side")
    return OwnNetwork(network, takes, pair) if pair or len(takes) > 1 else network


def _network(
    network: nn.Module | str, rows: Tensor, shape: Sequence[int], hidden: tuple[int, ...], bias: Tensor, phi: Phi,
) -> nn.Module:
    """Build a network that answers nearly ``bias`` to every row at the start, or check the one that was passed."""
    if isinstance(network, nn.Module):
        own = _adapted(network.to(rows), rows, shape, phi)
        check_shapes(own, rows[:2], len(bias), "an encoder network")
        return own.eval()
    module = network_kind(network).encoder(shape, len(bias), hidden).to(rows)
    last = module[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(bias)
    return module.eval()
