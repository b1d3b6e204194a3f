"""Loading of a finished run in another process: its model, guides, histories and posterior."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.comparison.plan import FittedComparison
from experiments.fits.journal import Journal
from experiments.fits.result import Fit
from experiments.inference.saved import data_digest
from experiments.reporting.output import height
from experiments.reporting.record import read_comparison, state_of
from experiments.runs.grid import spec_of
from experiments.runs.job import Job, prepare
from experiments.runs.spec import Spec
from experiments.runtime.toml import read_toml
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True)
class Loaded:
    """A finished run, back in memory.

    Attributes:
        path, spec: the directory and the spec of the run.
        comparison: the numbers of the run, as plain data, from comparison.json.
    """

    path: Path
    spec: Spec
    comparison: dict[str, Any]
    job: Job = field(repr=False)
    fitted: FittedComparison = field(repr=False)

    @property
    def fits(self) -> list[Fit]:
        """The guides' fits, in the order asked."""
        return self.fitted.fits

    @property
    def theta(self) -> Fit | None:
        """The fit of θ, where all guides share one."""
        return self.fitted.theta

    @property
    def best(self) -> Fit:
        """The fit of the guide with the highest ELBO."""
        rows = self.comparison["guides"]
        return self.fits[max(range(len(rows)), key=lambda i: height(rows[i]["elbo"]["value"]))]

    @property
    def model(self) -> Model:
        """The model, with the parameters that were found."""
        return self.best.model

    @property
    def guide(self) -> BaseGuide:
        """The guide with the highest ELBO."""
        return self.best.guide

    @property
    def history(self) -> tuple[tuple[int, float, float], ...]:
        """(step, bound, seconds) of the fit of θ; where guides do not share one, of the best guide's."""
        return (self.best if self.theta is None else self.theta).history

    @property
    def x(self) -> Data:
        """The data on which the guides were compared."""
        return self.fitted.plan.x

    @cached_property
    def posterior(self) -> DataTree:
        """The tree of posterior.nc.

        Raises:
            ZooError: if there is none, or it can't be read.
        """
        return read_tree(self.path / "posterior.nc")


def load(path: str | Path) -> Loaded:
    """Return a finished run: its model, guides, histories and posterior, as they were.

    The model and the guides are built from the spec and the data, and their parameters read from the checkpoint: nothing is
    fitted, nothing evaluated, and no code that lies in the directory is run.

    Raises:
        ZooError: no run, one that is not done, data that changed since, or a file that was altered.
    """
    path = Path(path)
    spec = spec_of(path)
    state, error = state_of(path)
    if state != "done":
        what = f"one that failed: {error}" if state == "failed" else "one that is not done; 'zoo resume' goes on with it"
        raise ZooError(f"expected a finished run in {path}; got {what}")
    job = prepare(spec)
    record = read_toml(path / "spec.toml").get("record", {})
    if not isinstance(record, dict) or record.get("data_sha256") != data_digest(job.data.x):
        raise ZooError(
            f"expected the data that {path} was run on; got other values of '{job.data.name}'; put the old data back")
    comparison = read_comparison(path / "comparison.json")
    if comparison is None:
        raise ZooError(f"expected {path / 'comparison.json'}; got none; 'zoo resume' makes it again")
    return Loaded(path, spec, comparison, job, job.fitted(Journal(path / "checkpoint", sealed=True)))


def read_tree(path: Path) -> DataTree:
    """Read a posterior tree from a NetCDF file into memory. Nothing in such a file is executed.

    Raises:
        ZooError: if there is none, or it is no NetCDF file.
    """
    import xarray as xr

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xr.open_datatree(path, engine="h5netcdf") as tree:
                return tree.load()
    except Exception as error:  # whatever a broken file makes the reader raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise ZooError(f"expected a posterior in {path}; got a file that can't be read: {first[:160]}") from None
