"""The estimators of log p(x | θ): their registry, and the order in which they are asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.log_evidence.estimator import Estimator, Question, Unsettled
from experiments.log_evidence.evidence import _beside_prior
from experiments.log_evidence.registry import ESTIMATORS, EstimatorEntry
from experiments.log_evidence.result import Evidence
from experiments.reporting.record import read
from experiments.runtime.budget import Budget
from tests import ROOT

ONE = torch.ones((), dtype=torch.double)

X = torch.tensor([0.3, 1.2, -0.4], dtype=torch.double)


def one_mean(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_registered_estimator_is_whole(name: str) -> None:
    entry = ESTIMATORS[name]
    assert isinstance(entry.build(), Estimator)
    assert "{" not in entry.words.format(source="a", method="b")
    assert entry.level in ("good", "caution", "bad")
    assert entry.verdict.startswith("log p(x | θ) is ")


def test_the_words_for_a_kind_are_in_the_registry_alone() -> None:
    for file in (ROOT / "experiments").rglob("*.*"):
        if file.suffix in (".py", ".html") and file.name != "registry.py":
            text = file.read_text()
            assert not [kind for kind, entry in ESTIMATORS.items() if "{" in entry.words and entry.words in text], file
            assert not [kind for kind, entry in ESTIMATORS.items() if entry.verdict in text], file


class Known(Estimator):
    """An estimator of someone else's, which knows the answer."""

    def misfit(self, question: Question) -> str:
        return "" if question.model.label == "one_mean" else "expected one_mean"

    def run(self, question: Question) -> experiments.Evidence:
        return experiments.Evidence("known", -3.5, 0.0, -3.6, -3.4, torch.tensor([-3.5]))


class Never(Known):
    def run(self, question: Question) -> experiments.Evidence:
        raise Unsettled("its two halves are 3 nats apart")


def with_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    entry = EstimatorEntry(f"{__name__}:{name}", "as the author knows it", "good", "log p(x | θ) is known")
    added = {"known": entry}
    for module in ("registry", "result", "evidence"):
        monkeypatch.setattr(f"experiments.log_evidence.{module}.ESTIMATORS", {**added, **ESTIMATORS})
    monkeypatch.setattr("experiments.reporting.shapes.ESTIMATORS", {**added, **ESTIMATORS})
    monkeypatch.setattr("experiments.reporting.report.verdicts.ESTIMATORS", {**added, **ESTIMATORS})


def test_an_estimator_is_added_by_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with_first(monkeypatch, "Known")
    found = experiments.evidence(zoo.as_model(one_mean), X)
    assert (found.kind, found.value) == ("known", -3.5)
    assert found.entry.words == "as the author knows it"
    text = str(experiments.compare(one_mean, X, ["mean_field"]))
    assert "[-3.600, -3.400] nats, as the author knows it" in text


def test_one_that_does_not_settle_is_told_of_and_the_next_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with_first(monkeypatch, "Never")
    with pytest.warns(zoo.ZooWarning, match="log p\\(x\\) of one_mean can't be 'known': its two halves are 3 nats apart"):
        found = experiments.evidence(zoo.as_model(one_mean), X)
    assert found.kind == "quadrature"


class Broken(Known):
    def run(self, question: Question) -> experiments.Evidence:
        raise NotImplementedError("a fault of the program, not an unknown evidence")


def test_what_a_program_does_not_implement_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with_first(monkeypatch, "Broken")
    with pytest.raises(NotImplementedError, match="a fault of the program"):
        experiments.evidence(zoo.as_model(one_mean), X)


def test_the_order_of_trust() -> None:
    schools = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", schools)
    guide = guides.build("full_rank", model, schools)
    asked = Question(model, schools, [guide])
    assert [not ESTIMATORS[kind].build().misfit(asked) for kind in ("quadrature", "bracketed", "estimated", "lower_bound")] == [
        False, False, True, True]
    precise = Question(model, schools, [guide], precision=0.1)
    assert [not ESTIMATORS[kind].build().misfit(precise) for kind in ("bracketed", "estimated", "lower_bound")] == [
        False, False, True]
    with pytest.raises(zoo.ZooError, match="expected a guide to bound the evidence of eight_schools, which knows none exactly"):
        experiments.evidence(model, schools)


