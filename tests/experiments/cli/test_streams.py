"""Standard streams that are closed, full, or read no more: the work is done all the same, and its results are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.runs.grid import read_grid
from experiments.runs.run import RunOptions, run
from tests import ROOT

#: What is said where standard output leads to a full device.
FULL = "error: expected standard output to take all that is printed; got 'No space left on device'; print elsewhere"
SPEC = 'model = "gmm"\ndata = "faithful"\nguides = ["exact"]\n[options]\ncomponents = '
TABLE = {"comparison.json", "comparison.csv"}
RESULTS = {*TABLE, "posterior.nc", "summary.csv", "units.json", "report.html", "figures"}


@dataclass(frozen=True)
class Ended:
    """How a line of a shell ended: the exit code of the command in it, and what was printed."""

    code: int
    out: str
    err: str


def shell(place: Path, words: str, to: str) -> Ended:
    """Run a command in a shell with its streams led elsewhere: ``to`` is a redirection, or a pipe with its reader."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = f'{{ "$0" -m experiments.cli {words}; echo $? > .code; }} {to}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable], cwd=place, env=environment, capture_output=True, text=True, check=False)
    return Ended(int((place / ".code").read_text()), done.stdout, done.stderr)


def finished(path: Path, results: set[str]) -> bool:
    """Whether a run has left its results behind, and its state says so."""
    return {p.name for p in path.iterdir()} >= results and json.loads((path / "status.json").read_text())["state"] == "done"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a spec, a grid, and a run."""
    path = tmp_path_factory.mktemp("streams")
    (path / "one.toml").write_text(SPEC + "2")
    (path / "grid.toml").write_text(SPEC + "[1, 2]")
    run(read_grid(path / "one.toml").specs[""], path / "runs" / "before", RunOptions(progress=False, report=False))
    return path


@pytest.mark.parametrize(("words", "to", "code"), [  # those with a report take longer
    ("fit gmm -d faithful -g exact", "| head -c 5", 0),
    ("compare gmm -d faithful -g exact --json --no-report", "| head -c 5", 0),
    ("run one.toml --no-report", ">&-", 0),
    ("fit gmm -d faithful -g exact --no-report", ">&- 2>&- <&-", 0),
    ("compare gmm -d faithful -g exact --no-report", "2>/dev/full", 0),
    ("fit gmm -d faithful -g exact", ">/dev/full", 1),
])
def test_a_run_leaves_its_results_behind(place: Path, tmp_path: Path, words: str, to: str, code: int) -> None:
    ended = shell(place, f"{words} --out {tmp_path / 'out'}", to)
    assert ended.code == code
    assert finished(tmp_path / "out", TABLE if "--no-report" in words else RESULTS)
    assert "Traceback" not in ended.err
    assert [line for line in ended.err.splitlines() if line.startswith("error")] == ([FULL] if code else [])


def test_a_grid_leaves_its_results_behind(place: Path, tmp_path: Path) -> None:
    ended = shell(place, f"run grid.toml --no-report --jobs 1 --json --out {tmp_path / 'out'}", "2>/dev/full | head -c 5")
    assert ended.code == 0, ended.err
    states = [json.loads(file.read_text())["state"] for file in (tmp_path / "out").glob("*/status.json")]
    assert states == ["done", "done"]
    assert [run["state"] for run in json.loads((tmp_path / "out" / "comparison.json").read_text())] == states


@pytest.mark.parametrize("words", ["list", "runs", "runs --json"])
@pytest.mark.parametrize(("to", "code"), [("| head -c 1", 0), (">&-", 0), ("2>&-", 0), (">/dev/full", 1)])
def test_what_only_prints(place: Path, words: str, to: str, code: int) -> None:
    ended = shell(place, words, to)
    assert (ended.code, ended.err) == (code, FULL + "\n" if code else "")
    assert bool(ended.out) == (to in ("| head -c 1", "2>&-"))


@pytest.mark.parametrize("to", [">&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_a_report_is_written(place: Path, tmp_path: Path, to: str) -> None:
    page = tmp_path / "page.html"
    assert shell(place, f"report runs/before --out {page}", to).code == 0
    assert page.read_text().startswith("<!doctype html>")  # and no remark, as if the page had got a stream's descriptor


def test_bad_input_is_still_bad_where_nobody_can_be_told(place: Path) -> None:
    assert shell(place, "fit nothing", "2>&-").code == 2
    assert shell(place, "fit nothing", ">&- 2>/dev/full").code == 2
