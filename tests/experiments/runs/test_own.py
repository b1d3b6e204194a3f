"""A program of the user's own through every door: commands, specs, grids, loading; and its code only where trusted."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import experiments
from experiments.cli import run as command
from experiments.reporting.record import read
from experiments.runs.grid import read_grid, write_toml
from experiments.runs.programs import source_digest
from experiments.runs.run import RunOptions, resume, run
from experiments.runs.spec import complete
from experiments.runs.sweep import SweepOptions, sweep
from zoo.errors import ZooError

PROGRAM = """
import os
from pathlib import Path
import pyro, pyro.distributions as dist
print("code is run")
(Path(__file__).parent / "ran").touch()

def coin(heads, trials):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(heads)):
        pyro.sample("seen", dist.Binomial(trials, p), obs=heads)

def means(y):
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)
"""
#: log p: a beta-binomial of 15 heads in 30 throws, three times ten.
LOG_P = -6.8146


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models.py").write_text(PROGRAM)
    (tmp_path / "my.csv").write_text("heads,trials\n3,10\n7,10\n5,10\n")
    (tmp_path / "y.csv").write_text("y\n0.5\n-1.0\n2.0\n0.1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_RUNS", "")
    return tmp_path


def ran(own: Path) -> bool:
    """Return whether the file was run since this was last asked."""
    told = (own / "ran").exists()
    (own / "ran").unlink(missing_ok=True)
    return told


ASKED = ["models.py:coin", "--data", "my.csv", "--seed", "1"]


@pytest.mark.parametrize("words", [
    ["compare", *ASKED, "-g", "mean_field,full_rank"], ["compare", *ASKED], ["fit", *ASKED],
    ["fit", *ASKED, "-g", "full_rank"]])
def test_commands_take_a_file_and_a_name(words: list[str], own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the program prints is not among the results."""
    assert command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "coin"
    assert found["log_evidence"]["value"] == pytest.approx(LOG_P, abs=1e-3)
    assert found["guides"][0]["guide"] == ("full_rank" if words[-1] == "full_rank" else "mean_field")


