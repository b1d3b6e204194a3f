"""Commands that show what there is: the registries and the studies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.app import app
from experiments.cli.options import JSON, OWN, SEED, read_options
from zoo.errors import ZooError

if TYPE_CHECKING:
    from experiments.studies.runner import Report


@app.command("list", context_settings=OWN)
def list_command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(
        metavar="[MODEL]", help="A model to describe. The options of the model follow as --name value.")] = None,
    data: Annotated[str | None, typer.Option(
        "--data", "-d", help="With MODEL: the data that it is described on; by default those that it is shown on.")] = None,
    svg: Annotated[Path | None, typer.Option(help="With MODEL: write its graphical model to this file as SVG.")] = None,
) -> None:
    """List the models, guides, methods and data sets; or describe MODEL: its sites, plates and units, and what fits it."""
    from experiments.cli import listing

    if name is None or name.startswith("-"):
        given = [word for word, value in (("--data", data), ("--svg", svg)) if value is not None]
        for word in [*given, *([] if name is None else [name]), *context.args]:
            raise ZooError(f"expected a model before {word}; got none; write 'zoo list MODEL {word} …'")
        return listing.show()
    from experiments.cli import describing

    describing.show_model(name, data, read_options(context.args), svg)


@app.command()
def study(
    names: Annotated[list[str] | None, typer.Argument(help="Studies to run; without a name, all studies are listed.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run all studies, in the order of the theory.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Run at the reduced size that the tests use.")] = False,
    seed: SEED = 0,
    out: Annotated[Path, typer.Option(help="Directory for figures (PNG, SVG) and results (JSON).")] = Path("studies"),
    jobs: Annotated[int, typer.Option(help="Number of processes; 0: one per core.", min=0)] = 0, as_json: JSON = False,
) -> int:
    """Run studies: each checks a claim of the theory and draws a figure. The exit code is 3 if a claim does not hold."""
    from experiments.cli import listing

    chosen = _chosen(names or [], every)
    if not chosen:
        listing.show_studies()
        return 0
    from experiments.reporting.output import print_json, remark
    from experiments.runtime.files import directory
    from experiments.studies.runner import perform_all

    with directory(out):
        reports = _shown(perform_all(chosen, out, quick, seed, jobs), quiet=as_json)
    if as_json:
        print_json([report.to_dict() for report in reports])
    failed = [report.name for report in reports if not report.holds]
    if failed:
        remark(f"{len(failed)} of {len(reports)} did not hold: {', '.join(failed)}")
    return 3 if failed else 0


def _shown(reports: Iterable[Report], quiet: bool) -> list[Report]:
    """Return the reports, and unless ``quiet`` print each as soon as it is there."""
    from experiments.cli import listing

    kept = []
    for report in reports:
        kept.append(report)
        if not quiet:
            listing.show_report(report)
    return kept


def _chosen(names: list[str], every: bool) -> list[str]:
    """Return the studies to run, each once.

    Raises:
        ZooError: names beside ``--all``, or one that no study has.
    """
    from experiments.studies.registry import STUDIES
    from zoo.registry import lookup

    if every and names:
        raise ZooError(f"expected names or --all; got both {', '.join(names)} and --all; drop one")
    chosen = list(STUDIES) if every else list(dict.fromkeys(names))
    for name in chosen:
        lookup(STUDIES, name, "study", "zoo study")
    return chosen
