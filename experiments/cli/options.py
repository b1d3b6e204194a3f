"""The options that several commands share."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from experiments.inference.registry import METHODS, known_options, methods_with

Command = TypeVar("Command", bound=Callable[..., None])

OWN = {"allow_extra_args": True, "ignore_unknown_options": True}
MODEL = Annotated[str, typer.Argument(help="A registered model; its own options follow as --name value.")]
DATA = Annotated[
    str | None, typer.Option("--data", "-d", help="A data set, sample:MODEL, or a CSV, NPY, NPZ, Parquet or IDX file.")]
SEED = Annotated[int, typer.Option(help="Of all that is drawn: the same seed gives the same numbers.")]
METHOD = Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)}; the first that suits the guide where unsaid.")]
DRAWS = Annotated[int | None, typer.Option(help="Draws of z per unit for the evaluation.")]
TARGET = Annotated[str | None, typer.Option(help="Of a file: the column to predict; the last where unsaid.")]
STANDARDISE = Annotated[bool | None, typer.Option(help="Standardise the columns; regressions do where unsaid.")]
DROP = Annotated[bool, typer.Option("--drop-constant", help="Leave constant columns out.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else to standard output.")]
BINARISE = Annotated[
    str | None, typer.Option(help="Of images: static (drawn once; where unsaid), dynamic (drawn anew each step) or threshold.")]
OUT = Annotated[
    Path | None, typer.Option(help="The run's directory; runs/MODEL-DATA-TIME-ID where unsaid. One that was begun goes on.")]
SAVE = Annotated[bool, typer.Option("--save/--no-save", help="Whether to leave a run directory behind.")]
SAVE_SPEC = Annotated[Path | None, typer.Option(help="Write what was asked as a spec for 'zoo run', and do nothing else.")]
REPORT = Annotated[
    bool, typer.Option("--report/--no-report", help="Whether to make figures, the posterior's draws and report.html.")]
EVERY = Annotated[float | None, typer.Option("--checkpoint-every", help="Seconds between checkpoints; 30 where unsaid.", min=0)]
FORCE = Annotated[bool, typer.Option("--force", help="Go on although data or code changed since.")]
TENSORBOARD = Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard to the run's directory, too.")]


def with_fitting_options(command: Command) -> Command:
    """Give a command, which takes them as keywords of any name, a flag for each option of each method."""
    own = inspect.signature(command, eval_str=True)
    kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    flags = {
        key: (one.default, Annotated[_type(one), typer.Option(f"--{key.replace('_', '-')}", help=_help(one))])
        for key, one in known_options().items()}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (default, annotation) in flags.items()]
    command.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    command.__annotations__ |= {name: annotation for name, (_, annotation) in flags.items()}
    return command


def _type(option: dataclasses.Field[Any]) -> Any:
    owner = next(entry.options for entry in METHODS.values() if option in dataclasses.fields(entry.options))
    return get_type_hints(owner, localns={"Tensor": Any})[option.name]


def _help(option: dataclasses.Field[Any]) -> str:
    methods, text = methods_with(option.name), option.metadata["help"]
    return text if len(methods) == len(METHODS) else f"Of {' and '.join(methods)}: {text[0].lower()}{text[1:]}"
