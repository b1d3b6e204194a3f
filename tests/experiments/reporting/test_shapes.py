"""Records of θ, of worst quantities and of units that somebody altered are refused in a line, and others make a page."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from experiments.reporting.record import read
from experiments.reporting.report import page
from tests.experiments.reporting.test_report import UNITS, learned

#: What somebody may do to a comparison, and what is said of it.
HARMS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a value missing": (lambda t: t["theta"]["parameters"][0]["values"].pop(), "theta.parameters.0"),
    "a word for a number": (lambda t: t["theta"]["parameters"][0].update(values=["a", 1.0]), "theta.parameters.0"),
    "no nested values": (lambda t: t["theta"]["parameters"][1].update(values=[1.0, 2.0]), "theta.parameters.1"),
    "a dimension missing": (lambda t: t["theta"]["parameters"][0]["dims"].pop(), "theta.parameters.0"),
    "a negative size": (lambda t: t["theta"]["parameters"][2].update(shape=[-1]), "theta.parameters.2.shape.0"),
    "a name missing": (lambda t: t["theta"]["parameters"][0].pop("name"), "theta.parameters.0.name"),
    "labels too few": (lambda t: t["theta"]["labels"].update(column=["a"]), "expected 2 labels of column"),
    "a size in words": (lambda t: t["theta"]["networks"][0].update(size="2,208"), "theta.networks.0.size"),
    "parameters of another kind": (lambda t: t["theta"].update(parameters=3), "theta.parameters"),
    "guides' own of another kind": (lambda t: t.update(theta_by_guide=[1]), "theta_by_guide"),
    "worst in words": (lambda t: t["quantities"]["worst"][0].update(mean="2.9"), "quantities.worst.0.mean"),
    "no reference": (lambda t: t["quantities"].pop("reference"), "quantities.reference"),
    "a cost in words": (lambda t: t["cost"].update(fit_evaluations="many"), "cost.fit_evaluations"),
}


def written(path: Path, comparison: Any, units: Any) -> Path:
    (path / "spec.toml").write_text('command = "fit"\n')
    (path / "status.json").write_text('{"state": "done", "error": ""}')
    (path / "comparison.json").write_text(json.dumps(comparison))
    (path / "units.json").write_text(json.dumps({"units": units}))
    return path


def test_what_was_written_makes_a_page(tmp_path: Path) -> None:
    found = read(written(tmp_path, learned().comparison, UNITS))
    assert found.units == UNITS
    assert "What was learned: θ" in page([found])


@pytest.mark.parametrize("harm", HARMS)
def test_altered_comparisons_are_refused(harm: str, tmp_path: Path) -> None:
    table = copy.deepcopy(learned().comparison)
    assert table is not None
    do, said = HARMS[harm]
    do(table)
    with pytest.raises(zoo.ZooError, match=r"expected a comparison's table in .*; remove it") as error:
        read(written(tmp_path, table, UNITS))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("altered", [
    {"counts": {"0": "many"}}, {"counts": None}, {"means": {"least": 1.0}}, {"units": 0}, {"most_uncertain": [{"unit": "1"}]},
    {"mean_entropy": "low"}])
def test_altered_summaries_of_units_are_refused(altered: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(zoo.ZooError, match=r"expected summaries over units in .*units.json; got units.0.*; remove it"):
        read(written(tmp_path, learned().comparison, [UNITS[0] | altered]))
