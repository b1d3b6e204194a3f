"""Many runs: a grid on any executor, each run in a directory of its own, only what is missing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.fits.journal import INTERVAL, Stop, slug
from experiments.reporting.output import remarks
from experiments.reporting.record import Record, overview, read_each, settle, state_of
from experiments.runs.grid import Grid, write_toml
from experiments.runs.job import check_trusted
from experiments.runs.spec import Spec
from experiments.runtime.files import directory, locked, whole
from experiments.runtime.sealed import check_inside
from zoo.errors import Interrupted, ZooError

#: How often a sweep looks whether it was asked to stop, in seconds.
PATIENCE = 0.2
#: How often a run is tried whose process was killed: another run's may have taken the memory.
TRIES = 2
STOP = ".stop"


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep over a grid of runs.

    Attributes:
        jobs: the number of processes at a time; 0: one per core.
        interval, report, force, trust: see :class:`experiments.runs.run.RunOptions`.
        stop: set by the caller to stop the sweep.
        told: called with the name and the state of each run when the run ends.
    """

    jobs: int = 0
    interval: float = INTERVAL
    report: bool = True
    force: bool = False
    trust: bool = False
    stop: Stop = field(default_factory=Stop)
    told: Callable[[str, str], None] = lambda name, state: None


def sweep(
    grid: Grid, path: str | Path, how: SweepOptions | None = None, executor: Executor | None = None,
) -> list[Record]:
    """Do the runs of a grid, each in a directory below ``path`` that is named after it, and return what they left behind.

    Runs that are done are not done again; those that were cut off go on. One that fails does not stop the others: its error is
    in its directory. The processes must see the same files.

    Args:
        grid: the runs.
        path: the directory of them all.
        how: processes and the like.
        executor: where runs are done; ``None``: processes of this machine, each on its share of the cores.

    Raises:
        ZooError: a directory that can't be written to, or is at work elsewhere, or holds another grid.
        Interrupted: if it was told to stop; the runs under way have then written a checkpoint.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from tempfile import TemporaryDirectory
    >>> from experiments import SweepOptions, read_grid, sweep
    >>> with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as executor:
    ...     file = Path(folder) / "grid.toml"
    ...     _ = file.write_text('model = "gmm"\\nguides = ["exact"]\\n[options]\\ncomponents = [1, 2]')
    ...     done = sweep(read_grid(file), Path(folder) / "runs", SweepOptions(report=False), executor)
    >>> [(record.name, record.state) for record in done]
    [('components=1', 'done'), ('components=2', 'done')]
    """
    from experiments.runs.run import interruptible, settled

    path, how = Path(path).resolve(), how or SweepOptions()
    specs = {name: settled(spec) for name, spec in grid.specs.items()}
    grid = Grid(specs, grid.record)  # a worker may stand in another directory
    for spec in specs.values():
        check_trusted(spec, how.trust)
    with directory(path), locked(path), interruptible(path):
        check_inside(path)
        _begin(grid, path)
        places = {name: path / slug(name) for name in grid.specs}
        missing = [name for name, place in places.items() if _state(place) != "done"]
        with _told_to_stop(path, how.stop):
            if missing and executor is None:
                _on_processes(grid, places, missing, how, path)
            elif executor is not None:
                _on(executor, grid, places, missing, how, path, 1)
        records = read_each(places.values())
        write_overview(records, path, how.report)
        return records


def write_overview(records: Sequence[Record], path: Path, report: bool = True) -> None:
    """Write comparison.json and .csv of several runs, a row a run and guide, and with ``report`` the page that compares them.

    Raises:
        ZooError: if the disk refuses.
    """
    import pandas as pd

    found = [{"run": r.name, "state": r.state, "error": r.error, **(r.comparison or {})} for r in records]
    whole(path / "comparison.json", json.dumps(found, indent=1, ensure_ascii=False))
    whole(path / "comparison.csv", pd.DataFrame(overview(records)).to_csv(index=False))
    if report:
        from experiments.reporting.report import page

        whole(path / "report.html", page(records))


def one(
    spec: str, place: str, interval: float, report: bool, force: bool, trust: bool, stop: str, threads: int,
) -> str:
    """Do one run of a sweep in this process, and return how it stands; what goes wrong is in its directory."""
    from experiments.runs.run import RunOptions, one_line, run

    path = Path(place)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with remarks():
            run(_spec(spec), path, RunOptions(
                interval=interval, report=report, force=force, trust=trust, progress=False, keep=True,
                stop=Stop(file=Path(stop))))
        return "done"
    except Interrupted:
        return "unfinished"
    except Exception as error:
        return _failed(path, spec, one_line(error))
    finally:
        torch.set_num_threads(before)


