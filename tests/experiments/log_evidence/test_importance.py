"""log p(x) to a precision: right where it is known, as sure as it says, and with draws where they are needed."""

from __future__ import annotations

import pytest
import torch

import experiments
import guides
import zoo
from experiments.log_evidence.estimator import Question
from experiments.log_evidence.importance import FIRST, importance
from experiments.log_evidence.lower_bound import GROUPS, T95, LowerBound


@pytest.fixture(scope="module")
def pair() -> tuple[zoo.Model, torch.Tensor, guides.BaseGuide]:
    x = zoo.dataset("wine", standardise=True).x
    assert isinstance(x, torch.Tensor)
    model = zoo.build("linear_vae", x, latent=4)
    experiments.fit(model, "exact", x, steps=20)
    guide = experiments.fit(model, "mean_field", x, train_model=False).guide
    with torch.no_grad():
        # Wider than the posterior, so that the weights have a variance; of some units much wider.
        guide.amortisation.phi["log_scale"] += torch.linspace(0.1, 0.9, len(x))[:, None]
    return model, x, guide


def test_it_is_log_p_to_its_error(pair: tuple[zoo.Model, torch.Tensor, guides.BaseGuide]) -> None:
    model, x, guide = pair
    found = importance(model, guide, x, 0.05)
    with torch.no_grad():
        off = found.value - model.log_evidence(x)
    assert bool((found.se <= 0.05).all())
    assert float((off / found.se).square().mean().sqrt()) < 1.3  # 1 for normal weights; these are skewed
    assert abs(float(off.sum())) < 4 * float(found.se.square().sum().sqrt()) + 0.5 * float(found.se.square().sum())


def test_units_that_are_there_draw_no_more(pair: tuple[zoo.Model, torch.Tensor, guides.BaseGuide]) -> None:
    model, x, guide = pair
    found = importance(model, guide, x, 0.05)
    assert found.evaluations < 1.4 * len(x) * int(found.draws.max())  # a pilot, and as many again
    assert bool((found.draws >= found.pilot).all())
    assert int(found.draws[-1]) >= 4 * int(found.draws[0])
    exact = importance(model, guides.build("exact", model, x), x, 1e-6)
    assert exact.evaluations == 2 * len(x) * FIRST  # a pilot, and as many again
    with torch.no_grad():
        torch.testing.assert_close(exact.value, model.log_evidence(x))


def test_evidence_takes_a_precision_and_says_who_falls_short() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    guide = experiments.fit(model, "mean_field", x, steps=50).guide
    with pytest.warns(zoo.ZooWarning, match="1 of 1 units did not come to 1e-06 nats within 131072 draws of 'mean_field'"):
        found = experiments.evidence(model, x, guide, precision=1e-6)
    assert (found.kind, found.method, found.upper) == ("lower_bound", "importance", None)
    with pytest.raises(zoo.ZooError, match="expected a precision above 0 nats; got 0"):
        experiments.evidence(model, x, guide, precision=0)


@pytest.mark.long
def test_the_bound_comes_from_the_most_even_weights_and_has_students_interval() -> None:
    from scipy import stats

    assert pytest.approx(float(stats.t.ppf(0.975, GROUPS - 1))) == T95
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    table = experiments.compare(zoo.build("logistic_regression", x), x, ["mean_field", "full_rank"])
    assert table.evidence.source.startswith("full_rank + mean_field")  # all guides contribute, the most even weights first
    assert table.evidence.kind == "estimated"
    bound = LowerBound().run(Question(table.model, x, [table.guide("full_rank")]))
    assert bound.kind == "lower_bound"
    assert bound.lower == pytest.approx(bound.value - T95 * bound.se)
    assert bound.lower < table.evidence.upper
