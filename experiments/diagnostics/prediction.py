"""Predictions of new rows, of new groups, and without observations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints

from experiments.diagnostics.known import Known
from experiments.diagnostics.new_data import NewData
from experiments.diagnostics.tree import tree_of
from experiments.inference.fit import pair
from guides.guide import AnyGuide, BaseGuide, paired
from zoo.bare import given
from zoo.data import Data, place
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.drawing import carried_draws
from zoo.program.failures.faults import explained
from zoo.program.run import Program, seeded
from zoo.program.sites.angles import unwrapped
from zoo.program.sites.latents import Latents, is_deterministic
from zoo.program.sites.layout import describe

if TYPE_CHECKING:
    from xarray import DataTree


def predict(
    model: Model | Program, guide: AnyGuide, *x: Any, draws: int = 1000, seed: int = 0, fitted: Any = None,
    same: Sequence[str] = (), coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """Return draws of what a fitted pair predicts at new rows ``x``, as an ArviZ ``DataTree``.

    Observations in ``x`` may be left out, ``None`` or NaN: observed sites are drawn, not scored, whatever ``x`` holds there.
    Where the latents come from:

    ====================================  ===============================================================================
    latents outside of plates             the guide: q(u | x_fitted)
    of groups, in a plate of their own    the guide, for groups that were fitted: by place, or in a frame by their words;
                                          the prior given u, for new groups (a larger plate, new words)
    of rows, in the observations' plate   the prior given u: the rows of ``x`` are new, unless ``same`` names their plate (the
                                          outermost one), or a frame's column of that name has a word for each row
    of rows that own all their latents    an amortised guide, or ``exact``, and complete rows: q(z | x); else as above
    ====================================  ===============================================================================

    The group ``predictions`` has the observed and deterministic sites, and every latent of which a part was drawn from its
    prior; its attribute ``from_prior`` names these. ``predictions_constant_data`` has the other entries of ``x``.

    Args:
        model: a model or a bare Pyro program.
        guide: a fitted guide; or ``prior``, for prior predictions.
        x: new data, or all arguments of the program, as of :func:`experiments.fit`; without its observations, if you like.
            Numbers take the precision of the fitted data; a frame's words are coded as they were.
        draws: how many; the program is run once for each.
        seed: of the draws.
        fitted: the data that the guide was fitted to (several arguments as a tuple); ``None``: those that it remembers.
        same: plates whose rows are the fitted ones, by their place, as far as there were as many.
        coords, dims: labels of dimensions, and names of event dimensions, as of :func:`experiments.posterior`.

    Raises:
        ZooError: fewer than 1 draw; a guide that remembers no data; a program that reads what is missing beyond ``obs=``; a
            latent of another shape than it had; a new row's latent whose prior is improper; rows that depend on each other's
            latents, as in a Gaussian process; an unknown plate.

    >>> import zoo, experiments
    >>> x = {"X": torch.randn(20, 2), "y": torch.randn(20)}
    >>> fit = experiments.fit(zoo.build("linear_regression", x), "full_rank", x)
    >>> tree = predict(fit.model, fit.guide, {"X": torch.randn(5, 2)}, draws=10)
    >>> dict(tree["predictions"]["y"].sizes)
    {'chain': 1, 'draw': 10, 'rows': 5}
    """
    if draws < 1:
        raise ZooError(f"expected 1 or more draws; got {draws}; ask for more")
    shown, before = given(model, *x), remembered(model, guide, fitted)
    model = paired(model, guide if isinstance(guide, BaseGuide) else None)
    new = NewData.of(model, shown, before)
    model, guide = pair(model, guide, new.x if before is None else before, seed)
    with seeded(seed), torch.no_grad():
        known = Known.of(model, guide, new, before, same, draws)
        new, left_out, sites = settled(model, new, known, seed)
        warn_of_events(sites)
        carries = [known.carry(i) for i in range(draws)]
        with explained(new.x, model.label):
            values, _ = carried_draws(model.runner, new.x, carries)
    fresh = carries[0].fresh
    shown_sites = {
        name: value for name, value in values.items()
        if name not in left_out and (name in fresh or is_deterministic(sites[name]) or was_observed(sites[name]))}
    latents = layout_of(sites)
    check_numbers(latents, values)
    tree = tree_of(
        {"predictions": shown_sites, **constants(new, latents)}, latents, new.x, {**model.dims, **(dims or {})}, coords)
    tree["predictions"].attrs["from_prior"] = "; ".join(map(told, fresh, fresh.values()))
    return tree


def remembered(model: Model | Program, guide: AnyGuide, fitted: Any) -> Data | None:
    """Return the data that a guide was fitted to: those given, or those that it remembers."""
    if fitted is not None:
        return given(model, *(fitted if isinstance(fitted, tuple) else (fitted,)))
    if isinstance(guide, BaseGuide):
        return guide.fitted
    if not isinstance(guide, str):
        raise ZooError(
            "expected a guide that was fitted here, such as fit.guide; got another; pass fitted=, the data it was fitted to")
    return None


def settled(model: Model, new: NewData, known: Known, seed: int) -> tuple[NewData, set[str], dict[str, Any]]:
    """Return data that the program runs on, deterministic sites that hang on what is missing, and the sites of a run.

    The program is run on two fitted rows in the place of what is missing, from the same seed: what differs hangs on them.

    Raises:
        ZooError: a program that does not run on the data; one whose draws hang on what is missing.
    """
    def run(x: Data) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with explained(x, model.label), seeded(seed):
            return carried_draws(model.runner, x, [known.carry(0)])

    try:
        values, sites = run(new.x)
    except ZooError:
        if known.x is None or not new.missing:
            raise
        new = new.fill(known.x)
        values, sites = run(new.x)
    if not any(map(was_observed, sites.values())):
        raise ZooError(
            f"expected to know the observed sites of {model.label}; got none; pass fitted=, data with observations")
    unknown: set[str] = set()
    for missing in new.missing if known.x is not None else ():
        assert known.x is not None, "what is missing is told by the fitted data"
        try:
            others = run(new.other(known.x, missing))[0]
        except ZooError:
            others = {}
        differ = {name for name, value in values.items() if name not in others or not alike(value, others[name])}
        if any(not is_deterministic(sites[name]) for name in differ):
            raise ZooError(
                f"expected '{missing}' in x, which {model.label} reads for more than its observations; got none; add it")
        unknown |= differ
    return new, unknown, sites


def warn_of_events(sites: Mapping[str, Any]) -> None:
    """Warn of observations that are one event of dependent numbers, as of a Gaussian process: fitted ones tell of new ones."""
    for name, site in sites.items():
        fn = unwrapped(site["fn"])
        if not was_observed(site) or site["cond_indep_stack"] or not fn.event_dim:
            continue
        support = fn.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if support in (constraints.real, constraints.real_vector):
            warnings.warn(ZooWarning(
                f"the observations at site '{name}' are one event ({type(fn).__name__}), drawn anew given the shared latents; "
                "the fitted ones don't enter: if new rows depend on them, put p(new | fitted) into the program"), stacklevel=3)


def alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same values, NaN in the same places included."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def was_observed(site: Any) -> bool:
    """Return whether a traced site holds drawn observations."""
    return bool(site["infer"].get("was_observed", False))


def layout_of(sites: Mapping[str, Any]) -> Latents:
    """Return the names and shapes of a run's random sites."""
    random = {name: site for name, site in sites.items() if not is_deterministic(site)}
    observed = tuple(describe(site, None, "observed") for site in random.values() if was_observed(site))
    latent = tuple(describe(site, None, "observed") for site in random.values() if not was_observed(site))
    return Latents(latent, observed, None, 1)


def constants(new: NewData, latents: Latents) -> dict[str, dict[str, Tensor]]:
    """Return the entries of the new data that are no observations."""
    entries = {} if isinstance(new.x, Tensor) else new.x
    names = {site.name for site in latents.observed} | set(new.missing)
    found = {name: value for name, value in entries.items() if isinstance(value, Tensor) and name not in names}
    return {"predictions_constant_data": found} if found else {}


def check_numbers(latents: Latents, values: Mapping[str, Tensor]) -> None:
    """Raise a :class:`ZooError` where a prediction is no number."""
    for site in latents.observed:
        bad = values[site.name].isnan().any(0)
        if bool(bad.any()):
            raise ZooError(
                f"expected predictions that are numbers; got NaN at site '{site.name}'{place(bad, ', first at ')}; check x")


def told(name: str, rows: Mapping[str, tuple[int, int]]) -> str:
    """Say of which latent how many rows were drawn from the prior.

    >>> told("theta", {"school": (2, 10)})
    'theta (2 of 10 along school)'
    """
    return name + "".join(f" ({new} of {size} along {plate})" for plate, (new, size) in rows.items())
