"""The work of a command: it does what a spec asks for, and prints how it went."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.comparison.terminal.layout import SELECTIONS
from zoo.errors import ZooError, chosen

if TYPE_CHECKING:
    from experiments.comparison.table import Comparison
    from experiments.fits.journal import Stop
    from experiments.reporting.record import Record
    from experiments.runs.job import Job
    from experiments.runs.run import RunOptions
    from experiments.runs.spec import Spec


@dataclass(frozen=True)
class Shown:
    """How a command prints its table: as JSON, or as text with a selection of columns.

    Raises:
        ZooError: no such selection.
    """

    as_json: bool = False
    columns: str = "default"

    def __post_init__(self) -> None:
        chosen(SELECTIONS, self.columns, "--columns")


@dataclass(frozen=True)
class Saving:
    """The place where a run is saved: its directory (``None``: one of its own below ``runs``), or nothing."""

    out: Path | None
    save: bool = True
    report: bool = True
    interval: float | None = None
    tensorboard: bool = False
    force: bool = False
    trust: bool = False

    @property
    def kept(self) -> bool:
        """Whether anything is left behind: ``ZOO_RUNS`` may be empty."""
        return self.save and bool(self.out is not None or self._parent)

    @property
    def _parent(self) -> str:
        return os.environ.get("ZOO_RUNS", "runs")

    def path(self, spec: Spec) -> Path | None:
        """Return the directory for a run of ``spec``; ``None``: nothing is to be left behind."""
        if not self.kept or self.out is not None:
            return self.out if self.kept else None
        from experiments.runs.run import default_path

        return default_path(spec, Path(self._parent))

    def how(self, spec: Spec, path: Path, stop: Stop, shown: Shown) -> RunOptions:
        """Return how a run of ``spec`` in ``path`` is to be done."""
        from experiments.fits.trackers import TensorBoard
        from experiments.runs.run import RunOptions

        callbacks = [TensorBoard(path / "tensorboard")] if self.tensorboard else []
        return RunOptions(
            callbacks, begun=said, show=lambda table: report(table, shown, spec.parameters), stop=stop, report=self.report,
            force=self.force, trust=self.trust, **self.every)

    @property
    def every(self) -> dict[str, Any]:
        """The seconds between checkpoints, as an option where one was given."""
        return {} if self.interval is None else {"interval": self.interval}


def do(spec: Spec, shown: Shown, save_spec: Path | None, saving: Saving) -> None:
    """Do one run, or write its spec down."""
    from experiments.reporting.output import remark

    if save_spec is not None:
        from experiments.runs.grid import write_toml
        from experiments.runtime.files import whole

        whole(save_spec, write_toml(spec))
        return remark(f"wrote {save_spec}; 'zoo run {save_spec}' does it")
    if not saving.kept and (saving.tensorboard or saving.out is not None):
        raise ZooError("expected a run directory for --out and --tensorboard; got --no-save; leave one of them out")
    begun(spec)
    path = saving.path(spec)
    if path is None:
        from experiments.runs.job import prepared

        with prepared(spec, saving.trust) as job:
            said(job)
            table = job.work()
            with job.printing():
                return report(table, shown, spec.parameters)
    from experiments.runs.run import run
    from experiments.runs.stopping import stoppable

    with stoppable() as stop:
        run(spec, path, saving.how(spec, path, stop, shown))
    remark(f"wrote {path}")


def begun(spec: Spec) -> None:
    """Say on a terminal at once what will be done: torch takes a second to load, and data and fits may take minutes."""
    from experiments.reporting.output import say

    if sys.stderr.isatty():
        work = "comparing" if spec.command == "compare" else "fitting"
        say(f"{spec.model} on {spec.data}: {work} {', '.join(spec.guides) or 'what fits it'}")


def said(job: Job) -> None:
    """Say what was done to the data."""
    from experiments.reporting.output import remark

    for text in job.data.remarks:
        remark(f"{job.data.name}: {text}")


def report(table: Comparison, shown: Shown, parameters: bool = False) -> None:
    """Print a table, and with ``parameters`` each quantity by each guide."""
    from experiments.reporting.output import print_json

    found = table.parameters() if parameters else None
    if shown.as_json:
        more = {"parameters": None if found is None else found.to_dict()} if parameters else {}
        return print_json({**table.to_dict(), **more})
    from experiments.comparison.terminal import text
    from experiments.comparison.terminal.console import console

    text.comparison(table, console(), shown.columns)
    if parameters:
        text.parameters(found, console())


def show_records(records: list[Record], as_json: bool) -> None:
    """Print several runs as a table: a row a run and guide."""
    from experiments.reporting.output import print_json
    from experiments.reporting.record import overview

    if as_json:
        return print_json([
            {"run": r.name, "path": str(r.path), "state": r.state, "error": r.error, **(r.comparison or {})} for r in records])
    from experiments.cli import listing

    listing.show_runs(overview(records))
