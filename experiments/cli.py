"""The ``zoo`` command. Results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.errors import ZooError, ZooWarning

if TYPE_CHECKING:
    from experiments.spec import Spec
    from experiments.table import Comparison
    from zoo.datasets import Dataset
    from zoo.model import Model

app = typer.Typer(
    name="zoo", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Latent-variable models, variational guides, and how far each guide is from the posterior.")

OWN = {"allow_extra_args": True, "ignore_unknown_options": True}
MODEL = Annotated[str, typer.Argument(help="A registered model; its own options follow as --name value.")]
DATA = Annotated[
    str | None, typer.Option("--data", "-d", help="A data set, sample:MODEL, or a CSV, NPY, NPZ, Parquet or IDX file.")]
SEED = Annotated[int, typer.Option(help="Of all that is drawn: the same seed gives the same numbers.")]
METHOD = Annotated[str | None, typer.Option(help="em, fixed_draws or svi; the guide's own where unsaid.")]
STEPS = Annotated[int | None, typer.Option(help="Most steps of a fit.")]
DRAWS = Annotated[int | None, typer.Option(help="Draws of z per unit for the evaluation.")]
TARGET = Annotated[str | None, typer.Option(help="Of a file: the column to predict; the last where unsaid.")]
STANDARDISE = Annotated[bool | None, typer.Option(help="Standardise the columns; regressions do where unsaid.")]
DROP = Annotated[bool, typer.Option("--drop-constant", help="Leave constant columns out.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else to standard output.")]
BINARISE = Annotated[
    str | None, typer.Option(help="Of images: static (drawn once; where unsaid), dynamic (drawn anew each step) or threshold.")]
OUT = Annotated[Path | None, typer.Option(help="Write results and figures (PNG, SVG) to this directory.")]


@app.command("list")
def list_command(name: Annotated[str | None, typer.Argument(help="A model, to see its options.")] = None) -> None:
    """Show the models, guides and data sets, and what fits what."""
    from experiments import listing

    listing.show(name)


@app.command(context_settings=OWN)
def compare(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="May be given several times.")] = None,
    method: METHOD = None, seed: SEED = 0, steps: STEPS = None, draws: DRAWS = None,
    holdout: Annotated[float | None, typer.Option(help="Share of units that θ and encoders do not see.")] = None,
    train_with: Annotated[str | None, typer.Option(help="The guide to fit θ with.")] = None,
    train_model: Annotated[bool, typer.Option("--train-model", help="Let each guide train a θ of its own.")] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Compare on data drawn from the fitted model.")] = False,
    binarise: BINARISE = None, target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False,
    as_json: JSON = False, out: OUT = None,
) -> None:
    """Fit θ once, fit each guide to it, and say how far each is from the posterior."""
    job = _prepare(
        context, model, data, tuple(guide or ()), method=method, seed=seed, steps=steps, draws=draws, holdout=holdout,
        train_with=train_with, train_model=train_model, simulate=simulate, binarise=binarise, target=target,
        standardise=standardise, drop_constant=drop_constant)
    from experiments.output import Output

    with Output(out) as output:
        table = _compare(job, job.spec.guides, draws=draws)
        _report(table, as_json)
        output.write(table, job.data)


@app.command(context_settings=OWN)
def fit(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="The guide to fit with.")] = None,
    method: METHOD = None, seed: SEED = 0, steps: STEPS = None, draws: DRAWS = None,
    train_draws: Annotated[int | None, typer.Option(help="Draws of z per unit that the fit takes: of svi, per step.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Units per step of svi.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of svi.")] = None,
    objective: Annotated[str, typer.Option(help="Of svi: elbo, iwae or renyi(alpha).")] = "elbo",
    estimator: Annotated[str, typer.Option(help="Of svi: reparameterised, stl or dreg.")] = "reparameterised",
    schedule: Annotated[str, typer.Option(help="Of svi's learning rate: cosine, linear or constant.")] = "cosine",
    clip: Annotated[float | None, typer.Option(help="Of svi: largest gradient norm, nats per unit.")] = None,
    warm_up: Annotated[int, typer.Option(help="Of svi: steps over which the KL term's weight rises to 1.")] = 0,
    validation: Annotated[float, typer.Option(help="Of svi: share of units on whose ELBO it stops early.")] = 0.0,
    patience: Annotated[int, typer.Option(help="Of svi: fiftieths of the run without a better one.")] = 10,
    seeds: Annotated[int, typer.Option(help="Fit from this many seeds, and keep the best.")] = 1,
    binarise: BINARISE = None, target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False,
    as_json: JSON = False, out: OUT = None,
) -> None:
    """Fit θ and one guide together, and evaluate the pair."""
    job = _prepare(
        context, model, data, _one(guide), method=method, seed=seed, steps=steps, draws=draws, train_draws=train_draws,
        batch_size=batch_size, learning_rate=learning_rate, objective=objective, estimator=estimator, schedule=schedule,
        clip=clip, warm_up=warm_up,
        validation=validation, patience=patience, seeds=seeds, binarise=binarise, target=target, standardise=standardise,
        drop_constant=drop_constant, holdout=0.0)
    from experiments.comparison import fit_one
    from experiments.output import Output
    from experiments.spec import training

    with Output(out) as output:
        options: dict[str, Any] = {**training(job.spec), **({} if job.data.view is None else {"view": job.data.view})}
        table = fit_one(
            job.model, job.data.x, job.spec.guides[0], method=method, seed=seed, seeds=seeds, steps=steps, draws=draws,
            train_draws=train_draws, data=job.data.name, **options)
        _report(table, as_json)
        output.write(table, job.data)


@app.command(context_settings=OWN)
def summary(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="The guide to summarise.")] = None,
    method: METHOD = None, seed: SEED = 0, steps: STEPS = None,
    draws: Annotated[int | None, typer.Option(help="Draws of the posterior; 4,000 where unsaid.")] = None,
    binarise: BINARISE = None, target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False,
    as_json: JSON = False,
) -> None:
    """Print ArviZ's summary of a guide's posterior, in the program's own variables."""
    job = _prepare(
        context, model, data, _one(guide), method=method, seed=seed, steps=steps, draws=draws, binarise=binarise,
        target=target, standardise=standardise, drop_constant=drop_constant, holdout=0.0)
    from experiments.output import print_summary

    print_summary(_compare(job, job.spec.guides[:1]), job.data, draws or 4000, as_json)


