"""The gap split into approximation and amortisation: parts that are known, and errors that stay."""

from __future__ import annotations

import pytest
import torch

import experiments
import zoo
from experiments.comparison.gap_split import split
from experiments.log_evidence.log_weights import LogWeights
from zoo.program.run import seeded


def test_an_encoder_of_a_finite_support_lacks_amortisation_alone() -> None:
    x = zoo.dataset("faithful").x
    table = experiments.compare(zoo.build("gmm", x), x, ["categorical:encoder", "categorical"], steps=100, seed=0)
    encoder = table.rows[0]
    assert encoder.split is not None
    assert encoder.split.approximation.value == pytest.approx(0.0, abs=1e-8)
    assert encoder.split.amortisation.value == pytest.approx(encoder.evaluation.kl_gap.value, abs=1e-8)
    assert encoder.split.amortisation.se == 0.0


def test_the_amortisation_gap_keeps_its_error_where_noise_hides_it() -> None:
    with seeded(0):
        noise = torch.randn(200, 5, dtype=torch.double)
        zero = torch.zeros_like(noise)
        encoder = LogWeights(noise, zero, zero, zero - torch.tensor(200.0).log(), False)
        free = LogWeights(noise - 0.001 + 0.1 * torch.randn(200, 5, dtype=torch.double), zero, zero, encoder.log_measure, False)
    found = experiments.Evidence("exact", 1.0, 0.0, 1.0, 1.0, torch.zeros(5))
    gap = split(encoder, free, found).amortisation
    assert gap.value == gap.lower == 0.0
    assert gap.se > 0
    assert gap.upper is not None
    assert 0 < gap.upper < 2 * gap.se
