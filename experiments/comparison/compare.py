"""The comparison of guides on one model, with the same data, the same θ and the same seed: one row a guide."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from experiments.comparison.parameters import parameters
from experiments.comparison.plan import FittedComparison, alone, fit_comparison
from experiments.comparison.request import Guides, Request, split_guides
from experiments.comparison.table import Comparison, Cost, Row
from experiments.diagnostics.block_gap import block_gap
from experiments.diagnostics.evaluation import proposal, rough_gaps, summarise, summarise_draws
from experiments.fits.callbacks import Callback
from experiments.fits.journal import Journal
from experiments.fits.progress import Display, display
from experiments.inference.engine import held
from experiments.inference.fit import one_view
from experiments.inference.seeds import fit_seeds
from experiments.log_evidence.log_weights import LogWeights, log_weights
from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Budget
from experiments.runtime.seeds import Stream
from guides.drawn import Drawn
from guides.guide import AnyGuide
from zoo.bare import given
from zoo.data import Data
from zoo.model import Model
from zoo.program.run import Program

#: Quantities that are compared without being asked for, at most.
FEW = 2048


def compare(
    model: Model | Program, *x: Any, guides: Guides | None = None, args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None, seed: int = 0, method: str | None = None, train_with: str | None = None,
    train_model: bool = False, holdout: float | None = None,
    draws: int | None = None, view: Callable[[Tensor], Tensor] | None = None,
    simulate: bool = False, effort: str = "default", data: str = "data", progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
    journal: Journal | None = None, pure: bool | None = None, **options: Any,
) -> Comparison:
    """Fit θ once, fit every guide to that θ, and say how far each is from the posterior.

    θ is fitted by EM where the model knows its posterior; else jointly with a guide: the one that ``train_with`` names, or
    the model's own choice, or the first amortised one, or the first. A model without parameters is taken as it is.

    θ and the encoders see all units but the held-out ones; guides with parameters for each unit are fitted on the held-out
    ones; all are compared there. A free guide whose family has an encoder in the comparison starts at the encoder's answer.

    Args:
        model: a model or a bare Pyro program.
        x: the data: a tensor, an array, a frame, or a mapping of these; for a program of several arguments all of them, as it
            would be called. The guides may come last among them.
        guides: as written, built, or any Pyro guides; ``None``: exact, each free family and one encoder, as far as they fit.
            Or a mapping from the names of rows to guides, or to pairs of a guide and options of its own fit:
            ``{"enc": ("mean_field:encoder", {"objective": "iwae", "draws": 8})}``. A built guide is called so from then on.
        args, kwargs: the program's arguments, in another way; see :func:`zoo.arguments`.
        seed: of all that is drawn.
        method: of the guides' fits; ``None``: each family's own.
        train_with: the guide to fit θ with, as written, or the name of a row; ``exact`` for EM. Options of a row alone are of
            that row's fit, and of the fit of θ only where this names the row.
        train_model: let each guide train a θ of its own, together with itself. ELBOs then differ for both reasons.
        holdout: share of the units to hold out; ``None``: what the model says, 0 for most, 0.2 with a network for a decoder.
        draws: of the evaluation, per unit.
        view: draws a fresh view of the rows, e.g. their binarisation: for each minibatch; once, for the evaluation.
        simulate: compare on data drawn from the model at its fitted θ, shaped like the units it would be compared on. An exact
            draw of each unit's posterior is then known, and with it the evidence is bracketed.
        effort: ``none``, ``quick``, ``default`` or ``thorough``: how many densities the evaluation may take beside what the
            fits took, see :data:`experiments.runtime.effort.EFFORTS`.
        data: what to call the data in the table.
        progress: show bars on standard error; ``None``: on a terminal only.
        callbacks: told of every fit, by its name: ``theta``, or the guide's text.
        journal: where all fits keep checkpoints; those that it holds are not fitted again.
        pure: as of :func:`fit`.
        options: of the fits, such as steps; each goes to the fits by a method that has it, see :func:`fit`.

    Raises:
        ZooError: no guides, one twice, one that does not fit the model (all are checked before anything is fitted), or
            any error of :func:`fit` and :func:`evaluate`; of a row's own options, one that the method of its guide lacks.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> table = compare(zoo.build("gmm", x), x, ["exact", "categorical"])
    >>> table.evidence.kind, round(table.evidence.value, 2)
    ('exact', -1130.26)
    """
    shown, guides = split_guides((*x, *args), guides)
    request = Request(guides, seed, method, train_with, train_model, holdout, view, simulate)
    data_given = given(model, *shown, **(kwargs or {}))
    with display(progress) as live:
        done = fit_comparison(
            model, data_given, request, progress=live or False, callbacks=callbacks, journal=journal, pure=pure, **options)
        return settle(done, draws, data, effort, live)


def settle(
    done: FittedComparison, draws: int | None = None, data: str = "data", effort: str = "default",
    live: Display | None = None,
) -> Comparison:
    """Evaluate what was fitted: the rest of :func:`compare`. ``live``: the display of the fits."""
    begun = time.perf_counter()
    plan, fits, fitted = done.plan, done.fits, done.evaluations
    rated = [replace(f, guide=proposal(f.guide)) for f in fits]
    weights = [log_weights(f.model, f.guide, plan.x, draws, plan.seed + Stream.EVALUATION) for f in rated]
    budget = Budget.of(effort, fits[0].model, plan.x, fitted).aimed(rough_gaps(weights))
    with budget.counting(), nullcontext() if live is None else live.evaluating(budget):
        found = _judged(plan.evidence(rated, weights, done, budget), weights, done.own_theta)
        rows = [_row(done, i, known, weights, budget) for i, known in enumerate(found)]
        quantities = None
        latents = fits[0].model.latents(plan.x)
        fitted_rows = [row for row in rows if row.fit.guide.size]  # of a prior or a posterior, one knows
        if budget.limit and not done.own_theta and fitted_rows and latents.units * latents.size <= FEW:
            made = [row.evaluation for row in fitted_rows]
            quantities = parameters(fits[0].model, plan.x, [row.fit.guide for row in fitted_rows], made, plan.seed)
    cost = Cost(effort, done.seconds, time.perf_counter() - begun, fitted / budget.rows, budget.spent)
    return Comparison(
        fits[0].model, plan.x, data, len(plan.units.index), plan.seed, found[0], tuple(rows), done.theta, plan.units,
        done.own_theta, done.simulated, cost, quantities)


def _row(
    done: FittedComparison, index: int, known: Evidence, weights: list[LogWeights], budget: Budget,
) -> Row:
    """Return a guide's row, with what its gap is made of as far as there is budget left."""
    fitted, plan = done.fits[index], done.plan
    if isinstance(fitted.guide, Drawn):
        return Row(fitted, summarise_draws(fitted.model, fitted.guide, plan.x, known))
    made = summarise(weights[index], fitted.guide.text, known)
    if not budget.limit:
        return Row(fitted, made)
    with held(fitted.model):
        made = replace(made, blocks=block_gap(fitted.model, fitted.guide, plan.x, made.kl_gap, plan.seed))
    if not done.splits:
        return Row(fitted, made)
    return Row(fitted, made, plan.split(fitted, weights[index], made, done.fits, weights))


def _judged(found: list[Evidence], weights: list[LogWeights], own_theta: bool) -> list[Evidence]:
    """Return the evidence of each row, without a point where it is wide beside the smallest gap that rests on it."""
    gaps = [max(0.0, known.middle - weight.elbo().value) for known, weight in zip(found, weights, strict=True)]
    return [known.for_gaps([gap] if own_theta else gaps) for known, gap in zip(found, gaps, strict=True)]


def fit_one(
    model: Model | Program, x: Data, guide: AnyGuide, seeds: range, options: Mapping[str, Any], *, data: str = "data",
    draws: int | None = None, effort: str = "default", progress: bool | None = None,
) -> Comparison:
    """Fit θ and one guide together, from the best of ``seeds``, and return the pair's row as a :class:`Comparison`.

    ``draws`` and ``effort`` are those of the evaluation, ``options`` those of ``fit``.
    """
    with display(progress) as live:
        done = fit_seeds(model, guide, x, seeds=seeds, progress=live or False, **options)[0]
        return settle(alone(done, one_view(x, options.get("view"), seeds[0]), seeds[0]), draws, data, effort, live)
