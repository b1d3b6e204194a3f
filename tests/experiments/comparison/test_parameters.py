"""The posterior of each quantity by each guide, beside a reference."""

from __future__ import annotations

import json
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import experiments
import zoo
from experiments.cli.app import app
from experiments.comparison.parameters import Parameters
from zoo.errors import ZooError

RHO = 0.8


def correlated(x: Tensor) -> None:
    """A normal posterior of correlation ρ: mean field's deviations are (1 − ρ²)^½ of what they should be."""
    z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), torch.tensor([[1.0, RHO], [RHO, 1.0]]).to(x)))
    pyro.sample("x", dist.Normal(z.sum(), 100.0), obs=x)


def compared(*guides: str) -> Parameters:
    x = torch.tensor(0.0, dtype=torch.float64)
    found = experiments.compare(correlated, x, guides=list(guides), progress=False).parameters()
    assert found is not None
    return found


def test_deviations_of_mean_field_are_too_small_by_the_known_factor() -> None:
    found = compared("mean_field", "full_rank")
    assert found.reference == "importance-corrected draws of 'full_rank'"
    by = {(q.guide, q.name): q for q in found.quantities}
    for name in ("z[0]", "z[1]"):
        ratio, se = by["mean_field", name].ratio
        assert abs(ratio - math.sqrt(1 - RHO**2)) < 4 * se
        assert se < 0.03
        ratio, se = by["full_rank", name].ratio
        assert abs(ratio - 1) < 4 * se
        ratio, se = by["mean_field, linear response", name].ratio
        assert abs(ratio - 1) < 4 * se
        error, se = by["mean_field", name].error
        assert abs(error) < 4 * se
    worst = found.worst()
    assert {(q.guide, q.name) for q in worst} == {("mean_field", "z[0]"), ("mean_field", "z[1]")}
    [line] = found.told()
    assert re.fullmatch(
        r"'mean_field': sd of z\[\d\] 0\.\d\d, z\[\d\] 0\.\d\d times what it should be "
        r"\(against importance-corrected draws of 'full_rank'\)", line)
    assert found.to_frame().loc[("mean_field", "z[0]"), "sd_ratio"] == by["mean_field", "z[0]"].ratio[0]


def test_the_exact_posterior_is_the_reference_where_it_is_known() -> None:
    x = zoo.dataset("wine", standardise=True).x
    table = experiments.compare(zoo.build("ppca", x), x, guides=["full_rank"], progress=False)
    found = table.parameters()
    assert found is not None
    assert found.reference == "the exact posterior"
    assert len(found.quantities) == 178 * 2
    # 356 quantities: none is off by much more than noise.
    assert max(abs(q.error[0]) / q.error[1] for q in found.quantities) < 5
    assert not found.worst()


def test_the_table_has_the_worst_five() -> None:
    x = torch.tensor(0.0, dtype=torch.float64)
    text = str(experiments.compare(correlated, x, guides=["mean_field", "full_rank"], progress=False))
    assert re.search(r"^'mean_field': sd of z\[\d\] 0\.\d\d", text, re.MULTILINE)
    prior = str(experiments.compare(correlated, x, guides=["prior", "full_rank"], progress=False))
    assert "'prior': sd" not in prior  # a guide without parameters is what it is


def test_guides_with_models_of_their_own_have_no_common_parameters() -> None:
    x = zoo.dataset("iris").x
    table = experiments.compare(
        zoo.build("ppca", x), x, guides=["mean_field", "full_rank"], train_model=True, steps=20, progress=False)
    with pytest.raises(ZooError, match="expected one θ for a comparison of parameters"):
        table.parameters()


def test_discrete_latents_have_no_moments() -> None:
    x = zoo.dataset("faithful").x
    assert experiments.compare(zoo.build("gmm", x), x, guides=["exact"], progress=False).parameters() is None


def test_the_command_line_prints_them() -> None:
    words = ["compare", "eight_schools", "-g", "full_rank", "--no-save", "--parameters"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert "each quantity, against " in done.stdout
    assert "theta[7]" in done.stdout
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["parameters"]
    assert {"guide", "quantity", "mean", "sd", "error", "sd_ratio"} < set(found["quantities"][0])
