"""Minibatches of the rows of a data set that is one unit."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.inference.svi.batches import random_units
from experiments.inference.svi.objectives import Estimation, stochastic_bound
from experiments.inference.svi.rows import rows_bound
from tests.programs import MeanFieldOptimum, hierarchical_normal, simulated
from zoo.data import take
from zoo.structure.blockwise import BlockDraws, Blockwise
from zoo.structure.rows import why_not_by_rows


def regression(x: dict[str, Tensor]) -> None:
    """Rows of which only the prior of the weights knows all."""
    weights = pyro.sample("weights", dist.Normal(x["X"].new_zeros(()), 1.0).expand([x["X"].shape[1]]).to_event(1))
    with pyro.plate("rows", len(x["y"])):
        pyro.sample("y", dist.Bernoulli(logits=x["X"] @ weights), obs=x["y"])


def mixture(x: Tensor) -> None:
    """Shared locations, and a class of each row that is summed out."""
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 3.0).to_event(1))
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(x.new_ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)


def table(rows: int, columns: int = 3, seed: int = 0) -> dict[str, Tensor]:
    with zoo.seeded(seed):
        X = torch.randn(rows, columns, dtype=torch.float64)
        weights = torch.linspace(-1.0, 1.0, columns, dtype=torch.float64)
        return {"X": X, "y": torch.bernoulli((X @ weights).sigmoid())}


def fixed(full: BlockDraws, index: Tensor) -> BlockDraws:
    return BlockDraws(full.shared, full.local[:, index], full.log_shared, full.log_local[:, index])


@pytest.mark.parametrize(("program", "x"), [(regression, table(60)), (mixture, simulated(60, 0))])
def test_the_mean_over_all_minibatches_is_the_elbo_of_all_rows(program: object, x: zoo.data.Data) -> None:
    model = zoo.as_model(program)
    assert why_not_by_rows(model, x) == ""
    guide, how = guides.build("full_rank", model, x), Estimation(3)
    model.latents(x)
    with zoo.seeded(1):
        whole = stochastic_bound(model, guide, x, None, 1, how).value
    parts = []
    for index in torch.randperm(60).split(12):
        batch = take(x, index, 60)
        model.runner.adopt(batch, 12)
        with zoo.seeded(1):
            parts.append(rows_bound(model, guide, batch, index, 60, how).value)
    assert float((torch.stack(parts).mean() - whole).detach().abs()) < 1e-10 * abs(float(whole.detach()))
    assert float(torch.stack(parts).detach().std()) > 1e-3  # each of them alone is not


@pytest.mark.parametrize("text", ["full_rank+mean_field", "full_rank+mean_field:encoder(shared=True)", "mean_field+mixture(2)"])
def test_the_mean_is_that_with_local_latents_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = simulated(60, 0)
    model = zoo.as_model(hierarchical_normal)
    guide, how = guides.build(text, model, x), Estimation(3)
    with zoo.seeded(1):
        drawn = guide.posterior(x).draw(3)
    z = guide.posterior(x).blocks.join(drawn.shared, drawn.local)
    whole = (model.log_joint(x, z) - guide.posterior(x).log_prob(z)).mean()
    parts = []
    for index in torch.randperm(60).split(12):
        batch = x[index]
        model.runner.adopt(batch, 12)
        monkeypatch.setattr(Blockwise, "draw", lambda self, draws, index=index: fixed(drawn, index))
        parts.append(rows_bound(model, guide, batch, index, 60, how).value)
    assert float((torch.stack(parts).mean() - whole).detach().abs()) < 1e-10 * abs(float(whole.detach()))


@pytest.mark.long
def test_a_fit_by_minibatches_comes_to_the_optimum() -> None:
    x = simulated(400, 1)
    fitted = experiments.fit(
        hierarchical_normal, "mean_field+mean_field", x, method="svi", batch_size=100, steps=1500, learning_rate=0.05,
        progress=False)
    elbo = experiments.log_weights(fitted.model, fitted.guide, x).elbo()
    assert MeanFieldOptimum(x).elbo - elbo.value < 0.5  # of 400 rows, from where the start is hundreds of nats below
    assert elbo.value < MeanFieldOptimum(x).elbo + 4 * elbo.se


def test_a_regression_by_minibatches_comes_near_the_fit_to_all_rows() -> None:
    x = table(3000)
    full = experiments.fit(regression, "full_rank", x, progress=False)
    parts = experiments.fit(regression, "full_rank", x, method="svi", batch_size=300, steps=400, progress=False)
    one, other = (experiments.log_weights(done.model, done.guide, x).elbo() for done in (full, parts))
    assert math.isfinite(one.value)
    assert one.value - other.value < 0.5 + 4 * (one.se + other.se)


def test_a_program_that_subsamples_is_served_by_the_engine() -> None:
    def own(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 3.0))
        with pyro.plate("rows", len(x), subsample_size=10) as index:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[index])

    x = simulated(60, 0)
    assert why_not_by_rows(zoo.as_model(own), x) == ""
    fitted = experiments.fit(own, "full_rank", x, method="svi", batch_size=20, steps=200, progress=False)
    assert abs(float(fitted.guide.posterior(x).mean.detach()) - float(x.mean())) < 0.2


def fixed_size(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 3.0))
    with pyro.plate("rows", 60):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def other_likelihood(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 3.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, x.std()), obs=x)  # which all rows have made


def no_plate(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 3.0))
    pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=x)


@pytest.mark.parametrize(("program", "text", "options", "match"), [
    (fixed_size, "full_rank", {}, "the program of fixed_size does not run on 5 of the 60 rows of plate 'rows'"),
    (other_likelihood, "full_rank", {}, "5 rows of plate 'rows' alone have other log-likelihoods than among all 60"),
    (no_plate, "full_rank", {}, "no plate of no_plate holds every observed site"),
    (hierarchical_normal, "full_rank", {}, "its rows own latents, .* use a guide shared\\+local"),
    (hierarchical_normal, "full_rank+mean_field", {"objective": "iwae"}, "minibatches of rows go with objective elbo alone"),
    (hierarchical_normal, "full_rank+mean_field", {"warm_up": 10}, "minibatches of rows go with warm_up 0 alone"),
])
def test_what_can_not_be_served_by_rows_says_why(program: object, text: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        experiments.fit(program, text, simulated(60, 0), method="svi", batch_size=20, progress=False, **options)


def test_the_right_result_comes_from_all_rows_where_nobody_asks_for_fewer() -> None:
    with zoo.seeded(0):
        x = torch.randn(1500, dtype=torch.float64)
    fitted = experiments.fit(other_likelihood, "full_rank", x, method="svi", steps=150, progress=False)
    assert abs(float(fitted.guide.posterior(x).mean.detach()) - float(x.mean())) < 0.05


def test_random_units_of_many_are_drawn_without_a_permutation_of_all() -> None:
    torch.manual_seed(0)
    few, many = random_units(50, 20), random_units(10**15, 20)  # a permutation of so many would not fit into memory
    assert len(few.unique()) == 20
    assert few.max() < 50
    assert many.shape == (20,)
    assert 0 <= int(many.min()) < int(many.max()) < 10**15
