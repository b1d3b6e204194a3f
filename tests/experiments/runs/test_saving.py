"""Comparisons and fits made in Python, saved as runs, and loaded with the model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import experiments
import zoo
from experiments.cli import run as command
from experiments.diagnostics.evaluation import evaluate
from experiments.fits import journal
from experiments.fits.state import State
from experiments.reporting.gallery import FIGURES
from experiments.reporting.record import read, settle
from zoo.errors import ZooError

X = torch.tensor([0.5, -1.0, 2.0, 0.1, 0.7, -0.2], dtype=torch.double)


def scaled(y: Tensor, sd: float = 1.0, extra: Any = None) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=y.dtype), 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, sd), obs=y)


def test_a_saved_comparison_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = experiments.compare(scaled, guides=["mean_field", "full_rank"], kwargs={"y": X, "sd": 2.0}, data="mine")
    assert table.save(tmp_path / "run") == tmp_path / "run"
    record = read(tmp_path / "run")
    assert record.state == "done"
    assert record.comparison == table.to_dict()
    assert {"report.html", "posterior.nc", "figures", "summary.csv", "data.safetensors"} <= {
        file.name for file in (tmp_path / "run").iterdir()}
    assert command(["report", str(tmp_path / "run")]) == 0
    assert command(["runs", str(tmp_path)]) == 0
    assert "full_rank" in capsys.readouterr().out
    assert command(["resume", str(tmp_path / "run")]) == 2
    assert "got one that is done" in capsys.readouterr().err


def test_what_was_saved_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    table = experiments.compare(scaled, guides=["mean_field", "full_rank"], kwargs={"y": X, "sd": 2.0, "extra": None})
    table.save(tmp_path / "run", figures=False)
    loaded = experiments.load(tmp_path / "run", model=scaled)
    assert [done.guide.text for done in loaded.fits] == ["mean_field", "full_rank"]
    assert set(loaded.x) == {"y", "sd", "extra"}
    for row, done in zip(table.rows, loaded.fits, strict=True):
        assert (done.bound, done.steps, done.converged, done.history) == (
            row.fit.bound, row.fit.steps, row.fit.converged, row.fit.history)
        for name, value in row.fit.guide.state_dict().items():
            assert torch.equal(done.guide.state_dict()[name], value), name
    again = evaluate(loaded.model, loaded.guide, loaded.x)
    assert again.elbo.value == pytest.approx(loaded.comparison["guides"][0]["elbo"]["value"], abs=1e-6)


def test_learned_parameters_come_back(tmp_path: Path) -> None:
    """θ, too, of each guide its own."""
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x)
    for own in (False, True):
        table = experiments.compare(model, x, ["mean_field", "exact"], train_model=own, steps=20)
        table.save(tmp_path / f"run{own}", figures=False)
        loaded = experiments.load(tmp_path / f"run{own}", model=zoo.build("ppca", x))
        for row, done in zip(table.rows, loaded.fits, strict=True):
            for name, value in row.fit.model.state_dict().items():
                assert torch.equal(done.model.state_dict()[name], value), name


def test_a_fit_is_evaluated_and_saved(tmp_path: Path) -> None:
    done = experiments.fit(scaled, "full_rank", X)
    done.save(tmp_path / "run", figures=False)
    loaded = experiments.load(tmp_path / "run", model=scaled)
    assert loaded.comparison["guides"][0]["guide"] == "full_rank"
    assert loaded.comparison["log_evidence"]["lower"] is not None
    assert loaded.best.bound == done.bound


def test_pyros_own_guides_are_passed(tmp_path: Path) -> None:
    table = experiments.compare(scaled, X, guides=["mean_field", AutoNormal], steps=50)
    table.save(tmp_path / "run", figures=False)
    text = table.rows[1].fit.guide.text
    loaded = experiments.load(tmp_path / "run", model=scaled, guides={text: AutoNormal})
    assert [done.guide.text for done in loaded.fits] == ["mean_field", text]
    with pytest.raises(ZooError, match="Pyro's own guides can't be built from their names"):
        experiments.load(tmp_path / "run", model=scaled)


def test_rows_keep_their_names(tmp_path: Path) -> None:
    table = experiments.compare(scaled, X, guides={"first": "mean_field", "second": ("full_rank", {"steps": 50})})
    table.save(tmp_path / "run", figures=False)
    loaded = experiments.load(tmp_path / "run", model=scaled)
    assert [(done.guide.text, done.guide.written) for done in loaded.fits] == [("first", "mean_field"), ("second", "full_rank")]


def test_what_can_not_be_saved_or_loaded_is_refused(tmp_path: Path) -> None:
    done = experiments.fit(scaled, "mean_field", X)
    done.save(tmp_path / "run", figures=False, effort="none")
    with pytest.raises(ZooError, match="expected an empty directory or a new one to save to; got one with checkpoint"):
        done.save(tmp_path / "run")
    with pytest.raises(ZooError, match=r"expected the model '.*test_saving:scaled'; got none"):
        experiments.load(tmp_path / "run")
    (tmp_path / "run" / "data.safetensors").write_bytes(b"no")
    with pytest.raises(ZooError, match=r"data.safetensors as the run wrote it"):
        experiments.load(tmp_path / "run", model=scaled)


def test_a_comparison_writes_its_page(tmp_path: Path) -> None:
    table = experiments.compare(scaled, X, guides=["mean_field"])
    assert table.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert "mean_field" in (tmp_path / "page.html").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_figures_are_methods() -> None:
    table = experiments.compare(scaled, X, guides=["mean_field", "full_rank"])
    assert dir(table.plot) == sorted(FIGURES)
    assert isinstance(table.plot.gap(), Axes)
    assert isinstance(table.plot.elbo(), Axes)
    with pytest.raises(ZooError):
        table.plot.layers()  # no flow
    with pytest.raises(AttributeError, match=r"expected one of elbo, gap.*; got 'gaps'"):
        table.plot.gaps()


def noisy(y: Tensor, s: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
        pyro.sample("y", dist.Normal(z, s), obs=y)


def test_encoders_read_their_columns_as_they_did(tmp_path: Path) -> None:
    """Of a saved table whose entries a file gives back in any order, and of an exported guide on a frame of another order."""
    with zoo.seeded(0):
        data = {name: torch.rand(40, dtype=torch.double) + 0.2 for name in ("y", "s")}
    table = experiments.compare(noisy, guides=["mean_field:encoder"], kwargs=data, effort="none", steps=100, holdout=0.0)
    table.save(tmp_path / "run", figures=False)
    right = evaluate(table.model, table.rows[0].fit.guide, table.x, seed=3, effort="none").elbo.value
    for _ in range(5):
        loaded = experiments.load(tmp_path / "run", model=noisy)
        assert list(loaded.x) == ["y", "s"]
        assert evaluate(loaded.model, loaded.guide, loaded.x, seed=3, effort="none").elbo.value == right
    file = table.rows[0].fit.export(tmp_path / "guide.safetensors")
    turned = {"s": data["s"], "y": data["y"]}
    guide = experiments.load_guide(file, noisy, turned)
    assert evaluate(guide.model, guide, turned, seed=3, effort="none").elbo.value == pytest.approx(right, abs=1e-9)
    with pytest.raises(ZooError, match="expected entries y, s of the data; got none for s"):
        experiments.load_guide(file, noisy, {"y": data["y"]})


def test_fits_that_learned_parameters_by_svi_come_back(tmp_path: Path) -> None:
    x = zoo.dataset("iris").x
    done = experiments.fit(zoo.build("ppca", x), "mean_field:encoder", x, steps=50)
    done.save(tmp_path / "run", figures=False, effort="none")
    loaded = experiments.load(tmp_path / "run", model=zoo.build("ppca", x, seed=5))
    for name, value in done.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name


def test_data_that_share_memory_are_saved(tmp_path: Path) -> None:
    table = experiments.compare(noisy, X.abs() + 1, X.abs() + 1, guides=["mean_field"], effort="none")
    same = X.abs() + 1
    shared = experiments.compare(noisy, same, same, guides=["mean_field"], effort="none")
    shared.save(tmp_path / "run", figures=False)
    loaded = experiments.load(tmp_path / "run", model=noisy)
    assert loaded.comparison["guides"][0]["elbo"]["value"] == pytest.approx(table.rows[0].evaluation.elbo.value)


def test_another_model_or_another_table_is_refused(tmp_path: Path) -> None:
    table = experiments.compare(scaled, X, guides=["mean_field", "full_rank"], effort="none")
    table.save(tmp_path / "run", figures=False)
    def other(y: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("y", dist.Normal(level, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(ZooError, match="expected the model that was saved, with latents mean; got other with level"):
        experiments.load(tmp_path / "run", model=other)
    spec = (tmp_path / "run" / "spec.toml").read_text()
    (tmp_path / "run" / "spec.toml").write_text(spec.replace("full_rank", "low_rank"))
    with pytest.raises(ZooError, match=r"spec.toml as the run wrote it"):
        experiments.load(tmp_path / "run", model=scaled)
    settle(tmp_path / "run", "done")
    with pytest.raises(ZooError, match="expected the guides of the saved table"):
        experiments.load(tmp_path / "run", model=scaled)
    (tmp_path / "run" / "status.json").unlink()
    assert command(["resume", str(tmp_path / "run"), "--trust"]) == 2


def test_a_saved_tables_page_says_how_to_load_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = experiments.compare(scaled, X, guides=["mean_field"], data="mine")
    page = table.report(tmp_path / "page.html").read_text()
    assert "experiments.load(folder, model=program)" in page
    assert "/run" not in page.replace("</", "")
    assert "zoo run" not in page
    table.save(tmp_path / "run", figures=False)
    for words in (["run", str(tmp_path / "run"), "--trust"], ["resume", str(tmp_path / "run"), "--trust", "--force"]):
        assert command(words) == 2
        assert "got a comparison that was saved in Python" in capsys.readouterr().err


@pytest.mark.parametrize("guide", ["mean_field", "exact"])
def test_a_model_is_left_as_it_was_where_a_fit_does_not_suit_it(guide: str, tmp_path: Path) -> None:
    """The first guide's θ suits it; the guide itself, or the next one, does not."""
    x = zoo.dataset("iris").x
    experiments.compare(zoo.build("ppca", x), x, ["mean_field", "exact"], steps=20).save(tmp_path / "run", figures=False)
    file = next((tmp_path / "run" / "checkpoint" / guide).glob("end.json"))
    state = journal.read(file)
    journal.write(file.with_suffix(""), State({**state.tensors, "guide.extra": state.tensors["history"]}, state.values))
    settle(tmp_path / "run", "done")
    model = zoo.build("ppca", x, seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZooError, match="expected a state of this fit in"):
        experiments.load(tmp_path / "run", model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
