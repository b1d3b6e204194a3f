"""The ``zoo`` command. Results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
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
DATA = Annotated[str | None, typer.Option("--data", "-d", help="A data set, or a CSV, NPY or Parquet file.")]
SEED = Annotated[int, typer.Option(help="Of all that is drawn: the same seed gives the same numbers.")]
METHOD = Annotated[str | None, typer.Option(help="em, fixed_draws or svi; the guide's own where unsaid.")]
STEPS = Annotated[int | None, typer.Option(help="Most steps of a fit.")]
DRAWS = Annotated[int | None, typer.Option(help="Draws of z per unit for the evaluation.")]
TARGET = Annotated[str | None, typer.Option(help="Of a file: the column to predict; the last where unsaid.")]
STANDARDISE = Annotated[bool | None, typer.Option(help="Standardise the columns; regressions do where unsaid.")]
DROP = Annotated[bool, typer.Option("--drop-constant", help="Leave constant columns out.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else to standard output.")]
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
    method: METHOD = None, seed: SEED = 0, steps: STEPS = None, draws: DRAWS = None, target: TARGET = None,
    standardise: STANDARDISE = None, drop_constant: DROP = False, as_json: JSON = False, out: OUT = None,
) -> None:
    """Fit θ once, fit each guide to it, and say how far each is from the posterior."""
    spec, built, data_set = _prepare(
        context, model, data, tuple(guide or ()), method=method, seed=seed, steps=steps, draws=draws, target=target,
        standardise=standardise, drop_constant=drop_constant)
    from experiments.comparison import compare as run
    from experiments.output import Output

    with Output(out) as output:
        table = run(
            built, data_set.x, spec.guides, seed=seed, method=method, steps=steps, draws=draws, data=data_set.name)
        _report(table, as_json)
        output.write(table, data_set)


@app.command(context_settings=OWN)
def fit(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="The guide to fit with.")] = None,
    method: METHOD = None, seed: SEED = 0, steps: STEPS = None, draws: DRAWS = None,
    batch_size: Annotated[int | None, typer.Option(help="Units per step of svi.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of svi.")] = None,
    target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False, as_json: JSON = False,
    out: OUT = None,
) -> None:
    """Fit θ and one guide together, and evaluate the pair."""
    spec, built, data_set = _prepare(
        context, model, data, _one(guide), method=method, seed=seed, steps=steps, draws=draws,
        batch_size=batch_size, learning_rate=learning_rate, target=target, standardise=standardise,
        drop_constant=drop_constant)
    from experiments.comparison import fit_one
    from experiments.output import Output

    with Output(out) as output:
        table = fit_one(
            built, data_set.x, spec.guides[0], method=method, seed=seed, steps=steps, draws=draws, batch_size=batch_size,
            learning_rate=learning_rate, data=data_set.name)
        _report(table, as_json)
        output.write(table, data_set)


@app.command(context_settings=OWN)
def summary(
    context: typer.Context, model: MODEL, data: DATA = None,
    guide: Annotated[list[str] | None, typer.Option("--guide", "-g", help="The guide to summarise.")] = None,
    method: METHOD = None, seed: SEED = 0, steps: STEPS = None,
    draws: Annotated[int | None, typer.Option(help="Draws of the posterior; 4,000 where unsaid.")] = None,
    target: TARGET = None, standardise: STANDARDISE = None, drop_constant: DROP = False, as_json: JSON = False,
) -> None:
    """Print ArviZ's summary of the guide's posterior, in the program's own (constrained) variables."""
    spec, built, data_set = _prepare(
        context, model, data, _one(guide), method=method, seed=seed, steps=steps, draws=draws, target=target,
        standardise=standardise, drop_constant=drop_constant)
    from experiments.comparison import compare as run
    from experiments.output import print_summary

    table = run(built, data_set.x, spec.guides[:1], seed=seed, method=method, steps=steps, data=data_set.name)
    print_summary(table, data_set, draws or 4000, as_json)


def _one(guides: list[str] | None) -> tuple[str, ...]:
    if guides and len(guides) > 1:
        raise ZooError(f"expected one guide; got {', '.join(guides)}; 'zoo compare' takes several")
    return tuple(guides or ())


def _prepare(
    context: typer.Context, model: str, data: str | None, guides: tuple[str, ...], **given: Any,
) -> tuple[Spec, Model, Dataset]:
    """Check everything that was asked, in the order a person would mend it, and load the data."""
    from experiments.spec import checked, read_options
    from guides.registry import default_guides, parse
    from zoo.registry import MODELS, lookup

    entry = lookup(MODELS, model, "model")
    if given["standardise"] is None:
        given["standardise"] = entry.standardise
    guides = guides or tuple(default_guides(entry.facts(model)))
    data = entry.data if data is None else data
    spec = checked(model=model, data=data, guides=guides, options=read_options(context.args), **given)
    for guide in guides:
        parse(guide).check(entry.facts(model))
    from experiments.output import remark
    from zoo.construct import build, check_options
    from zoo.datasets import dataset

    check_options(model, spec.options)

    data_set = dataset(
        spec.data, entry.takes, target=spec.target, standardise=spec.standardise, drop_constant=spec.drop_constant)
    built = build(model, data_set.x, seed=spec.seed, **spec.options)
    for text in data_set.remarks:
        remark(f"{data_set.name}: {text}")
    return spec, built, data_set


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
