"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
COMPILE = Annotated[
    bool, typer.Option("--compile", help="Of svi: hand its recorded steps to PyTorch's compiler; needs a C++ compiler.")]
OUT = Annotated[
    Path | None, typer.Option(help="The run's directory; runs/MODEL-DATA-TIME-ID where unsaid. One that was begun goes on.")]
SAVE = Annotated[bool, typer.Option("--save/--no-save", help="Whether to leave a run directory behind.")]
SAVE_SPEC = Annotated[Path | None, typer.Option(help="Write what was asked as a spec for 'zoo run', and do nothing else.")]
REPORT = Annotated[
    bool, typer.Option("--report/--no-report", help="Whether to make figures, the posterior's draws and report.html.")]
EVERY = Annotated[float | None, typer.Option("--checkpoint-every", help="Seconds between checkpoints; 30 where unsaid.", min=0)]
FORCE = Annotated[bool, typer.Option("--force", help="Go on although data or code changed since.")]
TENSORBOARD = Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard to the run's directory, too.")]
