"""Runs that an earlier version wrote, whose modules had other names: they load, and go on from their checkpoints."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

import experiments
import zoo

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A copy of the runs: one that is done, and one that was interrupted in the fit of its second guide."""
    return Path(shutil.copytree(EARLIER, tmp_path / "earlier"))


def test_a_finished_run_loads_with_the_guides_that_it_fitted(written: Path) -> None:
    found = experiments.load(written / "done")
    assert [fit.guide.text for fit in found.fits] == ["mean_field", "low_rank"]
    for fit, row in zip(found.fits, found.comparison["guides"], strict=True):
        elbo = experiments.log_weights(fit.model, fit.guide, found.x).elbo()
        assert elbo.value == pytest.approx(row["elbo"]["value"], abs=5 * (elbo.se + row["elbo"]["se"]))


def test_an_interrupted_run_goes_on_from_its_checkpoint(written: Path) -> None:
    place = written / "interrupted"
    with pytest.raises(zoo.ZooError, match=r"changed since is .*the code of zoo, guides, experiments"):
        experiments.resume(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zoo.ZooWarning)  # that it goes on although the code changed
        table = experiments.resume(place, experiments.RunOptions(force=True, report=False))
    done = experiments.load(written / "done")
    for row, before in zip(table.rows, done.comparison["guides"], strict=True):
        assert (row.evaluation.guide, row.fit.steps) == (before["guide"], before["steps"])
        elbo = row.evaluation.elbo
        assert elbo.value == pytest.approx(before["elbo"]["value"], abs=5 * (elbo.se + before["elbo"]["se"]))
