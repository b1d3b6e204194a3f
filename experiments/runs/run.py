"""Runs: a spec's work done in a directory, from where it was left."""

from __future__ import annotations

import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from experiments.comparison.table import Comparison
from experiments.fits.callbacks import Callback
from experiments.fits.journal import INTERVAL, Journal, Stop, slug
from experiments.fits.trackers import Metrics
from experiments.reporting.record import OURS, read, settle
from experiments.reporting.results import write_posterior, write_table
from experiments.runs.grid import read_grid, spec_of, write_toml
from experiments.runs.job import Job, prepared
from experiments.runs.programs import absolute_program, is_own
from experiments.runs.provenance import changes, provenance
from experiments.runs.spec import Spec
from experiments.runtime.files import Hold, InUse, clear, directory, locked, whole
from experiments.runtime.sealed import check_inside
from experiments.runtime.toml import read_toml
from zoo.errors import Interrupted, ZooError, ZooWarning

#: Where runs go that are not told where.
RUNS = Path("runs")
#: Seconds to wait for another process at work where a run goes on: a worker whose parent was killed needs some to stop.
WAIT = 10.0


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that its results do not depend on.

    Attributes:
        callbacks: callbacks of every fit.
        begun: called with the job before the work begins.
        show: called with the table as soon as it is written, before figures and report are made.
        progress: whether to show progress bars on standard error; ``None``: on a terminal.
        interval: seconds between checkpoints.
        stop: set by the caller to stop the run.
        report: whether to make the figures, the posterior's draws and the report.
        force: whether to continue although data or code changed.
        keep: whether to keep the directory of a run that failed before its first step.
        trust: whether to run the code of a program of the user's own that the spec names.
    """

    callbacks: Sequence[Callback] = ()
    begun: Callable[[Job], None] | None = None
    show: Callable[[Comparison], None] | None = None
    progress: bool | None = None
    interval: float = INTERVAL
    stop: Stop = field(default_factory=Stop)
    report: bool = True
    force: bool = False
    keep: bool = False
    trust: bool = False


def default_path(spec: Spec, parent: Path = RUNS) -> Path:
    """Return a directory for a run that was not told where: ``runs/<model>-<data>-<time>-<short id>``."""
    data = slug(Path(spec.data).name if "/" in spec.data else spec.data)
    model, now = slug(spec.model.rpartition(":")[2]), datetime.now().strftime("%Y%m%d-%H%M%S")
    return parent / f"{model}-{data}-{now}-{secrets.token_hex(2)}"


def run(spec: Spec, path: str | Path, how: RunOptions | None = None) -> Comparison:
    """Do a run in the directory ``path``, or go on with it where it was begun there; return its table.

    Args:
        spec: what to do.
        path: the directory: new, empty, or one in which this very spec was begun.
        how: callbacks and the like.

    Raises:
        ZooError: anything that is wrong with the spec or its data, found before anything is written; a directory that can't be
            written to, holds another run, or in which another process runs; data or code that changed since; a full disk.
        Interrupted: if it was told to stop; the directory then holds a checkpoint.
    """
    path, how = Path(path), how or RunOptions()
    check_run(path)
    wait = WAIT if (path / "spec.toml").exists() else 0.0
    with prepared(spec, how.trust) as job, directory(path), locked(path, wait) as hold, interruptible(path):
        if how.begun is not None:
            how.begun(job)
        check_inside(path, OURS)
        clear(path)
        new = not (path / "spec.toml").exists()
        record = _begun(job, path, how.force)
        hold.keep(path / "spec.toml")
        with _threads(record.get("threads")):
            try:
                return _work(job, hold, how)
            except InUse:
                raise
            except Exception as error:
                settle(path, "failed", one_line(error))
                if new and not how.keep and not (path / "metrics.jsonl").exists():
                    shutil.rmtree(path)  # nothing was done: what was asked for was wrong
                raise


@contextmanager
def interruptible(path: Path) -> Iterator[None]:
    """Let whoever is interrupted say in which directory."""
    try:
        yield
    except Interrupted as stopped:
        stopped.path = path
        raise


def one_line(error: Exception) -> str:
    """Return what went wrong in one line: our own words, or the first line of another's with its type."""
    if isinstance(error, ZooError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def resume(path: str | Path, how: RunOptions | None = None) -> Comparison:
    """Go on with the run in ``path``, from its last checkpoint, to the same bits as if it had not been cut off.

    Raises:
        ZooError: if there is no run, it runs elsewhere, its spec can't be read, or data or code changed since, unless forced.
    """
    return run(spec_of(Path(path)), path, how)


def check_run(path: Path) -> None:
    """Raise a :class:`ZooError` where a directory holds a comparison that was saved in Python: nothing goes on there."""
    record = read_toml(path / "spec.toml").get("record") if (path / "spec.toml").exists() else None
    if isinstance(record, dict) and "saved" in record:
        raise ZooError(f"expected a run in {path}; got a comparison that was saved in Python; go on with it there")


def _begun(job: Job, path: Path, force: bool) -> Mapping[str, Any]:
    """Write down what is begun, or check that it is what was begun there before; return the record of its provenance."""
    now = provenance(job.data, job.spec)
    file = path / "spec.toml"
    spec = with_absolute_paths(job.spec)
    if not file.exists():
        check_empty(path, f"a run in --out {path}")
        whole(file, write_toml(spec, now))
        return now
    found = read_grid(file)
    if not found.record:  # written, but never begun
        whole(file, write_toml(spec, now))
        return now
    _check_same(found.specs.get(""), spec, path)
    changed = changes(found.record, now)
    if changed and not force:
        raise ZooError(
            f"expected the data and code that {path} was begun with; got others: changed since is {'; '.join(changed)}; put "
            "them back, or pass --force")
    if changed:
        warnings.warn(ZooWarning(f"{path} goes on although this changed: {'; '.join(changed)}"), stacklevel=3)
    (path / "status.json").unlink(missing_ok=True)
    return {"threads": now["threads"], **found.record}


def check_empty(path: Path, expected: str) -> None:
    """Raise a :class:`ZooError` unless a directory holds hidden files alone; ``expected`` says what else it might have held."""
    others = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    if others:
        raise ZooError(f"expected an empty directory or {expected}; got one with {others[0]}; choose another")


def _check_same(before: Spec | None, spec: Spec, path: Path) -> None:
    """Raise unless the spec that was begun in a directory, ``None`` for those of a grid, is ``spec``."""
    if before is None or before != spec:
        differs = "a grid" if before is None else next(
            f"{key} {getattr(before, key)!r}, not {value!r}" for key, value in spec if getattr(before, key) != value)
        raise ZooError(f"expected an empty directory or the same run in --out {path}; got one with {differs}; choose another")


def _work(job: Job, hold: Hold, how: RunOptions) -> Comparison:
    path = hold.path
    journal = Journal(path / "checkpoint", how.interval, how.stop, ready=hold.check)
    metrics = Metrics(path / "metrics.jsonl", journal.make)
    metrics.check()
    table = job.work(journal, [metrics, *how.callbacks], how.progress)
    show = how.show
    for _ in range(3):
        metrics.check()
        journal.make()  # and what it holds, where the directory was removed
        try:
            write_table(table, path)
            if show is not None:
                with job.printing():
                    show(table)
                show = None
            if how.report:
                write_posterior(table, job.data, path)
            settle(path, "done")
            if how.report:
                _write_page(path)
        except (ZooError, OSError):
            if not hold.lost:
                raise
        if not hold.lost:
            return table
    raise ZooError(f"expected {path} to stay while results are written; got it removed three times; see what does that")


def _write_page(path: Path) -> None:
    from experiments.reporting.report import page

    try:
        whole(path / "report.html", page([read(path)]))
    except ZooError:
        raise
    except Exception as error:  # a page that fails must not take the run with it
        warnings.warn(ZooWarning(f"the report could not be made: {one_line(error)}"), stacklevel=4)


@contextmanager
def _threads(count: Any) -> Iterator[None]:
    """Run on as many threads as the run was begun with: sums are split between them, and so are roundings."""
    before = torch.get_num_threads()
    if isinstance(count, int) and 1 <= count <= 1024:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_absolute_paths(spec: Spec) -> Spec:
    """Return a spec whose files, of data and of a program, are named by absolute paths."""
    return spec.model_copy(update={
        "data": absolute(spec.data), "model": absolute_program(spec.model) if is_own(spec.model) else spec.model})


def absolute(data: str) -> str:
    """Return what names a data set, a file by its absolute path: whoever goes on may stand elsewhere."""
    return str(Path(data).resolve()) if Path(data).exists() else data
