"""What an adversary once found: each of these gave a wrong number or a traceback."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.cli import run

X = torch.tensor([2.0, 3.0, 4.0, 7.0], dtype=torch.double)
ZERO = torch.zeros((), dtype=torch.double)


def test_an_elbo_of_minus_infinity_is_an_infinite_gap() -> None:
    def cut(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.factor("f", torch.where(z.abs() < 2, 0.0, -math.inf))

    table = experiments.compare(cut, ZERO, "prior")
    assert table.rows[0].evaluation.kl_gap.value == math.inf
    assert "∞" in str(table)
    assert table.to_dict()["guides"][0]["kl_gap"]["value"] is None
    json.dumps(table.to_dict(), allow_nan=False)


def test_stock_pyro_runs_a_bare_program_with_its_fitted_parameters() -> None:
    def centred(x: Tensor) -> None:
        m = pyro.param("m", ZERO)
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    model = zoo.as_model(centred)
    guide = experiments.fit(model, "mean_field", X).guide
    ours = experiments.log_weights(model, guide, X, 4000).elbo()
    with zoo.seeded(0), torch.no_grad():
        stock = -sum(pyro.infer.Trace_ELBO().loss(model, guide, X) for _ in range(50)) / 50
    assert stock == pytest.approx(ours.value, abs=0.2)
    with pyro.get_param_store().scope(), zoo.seeded(0):
        before = float(model.params["m"].detach())
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO()).step(X)
        assert float(model.params["m"].detach()) != before, "stock SVI moves θ too"


@pytest.mark.long
def test_stock_elbo_of_masked_observations_stays_below_the_evidence() -> None:
    mask = torch.tensor([True, False, True, False])

    def masked(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x, obs_mask=mask)

    model = zoo.as_model(masked)
    guide = experiments.fit(model, "full_rank", X).guide
    ours = experiments.evaluate(model, guide, X).elbo.value
    with zoo.seeded(0), torch.no_grad():
        stock = -torch.tensor([pyro.infer.Trace_ELBO().loss(model, guide, X) for _ in range(100)]).double()
    assert float(stock.mean()) == pytest.approx(ours, abs=5 * float(stock.std()) / 10 + 1e-4)


def test_a_support_that_moves_with_the_latents_is_no_reason_to_refuse() -> None:
    def moving(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Uniform(z - 1, z + 1), obs=x)

    assert zoo.as_model(moving).latents(torch.tensor(0.3, dtype=torch.double)).size == 1


def test_a_program_without_a_plate_has_a_tree() -> None:
    def plain(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    guide = experiments.fit(plain, "mean_field", X).guide
    tree = experiments.posterior(guide.model, guide, X, draws=10)
    assert tree["log_likelihood"]["x"].shape == (1, 10, 4)


def test_counts_with_a_program_in_double_precision() -> None:
    def categories(x: Tensor) -> None:
        w = pyro.sample("w", dist.Dirichlet(torch.ones(2, dtype=torch.double)))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Categorical(w), obs=x)

    found = experiments.evidence(categories, torch.tensor([0, 1, 1]))
    assert found.value == pytest.approx(math.log(1 * 2 / (2 * 3 * 4)), abs=1e-4)


def test_units_along_another_dimension_are_refused_by_encoders_and_minibatches() -> None:
    def columns(x: Tensor) -> None:
        with pyro.plate("c", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            with pyro.plate("r", x.shape[0], dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(8, 8, dtype=torch.double)
    model = zoo.as_model(columns)
    assert model.latents(x).unit == "c"
    with pytest.raises(zoo.ZooError, match="along the first dimension of its observations for 'mean_field:encoder'"):
        guides.build("mean_field:encoder", model, x)
    with pytest.raises(zoo.ZooError, match="expected 4 rows of x to make 4 units of columns"):
        experiments.fit(model, "mean_field", x, method="svi", batch_size=4)


def sites_come_and_go(x: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(ZERO, 1.0))
    if m > 0:
        m = m + pyro.sample("k", dist.Normal(ZERO, 1.0))
    pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def reads_another_entry(x: dict[str, Tensor]) -> None:
    m = pyro.sample("m", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(m, 1.0), obs=x["yy"])


@pytest.mark.parametrize(("program", "x", "text"), [
    (sites_come_and_go, X, "expected the same latent sites in every run of sites_come_and_go"),
    (reads_another_entry, {"y": X}, "expected every entry of x that reads_another_entry reads; got none for 'yy'")])
def test_programs_that_cannot_be_are_refused(program: object, x: object, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        guides.build("mean_field", zoo.as_model(program), x)


@pytest.mark.parametrize(("options", "text"), [
    ({"draws": 0}, "draws as a whole number from 1; got 0"), ({"draws": 1.5}, "draws as a whole number from 1; got 1.5"),
    ({"seed": 2**64}, "seed as a whole number from 0 to"), ({"seed": -1}, "seed as a whole number from 0 to"),
    ({"batch_size": 2}, "expected method svi with batch_size; got fixed_draws")])
def test_options_of_fit(options: dict[str, object], text: str) -> None:
    def shared(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    with pytest.raises(zoo.ZooError, match=text):
        experiments.fit(shared, "mean_field", X, **options)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    return error


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2,9\n3,4,5\n6,7,1\n4,4,4\n", "expected as many fields in each row"),
    ("a,a,b\n1,2,9\n3,4,5\n6,7,1\n", "expected distinct column names in f.csv; got 'a' twice"),
    ("a,b\n1e200,2\n3e200,4\n6e200,7\n", "expected columns of size and spread between"),
    ("a,b\n1e-200,2\n3e-200,4\n6e-200,7\n", "expected columns of size and spread between")])
def test_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    assert message in refused(capsys, "compare", "gmm", "-d", tmp_path / "f.csv", "-g", "exact", "--components", "1")


def test_huge_columns_can_be_standardised(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,b\n1e200,2e-200\n3e200,4e-200\n7e200,7e-200\n")
    x = zoo.dataset(str(tmp_path / "f.csv"), standardise=True).x
    torch.testing.assert_close(x.std(0, unbiased=False), torch.ones(2, dtype=torch.double))


def test_parquet_columns_that_are_no_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pd.DataFrame({"a": [1.0, 2, 3], "t": pd.date_range("2020", periods=3)}).to_parquet(path)
    assert "got dates or durations" in refused(capsys, "compare", "gmm", "-d", path)
    pd.DataFrame({"a": [1.0, 2, 3], "l": [[1], [2], [3]]}).to_parquet(path)
    assert "expected numbers in column 'l'" in refused(capsys, "compare", "gmm", "-d", path)
    pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 5, 2]}).set_index("a").to_parquet(path)
    assert zoo.dataset(str(path)).columns == ("a", "b")


def test_a_first_column_without_a_name_is_kept_where_it_is_data(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(",b\n0.5,2\n3.5,4\n6,7\n")
    assert zoo.dataset(str(tmp_path / "f.csv")).columns == ("column_0", "b")


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


@pytest.mark.long
def test_a_narrow_terminal_loses_no_number() -> None:
    import io

    from rich.console import Console

    from experiments.comparison import text

    x = zoo.dataset("eight_schools").x
    table = experiments.compare(zoo.build("eight_schools", x), x, ["mean_field"], draws=200)
    out = io.StringIO()
    text.comparison(table, Console(file=out, width=50, force_terminal=True, color_system=None, highlight=False))
    assert text.number(table.rows[0].evaluation.elbo.value, table.rows[0].evaluation.elbo.se) in out.getvalue()
    assert not any(line.rstrip().endswith("…") for line in out.getvalue().splitlines())


def test_a_model_named_like_its_data_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "eight_schools"]) == 0
    assert "--centred" in capsys.readouterr().out


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_float32_gives_the_float64_evidence() -> None:
    x = zoo.dataset("wine", standardise=True).x
    value = [float(zoo.build("ppca", x.to(t)).log_evidence(x.to(t)).sum().detach()) for t in (torch.float32, torch.float64)]
    assert value[0] == pytest.approx(value[1], rel=1e-5)
    assert np.isfinite(value).all()
