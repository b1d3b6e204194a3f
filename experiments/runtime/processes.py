"""One fit in several processes: each works on its share of the units, and sums are taken over all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as group
from torch import Tensor

from zoo.errors import ZooError
from zoo.program.run import seeded


@dataclass(frozen=True)
class Processes:
    """The processes that share a fit, seen from one of them.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> Processes:
        """Return those of torch.distributed's group, as ``torchrun`` starts them.

        Raises:
            ZooError: there is no group.
        """
        if not (group.is_available() and group.is_initialized()):
            raise ZooError(
                "expected processes to share the fit with shard=True; got none; start it with torchrun, and call "
                "torch.distributed.init_process_group('gloo') first")
        return cls(group.get_rank(), group.get_world_size())

    def share(self, units: int) -> slice:
        """Return which of ``units`` this process works on: as many as others, give or take one.

        >>> [Processes(rank, 3).share(10) for rank in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
        """
        return slice(units * self.rank // self.count, units * (self.rank + 1) // self.count)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of the processes' values, the same bits in each."""
        if self.count > 1:
            value = value.clone()
            group.all_reduce(value)
        return value

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its :meth:`total`, all of one type in one message."""
        if self.count == 1:
            return
        found = list(tensors)
        for dtype in {t.dtype for t in found}:
            same = [t for t in found if t.dtype == dtype]
            sums = self.total(torch.cat([t.flatten() for t in same])).split([t.numel() for t in same])
            for t, value in zip(same, sums, strict=True):
                t.copy_(value.reshape(t.shape))

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the tensors of the first."""
        if self.count > 1:
            for t in tensors:
                group.broadcast(t.detach(), 0)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Draw from a stream of this process's own, and put the common one back: it must stay the same in all of them."""
        if self.count == 1:
            yield
            return
        with seeded((int(torch.get_rng_state().sum()) * self.count + self.rank) % 2**31):
            yield


#: One process by itself.
ALONE = Processes()
