"""Figures: of guides that train their own θ, of alike columns, and of posteriors that are points."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import experiments
import zoo
from experiments.cli import run
from experiments.reporting import figures, posterior_figures


@pytest.mark.long
def test_figures_of_guides_that_train_their_own_theta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"compare ppca --data iris -g mean_field -g full_rank --train-model --steps 30 --out {tmp_path}"
    assert run(command.split()) == 0
    assert (tmp_path / "figures" / "forest.png").exists()
    assert "could not be drawn" not in capsys.readouterr().err


def test_samples_keep_their_shape_where_columns_are_alike_alone() -> None:
    from experiments.reporting.pictures import samples

    for data, model, aspect in (("two_moons", "gmm", 1.0), ("faithful", "gmm", "auto")):
        x = zoo.dataset(data).tensor
        figure = samples(experiments.compare(zoo.build(model, x), x, ["exact"]))
        assert [axes.get_aspect() for axes in figure.axes] == [aspect] * 2


def test_figures_of_names_with_control_characters_can_be_read(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().set_title("a\x1b[31mb\nc")
    _, svg = figures.save(figure, tmp_path / "figure")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert [axes.get_title() for axes in figure.axes] == ["a\\x1b[31mb\nc"]


def test_a_posterior_that_is_a_point_has_no_intervals_to_draw() -> None:
    import arviz_base as azb

    # Of 0.1 and its like, five hundred equal numbers have a standard deviation above 0.
    point = np.tile(np.array([0.1, 1.1, 2.3]), (1, 500, 1))
    assert (point.std((0, 1)) > 0).any()
    for figure in (posterior_figures.forest, posterior_figures.pair):
        with pytest.raises(zoo.ZooError, match="expected continuous variables"):
            figure(azb.from_dict({"posterior": {"z": point}}))
