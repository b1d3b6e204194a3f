"""The printed table: its width, its columns, and that no number is cut."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from pyro import distributions as dist
from pyro import plate, sample
from rich.cells import cell_len
from rich.console import Console
from torch import Tensor

import experiments
import zoo
from experiments.cli import run
from experiments.comparison.terminal import text
from experiments.comparison.terminal.layout import WIDTH, Column, Part, arranged, fold

LONG = "full_rank+mean_field:encoder(shared=True, hidden=(32, 32))"


def schools(y: Tensor, sigma: Tensor) -> None:
    """Eight schools, whose effects are local and whose mean and spread are shared."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(y)):
        theta = sample("theta", dist.Normal(mu, tau))
        sample("y", dist.Normal(theta, sigma), obs=y)


def mixture() -> experiments.Comparison:
    x = zoo.dataset("faithful").x
    return experiments.compare(zoo.build("gmm", x), x, steps=20, data="faithful", progress=False)


def normals() -> experiments.Comparison:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    return experiments.compare(model, x, ["mean_field", "full_rank", "low_rank"], effort="quick", progress=False)


def blocks() -> experiments.Comparison:
    y, sigma = zoo.dataset("eight_schools").x.values()
    guides = ["mean_field", "full_rank+mean_field:free(shared=True)", LONG]
    return experiments.compare(schools, y, sigma, guides=guides, steps=100, effort="quick", progress=False)


def digits(train_model: bool = False) -> experiments.Comparison:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor[:60]
    guides = ["mean_field:encoder", "full_rank:encoder(hidden=(32, 32))", "mean_field"]
    return experiments.compare(
        zoo.build("vae", x, latent=2, hidden=(8,)), x, guides, steps=30, holdout=0.2, train_model=train_model, draws=300,
        effort="quick", progress=False)


TABLES: dict[str, Callable[[], experiments.Comparison]] = {
    "exact and discrete guides": cache(mixture), "normals": cache(normals), "two blocks": cache(blocks),
    "held-out units": cache(digits), "a θ for each guide": cache(lambda: digits(train_model=True))}


def printed(table: experiments.Comparison, width: int, columns: str = "default") -> str:
    out = io.StringIO()
    text.comparison(table, Console(file=out, width=width, color_system=None, highlight=False), columns)
    return out.getvalue()


def numbers(table: experiments.Comparison, wanted: Callable[[Column], bool]) -> set[str]:
    """What cells of the ``wanted`` columns are to show: totals, and per unit where there are several."""
    rows = [{**row, "own_evidence": row["log_evidence"] if table.own_theta else None} for row in table.to_dict()["guides"]]
    columns = [column for column in text.COLUMNS if wanted(column) and column.shown(rows)]
    found = {column.cell(row, 1) for column in columns for row in rows}
    if table.units > 1:
        found |= {column.cell(row, table.units) for column in columns if column.each for row in rows}
    return found - {text.NOTHING}


@pytest.mark.parametrize("name", TABLES)
def test_lines_have_up_to_100_columns(name: str) -> None:
    table = TABLES[name]()
    assert max(map(cell_len, str(table).splitlines())) <= WIDTH == 100
    assert max(map(cell_len, printed(table, 240).splitlines())) <= WIDTH


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 160, 240])
@pytest.mark.parametrize("name", TABLES)
def test_no_width_cuts_a_number(name: str, width: int) -> None:
    table = TABLES[name]()
    whole = printed(table, width)
    totals = numbers(table, lambda column: column.wanted and not column.rank) if width >= 40 else set()
    assert [found for found in totals if found not in whole] == []
    assert not any(line.rstrip().endswith("…") for line in whole.splitlines())


@pytest.mark.parametrize("name", TABLES)
def test_all_columns_come_on_demand(name: str) -> None:
    table = TABLES[name]()
    everything = table.text(columns="all")
    assert [found for found in numbers(table, lambda column: True) if found not in everything] == []
    assert "reconstruction" in everything
    assert "reconstruction" not in table.text() == str(table)


