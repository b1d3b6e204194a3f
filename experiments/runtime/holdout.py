"""Units held out: for a comparison, which θ and encoders do not see, and for validation, which a fit does not train on."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.runtime.seeds import Stream
from zoo.data import Data, reference, take
from zoo.errors import ZooError
from zoo.program.run import seeded


@dataclass(frozen=True)
class Partition:
    """Data in two: ``train``, which is fitted on, and ``held``, which is not.

    Without a hold-out both are all of it. ``index`` says which units are held, ``total`` how many there are.
    """

    train: Data
    held: Data
    index: Tensor
    total: int

    @property
    def share(self) -> float:
        """Share of the units that no fit saw."""
        return 0.0 if self.train is self.held else len(self.index) / self.total


def partition(
    x: Data, units: int, share: float, seed: int | None = 0, name: str = "holdout", least: int = 2, ordered: bool = True,
) -> Partition:
    """Hold ``share`` of the ``units`` of ``x`` out, drawn at random.

    Args:
        x: the data.
        units: how many units it has.
        share: in [0, 1).
        seed: the same units for the same seed; ``None`` draws by torch's generator as it is.
        name: what errors call the share.
        least: units that both sides have at least.
        ordered: keep the units of each side in the order of ``x``; else in the order that they were drawn in.

    Raises:
        ZooError: a share outside [0, 1), or one that leaves too few units on a side.

    >>> partition(torch.zeros(10, 2), 10, 0.2).held.shape
    torch.Size([2, 2])
    """
    device = reference(x).device
    if not 0 <= share < 1:
        raise ZooError(f"expected {name} as a share of the units, from 0 up to 1; got {share}; e.g. 0.2")
    if not share:
        return Partition(x, x, torch.arange(units, device=device), units)
    held = round(share * units)
    if not least <= held <= units - least:
        raise ZooError(
            f"expected a {name} share that leaves at least {least} unit{'s' * (least > 1)} on both sides; got {share} of "
            f"{units}; change it, or leave it out")
    with nullcontext() if seed is None else seeded(seed + Stream.PARTITION):
        order = torch.randperm(units, device=device if seed is None else None).to(device)
    index, rest = (part.sort().values if ordered else part for part in (order[:held], order[held:]))
    return Partition(take(x, rest, units), take(x, index, units), index, units)