@app.command()
def study(
    names: Annotated[list[str] | None, typer.Argument(help="Which to run; none: list them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run all of them, in the order of the theory.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="At the reduced size of the tests.")] = False,
    seed: SEED = 0,
    out: Annotated[Path, typer.Option(help="Where figures (PNG, SVG) and results (JSON) go.")] = Path("studies"),
    jobs: Annotated[int, typer.Option(help="Processes; 0: one a core.", min=0)] = 0, as_json: JSON = False,
) -> int:
    """Run studies: a claim of the theory, its numbers, what they should be, and a picture. Exits 3 where one does not hold."""
    from experiments import listing
    from experiments.studies.registry import STUDIES
    from zoo.registry import lookup

    if every and names:
        raise ZooError(f"expected names or --all; got both {', '.join(names)} and --all; drop one")
    chosen = list(STUDIES) if every else list(dict.fromkeys(names or ()))
    for name in chosen:
        lookup(STUDIES, name, "study", "zoo study")
    if not chosen:
        listing.show_studies()
        return 0
    from experiments.output import Output, remark
    from experiments.studies.runner import perform_all

    reports = []
    with Output(out):
        for report in perform_all(chosen, out, quick, seed, jobs):
            reports.append(report)
            if not as_json:
                listing.show_report(report)
    if as_json:
        print(json.dumps([report.to_dict() for report in reports], indent=1, allow_nan=False, ensure_ascii=False))
    failed = [report.name for report in reports if not report.holds]
    if failed:
        remark(f"{len(failed)} of {len(reports)} did not hold: {', '.join(failed)}")
    return 3 if failed else 0


def _one(guides: list[str] | None) -> tuple[str, ...]:
    if guides and len(guides) > 1:
        raise ZooError(f"expected one guide; got {', '.join(guides)}; 'zoo compare' takes several")
    return tuple(guides or ())


@dataclass(frozen=True)
class Job:
    """What a command is to do, checked: the model is sized by and started from the rows it may be trained on."""

    spec: Spec
    model: Model
    data: Dataset
    holdout: float


def _prepare(context: typer.Context, model: str, data: str | None, guides: tuple[str, ...], **given: Any) -> Job:
    """Check everything that was asked, in the order a person would mend it, and load the data."""
    from experiments.spec import checked, read_options
    from guides.registry import default_guides, parse
    from zoo.registry import MODELS, lookup

    entry = lookup(MODELS, model, "model")
    options = read_options(context.args)
    kind = entry.kind(options)
    if given["standardise"] is None:
        given["standardise"] = entry.standardises(options)
    if given["binarise"] is None and kind == "images":
        given["binarise"] = "static"
    guides = guides or tuple(default_guides(entry.facts(model)))
    data = entry.data if data is None else data
    spec = checked(model=model, data=data, guides=guides, options=options, **given)
    for guide in (*guides, *([spec.train_with] if spec.train_with is not None else [])):
        parse(guide).check(entry.facts(model))
    from experiments.output import remark
    from zoo.construct import check_options
    from zoo.datasets import dataset

    check_options(model, spec.options)
    data_set = dataset(
        spec.data, kind, target=spec.target, standardise=spec.standardise, drop_constant=spec.drop_constant,
        binarise=spec.binarise)
    job = _job(spec, data_set)
    for text in data_set.remarks:
        remark(f"{data_set.name}: {text}")
    return job


def _job(spec: Spec, data_set: Dataset) -> Job:
    from experiments.fitting import one_view
    from experiments.holdout import partition
    from zoo.construct import build
    from zoo.registry import MODELS, load

    entry = MODELS[spec.model]
    share = load(entry.path).holdout if spec.holdout is None else spec.holdout
    rows = data_set.x
    if entry.units == "dataset" and spec.holdout:
        raise ZooError(f"expected no --holdout for {spec.model}, whose latents all rows share: one unit; leave it out")
    if entry.units == "rows" and share and not isinstance(rows, Mapping):
        rows = partition(rows, len(rows), share, spec.seed).train
    model = build(spec.model, one_view(rows, data_set.view, spec.seed), seed=spec.seed, **spec.options)
    return Job(spec, model, data_set, share if entry.units == "rows" else 0.0)


def _compare(job: Job, guides: tuple[str, ...], draws: int | None = None) -> Comparison:
    from experiments.comparison import compare as run

    spec = job.spec
    return run(
        job.model, job.data.x, guides, seed=spec.seed, method=spec.method, train_with=spec.train_with,
        train_model=spec.train_model, holdout=job.holdout, steps=spec.steps, draws=draws, view=job.data.view,
        simulate=spec.simulate, data=job.data.name)


def _report(table: Comparison, as_json: bool) -> None:
    if as_json:
        print(json.dumps(table.to_dict(), indent=1, allow_nan=False, ensure_ascii=False))
        return
    from experiments import render

    render.comparison(table, render.console())


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit with 0, 1 (a defect of ours), 2 (bad input) or 130 (interrupted), never with a traceback."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks ‖ must not cost the numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", ZooWarning)
        said: set[str] = set()

        def say(message: Warning | str, *rest: Any, **named: Any) -> None:
            if str(message) not in said:
                print(f"remark: {message}", file=sys.stderr)
            said.add(str(message))

        warnings.showwarning = say
        try:
            code = app(arguments, standalone_mode=False)
            sys.stdout.flush()
            return int(code or 0)
        except ZooError as error:
            return _fail(str(error), 2)
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            return _unexpected(error)


def _unexpected(error: Exception) -> int:
    message = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError" and message is not None:
        print(message())
        return 0
    if message is not None:  # the command-line library's own: a missing argument, a word that is no number
        return _fail(str(message()).strip().rstrip("."), 2)
    if type(error).__name__ == "Abort":
        return _fail("interrupted", 130)
    if os.environ.get("ZOO_DEBUG"):
        raise error
    first = (str(error).strip().splitlines() or [""])[0]
    return _fail(f"unexpected {type(error).__name__}: {first[:200]}; set ZOO_DEBUG=1 to see where, and please report it", 1)


def _fail(text: str, code: int) -> int:
    print("error: " + " ".join(text.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
