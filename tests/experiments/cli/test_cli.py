"""The command: what it prints, where, and what it does with bad input."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import zoo
from experiments.cli import run
from experiments.comparison.table import Comparison
from experiments.fits.journal import slug
from experiments.runs.job import Job
from experiments.runs.spec import Spec

ZOO = str(Path(sys.executable).parent / "zoo")


@dataclass(frozen=True)
class Said:
    """What a command wrote."""

    stdout: str
    stderr: str


def command(*words: str) -> Said:
    """Run a command in this process: importing everything anew takes longer than most of them."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(list(words))
    assert code == 0, err.getvalue()
    return Said(out.getvalue(), err.getvalue())


def faithful_csv(path: Path, rows: int = 60) -> Path:
    frame = pd.DataFrame(zoo.dataset("faithful").x[:rows].numpy(), columns=["eruptions", "waiting"])
    frame.to_csv(path, index=False)
    return path


# -- what it prints -----------------------------------------------------------------------------------------------------


def test_list_shows_every_entry_and_imports_nothing_heavy() -> None:
    code = ("import sys; from experiments.cli import run; run(['list']); "
            "sys.exit(bool({'torch', 'pyro', 'pandas', 'sklearn', 'matplotlib', 'arviz_base'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "zoo list imports something heavy"
    from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, WHOLE

    for name in [*zoo.MODELS, *zoo.DATASETS, *FAMILIES, *AMORTISATIONS, *WHOLE, *DRAWN]:
        assert name in done.stdout
    assert not any(ord(c) in range(0x2500, 0x2580) for c in done.stdout), "piped output is plain"


def test_list_of_a_model_shows_its_options() -> None:
    text = command("list", "gmm").stdout
    assert "--components" in text
    assert "--covariance" in text


def test_compare_json_has_the_documented_shape(tmp_path: Path) -> None:
    done = command("compare", "gmm", "--data", "faithful", "-g", "exact", "-g", "categorical", "--json")
    table = json.loads(done.stdout)
    assert list(table)[:7] == ["model", "data", "units", "units_in_all", "holdout", "seed", "log_evidence"]
    assert (table["model"], table["data"], table["units"], table["seed"]) == ("gmm", "faithful", 272, 0)
    assert table["log_evidence"]["kind"] == "exact"
    assert table["log_evidence"]["value"] == pytest.approx(-1130.264, abs=1e-3)
    assert table["log_evidence"]["lower"] == table["log_evidence"]["upper"] == table["log_evidence"]["value"]
    row = table["guides"][0]
    assert row["guide"] == "exact"
    assert {"value", "se"} <= set(row["elbo"])
    assert {"value", "lower", "upper"} <= set(row["kl_gap"])
    assert {"reconstruction", "kl_prior", "khat", "ess", "parameters", "steps", "seconds"} <= set(row)
    again = json.loads(command("compare", "gmm", "-g", "exact", "-g", "categorical", "--json").stdout)
    for one in (table, again):
        for row in [*one["guides"], one["theta"]]:
            row.pop("seconds")
    assert table == again


def test_theta_is_printed_first_under_the_names_of_columns_and_is_in_json() -> None:
    said = command("fit", "gmm", "-g", "exact", "--no-save").stdout.splitlines()
    assert " ".join(said[1].split()) == "component weights means eruptions means waiting sds eruptions sds waiting"
    assert next(i for i, line in enumerate(said) if "0.3559" in line) < said.index(next(x for x in said if "272 units" in x))
    theta = json.loads(command("fit", "gmm", "-g", "exact", "--no-save", "--json").stdout)["theta"]
    assert theta["labels"] == {"column": ["eruptions", "waiting"], "other_column": ["eruptions", "waiting"]}
    assert theta["parameters"][0]["values"] == pytest.approx([0.3559, 0.6441], abs=1e-4)
    assert theta["networks"] == []


def test_compare_of_a_file_with_options(tmp_path: Path) -> None:
    path = faithful_csv(tmp_path / "my data.csv")
    table = json.loads(command("compare", "gmm", "--data", str(path), "--components", "4", "-g", "exact", "--json").stdout)
    assert (table["data"], table["units"]) == ("my data.csv", 60)


def test_fit_and_summary(tmp_path: Path) -> None:
    done = command("fit", "ppca", "--data", "wine", "-g", "exact", "--method", "em", "--seed", "1")
    assert "log p(x | θ) = -5195.746 nats" in done.stdout
    assert done.stderr == ""
    done = command("summary", "eight_schools", "-g", "full_rank")
    assert "theta[Choate]" in done.stdout
    assert "k̂ = " in done.stderr
    table = json.loads(command("summary", "eight_schools", "-g", "mean_field", "--json").stdout)
    assert table["summary"]["mu"]["mean"] == pytest.approx(4.4, abs=0.5)


def test_out_writes_results_and_figures(tmp_path: Path) -> None:
    out = tmp_path / "results"
    command("compare", "gmm", "--data", str(faithful_csv(tmp_path / "f.csv")), "-g", "exact", "-g", "categorical:encoder",
            "--steps", "30", "--out", str(out))
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    names = ("elbo", "gap", "split", "samples", "density", "predictive")
    figures = {f"figures/{name}.{ending}" for name in names for ending in ("png", "svg")}
    names = ("theta", "categorical:encoder", "best free categorical:encoder")
    fits = {f"checkpoint/{slug(name)}/{file}" for name in names for file in ("fit.json", "end.json", "end.safetensors")}
    assert written - fits == {
        "spec.toml", "status.json", "metrics.jsonl", "comparison.json", "comparison.csv", "posterior.nc", "summary.csv",
        "units.json", "report.html", ".lock", ".metrics.json", *figures}
    assert json.loads((out / "comparison.json").read_text())["units"] == 60
    assert pd.read_csv(out / "comparison.csv", index_col="guide").loc["exact", "kl_gap"] == pytest.approx(0, abs=1e-6)
    out = tmp_path / "regression"
    command("fit", "linear_regression", "-g", "mean_field", "--out", str(out))
    assert {p.stem for p in (out / "figures").iterdir()} == {"elbo", "gap", "forest", "pair", "predictive"}


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    words = ["fit", "ppca", "--data", "iris", "-g", "mean_field", "--method", "svi", "--steps", "200"]
    assert command(*words).stderr == ""
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "experiments.cli", *words], stdout=subprocess.DEVNULL, stderr=slave,
                          env={**os.environ, "TERM": "xterm", "COLUMNS": "140"}) as process:
        os.close(slave)
        text = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            text += part
    os.close(master)
    assert process.returncode == 0
    assert b"ELBO" in text
    assert b"steps/s" in text


