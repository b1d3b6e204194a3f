"""Networks for decoders and encoders: multilayer perceptrons, convolutions, or a module of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError, check_parameters, chosen

#: Layers of a network, or of all networks of a flow, at most.
LAYERS = 1000


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network, both ways.

    ``decoder(latent, columns, outputs, hidden)`` maps (…, latent) to (…, columns · outputs), the outputs of a column side by
    side; ``encoder(columns, outputs, hidden)`` maps (…, columns) to (…, outputs).
    """

    decoder: Callable[[int, int, int, Sequence[int]], nn.Module]
    encoder: Callable[[int, int, Sequence[int]], nn.Module]


def check_widths(widths: Sequence[int], what: str, times: int = 1) -> None:
    """Raise a :class:`ZooError` where ``times`` networks are too large, with layers of ``widths`` from inputs to outputs."""
    layers = times * (len(widths) - 1)
    if layers > LAYERS:
        raise ZooError(f"expected {what} of at most {LAYERS:,} layers of weights; got {layers:,}; lower their number")
    check_parameters(
        times * sum((before + 1) * after for before, after in pairwise(widths)), what, "lower the widths of its layers")


def mlp(inputs: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return a perceptron with SiLU between its layers: smooth, so that gradients in z are too.

    >>> mlp(2, 3, (16,))(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    check_widths((inputs, *hidden, outputs), "a network")
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], outputs))


class ColumnsFirst(nn.Module):
    """Images (…, outputs, h, w) to (…, h · w · outputs): the outputs of a pixel side by side."""

    def forward(self, images: Tensor) -> Tensor:
        return images.movedim(-3, -1).flatten(-3)


def conv_decoder(latent: int, columns: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return two transposed convolutions of stride 2, from a quarter of the image's side to all of it."""
    side, (wide, narrow) = _side(columns), _channels(hidden)
    quarter = side // 4
    check_widths((latent, wide * quarter**2), "a network")
    check_widths((16 * wide, narrow, 16 * outputs), "a network")
    return nn.Sequential(
        nn.Linear(latent, wide * quarter**2), nn.SiLU(), nn.Unflatten(-1, (wide, quarter, quarter)),
        nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(narrow, outputs, 4, 2, 1), ColumnsFirst())


def conv_encoder(columns: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return two convolutions of stride 2 and a linear layer."""
    side, (wide, narrow) = _side(columns), _channels(hidden)
    check_widths((16, narrow, 16 * wide), "a network")
    check_widths((wide * (side // 4) ** 2, outputs), "a network")
    return nn.Sequential(
        nn.Unflatten(-1, (1, side, side)), nn.Conv2d(1, narrow, 4, 2, 1), nn.SiLU(), nn.Conv2d(narrow, wide, 4, 2, 1),
        nn.SiLU(), nn.Flatten(-3), nn.Linear(wide * (side // 4) ** 2, outputs))


def _side(columns: int) -> int:
    side = math.isqrt(columns)
    if side * side != columns or side % 4:
        raise ZooError(
            f"expected square images with a side divisible by 4 for network conv; got {columns} columns; use network mlp")
    return side


def _channels(hidden: Sequence[int]) -> tuple[int, int]:
    """Read the channels of the two convolutions off ``hidden``: (wide, narrow); one number makes the other half of it."""
    if not 1 <= len(hidden) <= 2:
        raise ZooError(f"expected one or two channels in hidden for network conv; got {tuple(hidden)}; e.g. (32, 16)")
    return (hidden[0], max(1, hidden[0] // 2) if len(hidden) == 1 else hidden[1])


class Apart(nn.Module):
    """A user's ``PyroModule`` that a model holds without taking it over.

    As a PyroModule's own submodule it would be renamed, and refused once it has run, so that no second model could hold it.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.network(*inputs)
        return output


NETWORKS: Mapping[str, NetworkKind] = {
    "mlp": NetworkKind(lambda latent, columns, outputs, hidden: mlp(latent, columns * outputs, hidden), mlp),
    "conv": NetworkKind(conv_decoder, conv_encoder),
}


def network_kind(name: str) -> NetworkKind:
    """Return the entry ``name`` of :data:`NETWORKS`, or raise a :class:`ZooError` that names all and what else will do."""
    return chosen(NETWORKS, name, "network", "choose one, or pass a torch module")


def check_hidden(hidden: Any) -> tuple[int, ...]:
    """Return hidden widths as a tuple; a lone number is one layer.

    Raises:
        ZooError: widths that are no whole numbers above 0.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden) if isinstance(hidden, list | tuple) else (hidden,)
    if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths):
        raise ZooError(f"expected hidden widths as whole numbers above 0; got {hidden!r}; e.g. (64, 64)")
    return widths


def check_shapes(network: nn.Module, rows: Tensor, outputs: int, what: str) -> None:
    """Raise a :class:`ZooError` unless ``network`` maps ``rows`` (2, inputs) to (2, outputs), each by itself."""
    before = network.training
    try:
        with torch.no_grad():
            got = network.eval()(rows)
            again, alone = network(rows), [network(rows[:1]), network(rows[1:])]
    except Exception as error:  # the user's own code: whatever it raises, it is the network that must change
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ZooError(
            f"expected {what} from (units, {rows.shape[1]}) to (units, {outputs}); got one that fails on 2 units: "
            f"{first[:120]}; change its layers") from error
    finally:
        network.train(before)
    shape = tuple(got.shape) if isinstance(got, Tensor) and got.is_floating_point() else _kind(got)
    if shape != (len(rows), outputs):
        raise ZooError(
            f"expected {what} from (units, {rows.shape[1]}) to (units, {outputs}); got an output of shape {shape} for "
            f"{len(rows)} units; change its last layer")
    if not torch.allclose(got, again, 1e-4, 1e-6, equal_nan=True):
        raise ZooError(
            f"expected {what} that gives the same answer twice in evaluation mode; got others; draw nothing in it")
    if not torch.allclose(got, torch.cat(alone), 1e-3, 1e-5, equal_nan=True):
        raise ZooError(
            f"expected {what} that answers each unit by itself; got other answers for the same units one by one; take out "
            "what averages over the batch, e.g. batch normalisation without running statistics")


def _kind(got: object) -> str:
    return f"{tuple(got.shape)} of {got.dtype}" if isinstance(got, Tensor) else type(got).__name__
