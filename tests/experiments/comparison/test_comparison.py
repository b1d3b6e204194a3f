"""A comparison: which guides it takes, the units and view they are scored on, and its table on a narrow terminal."""

from __future__ import annotations

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import experiments
import zoo
from zoo.program.run import seeded


def test_guides_are_the_same_however_written() -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.raises(zoo.ZooError, match="got 'mean_field:free' twice"):
        experiments.compare(zoo.build("eight_schools", x), x, ["mean_field", "mean_field:free"])


def test_compare_without_guides_takes_those_that_fit() -> None:
    x = zoo.dataset("faithful").x
    table = experiments.compare(zoo.build("gmm", x), x, steps=20)
    assert [row.evaluation.guide for row in table.rows] == ["exact", "categorical", "categorical:encoder"]


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


@pytest.mark.long
def test_guides_of_own_units_are_fitted_to_the_view_they_are_scored_on() -> None:
    data = zoo.dataset("digits", "images", binarise="dynamic")
    x = data.tensor[:20]
    model = zoo.build("vae", data.view(x), latent=2, hidden=(8,))
    asked = ["mean_field:encoder", "mixture(2)", "mean_field:semi"]
    table = experiments.compare(model, x, asked, view=data.view, holdout=0.0, steps=30, seed=0)
    assert [row.evaluation.units for row in table.rows] == [20] * 3
    held = experiments.compare(model, x, asked[:2], view=data.view, holdout=0.2, steps=10, seed=0)
    assert held.units == 4


def test_pyro_guides_train_a_theta_of_their_own_on_all_units() -> None:
    x = (rows(20, 4) > 0).double()
    model = zoo.build("vae", x, latent=2, hidden=(4,))
    table = experiments.compare(model, x, ["mean_field:encoder", AutoNormal], train_model=True, steps=5)
    assert table.units == 20
    with pytest.raises(zoo.ZooError, match="expected no holdout for guides that are built for all of x"):
        experiments.compare(model, x, ["mean_field:encoder", AutoNormal], train_model=True, holdout=0.2, steps=5)


@pytest.mark.long
def test_a_narrow_terminal_loses_no_number() -> None:
    import io

    from rich.console import Console

    from experiments.comparison.terminal import text

    x = zoo.dataset("eight_schools").x
    table = experiments.compare(zoo.build("eight_schools", x), x, ["mean_field"], draws=200)
    out = io.StringIO()
    text.comparison(table, Console(file=out, width=50, force_terminal=True, color_system=None, highlight=False))
    assert text.number(table.rows[0].evaluation.elbo.value, table.rows[0].evaluation.elbo.se) in out.getvalue()
    assert not any(line.rstrip().endswith("…") for line in out.getvalue().splitlines())
