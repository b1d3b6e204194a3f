"""The fit of a guide, and of θ with it: one entry point for all methods of inference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.fits.callbacks import Callback, Moment, Watch
from experiments.fits.journal import Journal
from experiments.fits.progress import bars
from experiments.fits.result import Fit, Outcome
from experiments.inference.containment import CONTAINED, OWN, Floor, quick_family, sibling
from experiments.inference.engine import held, state_tensors
from experiments.inference.method import Method, Problem
from experiments.inference.options import Options
from experiments.inference.registry import METHODS, build_method, check_options, choose, default_method, misfit
from experiments.inference.saved import check_same, keep, restore
from experiments.runtime.processes import ALONE, Processes
from experiments.runtime.threads import keep_memory, threads_for
from guides.construct import build
from guides.drawn import Drawn
from guides.guide import AnyGuide, BaseGuide, Guide, paired
from guides.pyro_guide.guide import as_guide
from zoo.bare import given
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning, check_number
from zoo.model import Model
from zoo.program.run import Program, seeded
from zoo.program.tally import tallied


def fit(
    model: Model | Program, guide: AnyGuide, *x: Any, method: str | None = None, train_model: bool = True,
    shard: bool = False, seed: int = 0, progress: bool | Callback | None = None, callbacks: Sequence[Callback] = (),
    journal: Journal | str | Path | None = None, name: str = "", pure: bool | None = None,
    start: BaseGuide | str | None = None, **options: Any,
) -> Fit:
    """Maximise the ELBO over φ and (``train_model``) θ, in place.

    Args:
        model: a model or a bare Pyro program.
        guide: a guide, how one is written (it is then built on ``x``), or any Pyro guide.
        x: the data: a tensor, an array, a frame, or a mapping of these; for a program of several arguments all of them, as it
            would be called, see :func:`zoo.arguments`.
        method: a key of :data:`METHODS`; ``None``: the first of them that suits the guide.
        train_model: move θ too. A model without parameters has nothing to move.
        shard: share the units out over the processes of torch.distributed's group, each of which makes this same call: EM adds
            up what it needs of the rows, svi its gradients. All end with the same parameters, those of one process but for
            rounding.
        seed: of all that is drawn: same seed, same machine, same bits. Torch's own generator is left as it was.
        progress: show a bar on standard error; ``None``: on a terminal only. Or the display of several fits.
        callbacks: told of the start, of every step, of checkpoints and of the end.
        journal: a directory, or a :class:`Journal`, for checkpoints. Where it holds one of the same fit, the fit goes on from
            there, and ends with the bits that it would have ended with; one that is done is not fitted again.
        name: what to call the fit in callbacks, and in a journal of several.
        pure: whether runs of the program and the guide do the same operations each time, whatever else Python knows, so that
            svi may record and repeat them, see :mod:`zoo.program.recording`. ``None``: registered models and families are,
            others as they declare, and a bare function where its code proves it.
        start: where a guide with its own φ for each unit begins: ``contained``, at a quick fit of a family that its own
            contains (where θ moves, of one unit only); ``own``, as it is; or a fitted guide of such a family. ``None``:
            ``contained`` for a guide that is named, ``own`` for one that is built. It never ends below where it so began. Of
            draws it is the guide that they begin from: fitted first; as it is; or a fitted one.
        options: of the method, such as steps and draws: the attributes of :class:`EMOptions`, :class:`FixedDrawsOptions`
            and :class:`SVIOptions`; docs/methods.md lists them.

    Raises:
        ZooError: a guide that does not fit the model, an unknown method or one that can't fit this guide, an unknown or wrong
            option, negative steps, an ELBO that is not finite at the start (the first such site is named), a full disk, or a
            journal of another fit.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> round(fit(zoo.build("gmm", x), "exact", x).elbo, 2)
    -1130.26
    """
    check_number("seed", seed, whole=True, least=0, most=2**31 - 1, mend="choose another")
    check_options(options)
    data = given(model, *x)
    shown = one_view(data, options.get("view"), seed)
    start = _begins(start, guide)
    model, guide = pair(model, guide, shown, seed)
    theta = train_model and any(p.requires_grad for p in model.parameters())
    problem = Problem(model, guide, data, theta, seed, pure, Processes.joined() if shard else ALONE, shown)
    chosen, how = choose(method, problem, options)
    if method is None and not theta and not guide.size:
        return Fit(model, guide, "none", 0, 0.0, None, True, units=problem.latents.units)
    _check(problem, chosen, journal)
    kept = _journal(journal, name)
    done = None if kept is None else _saved(kept, problem, chosen, how, options)
    if done is not None:
        return done
    inner: dict[str, Any] = {"train_model": theta, "seed": seed, "progress": progress, "journal": kept, "pure": pure}
    problem, before = _after_source(problem, chosen, start, inner)
    floor, quick = _floor(problem, chosen, how, start, inner)
    first = Moment(
        model, guide, data, chosen.name, how.limit, problem.latents.units, name, objective=chosen.bound(problem, how))
    watch = Watch(first, [*bars(progress), *callbacks], kept)
    fitted = _never_below(floor, _run(chosen, problem, how, watch, before or quick), partial(
        fit, model, guide, data, method=chosen.name, name="from the contained", **inner, **options))
    watch.end(fitted)
    if kept is not None:
        keep(kept, fitted)  # last: a fit that is kept is not watched again, and what its callbacks know must be written
    return fitted


def _run(method: Method[Any], problem: Problem, options: Options, watch: Watch, quick: Fit | None) -> Fit:
    """Run a method; return its fit, whose cost includes that of a ``quick`` one before it."""
    model, guide = problem.model, problem.guide
    keep_memory()
    guide.fit_to(problem.shown)
    threads = threads_for(round(method.at_once(problem, options)))
    fixed = nullcontext() if problem.train_model else held(model)
    with watch, tallied(watch.cost), seeded(problem.seed), torch.enable_grad(), threads, fixed:
        problem.processes.agree([*model.state_dict().values(), *guide.state_dict().values()])
        outcome = method.run(problem, options, watch)
    problem.processes.agree(model.buffers())  # running statistics of a decoder are of a process's own units
    guide.eval()
    model.eval()
    seconds, evaluations = (0.0, 0.0) if quick is None else (quick.seconds, quick.evaluations)
    return Fit(
        model, guide, method.name, outcome.steps, seconds + watch.seconds, outcome.bound, outcome.converged, _why(outcome),
        tuple(watch.history), problem.latents.units, outcome.iterations, outcome.states, outcome.remarks,
        watch.start.objective, evaluations + watch.cost.rows)


def _after_source(
    problem: Problem, method: Method[Any], start: BaseGuide | str, how: Mapping[str, Any],
) -> tuple[Problem, Fit | None]:
    """Fit the guide that draws begin from, and θ with it; return what is left to be fitted, and that fit if there was one.

    Where ``start`` is that guide, fitted, its parameters are taken; a guide that is built begins from its source as it is, and
    so does one whose method fits the source, too.
    """
    guide = problem.guide
    if not isinstance(guide, Drawn) or method.fits_density:
        return problem, None
    left = replace(problem, train_model=False)
    if isinstance(start, BaseGuide):
        guide.source.load_state_dict(start.state_dict())
    if start != CONTAINED:
        return left, None
    return left, fit(problem.model, guide.source, problem.x, name=f"from {guide.source.text}", start=CONTAINED, **how)


def _floor(
    problem: Problem, method: Method[Any], options: Options, start: BaseGuide | str, how: Mapping[str, Any],
) -> tuple[Floor | None, Fit | None]:
    """Start the guide at a fitted one that it contains, as ``start`` says; return that, and its quick fit if it had one.

    The quick fit takes as many steps as are asked for where its method is the same. The journal keeps it under its own name.
    Where θ moves, it moves with the contained guide, too, if that is of one unit, and so quick. Several processes fit none.
    """
    if problem.processes.count > 1 or not method.climbs:
        return None, None
    model, guide = problem.model, problem.guide
    quick = _quick(problem, method, options, how) if start == CONTAINED else None
    inside = _given(guide, start) if isinstance(start, BaseGuide) else None if quick is None else quick.guide
    if not isinstance(guide, Guide) or not isinstance(inside, Guide):
        return None, None
    before = state_tensors(model, guide, problem.train_model)
    return Floor.under(model, guide, inside, problem.shown, before, problem.seed), quick


def _given(guide: BaseGuide, start: BaseGuide) -> BaseGuide:
    """Return ``start``, if the family of ``guide`` contains its family.

    Raises:
        ZooError: it does not.
    """
    inside = sibling(guide, [start])
    if inside is None:
        raise ZooError(f"expected start as a fitted guide that '{guide.text}' contains; got '{start.text}'; leave it out")
    return inside


def _quick(
    problem: Problem, method: Method[Any], options: Options, how: Mapping[str, Any],
) -> Fit | None:
    """Return a quick fit of a family that the guide's contains; ``None`` where none is quick."""
    model, latents = problem.model, problem.latents
    quick = quick_family(problem.guide, latents.size)
    if quick is None or (problem.train_model and latents.units > 1):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZooWarning)  # of a fit that is only where another one begins
        contained = build(quick, model, problem.shown, seed=problem.seed)
        steps = options.steps if default_method(contained, problem.shown) == method.name else None
        return fit(model, contained, problem.shown, name=f"contained {quick}", start=CONTAINED, steps=steps, **how)


