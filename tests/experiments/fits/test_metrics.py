"""The metrics file: what somebody else changed is noticed, and what the disk refuses is written later."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zoo
from experiments.fits.callbacks import Moment
from experiments.fits.journal import Stop
from experiments.fits.metrics import NUMBERS, read_metrics
from experiments.fits.trackers import Metrics
from experiments.runs.run import run
from tests.experiments.runs.durable import At, bits, quiet, spec
from zoo.errors import Interrupted, ZooWarning

X = zoo.dataset("iris").x
MODEL = zoo.build("ppca", X)
START = Moment(MODEL, None, X, "svi", 100, name="fit")
CLAIM = "but this file is no longer that of a run that was never cut off"


def step(number: int, **more: Any) -> Moment:
    return replace(START, step=number, bound=-float(number), seconds=float(number), **more)


def told(metrics: Metrics, steps: range, saving: bool = True) -> None:
    for number in steps:
        metrics.on_step(step(number, saving=saving and number == steps[-1]))


def steps_of(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was stopped after 21 steps, with its metrics, and one that was not."""
    folder = tmp_path_factory.mktemp("stopped")
    run(spec("em"), folder / "whole", quiet())
    stop = Stop()
    with pytest.raises(Interrupted):
        run(spec("em"), folder / "run", quiet(stop=stop, callbacks=[At("seed 0", 20, lambda: setattr(stop, "signal", 15))]))
    return folder / "run", folder / "whole"


def changed(line: bytes) -> bytes:
    return json.dumps({**json.loads(line), "seconds": 7.0}).encode() + b"\n"


HARMS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "emptied": (lambda lines: [], r"it has 0 bytes of [\d,]+"),
    "cut": (lambda lines: lines[:5], r"it has [\d,]+ bytes of [\d,]+"),
    "dropped": (lambda lines: [*lines[:3], *lines[4:]], r"it has .*; 1 steps have no line"),
    "doubled": (lambda lines: [*lines, lines[3]], r"1 lines are there twice"),
    "damaged": (lambda lines: [*lines[:3], b"\xff" + lines[3][1:], *lines[4:]], r"its checksum differs; 1 lines can't be read"),
    "changed": (lambda lines: [*lines[:3], changed(lines[3]), *lines[4:], b"{}"], r"it has .*|its checksum differs"),
    "swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], "its checksum differs"),
}


@pytest.mark.parametrize("kind", HARMS)
def test_what_somebody_changed_is_said_once_and_stops_nothing(kind: str, tmp_path: Path, stopped: tuple[Path, Path]) -> None:
    harm, said = HARMS[kind]
    path = tmp_path / "run"
    shutil.copytree(stopped[0], path)
    file = path / "metrics.jsonl"
    file.write_bytes(b"".join(harm(file.read_bytes().splitlines(keepends=True))))
    with pytest.warns(ZooWarning, match=f"is not as the run left it: .*{said}.*, {CLAIM}") as all_said:
        run(spec("em"), path, quiet())
    assert len(all_said) == 1
    found, whole = bits(path), bits(stopped[1])
    assert found[:-1] == whole[:-1], "the fit is that of a run which was never cut off"
    steps = steps_of(file)
    assert len(steps) == len(set(steps))
    assert set(steps) >= set(range(22, len(whole[2]) + 1))


def test_what_nobody_changed_is_not_spoken_of(tmp_path: Path, stopped: tuple[Path, Path]) -> None:
    path = tmp_path / "run"
    shutil.copytree(stopped[0], path)
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"fit": "seed 0", "st')  # cut short by a kill
    run(spec("em"), path, quiet())
    assert bits(path) == bits(stopped[1])
    (path / "status.json").unlink()
    run(spec("em"), path, quiet())  # with no fit left to do
    (path / "metrics.jsonl").write_bytes(b"")
    with pytest.warns(ZooWarning, match=CLAIM):
        run(spec("em"), path, quiet())


def test_steps_that_are_taken_again_replace_those_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.on_start(START)
    told(metrics, range(1, 11))
    told(metrics, range(11, 14), saving=False)
    told(metrics, range(8, 15), saving=False)  # a fit went back behind a checkpoint
    metrics.on_end(None)
    assert steps_of(path) == list(range(1, 15))
    Metrics(path).on_start(step(14))


def test_lines_wait_for_space_and_none_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.on_start(START)
    told(metrics, range(1, 6))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))  # room for a part of a line
    try:
        with pytest.warns(ZooWarning, match=r"expected to write .*; got 'File too large'; the fit goes on, and its lines wait"):
            told(metrics, range(6, 9))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            told(metrics, range(9, 12))  # said once
        assert path.read_bytes().endswith(b"\n")
        assert steps_of(path) == list(range(1, 6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    metrics.on_step(step(12, saving=True))
    assert steps_of(path) == list(range(1, 13))
    Metrics(path).on_start(step(12))  # and nothing is wrong with it


def test_a_disk_that_is_full_when_a_fit_starts_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)

    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.warns(ZooWarning, match="No space left on device"):
            metrics.on_start(START)
        told(metrics, range(1, 4))
        metrics.on_end(None)
        metrics.on_start(replace(START, name="next"))
    metrics.on_step(replace(step(1, saving=True), name="next"))
    assert [(row["fit"], row["step"]) for row in read_metrics(path)] == [("fit", 1), ("fit", 2), ("fit", 3), ("next", 1)]


def test_a_file_that_is_removed_is_put_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    metrics = Metrics(path, lambda: path.parent.mkdir())
    metrics.on_start(START)
    told(metrics, range(1, 6))
    shutil.rmtree(path.parent)
    told(metrics, range(6, 9))
    metrics.on_end(None)
    assert steps_of(path) == list(range(1, 9))
    Metrics(path).on_start(step(8))


def test_of_many_rows_some_are_read_and_the_ends_of_each_fit(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    fits = {"theta": 5000, "short": 3, "last": 1234}
    file.write_text("".join(json.dumps({
        "fit": fit, "step": step, "units": 9, **dict.fromkeys(NUMBERS, float(step))}) + "\n"
        for fit, steps in fits.items() for step in range(1, steps + 1)) + '{"fit": "last", "st')
    rows, whole = read_metrics(file, 100), read_metrics(file)
    assert len(whole) == sum(fits.values())
    assert 80 < len(rows) < 140
    assert all(row in whole for row in rows)
    for fit, steps in fits.items():
        own = [row["step"] for row in rows if row["fit"] == fit]
        assert (own[0], own[-1]) == (1, steps)
        assert own == sorted(set(own))
    assert read_metrics(file, 10**6) == whole