# -- bad input -----------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run the command in this process; return its one line on standard error."""
    assert run([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


FILES = {
    "empty.csv": "", "header.csv": "a,b\n", "text.csv": "a,b\n1,2\n3,four\n", "nan.csv": "a,b\n1,2\n,4\n5,6\n",
    "inf.csv": "a,b\n1,2\n3,inf\n5,6\n", "constant.csv": "a,b\n1,7\n2,7\n3,7\n", "one.csv": "a,b\n1,2\n",
    "twice.csv": "a,b\n1,2\n1,2\n3,2.5\n", "ragged.csv": "a,b\n1,2\n1,2,3,4\n", "classes.csv": "u,v\n1,a\n2,b\n3,c\n",
}


@pytest.mark.parametrize(("file", "words", "text"), [
    ("missing.csv", (), "got no such file; check the path"),
    ("empty.csv", (), "expected a readable csv file; got 'empty.csv'"),
    ("header.csv", (), "expected rows of data in header.csv; got none"),
    ("text.csv", (), "expected numbers in column 'b' of text.csv; got 'four' in row 1"),
    ("nan.csv", (), "got NaN or infinity in column 'a', row(s) 1 (from 0)"),
    ("inf.csv", (), "got NaN or infinity in column 'b', row(s) 1 (from 0)"),
    ("constant.csv", (), "got constant column(s) b; drop them (--drop-constant"),
    ("one.csv", (), "expected at least 2 rows for gmm; got 1"),
    ("twice.csv", ("--components", "3"), "expected between 1 component and as many as the 2 distinct rows; got 3"),
    ("ragged.csv", (), "expected a readable csv file"),
    ("odd.txt", (), "expected a file ending in .csv, .tsv, .csv.gz, .tsv.gz, .npy, .parquet, .pq, "
     ".npz, .idx, -ubyte, .gz; got 'odd.txt'"),
])
def test_bad_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str, words: tuple[str, ...], text: str) -> None:
    if file in FILES:
        (tmp_path / file).write_text(FILES[file])
    assert text in refused(capsys, "compare", "gmm", "--data", str(tmp_path / file), *words)


def test_bad_arrays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "three.npy", np.zeros((2, 2, 2)))
    assert "expected a numeric array of shape (rows, columns)" in refused(
        capsys, "compare", "gmm", "--data", str(tmp_path / "three.npy"))
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "expected an array of numbers in object.npy; got one of Python objects" in refused(
        capsys, "fit", "gmm", "--data", str(tmp_path / "object.npy"))
    (tmp_path / "fake.parquet").write_text("not parquet")
    assert "expected a readable parquet file" in refused(capsys, "fit", "gmm", "--data", str(tmp_path / "fake.parquet"))


