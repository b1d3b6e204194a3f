"""The remarks below a table: their order, and what each says to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import experiments
import guides
import zoo
from experiments.comparison.advice import ENDS, EVIDENCE, FITS, Importance, Remedy, closer, remedied, separate
from experiments.comparison.remarks import Remark, remarks
from experiments.comparison.table import Row
from experiments.diagnostics.gap import Gap
from experiments.log_evidence.resolution import Resolution
from tests import ROOT

POOR = {"khat": 1.2, "ess": 10.0}
KEPT = "the ELBO fell to -9, far below -3; the best state, after step 40, is kept"


@cache
def compared() -> experiments.Comparison:
    x = zoo.dataset("eight_schools").x
    return experiments.compare(zoo.build("eight_schools", x), x, ["mean_field", "full_rank"], effort="quick", progress=False)


def changed(row: Row, evaluation: Mapping[str, Any], fit: Mapping[str, Any]) -> Row:
    return replace(row, evaluation=replace(row.evaluation, **evaluation), fit=replace(row.fit, **fit))


def table(evaluation: Mapping[str, Any] | None = None, **fit: Any) -> experiments.Comparison:
    """A comparison whose first row has other facts, and whose quantities are left out."""
    found = compared()
    return replace(found, rows=(changed(found.rows[0], evaluation or {}, fit), *found.rows[1:]), quantities=None)


def lone(guide: str) -> experiments.Comparison:
    """A comparison of one guide, which misses mass."""
    found = compared()
    row = changed(found.rows[0], {**POOR, "guide": guide}, {"guide": guides.build(guide, found.model, found.x)})
    return replace(found, rows=(row,))


def texts(found: experiments.Comparison, *importances: Importance) -> list[str]:
    return [remark.text for remark in remarks(found) if remark.importance in importances]


def test_wrong_numbers_come_first_and_the_cost_last() -> None:
    found = table(
        {**POOR, "remark": "3 of 4096 draws could not be evaluated"}, converged=True, remarks=("pure=True would save 60%",),
        stopped="early: the held-out ELBO has not risen since step 40")
    noted = replace(found.evidence, remark="float32 changes log p(x | θ) by about 0.2 nats; pass the data in float64")
    said = remarks(replace(found, evidence=noted, quantities=compared().quantities))
    assert [remark.importance for remark in said] == sorted(remark.importance for remark in said)
    assert {remark.importance for remark in said} == set(Importance)
    assert said[0].text.startswith("float32")
    assert said[1].text.startswith("k̂ > 0.7: 'mean_field' misses")
    assert "effort quick" in said[-1].text
    lines = str(replace(found, evidence=noted)).splitlines()
    order = [next(i for i, line in enumerate(lines) if line.startswith(begins)) for begins in (
        "nats", "float32", "k̂ > 0.7", "'mean_field': 3 of", "'mean_field': stopped: early", "'mean_field': pure=True")]
    assert order == sorted(order)


def test_a_comparison_without_problems_has_notes_alone() -> None:
    found = replace(compared(), quantities=None)
    assert texts(found, Importance.WRONG, Importance.CHANGE) == []
    assert len(texts(found, Importance.NOTE)) == 1


ENDED = {
    "not converged: 50 steps; raise --steps": (False, "'mean_field': not converged: 50 steps; raise --steps"),
    "early: the held-out ELBO has not risen since step 40": (
        True, "'mean_field': stopped: early: the held-out ELBO has not risen since step 40; raise --patience to go on"),
    "it ended 0.3 nats below the mean_field that it contains, which is kept": (False, "raise --steps, or try another --seed"),
    KEPT: (False, f"'mean_field': stopped: {KEPT}; lower --learning-rate, or set --clip"),
    "iteration 4 turned non-finite at site 'x'; the parameters before it are kept": (False, "standardise the data, by"),
}


@pytest.mark.parametrize("stopped", ENDED)
def test_fits_that_end_otherwise_say_what_to_do(stopped: str) -> None:
    converged, said = ENDED[stopped]
    (text,) = texts(table(stopped=stopped, converged=converged), Importance.CHANGE if converged else Importance.WRONG)
    assert said in text


def test_the_fit_of_theta_says_what_to_do() -> None:
    theta = replace(compared().rows[0].fit, converged=False, stopped="not converged: 20 steps; raise --steps")
    found = replace(table(), theta=theta)
    assert texts(found, Importance.WRONG) == ["θ: not converged: 20 steps; raise --steps"]
    assert texts(found, Importance.NOTE)[0].startswith("θ by fixed_draws with 'mean_field': ")


def evidence_remarks() -> dict[str, str]:
    """What is noted of the evidence by the code that notes it, and what to do about it."""
    found = compared().evidence
    float32, lost = Resolution(rounding=0.5), Resolution(lost=0.2, site="sigma")
    high = {"the ELBO of 'full_rank'": (found.lower + 90.0, 0.01)}
    return {
        replace(found, remark="").covering(high).remark: "use --effort thorough",
        replace(found, remark="").resolved(float32).remark: "pass the data in float64",
        replace(found, remark="").resolved(lost).remark: "draw the logarithm or logit of that site"}


def test_remarks_on_the_evidence_say_what_to_do() -> None:
    for said, advice in evidence_remarks().items():
        found = replace(table(), evidence=replace(compared().evidence, remark=said))
        (text,) = texts(found, Importance.WRONG)
        assert text.startswith(said)
        assert text.endswith(advice)


def test_remarks_on_the_evidence_that_stand_in_one_line_are_told_apart() -> None:
    each = [*evidence_remarks()]
    assert separate("; ".join(each)) == each
    assert separate("") == []


def test_what_the_highest_effort_can_not_mend_is_mended_otherwise() -> None:
    said = "no upper end: Markov chains would take more evaluations than the effort allows"
    assert remedied(said, EVIDENCE, Importance.WRONG, "default").text == f"{said}; use --effort thorough"
    assert remedied(said, EVIDENCE, Importance.WRONG, "thorough").text == f"{said}; compare fewer rows"


def test_unknown_remarks_are_passed_on() -> None:
    assert remedied("a word of a new method", FITS, Importance.NOTE) == Remark(Importance.NOTE, "a word of a new method")


def sources() -> str:
    """The project's code, with strings that are cut over lines joined."""
    rooms = [ROOT / "experiments" / room for room in ("log_evidence", "inference", "comparison")]
    files = [file for room in rooms for file in room.rglob("*.py")]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files if file.name != "advice.py"))


