"""θ in a comparison: its tables, its lines before those of guides, and its plain data."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console

import experiments
import zoo
from experiments.comparison.table import Comparison
from experiments.comparison.terminal.text import grid
from experiments.comparison.terminal.theta import Grid, grids, print_theta
from experiments.fits.result import Fit


def quantity(name: str, dims: list[str], values: Any) -> dict[str, Any]:
    return {"name": name, "dims": dims, "shape": list(torch.tensor(values).shape), "values": values}


def compared(name: str, data: str, guides: list[str], **options: Any) -> Comparison:
    x = zoo.dataset(data).x
    return experiments.compare(zoo.build(name, x), x, guides, effort="none", **options)


def test_what_shares_a_dimension_stands_side_by_side() -> None:
    theta = {"labels": {"column": ["a", "b"]}, "parameters": [
        quantity("weights", ["component"], [0.25, 0.75]),
        quantity("means", ["component", "column"], [[1.0, 2.0], [3.0, 40000.0]]), quantity("noise", [], 0.5),
        quantity("covariances", ["component", "column", "other"], [[[1.0], [2.0]], [[3.0], [4.0]]])]}
    assert grids(theta) == ([
        Grid("weights (component 2), means (component 2, column 2)", ["component", "weights", "means a", "means b"],
             [["0", "0.2500", "1.000", "2.000"], ["1", "0.7500", "3.000", "40000"]]),
        Grid("noise", ["quantity", "value"], [["noise", "0.5000"]]),
        Grid("covariances (component 2, column 2, other 1)", ["component", "column", "covariances 0"],
             [["0", "a", "1.000"], ["0", "b", "2.000"], ["1", "a", "3.000"], ["1", "b", "4.000"]], 2)], [])


def test_a_wide_matrix_is_turned_and_joins_its_longer_dimension() -> None:
    theta = {"parameters": [
        quantity("means", ["component", "column"], [list(map(float, range(9))), [9.0] * 9]),
        quantity("loc", ["column"], [1.0] * 9)]}
    found, = grids(theta)[0]
    assert found.heads == ["column", "means 0", "means 1", "loc"]
    assert found.rows[8] == ["8", "8.000", "9.000", "1.000"]


def test_the_smallest_quantities_are_shown_and_the_others_named() -> None:
    theta = {"parameters": [
        quantity("loadings", ["column", "latent"], [[1.0] * 2] * 13), quantity("loc", ["column"], [1.0] * 13),
        quantity("noise", [], 1.0), {"name": "huge", "dims": ["row"], "shape": [501], "values": None}]}
    found, left = grids(theta, 30)
    assert [one.heads for one in found] == [["column", "loc"], ["quantity", "value"]]
    assert left == ["loadings (column 13, latent 2)", "huge (row 501)"]


def test_a_mixture_is_printed_before_its_guides_and_written_down() -> None:
    table = compared("gmm", "faithful", ["exact"])
    lines = str(table).splitlines()
    assert lines[0] == "θ"
    assert lines[1].split() == ["component", "weights", "means", "0", "means", "1", "sds", "0", "sds", "1"]
    low = next(line for line in lines if "0.3559" in line)
    assert low.split()[1:] == ["0.3559", "2.036", "54.48", "0.2630", "5.805"]
    assert lines.index(low) < next(i for i, line in enumerate(lines) if line.startswith("gmm on data"))
    theta = json.loads(json.dumps(table.to_dict(), allow_nan=False))["theta"]
    assert theta["method"] == "em"
    assert [(one["name"], one["dims"]) for one in theta["parameters"]] == [
        ("weights", ["component"]), ("means", ["component", "column"]), ("sds", ["component", "column"]),
        ("covariances", ["component", "column", "other_column"])]
    assert theta["parameters"][1]["values"] == table.model.theta()["means"].tolist()


def test_networks_are_printed_by_their_layers_and_what_is_large_is_named() -> None:
    table = compared("flow", "two_moons", ["exact"], steps=3)
    first = " ".join(str(table).split())
    assert first.startswith("θ: network: 23,132 numbers in a network: 4 × (Linear 1 → 64; Linear 64 → 64; Linear 64 → 23)")
    text = " ".join(str(compared("factor_analysis", "wine", ["exact"], steps=2)).split())
    assert "loadings (column 13, latent 2): not printed, over 30 numbers in all; --json and report.html have them" in text
    assert "noise_variance" in text


def test_each_guide_with_a_theta_of_its_own_has_its_own_lines() -> None:
    table = compared("linear_vae", "iris", ["exact", "mean_field:encoder"], train_model=True, steps=20)
    found = table.to_dict()
    assert found["theta"] is None
    assert set(found["theta_by_guide"]) == {"exact", "mean_field:encoder"}
    for row, theta in zip(table.rows, found["theta_by_guide"].values(), strict=True):
        assert theta["parameters"][0]["values"] == row.fit.model.theta()["network.0.weight"].tolist()
    lines = str(table).splitlines()
    assert {"θ of 'exact'", "θ of 'mean_field:encoder'"} <= {line.strip() for line in lines}


def test_a_model_without_parameters_says_nothing_of_theta() -> None:
    table = compared("eight_schools", "eight_schools", ["mean_field"], steps=20)
    assert (table.to_dict()["theta"], table.to_dict()["theta_by_guide"]) == (None, None)
    assert str(table).startswith("eight_schools on data")


def test_a_table_too_wide_for_the_terminal_is_lines_and_labels_are_no_markup() -> None:
    theta = {"networks": [], "labels": {"column": ["[bold]", "b"]}, "parameters": [
        quantity("means", ["component", "column"], [[1.0, 2.0], [3.0, 4.0]])]}
    printed = {}
    for width in (30, 100):
        out = Console(file=io.StringIO(), width=width, color_system=None)
        print_theta(theta, out, grid)
        printed[width] = out.file.getvalue()  # type: ignore[attr-defined]
    assert "component 0: means [bold] 1.000, means b 2.000 component 1:" in " ".join(printed[30].split())
    assert max(map(len, printed[30].splitlines())) <= 30
    assert "means [bold]" in printed[100].splitlines()[1]


@pytest.mark.parametrize("effort", ["none", "quick"])
def test_the_worst_quantities_are_written_down(effort: str) -> None:
    x = zoo.dataset("eight_schools").x
    table = experiments.compare(zoo.build("eight_schools", x), x, ["mean_field"], effort=effort, seed=0)
    found = table.to_dict()["quantities"]
    if effort == "none":
        assert found is None
        return
    assert table.quantities is not None
    assert found["reference"] == table.quantities.reference
    assert found["told"] == table.quantities.told()
    assert [one["quantity"] for one in found["worst"]] == [one.name for one in table.quantities.worst()]
    assert all(isinstance(one.fit, Fit) for one in table.rows)
