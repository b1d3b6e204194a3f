"""Commands on specs and run directories: run, resume, report, runs."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.app import app
from experiments.cli.options import COLUMNS, EVERY, FORCE, JSON, OUT, REPORT, SAVE, TENSORBOARD
from experiments.cli.work import Saving, Shown, do, show_records
from zoo.errors import ZooError

if TYPE_CHECKING:
    from experiments.runs.grid import Grid

TRUST = Annotated[bool, typer.Option(
    "--trust", help="Run the code of a program that the spec names by its file or its module.")]
JOBS = Annotated[int, typer.Option(help="Number of processes that run a grid; 0: one per core.", min=0)]
DASK = Annotated[str | None, typer.Option(help="Address of a Dask scheduler that runs a grid.")]


@app.command()
def run(
    spec: Annotated[str, typer.Argument(help="A spec file, a model's name (its ready-made spec), or a run's directory.")],
    as_json: JSON = False, columns: COLUMNS = "default", out: OUT = None, save: SAVE = True, report: REPORT = True,
    jobs: JOBS = 0, dask: DASK = None, checkpoint_every: EVERY = None, tensorboard: TENSORBOARD = False, force: FORCE = False,
    trust: TRUST = False,
) -> int:
    """Run a spec file: one run, or all runs of a grid. The exit code is 3 if a run of a grid failed."""
    from experiments.runs.grid import find, read_grid
    from experiments.runs.run import check_run

    shown = Shown(as_json, columns)
    path = find(spec)
    grid = read_grid(path)
    check_run(path.parent)
    saving = Saving(out, save, report, checkpoint_every, tensorboard, force, trust)
    if grid.single:
        if dask is not None:
            raise ZooError(f"expected a grid with --dask; got the one run of {path}; leave --dask out")
        do(grid.specs[""], shown, None, saving)
        return 0
    first = next(iter(grid.specs.values()))
    place = saving.path(first)
    if place is None or tensorboard:
        raise ZooError("expected a directory for a grid's runs; got --no-save or --tensorboard; leave it out")
    return _sweep(grid, place, shown, saving, jobs, dask)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(help="Directory of a run or of a grid.")],
    as_json: JSON = False, columns: COLUMNS = "default", report: REPORT = True, jobs: JOBS = 0, dask: DASK = None,
    checkpoint_every: EVERY = None, tensorboard: TENSORBOARD = False, force: FORCE = False, trust: TRUST = False,
) -> int:
    """Continue an interrupted run from its last checkpoint; the result is the same as without the interruption."""
    from experiments.reporting.record import state_of
    from experiments.runs.grid import spec_of
    from experiments.runs.sweep import grid_of

    shown = Shown(as_json, columns)
    saving = Saving(directory, True, report, checkpoint_every, tensorboard, force, trust)
    grid = grid_of(directory)
    if grid is not None:
        return _sweep(grid, directory, shown, saving, jobs, dask)
    spec = spec_of(directory)
    if state_of(directory) == "done" and not force:
        raise ZooError(
            f"expected a run that was cut off in {directory}; got one that is done; 'zoo report {directory}' makes its page")
    do(spec, shown, None, saving)
    return 0


@app.command("report")
def report_command(
    directories: Annotated[list[Path], typer.Argument(help="Directories of runs or grids; one page compares all runs.")],
    out: Annotated[Path | None, typer.Option(
        help="File of the page; by default report.html in the directory, or in the current one for several.")] = None,
) -> None:
    """Write the page of one run, or one page that compares several runs."""
    from experiments.reporting.output import remark
    from experiments.reporting.record import find_runs, read, read_each
    from experiments.reporting.report import page
    from experiments.runtime.files import whole

    found = [path for directory in directories for path in find_runs(directory)]
    if not found:
        raise ZooError(f"expected run directories; got none in {', '.join(map(str, directories))}; check the path")
    target = out or (directories[0] / "report.html" if len(directories) == 1 else Path("report.html"))
    several = [*dict.fromkeys(found)]
    records = read_each(several) if len(several) > 1 else [read(several[0])]
    whole(target, page(records))
    for record in records:
        if record.state == "damaged":
            remark(record.error)
    remark(f"wrote {target}")


@app.command()
def runs(
    directory: Annotated[Path, typer.Argument(help="Directory with the runs.")] = Path("runs"), as_json: JSON = False,
) -> None:
    """List the runs in a directory and their states, oldest first."""
    from experiments.reporting.output import remark
    from experiments.reporting.record import find_runs, glance, read_each

    found = find_runs(directory)
    if not found and not as_json:
        remark(f"no runs in {directory}")
        return
    show_records(read_each(found, glance), as_json)


def _sweep(grid: Grid, place: Path, shown: Shown, saving: Saving, jobs: int, dask: str | None) -> int:
    if shown.columns != "default":
        raise ZooError(f"expected one run with --columns; got a grid of {len(grid.specs)}; leave --columns out")
    from experiments.reporting.output import remark
    from experiments.runs.stopping import stoppable
    from experiments.runs.sweep import SweepOptions, sweep

    def told(name: str, state: str) -> None:
        remark(f"{name}: {state}")

    with stoppable() as stop, _executor(dask) as executor:
        records = sweep(grid, place, SweepOptions(
            jobs, report=saving.report, force=saving.force, trust=saving.trust, stop=stop, told=told, **saving.every), executor)
    show_records(records, shown.as_json)
    remark(f"wrote {place}")
    return 3 if any(record.state == "failed" for record in records) else 0


def _executor(dask: str | None) -> AbstractContextManager[Executor | None]:
    if dask is None:
        return nullcontext()
    from experiments.runs.dask import connected

    return connected(dask)
