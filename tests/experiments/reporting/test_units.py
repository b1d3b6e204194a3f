"""Summaries of posteriors over many units, against exact posteriors, and what ``zoo summary`` prints of them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from typing import Any

import arviz_base as azb
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.cli import run
from experiments.reporting.output import summary_frame
from experiments.reporting.units import tables, unit_summaries


def said(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(["summary", *words])
    assert code == 0, err.getvalue()
    return out.getvalue()


def found(model: Any, guide: Any, x: Any, draws: int = 4000) -> tuple[list[dict[str, Any]], list[str]]:
    tree = experiments.posterior(model, guide, x, draws=draws, groups=["posterior"])
    model = zoo.as_model(model)
    return unit_summaries(tree, model, guide if not isinstance(guide, str) else guides.build(guide, model, x), x)


def test_discrete_latents_are_counted_by_their_exact_probabilities() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    probs = model.posterior(x).probs.detach()
    (one,), told = found(model, "exact", x, 10)
    entropy = -(probs * probs.clamp(min=1e-300).log()).sum(1)
    assert told == ["z"]
    assert (one["variable"], one["dim"], one["units"]) == ("z", "rows", 272)
    assert list(one["counts"].values()) == pytest.approx(probs.sum(0).tolist())
    assert one["mean_entropy"] == pytest.approx(float(entropy.mean()))
    assert one["greatest_entropy"] == pytest.approx(math.log(2))
    worst = entropy.argsort(descending=True)[:3].tolist()
    assert [int(unit["unit"]) for unit in one["most_uncertain"]] == worst
    assert one["most_uncertain"][0]["probabilities"] == pytest.approx(probs[worst[0]].tolist())


def test_values_of_several_discrete_latents_are_counted_apart() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.25, dtype=x.dtype)))
            pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=x.dtype)))
            pyro.sample("x", dist.Normal(a * 0.0, 1.0), obs=x)

    summaries, told = found(program, "exact", torch.zeros(20, dtype=torch.double), 5)
    assert told == ["a", "b"]
    assert [list(one["counts"].values()) for one in summaries] == [pytest.approx([15.0, 5.0]), pytest.approx([10.0, 10.0])]
    assert summaries[1]["mean_entropy"] == pytest.approx(math.log(2))


def test_real_latents_are_summarised_by_coordinate() -> None:
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x)
    q = model.posterior(x)
    summaries, told = found(model, "exact", x, 20_000)
    assert told == ["z"]
    assert [one["variable"] for one in summaries] == ["z[0]", "z[1]"]
    for i, one in enumerate(summaries):
        means, sd = q.mean[:, i].detach(), float(q.stddev[0, i].detach())
        error = 6 * sd / math.sqrt(20_000)  # the extremes are of 150 noisy means
        assert one["means"]["least"] == pytest.approx(float(means.min()), abs=error)
        assert one["means"]["median"] == pytest.approx(float(means.quantile(0.5)), abs=error)
        assert one["means"]["greatest"] == pytest.approx(float(means.max()), abs=error)
        assert one["mean_sd"] == pytest.approx(sd, rel=0.01)


def test_the_units_of_the_largest_sd_are_named() -> None:
    scale = torch.ones(12, dtype=torch.double)
    scale[[4, 7, 9]] = torch.tensor([5.0, 4.0, 3.0], dtype=torch.double)

    def program(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 100.0), obs=x)

    (one,), _ = found(program, "prior", torch.zeros(12, dtype=torch.double))
    assert [unit["unit"] for unit in one["largest_sd"]] == ["4", "7", "9"]
    assert one["largest_sd"][0]["sd"] == pytest.approx(5, rel=0.1)
    (caption, heads, rows), = tables([one])
    assert caption == "Posterior means of 12 rows, and their sds"
    assert heads[-1] == "rows of the largest sd"
    assert rows[0][-1].startswith("4 (")


def test_up_to_ten_units_and_shared_latents_are_listed() -> None:
    x = zoo.dataset("eight_schools").x
    assert found(zoo.build("eight_schools", x), "prior", x, 50) == ([], [])
    assert "theta[Choate]" in said("eight_schools", "-g", "mean_field", "--draws", "50")


def test_groups_are_units_too_and_shared_latents_stay() -> None:
    text = said("hierarchical_regression", "-g", "mean_field", "--draws", "50")
    assert "Posterior means of 85 rows of plate 'group', and their sds" in text
    assert "coefficients[floor]" in text
    assert "mean[intercept]" in text
    assert "corr_cholesky[floor, intercept]" in text
    assert "offsets[0" not in text


def test_a_mixture_comes_first_then_counts_and_no_row_unless_asked() -> None:
    lines = said("gmm").splitlines()
    mixture = next(i for i, line in enumerate(lines) if line.split()[:2] == ["0", "0.3559"])
    counts = next(i for i, line in enumerate(lines) if line.split() == ["0", "96.8", "0.3559"])
    assert lines[0] == "θ" or lines[0].strip() == "θ"
    assert mixture < counts
    assert "z of 272 rows: mean entropy 0.003 nats of at most 0.693; most uncertain: 243 (" in "\n".join(lines)
    assert not [line for line in lines if line.startswith("z[")]
    assert len([line for line in said("gmm", "--all", "--draws", "20").splitlines() if line.startswith("z[")]) == 272


def test_json_has_theta_units_and_the_rest() -> None:
    whole = json.loads(said("gmm", "--json", "--draws", "20"))
    assert [one["name"] for one in whole["theta"]["parameters"]] == ["weights", "means", "sds", "covariances"]
    assert [one["variable"] for one in whole["units"]] == ["z"]
    assert whole["summary"] == {}
    every = json.loads(said("gmm", "--json", "--draws", "20", "--all"))
    assert (every["units"], len(every["summary"])) == ([], 272)


def test_numbers_stand_beside_their_labels_whatever_the_order_of_dimensions() -> None:
    values = np.arange(6.0).reshape(1, 1, 3, 2) + np.zeros((1, 20, 1, 1))
    tree = azb.from_dict(
        {"posterior": {"first": np.zeros((1, 20, 2)), "second": values}},
        dims={"first": ["column"], "second": ["group", "column"]})
    frame = summary_frame({str(name): one for name, one in tree["posterior"].data_vars.items()})
    assert frame["mean"].to_dict() == {
        "first[0]": 0, "first[1]": 0, **{f"second[{i}, {j}]": 2 * i + j for i in range(3) for j in range(2)}}