@pytest.mark.parametrize("name", TABLES)
def test_one_line_says_how_numbers_are_read(name: str) -> None:
    table = TABLES[name]()
    legends = [line for line in str(table).splitlines() if line.startswith("nats")]
    assert len(legends) == 1
    assert "± standard error, 95% intervals" in legends[0]
    assert ("totals over units" in legends[0]) == (table.units > 1)
    assert "--columns all" in legends[0]
    assert "--columns" not in table.text("all")


def test_several_units_have_numbers_per_unit() -> None:
    assert "per unit, of 272 " in str(TABLES["exact and discrete guides"]())
    assert "per unit" not in str(TABLES["normals"]())


def test_parts_that_do_not_fit_have_a_table_of_their_own() -> None:
    lines = str(TABLES["two blocks"]()).splitlines()
    heads = [line.split() for line in lines if line.startswith("guide ")]
    assert heads[0][:4] == ["guide", "ELBO", "KL(q‖posterior)", "k̂"]
    assert heads[1] == ["guide", "shared", "local", "approximation", "amortisation"]


def test_a_column_that_says_nothing_of_any_guide_is_left_out() -> None:
    table = TABLES["exact and discrete guides"]()
    assert not any("k̂ " in line for line in str(table).splitlines() if line.startswith("guide "))
    assert "k̂ " in str(TABLES["normals"]()).splitlines()[1]
    assert any("k̂ " in line for line in table.text("all").splitlines() if line.startswith("guide "))


def columns(*ranks: int) -> list[Column]:
    return [Column(f"c{i}", lambda row, units: "", rank=rank) for i, rank in enumerate(ranks)]


def test_what_matters_least_is_left_out_first() -> None:
    def three(part: Part) -> bool:
        return len(part.columns) <= 3

    (part,) = arranged(columns(0, 2, 1, 0), three, drop=True)
    assert [column.head for column in part.columns] == ["c0", "c2", "c3"]
    parts = arranged(columns(0, 2, 1, 0), three, drop=False)
    assert [column.head for part in parts for column in part.columns] == ["c0", "c1", "c2", "c3"]


@pytest.mark.parametrize("name", [LONG, "mean_field", "full_rank:encoder(hidden=(32, 32))", "AutoLowRankMultivariateNormal"])
def test_folded_names_lose_nothing(name: str) -> None:
    for width in (1, 12, 20, 30, 100):
        folded = fold(name, width).split("\n")
        assert "".join(line.replace(" ", "") for line in folded) == name.replace(" ", "")
    assert max(map(len, fold(name, 30).split("\n"))) <= 30


def test_a_selection_that_there_is_not() -> None:
    with pytest.raises(zoo.ZooError, match="expected columns to be one of default, all; got 'al'; did you mean 'all'"):
        TABLES["exact and discrete guides"]().text("al")


# -- the command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [
    ("compare", "eight_schools", "-g", "mean_field"), ("fit", "eight_schools", "-g", "mean_field"), ("run", "spec.toml")])
def test_commands_show_all_columns_on_demand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "run":
        assert run(["fit", "eight_schools", "-g", "mean_field", "--effort", "none", "--save-spec", "spec.toml"]) == 0
    effort = () if words[0] == "run" else ("--effort", "none")
    for more, shown in (((), False), (("--columns", "all"), True)):
        assert run([*words, *effort, *more, "--no-save"]) == 0
        out = capsys.readouterr().out
        assert ("reconstruction" in out) == shown
        assert shown or max(map(cell_len, out.splitlines())) <= WIDTH


@pytest.mark.parametrize("command", ["compare", "fit"])
def test_other_columns_are_refused_before_anything_is_fitted(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([command, "eight_schools", "-g", "mean_field", "--columns", "wide"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: expected --columns to be one of default, all; got 'wide'; choose one\n"


def test_a_grid_has_one_table_for_all_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = tmp_path / "grid.toml"
    spec.write_text('command = "fit"\nmodel = "ppca"\ndata = "iris"\nguides = ["exact"]\nseed = [0, 1]\n')
    assert run(["run", str(spec), "--columns", "all", "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: expected one run with --columns; got a grid of 2; leave --columns out\n"
