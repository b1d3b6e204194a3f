"""Coordinates of latents: from values to a unit's vector, the volume between them, and slopes of densities along them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data import Data, reference
from zoo.program.density import log_prior
from zoo.program.enumeration.rows import without_values
from zoo.program.run import run
from zoo.program.runner import Runner
from zoo.program.sites.latents import is_deterministic
from zoo.program.sites.substitution import Collected, Pack, Substitute

if TYPE_CHECKING:
    from zoo.model import Model


def coordinates(runner: Runner, x: Data, values: Mapping[str, Tensor]) -> Tensor:
    """Return the coordinates of latent ``values``, (draws, units, d); see :meth:`zoo.Model.unconstrain`."""
    scheme, latents = runner.scheme(x, drawing=True), runner.latents(x)
    if not latents.size:
        draws = len(next(iter(values.values()))) if values else 1
        return runner.empty(x).expand(draws, -1, -1)

    def one(row: Mapping[str, Tensor]) -> Tensor:
        pack = Pack(row, scheme, latents.sites[-1].name)
        with suppress(Collected):
            run(runner.program, x, pack, density=False)
        return torch.cat(pack.parts, 1)

    result: Tensor = runner.over_draws(one, dict(values))
    return result.to(reference(x).dtype)


def constrained(runner: Runner, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return the values of latent and deterministic sites at z, each (draws, *shape); see :meth:`zoo.Model.constrain`."""
    out, scheme = without_values(runner, x, z), runner.scheme(x, drawing=True)

    def one(row: Tensor) -> dict[str, Tensor]:
        sites = run(runner.program, x, Substitute(row, scheme), density=False).items()
        return {k: s["value"] for k, s in sites if k not in out and (k not in runner.observed or is_deterministic(s))}

    result: dict[str, Tensor] = runner.over_draws(one, z, runner.latents(x).awaited)
    return result


def volumes(runner: Runner, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return what each continuous latent site gains from its coordinates at one draw z (units, d), over its batch shape.

    log|det ∂value/∂z|, and where a mask leaves a latent without a density a standard normal; see
    :class:`zoo.program.sites.latents.Substitute`.
    """
    substitute = Substitute(z, runner.scheme(x, drawing=True))
    with runner.isolated():
        run(runner.model, x, substitute, density=False)
    return substitute.volume


def log_terms_and_slope(model: Model, x: Data, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(z) and log p(x | z), (draws, units), and the gradient of their sum in z, all without a graph."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        prior, likelihood = model.log_terms(x, z)
        [slope] = torch.autograd.grad((prior + likelihood).sum(), [z])
    return prior.detach(), likelihood.detach(), slope


def log_prior_and_slope(runner: Runner, x: Data, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(z) alone, (draws, units), and its gradient in z (draws, units, d), both without a graph."""
    scheme, last = runner.scheme(x), runner.latents(x).sites[-1].name
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        prior: Tensor = runner.over_draws(lambda row: log_prior(runner.program, x, row, scheme, last), z)
        [slope] = torch.autograd.grad(prior.sum(), [z])
    return prior.detach(), slope
