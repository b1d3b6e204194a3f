"""What a program's latents are and which plate owns them, found by running it once; and what it may not be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Container
from contextlib import suppress
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from zoo.data import Data, place
from zoo.errors import ZooError, ZooWarning
from zoo.program.density import log_terms
from zoo.program.enumeration.messenger import check_enumerable
from zoo.program.failures.faults import explained
from zoo.program.run import Program, run
from zoo.program.sites.latents import (
    MAX_VALUES,
    Latents,
    Packing,
    Scheme,
    Site,
    is_deterministic,
    is_discrete,
    is_observation,
    support_values,
    unit_frame,
)
from zoo.program.sites.masks import counting, filled
from zoo.program.sites.spheres import is_sphere
from zoo.program.sites.stand_ins import Improper, is_improper
from zoo.program.sites.substitution import Pack
from zoo.program.vectorise import LinAlgError

#: Letters of a support that an error shows.
SHOWN = 80
#: Nats by which rounding may move a site's log-likelihood before a warning says so, and before it is refused.
ROUGH, LOST = 0.05, 1.0


def layout(program: Program, x: Data, label: str, observed: frozenset[str] = frozenset()) -> Latents:
    """Run ``program`` once from its prior and return what its latents are and which plate owns them.

    Sites that are ``observed`` in other data count as such here, too: rows to predict have no observations.

    Raises:
        ZooError: no latent or no observed site, discrete latents of infinite support or in
            no plate, latents that can't be drawn or mapped, an entry of x that is missing, an observation
            outside its distribution's support, or a program that fails on x. ``label`` is how it calls the program.
    """
    with explained(x, label):
        return _layout(program, x, observed)


def _layout(program: Program, x: Data, known: frozenset[str]) -> Latents:
    traced = first_run(program, x).values()
    sites = [site for site in traced if not is_deterministic(site)]
    latent, observed = latent_and_observed(sites, known)
    check_structure(latent, observed, len(sites) < len(traced))
    for site in sites:
        check_shape(site)
    check_supports(program, x, observed)
    for site in observed:
        check_rounding(site)
    found = described(latent, observed, unit_plate(sites))
    if found.summed:
        check_enumerated_run(program, x, found, known)
    return found


def described(latent: list[Any], observed: list[Any], unit: str | None) -> Latents:
    """Return what is kept of the traced sites of a run."""
    frame = unit_frame((latent or observed)[0], unit)
    summed = summed_out(latent, unit)
    for site in summed:
        check_enumerable(site)
    names = [site["name"] for site in summed]
    return Latents(
        sites=tuple(describe(site, unit, "sites") for site in latent if site["name"] not in names),
        observed=tuple(describe(site, unit, "observed") for site in observed), unit=unit,
        units=int(frame.size) if frame else 1, awaited=any(not site["is_observed"] for site in observed),
        summed=tuple(describe(site, unit, "summed") for site in summed),
        improper=tuple(site["name"] for site in latent if is_improper(site)))


def summed_out(latent: list[Any], unit: str | None) -> list[Any]:
    """Return the discrete latents, if they are summed out: beside continuous ones, or of too many joint values."""
    discrete = [site for site in latent if is_discrete(site)]
    if len(discrete) == len(latent) and log_joint_values(discrete, unit) <= math.log(MAX_VALUES):
        return []
    return discrete


def log_joint_values(discrete: list[Any], unit: str | None) -> float:
    """Return the logarithm of how many joint values a unit's discrete latents have."""
    total = 0.0
    for site in discrete:
        values = support_values(site)
        total += Packing.of(site, Scheme(unit)).size // values[0].numel() * math.log(len(values))
    return total


def check_enumerated_run(program: Program, x: Data, found: Latents, known: frozenset[str]) -> None:
    """Raise a :class:`ZooError` unless the program runs at all values of its discrete latents at once."""
    scheme, names = Scheme(found.unit, known, True, found.depth), ", ".join(site.name for site in found.summed)
    pack = Pack(None, scheme)
    run(program, x, Improper(x), pack, density=False)
    z = torch.cat(pack.parts, 1) if pack.parts else torch.empty(found.units, 0)
    try:
        log_terms(program, x, z, scheme)
    except ZooError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise ZooError(
            f"expected a program that runs at all values of its discrete latents ({names}) at once; got "
            f"{(str(error).splitlines() or [type(error).__name__])[0][:160]}; index tensors by them and keep them in plates, "
            "as in Pyro's enumeration tutorial") from error


def latent_and_observed(sites: list[Any], known: Container[str]) -> tuple[list[Any], list[Any]]:
    """Split traced sites into latent and observed ones; those ``known`` to be observed in other data count as such."""
    latent = [site for site in sites if not site["is_observed"] and site["name"] not in known]
    observed = [site for site in sites if site["is_observed"] or site["name"] in known]
    return latent, observed


def first_run(program: Program, x: Data, attempts: int = 8) -> dict[str, Any]:
    """Run ``program`` from its prior, again where its arithmetic fails at a draw: another one may do."""
    for _ in range(attempts - 1):
        with suppress(LinAlgError, ArithmeticError, ValueError):
            return run(program, x, Improper(x))
    return run(program, x, Improper(x))


