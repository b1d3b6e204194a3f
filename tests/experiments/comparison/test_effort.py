"""The effort of an evaluation: its budget is kept, and what a budget cannot pay for is said."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
from experiments.runtime.budget import Budget
from experiments.runtime.effort import EFFORTS
from tests.programs import hierarchical_normal, log_evidence, simulated
from zoo.errors import ZooError

X = simulated(60, 0)


def regression(x: Tensor) -> None:
    """Shared latents alone, whose posterior no guide is: the log scale's is skewed."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfCauchy(x.new_tensor(5.0)))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x[:, :3] @ w, scale), obs=x[:, 3])


def compared(program: zoo.Program, x: Tensor, guides: Sequence[str], effort: str) -> experiments.Comparison:
    return experiments.compare(program, x, guides=guides, effort=effort, progress=False)


CASES = {
    "rows that share latents": (hierarchical_normal, X, ["mean_field", "full_rank+mean_field"]),
    "one unit": (regression, torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
                 ["mean_field", "full_rank"])}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_budget_is_kept(case: str, effort: str) -> None:
    program, x, guides = CASES[case]
    table = compared(program, x, guides, effort)
    cost, known = table.cost, EFFORTS[effort]
    limit = max(known.floor, known.multiple * cost.fit_evaluations)
    assert cost.fit_evaluations > 1000
    assert cost.evaluation_evaluations <= 1.05 * limit
    assert (cost.evaluation_evaluations > 0) == (effort != "none")
    assert table.to_dict()["cost"] == {
        "effort": effort, "fit_evaluations": round(cost.fit_evaluations),
        "evaluation_evaluations": round(cost.evaluation_evaluations)}
    assert f"effort {effort}" in str(table)


def test_no_effort_bounds_the_evidence_by_the_draws_of_the_elbo() -> None:
    table = compared(hierarchical_normal, X, ["mean_field", "full_rank+mean_field"], "none")
    assert table.evidence.kind == "lower_bound"
    assert table.evidence.lower < log_evidence(X)
    assert table.evidence.lower >= max(row.evaluation.elbo.value for row in table.rows)
    assert all(row.evaluation.blocks is None and row.split is None for row in table.rows)
    assert all(row.evaluation.khat is not None for row in table.rows)


def test_closed_forms_take_no_effort() -> None:
    x = zoo.dataset("faithful").x
    assert compared(zoo.build("gmm", x), x, ["exact"], "none").evidence.kind == "exact"


def test_the_evidence_is_the_same_at_any_effort_that_reaches_it() -> None:
    for effort in ("quick", "default", "thorough"):
        found = compared(hierarchical_normal, X, ["full_rank+mean_field"], effort).evidence
        assert found.kind == "estimated"
        assert found.upper is not None
        assert found.lower < log_evidence(X) < found.upper


def test_what_is_not_paid_for_is_said() -> None:
    """Chains take at least 11,520 evaluations: fewer leave a lower bound, from all guides together."""
    x = CASES["one unit"][1]
    model = zoo.as_model(regression)
    guide = experiments.fit(model, "full_rank", x, progress=False).guide
    found = experiments.evidence(model, x, guide, effort=Budget(8000.0, rows=len(x)))
    assert (found.kind, found.upper) == ("lower_bound", None)
    assert "no upper end: Markov chains would take more evaluations than the effort allows" in found.remark


def test_an_effort_that_is_none_of_them_is_named() -> None:
    with pytest.raises(ZooError, match="expected effort as one of none, quick, default, thorough; got 'defualt'"):
        compared(hierarchical_normal, X, ["mean_field"], "defualt")


def test_a_target_is_a_tenth_of_the_smallest_gap() -> None:
    assert Budget().aimed([30.0, 8.0]).target == pytest.approx(0.8)
    assert Budget().aimed([0.3, 5.0]).target == 0.1
    assert Budget().aimed([float("inf")]).target == 0.1


def test_fits_count_what_they_evaluate() -> None:
    """Of svi: each step's draws, with a gradient, of all rows."""
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    counts = [
        experiments.fit(model, "mean_field", x, method="svi", steps=steps, draws=3, progress=False).evaluations
        for steps in (200, 400, 400)]
    assert counts[1] == counts[2]  # whether steps are recorded, which hangs on the clock, is no part of it
    assert counts[1] - counts[0] == pytest.approx(200 * 3 * 3 * 8, rel=0.05)