def test_a_summary_has_the_programs_quantities(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["summary", *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["p"]["mean"] == pytest.approx(0.5, abs=0.02)  # Beta(17, 17)


def test_a_run_is_one_like_others(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its spec names the file absolutely, and its code's checksum; reports, lists and loading run none of it."""
    assert command(["compare", *ASKED, "-g", "mean_field", "--out", "run"]) == 0
    assert ran(own)
    spec = tomllib.loads((own / "run" / "spec.toml").read_text())
    assert spec["model"] == f"{own}/models.py:coin"
    assert len(spec["record"]["program_sha256"]) == 64
    assert {"posterior.nc", "report.html", "summary.csv"} <= {file.name for file in (own / "run").iterdir()}
    sys.modules.pop("program_in_models", None)
    assert command(["report", "run"]) == 0
    assert command(["runs", "."]) == 0
    assert read(own / "run").state == "done"
    with pytest.raises(ZooError, match=r"expected the program .*models.py:coin.; got none, and no code is run for it"):
        experiments.load(own / "run")
    assert not ran(own)
    namespace: dict[str, object] = {"__file__": str(own / "models.py")}
    exec((own / "models.py").read_text(), namespace)
    loaded = experiments.load(own / "run", model=namespace["coin"])  # type: ignore[arg-type]
    assert loaded.best.elbo == loaded.comparison["guides"][0]["elbo"]["value"] or loaded.comparison["guides"][0]["elbo"]
    assert float(loaded.posterior["posterior"]["p"].mean()) == pytest.approx(0.5, abs=0.02)


def test_a_specs_code_is_run_where_it_is_trusted_alone(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = complete(model="models.py:coin", data="my.csv", guides=("mean_field",))
    (own / "spec.toml").write_text(write_toml(spec))
    assert command(["run", "spec.toml", "--out", "run"]) == 2
    said = capsys.readouterr()
    assert "expected --trust to run the code of 'models.py:coin'" in said.err
    assert (said.out, said.err.count("\n"), ran(own), (own / "run").exists()) == ("", 1, False, False)
    with pytest.raises(ZooError, match="expected --trust"):
        run(spec, own / "run")
    assert not ran(own)
    assert command(["run", "spec.toml", "--out", "run", "--trust", "--no-report"]) == 0
    assert ran(own)
    assert command(["resume", "run", "--force"]) == 2
    assert not ran(own)


def test_a_resumed_run_holds_the_program_beside_what_it_was(own: Path) -> None:
    how = RunOptions(trust=True, report=False, progress=False)
    run(complete(model="models.py:coin", data="my.csv", guides=("mean_field",)), own / "run", how)
    (own / "run" / "status.json").unlink()
    resume(own / "run", how)
    (own / "models.py").write_text(PROGRAM.replace("Beta(2.0, 2.0)", "Beta(3.0, 2.0)"))
    (own / "run" / "status.json").unlink()
    with pytest.raises(ZooError, match="changed since is the file of the program; put them back, or pass --force"):
        resume(own / "run", how)


def test_a_grid_of_ones_own(own: Path) -> None:
    (own / "grid.toml").write_text(
        'command = "fit"\nmodel = "models.py:means"\ndata = "y.csv"\nguides = ["mean_field"]\nseeds = [0, 1]')
    grid = read_grid(own / "grid.toml")
    with pytest.raises(ZooError, match="expected --trust"):
        sweep(grid, own / "a", SweepOptions(jobs=1, report=False))
    assert not ran(own)
    done = sweep(grid, own / "b", SweepOptions(jobs=1, report=False, trust=True))
    truth = float(torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor([0.5, -1.0, 2.0, 0.1])).sum())
    assert [record.state for record in done] == ["done", "done"]
    assert all(abs(record.comparison["log_evidence"]["value"] - truth) < 1e-3 for record in done if record.comparison)


def test_a_module_that_can_be_imported(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "pack").mkdir()
    (own / "pack" / "__init__.py").write_text("")
    (own / "pack" / "mine.py").write_text(PROGRAM)
    assert command(["fit", "pack.mine:coin", "--data", "my.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_evidence"]["value"] == pytest.approx(LOG_P, abs=1e-3)
    assert str(own) not in sys.path


@pytest.mark.parametrize(("words", "message"), [
    (["models.py:coin"], "expected a file of data for a program of your own"),
    (["models.py:coins", "--data", "my.csv"], "did you mean 'coin'?"),
    (["other.py:coin", "--data", "my.csv"], "expected a file of Python"),
    (["no.such.module:coin", "--data", "my.csv"], "expected a module 'no.such.module'"),
    (["models.py:coin", "--data", "my.csv", "--standardise"], "a program that reads the data as it is; got --standardise"),
    (["models.py:coin", "--data", "my.csv", "--components", "3"], "got --components"),
    (["models.py:coin", "--data", "my.csv", "-g", "categorical"], "does not fit model 'coin'"),
    (["models.py:coin", "--data", "my.csv", "-g", "mean_field:encoder"], "latents that all rows share"),
    (["models.py:coin", "--data", "y.csv"], "expected columns heads, trials"),
])
@pytest.mark.parametrize("name", ["compare", "fit", "summary"])
def test_bad_words_are_one_line(
    name: str, words: list[str], message: str, own: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    assert command([name, *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len([line for line in said.err.splitlines() if line != "code is run"]) == 1


def test_a_registered_data_set_serves_a_program_of_ones_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, or its columns by name."""
    (own / "models.py").write_text(PROGRAM + """
def whole(x):
    m = pyro.sample("m", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(m, 10.0).to_event(1), obs=x)

def named(waiting, eruptions):
    m = pyro.sample("m", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
    with pyro.plate("rows", len(waiting)):
        pyro.sample("a", dist.Normal(m[0], 10.0), obs=eruptions)
        pyro.sample("b", dist.Normal(m[1], 10.0), obs=waiting)
""")
    found = []
    for name in ("whole", "named"):
        assert command(["fit", f"models.py:{name}", "--data", "faithful", "-g", "full_rank", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["guides"][0]["elbo"]["value"])
    assert found[0] == pytest.approx(found[1], abs=0.01)


def test_helpers_of_two_programs_do_not_mix(own: Path) -> None:
    """Two files of one name, each with a helper of one name, in one process; and a helper that changed is noticed."""
    how = RunOptions(trust=True, report=False, progress=False)
    found = []
    for folder, heads in (("a", 2.0), ("b", 20.0)):
        (own / folder).mkdir()
        (own / folder / "m.py").write_text("from helper import coin")
        (own / folder / "helper.py").write_text(PROGRAM.replace("Beta(2.0, 2.0)", f"Beta({heads}, 2.0)"))
        spec = complete(model=f"{folder}/m.py:coin", data="my.csv", guides=("mean_field",))
        found.append(run(spec, own / "runs" / folder, how).evidence.middle)
    assert found[0] == pytest.approx(LOG_P, abs=1e-3)
    assert found[1] < LOG_P - 1
    assert "helper" not in sys.modules
    (own / "b" / "helper.py").write_text(PROGRAM)
    (own / "runs" / "b" / "status.json").unlink()
    with pytest.raises(ZooError, match="changed since is the file of the program"):
        resume(own / "runs" / "b", how)


def test_a_class_is_no_program(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "models.py").write_text("import zoo\nclass Mine(zoo.Model):\n    def forward(self, x):\n        pass\n")
    assert command(["fit", "models.py:Mine", "--data", "y.csv"]) == 2
    assert "expected a function or an instance 'Mine' in models.py; got a class" in capsys.readouterr().err


def test_arguments_by_place_and_programs_without_columns(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "models.py").write_text(PROGRAM.replace("coin(heads, trials)", "coin(heads, trials, /)") + """
def deaf(other=3.0):
    pyro.sample("z", dist.Normal(other, 1.0))
""")
    assert command(["fit", "models.py:coin", "--data", "my.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_evidence"]["value"] == pytest.approx(LOG_P, abs=1e-3)
    assert command(["fit", "models.py:deaf", "--data", "my.csv"]) == 2
    assert "called like a column of my.csv; got other; it has heads, trials" in capsys.readouterr().err


def test_what_else_was_imported_does_not_change_a_programs_checksum(own: Path) -> None:
    (own / "helper.py").write_text("def prior():\n    return 2.0\n")
    (own / "unrelated.py").write_text("a = 1\n")
    (own / "models.py").write_text("from helper import prior\n" + PROGRAM)
    digests = []
    for also in (False, True):
        sys.path.insert(0, str(own))
        if also:
            importlib.import_module("unrelated")
        sys.path.remove(str(own))
        digests.append(source_digest("models.py:coin"))
    (own / "helper.py").write_text("def prior():\n    return 3.0\n")
    assert digests[0] == digests[1] != source_digest("models.py:coin")
    sys.modules.pop("unrelated")


def test_words_are_coded_and_a_programs_own_error_is_told_by_its_line(
    own: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    (own / "words.csv").write_text("who,y\nann,1.0\nbob,2.0\nann,0.5\n")
    (own / "models.py").write_text(PROGRAM + """
def groups(who, y):
    with pyro.plate("whos", 2):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m[who], 1.0), obs=y)

def wrong(y):
    pyro.sample("m", dist.Normal(0.0, missing))
""")
    assert command(["fit", "models.py:groups", "--data", "words.csv", "-g", "full_rank", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["log_evidence"]
    truth = sum(float(torch.distributions.MultivariateNormal(torch.zeros(len(y)), torch.eye(len(y)) + 1).log_prob(
        torch.tensor(y))) for y in ([1.0, 0.5], [2.0]))
    assert found["lower"] - 0.01 <= truth <= found["upper"] + 0.01
    assert command(["summary", "models.py:groups", "--data", "words.csv", "-g", "full_rank"]) == 0
    shown = capsys.readouterr().out
    assert "m[ann]" in shown
    assert "m[bob]" in shown
    assert command(["fit", "models.py:wrong", "--data", "y.csv"]) == 2
    line = (own / "models.py").read_text().splitlines().index('    pyro.sample("m", dist.Normal(0.0, missing))') + 1
    assert f"NameError: name 'missing' is not defined, in line {line} of" in capsys.readouterr().err
