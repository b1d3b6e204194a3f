"""Grids, resumes and results that are killed: parents, workers, runs that go on, and runs that write what they found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import experiments.fits.journal
import experiments.runs.run
import experiments.runs.sweep
from experiments.fits.journal import Journal
from experiments.reporting.record import state_of
from experiments.runs.grid import Grid
from experiments.runs.run import run
from experiments.runs.spec import complete
from experiments.runs.sweep import SweepOptions, sweep
from experiments.runtime.files import InUse, locked
from tests.experiments.runs.durable import bits, numbers, quiet
from tests.experiments.runs.test_kills import KILLS, processes
from zoo.errors import ZooError, ZooWarning

__all__ = ["processes"]

#: How many moments each of these is killed at.
FEW = max(2, KILLS // 4)
NAMES = ("seed=0", "seed=1")


def grid(steps: int) -> Grid:
    return Grid({name: complete(
        command="fit", model="gmm", data="iris", guides=("categorical:encoder",), method="svi", steps=steps, draws=8,
        validation=0.2, batch_size=20, seed=seed) for seed, name in enumerate(NAMES)}, {})


GRID = grid(100)


def hasten() -> None:
    """Write a checkpoint after each step, and fork workers off this process, which has imported everything and done nothing.

    Who is killed need not be safe from a power cut.
    """
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None
    experiments.fits.journal.SHARE = 1e9
    experiments.runs.sweep.get_context = lambda kind: multiprocessing.get_context("fork")


def sweep_in(path: str, begun: Any, kill_worker_after: float | None = None, endless: bool = False) -> None:
    """Do a grid in this process; ``begun`` is told when the first worker is there. A worker may be killed some seconds later.

    Runs that are ``endless`` write no checkpoint but where they are stopped.
    """
    hasten()

    def watch() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        begun.set()
        if kill_worker_after is not None:
            time.sleep(kill_worker_after)
            workers[0].kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        asked, interval = (grid(10**6), 1e9) if endless else (GRID, 0.0)
        sweep(asked, path, SweepOptions(jobs=2, interval=interval, report=False))
    finally:
        begun.set()


def run_in(path: str, begun: Any, writing: Any = None) -> None:
    """Do a run in this process; ``begun`` is told after its first checkpoint, ``writing`` before its results are written."""
    hasten()
    saved, written = Journal.save, experiments.runs.run.write_table

    def save(*arguments: Any) -> Any:
        done = saved(*arguments)
        begun.set()
        return done

    def write(*arguments: Any) -> None:
        begun.set()
        if writing is not None:
            writing.set()
        written(*arguments)

    Journal.save, experiments.runs.run.write_table = save, write
    run(GRID.specs["seed=0"], Path(path), quiet(interval=0.0))


def started(processes: Any, target: Any, path: Path, *more: Any) -> Any:
    begun = processes.Event()
    process = processes.Process(target=target, args=(str(path), begun, *more))
    process.start()
    assert begun.wait(60)
    return process


def ended(process: Any) -> None:
    process.join(120)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, processes: Any) -> tuple[Path, float]:
    """A grid that was never cut off, and the seconds that it took from the first worker on."""
    path = tmp_path_factory.mktemp("whole") / "grid"
    process = started(processes, sweep_in, path)
    begun = time.monotonic()
    ended(process)
    return path, time.monotonic() - begun


def check_same(path: Path, whole: Path) -> None:
    for name in NAMES:
        assert state_of(path / name) == "done"
        assert bits(path / name, f"seed {name[-1]}") == bits(whole / name, f"seed {name[-1]}")
        assert numbers(path / name) == numbers(whole / name)
    left = [file.name for pattern in (".part-*", "step-*", ".stop", ".trial-*") for file in path.rglob(pattern)]
    assert left == []


def moments(seconds: float, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).uniform(0, seconds, FEW))


def test_parents_of_a_grid_killed_at_any_moment_leave_no_worker_behind(
    whole: tuple[Path, float], tmp_path: Path, processes: Any,
) -> None:
    for i, moment in enumerate(moments(whole[1], 1)):
        path = tmp_path / str(i)
        process = started(processes, sweep_in, path)
        process.join(moment)
        process.kill()
        process.join()
        ended(started(processes, sweep_in, path))  # at once: workers may still be about to write their checkpoints
        check_same(path, whole[0])


def test_workers_end_with_their_parent_after_a_checkpoint(tmp_path: Path, processes: Any) -> None:
    process = started(processes, sweep_in, tmp_path, None, True)
    metrics = [tmp_path / name / "metrics.jsonl" for name in NAMES]
    while not all(file.exists() and file.stat().st_size > 300 for file in metrics):
        process.join(0.02)
        assert process.is_alive()
    process.kill()
    process.join()
    for file in metrics:
        with locked(file.parent, 30.0):
            assert list(file.parent.glob("checkpoint/*/step-*.json"))
            assert state_of(file.parent) == "unfinished"


def test_workers_killed_at_any_moment_are_replaced(whole: tuple[Path, float], tmp_path: Path, processes: Any) -> None:
    for i, moment in enumerate(moments(whole[1], 2)):
        path = tmp_path / str(i)
        ended(started(processes, sweep_in, path, moment))
        check_same(path, whole[0])


def test_resumes_killed_at_any_moment_go_on(whole: tuple[Path, float], tmp_path: Path, processes: Any) -> None:
    for i, moment in enumerate(moments(whole[1], 3)):
        path = tmp_path / str(i) / "seed=0"
        path.parent.mkdir()
        for share in (0.1, 0.2, 0.1):
            process = started(processes, run_in, path)
            process.join(moment * share)
            process.kill()
            process.join()
        begun = processes.Event()
        last = processes.Process(target=run_in, args=(str(path), begun))
        last.start()
        ended(last)
        assert bits(path) == bits(whole[0] / "seed=0")
        assert numbers(path) == numbers(whole[0] / "seed=0")
        assert not list(path.rglob(".part-*"))


def test_runs_killed_at_any_moment_of_writing_results_write_them_again(
    whole: tuple[Path, float], tmp_path: Path, processes: Any,
) -> None:
    for i, moment in enumerate(moments(0.05, 4)):
        path = tmp_path / str(i)
        begun, writing = processes.Event(), processes.Event()
        process = processes.Process(target=run_in, args=(str(path), begun, writing))
        process.start()
        assert writing.wait(60)
        process.join(moment)
        process.kill()
        process.join()
        again = processes.Process(target=run_in, args=(str(path), begun))
        again.start()
        ended(again)
        assert numbers(path) == numbers(whole[0] / "seed=0")
        assert state_of(path) == "done"
        assert not list(path.rglob(".part-*"))


def hold_in(path: str, begun: Any) -> None:
    with locked(Path(path)):
        begun.set()
        signal.pause()


def test_a_run_of_a_grid_that_another_process_holds_is_left_alone(
    tmp_path: Path, processes: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr("experiments.runs.run.WAIT", 0.2)
    with ThreadPoolExecutor(1) as executor:
        sweep(GRID, tmp_path / "grid", SweepOptions(report=False), executor)
        held = tmp_path / "grid" / NAMES[0]
        for name in NAMES:
            (tmp_path / "grid" / name / "status.json").unlink()
        process = started(processes, hold_in, held)
        before = {file: file.stat().st_mtime_ns for file in held.rglob("*")}
        try:
            with pytest.raises(ZooError, match=f"expected {held} to be free; got another process at work in it"):
                sweep(GRID, tmp_path / "grid", SweepOptions(report=False), executor)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert {file: file.stat().st_mtime_ns for file in held.rglob("*")} == before, "nothing was written in it"
        assert state_of(tmp_path / "grid" / NAMES[1]) == "done", "the others are done"
        states = [record.state for record in sweep(GRID, tmp_path / "grid", SweepOptions(report=False), executor)]
    assert states == ["done", "done"]


def test_a_run_that_goes_on_waits_for_one_that_is_about_to_leave(tmp_path: Path, processes: Any) -> None:
    process = started(processes, hold_in, tmp_path)
    with pytest.raises(InUse), locked(tmp_path, 0.1):
        pass
    threading.Timer(0.3, process.kill).start()
    with locked(tmp_path, 30.0):
        assert not process.is_alive()


def test_a_directory_removed_from_a_grid_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from experiments.cli import run as command

    path, told = tmp_path / "grid", []

    def remove(name: str, state: str) -> None:
        told.append((name, state))
        if len(told) == 1:
            path.rename(tmp_path / "elsewhere")  # at once, where removing it would take its time

    with ThreadPoolExecutor(1) as executor, pytest.warns(ZooWarning, match="was removed while it was in use"):
        records = sweep(GRID, path, SweepOptions(report=False, told=remove), executor)
    states = {record.name: record.state for record in records}
    assert states == {NAMES[0]: "failed", NAMES[1]: "done"}
    assert "its directory was removed" in records[0].error
    assert (path / "grid.json").exists()
    assert command(["runs", str(path)]) == 0
