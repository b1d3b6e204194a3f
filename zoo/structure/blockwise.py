"""A distribution over the latents of a data set whose rows share some and own others: q(u) Π_i q(z_i | u)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.program.sites.blocks import Blocks


class BlockDraws(NamedTuple):
    """Draws of both blocks, and their log densities in nats.

    Attributes:
        shared: u, (draws, d_shared).
        local: z, (draws, rows, d_local).
        log_shared: log q(u), (draws,).
        log_local: log q(z_i | u), (draws, rows).
    """

    shared: Tensor
    local: Tensor
    log_shared: Tensor
    log_local: Tensor


class Blockwise(dist.TorchDistribution):
    """q(u, z) = q(u) Π_i q(z_i | u), of batch shape (1,) and event shape (d,).

    Args:
        blocks: where the two blocks lie in the joint vector.
        shared: q(u), of batch shape (1,).
        local: from u (draws, d_shared) to the distributions of all rows' z: of batch shape (draws · rows,), draws first, if it
            ``depends`` on u; else it may look at no draws, and is of batch shape (rows,).
        depends: whether z depends on u in q.
        same_scale: whether q(z_i | u) has the same entropy at any u.

    >>> import zoo, guides
    >>> x = zoo.dataset("eight_schools").x
    >>> q = guides.build("full_rank+mean_field", zoo.build("eight_schools", x), x).posterior(x)
    >>> q.batch_shape, q.event_shape, q.draw(5).log_local.shape
    (torch.Size([1]), torch.Size([10]), torch.Size([5, 8]))
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, blocks: Blocks, shared: Distribution, local: Callable[[Tensor], Distribution], depends: bool,
        same_scale: bool = False,
    ):
        self.blocks, self.shared, self.depends, self.same_scale = blocks, shared, depends, same_scale
        self._at = local
        self._same = None if depends else local(torch.empty(0))
        size = len(blocks.shared) + blocks.local.numel()
        super().__init__(torch.Size([1]), torch.Size([size]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Blockwise:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ZooError(
                f"expected the batch shape (1,) of one data set; got {tuple(batch_shape)}; draw sample shapes instead")
        return self

    def draw(self, draws: int) -> BlockDraws:
        """Draw both blocks, with gradients in their parameters."""
        shared, log_shared = scored(self.shared, draws)
        local, log_local = self.draw_local(shared[:, 0], 1)
        return BlockDraws(shared[:, 0], local[0], log_shared[:, 0], log_local[0])

    def draw_local(self, shared: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Draw z given u = ``shared`` (draws, d_shared).

        Returns:
            z (count, draws, rows, d_local), and log q(z_i | u) (count, draws, rows).
        """
        draws, rows = len(shared), self.blocks.rows
        if self._same is not None:
            z, log_q = scored(self._same, count * draws)
        else:
            z, log_q = scored(self._at(shared), count)
        return z.reshape(count, draws, rows, z.shape[-1]), log_q.reshape(count, draws, rows)

    def local_log_prob(self, shared: Tensor, local: Tensor) -> Tensor:
        """Return log q(z_i | u), (…, draws, rows), at u (draws, d_shared) and z (…, draws, rows, d_local)."""
        if self._same is not None:
            found: Tensor = self._same.log_prob(local)
            return found
        flat = local.flatten(-3, -2)
        return self._at(shared).log_prob(flat).reshape(local.shape[:-1])

    def entropy(self) -> Tensor:
        """Return q's entropy, (1,), in nats.

        Raises:
            NotImplementedError: it is not known, as where the entropy of z_i depends on u.
        """
        if not self.same_scale:
            raise NotImplementedError("the entropy of local latents depends on the shared ones")
        local = self._at(torch.zeros(1, len(self.blocks.shared)).to(self.shared.mean)) if self._same is None else self._same
        total: Tensor = self.shared.entropy() + local.entropy().sum()
        return total

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Return z (*sample_shape, 1, d) and log q (*sample_shape, 1) of the same draws."""
        shape = torch.Size(sample_shape)
        drawn = self.draw(shape.numel())
        z = self.blocks.join(drawn.shared, drawn.local)
        log_q = drawn.log_shared + drawn.log_local.sum(1)
        return z.reshape(*shape, *z.shape[1:]), log_q.reshape(*shape, 1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.reshape(-1, 1, value.shape[-1])
        shared, local = self.blocks.split(flat)
        log_shared: Tensor = self.shared.log_prob(shared[:, None])[:, 0]
        return (log_shared + self.local_log_prob(shared, local).sum(-1)).reshape(value.shape[:-1])
