"""Tallies of density evaluations."""

from __future__ import annotations

import torch

import zoo
from zoo.program.tally import tallied, tally, uncounted
from zoo.structure.blocks import log_block_terms

X = zoo.dataset("eight_schools").x


def test_rows_at_draws_count_thrice_with_a_gradient() -> None:
    model, z = zoo.build("eight_schools", X), torch.zeros(5, 1, 10)
    with tallied() as cost, torch.no_grad():
        model.log_joint(X, z)
        assert cost.rows == 5 * 8
        log_block_terms(model, X, z)
        assert cost.rows == 2 * 5 * 8
    with tallied() as cost:
        model.log_joint(X, z)
    assert cost.rows == 3 * 5 * 8


def test_units_of_a_minibatch_count_alone() -> None:
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x, latent=2)
    with tallied() as cost, torch.no_grad():
        model.log_joint(x[:10], torch.zeros(4, 10, 2, dtype=x.dtype))
    assert cost.rows == 40


def test_tallies_nest_and_checks_are_left_out() -> None:
    with tallied() as outer:
        tally(1)
        with tallied() as inner:
            tally(2)
        with uncounted(), tallied() as own:
            tally(4)
        with tallied(inner):
            tally(8)
    tally(16)
    assert (outer.rows, inner.rows, own.rows) == (11, 10, 4)
