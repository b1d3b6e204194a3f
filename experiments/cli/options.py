"""The options that several commands share."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from experiments.comparison.terminal.layout import SELECTIONS
from experiments.inference.registry import METHODS, known_options, methods_with
from zoo.errors import ZooError

Command = TypeVar("Command", bound=Callable[..., None])

OWN = {"allow_extra_args": True, "ignore_unknown_options": True}
MODEL = Annotated[str, typer.Argument(help=(
    "A registered model, whose options follow as --name value; or FILE.py:NAME, a Pyro program of your own: its file is run."))]
DATA = Annotated[
    str | None, typer.Option(
        "--data", "-d", help="A data set, sample:MODEL (draws from a model), or a CSV, NPY, NPZ, Parquet or IDX file.")]
SEED = Annotated[int, typer.Option(help="Seed of all random numbers. The same seed gives the same results.")]
METHOD = Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)}; by default the first that fits the guide.")]
EFFORT = Annotated[str, typer.Option(
    help="Number of densities that the evaluation may take beside the fits: none, quick, default or thorough.")]
DRAWS = Annotated[int | None, typer.Option(help="Number of draws of z per unit for the evaluation.")]
TARGET = Annotated[str | None, typer.Option(help="Column of a data file to predict; by default the last column.")]
STANDARDISE = Annotated[bool | None, typer.Option(help="Standardise the columns; the default for regressions.")]
DROP = Annotated[bool, typer.Option("--drop-constant", help="Leave out constant columns.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else to standard output.")]
COLUMNS = Annotated[str, typer.Option(
    help=f"Columns of the printed table: {'; '.join(f'{name}: {what}' for name, what in SELECTIONS.items())}.")]
BINARISE = Annotated[
    str | None, typer.Option(
        help="Binarisation of images: static (drawn once, the default), dynamic (drawn anew in each step) or threshold.")]
OUT = Annotated[
    Path | None, typer.Option(
        help="Directory of the run; by default runs/MODEL-DATA-TIME-ID. A run that was begun there is continued.")]
SAVE = Annotated[bool, typer.Option("--save/--no-save", help="Whether to save the run in a directory.")]
SAVE_SPEC = Annotated[Path | None, typer.Option(help="Write a spec of this command for 'zoo run', and run nothing.")]
REPORT = Annotated[
    bool, typer.Option("--report/--no-report", help="Whether to write figures, posterior draws and report.html.")]
EVERY = Annotated[float | None, typer.Option("--checkpoint-every", help="Seconds between checkpoints; 30 by default.", min=0)]
FORCE = Annotated[bool, typer.Option("--force", help="Continue a run although data or code has changed since it began.")]
TENSORBOARD = Annotated[bool, typer.Option("--tensorboard", help="Also write events for TensorBoard to the run's directory.")]


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
    return text if len(methods) == len(METHODS) else f"With {' and '.join(methods)}: {text[0].lower()}{text[1:]}"


def read_options(words: list[str]) -> dict[str, Any]:
    """Read a model's own options, ``--components 4 --centred``, as a command line has them.

    Raises:
        ZooError: a word that belongs to no option.

    >>> read_options(["--components", "4", "--covariance=tied", "--centred"])
    {'components': 4, 'covariance': 'tied', 'centred': True}
    """
    options: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ZooError(f"expected an option; got '{word}'; write a model's options as --name value")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        options[name.replace("-", "_")] = _literal(value)
    return options


def _literal(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "," in text:  # 400,200: widths of hidden layers
        parts = tuple(_literal(part) for part in text.strip("()").split(",") if part)
        return parts if all(isinstance(part, int) for part in parts) else text
    return {"true": True, "false": False}.get(text.lower(), text)