@pytest.mark.parametrize(("words", "text"), [
    (("compare", "gnm"), "unknown model 'gnm'; did you mean 'gmm'?"),
    (("compare", "gmm", "--data", "faithfull"), "did you mean 'faithful'?"),
    (("compare", "gmm", "-g", "catgorical"), "unknown guide 'catgorical'; did you mean 'categorical'?"),
    (("compare", "gmm", "-g", "mean_field"), "guide 'mean_field' does not fit model 'gmm': it needs continuous latents"),
    (("compare", "eight_schools", "--data", "wine"), "expected data that gives effects"),
    (("fit", "gmm", "--steps", "-3"), "--steps: expected steps as a whole number from 1; got -3"),
    (("fit", "gmm", "--steps", "many"), "'--steps': Input should be a valid integer"),
    (("fit", "gmm", "--seed", "-1"), "--seed: input should be greater than or equal to 0"),
    (("fit", "gmm", "--draws", "0"), "--draws: input should be greater than or equal to 2"),
    (("fit", "gmm", "--method", "sgd"), "unknown method 'sgd'; choose from em, fixed_draws, svi, laplace"),
    (("fit", "gmm", "--componets", "3"), "unknown option 'componets' of gmm; did you mean 'components'?"),
    (("compare", "gmm", "--guides", "exact"), "unknown option '--guides' of zoo compare; did you mean '--guide' (-g)?"),
    (("fit", "gmm", "--drop-constants"), "unknown option '--drop-constants' of zoo fit; did you mean '--drop-constant'?"),
    (("fit", "gmm", "--components", "three"), "expected option 'components' of gmm to be a whole number; got 'three'"),
    (("fit", "gmm", "--components", "2.5"), "to be a whole number; got 2.5"),
    (("fit", "eight_schools", "--centred", "7"), "to be true or false; got 7"),
    (("fit", "gmm", "--components", "0"), "expected between 1 component"),
    (("fit", "gmm", "--covariance", "ful"), "did you mean 'full'?"),
    (("fit", "ppca", "--latent", "13"), "expected 1 to 12 latent dimensions for 13 columns; got 13"),
    (("fit", "gmm", "--data", "digits"), "constant column(s) 0, 32, 39"),
    (("fit", "gmm", "extra"), "expected an option; got 'extra'"),
    (("list", "gnm"), "unknown model 'gnm'"),
    (("list", "faithful"), "expected a model; got the data set 'faithful'"),
    (("frobnicate",), "No such command 'frobnicate'"),
    (("compare",), "Missing argument 'model'"),
    (("compare", "eight_schools", "-g", "mean_field", "--out", "/proc/none/here"), "expected a directory to write to"),
    *[((*words, "--train-draws", number), "expected what fits into memory")
      for words in [("fit", "ppca", "-d", "iris", "-g", "mean_field", "--method", "svi")]
      for number in ("9223372036854775807", "1" + 30 * "0")],
    (("fit", "gmm", "-d", "faithful", "-g", "exact", "--draws", "1" + 30 * "0"), "--draws: input should be less than"),
    (("fit", "gmm", "-d", "faithful", "-g", "exact", "--seeds", "2147483648"), "--seeds: input should be less than"),
])
def test_bad_words(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str) -> None:
    assert text in refused(capsys, *words)


def test_binary_targets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(FILES["classes.csv"])
    assert "expected two classes in column 'v' of classes.csv; got 3" in refused(
        capsys, "fit", "logistic_regression", "--data", str(path))
    assert "expected a target column of classes.csv; got 'w'" in refused(
        capsys, "fit", "logistic_regression", "--data", str(path), "--target", "w")
    path.write_text("y,sigma\n1,1\n2,-1\n")
    assert "expected positive standard errors sigma; got -1.0 in row 1" in refused(
        capsys, "fit", "eight_schools", "--data", str(path))


def test_nothing_is_written_before_all_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused(capsys, "compare", "gmm", "-g", "nothing", "--out", str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()
    (tmp_path / "file").write_text("mine")
    assert "expected a directory to write to" in refused(capsys, "compare", "gmm", "--out", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_defect_of_ours_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Comparison) -> dict[str, object]:
        raise RuntimeError("something\nlong")

    monkeypatch.setattr(Comparison, "to_dict", broken)
    assert run(["compare", "gmm", "-g", "exact", "--json"]) == 1
    assert capsys.readouterr().err.startswith("error: unexpected RuntimeError: something; set ZOO_DEBUG=1")


def test_spec_refuses_unknown_keys() -> None:
    assert Spec(model="gmm", data="faithful").seed == 0
    from experiments.runs.spec import checked

    with pytest.raises(zoo.ZooError, match="--sede: unknown key; did you mean 'seed'"):
        checked(model="gmm", data="faithful", sede=3)


def test_a_holdout_of_one_unit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "eight_schools", "--holdout", "0.5"]) == 2
    assert "error: expected no --holdout for eight_schools, whose latents all rows share" in capsys.readouterr().err


