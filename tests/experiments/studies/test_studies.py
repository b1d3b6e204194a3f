"""Every study at its reduced size: its claim holds, its figure and files are made, and its checks can fail."""

from __future__ import annotations

import ast
import dataclasses
import json
from functools import cache
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

import experiments
import guides
import zoo
from experiments.cli import run as command
from experiments.studies import STUDIES, Check, Findings, claim, run
from experiments.studies.runner import perform
from tests import ROOT

NAMES = list(STUDIES)
#: Studies that take eight seconds and more at their reduced size, too.
SLOW = ("change-of-variables", "collapse", "decomposition", "elbo", "em-versus-svi", "guide-families", "posterior")


@cache
def quick(name: str) -> Findings:
    return run(name, quick=True)


pytestmark = pytest.mark.filterwarnings("ignore::zoo.ZooWarning")  # short fits end unsettled


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in NAMES])
class TestStudy:
    def test_its_claim_holds(self, name: str) -> None:
        found = quick(name)
        assert found.checks()
        assert [check for check in found.checks() if not check.holds] == []

    def test_its_figure_is_legible_by_itself(self, name: str) -> None:
        with mpl.rc_context({"backend": "agg"}):
            figure = quick(name).draw()
            figure.canvas.draw()
            drawn = [axes for axes in figure.get_axes() if axes.has_data()]
            assert drawn
            texts = {t.get_text() for t in figure.findobj(mpl.text.Text)}
            assert any("nats" in text or "mass" in text for text in texts)
            mpl.pyplot.close(figure)

    def test_its_numbers_are_plain_data(self, name: str) -> None:
        found = quick(name)
        written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert written["holds"] is True
        assert set(written["found"]) == {field.name for field in dataclasses.fields(found)}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_states_its_claim_with_formula_and_source(name: str) -> None:
    text = claim(name)
    assert "Source: " in text
    assert "http" in text
    assert any(sign in text for sign in "=≤≥≈")


@pytest.mark.parametrize("name", NAMES)
def test_a_study_uses_public_names_only(name: str) -> None:
    """What a study needs of the library and can't have is missing from the library."""
    allowed = {"zoo", "guides", "experiments", "experiments.reporting.figures", "experiments.studies.study"}
    path = ROOT / (STUDIES[name].module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text())
    public = {"zoo": zoo.__all__, "guides": guides.__all__, "experiments": experiments.__all__}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in public:
            assert node.module in allowed
            assert not any(alias.name.startswith("_") for alias in node.names)
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names if alias.name.split(".")[0] in public} <= allowed
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in public:
            assert node.attr in public[node.value.id]
            assert not node.attr.startswith("_")


def test_checks_know_their_bounds() -> None:
    assert Check.near("a", 1.0, 1.1, within=0.2).holds
    assert not Check.near("a", 1.0, 1.3, within=0.2).holds
    assert Check.near("a", 1.0, 1.3, se=0.1).holds
    assert not Check.at_most("a", 1.1, 1.0).holds
    assert Check.at_most("a", 1.1, 1.0, se=0.03).holds
    assert not Check.at_least("a", 0.9, 1.0).holds
    assert Check.above("a", 1.0, 0.0, se=0.1).holds
    assert not Check.above("a", 0.3, 0.0, se=0.1).holds
    assert not Check.near("a", float("nan"), 0.0, within=1.0).holds
    assert not Check.at_most("a", float("nan"), 1.0).holds


def test_a_wrong_number_fails() -> None:
    """A bound that falls in one M-step, or a formula that is off by a nat, is seen."""
    good = quick("em-coordinate-ascent")
    for name in ("after_m", "after_e", "formula"):
        broken = dataclasses.replace(good, **{name: getattr(good, name) + 1.0})  # type: ignore[type-var]
        assert not broken.holds
    space = quick("em-parameter-space")
    assert not dataclasses.replace(space, slope_error=1.0).holds  # type: ignore[type-var]


def test_a_study_leaves_the_threads_and_the_generator_alone() -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    run("em-coordinate-ascent", quick=True)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.long
def test_the_same_seed_gives_the_same_numbers() -> None:
    assert run("elbo", quick=True, seed=3).to_dict() == run("elbo", quick=True, seed=3).to_dict()


def test_the_command_lists_runs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["study"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES)
    assert command(["study", "em-coordinate-ascent", "--quick", "--out", str(tmp_path)]) == 0
    assert "holds  log p(x | θ) at the end, nats: -1130.26; expected" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "em-coordinate-ascent.json", "em-coordinate-ascent.png", "em-coordinate-ascent.svg"]
    written = json.loads((tmp_path / "em-coordinate-ascent.json").read_text())
    assert written["holds"] is True
    assert written["seed"] == 0


@pytest.mark.long
def test_studies_run_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["em-coordinate-ascent", "marginal-likelihood"]
    assert command(["study", *names, "--quick", "--jobs", "2", "--out", str(tmp_path), "--json"]) == 0
    assert [report["study"] for report in json.loads(capsys.readouterr().out)] == names


def test_a_claim_that_does_not_hold_exits_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    import experiments.studies.claims.em_coordinate_ascent as study

    monkeypatch.setattr(study, "MAXIMUM", -1000.0)
    assert command(["study", "em-coordinate-ascent", "--quick", "--out", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert "FAILS  log p(x | θ) at the end, nats: -1130.26; expected -1000 ± 0.01" in out
    assert "1 of 1 did not hold: em-coordinate-ascent" in err


def test_a_study_that_breaks_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import experiments.studies.claims.em_coordinate_ascent as study

    def broken(quick: bool, seed: int) -> Findings:
        raise RuntimeError("no\nnumbers")

    monkeypatch.setattr(study, "run", broken)
    report = perform("em-coordinate-ascent", tmp_path, True, 0)
    assert report.error == "RuntimeError: no"
    assert not report.holds
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "text"), [
    (["elbx"], "unknown study 'elbx'; did you mean 'elbo'? 'zoo study' shows all"),
    (["elbo", "--all"], "expected names or --all; got both elbo and --all; drop one"),
    (["elbo", "--jobs", "-1"], "'--jobs'"), (["elbo", "--seed", "x"], "'--seed'"),
    (["elbo", "--out", "/proc/nowhere"], "expected a directory to write to")])
def test_bad_input(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["study", *arguments]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_the_page_has_every_study_in_order() -> None:
    page = (ROOT / "docs" / "studies.md").read_text()
    places = [page.find(f"## {name}\n") for name in NAMES]
    assert -1 not in places
    assert places == sorted(places)
    for name in NAMES:
        assert f"zoo study {name}" in page
        assert (ROOT / "docs" / "studies" / f"{name}.png").exists()
