"""Processes that are killed, or run out of disk: what they leave behind goes on to the same bits."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import experiments
import experiments.fits.journal
import zoo
from experiments.fits.journal import Journal
from experiments.fits.trackers import Metrics
from experiments.runs.job import prepare
from experiments.runs.run import resume, run
from experiments.runtime.files import locked
from tests.experiments.runs.durable import SPECS, bits, gmm, interrupted, quiet, spec
from zoo.errors import ZooError

#: How many moments each method is killed at; `make soak` raises it.
KILLS = int(os.environ.get("ZOO_KILLS", "4"))


def work(method: str, path: str, begun: Any) -> None:
    """Do a run's fits in this process; ``begun`` is told after the first step."""
    torch.set_num_threads(1)

    class Told(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            if not begun.is_set():
                begun.set()

    place = Path(path)
    place.mkdir(exist_ok=True)
    prepare(spec(method)).fitted(Journal(place / "checkpoint", 0.0), [Metrics(place / "metrics.jsonl"), Told()])
    begun.set()


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that are forked off one that has imported everything, and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "tests.experiments.runs.test_kills", "tests.experiments.runs.test_parents", "zoo.models.vae", "zoo.models.gmm",
        "experiments.inference.svi.method", "experiments.log_evidence.exact", "zoo.datasets.sklearn", "sklearn.datasets",
        "torch._dynamo", "pandas"])
    return context


def start(processes: Any, method: str, path: Path) -> Any:
    begun = processes.Event()
    process = processes.Process(target=work, args=(method, str(path), begun))
    process.start()
    assert begun.wait(60)
    return process


@pytest.mark.parametrize("name", SPECS)
def test_killed_at_any_moment_it_ends_bit_identical(name: str, tmp_path: Path, processes: Any) -> None:
    whole = start(processes, name, tmp_path / "whole")
    begun = time.monotonic()
    whole.join()
    seconds = time.monotonic() - begun
    assert whole.exitcode == 0
    killed = resumed = 0
    for i, moment in enumerate(np.random.default_rng(0).uniform(0, seconds, KILLS)):
        path = tmp_path / str(i)
        process = start(processes, name, path)
        process.join(moment)
        process.kill()  # does nothing where it has ended by itself, between the wait and now too
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        resumed += bool(list(path.glob("checkpoint/*/step-*.json")))
        again = start(processes, name, path)
        again.join()
        assert again.exitcode == 0
        assert bits(tmp_path / "whole") == bits(path), f"killed after {moment:.3f} s"
    assert killed >= 0.4 * KILLS
    assert resumed >= int(0.2 * KILLS), "hardly any was killed between checkpoints"


class Crash(BaseException):
    """What stops a process at once, short of stopping it."""


@pytest.mark.parametrize("operation", ["os.fsync", "os.replace", "pathlib.Path.write_bytes", "pathlib.Path.replace"])
def test_a_crash_in_any_write_leaves_what_can_be_gone_on_from(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, name = operation.rsplit(".", 1)
    owner = {"os": os, "pathlib.Path": Path}[module]
    original, steps = getattr(owner, name), {"method": "em", "steps": 4}
    x = zoo.dataset("faithful").x
    whole = experiments.fit(zoo.build("gmm", x), "exact", x, **steps)
    for crash in range(1, 40):
        left = iter(range(crash - 1))

        def crashing(*arguments: Any, left: Any = left, **named: Any) -> Any:
            if next(left, None) is None:
                raise Crash
            return original(*arguments, **named)

        journal = Journal(tmp_path / str(crash), 0.0)
        with monkeypatch.context() as patch:
            patch.setattr("experiments.fits.journal.SHARE", 1e9)
            patch.setattr(owner, name, crashing)
            try:
                experiments.fit(zoo.build("gmm", x), "exact", x, journal=journal, **steps)
            except Crash:
                pass
            else:
                assert crash > 1 or operation == "os.replace", "nothing was written"
                return
        again = experiments.fit(zoo.build("gmm", x), "exact", x, journal=journal.path, **steps)
        assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
        assert [row[:2] for row in again.history] == [row[:2] for row in whole.history]


def hold(path: str, held: Any) -> None:
    with locked(Path(path)):
        held.set()
        time.sleep(60)


def test_two_processes_in_one_directory(tmp_path: Path, processes: Any) -> None:
    held = processes.Event()
    process = processes.Process(target=hold, args=(str(tmp_path), held))
    process.start()
    assert held.wait(30)
    with pytest.raises(ZooError, match="to be free; got another process at work in it"):
        run(gmm(), tmp_path, quiet())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "spec.toml").unlink(missing_ok=True)
    run(gmm(), tmp_path, quiet())  # a dead process's lock is nobody's


def fill(path: str, limit: int) -> None:
    """Do a run where no file may be larger than ``limit`` bytes, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    experiments.fits.journal.SHARE = 1e9  # a checkpoint after each step
    try:
        run(spec("em"), Path(path), quiet(interval=0.0))
    except ZooError as error:
        os._exit(0 if "File too large" in str(error) and "zoo resume" in str(error) else 3)
    os._exit(4)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path: Path, processes: Any) -> None:
    path = tmp_path / "run"
    interrupted(tmp_path / "probe", steps=20)  # what a checkpoint takes by then; it grows by each step
    limit = max(file.stat().st_size for file in (tmp_path / "probe").rglob("*") if file.name != "metrics.jsonl")
    process = processes.Process(target=fill, args=(str(path), limit))
    process.start()
    process.join()
    assert process.exitcode == 0
    state = Journal(path / "checkpoint").of("seed 0").latest()
    assert 1 <= len(state.tensors["history"]) < 60
    assert not list(path.rglob(".part*"))
    resume(path, quiet())
    run(spec("em"), tmp_path / "whole", quiet())
    assert bits(path) == bits(tmp_path / "whole")
