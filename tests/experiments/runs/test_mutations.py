"""Specs and checkpoints that were harmed: each runs, or fails with one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import experiments
from experiments.cli import run as command
from experiments.fits.journal import Stop
from experiments.reporting.record import settle
from experiments.runs.grid import Grid
from experiments.runs.run import run
from experiments.runs.spec import complete, keys
from experiments.runs.sweep import SweepOptions, sweep
from experiments.runtime.files import digest
from tests.experiments.runs.durable import quiet
from zoo.errors import Interrupted

#: Mutations of each kind; `make soak` tries 2,000.
MUTATIONS = int(os.environ.get("ZOO_MUTATIONS", "60"))

BASE = {
    "command": "fit", "model": "gmm", "data": "faithful", "guides": ["exact"], "seed": 1, "steps": 2, "draws": 8,
    "options": {"components": 2, "covariance": "full"}}
WORDS = st.sampled_from([
    "gmm", "ppca", "faithful", "iris", "exact", "categorical", "fit", "compare", "svi", "em", "", "x", "é", "\x00", "../x",
    "iwae", "stl", "nan", "mean_field:encoder", "flow(layers=1)", "sample:gmm", "nothing.csv", "/dev/zero", "."])
VALUES = st.one_of(
    WORDS, st.integers(-3, 5), st.sampled_from([2**31, 2**63, 10**30, -1]), st.floats(allow_nan=True), st.booleans(), st.none(),
    st.lists(st.one_of(WORDS, st.integers(-1, 3)), max_size=3), st.dictionaries(WORDS, st.integers(0, 3), max_size=2),
    st.dates())
KEYS = st.sampled_from([*keys(), "fitting", "format", "record", "optins", "sede", ""])


@st.composite
def mutated(draw: Any) -> bytes:
    """A spec in which keys were dropped, renamed, added or given another value, or whose text was harmed."""
    spec = json.loads(json.dumps(BASE))
    for _ in range(draw(st.integers(1, 3))):
        table = spec["options"] if draw(st.booleans()) and isinstance(spec.get("options"), dict) else spec
        key = draw(st.sampled_from(["components", "covariance", "latent"])) if table is not spec else draw(KEYS)
        value = draw(VALUES)
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    text = bytearray(tomli_w.dumps({k: v for k, v in spec.items() if v is not None}).encode())
    if draw(st.integers(0, 4)) == 0 and text:
        at = draw(st.integers(0, len(text) - 1))
        text[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=4))
    return bytes(text)


@settings(max_examples=MUTATIONS, deadline=10_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(mutated())
def test_mutated_specs_run_or_fail_in_one_line(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said, \
            contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "spec.toml"
        path.write_bytes(text)
        code = command(["run", str(path), "--no-save"])
        errors = [line for line in said.getvalue().splitlines() if not line.startswith("remark: ")]
        assert code in (0, 2, 3), said.getvalue()
        assert len(errors) == (1 if code == 2 else 0), said.getvalue()
        assert code != 2 or (errors[0].startswith("error: ") and len(errors[0]) < 800)


STOPPED = {
    "em": {"model": "gmm", "guides": ("exact",), "draws": 8},
    "svi": {"command": "fit", "model": "gmm", "data": "iris", "guides": ("categorical:encoder",), "method": "svi", "steps": 12,
            "draws": 8, "validation": 0.2, "batch_size": 20},
    "fixed_draws": {"command": "fit", "model": "linear_regression", "guides": ("mean_field",), "method": "fixed_draws",
                    "steps": 8, "draws": 8},
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of each method, stopped after three steps with two checkpoints, and done ones that lost their status."""
    found = []
    for method, asked in STOPPED.items():
        for last in (3, None):
            path = tmp_path_factory.mktemp("stopped") / method
            stop = Stop()

            class Ask(experiments.Callback):
                def on_step(self, now: experiments.Moment, stop: Stop = stop, last: int | None = last) -> None:
                    stop.signal = signal.SIGINT if now.step == last else None

            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Interrupted):
                patch.setattr("experiments.fits.journal.SHARE", 1e9)
                run(complete(**asked), path, quiet(stop=stop, interval=0.0, callbacks=[Ask()]))
            (path / "status.json").unlink(missing_ok=True)
            found.append(path)
    return found


