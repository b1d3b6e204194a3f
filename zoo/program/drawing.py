"""Draws from a program: of its prior, of observations given latents, and of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from zoo.data import Data, put_back, reference
from zoo.errors import ZooError
from zoo.program.failures.tolerance import drawn
from zoo.program.run import Unobserve, draw_afresh, precision, run, seeded
from zoo.program.runner import Runner
from zoo.program.sites.carry import Carry
from zoo.program.sites.latents import is_observation
from zoo.program.sites.masks import with_masked
from zoo.program.sites.parts import Parts, check_independent
from zoo.program.sites.stand_ins import Improper
from zoo.program.sites.substitution import Collected, Pack, Substitute


def prior_draws(runner: Runner, x: Data, draws: int) -> tuple[Tensor, int]:
    """Return ``draws`` of z from the prior, (draws, units, d), unconstrained, and how many runs of the program they took.

    Where the program fails at what it drew it is run again.

    Raises:
        ZooError: other latent sites from draw to draw, or a program that fails at nearly every draw.
    """
    scheme, sites, nothing = runner.scheme(x, drawing=True), runner.latents(x).sites, runner.empty(x)

    def draw() -> Tensor:
        # What follows the last latent site, often a network and draws of the size of the data, is not wanted.
        pack = Pack(None, scheme, sites[-1].name if sites else "")
        with suppress(Collected):
            run(runner.model, x, Unobserve(), Improper(x), pack, density=False)
        return torch.cat(pack.parts, 1) if pack.parts else nothing

    with torch.no_grad(), runner.isolated():
        rows, runs = drawn(draw, draws, f"a prior of {runner.model.label}")
    if len({row.shape for row in rows}) > 1:
        raise ZooError(
            f"expected the same latent sites in every run of {runner.model.label}; got other ones from draw to draw; "
            "sample all of them in every run and use what is needed")
    return torch.stack(rows).to(reference(x).dtype), runs


def predictions(runner: Runner, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return observations drawn at each of z (draws, units, d): {site: (draws, *shape)}; see :meth:`zoo.Model.predict`."""
    scheme = runner.scheme(x, drawing=True)
    with torch.no_grad(), runner.isolated():
        rows = [draw_afresh(runner.model, x, Substitute(row, scheme))[1] for row in z]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def simulation(runner: Runner, x: Data, seed: int | None) -> tuple[dict[str, Tensor], Data]:
    """Return latents and observations drawn from the program, shaped like ``x``; see :meth:`zoo.Model.simulate`."""
    model, found = runner.model, runner.latents(x)
    if found.improper:
        raise ZooError(
            f"expected priors to draw from in {model.label}; got '{found.improper[0]}', whose prior is improper; give it a "
            "proper one")
    observed = {site.name for site in found.observed}
    with seeded(seed), torch.no_grad(), runner.isolated():
        [run_once], _ = drawn(lambda: run(model, x, density=False), 1, f"a prior of {model.label}")
        sites = {k: s for k, s in run_once.items() if k in observed}
        [(latent, fresh)], _ = drawn(lambda: draw_afresh(model, x, Unobserve(runner.observed)), 1, f"data of {model.label}")
    kept = {k: with_masked(site, fresh[k]) for k, site in sites.items()}
    before = {k: site["value"] for k, site in sites.items()}
    parts = Parts.of(x, before)
    if parts is None:
        return latent, put_back(x, before, kept)
    filled = parts.put(x, kept)
    _check_drawn_at_once(runner, (x, filled), latent, fresh)
    return latent, filled


def carried_draws(runner: Runner, x: Data, carries: Iterable[Carry]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the program on ``x`` with nothing observed, once for each draw of carried-over latents.

    Returns:
        the values of all latent, observed and deterministic sites, (draws, *shape) each, and the first run's sites.

    Raises:
        ZooError: other sites from draw to draw.
    """
    rows: list[dict[str, Tensor]] = []
    first: dict[str, Any] = {}
    with torch.no_grad(), runner.isolated(), precision(reference(x).dtype):
        for carry in carries:
            sites = run(runner.model, x, carry, Unobserve(runner.observed), density=False)
            sites = {name: site for name, site in sites.items() if not is_observation(site)}  # what is left are factors
            first = first or sites
            rows.append({name: site["value"] for name, site in sites.items()})
    if len({tuple((name, value.shape) for name, value in row.items()) for row in rows}) > 1:
        raise ZooError(
            f"expected the same sites in every run of {runner.model.label}; got other ones from draw to draw; sample all of "
            "them in every run and use what is needed")
    return {name: torch.stack([row[name] for row in rows]) for name in first}, first


def _check_drawn_at_once(
    runner: Runner, data: tuple[Data, Data], latent: Mapping[str, Tensor], fresh: Mapping[str, Tensor],
) -> None:
    """Raise unless ``fresh`` observations have the distribution, in the data that hold them, from which they were drawn."""
    x, filled = data
    with seeded(0), torch.no_grad(), runner.isolated():
        drawn_from = run(runner.model, x, ConditionMessenger({**latent, **fresh}), density=False)
        has = run(runner.model, filled, ConditionMessenger(dict(latent)), density=False)
    check_independent(drawn_from, has, fresh, runner.model.label)
