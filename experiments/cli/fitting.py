"""Commands that fit: compare, fit and summary."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.app import app
from experiments.cli.options import (
    BINARISE,
    COLUMNS,
    DATA,
    DRAWS,
    DROP,
    EFFORT,
    EVERY,
    FORCE,
    JSON,
    METHOD,
    MODEL,
    OUT,
    OWN,
    REPORT,
    SAVE,
    SAVE_SPEC,
    SEED,
    STANDARDISE,
    TARGET,
    TENSORBOARD,
    read_options,
    with_fitting_options,
)
from experiments.cli.work import Saving, Shown, begun, do, said
from guides.spec import split_commas
from zoo.errors import ZooError
from zoo.registry import MODELS

if TYPE_CHECKING:
    from experiments.runs.spec import Spec


@app.command(context_settings=OWN)
@with_fitting_options
def compare(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="Guide to compare. Can be repeated.")] = None,
    method: METHOD = None, seed: SEED = 0, draws: DRAWS = None, effort: EFFORT = "default",
    holdout: Annotated[float | None, typer.Option(help="Share of the units on which θ and encoders are not fitted.")] = None,
    train_with: Annotated[str | None, typer.Option(help="The guide with which θ is fitted.")] = None,
    train_model: Annotated[bool, typer.Option("--train-model", help="Fit a separate θ with each guide.")] = False,
    parameters: Annotated[bool, typer.Option(
        "--parameters", help="Also print each quantity's mean and sd by each guide, beside a reference.")] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Compare the guides on data drawn from the fitted model.")] = False,
    binarise: BINARISE = None, target: TARGET = None, standardise: STANDARDISE = None,
    drop_constant: DROP = False, as_json: JSON = False, columns: COLUMNS = "default", out: OUT = None, save: SAVE = True,
    save_spec: SAVE_SPEC = None, report: REPORT = True, checkpoint_every: EVERY = None, tensorboard: TENSORBOARD = False,
    force: FORCE = False, **fitting: Any,
) -> None:
    """Fit θ once, fit each guide at this θ, and report how far each guide is from the posterior."""
    shown = Shown(as_json, columns)
    spec = asked(
        context, command="compare", model=model, data=data, guides=tuple(guide or ()), method=method, seed=seed, draws=draws,
        effort=effort, parameters=parameters, holdout=holdout, train_with=train_with, train_model=train_model,
        simulate=simulate, binarise=binarise, target=target, standardise=standardise, drop_constant=drop_constant, **fitting)
    do(spec, shown, save_spec, Saving(out, save, report, checkpoint_every, tensorboard, force, trust=True))


@app.command(context_settings=OWN)
@with_fitting_options
def fit(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="The guide that is fitted with θ.")] = None,
    method: METHOD = None, seed: SEED = 0, draws: DRAWS = None, effort: EFFORT = "default",
    seeds: Annotated[int, typer.Option(help="Number of seeds to fit from; the best fit is kept.")] = 1,
    binarise: BINARISE = None, target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False,
    as_json: JSON = False, columns: COLUMNS = "default", out: OUT = None, save: SAVE = True, save_spec: SAVE_SPEC = None,
    report: REPORT = True, checkpoint_every: EVERY = None, tensorboard: TENSORBOARD = False, force: FORCE = False,
    **fitting: Any,
) -> None:
    """Fit θ and one guide together, and evaluate the pair."""
    shown = Shown(as_json, columns)
    spec = asked(
        context, command="fit", model=model, data=data, guides=tuple(guide or ()), method=method, seed=seed, draws=draws,
        effort=effort, seeds=seeds, binarise=binarise, target=target, standardise=standardise, drop_constant=drop_constant,
        **fitting)
    do(spec, shown, save_spec, Saving(out, save, report, checkpoint_every, tensorboard, force, trust=True))


@app.command(context_settings=OWN)
@with_fitting_options
def summary(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="The guide to summarise.")] = None,
    method: METHOD = None, seed: SEED = 0,
    draws: Annotated[int | None, typer.Option(help="Number of posterior draws; 4,000 by default.")] = None,
    every: Annotated[bool, typer.Option(
        "--all", help="Print a row for each unit; otherwise more than ten units are summarised.")] = False,
    binarise: BINARISE = None, target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False,
    as_json: JSON = False, **fitting: Any,
) -> None:
    """Print the learned parameters and a summary of a guide's posterior, in the program's own variables."""
    spec = asked(
        context, command="compare", model=model, data=data, guides=_one(guide, model), method=method, seed=seed,
        draws=draws, binarise=binarise, target=target, standardise=standardise, drop_constant=drop_constant, holdout=0.0,
        **fitting)
    begun(spec)
    from experiments.reporting.output import print_summary
    from experiments.runs.job import prepared

    with prepared(spec, trust=True) as job:
        said(job)
        done = job.fit_comparison()
        with job.printing():
            print_summary(done.fits[0], done.plan.x, job.data, draws or 4000, seed, as_json, every)


def _one(guides: list[str] | None, model: str) -> tuple[str, ...]:
    from experiments.runs.programs import is_own
    from experiments.runs.spec import complete

    if is_own(model):  # what fits it is known when its data is
        return tuple(guides or ())
    return complete(command="fit", model=model, guides=tuple(guides or ())).guides


def asked(context: typer.Context, **given: Any) -> Spec:
    """Return what the flags ask for, checked."""
    from experiments.runs.spec import complete

    options = read_options(context.args)
    given["guides"] = tuple(guide for text in given["guides"] for guide in split_commas(text))
    _check_flags(context, given["model"], options)
    return complete(options=options, **given)


def _check_flags(context: typer.Context, model: str, options: Mapping[str, Any]) -> None:
    """Raise a :class:`ZooError` for an option that the model does not have, if a flag of the command is the nearest name.

    All flags that the command does not know are taken for the model's own options.
    """
    from zoo.construct import options as options_of

    flags = {
        flag.removeprefix("--").replace("-", "_"): (flag, [short for short in one.opts if len(short) == 2])
        for one in context.command.params for flag in one.opts if flag.startswith("--")}
    own = options_of(model) if options and model in MODELS else {}
    for name in (name for name in options if name not in own):
        match = get_close_matches(name, [*flags, *own], n=1)
        if match and match[0] in flags and match[0] not in own:
            flag, shorts = flags[match[0]]
            also = f" ({', '.join(shorts)})" if shorts else ""
            written = name.replace("_", "-")
            raise ZooError(f"unknown option '--{written}' of zoo {context.info_name}; did you mean '{flag}'{also}?")