def _failed(path: Path, spec: str, error: str) -> str:
    """Leave a failed run's error in its directory; its spec, too, where it was not even begun: its data can't be read, say."""
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "spec.toml").exists():
        whole(path / "spec.toml", spec)
    settle(path, "failed", error)
    return "failed"


def _begin(grid: Grid, path: Path) -> None:
    """Write down which grid is in a directory, or check that it is this one."""
    from experiments.runs.run import check_empty

    file = path / "grid.json"
    now = {name: write_toml(spec) for name, spec in grid.specs.items()}
    if not file.exists():
        check_empty(path, f"this grid in {path}")
        whole(file, json.dumps(now, indent=1, ensure_ascii=False))
        return
    try:
        before = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise ZooError(f"expected a grid in {file}; got a file that can't be read; choose another --out") from None
    differs = [name for name, text in now.items() if not isinstance(before, dict) or before.get(name, text) != text]
    if differs:
        raise ZooError(f"expected the same grid in --out {path}; got one with another run '{differs[0]}'; choose another")
    whole(file, json.dumps({**before, **now}, indent=1, ensure_ascii=False))


def _on_processes(grid: Grid, places: Mapping[str, Path], missing: list[str], how: SweepOptions, path: Path) -> None:
    """Do runs in processes of this machine, anew where one was killed."""
    cores = os.cpu_count() or 1
    jobs = max(1, min(len(missing), how.jobs or cores))
    for _ in range(TRIES):
        # A fork may not use threads that torch has started. Ctrl-C reaches all processes: the parent tells them.
        pool = ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
        with pool:
            missing = _on(pool, grid, places, missing, how, path, max(1, cores // jobs))
        if not missing:
            return
    for name in missing:
        how.told(name, _failed(places[name], write_toml(grid.specs[name]), "its process was killed, for want of memory?"))


def _on(
    executor: Executor, grid: Grid, places: Mapping[str, Path], missing: list[str], how: SweepOptions, path: Path, threads: int,
) -> list[str]:
    """Do runs on an executor; return those whose process was killed."""
    running = {
        executor.submit(
            one, write_toml(grid.specs[name]), str(places[name]), how.interval, how.report, how.force, how.trust,
            str(path / STOP), threads): name
        for name in missing}
    killed = []
    while running:
        done, _ = wait(running, timeout=PATIENCE, return_when=FIRST_COMPLETED)
        if how.stop.asked is not None and not (path / STOP).exists():
            _stop(running, path, how.stop.asked)
        for future in _ended(running, done):
            name = running.pop(future)
            if future.cancelled():
                continue
            try:
                how.told(name, future.result())
            except BrokenProcessPool:
                killed.append(name)
            except Exception as error:  # the executor's own: a worker that was lost, a scheduler that can't be reached
                text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                how.told(name, _failed(places[name], write_toml(grid.specs[name]), text))
    if how.stop.asked is not None:
        raise Interrupted(how.stop.asked)
    return killed


def _stop(running: Iterable[Future[str]], path: Path, asked: int) -> None:
    """Tell the runs under way to stop, by a file, and cancel those that have not begun."""
    (path / STOP).write_text(str(asked))
    for future in running:
        future.cancel()


def _ended(running: Iterable[Future[str]], done: Set[Future[str]]) -> list[Future[str]]:
    """Return the futures that are ``done``, and those that were cancelled since."""
    return [*done, *(future for future in running if future.cancelled() and future not in done)]


@contextmanager
def _told_to_stop(path: Path, stop: Stop) -> Iterator[None]:
    """Make whoever asks to stop wait for the runs under way; they are told by a file, wherever they run."""
    (path / STOP).unlink(missing_ok=True)
    stop.waits = True
    try:
        yield
    finally:
        stop.waits = False
        (path / STOP).unlink(missing_ok=True)


def _spec(text: str) -> Spec:
    import tomllib

    from experiments.runs.grid import expand
    from experiments.runs.spec import complete

    raw: dict[str, Any] = tomllib.loads(text)
    raw.pop("format")
    ((_, given),) = expand(raw)
    return complete("", **given)


def grid_of(path: Path) -> Grid | None:
    """Return the grid whose runs are in ``path``; ``None`` where there is no grid's directory.

    Raises:
        ZooError: if what is written of it can't be read.
    """
    file = path / "grid.json"
    if not file.exists():
        return None
    try:
        texts = json.loads(file.read_bytes())
        return Grid({str(name): _spec(text) for name, text in texts.items()}, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise ZooError(f"expected a grid in {file}; got a file that can't be read: {text}") from None


def _state(path: Path) -> str:
    return state_of(path)