def test_a_record_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    spec = experiments.Spec.of(model="gmm", data="faithful", guides=("exact",), steps=3)
    experiments.run(spec, tmp_path / "run", experiments.RunOptions(report=False))
    file = tmp_path / "run" / "comparison.json"
    table = json.loads(file.read_text())
    table["log_evidence"]["kind"] = "guessed"
    file.write_text(json.dumps(table))
    with pytest.raises(zoo.ZooError, match=r"comparison\.json"):
        read(tmp_path / "run")


def test_an_overridden_posterior_brings_the_evidence() -> None:
    class Known(zoo.Model):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def posterior(self, x: Tensor) -> dist.Independent:
            return dist.Normal(x[:, None] / 2, math.sqrt(0.5)).to_event(1)

    table = experiments.compare(Known(), X, "exact")
    expected = dist.Normal(0 * ONE, math.sqrt(2.0)).log_prob(X).sum()
    assert table.evidence.kind == "exact"
    assert table.evidence.value == pytest.approx(float(expected), rel=1e-6)


def test_quadrature_leaves_large_networks_to_the_bracket() -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor[:40]
    model = zoo.build("vae", x, latent=2, hidden=(32,))
    assert experiments.evidence(model, x, guides.build("prior", model, x), draws=64).kind == "estimated"


# -- beside naive Monte Carlo --------------------------------------------------------------------------------------------


def funnel(x: Tensor) -> None:
    """Neal's funnel: the posterior is the prior, so that log p(x) = 0."""
    v = pyro.sample("v", dist.Normal(x.new_zeros(()), 3.0))
    pyro.sample("z", dist.Normal(x.new_zeros(()), (v / 2).exp()).expand([9]).to_event(1))
    pyro.factor("x", x.new_zeros(()))


def strong(x: Tensor) -> None:
    """A thousand observations of a mean: no draw of the prior is near the posterior."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(5), 10.0).to_event(1))
    with pyro.plate("rows", 1000):
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.expand(1000, 5))


def test_an_interval_that_a_part_of_the_prior_contradicts_is_widened_with_a_remark() -> None:
    """Guides that miss the neck of a funnel, 11% of the mass, and chains that begin at them, agree on log 0.89."""
    missed = Evidence("estimated", -0.112, 0.006, -0.124, -0.099, torch.tensor([-0.112]))
    x = torch.zeros(1, dtype=torch.double)
    found = _beside_prior(missed, zoo.as_model(funnel), x, 0, Budget())
    assert found.lower <= 0.0 <= found.upper
    assert "naive Monte Carlo, by draws of the prior" in found.remark


def weak(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 3.0).to_event(1), obs=x)


def test_weights_of_the_prior_that_are_nearly_equal_are_enough() -> None:
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.double)
    right = float(dist.Normal(0.0, math.sqrt(10.0)).log_prob(x).sum())
    wide = Evidence("estimated", None, 0.3, right - 1.0, right + 1.5, torch.tensor([right]))
    found = _beside_prior(wide, zoo.as_model(weak), x, 0, Budget())
    assert found.lower <= right <= found.upper
    assert found.width < 0.1
    assert found.source == "prior"


def test_weights_of_the_prior_that_are_hopeless_tell_nothing() -> None:
    known = Evidence("estimated", -3.0, 0.01, -3.1, -2.9, torch.tensor([-3.0]))
    x = torch.zeros(5, dtype=torch.double)
    assert _beside_prior(known, zoo.as_model(strong), x, 0, Budget()) is known
    assert _beside_prior(known, zoo.as_model(funnel), x, 0, Budget(limit=100.0)) is known