def _never_below(floor: Floor | None, fitted: Fit, again: Callable[[], Fit]) -> Fit:
    """Return a fit that ends no lower than its floor: one that does is fitted ``again`` from there, and the better kept.

    States are compared by the ELBO: a fit of another bound is returned as it is.
    """
    if floor is None or fitted.objective != "ELBO":
        return fitted
    if floor.guide.family.spreads and floor.below()[0] > 0:
        floor.begin()
        fitted = _joined(fitted, again())
    return floor.keep_better(fitted)


def _begins(start: BaseGuide | str | None, guide: AnyGuide) -> BaseGuide | str:
    """Return where a fit begins: a guide that is named, not built, may be moved to a contained one.

    Raises:
        ZooError: ``start`` is none of what there is.
    """
    if start not in (None, CONTAINED, OWN) and not isinstance(start, BaseGuide):
        raise ZooError(f"expected start contained or own, or a fitted guide; got {start!r}; choose one")
    return start or (CONTAINED if isinstance(guide, str) else OWN)


def _journal(journal: Journal | str | Path | None, name: str) -> Journal | None:
    """Return the journal of the fit of this ``name``."""
    kept = Journal(Path(journal)) if isinstance(journal, str | Path) else journal
    return kept.of(name) if kept is not None and name else kept