@pytest.fixture(scope="module")
def finished(stopped: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs that are done, and know it."""
    found = []
    for path in stopped:
        if list(path.glob("checkpoint/*/end.json")):
            found.append(tmp_path_factory.mktemp("finished") / "run")
            shutil.copytree(path, found[-1])
            settle(found[-1], "done")
    return found


@pytest.fixture(autouse=True, scope="module")
def hasty() -> Iterator[None]:
    """A thousand runs need not be safe from a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all that a JSON value holds."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return ``value`` with ``new`` at ``path``; ``...`` takes it out."""
    if not path:
        return new
    value = value.copy()
    if len(path) == 1 and new is ...:
        value.pop(path[0])
    else:
        value[path[0]] = put(value[path[0]], path[1:], new)
    return value


def harm_values(data: st.DataObject, file: Path) -> None:
    """Put something else in a place of a checkpoint's JSON, or take it out, and make the checksum fit."""
    body = json.loads(file.read_bytes())["body"]
    place = data.draw(st.sampled_from(places(body["values"])[1:]))
    new = data.draw(st.sampled_from([..., None, "x", -1, 10**20, 0.5, float("nan"), [], {}, [[1]], True]))
    body["values"] = put(body["values"], place, new)
    seal(file, body)


def harm_tensors(data: st.DataObject, file: Path) -> None:
    """Give a tensor of a checkpoint another shape, type, name or values, or take it out, and make the checksums fit."""
    tensors = safetensors.torch.load_file(file.with_suffix(".safetensors"))
    name = data.draw(st.sampled_from(sorted(tensors)))
    value = tensors.pop(name)
    kind = data.draw(st.sampled_from(["out", "renamed", "longer", "flat", "empty", "int", "float32", "huge", "nan"]))
    made = {"longer": lambda: torch.cat([value.reshape(-1), value.reshape(-1)]), "flat": lambda: value.reshape(-1),
            "empty": lambda: value.reshape(-1)[:0], "int": value.long, "float32": value.float,
            "huge": lambda: torch.full_like(value, 200), "nan": lambda: torch.full_like(value.double(), torch.nan)}
    if kind == "renamed":
        tensors[name + "0"] = value
    elif kind != "out":
        tensors[name] = made[kind]().contiguous()
    raw = safetensors.torch.save(tensors)
    file.with_suffix(".safetensors").write_bytes(raw)
    seal(file, {**json.loads(file.read_bytes())["body"], "tensors": digest(raw)})


def harm_bytes(data: st.DataObject, file: Path) -> None:
    """Change some bytes of a checkpoint's file, or of the others beside it."""
    harm(data, data.draw(st.sampled_from([file, file.with_suffix(".safetensors"), file.parent / "fit.json",
                                          file.parent.parent.parent / "metrics.jsonl"])))


def harm(data: st.DataObject, file: Path) -> None:
    """Change, add or take out some bytes of a file."""
    raw = bytearray(file.read_bytes())
    at, length = data.draw(st.integers(0, len(raw))), data.draw(st.integers(0, 12))
    raw[at : at + length] = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from([b"NaN", b"[[[[", b"1e999"])))
    file.write_bytes(raw)


def seal(file: Path, body: Any) -> None:
    """Write a checkpoint's JSON with a checksum that fits: whoever alters a checkpoint may alter that, too."""
    text = json.dumps(body, sort_keys=True)
    file.write_text(json.dumps({"checksum": digest(text.encode()), "body": body}, sort_keys=True))


