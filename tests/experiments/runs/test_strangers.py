"""Run directories of strangers: nothing in them leads out, what was changed is refused, and one does not hide the others."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import experiments
from experiments.cli import run as command
from experiments.reporting.record import find_runs, glance, read, read_each, settle, state_of
from experiments.runs.run import resume, run
from experiments.runs.sweep import overview
from tests.experiments.runs.durable import gmm
from zoo.errors import ZooError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all its files."""
    path = tmp_path_factory.mktemp("made") / "run"
    run(gmm(), path)
    return path


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mine"))


# -- nothing leads out -----------------------------------------------------------------------------------------------------


def link(at: Path, to: Path) -> None:
    if at.is_dir():
        shutil.rmtree(at)
    at.unlink(missing_ok=True)
    at.symlink_to(to)


LINKS = ["figures/x.svg", "figures", "comparison.json", "metrics.jsonl", "posterior.nc", "checkpoint",
         "checkpoint/theta/end.json", "status.json", "tensorboard/inner"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_run_is_refused(
    name: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    """By reports, lists, loading and going on; what it leads to is neither shown nor written."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "inner").write_text("<svg>a secret</svg>")
    before = {file: file.read_bytes() for file in secret.iterdir()}
    (mine / name).parent.mkdir(exist_ok=True)
    link(mine / name, secret if "." not in name else secret / "inner")
    for use in (read, glance, experiments.load, resume):
        with pytest.raises(ZooError, match=r"got the link .*; remove it"):
            use(mine)
    for words in (["report", str(mine)], ["resume", str(mine)], ["resume", str(mine), "--force"]):
        assert command(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert {file: file.read_bytes() for file in secret.iterdir()} == before
    assert "a secret" not in (mine / "report.html").read_text()
    assert [record.state for record in read_each([mine], glance)] == ["damaged"]


def test_a_pipe_in_a_run_is_refused(mine: Path) -> None:
    os.mkfifo(mine / "figures" / "pipe.svg")
    with pytest.raises(ZooError, match=r"got pipe.svg, which is neither"):
        read(mine)


def test_a_run_may_be_reached_by_a_link_but_lists_follow_none(mine: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "latest").symlink_to(mine)
    assert read(runs / "latest").state == "done"
    assert find_runs(runs) == []


def external(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("posterior/v", (4,), np.float64, external=[(str(path.parent / "spec.toml"), 0, 32)])


def linked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["posterior"] = h5py.ExternalLink(str(path.parent / "other.nc"), "/posterior")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((4,), np.float64)
    layout[:] = h5py.VirtualSource(str(path.parent / "other.nc"), "v", (4,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("posterior/v", layout)


def vast(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("posterior/v", (10**12,), np.float64, chunks=(1000,))


@pytest.mark.parametrize(("make", "said"), [
    (external, "lies in another file"), (linked, "lies in another file"), (virtual, "lies in another file"),
    (vast, "8,000,000,000,000 bytes of numbers in a file of")])
def test_a_posterior_is_read_from_its_own_file(make: Callable[[Path], None], said: str, mine: Path) -> None:
    make(mine / "posterior.nc")
    settle(mine, "done")  # a stranger's checksums agree
    with pytest.raises(ZooError, match=f"expected a posterior in .*{said}"):
        _ = experiments.load(mine).posterior


# -- what was changed ------------------------------------------------------------------------------------------------------


def digit(file: Path) -> None:
    """Change one digit, as far from the file's ends as there is one."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    at = min((i for i, byte in enumerate(content) if 48 <= byte <= 57), key=lambda i: abs(i - middle), default=None)
    if at is None:  # a table of a head alone
        content += b"0"
    else:
        content[at] = 48 + (content[at] - 48 + 1) % 10
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", [
    "comparison.json", "summary.csv", "units.json", "metrics.jsonl", "spec.toml", "status.json", "figures/gap.svg",
    "figures/gap.png"])
