"""Another package's models, data sets, guides and methods, by entry points; broken ones are one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from zoo.registry import MODELS

PACKAGE = ROOT / "tests" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed."""
    place = tmp_path_factory.mktemp("site")
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "plugin")  # building leaves files beside it
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target",
         str(place), str(source)], check=True, capture_output=True)
    return place


def zoo(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "experiments.cli", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": paths, "ZOO_RUNS": "", "COLUMNS": "200"}, cwd=site)


def test_nothing_of_others_is_there_without_the_package() -> None:
    assert "spiral" not in MODELS
    assert {MODELS.source(name) for name in MODELS} == {""}


def test_lists_show_whose_they_are_and_a_line_for_each_that_is_broken(site: Path) -> None:
    done = zoo(site, "list")
    assert done.returncode == 0
    for name in ("spiral", "spirals", "wide", "prior_match"):
        assert f"{name} (zoo-spirals)" in done.stdout
    said = done.stderr.splitlines()
    assert len(said) == 3
    assert all(line.startswith("remark: expected ") for line in said)
    assert any("datasets 'broken' of package zoo-spirals as a DataEntry; got ModuleNotFoundError" in line for line in said)
    assert any("methods 'not_a_method' of package zoo-spirals as a MethodEntry; got a DataEntry" in line for line in said)
    assert any("models 'gmm' of package zoo-spirals as a ModelEntry; got a name that the library has" in line for line in said)


def test_they_are_used_by_name(site: Path) -> None:
    """A model on a data set by a guide, all of the package; and its method."""
    done = zoo(site, "compare", "spiral", "-g", "wide,mean_field", "--json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert (table["model"], table["data"], table["units"]) == ("spiral", "spirals", 200)
    elbos = [row["elbo"]["value"] for row in table["guides"]]
    assert elbos[0] == pytest.approx(elbos[1], abs=2.0)
    assert table["guides"][1]["kl_gap"]["upper"] < 20
    done = zoo(site, "fit", "spiral", "-g", "wide", "--method", "prior_match", "--json", "--effort", "none")
    assert json.loads(done.stdout)["guides"][0]["method"] == "prior_match", done.stderr
    bad = zoo(site, "fit", "spirall", "-d", "faithful")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "did you mean 'spiral'?" in bad.stderr


def test_a_library_name_does_not_load_entry_points(site: Path) -> None:
    """Looking up what is the library's own costs nothing of others'."""
    script = "import sys; from zoo.registry import MODELS; MODELS['gmm']; sys.exit('spirals' in str(sys.modules.keys()))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    assert subprocess.run([sys.executable, "-c", script], env=env, check=False, cwd=site).returncode == 0
