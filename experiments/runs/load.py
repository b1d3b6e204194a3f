"""Loading of a finished run in another process: its model, guides, histories and posterior."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.comparison.plan import FittedComparison
from experiments.fits.journal import Journal
from experiments.fits.result import Fit
from experiments.inference.saved import data_digest
from experiments.reporting.output import height
from experiments.reporting.record import read_comparison, status_of
from experiments.runs.grid import spec_of
from experiments.runs.job import Job, prepare
from experiments.runs.saving import DATA, restored
from experiments.runs.spec import Spec
from experiments.runtime.sealed import sealed_bytes
from experiments.runtime.toml import read_toml
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.datasets import Dataset
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import Program

if TYPE_CHECKING:
    from xarray import DataTree


#: Bytes of numbers that a posterior file may hold whatever its size, and how many times its size beyond.
LARGEST, MOST = 2**26, 100


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
        return read_tree(self.path)


def load(
    path: str | Path, model: Model | Program | None = None, guides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Return a finished run: its model, guides, histories and posterior, as they were.

    The model and the guides are built from the spec and the data, and their parameters read from the checkpoint: nothing is
    fitted, nothing evaluated, and no code that lies in the directory, or that its spec names, is run.

    Args:
        path: the directory.
        model: the program, of a run of a program of the user's own, or of a comparison that was saved in Python.
        guides: of such a comparison, Pyro's own guides by their texts, which they can't be built from.

    Raises:
        ZooError: a program of the user's own, and none passed; no run, one that is not done, data that changed since, or a file
            that was altered.
    """
    path = Path(path)
    spec, status = spec_of(path), status_of(path)
    if status.state != "done":
        failed = status.state == "failed"
        what = f"one that failed: {status.error}" if failed else "one that is not done; 'zoo resume' goes on with it"
        raise ZooError(f"expected a finished run in {path}; got {what}")
    record = read_toml(path / "spec.toml").get("record", {})
    if isinstance(record, dict) and isinstance(record.get("saved"), dict):
        return _saved(path, spec, status.files, record["saved"], model, guides or {})
    job = prepare(spec, model)
    if not isinstance(record, dict) or record.get("data_sha256") != data_digest(job.data.x):
        raise ZooError(
            f"expected the data that {path} was run on; got other values of '{job.data.name}'; put the old data back")
    sealed_bytes(path, "spec.toml", status.files)
    comparison = read_comparison(path, status.files)
    if comparison is None:
        raise ZooError(f"expected {path / 'comparison.json'}; got none; 'zoo resume' makes it again")
    return Loaded(path, spec, comparison, job, job.fitted(Journal(path / "checkpoint", sealed=True)))


def _saved(
    path: Path, spec: Spec, seals: Mapping[str, str], saved: Mapping[str, Any], model: Model | Program | None,
    guides: Mapping[str, Any],
) -> Loaded:
    """Return a comparison that was saved in Python."""
    if model is None:
        raise ZooError(f"expected the model '{spec.model}'; got none, and no code is run for it; pass it as model=")
    for name in ("spec.toml", DATA):
        sealed_bytes(path, name, seals)
    comparison = read_comparison(path, seals)
    if comparison is None:
        raise ZooError(f"expected {path / 'comparison.json'}; got none; save it again")
    rows = [row["guide"] for row in comparison["guides"]]
    fitted = restored(path, saved, rows, spec.seed, model, guides)
    job = Job(spec, fitted.plan.model, Dataset(str(comparison["data"]), fitted.plan.x), 0.0)
    return Loaded(path, spec, comparison, job, fitted)


def read_tree(path: Path) -> DataTree:
    """Read the posterior tree of the run in ``path`` into memory: of its file alone, in which nothing is executed.

    Raises:
        ZooError: if there is none, it is no NetCDF file, was changed since the run was done, or leads to other files.
    """
    import xarray as xr

    file = path / "posterior.nc"
    content = sealed_bytes(path, "posterior.nc", status_of(path).files)
    if content is None:
        raise ZooError(f"expected a posterior in {file}; got none; 'zoo resume {path} --force' makes it again")
    try:
        _check_alone(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xr.open_datatree(io.BytesIO(content), engine="h5netcdf") as tree:
                return tree.load()
    except Exception as error:  # whatever a broken file makes the reader raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise ZooError(f"expected a posterior in {file}; got a file that can't be read: {first[:160]}") from None


def _check_alone(content: bytes) -> None:
    """Raise a ``ValueError`` where an HDF5 file has its numbers in other files, or says that it has far more than it holds."""
    import h5py

    apart: list[str] = []
    sizes: list[int] = []

    def visit_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            apart.append(name)

    def visit(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            sizes.append(found.nbytes)
            if found.external or found.is_virtual:
                apart.append(name)

    with h5py.File(io.BytesIO(content), "r") as file:  # these go on whatever is raised in a visit
        file.visititems_links(visit_link)
        file.visititems(visit)
    if apart:
        raise ValueError(f"'{apart[0]}' lies in another file")
    if sum(sizes) > max(LARGEST, MOST * len(content)):
        raise ValueError(f"{sum(sizes):,} bytes of numbers in a file of {len(content):,}")
