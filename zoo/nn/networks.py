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

    ``decoder(latent, shape, outputs, hidden)`` maps (…, latent) to (…, columns · outputs), the outputs of a column side by
    side; ``encoder(shape, outputs, hidden)`` maps (…, columns) to (…, outputs). ``shape`` is that of a row: (columns,), or of
    a picture, see :class:`Picture`, whose numbers are the columns.
    """

    decoder: Callable[[int, Sequence[int], int, Sequence[int]], nn.Module]
    encoder: Callable[[Sequence[int], int, Sequence[int]], nn.Module]


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


#: How many channels the pictures have that are told from heights and widths.
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Picture:
    """The layout of a picture: (height, width, channels) where the channels come ``last``, else (channels, height, width)."""

    channels: int
    height: int
    width: int
    last: bool = True

    @classmethod
    def of(cls, shape: Sequence[int]) -> Picture:
        """Return the layout of pictures of shape (h, w), (h, w, c) or (c, h, w).

        Raises:
            ZooError: another shape, or a number of channels other than 1, 3 or 4.

        >>> Picture.of((3, 8, 12))
        Picture(channels=3, height=8, width=12, last=False)
        """
        if len(shape) == 2:
            return cls(1, shape[0], shape[1])
        if len(shape) == 3 and shape[2] in CHANNELS:
            return cls(shape[2], shape[0], shape[1])
        if len(shape) == 3 and shape[0] in CHANNELS:
            return cls(shape[0], shape[1], shape[2], last=False)
        raise ZooError(
            f"expected pictures of shape (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels; got {tuple(shape)}; reshape x")


class UnpackPictures(nn.Module):
    """Rows (…, columns) to pictures (…, channels, h, w), as convolutions take them."""

    def __init__(self, picture: Picture):
        super().__init__()
        self.picture = picture

    def forward(self, rows: Tensor) -> Tensor:
        like = self.picture
        sides = (like.height, like.width)
        apart: Tensor = rows.unflatten(-1, (*sides, like.channels) if like.last else (like.channels, *sides))
        return apart.movedim(-1, -3) if like.last else apart


class PackPictures(nn.Module):
    """Pictures (…, channels · outputs, h, w) to (…, columns · outputs): the outputs of a pixel's channel side by side."""

    def __init__(self, picture: Picture):
        super().__init__()
        self.picture = picture

    def forward(self, pictures: Tensor) -> Tensor:
        apart: Tensor = pictures.unflatten(-3, (self.picture.channels, -1)).movedim(-3, -1)  # (…, channels, h, w, outputs)
        return (apart.movedim(-4, -2) if self.picture.last else apart).flatten(-4)


def conv_decoder(latent: int, shape: Sequence[int], outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return two transposed convolutions of stride 2, from a quarter of the picture's sides to all of them."""
    like, (wide, narrow) = _picture(shape), _channels(hidden)
    high, broad = like.height // 4, like.width // 4
    check_widths((latent, wide * high * broad), "a network")
    check_widths((16 * wide, narrow, 16 * like.channels * outputs), "a network")
    return nn.Sequential(
        nn.Linear(latent, wide * high * broad), nn.SiLU(), nn.Unflatten(-1, (wide, high, broad)),
        nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.SiLU(),
        nn.ConvTranspose2d(narrow, like.channels * outputs, 4, 2, 1), PackPictures(like))


def conv_encoder(shape: Sequence[int], outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return two convolutions of stride 2 and a linear layer."""
    like, (wide, narrow) = _picture(shape), _channels(hidden)
    check_widths((16 * like.channels, narrow, 16 * wide), "a network")
    check_widths((wide * (like.height // 4) * (like.width // 4), outputs), "a network")
    return nn.Sequential(
        UnpackPictures(like), nn.Conv2d(like.channels, narrow, 4, 2, 1), nn.SiLU(), nn.Conv2d(narrow, wide, 4, 2, 1),
        nn.SiLU(), nn.Flatten(-3), nn.Linear(wide * (like.height // 4) * (like.width // 4), outputs))


def _picture(shape: Sequence[int]) -> Picture:
    """Return the layout of pictures that two convolutions of stride 2 take; rows without a shape are of square ones."""
    side = math.isqrt(shape[0])
    like = Picture.of((side, side) if len(shape) == 1 else shape)
    if len(shape) == 1 and (side * side != shape[0] or side % 4):
        raise ZooError(
            f"expected square images with a side divisible by 4 for network conv; got {shape[0]} columns; use network mlp")
    if like.height % 4 or like.width % 4:
        raise ZooError(
            f"expected pictures with sides divisible by 4 for network conv; got shape {tuple(shape)}; use network mlp")
    return like


def _channels(hidden: Sequence[int]) -> tuple[int, int]:
    """Read the channels of the two convolutions off ``hidden``: (wide, narrow); one number makes the other half of it."""
    if not 1 <= len(hidden) <= 2:
        raise ZooError(f"expected one or two channels in hidden for network conv; got {tuple(hidden)}; e.g. (32, 16)")
    return (hidden[0], max(1, hidden[0] // 2) if len(hidden) == 1 else hidden[1])


class Rows(nn.Module):
    """A network whose answers are pictures, as one whose answers are rows (units, columns)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        rows: Tensor = self.network(z).flatten(1)
        return rows


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
    "mlp": NetworkKind(
        lambda latent, shape, outputs, hidden: mlp(latent, math.prod(shape) * outputs, hidden),
        lambda shape, outputs, hidden: mlp(math.prod(shape), outputs, hidden)),
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


def attempt(network: nn.Module, inputs: Tensor) -> Any:
    """Return what a user's network answers in evaluation mode; ``None`` where it fails."""
    before = network.training
    try:
        with torch.no_grad():
            return network.eval()(inputs)
    except Exception:  # the user's own code may raise anything: it is then asked in another way, or refused by check_shapes
        return None
    finally:
        network.train(before)
