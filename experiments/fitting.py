"""Fitting: three optimisers of one ELBO."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.batches import BATCH, default_draws
from experiments.callbacks import Callback, Moment, Watch
from experiments.containment import Floor, quick_family, sibling
from experiments.em import Iteration, em
from experiments.engine import Outcome, States, held, keep_memory, moved, quick_products, threads_for
from experiments.finished import check_same, keep, restore
from experiments.fixed_draws import FEWEST, fixed_draws
from experiments.journal import Journal
from experiments.processes import ALONE, Processes
from experiments.progress import bars
from experiments.svi import svi
from experiments.training import Training
from experiments.weights import work
from guides.amortisation import Free
from guides.construct import build
from guides.guide import AnyGuide, BaseGuide, Guide, paired
from guides.program import as_guide
from guides.whole import Exact
from zoo.bare import as_model
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning, check_number, nearest
from zoo.latents import Latents
from zoo.model import Model
from zoo.program import Program, seeded

#: Steps that each method takes at most, where unsaid.
METHODS: Mapping[str, int] = {"em": 1000, "fixed_draws": 1000, "svi": 50_000}


@dataclass(frozen=True)
class Fit:
    """A finished fit. ``model`` and ``guide`` hold the parameters it found.

    Attributes:
        method: ``em``, ``fixed_draws`` or ``svi``; ``none`` where there was nothing to fit.
        steps: iterations or gradient steps taken, those of a quick fit of a contained guide left out, as in ``history``.
        seconds: of wall time, the quick fit's included.
        bound: what the optimiser last saw of the bound that it maximised, in nats, summed over units (``svi``: the mean of the
            last tenth of its steps; with ``validation`` the best held-out ELBO). Use ``evaluate`` for an ELBO with its error.
        converged: whether the method's own rule was met, never because its steps were over. em: an iteration gained under
            1e-9 nats per unit; fixed_draws: the slope promises under 0.01 nats, and fresh draws agree; svi: going on as it went
            would gain under 0.02 nats per unit, or the held-out ELBO rose no more.
        stopped: why it stopped early, or why it has not converged and what to do; empty where neither is so.
        history: (step, bound, seconds since the start).
        units: how many units the ELBOs are summed over.
        iterations: of EM: ELBO before and after the M-step, log p(x), gap.
        states: of svi: the best and the last state; ``states.use("last")`` puts one in place.
        remarks: what a reader of the fit should know, such as that recorded steps were found to differ from Python's.
        objective: what the bound is called: ``ELBO``, ``IWAE-8 bound``, ``Rényi(0.5) bound``.
    """

    model: Model
    guide: BaseGuide
    method: str
    steps: int
    seconds: float
    bound: float | None
    converged: bool
    stopped: str = ""
    history: tuple[tuple[int, float, float], ...] = field(default=(), repr=False)
    units: int = 1
    iterations: tuple[Iteration, ...] = field(default=(), repr=False)
    states: States | None = field(default=None, repr=False)
    remarks: tuple[str, ...] = ()
    objective: str = "ELBO"

    @property
    def elbo(self) -> float | None:
        """The bound, where it is the ELBO; ``None`` where another was maximised."""
        return self.bound if self.objective == "ELBO" else None


def default_method(guide: BaseGuide, x: Data | None = None) -> str:
    """Return ``em`` for exact, what the family says where each unit has its own φ, else ``svi``.

    Where no latent of the model is free on ``x``, there is nothing for EM's E-step to fill in: ``svi`` on log p(x) itself.
    """
    if isinstance(guide, Exact):
        return "em" if x is None or guide.model.latents(x).size else "svi"
    free = isinstance(guide, Guide) and isinstance(guide.amortisation, Free)
    return guide.family.method if free else "svi"


def fit(
    model: Model | Program, guide: AnyGuide, x: Data, *, method: str | None = None, train_model: bool = True,
    steps: int | None = None, draws: int | None = None, accelerate: bool = False, shard: bool = False, seed: int = 0,
    progress: bool | None = None, callbacks: Sequence[Callback] = (), journal: Journal | str | Path | None = None,
    name: str = "", pure: bool | None = None, start: BaseGuide | str | None = None, **training: Any,
) -> Fit:
    """Maximise the ELBO over φ and (``train_model``) θ, in place.

    Args:
        model: a model or a bare Pyro program.
        guide: a guide, how one is written (it is then built on ``x``), or any Pyro guide.
        x: the data.
        method: ``em``, ``fixed_draws`` or ``svi``; ``None``: what :func:`default_method` says.
        train_model: move θ too. A model without parameters has nothing to move.
        steps: at most; ``None``: 1,000 iterations of em and fixed_draws; svi goes on until it has converged, up to 50,000.
        draws: of z per unit: of fixed_draws at the start and the end, of svi per step.
        accelerate: extrapolate EM's steps, see :class:`experiments.acceleration.Anderson`: far fewer where it creeps, and as
            monotone. The maximum that it comes to may be another one of several.
        shard: share the units out over the processes of torch.distributed's group, each of which makes this same call: EM adds
            up what it needs of the rows, svi its gradients. All end with the same parameters, those of one process but for
            rounding.
        seed: of all that is drawn: same seed, same machine, same bits. Torch's own generator is left as it was.
        progress: show a bar on standard error; ``None``: on a terminal only.
        callbacks: told of the start, of every step, of checkpoints and of the end.
        journal: a directory, or a :class:`Journal`, for checkpoints. Where it holds one of the same fit, the fit goes on from
            there, and ends with the bits that it would have ended with; one that is done is not fitted again.
        name: what to call the fit in callbacks, and in a journal of several.
        pure: whether runs of the program and the guide do the same operations each time, whatever else Python knows, so that
            svi may record and repeat them, see :mod:`zoo.recording`. ``None``: registered models and families are, others as
            they declare, and a bare function where its code proves it.
        start: where a guide with its own φ for each unit begins: ``contained``, at a quick fit of a family that its own
            contains (where θ moves, of one unit only); ``own``, as it is; or a fitted guide of such a family. ``None``:
            ``contained`` for a guide that is named, ``own`` for one that is built. It never ends below where it so began.
        training: of svi, the attributes of :class:`Training`: batch_size, learning_rate, schedule, objective, estimator,
            clip, warm_up, validation, patience, view, compile.

    Raises:
        ZooError: a guide that does not fit the model, an unknown method or one that can't fit this guide, an unknown or wrong
            option, negative steps, an ELBO that is not finite at the start (the first such site is named), a full disk, or a
            journal of another fit.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> round(fit(zoo.build("gmm", x), "exact", x).elbo, 2)
    -1130.26
    """
    _check_numbers(steps, draws, seed)
    check_options(training)
    how = Training(**training)
    shown = one_view(x, how.view, seed)
    start = start or ("contained" if isinstance(guide, str) else "own")
    model, guide = pair(model, guide, shown, seed)
    chosen = _chosen(method, guide, shown, train_model, draws=draws, accelerate=accelerate or None, **training)
    processes = Processes.joined() if shard else ALONE
    latents = model.latents(shown)
    _check_shard(processes, chosen, model, latents, journal)
    has_theta = train_model and any(p.requires_grad for p in model.parameters())
    if method is None and not has_theta and not guide.size:
        return Fit(model, guide, "none", 0, 0.0, None, True, units=latents.units)
    limit = METHODS[chosen] if steps is None else steps
    if how.warm_up >= limit:
        raise ZooError(
            f"expected warm_up to end before the run's {limit} steps; got {how.warm_up}; lower it, or raise steps")
    kept = Journal(Path(journal)) if isinstance(journal, str | Path) else journal
    if kept is not None:
        kept = kept.of(name) if name else kept
        check_same(
            kept, model, guide, x, method=chosen, steps=limit, draws=draws, seed=seed, theta=has_theta,
            training={**training, "accelerate": accelerate or None})
        done = restore(kept, model, guide, has_theta)
        if done is not None:
            return done
    inner: dict[str, Any] = {"train_model": has_theta, "seed": seed, "progress": progress, "journal": kept, "pure": pure}
    floor, before = (None, 0.0) if processes.count > 1 else _floor(
        model, guide, shown, start, METHODS["fixed_draws"] if chosen == "svi" else limit, inner)
    iterations: list[Iteration] = []
    # What is worked on at once: of svi a minibatch, of fixed_draws as many draws as it takes at least.
    share = {"svi": min(1.0, (how.batch_size or BATCH) / latents.units), "fixed_draws": FEWEST[latents.units > 1]}
    one = threads_for(round(share.get(chosen, 1.0) * work(x, latents.units, latents.size)))
    theta = nullcontext() if has_theta else held(model)
    products = quick_products() if chosen == "svi" else nullcontext()
    keep_memory()
    label = how.bound.label(draws or default_draws(guide, latents.units, latents.units, how.bound.alpha))
    first = Moment(model, guide, x, chosen, limit, latents.units, name, objective=label)
    watch = Watch(first, [*bars(progress), *callbacks], kept)
    with watch, seeded(seed), torch.enable_grad(), one, theta, products:
        processes.agree([*model.state_dict().values(), *guide.state_dict().values()])
        options: dict[str, Any] = {"steps": steps if chosen == "svi" else limit, "watch": watch}
        outcome: Outcome
        if chosen == "em":
            outcome = em(model, guide, x, iterations=iterations, accelerate=accelerate, processes=processes, **options)
        elif chosen == "fixed_draws":
            outcome = fixed_draws(model, guide, x, train_model=has_theta, draws=draws, seed=seed, **options)
        else:
            outcome = svi(
                model, guide, x, train_model=has_theta, draws=draws, training=how, processes=processes, limit=limit, pure=pure,
                **options)
    processes.agree(model.buffers())  # running statistics of a decoder are of a process's own units
    guide.eval()
    model.eval()
    fitted = Fit(
        model, guide, chosen, outcome.steps, before + watch.seconds, outcome.elbo, outcome.converged, _why(outcome),
        tuple(watch.history), latents.units, tuple(iterations), outcome.states, outcome.remarks, label)
    if floor is not None and how.bound.alpha == 1:  # states are compared by the ELBO: not of a fit of another bound
        if floor.guide.family.spreads and floor.below()[0] > 0:
            floor.begin()
            fitted = _joined(fitted, fit(
                model, guide, x, method=chosen, steps=limit, draws=draws, name="from the contained", **inner, **training))
        fitted = floor.keep_better(fitted)
    watch.end(fitted)
    if kept is not None:
        keep(kept, fitted)  # last: a fit that is kept is not watched again, and what its callbacks know must be written
    return fitted


def _floor(
    model: Model, guide: BaseGuide, x: Data, start: BaseGuide | str, steps: int, how: Mapping[str, Any],
) -> tuple[Floor | None, float]:
    """Start ``guide`` at a fitted one that it contains, as ``start`` says; return that, and the seconds of its quick fit.

    The quick fit is of at most ``steps``, and is kept in the journal under a name of its own. Where θ moves, it does so
    with the contained guide, too: of one unit, where that is quick.
    """
    if start not in ("contained", "own") and not isinstance(start, BaseGuide):
        raise ZooError(f"expected start contained or own, or a fitted guide; got {start!r}; choose one")
    inside: BaseGuide | None = None
    seconds = 0.0
    if isinstance(start, BaseGuide):
        inside = sibling(guide, [start])
        if inside is None:
            raise ZooError(f"expected start as a fitted guide that '{guide.text}' contains; got '{start.text}'; leave it out")
    latents = model.latents(x)
    quick = quick_family(guide, latents.size) if start == "contained" else None
    if quick is not None and not (how["train_model"] and latents.units > 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZooWarning)  # of a fit that is only where another one begins
            done = fit(model, quick, x, steps=steps, name=f"contained {quick}", **how)
        inside, seconds = done.guide, done.seconds
    if not isinstance(guide, Guide) or not isinstance(inside, Guide):
        return None, 0.0
    return Floor.under(model, guide, inside, x, moved(model, guide, how["train_model"]), how["seed"]), seconds


def _joined(first: Fit, second: Fit) -> Fit:
    """Return the second of two fits of one guide, with the steps, the seconds and the history of both."""
    later = [(first.steps + step, elbo, first.seconds + seconds) for step, elbo, seconds in second.history]
    return replace(
        second, steps=first.steps + second.steps, seconds=first.seconds + second.seconds, history=(*first.history, *later))


def _why(outcome: Outcome) -> str:
    """Return why a fit stopped early or has not converged, and in the latter case what to do."""
    if outcome.converged or outcome.stopped:
        return outcome.stopped
    return f"not converged: {outcome.steps:,} step{'s' if outcome.steps != 1 else ''}; raise --steps"


def fit_seeds(
    model: Model | Program, guide: AnyGuide, x: Data, *, seeds: Sequence[int] = range(5), **options: Any,
) -> list[Fit]:
    """Fit from several seeds, each on a copy of the model; return the fits, the highest bound first.

    ``model`` itself is left as it is, but with a built guide, which one seed fits in place: ``fits[0].model`` and
    ``fits[0].guide`` are the best pair. A model's own start is that of
    ``model``; what a seed changes is the guide's start, the draws and the minibatches.

    Args:
        model, guide, x: as of :func:`fit`; the guide as written, or a Pyro guide's class.
        seeds: one fit each.
        options: of :func:`fit`.

    Raises:
        ZooError: no seeds, a guide that is already built with several seeds, or any error of :func:`fit`.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> [round(done.elbo, 1) for done in fit_seeds(zoo.build("gmm", x), "exact", x, seeds=range(2))]
    [-1130.3, -1130.3]
    """
    if not len(seeds):
        raise ZooError("expected one seed or more; got none; e.g. seeds=range(5)")
    if isinstance(guide, nn.Module) and len(seeds) == 1:
        return [fit(model, guide, x, seed=seeds[0], name=f"seed {seeds[0]}", **options)]
    if isinstance(guide, nn.Module):
        text = guide.text if isinstance(guide, BaseGuide) else type(guide).__name__
        raise ZooError(
            f"expected a guide that each seed can start anew; got '{text}', which is built; pass its text, class or function")
    known = as_model(model)
    fits = [fit(copy.deepcopy(known), guide, x, seed=seed, name=f"seed {seed}", **options) for seed in seeds]
    return sorted(fits, key=lambda done: -math.inf if done.bound is None else done.bound, reverse=True)


def pair(model: Model | Program, guide: AnyGuide, x: Data, seed: int = 0) -> tuple[Model, BaseGuide]:
    """Return the model and the guide that any of their accepted forms stand for.

    Raises:
        ZooError: if the guide does not fit the model, or was built for another.
    """
    known = paired(model, guide if isinstance(guide, BaseGuide) else None)
    whole = as_guide(known, guide, x)
    return known, build(whole, known, x, seed=seed) if isinstance(whole, str) else whole


def _chosen(method: str | None, guide: BaseGuide, x: Data, train_model: bool, **options: Any) -> str:
    """Return the method to fit with, after checking that it is one and that it takes the options that were given."""
    chosen = method or default_method(guide, x)
    if chosen not in METHODS:
        raise ZooError(f"unknown method '{chosen}'{nearest(chosen, METHODS) or ';'} choose from {', '.join(METHODS)}")
    for name, value in options.items():
        methods = {"draws": ("svi", "fixed_draws"), "accelerate": ("em",)}.get(name, ("svi",))
        if value is not None and chosen not in methods:
            raise ZooError(
                f"expected method {' or '.join(methods)} with {name}; got {chosen} for '{guide.text}'; leave {name} out")
    if method == "em" and not train_model:
        raise ZooError("expected train_model for method em, which moves θ alone; got train_model=False; leave method out")
    return chosen


def _check_shard(processes: Processes, method: str, model: Model, latents: Latents, journal: object) -> None:
    """Raise a :class:`ZooError` for a fit that several processes can't share."""
    if processes.count == 1:
        return
    if method == "fixed_draws" or latents.unit is None or not latents.rows_first:
        what = f"method {method}" if method == "fixed_draws" else f"{model.label}, whose rows are not its units"
        raise ZooError(f"expected method em or svi and rows that are units with shard=True; got {what}; leave shard out")
    if journal is not None:
        raise ZooError("expected no journal with shard=True, whose checkpoints are of one process; got one; leave one out")


def check_options(training: Mapping[str, Any]) -> None:
    """Raise a :class:`ZooError` for the first option that :class:`Training` does not have."""
    known = [f.name for f in fields(Training)]
    for name in training:
        if name not in known:
            raise ZooError(f"unknown option '{name}' of fit{nearest(name, known) or '; it has ' + ', '.join(known)}")


def one_view(x: Data, view: Callable[[Tensor], Tensor] | None, seed: int) -> Data:
    """Return one view of ``x``, the same for the same seed; ``x`` itself where there is no ``view``."""
    if view is None or not isinstance(x, Tensor):
        return x
    with seeded(seed):
        return view(x)


def _check_numbers(steps: int | None, draws: int | None, seed: int) -> None:
    for name, value in (("steps", steps), ("draws", draws)):
        if value is not None:
            check_number(name, value, whole=True, least=1, mend="leave it out for the default")
    check_number("seed", seed, whole=True, least=0, most=2**31 - 1, mend="choose another")
