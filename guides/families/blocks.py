"""The family of two blocks: one family for the latents that all rows share, one for those of each row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from guides.families.family import Family, NormalBase, Phi, Start
from zoo.program.sites.blocks import Blocks
from zoo.structure.blockwise import Blockwise

#: The first letters of φ's entries: of the shared family's, and of the local one's.
SHARED, LOCAL = "shared_", "local_"


class BlockFamily(Family):
    """q(u, z) = q(u) Π_i q(z_i | u), of which each factor is of a family of its own.

    φ: the shared family's entries as ``shared_…``, (1, *shape), and the local family's as ``local_…``, (1, rows, *shape). Where
    z_i depends on u, ``slope`` (1, rows, d_local, d_shared) moves its loc by slope (u − ``centre``) / ``spread``.

    Args:
        blocks: where the two blocks lie in the joint vector.
        shared, local: the two families.
    """

    def __init__(self, blocks: Blocks, shared: Family, local: Family):
        self.blocks, self.shared, self.local = blocks, shared, local
        self.learning_rate = min(shared.learning_rate, local.learning_rate)

    def initial(self, start: Start) -> dict[str, Tensor]:
        parts = self.parts(start)
        found = {SHARED + name: value for name, value in self.shared.initial(parts[0]).items()}
        return {**found, **{LOCAL + name: value[None] for name, value in self.local.initial(parts[1]).items()}}

    def parts(self, start: Start) -> tuple[Start, Start]:
        """Return where the shared latents start, and where each row's do."""
        shared, local = self.blocks.shared, self.blocks.local
        return (
            Start(start.loc[:, shared], start.scale[:, shared], None), Start(start.loc[0, local], start.scale[0, local], None))

    def distribution(self, phi: Phi) -> Blockwise:
        depends = "slope" in phi
        local = part_of(phi, LOCAL)
        rows = len(local["loc"])

        def at(u: Tensor) -> Distribution:
            return self.local.distribution(at_draws(phi, u) if depends else local)

        return Blockwise(
            self.blocks.of_rows(rows), self.shared.distribution(part_of(phi, SHARED)), at, depends, same_scale=True)


class BlockNormals(BlockFamily, NormalBase):
    """The family of two blocks whose draws are both maps of standard normal noise."""

    shared: NormalBase
    local: NormalBase

    def noise_size(self, phi: Phi) -> int:
        local = part_of(phi, LOCAL)
        return self.shared.noise_size(part_of(phi, SHARED)) + len(local["loc"]) * self.local.noise_size(local)

    def transform(self, phi: Phi, noise: Tensor) -> Tensor:
        first, second = part_of(phi, SHARED), part_of(phi, LOCAL)
        count, rows = self.shared.noise_size(first), len(second["loc"])
        u = self.shared.transform(first, noise[..., :count])[:, 0]
        z = self.local.transform(second, noise[:, 0, count:].reshape(len(noise), rows, -1))
        return self.blocks.of_rows(rows).join(u, z + move_of(phi, u) if "slope" in phi else z)


def block_family(blocks: Blocks, shared: Family, local: Family) -> BlockFamily:
    """Return the family of two blocks, with noise to be held where both parts have it."""
    both = isinstance(shared, NormalBase) and isinstance(local, NormalBase)
    return (BlockNormals if both else BlockFamily)(blocks, shared, local)


def part_of(phi: Phi, prefix: str) -> dict[str, Tensor]:
    """Return one block's own φ: of rows, (rows, *shape)."""
    return {
        name.removeprefix(prefix): value[0] if prefix == LOCAL else value
        for name, value in phi.items() if name.startswith(prefix)}


def move_of(phi: Phi, u: Tensor) -> Tensor:
    """Return by how much u (draws, d_shared) moves the rows' loc, (draws, rows, d_local)."""
    return torch.einsum("uij,nj->nui", phi["slope"][0], (u - phi["centre"]) / phi["spread"])


def at_draws(phi: Phi, u: Tensor) -> dict[str, Tensor]:
    """Return the local family's φ at draws u (draws, d_shared): (draws · rows, *shape), draws first.

    Its entries in ``phi`` are (draws, rows, *shape), or (1, rows, *shape) where only a slope depends on u.
    """
    own = {name.removeprefix(LOCAL): value for name, value in phi.items() if name.startswith(LOCAL)}
    local = {name: value.expand(len(u), *value.shape[1:]) for name, value in own.items()}
    if "slope" in phi:
        move = move_of(phi, u)
        # All components of a mixture move alike.
        local["loc"] = local["loc"] + (move if local["loc"].ndim == 3 else move[:, :, None])
    return {name: value.flatten(0, 1) for name, value in local.items()}
