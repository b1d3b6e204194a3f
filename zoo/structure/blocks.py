"""The density of a program with shared and local latents, apart: see :mod:`zoo.program.sites.blocks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError
from zoo.program.density import log_block_terms as of_one_draw
from zoo.program.sites.blocks import Blocks

if TYPE_CHECKING:
    from zoo.model import Model


def blocks(model: Model, x: Data) -> Blocks | None:
    """Return the two blocks of latents, shared and local; ``None`` where rows own all of theirs, or no plate holds x."""
    found, known = model.latents(x), model.runner.kept.get("blocks")
    if known is None or known[0] is not found:
        known = model.runner.kept["blocks"] = (found, Blocks.of(found))
    return known[1]


def log_block_terms(model: Model, x: Data, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(u | θ), (draws,), and log p(x_i, z_i | u, θ), (draws, rows), in nats, at z (draws, 1, d).

    u are the shared latents and z_i the local ones of :func:`blocks`; Jacobians are in. Their sum is ``model.log_joint``.

    Raises:
        ZooError: the program has no blocks.
    """
    found, scheme = blocks(model, x), model.runner.scheme(x)
    if found is None:
        raise ZooError(
            f"expected a plate that holds every observed site of {model.label}, and latents that rows share; got none; put "
            "the observations in one plate")
    shared, local = model.runner.over_draws(
        lambda row: of_one_draw(model.runner.program, x, row, scheme, found.plate), z)
    return shared, local