def describe(site: Any, unit: str | None, kind: str) -> Site:
    """Return what is kept of a traced site: of ``sites``, which have coordinates, of ``summed`` or of ``observed`` ones."""
    plates: list[str | None] = [None] * len(site["fn"].batch_shape)
    for frame in site["cond_indep_stack"]:
        if frame.vectorized:
            plates[frame.dim] = frame.name
    size = Packing.of(site, Scheme(unit)).size if kind == "sites" else 0
    values = support_values(site) if kind != "observed" and is_discrete(site) else None
    loose = kind == "sites" and is_sphere(site["fn"].support)
    nested = tuple(str(frame.name) for frame in site["cond_indep_stack"] if frame.vectorized)
    whole = kind == "observed" and not site["value"].is_floating_point() and not is_discrete(site)
    return Site(site["name"], site["value"].shape, site["fn"].event_dim, tuple(plates), size, values, loose, nested, whole)


def unit_plate(sites: list[Any]) -> str | None:
    """Return the outermost vectorised plate that holds every one of ``sites``."""
    for frame in sites[0]["cond_indep_stack"]:
        if frame.vectorized and all(frame in site["cond_indep_stack"] for site in sites):
            return str(frame.name)
    return None


def check_structure(latent: list[Any], observed: list[Any], deterministic: bool) -> None:
    """Raise unless there are latent and observed sites.

    Latents may all be functions of x, ``deterministic`` sites: then a unit's vector is empty and its posterior a point.
    """
    if not latent and not deterministic:
        raise ZooError("expected a program with latent sites; got none; give one pyro.sample no obs=")
    if not observed:
        raise ZooError("expected a program with observed sites; got none; pass the data as obs=")


def check_shape(site: Any) -> None:
    """Raise where a site in plates has log-probabilities along a dimension that no plate declares.

    It nearly always comes from broadcasting (rows,) against (rows, 1), and would be summed into a wrong number.
    """
    frames = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    shape = tuple(site["log_prob"].shape)
    extra = [dim for dim in range(-len(shape), 0) if shape[dim] != frames.get(dim, 1)]
    if frames and extra:
        raise ZooError(
            f"expected log-probabilities of site '{site['name']}' along its plates alone; got shape {shape} with plates "
            f"{', '.join(f.name for f in site['cond_indep_stack'])} of {list(frames.values())}; reshape x, or use .to_event")


def check_supports(program: Program, x: Data, observed: list[Any], attempts: int = 8) -> None:
    """Raise unless no observation is NaN and, at some draw of the prior, all lie in their distributions' supports.

    A support may depend on the latents, so one draw that excludes the data proves nothing. ``observed`` are the sites of one.
    Values that a mask leaves out are not looked at.
    """
    for site in observed:
        refuse_nan(site)
    for attempt in range(attempts):
        outside = [site for site in observed if not bool(inside_support(site).all())]
        if not outside:
            return
        if attempt == attempts - 1:
            refuse_outside(outside[0])
        sites = run(program, x, Improper(x), density=False).values()
        observed = [site for site in sites if is_observation(site)]


def refuse_nan(site: Any) -> None:
    """Raise where an observation that no mask leaves out is NaN, with how many there are and the first one's row."""
    value = site["value"]
    nan = value.isnan()
    counts = counting(site) if bool(nan.any()) else None
    nan = nan if counts is None else nan & counts
    if bool(nan.any()):
        raise ZooError(
            f"expected observations that are numbers at site '{site['name']}'; got {int(nan.sum())} NaN"
            f"{place(nan, ', the first at ')}; drop or fill them, or mask them with obs_mask= or poutine.mask")


def inside_support(site: Any) -> Tensor:
    """Return which events of an observed site lie in its support; masked ones count as inside."""
    try:
        return torch.as_tensor(site["fn"].support.check(filled(site)))
    except NotImplementedError:
        return torch.ones((), dtype=torch.bool)


def check_rounding(site: Any) -> None:
    """Warn, or raise, where the log-factorials of large counts round a site's log-likelihood by many nats.

    log n! of n = 20 million is 3 · 10⁸, which float32 knows to 16 nats; what is left once such terms have cancelled may be 10.
    """
    value, fn = site["value"], site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if not counts(fn):
        return
    total = torch.as_tensor(getattr(fn, "total_count", 0), device=value.device)
    largest = torch.maximum(value.detach().double().abs(), total.detach().double())
    each = torch.lgamma(1 + (largest.flatten(-fn.event_dim).amax(-1) if fn.event_dim else largest))
    if isinstance(site["mask"], Tensor):
        each = each * site["mask"]
    kinds = [part.dtype for part in (site["log_prob"], total) if part.is_floating_point()]
    error = 0.5 * max(torch.finfo(kind).eps for kind in kinds) * float(each.norm())
    if error > ROUGH:
        text = (
            f"counts up to {float(largest.max()):.3g} at site '{site['name']}' ({type(fn).__name__}) in "
            f"{kinds[0]}, which rounds their log-likelihood by about {error:.2g} nats; pass the data in float64, and make the "
            "program's tensors so")
        if error > LOST:
            raise ZooError(f"expected a log-likelihood known to {LOST:g} nat; got {text}")
        warnings.warn(ZooWarning(text), stacklevel=2)


def counts(fn: Any) -> bool:
    """Return whether a distribution is one of counts."""
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


def refuse_outside(site: Any) -> None:
    """Raise for the first observation outside its site's support."""
    valid = inside_support(site)
    first = (~valid).nonzero()[0].tolist()
    support = shorten(str(site["fn"].support), SHOWN, placeholder=" …")  # bounds of each row would fill the screen
    raise ZooError(
        f"expected observations at site '{site['name']}' in the support {support} of "
        f"{type(site['fn']).__name__}; got {int((~valid).sum())} outside it, the first at {first}; check the data")
