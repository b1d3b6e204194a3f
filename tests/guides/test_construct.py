"""Guides by name: which there are, which fit a model, and whose they are."""

from __future__ import annotations

import pytest

import experiments
import guides
import zoo


def test_a_guide_of_another_model_is_refused() -> None:
    x = zoo.dataset("wine", standardise=True).x
    first, second = zoo.build("ppca", x), zoo.build("ppca", x, start="random")
    guide = guides.build("exact", first, x)
    for call in (experiments.evaluate, experiments.posterior, experiments.fit):
        with pytest.raises(zoo.ZooError, match="expected a guide of this model; got 'exact' built for another ppca"):
            call(second, guide, x)
    with pytest.raises(zoo.ZooError, match="expected a guide of this model"):
        experiments.compare(second, x, ["prior", guide])
