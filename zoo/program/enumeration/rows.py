"""What a program with discrete latents that are summed out has of each row of its data: likelihoods, and values that exist."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from zoo.data import Data
from zoo.program.enumeration.contraction import Factors
from zoo.program.enumeration.messenger import Enumerate
from zoo.program.run import random_sites, run, traced
from zoo.program.runner import Runner
from zoo.program.sites.latents import is_deterministic
from zoo.program.sites.substitution import Substitute


def likelihoods(runner: Runner, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return log p(x_i | z) with discrete latents summed out, (draws, rows) or (draws,): :meth:`zoo.Model.log_likelihood`."""
    found, scheme = runner.latents(x), runner.scheme(x)
    sites = [*found.summed, *found.observed]
    plate = next((name for name in sites[0].plates if name and all(name in site.plates for site in sites)), None)

    def one(row: Tensor) -> Tensor:
        factors = Factors.of(runner.program, x, Substitute(row, scheme))
        # Less the latents' own: where a continuous one depends on a discrete one, it tells of that.
        part = replace(factors, scheme=replace(scheme, unit=None), units=1) if plate is None else factors.rows(plate)
        each = part.total() - part.prior()
        return each[0] if plate is None else each

    result: Tensor = runner.over_draws(one, z)
    return {", ".join(site.name for site in found.observed): result}


def without_values(runner: Runner, x: Data, z: Tensor) -> set[str]:
    """Return the sites that have no value at z (draws, units, d): discrete latents summed out, and what depends on them.

    A deterministic site depends on them where its value has more dimensions once they are enumerated.
    """
    summed = {site.name for site in runner.latents(x).summed}
    if not summed or not len(z):
        return summed
    scheme = runner.scheme(x, drawing=True)
    with runner.isolated():
        plain = run(runner.program, x, Substitute(z[0], scheme), density=False)
        wide = random_sites(traced(runner.program, x, Enumerate(scheme), Substitute(z[0], scheme), density=False))
    return summed | {
        name for name, site in plain.items() if is_deterministic(site) and wide[name]["value"].shape != site["value"].shape}
