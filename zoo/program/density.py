"""The log-density of a program at a point: that of its latents and that of its observations, by unit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError
from zoo.program.enumeration.contraction import Factors
from zoo.program.run import Program, run
from zoo.program.sites.latents import Scheme, by_unit, is_deterministic, unit_frame
from zoo.program.sites.substitution import Collected, Substitute, latent_log_prob


def log_terms(program: Program, x: Data, z: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Return log p(z) with its Jacobian, and log p(x | z), for one draw z (units, d): each (units,).

    Discrete latents that the scheme sums out are summed in both.
    """
    substitute = Substitute(z, scheme)
    if scheme.summed:
        factors = Factors.of(program, x, substitute)
        _check_taken(substitute)
        total, prior = factors.total(), factors.prior()
        return prior, total - prior
    sites = run(program, x, substitute)
    _check_taken(substitute)
    likelihood = z.new_zeros(z.shape[0])
    for site in sites.values():
        if site["is_observed"] and not is_deterministic(site):
            likelihood = likelihood + by_unit(site["log_prob"], site, scheme.unit)
    return prior_of(sites, substitute), likelihood


def log_block_terms(program: Program, x: Data, z: Tensor, scheme: Scheme, plate: str) -> tuple[Tensor, Tensor]:
    """Return log p(u) with its Jacobian, (), and log p(x_i, z_i | u) of each row of ``plate``, (rows,), for one draw (1, d)."""
    substitute = Substitute(z, scheme)
    if scheme.summed:
        factors = Factors.of(program, x, substitute)
        _check_taken(substitute)
        return factors.outside(plate), factors.inside(plate)
    sites = run(program, x, substitute)
    _check_taken(substitute)
    shared, local = z.new_zeros(()), z.new_zeros(1)
    for name, site in sites.items():
        if is_deterministic(site):
            continue
        log_prob = latent_log_prob(name, site, substitute)
        if unit_frame(site, plate) is None:
            shared = shared + log_prob.sum()
        else:
            local = local + by_unit(log_prob, site, plate)
    return shared, local


def _check_taken(substitute: Substitute) -> None:
    if substitute.taken != substitute.z.shape[1]:
        raise ZooError(
            f"expected {substitute.taken} coordinates per unit; got {substitute.z.shape[1]}; rebuild the guide for this x")


def log_prior(program: Program, x: Data, z: Tensor, scheme: Scheme, last: str) -> Tensor:
    """Return log p(z) with its Jacobian, (units,), for one draw z (units, d). The program is left after its ``last`` latent."""
    if scheme.summed:
        return log_terms(program, x, z, scheme)[0]
    substitute = Substitute(z, scheme, last)

    def begin(x: Data) -> None:
        with suppress(Collected):
            program(x)

    return prior_of(run(begin, x, substitute), substitute)


def prior_of(sites: Mapping[str, Any], substitute: Substitute) -> Tensor:
    """Return the sum of a run's latent log-probabilities by unit, (units,): log p(z) with its Jacobian."""
    prior = substitute.z.new_zeros(len(substitute.z))
    for name, site in sites.items():
        if not site["is_observed"] and not is_deterministic(site):
            prior = prior + by_unit(latent_log_prob(name, site, substitute), site, substitute.scheme.unit)
    return prior