def test_a_changed_number_is_refused_by_reports(name: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digit(mine / name)
    with pytest.raises(ZooError, match=rf"expected .*{name} as the run wrote it; got one that was changed"):
        read(mine)
    assert command(["report", str(mine)]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", ["comparison.json", "posterior.nc", "spec.toml", "status.json"])
def test_a_changed_number_is_refused_by_loading(name: str, mine: Path) -> None:
    digit(mine / name)
    with pytest.raises(ZooError, match=rf"expected .*{name} as the run wrote it; got one that was changed"):
        _ = experiments.load(mine).posterior


@pytest.mark.parametrize("name", ["comparison.json", "spec.toml", "status.json"])
def test_a_changed_number_is_refused_by_lists(name: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digit(mine / name)
    assert command(["runs", str(mine), "--json"]) == 0
    found, = json.loads(capsys.readouterr().out)
    assert found["state"] == "damaged"
    assert name in found["error"]


def test_a_run_whose_state_was_changed_goes_on_and_is_whole_again(mine: Path) -> None:
    digit(mine / "status.json")
    assert state_of(mine) == "damaged"
    resume(mine)
    assert read(mine).state == "done"


# -- others ----------------------------------------------------------------------------------------------------------------


def test_one_damaged_run_does_not_hide_the_others(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists and pages name it, with the reason."""
    for name in ("a", "b", "c"):
        shutil.copytree(made, tmp_path / name)
    (tmp_path / "b" / "comparison.json").write_text("{")
    assert command(["runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line[:1] in "abc"] == ["done", "damaged", "done"]
    assert "comparison.json" in shown
    assert command(["report", str(tmp_path)]) == 0
    assert "comparison.json as the run wrote it; got one that was changed" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "damaged" in page
    assert "got one that was changed" in page
    assert [row["state"] for row in overview(read_each(find_runs(tmp_path)))] == ["done", "damaged", "done"]


def test_a_list_reads_no_more_than_states_and_tables(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a million steps has 200 MB of metrics: they, draws and figures are not opened."""
    opened = []
    real = Path.open

    def watched(path: Path, *how: Any, **named: Any) -> Any:
        opened.append(path.name)
        return real(path, *how, **named)

    monkeypatch.setattr(Path, "open", watched)
    assert glance(mine).state == "done"
    assert sorted(opened) == ["comparison.json", "spec.toml", "status.json"]


def test_listing_runs_does_not_load_torch(mine: Path) -> None:
    script = "import sys; from experiments.cli import run; sys.exit(run(['runs', sys.argv[1]]) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, str(mine)], capture_output=True, check=False).returncode == 0


# -- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [20_000, 200_000, 2_000_000])
def test_a_disk_that_is_full_when_results_are_written_costs_no_crash(limit: int, tmp_path: Path) -> None:
    """The process ends by itself, not by a signal of a library's, with one line; the run goes on where there is space."""
    path = tmp_path / "run"

    def filled() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [sys.executable, "-m", "experiments.cli", "fit", "gmm", "-d", "faithful", "-g", "exact", "--out", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=filled)
    assert done.returncode == 1, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == done.stderr.splitlines()[-1:]
    assert "free space" in done.stderr
    resume(path)
    assert read(path).state == "done"


def test_links_of_trackers_beside_a_run_are_left_alone(mine: Path, tmp_path: Path) -> None:
    (mine / "wandb").mkdir()
    (mine / "wandb" / "latest-run").symlink_to(tmp_path)
    assert read(mine).state == "done"


@pytest.mark.parametrize("name", ["comparison.json", "posterior.nc", "metrics.jsonl", "figures/gap.svg"])
def test_a_file_that_was_removed_is_missed(name: str, mine: Path) -> None:
    (mine / name).unlink()
    with pytest.raises(ZooError, match=rf"expected .*{name} as the run wrote it; got none; put it back"):
        _ = experiments.load(mine).posterior if name == "posterior.nc" else read(mine)
    if name == "comparison.json":
        assert [record.state for record in read_each([mine], glance)] == ["damaged"]
