"""Which units θ and the encoders see, and on which all guides are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.runtime.seeds import Stream
from zoo.data import Data, reference, take
from zoo.errors import ZooError
from zoo.program.run import seeded


@dataclass(frozen=True)
class Partition:
    """Data in two: ``train``, which θ and encoders are fitted on, and ``held``, on which guides are compared.

    Without a hold-out both are all of it. ``index`` says which units are held, ``total`` how many there are.
    """

    train: Data
    held: Data
    index: Tensor
    total: int

    @property
    def share(self) -> float:
        """Share of the units that θ never saw."""
        return 0.0 if self.train is self.held else len(self.index) / self.total


def partition(x: Data, units: int, share: float, seed: int = 0) -> Partition:
    """Hold ``share`` of the ``units`` of ``x`` out, drawn by ``seed``: the same ones for the same numbers.

    Raises:
        ZooError: a share outside [0, 1), or one that leaves no units on a side.

    >>> partition(torch.zeros(10, 2), 10, 0.2).held.shape
    torch.Size([2, 2])
    """
    device = reference(x).device
    if not 0 <= share < 1:
        raise ZooError(f"expected holdout as a share of the units, from 0 up to 1; got {share}; e.g. 0.2")
    if not share:
        return Partition(x, x, torch.arange(units, device=device), units)
    held = round(share * units)
    if not 2 <= held <= units - 2:
        raise ZooError(f"expected a holdout that leaves at least 2 units on both sides; got {share} of {units}; change it")
    with seeded(seed + Stream.PARTITION):
        order = torch.randperm(units).to(device)
    index = order[:held].sort().values
    return Partition(take(x, order[held:].sort().values, units), take(x, index, units), index, units)
