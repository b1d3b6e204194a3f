"""Runs whose directory is removed while they are at work, and what writes that were cut off leave behind."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.cli import run as command
from experiments.fits.journal import Journal, Stop
from experiments.runs.run import RunOptions, resume, run
from experiments.runs.spec import complete
from experiments.runtime import files
from experiments.runtime.files import InUse, locked
from tests.experiments.runs.durable import At, bits, gmm, interrupted, numbers, quiet, spec
from zoo.errors import Interrupted, ZooWarning

GONE = "was removed while it was in use; what comes is written to a new directory of that path"


def two_fits() -> Any:
    return complete(model="linear_regression", guides=("mean_field", "full_rank"), steps=30, draws=64, method="svi")


@pytest.mark.parametrize("interval", [0.0, 1e9])
def test_a_directory_removed_in_mid_run_is_made_anew(
    interval: float, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "runs" / "run"
    run(two_fits(), tmp_path / "whole", quiet())
    last = two_fits().guides[1]
    remove = At(last, 10, lambda: shutil.rmtree(path.parent))
    with pytest.warns(ZooWarning, match=GONE) as said:
        run(two_fits(), path, quiet(callbacks=[remove], interval=interval))
    assert len(said) == 1
    assert numbers(path) == numbers(tmp_path / "whole")
    found, whole = experiments.load(path), experiments.load(tmp_path / "whole")
    assert [row[:2] for fit in found.fits for row in fit.history] == [row[:2] for fit in whole.fits for row in fit.history]
    assert command(["report", str(path)]) == 0
    (path / "status.json").unlink()
    assert command(["resume", str(path), "--no-report"]) == 0
    assert "metrics" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["posterior.nc", "summary.csv", "status.json", "report.html"])
def test_a_directory_removed_while_results_are_written_gets_all_of_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, asked, shown = tmp_path / "run", {"progress": False, "report": True}, []
    run(two_fits(), tmp_path / "whole", RunOptions(**asked))
    module = {"status.json": "experiments.reporting.record", "report.html": "experiments.runs.run"}.get(
        name, "experiments.reporting.results")
    original, removed = files.whole, []

    def removing(file: Path, content: Any) -> None:
        if file.name == name and not removed:
            removed.append(file)
            path.rename(tmp_path / "elsewhere")
        original(file, content)

    monkeypatch.setattr(f"{module}.whole", removing)
    with pytest.warns(ZooWarning, match=GONE):
        run(two_fits(), path, RunOptions(**asked, show=shown.append))
    assert removed
    assert len(shown) == 1
    assert numbers(path) == numbers(tmp_path / "whole")
    left = {file.relative_to(path) for file in path.rglob("*")}
    assert left == {file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*")}
    assert experiments.load(path).posterior is not None


def test_a_run_stopped_after_its_directory_was_removed_is_resumed(tmp_path: Path) -> None:
    path, stop = tmp_path / "run", Stop()

    def act() -> None:
        shutil.rmtree(path)
        stop.signal = signal.SIGTERM

    run(spec("em"), tmp_path / "whole", quiet())
    with pytest.warns(ZooWarning, match=GONE), pytest.raises(Interrupted):
        run(spec("em"), path, quiet(callbacks=[At("seed 0", 9, act)], stop=stop))
    resume(path, quiet())
    assert bits(path) == bits(tmp_path / "whole")


def test_nothing_is_written_to_another_run_in_the_place_of_a_removed_one(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def act() -> None:
        shutil.rmtree(path)
        run(gmm(), path, quiet())

    with pytest.raises(InUse, match=r"expected .* to stay this work's; got spec\.toml of another's; choose another directory"):
        run(spec("em"), path, quiet(callbacks=[At("seed 0", 9, act)]))
    assert experiments.load(path).spec == gmm()
    assert not (path / "checkpoint" / "seed-0-2f5c").exists()


def test_nothing_is_written_to_a_place_that_another_holds(tmp_path: Path) -> None:
    path, others = tmp_path / "run", []

    def act() -> None:
        path.rename(tmp_path / "before")
        path.mkdir()
        others.append(locked(path))
        others[0].__enter__()

    with pytest.raises(InUse, match="to be free; got another process at work in it"):
        run(spec("em"), path, quiet(callbacks=[At("seed 0", 9, act)]))
    others[0].__exit__(None, None, None)
    assert [file.name for file in path.iterdir()] == [".lock"]


def test_what_a_kill_left_of_a_checkpoint_is_cleared_away(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    [folder] = (tmp_path / "run" / "checkpoint").iterdir()
    left = [folder / "step-0000000099.safetensors", folder / ".part-7-step-0000000099.json"]
    for file in left:
        file.write_bytes(b"half")
    from experiments.runs.job import prepare

    prepare(spec("em")).fitted(Journal(tmp_path / "run" / "checkpoint"))
    assert not any(file.exists() for file in left)
    shutil.copy(folder / "end.json", folder / "step-0000000099.json")  # killed before it had dropped the checkpoints
    shutil.copy(folder / "end.safetensors", folder / "step-0000000099.safetensors")
    prepare(spec("em")).fitted(Journal(tmp_path / "run" / "checkpoint"))
    assert not list(folder.glob("step-*"))