def test_a_summary_is_of_all_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def said(job: Job, **named: Any) -> None:
        raise zoo.ZooError(f"{len(job.data.x)} rows, {job.holdout} held out")

    monkeypatch.setattr(Job, "fit_comparison", said)
    assert run(["summary", "flow_prior", "--data", "iris", "-g", "mean_field:encoder"]) == 2
    assert "150 rows, 0.0 held out" in capsys.readouterr().err


def test_draws_of_the_fit_and_of_the_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    command = "fit linear_vae -g mean_field:encoder --objective iwae --train-draws 1 --steps 5"
    assert run(command.split()) == 2
    assert "expected 2 or more draws with objective iwae" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2,9\n3,4,5\n6,7,1\n4,4,4\n", "expected as many fields in each row"),
    ("a,a,b\n1,2,9\n3,4,5\n6,7,1\n", "expected distinct column names in f.csv; got 'a' twice"),
    ("a,b\n1e200,2\n3e200,4\n6e200,7\n", "expected columns of size and spread between"),
    ("a,b\n1e-200,2\n3e-200,4\n6e-200,7\n", "expected columns of size and spread between")])
def test_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    assert message in refused(capsys, "compare", "gmm", "-d", tmp_path / "f.csv", "-g", "exact", "--components", "1")


def test_parquet_columns_that_are_no_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pd.DataFrame({"a": [1.0, 2, 3], "t": pd.date_range("2020", periods=3)}).to_parquet(path)
    assert "got dates or durations" in refused(capsys, "compare", "gmm", "-d", path)
    pd.DataFrame({"a": [1.0, 2, 3], "l": [[1], [2], [3]]}).to_parquet(path)
    assert "expected numbers in column 'l'" in refused(capsys, "compare", "gmm", "-d", path)
    pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 5, 2]}).set_index("a").to_parquet(path)
    assert zoo.dataset(str(path)).columns == ("a", "b")


@pytest.mark.parametrize(("words", "text"), [
    (("compare", "eight_schools", "--centred", "no"), "to be true or false; got 'no'"),
    (("compare", "ppca", "--latent"), "to be a whole number; got True"),
    (("compare", "gmm", "--x", "3"), "unknown option 'x' of gmm"),
    (("compare", "linear_regression", "--rate", "nan"), "expected a positive, finite rate"),
    (("compare", "linear_regression", "--target", "bmi"), "expected --target with a file only; got 'bmi' for 'diabetes'"),
    (("compare", "gmm", "-d", ""), "unknown data set"),
    (("fit", "ppca", "-g", "exact", "-g", "prior"), "expected one guide; got exact, prior"),
    (("fit", "ppca", "-g", "mean_field:encoder(hidden=(-3,))"), "expected hidden widths as whole numbers above 0"),
    (("fit", "ppca", "-g", "mean_field:encoder(network=3)"), "expected the encoder's network to be a name or a torch module"),
    (("fit", "ppca", "-g", "low_rank(1000000000000)"), "to be at most the 2 latent dimensions")])
def test_words(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str) -> None:
    assert text in refused(capsys, *words)


def test_names_with_slashes_and_repeated_names_keep_their_figures_and_summaries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "[bold]f.csv").write_text("mg/dl,intercept,y\n1,2,3\n2,1,4\n3,5,1\n4,4,4\n")
    words = ["linear_regression", "-d", str(tmp_path / "[bold]f.csv"), "-g", "exact"]
    assert run(["compare", *words, "--out", str(tmp_path / "o")]) == 0
    said = capsys.readouterr()
    assert "could not be drawn" not in said.err
    assert "[bold]f.csv" in said.out
    assert (tmp_path / "o" / "figures" / "forest.png").exists()
    assert run(["summary", *words, "--json", "--draws", "50"]) == 0
    assert "weights[intercept (2)]" in json.loads(capsys.readouterr().out)["summary"]


def test_consoles_without_our_letters_still_get_the_numbers() -> None:
    done = subprocess.run([sys.executable, "-m", "experiments.cli", "compare", "gmm", "-g", "exact"], capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0
    assert b"-1130.264" in done.stdout


def test_a_model_named_like_its_data_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "eight_schools"]) == 0
    assert "--centred" in capsys.readouterr().out


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