def _saved(
    kept: Journal, problem: Problem, method: Method[Any], options: Options, given: Mapping[str, Any],
) -> Fit | None:
    """Return the fit that a journal holds, if it is done there; raise a :class:`ZooError` if the journal is of another fit."""
    if not kept.sealed:
        kept.tidy()
    check_same(kept, problem, method.name, options, given)
    return restore(kept, problem.model, problem.guide, problem.train_model)


def _joined(first: Fit, second: Fit) -> Fit:
    """Return the second of two fits of one guide, with the steps, the seconds and the history of both."""
    later = [(first.steps + step, elbo, first.seconds + seconds) for step, elbo, seconds in second.history]
    return replace(
        second, steps=first.steps + second.steps, seconds=first.seconds + second.seconds,
        evaluations=first.evaluations + second.evaluations, history=(*first.history, *later))


def _why(outcome: Outcome) -> str:
    """Return why a fit stopped early or has not converged, and in the latter case what to do."""
    if outcome.converged or outcome.stopped:
        return outcome.stopped
    return f"not converged: {outcome.steps:,} step{'s' if outcome.steps != 1 else ''}; raise --steps"


def pair(model: Model | Program, guide: AnyGuide, x: Data, seed: int = 0) -> tuple[Model, BaseGuide]:
    """Return the model and the guide that any of their accepted forms stand for.

    Raises:
        ZooError: if the guide does not fit the model, or was built for another.
    """
    known = paired(model, guide if isinstance(guide, BaseGuide) else None)
    whole = as_guide(known, guide, x)
    return known, build(whole, known, x, seed=seed) if isinstance(whole, str) else whole


def _check(problem: Problem, method: Method[Any], journal: object) -> None:
    """Raise a :class:`ZooError` for a problem that the method can't fit, or that several processes can't share."""
    if found := misfit(method.name, problem):
        raise ZooError(found)
    if problem.processes.count == 1:
        return
    latents = problem.latents
    if not method.shares_units or latents.unit is None or not latents.rows_first:
        what = f"{problem.model.label}, whose rows are not its units" if method.shares_units else f"method {method.name}"
        able = " or ".join(name for name in METHODS if build_method(name).shares_units)
        raise ZooError(f"expected method {able} and rows that are units with shard=True; got {what}; leave shard out")
    if journal is not None:
        raise ZooError("expected no journal with shard=True, whose checkpoints are of one process; got one; leave one out")


def one_view(x: Data, view: Callable[[Tensor], Tensor] | None, seed: int) -> Data:
    """Return one view of ``x``, the same for the same seed; ``x`` itself where there is no ``view``."""
    if view is None or not isinstance(x, Tensor):
        return x
    with seeded(seed):
        return view(x)
