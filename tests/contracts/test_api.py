"""What is public, and that every example in the documentation runs."""

from __future__ import annotations

import importlib.util
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import experiments
import guides
import zoo
from tests import ROOT

PUBLIC = {
    zoo: ["DATASETS", "MODELS", "Dataset", "Description", "Enumerated", "Latents", "Model", "ZooError", "ZooWarning",
          "arguments", "as_model", "build", "dataset", "describe", "linear_predictor", "mapped", "seeded"],
    guides: ["AMORTISATIONS", "DRAWN", "FAMILIES", "WHOLE", "Amortisation", "BaseGuide", "BlockGuide", "Drawn", "Encoder",
             "Exact", "Family",
             "Free", "Guide", "GuideSpec", "Normal", "NormalBase", "Prior", "ProgramGuide", "Semi", "Start", "all_guides",
             "as_guide", "build", "default_guides", "fitting_guides", "parse"],
    experiments: ["METHODS", "BlockGap", "Bracket", "Callback", "Comparison", "EMOptions", "Estimate",
                  "Evaluation", "Evidence", "Fit", "FixedDrawsOptions", "Gap", "Grid", "Iteration",
                  "Journal", "Loaded", "LogWeights", "Method", "Metrics", "Moment", "Options", "Problem",
                  "Recommendation", "Record", "Row", "RunOptions", "SVIOptions", "Spec", "Split",
                  "SweepOptions", "TensorBoard", "bracket", "compare", "e_step", "elbo", "evaluate",
                  "evidence", "expected_log_joint", "fit", "fit_seeds", "free_member", "load", "load_guide",
                  "log_weights", "m_step", "posterior", "predict", "read_grid", "recommend", "resume",
                  "run", "split", "sweep"],
}


@pytest.mark.parametrize("package", PUBLIC, ids=lambda p: p.__name__)
def test_a_package_lists_its_public_names_and_its_help_shows_them_first(package: ModuleType) -> None:
    assert dir(package) == sorted(PUBLIC[package])
    first = pydoc.plain(pydoc.render_doc(package)).split("PACKAGE CONTENTS")[0]
    assert [name for name in PUBLIC[package] if f"``{name}``" not in first] == []


@pytest.mark.parametrize("package", PUBLIC, ids=lambda p: p.__name__)
def test_public_names(package: object) -> None:
    assert package.__all__ == PUBLIC[package]
    for name in package.__all__:
        for _ in range(2):  # a module of the same name would take its place once it has been imported
            assert not isinstance(getattr(package, name), ModuleType)
    with pytest.raises(AttributeError):
        package.nothing_of_the_kind  # noqa: B018


def test_layers_import_downwards_only() -> None:
    """zoo ← guides ← experiments, and no import the other way."""
    above = {"zoo": ("guides", "experiments"), "guides": ("experiments",), "experiments": ()}
    for layer, forbidden in above.items():
        for path in (ROOT / layer).rglob("*.py"):
            for name in forbidden:
                assert not re.search(rf"^\s*(from|import) {name}\b", path.read_text(), re.MULTILINE), path


def test_registry_paths_load() -> None:
    from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, WHOLE
    from zoo.registry import load

    for registry in (zoo.MODELS, zoo.DATASETS, FAMILIES, AMORTISATIONS, DRAWN, WHOLE):
        for entry in registry.values():
            assert callable(load(entry.path))


def test_import_is_light() -> None:
    """Nothing heavy comes with the packages, and what draws and summarises not with a fit either."""
    code = ("import sys, zoo, guides, experiments; "
            "assert not {'torch', 'pyro', 'matplotlib', 'arviz_base', 'pandas'} & set(sys.modules); "
            "x = zoo.dataset('faithful').x; experiments.compare(zoo.build('gmm', x), x, ['exact', 'categorical'], steps=2); "
            "assert not {'matplotlib', 'arviz_base', 'arviz_stats', 'arviz_plots', 'xarray'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", [pytest.param("mean_field", marks=pytest.mark.long), "full_rank"])
def test_a_first_fit_loads_no_symbolic_algebra(family: str) -> None:
    """SymPy takes longer to load than the fit takes; torch asks for it to broadcast shapes."""
    code = ("import sys, zoo, experiments; x = zoo.dataset('eight_schools').x; "
            f"experiments.fit(zoo.build('eight_schools', x), '{family}', x, progress=False); "
            "assert 'sympy' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_readme_examples_run() -> None:
    """Each Python block of the README, in order, in one process that treats warnings as errors."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    done = subprocess.run(
        [sys.executable, "-W", "error::zoo.errors.ZooWarning", "-c", "\n".join(blocks)], capture_output=True, text=True,
        timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["methods", "registries"])
def test_generated_pages_are_those_of_the_registries(name: str) -> None:
    found = importlib.util.spec_from_file_location(f"make_{name}", ROOT / "docs" / f"make_{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run make docs"
    assert f"(docs/{name}.md)" in (ROOT / "README.md").read_text()


def test_submissions_are_checked_with_a_browser() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not a checkout")
    assert "export ZOO_BROWSER=required\n" in script.read_text()


def test_the_project_speaks_of_itself_alone() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    for path in listed.stdout.split():
        if Path(path).suffix in (".py", ".md", ".toml", ".txt", "") and path != "tests/contracts/test_api.py":
            text = (ROOT / path).read_text(errors="ignore")
            assert not re.search(r"/work/|/root/|pypi\.org/simple|files\.pythonhosted", text), path
