"""Runs: what they leave behind, stopping and going on, coming back to them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import experiments
import zoo
from experiments.cli import run as command
from experiments.fits.journal import Journal, Stop, read
from experiments.fits.metrics import NUMBERS, read_metrics
from experiments.reporting.record import read as read_record
from experiments.runs.grid import write_toml
from experiments.runs.job import prepare
from experiments.runs.run import RunOptions, resume, run
from experiments.runs.spec import complete
from experiments.runs.sweep import grid_of
from tests.experiments.runs.durable import gmm, interrupted, numbers, quiet, spec
from zoo.errors import Interrupted, ZooError

# -- what is left behind -----------------------------------------------------------------------------------------------------


def test_the_table_is_written_before_it_is_shown(tmp_path: Path) -> None:
    shown = []
    run(gmm(), tmp_path, RunOptions(progress=False, report=False, show=lambda table: shown.append(
        json.loads((tmp_path / "comparison.json").read_text()) == table.to_dict())))
    assert shown == [True]


def test_a_run_directory_tells_all(tmp_path: Path) -> None:
    table = run(gmm(seed=3), tmp_path / "one", RunOptions(progress=False))
    path = tmp_path / "one"
    left = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert {"spec.toml", "metrics.jsonl", "comparison.json", "comparison.csv", "posterior.nc", "report.html",
            "figures/gap.png", "figures/gap.svg", "checkpoint/theta/end.safetensors", "checkpoint/theta/end.json"} <= left
    assert not [name for name in left if ".part" in name]
    spec = tomllib.loads((path / "spec.toml").read_text())
    said = {"command": "compare", "model": "gmm", "data": "faithful", "guides": ["exact"], "seed": 3, "options": {}}
    assert said.items() <= spec.items()
    record = spec["record"]
    assert len(record["data_sha256"]) == 64
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(record["versions"]) == {"python", "torch", "pyro", "arviz", "numpy", "scipy", "latent_zoo"}
    assert set(record["code"]) == {"zoo", "guides", "experiments"}
    rows = read_metrics(path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, table.theta.steps + 1))
    assert rows[-1]["elbo"] == pytest.approx(rows[-1]["reconstruction"] - rows[-1]["kl"], abs=1e-3)
    assert json.loads((path / "comparison.json").read_text()) == table.to_dict()
    assert read_record(path).state == "done"


def test_what_a_write_that_was_cut_off_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "checkpoint" / "theta").mkdir(parents=True)
    left = [tmp_path / ".part-1-spec.toml", tmp_path / "checkpoint" / "theta" / ".part-1-end.json"]
    for file in left:
        file.write_bytes(b"half")
    (tmp_path / "spec.toml").write_text(write_toml(gmm()))  # written, but never begun
    run(gmm(), tmp_path, quiet())
    assert not any(file.exists() for file in left)
    assert tomllib.loads((tmp_path / "spec.toml").read_text())["record"]["data_name"] == "faithful"


def test_the_spec_of_a_run_does_it_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["compare", "ppca", "--latent", "1", "-g", "mean_field", "--seed", "2", "--no-report"]
    assert command([*words, "--out", str(first)]) == 0
    assert command(["run", str(first / "spec.toml"), "--no-report", "--out", str(second)]) == 0
    assert numbers(first) == numbers(second)


def test_steps_tell_what_they_are_made_of() -> None:
    x = zoo.dataset("eight_schools").x
    for method, has in (("svi", {"gradient_norm", "learning_rate", "reconstruction", "kl"}),
                        ("fixed_draws", {"gradient_norm", "reconstruction", "kl"})):
        seen: list[experiments.Moment] = []

        class Keep(experiments.Callback):
            def on_step(self, now: experiments.Moment, seen: list[experiments.Moment] = seen) -> None:
                seen.append(now)

        experiments.fit(zoo.build("eight_schools", x), "mean_field", x, method=method, steps=10, callbacks=[Keep()])
        assert len(seen) == 10
        for now in seen:
            assert {name for name in NUMBERS if getattr(now, name) is not None} == {*has, "elbo", "seconds"}
            assert now.elbo == pytest.approx(now.reconstruction - now.kl, rel=1e-9)


# -- asked to stop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
    (signal.SIGHUP, 129)])
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(number: int, code: int, tmp_path: Path) -> None:
    words = ["fit", "vae", "--data", "digits", "-g", "mean_field:encoder", "--steps", "100000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *words], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # whoever started us with nohup has it ignored
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size > 2000):
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert said.splitlines()[-1] == f"error: interrupted; 'zoo resume {tmp_path}' goes on from its last checkpoint"
    state = Journal(tmp_path / "checkpoint").of("seed 0").latest()
    assert len(state.tensors["history"]) == len(read_metrics(metrics))
    assert read_record(tmp_path).state == "unfinished"


def test_an_interrupted_run_is_resumed_to_the_same_table(tmp_path: Path) -> None:
    asked = complete(model="linear_regression", guides=("mean_field", "full_rank"), steps=30, draws=64, method="svi")
    run(asked, tmp_path / "whole", quiet())
    for at in (1, 29, 31, 59):
        stop, seen = Stop(), []

        class Ask(experiments.Callback):
            def on_step(self, now: experiments.Moment, at: int = at, stop: Stop = stop, seen: list[int] = seen) -> None:
                seen.append(now.step)
                if len(seen) == at:
                    stop.signal = signal.SIGTERM

        with pytest.raises(Interrupted) as stopped:
            run(asked, tmp_path / str(at), quiet(stop=stop, callbacks=[Ask()]))
        assert stopped.value.path == tmp_path / str(at)
        resume(tmp_path / str(at), quiet())
        assert numbers(tmp_path / str(at)) == numbers(tmp_path / "whole")


# -- altered, changed, shared, full -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["cut json", "cut tensors", "altered json", "altered tensors", "no tensors", "empty json"])
def test_a_checkpoint_that_was_altered_is_passed_over(harm: str, tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    prepare(spec("em")).fitted(Journal(tmp_path / "whole"))
    last, before = sorted((tmp_path / "run").glob("checkpoint/*/step-*.json"), reverse=True)
    tensors = last.with_suffix(".safetensors")
    if harm == "no tensors":
        tensors.unlink()
    else:
        file = last if "json" in harm else tensors
        raw = bytearray(file.read_bytes())
        if "altered" in harm:
            raw[len(raw) // 2] ^= 1
        file.write_bytes({"cut": bytes(raw[: len(raw) // 2]), "empty": b""}.get(harm.split()[0], bytes(raw)))
    with pytest.warns(zoo.ZooWarning, match=f"expected a whole checkpoint at .*{last.name}; got .*; going on from what was"):
        again = prepare(spec("em")).fitted(Journal(tmp_path / "run" / "checkpoint"))
    whole = prepare(spec("em")).fitted(Journal(tmp_path / "whole"))
    assert all(torch.equal(a, b) for a, b in zip(
        again.fits[0].model.parameters(), whole.fits[0].model.parameters(), strict=True))
    assert not before.exists(), "a fit that is done needs no checkpoints"


def test_changed_data_or_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,b\n" + "\n".join(f"{i % 7},{i * i % 11}" for i in range(40)))
    path = tmp_path / "run"
    assert command(["compare", "gmm", "--data", str(file), "-g", "exact", "--no-report", "--out", str(path)]) == 0
    (path / "status.json").unlink()
    file.write_text(file.read_text().replace("6,", "9,"))
    capsys.readouterr()
    assert command(["resume", str(path)]) == 2
    assert "changed since is the data 'x.csv'; put them back, or pass --force" in capsys.readouterr().err
    file.write_text(file.read_text().replace("9,", "6,"))
    with monkeypatch.context() as patch:
        patch.setattr("experiments.runs.provenance.code_digest", lambda package: "other" if package == "guides" else "")
        patch.setattr("experiments.runs.provenance.installed", lambda name: "0.0")
        assert command(["resume", str(path)]) == 2
        said = capsys.readouterr().err
        assert "torch (" in said
        assert "the code of zoo, guides, experiments" in said
    assert command(["resume", str(path), "--no-report"]) == 0
    (path / "status.json").unlink()
    monkeypatch.setattr("experiments.runs.provenance.code_digest", lambda package: "other")
    assert command(["resume", str(path), "--force", "--no-report"]) == 0
    assert "goes on although this changed: the code of zoo, guides, experiments" in capsys.readouterr().err


def test_another_spec_in_the_same_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(gmm(), tmp_path / "run", quiet())
    with pytest.raises(ZooError, match=r"got one with seed 0, not 1; choose another"):
        run(gmm(seed=1), tmp_path / "run", quiet())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ZooError, match=r"expected an empty directory or a run in --out .*; got one with thesis\.tex"):
        run(gmm(), tmp_path / "mine", quiet())
    x = zoo.dataset("faithful").x
    experiments.fit(zoo.build("gmm", x), "exact", x, journal=tmp_path / "journal")
    with pytest.raises(ZooError, match=r"expected a journal of the same fit in .*; got one with seed 0, not 1"):
        experiments.fit(zoo.build("gmm", x), "exact", x, seed=1, journal=tmp_path / "journal")





@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(ZooError, match=r"got 'No space left on device'; free space or choose another place; 'zoo resume'"):
            run(spec("svi"), disk / "run", quiet(interval=0.0))
        (disk / "run" / "metrics.jsonl").unlink()
        shutil.copytree(disk / "run", tmp_path / "copy")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert not list((tmp_path / "copy").rglob(".part*"))
    assert tomllib.loads((tmp_path / "copy" / "spec.toml").read_text())["model"] == "vae"
    found = [read(p) for p in (tmp_path / "copy").glob("checkpoint/*/step-*.json")]
    assert all(len(state.tensors["history"]) for state in found)


# -- coming back -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_is_loaded_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "run"
    table = run(complete(model="ppca", data="iris", guides=("exact", "full_rank", "mean_field:encoder"), steps=80), path,
                RunOptions(progress=False))
    expected = {row.fit.guide.text: row.evaluation.elbo.value for row in table.rows}
    code = (
        "import experiments, json, sys\n"
        f"run = experiments.load({str(path)!r})\n"
        "x = run.x\n"
        "tree = run.posterior\n"
        "print(json.dumps({'elbos': {f.guide.text: experiments.evaluate(f.model, f.guide, x).elbo.value for f in run.fits},\n"
        "  'history': run.fits[2].history, 'steps': run.theta.steps, 'groups': sorted(tree.children),\n"
        "  'param_store': len(__import__('pyro').get_param_store())}))\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["elbos"] == expected
    assert [tuple(row) for row in found["history"]] == list(table.rows[2].fit.history)
    assert found["steps"] == table.theta.steps
    assert "posterior" in found["groups"]
    assert found["param_store"] == 0


def test_only_what_is_done_is_loaded(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    with pytest.raises(ZooError, match=r"expected a run's directory, with a spec.toml; got "):
        experiments.load(tmp_path / "run")
    run(gmm(), tmp_path / "done", quiet())
    (tmp_path / "done" / "status.json").unlink()
    with pytest.raises(ZooError, match="got one that is not done; 'zoo resume' goes on with it"):
        experiments.load(tmp_path / "done")


def test_loading_writes_nothing(tmp_path: Path) -> None:
    run(gmm(), tmp_path / "run", quiet())
    (tmp_path / "run" / "checkpoint" / "theta" / "fit.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZooError, match="to say which fit it is; got none"):
        experiments.load(tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


class Evil:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["ZOO_EVIL"],)


@pytest.mark.parametrize("file", [
    "spec.toml", "metrics.jsonl", "status.json", "comparison.json", "posterior.nc", "summary.csv", "units.json",
    "checkpoint/theta/end.json", "checkpoint/theta/end.safetensors", "checkpoint/theta/fit.json", "grid.json"])
def test_hostile_files_yield_an_error_and_run_nothing(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done_run: Path,
) -> None:
    monkeypatch.setenv("ZOO_EVIL", str(tmp_path / "evil"))
    path = tmp_path / "run"
    shutil.copytree(done_run, path)
    harms = [pickle.dumps(Evil()), b"\x80\x05K\x2a.", b"", b"[" * 100_000, b"null", b"\xff\xfe\x00", b'{"a": 1e999}',
             b"CDF\x01" + bytes(99)]
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    for harm in [*harms, buffer.getvalue()]:
        (path / file).write_bytes(harm)
        for use in (lambda: experiments.load(path).posterior, lambda: read_record(path), lambda: grid_of(path)):
            with contextlib.suppress(ZooError), warnings.catch_warnings():
                warnings.simplefilter("ignore", zoo.ZooWarning)
                use()
        assert command(["report", str(path)]) in (0, 2)
        assert command(["runs", str(tmp_path)]) in (0, 2)
        assert command(["resume", str(path), "--no-report"]) in (0, 2)
        assert not (tmp_path / "evil").exists()


@pytest.fixture(scope="module")
def done_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("done") / "run"
    run(gmm(draws=16), path, RunOptions(progress=False))
    return path
