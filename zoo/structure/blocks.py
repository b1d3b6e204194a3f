"""The density of a program with shared and local latents, apart: see :mod:`zoo.program.sites.blocks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError
from zoo.program.density import log_block_terms as of_one_draw
from zoo.program.sites.blocks import Blocks
from zoo.program.tally import tally_draws

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
    tally_draws(x, z)
    shared, local = model.runner.over_draws(
        lambda row: of_one_draw(model.runner.program, x, row, scheme, found.plate), z)
    return shared, local


def independent_rows(model: Model, x: Data, z: Tensor) -> bool:
    """Return whether no row's density hangs on another row's local latents, at z (draws, units, d).

    The density of every second row is differentiated in the latents of the others, so a row that hangs on some other row is
    told by its gradient at z, but for one that is zero there by chance. Where no plate holds all rows there is nothing to tell.

    >>> import pyro, zoo, pyro.distributions as dist
    >>> def walk(x):
    ...     with pyro.plate("times", len(x)):
    ...         steps = pyro.sample("steps", dist.Normal(torch.zeros(()).to(x), 1.0))
    ...         pyro.sample("x", dist.Normal(steps.cumsum(0), 1.0), obs=x)
    >>> x = torch.zeros(4)
    >>> independent_rows(zoo.as_model(walk), x, torch.ones(1, 4, 1))
    False
    """
    found, latents = blocks(model, x), model.latents(x)
    if latents.discrete or (found is None and latents.unit is None):
        return True
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        terms = model.log_joint(x, z) if found is None else log_block_terms(model, x, z)[1]
        [slope] = torch.autograd.grad(terms[:, ::2].sum(), [z])
    others = slope[:, 1::2] if found is None else slope[:, 0, found.local[1::2]]
    return not bool(others.any())
