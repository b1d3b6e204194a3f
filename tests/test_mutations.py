"""Specs and checkpoints that were harmed: each runs, or fails with one line."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import experiments
from experiments.cli import run as command
from experiments.files import digest
from experiments.journal import Stop
from experiments.runs import run
from experiments.spec import Spec
from tests.durable import gmm, quiet
from zoo.errors import Interrupted

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
KEYS = st.sampled_from([*Spec.model_fields, "format", "record", "optins", "sede", ""])


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


@settings(max_examples=500, deadline=10_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
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


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stopped") / "run"
    stop = Stop()

    class Ask(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            if now.step == 3:
                stop.signal = signal.SIGINT

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.journal.SHARE", 1e9)
        with pytest.raises(Interrupted):
            run(gmm(draws=8), path, quiet(stop=stop, interval=0.0, callbacks=[Ask()]))
    return path


@settings(max_examples=500, deadline=10_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(data=st.data())
def test_mutated_checkpoints_run_or_fail_in_one_line(data: st.DataObject, stopped_run: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said, \
            contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "run"
        shutil.copytree(stopped_run, path)
        files = sorted(p for p in path.rglob("*") if p.is_file() and (p.parent.name == "theta" or p.name == "metrics.jsonl"))
        for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
            raw = bytearray(file.read_bytes())
            at, length = data.draw(st.integers(0, len(raw))), data.draw(st.integers(0, 12))
            raw[at : at + length] = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from([b"NaN", b"[[[[", b"1e999"])))
            if data.draw(st.booleans()) and file.suffix == ".json" and file.name != "fit.json":
                raw = bytearray(rehashed(bytes(raw)))  # whoever alters a checkpoint may alter its checksum, too
            file.write_bytes(raw)
        code = command(["resume", str(path), "--no-report"])
        errors = [line for line in said.getvalue().splitlines() if not line.startswith("remark: ")]
        assert code in (0, 2), said.getvalue()
        assert len(errors) == (1 if code == 2 else 0), said.getvalue()


def rehashed(raw: bytes) -> bytes:
    """Return a checkpoint's JSON with its checksum made to fit, where it is JSON."""
    try:
        outer = json.loads(raw)
        outer["checksum"] = digest(json.dumps(outer["body"], sort_keys=True).encode())
        return json.dumps(outer).encode()
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        return raw
