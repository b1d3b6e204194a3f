"""The shape of the tail of importance weights, beside ArviZ's."""

from __future__ import annotations

import numpy as np
import pytest
from arviz_stats.base import array_stats

from experiments.log_evidence.pareto import tail_shapes


@pytest.mark.parametrize("draws", [25, 100, 512, 4096])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_shapes_are_arvizs(draws: int, scale: float) -> None:
    log_weight = scale * np.random.default_rng(draws).standard_normal((7, draws)) - 300.0
    theirs = [float(array_stats.psislw(-row)[1]) for row in log_weight]
    np.testing.assert_allclose(tail_shapes(log_weight, np.zeros(7)), theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8])
def test_shapes_of_pareto_tails_are_recovered(shape: float) -> None:
    weights = np.random.default_rng(1).pareto(1 / shape, size=(50, 4096)) + 1
    found = tail_shapes(np.log(weights), np.zeros(50))
    # Shrunk towards 1/2 as by ten draws of a tail of 192.
    expected = (192 * shape + 5) / 202
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(50) + 0.02


def test_weights_that_have_no_tail_have_no_shape() -> None:
    log_weight = np.stack([np.zeros(100), np.where(np.arange(100) < 5, 0.0, -np.inf), 1e-9 * np.arange(100)])
    shapes = tail_shapes(log_weight, np.full(3, 1e-6))
    assert np.isnan(shapes[0])
    assert np.isinf(shapes[1])
    assert np.isnan(shapes[2])
    assert np.isnan(tail_shapes(np.zeros((2, 10)), np.zeros(2))).all()


def test_many_units_are_worked_on_in_parts() -> None:
    log_weight = np.random.default_rng(2).standard_normal((3000, 512))
    whole = tail_shapes(log_weight, np.zeros(3000))
    np.testing.assert_allclose(whole[::500], tail_shapes(log_weight[::500], np.zeros(6)))
