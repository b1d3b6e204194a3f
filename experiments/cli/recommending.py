"""The command that says which guide is needed: recommend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.app import app
from experiments.cli.fitting import asked
from experiments.cli.options import (
    BINARISE,
    DATA,
    DROP,
    EFFORT,
    JSON,
    MODEL,
    OWN,
    SEED,
    STANDARDISE,
    TARGET,
    with_fitting_options,
)
from experiments.cli.work import said
from experiments.reporting.output import print_json, say
from guides.spec import split_commas

if TYPE_CHECKING:
    from experiments.comparison.ladder.recommendation import Recommendation
    from experiments.runs.spec import Spec


@app.command(context_settings=OWN)
@with_fitting_options
def recommend(
    context: typer.Context, model: MODEL, data: DATA = None,
    tolerance: Annotated[float, typer.Option(help="Nats, of each unit, between the posterior and a guide that will do.")] = 0.1,
    quantity: Annotated[list[str] | None, typer.Option("--quantity", "-q", help=(
        "A quantity that is to be right, as tau or theta[3], in place of the gap. Can be repeated."))] = None,
    rung: Annotated[list[str] | None, typer.Option(
        "--rung", "-g", help="A guide to try, in place of the ladder's own. Can be repeated, the cheapest first.")] = None,
    amortised: Annotated[bool | None, typer.Option(
        "--amortised/--free", help="Whether guides are networks of x; by default where the model has a network.")] = None,
    effort: EFFORT = "default", seed: SEED = 0, binarise: BINARISE = None, target: TARGET = None,
    standardise: STANDARDISE = None, drop_constant: DROP = False, as_json: JSON = False,
    out: Annotated[Path | None, typer.Option(help="Directory for the verdict as JSON and its figure.")] = None, **fitting: Any,
) -> None:
    """Climb from the cheapest guide to the dearest, stop at the first that is near enough, and say what the next would gain."""
    rungs = None if rung is None else [guide for text in rung for guide in split_commas(text)]
    how: dict[str, Any] = {
        "tolerance": tolerance, "quantities": tuple(quantity or ()), "rungs": rungs, "amortised": amortised, "effort": effort,
        "seed": seed}
    if out is not None:
        from experiments.runtime.files import directory

        with directory(out):  # before the climb: what can't be written is not worth minutes
            pass
    if sys.stderr.isatty():  # torch takes a second to load, and a climb may take minutes
        say(f"{model} on {data or 'its own data'}: climbing from the cheapest guide")
    found = _climbed(how, asked(
        context, command="compare", model=model, guides=(), holdout=0.0, data=data, seed=seed, binarise=binarise, target=target,
        standardise=standardise, drop_constant=drop_constant, **fitting))
    if out is not None:
        _write(found, out)
    if as_json:
        return print_json(found.to_dict())
    from experiments.comparison.ladder.recommendation import show
    from experiments.comparison.terminal.console import console

    show(found, console())


def _climbed(how: dict[str, Any], spec: Spec) -> Recommendation:
    """Climb the ladder of what a spec asks for."""
    from experiments.comparison.ladder.recommend import recommend as climb
    from experiments.runs.job import prepared
    from experiments.runs.spec import fitting_options

    with prepared(spec, trust=True) as job:
        said(job)
        return climb(job.model, job.data.x, **how, **fitting_options(spec))


def _write(found: Recommendation, out: Path) -> None:
    """Write the verdict as JSON, and the figure of gaps against seconds."""
    import json

    from experiments.reporting.figures import save
    from experiments.reporting.ladder import gaps_against_seconds
    from experiments.reporting.output import remark
    from experiments.runtime.files import directory, whole

    with directory(out):
        whole(out / "recommendation.json", json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        save(gaps_against_seconds(found), out / "gaps")
    remark(f"wrote {out}")
