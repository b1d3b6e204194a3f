"""Discrete latents that were summed out, given the continuous ones: their posterior probabilities, and draws of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro.ops.rings import LogRing
from torch import Tensor

from zoo.data import Data
from zoo.program.enumeration.contraction import Factors, SampledLogRing, StableLogRing
from zoo.program.runner import Runner
from zoo.program.sites.latents import Site
from zoo.program.sites.substitution import Substitute


def probabilities(runner: Runner, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return p(site = k | x, z, θ) of each discrete latent that is summed out, (draws, \\*batch, K), at z (draws, units, d).

    It is the derivative of the log-density, the sum over all values, by a number added to the log-probability of one value.
    Along a chain that derivative is the forward–backward algorithm.

    Source: Eisner (2016), Inside-outside and forward-backward algorithms are just backprop,
    https://aclanthology.org/W16-5901/
    """
    return _slopes(runner, x, z, StableLogRing)


def draws(runner: Runner, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Draw the discrete latents from their posterior at z (draws, units, d), together: {site: (draws, \\*shape)}.

    Uses torch's generator. See :mod:`zoo.program.enumeration.sampled_einsum`.
    """
    sites = {site.name: site for site in runner.latents(x).summed}
    return {name: _value(drawn, sites[name]) for name, drawn in _slopes(runner, x, z, SampledLogRing).items()}


def _slopes(runner: Runner, x: Data, z: Tensor, ring: type[LogRing]) -> dict[str, Tensor]:
    """Return the gradient of the sum over all values by what is added to each site's, values last: (draws, \\*batch, K)."""
    scheme, sites = runner.scheme(x), runner.latents(x).summed
    with runner.isolated():
        first = Factors.of(runner.program, x, Substitute(z[0], scheme))
    zeros = {site.name: _zeros(site, first.sites[site.name]["infer"]["_enumerate_dim"], z) for site in sites}

    def total(potentials: Mapping[str, Tensor], row: Tensor) -> Tensor:
        return Factors.of(runner.program, x, Substitute(row, scheme), potentials).total(ring).sum()

    def one(row: Tensor) -> dict[str, Tensor]:
        slopes = torch.func.grad(total)(zeros, row)
        return {site.name: _values_last(slopes[site.name], site) for site in sites}

    found: dict[str, Tensor] = runner.over_draws(one, z)
    return found


def _zeros(site: Site, place: int, like: Tensor) -> Tensor:
    """Return zeros in the shape of a site's enumerated log-probability: its values along ``place``, its plates as they are."""
    assert site.values is not None, "discrete sites have values"
    batch = site.shape[: len(site.shape) - site.event_dim]
    return like.new_zeros(len(site.values), *[1] * (-place - 1 - len(batch)), *batch)


def _values_last(slope: Tensor, site: Site) -> Tensor:
    batch = site.shape[: len(site.shape) - site.event_dim]
    return slope.reshape(len(slope), *batch).movedim(0, -1)


def _value(drawn: Tensor, site: Site) -> Tensor:
    """Return the values that vectors of zeros and a one stand for."""
    assert site.values is not None, "discrete sites have values"
    return site.values.to(drawn.device)[drawn.argmax(-1)]
