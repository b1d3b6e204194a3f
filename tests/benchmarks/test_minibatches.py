"""The judge of the benchmark on a large regression, against draws, and the optimum that it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from benchmarks.sides.zoo_rows import program
from benchmarks.suites.minibatches import COLUMNS, Judge, _row, write

DRAWS = 2_000


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    path: Path = tmp_path_factory.mktemp("rows") / "rows.npy"
    write(path, 500)
    return Judge(path)


def test_the_judge_agrees_with_draws(judge: Judge) -> None:
    x = torch.as_tensor(np.load(judge.path)).double()
    q = torch.distributions.Normal(torch.linspace(-0.5, 0.5, COLUMNS).double(), torch.linspace(0.1, 0.4, COLUMNS).double())
    torch.manual_seed(0)
    z = q.sample((DRAWS,))
    terms = zoo.as_model(program).log_joint(x, z[:, None])[:, 0] - q.log_prob(z).sum(1)
    error = float(terms.std()) / DRAWS**0.5
    assert abs(judge(q.mean.numpy(), q.stddev.numpy()) - float(terms.mean())) < 4 * error


def test_no_neighbour_of_the_best_normal_is_better(judge: Judge) -> None:
    loc, scale = judge.best(20)
    best, rng = judge(loc, scale), np.random.default_rng(0)
    for _ in range(5):
        assert judge(loc + 0.1 * scale * rng.normal(size=COLUMNS), scale) < best
        assert judge(loc, scale * np.exp(0.1 * rng.normal(size=COLUMNS))) < best


def test_a_fit_that_did_not_get_there_says_so() -> None:
    way = {"total": np.array(9.0), "peak": np.array(512.0), "end": np.array("cut off")}
    assert _row("zoo", way, [(1.0, 7.0), (2.0, 0.5), (3.0, 0.25)]) == ["zoo", "2.0", "9.0, cut off", "0.25", "512 MB"]
    assert _row("zoo", way, [(1.0, 7.0)])[1] == "not reached"
