"""``zoo list MODEL``: what a model is on data, and which guides, methods and data fit it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import guides
import zoo
from experiments.inference.registry import fitting_methods
from guides.construct import sketch
from tests.experiments.cli.test_cli import command, refused


def test_a_model_is_described_on_the_data_it_is_shown_on() -> None:
    text = command("list", "gmm").stdout
    x = zoo.dataset("faithful").x
    found = zoo.describe(zoo.build("gmm", x), x)
    for part in (found.title, "on faithful:", found.table(), found.drawing(), *found.notes()):
        assert part in text
    rows = [line.split() for line in text.splitlines()]
    assert ["em,", "svi", "exact"] in rows
    assert ["fixed_draws,", "svi", "categorical"] in rows
    assert ["svi,", "fixed_draws", "categorical:encoder", "categorical:semi"] in rows
    assert ["--components", "2"] in rows
    assert re.search(r"data that fits: faithful\b.* iris\b", text)


def test_options_and_data_change_what_is_described(tmp_path: Path) -> None:
    image = tmp_path / "model.svg"
    said = command("list", "eight_schools", "--centred", "--svg", str(image))
    assert "│ ○ theta  Normal ← mu, tau │" in said.stdout
    assert said.stderr == f"remark: wrote {image}\n"
    assert ElementTree.fromstring(image.read_text()).tag.endswith("svg")
    said = command("list", "gmm", "--data", "iris", "--components", "3")
    assert "on iris:" in said.stdout
    assert "means    parameter   real       (3, 4)" in said.stdout


def test_options_that_change_the_kind_of_data_change_what_fits() -> None:
    text = command("list", "vae", "--data", "wine", "--likelihood", "normal", "--latent", "2").stdout
    assert re.search(r"data that fits: faithful\b.* iris wine\b", text)
    assert "fixed_draws, svi, laplace (θ fixed)  full_rank" in text


@pytest.mark.parametrize(("words", "text"), [
    (("list", "gmm", "--componets", "3"), "unknown option 'componets' of gmm; did you mean 'components'?"),
    (("list", "gmm", "--components", "many"), "expected option 'components' of gmm to be a whole number; got 'many'"),
    (("list", "gmm", "--data", "faithfull"), "did you mean 'faithful'?"),
    (("list", "gmm", "more"), "expected an option; got 'more'"),
    (("list", "full_rank"), "expected a model; got the guide 'full_rank'"),
    (("list", "gmm", "--svg", "/proc/none/model.svg"), "expected a file in a directory that exists for --svg"),
    (("list", "--svg", "model.svg"), "expected a model before --svg; got none; write 'zoo list MODEL --svg …'"),
    (("list", "--components", "3"), "expected a model before --components; got none"),
])
def test_bad_words(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str) -> None:
    assert text in refused(capsys, *words)


@pytest.mark.parametrize("name", ["eight_schools", "ppca"])
def test_methods_that_are_listed_fit_the_built_guide_as_they_say(name: str) -> None:
    """A sketch of a guide, whose start is not the prior's, is fitted by the same methods as the guide."""
    x = zoo.dataset(zoo.MODELS[name].data, zoo.MODELS[name].takes).x
    model = zoo.build(name, x)
    for text in ("prior", "mean_field", "full_rank", "flow"):
        built = guides.build(text, model, x)
        assert fitting_methods(built, x) == fitting_methods(sketch(text, model, x), x)
        assert type(sketch(text, model, x)) is type(built)
    assert fitting_methods(guides.build("full_rank", model, x), x, train_model=False) == [
        "fixed_draws", "svi", "laplace", *(["pathfinder"] if name == "eight_schools" else [])]  # of one unit alone


def test_a_guide_without_parameters_and_a_model_without_any_leave_nothing_to_fit() -> None:
    x = zoo.dataset("eight_schools").x
    assert fitting_methods(guides.build("prior", zoo.build("eight_schools", x), x), x) == []
    x = zoo.dataset("faithful").x
    exact = guides.build("exact", zoo.build("gmm", x), x)
    assert fitting_methods(exact, x) == ["em", "svi"]
    assert fitting_methods(exact, x, train_model=False) == []