@settings(max_examples=MUTATIONS, deadline=10_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(data=st.data())
def test_mutated_checkpoints_run_or_fail_in_one_line(data: st.DataObject, stopped: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said, \
            contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "run"
        shutil.copytree(data.draw(st.sampled_from(stopped)), path)
        files = sorted([*path.glob("checkpoint/*/step-*.json"), *path.glob("checkpoint/*/end.json")])
        for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
            data.draw(st.sampled_from([harm_values, harm_tensors, harm_bytes]))(data, file)
        code = command(["resume", str(path), "--no-report"])
        errors = [line for line in said.getvalue().splitlines() if not line.startswith("remark: ")]
        assert code in (0, 2), said.getvalue()
        assert len(errors) == (1 if code == 2 else 0), said.getvalue()


def harm_lines(data: st.DataObject, file: Path) -> None:
    """Empty a file, remove it, cut it, or double, drop or swap lines of it."""
    lines = file.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, max(0, len(lines) - 1)))
    made = {"emptied": [], "cut": lines[:at], "doubled": [*lines[: at + 1], *lines[at:]],
            "dropped": lines[:at] + lines[at + 1 :], "swapped": [*lines[at:], *lines[:at]]}
    kind = data.draw(st.sampled_from([*made, "removed"]))
    if kind == "removed":
        file.unlink()
    else:
        file.write_bytes(b"".join(made[kind]))


@settings(max_examples=MUTATIONS, deadline=10_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(data=st.data())
def test_runs_with_mutated_files_run_or_fail_in_one_line(
    data: st.DataObject, stopped: list[Path], finished: list[Path],
) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said, \
            contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "run"
        shutil.copytree(data.draw(st.sampled_from([*stopped, *finished])), path)
        before = {file.name for file in path.iterdir()}
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
        harmed = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True))
        for file in harmed:
            data.draw(st.sampled_from([harm, harm_lines]))(data, file)
        for words in (["runs"], ["report"], ["resume", "--no-report"]):
            said.seek(0)
            said.truncate()
            code = command([words[0], str(path), *words[1:]])
            errors = [line for line in said.getvalue().splitlines() if not line.startswith("remark: ")]
            assert code in (0, 2), said.getvalue()
            assert len(errors) == (1 if code == 2 else 0), said.getvalue()
        if {file.name for file in harmed} <= {"metrics.jsonl", ".metrics.json"}:
            assert "status.json" in before or code == 0, "what is wrong with the metrics alone stops no run"


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A grid that is done, and one of which a run was never begun."""
    asked = {"model": "gmm", "guides": ("exact",), "method": "em", "steps": 2, "draws": 8}
    whole = tmp_path_factory.mktemp("grid") / "whole"
    with ThreadPoolExecutor(1) as executor:
        sweep(Grid({f"seed={seed}": complete(seed=seed, **asked) for seed in (0, 1)}, {}), whole, SweepOptions(), executor)
    begun = whole.with_name("begun")
    shutil.copytree(whole, begun)
    shutil.rmtree(begun / "seed=1")
    return [whole, begun]


@settings(max_examples=MUTATIONS, deadline=20_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(data=st.data())
def test_grids_with_mutated_files_run_or_fail_in_one_line(data: st.DataObject, grids: list[Path]) -> None:
    """One time in two the grid's own files, else any: a resume ends with 3 where a run of the grid fails."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said, \
            contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.runs.sweep.ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
        path = Path(folder) / "grid"
        shutil.copytree(data.draw(st.sampled_from(grids)), path)
        own = sorted(file for file in path.iterdir() if file.is_file() and file.name != ".lock")
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
        for file in data.draw(st.lists(st.sampled_from(own if data.draw(st.booleans()) else files), min_size=1, max_size=2,
                                       unique=True)):
            data.draw(st.sampled_from([harm, harm_lines]))(data, file)
        for words, codes in ((["runs"], (0, 2)), (["report"], (0, 2)), (["resume", "--no-report"], (0, 2, 3))):
            said.seek(0)
            said.truncate()
            code = command([words[0], str(path), *words[1:]])
            errors = [line for line in said.getvalue().splitlines() if not line.startswith("remark: ")]
            assert code in codes, said.getvalue()
            assert len(errors) == (1 if code == 2 else 0), said.getvalue()
