"""A worker of a sweep: it does one run at a time, and ends with the process that gave the runs out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch

from experiments.reporting.output import remarks
from experiments.reporting.record import settle
from experiments.runs.grid import read_spec
from experiments.runs.run import RunOptions, one_line, run
from experiments.runs.stopping import TERMINAL, stoppable
from experiments.runtime.files import InUse, locked, whole
from zoo.errors import Interrupted

#: Seconds that a run has to finish its step and to write a checkpoint when the process that gave it out is gone.
GRACE = 5.0


def begin_worker() -> None:
    """Set up a process of a sweep's own: it is stopped by its parent, and ends when the parent is killed.

    The signals of a terminal reach all processes: the parent alone answers them, and tells the others.
    """
    for number in TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Wait for the end of a process, then stop the run of this one as SIGTERM does; one that does not stop in time is ended."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows either ends it at once


def one(
    spec: str, place: str, interval: float, report: bool, force: bool, trust: bool, stop: str, threads: int,
) -> str:
    """Do one run of a sweep in this process, and return how it stands; what goes wrong is in its directory.

    Raises:
        InUse: if another process is at work in the directory: nothing is written there.
    """
    path = Path(place)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with remarks(), stoppable([signal.SIGTERM]) as asked:
            asked.file = Path(stop)
            run(read_spec(spec), path, RunOptions(
                interval=interval, report=report, force=force, trust=trust, progress=False, keep=True, stop=asked))
        return "done"
    except Interrupted:
        if asked.signal is not None:  # not by the parent, which may be gone: nothing else is to be begun here
            signal.raise_signal(asked.signal)
        return "unfinished"
    except InUse:
        raise
    except Exception as error:
        return failed(path, spec, one_line(error))
    finally:
        torch.set_num_threads(before)


def failed(path: Path, spec: str, error: str) -> str:
    """Leave a failed run's error in its directory; its spec, too, where it was not even begun: its data can't be read, say.

    Raises:
        InUse: if another process is at work in the directory: how the run stands is for that one to say.
    """
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if not (path / "spec.toml").exists():
            whole(path / "spec.toml", spec)
        settle(path, "failed", error)
    return "failed"