@pytest.mark.parametrize("remedy", [*EVIDENCE, *ENDS, *FITS], ids=lambda remedy: remedy.begins)
def test_remedies_are_of_remarks_that_the_code_makes(remedy: Remedy) -> None:
    """A remark that is worded anew would lose its advice."""
    fixed = max(re.split(r"\.\*|\\d\+|\(\?:|[()|?]", remedy.begins), key=len)
    assert fixed.strip() in sources()


# -- which guide --------------------------------------------------------------------------------------------------------


def test_the_guide_of_the_highest_elbo_is_the_one_to_use() -> None:
    found = table(POOR)
    assert closer(found.rows[0], found) == "use 'full_rank'"
    assert closer(found.rows[1], found) == "add flow"
    early = replace(found, rows=(found.rows[0], changed(found.rows[1], {}, {"converged": False})))
    assert closer(early.rows[0], early) == "add flow"


def test_draws_have_no_elbo_to_be_the_highest() -> None:
    found = table(POOR)
    drawn = guides.build("draws@nuts", found.model, found.x)
    chains = changed(found.rows[0], {"elbo": experiments.Estimate(float("nan"), 0.0, torch.zeros(1)), "guide": drawn.text},
                     {"guide": drawn})
    among = replace(found, rows=(chains, *found.rows))
    assert closer(among.rows[1], among) == "use 'full_rank'"
    assert closer(chains, among) == "use draws(full_rank)@ais, or begin from a richer guide"


@pytest.mark.parametrize(("guide", "said"), [
    ("mean_field", "add full_rank"), ("low_rank(2)", "add full_rank"), ("full_rank", "add flow"), ("prior", "add full_rank"),
    ("flow", "add a flow of more layers, as flow(layers=6)")])
def test_the_next_richer_family_is_the_one_to_add(guide: str, said: str) -> None:
    found = lone(guide)
    assert closer(found.rows[0], found) == said
    (text,) = texts(replace(found, quantities=None), Importance.WRONG)
    assert text == f"k̂ > 0.7: '{guide}' misses posterior mass that matters, so read the intervals with care; {said}"
    if said.startswith("add full_rank") or said == "add flow":
        guides.build(said.removeprefix("add "), found.model, found.x)


def pairs(x: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(u[0], 1.0))
        pyro.sample("x", dist.Normal(z, u[1].exp()), obs=x)


def test_a_guide_of_two_blocks_is_to_be_richer_where_its_gap_is() -> None:
    x = torch.linspace(-1, 1, 6, dtype=torch.double)
    found = experiments.compare(pairs, x, guides=["mean_field+mean_field"], effort="quick", progress=False)
    row, = found.rows
    assert row.evaluation.blocks is not None
    small, large = Gap(0.1, 0.0, 0.1, 0.1), Gap(2.0, 0.0, 2.0, 2.0)
    for shared, local, said in ((large, small, "full_rank+mean_field"), (small, large, "mean_field+flow")):
        parts = replace(row.evaluation.blocks, shared=shared, local=local)
        one = replace(row, evaluation=replace(row.evaluation, blocks=parts))
        assert closer(one, replace(found, rows=(one,))) == f"add {said}"
        guides.build(said, found.model, found.x)


def test_an_encoder_that_lags_is_to_be_trained_longer() -> None:
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x, latent=2)
    found = experiments.compare(model, x, ["full_rank:encoder"], steps=5, effort="quick", progress=False)
    row = found.rows[0]
    assert closer(row, found) == "raise --steps, or use :semi in place of :encoder"
    semi = changed(row, {}, {"guide": guides.build("full_rank:semi", model, x)})
    assert closer(semi, found) == "raise --steps"


def test_discrete_latents_are_for_a_categorical_guide() -> None:
    x = zoo.dataset("faithful").x
    found = experiments.compare(zoo.build("gmm", x), x, guides=["prior"], effort="quick", progress=False)
    assert closer(found.rows[0], found) == "add categorical"


def test_quantities_say_which_guide_to_use() -> None:
    found = compared()
    assert found.quantities is not None
    said = texts(found, Importance.CHANGE)
    assert [line.split(";")[0] for line in said] == [line.split(";")[0] for line in found.quantities.told()]
    assert all(re.search("; (use 'full_rank'|add flow)$", line) for line in said)
    rough = replace(found, quantities=replace(found.quantities, reference="Markov chains, R-hat 1.63"))
    assert texts(rough, Importance.WRONG) == [
        "the quantities' reference is rough: its Markov chains disagree (R-hat 1.63); add flow"]
    settled = replace(found, quantities=replace(found.quantities, reference="Markov chains, R-hat 1.01"))
    assert texts(settled, Importance.WRONG) == []
