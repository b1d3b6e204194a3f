"""Leave-one-out densities by ArviZ from the tree's likelihoods, against closed forms."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import arviz_stats as azs
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
from tests import ROOT

ONE = torch.ones((), dtype=torch.double)
GROUPS = ["posterior", "log_likelihood", "sample_stats"]


def regression(columns: int = 2, rows: int = 30) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 2, generator=generator, dtype=torch.double)
    return {"X": x[:, :columns], "y": x.sum(1) + 0.7 * torch.randn(rows, generator=generator, dtype=torch.double)}


def left_out(x: dict[str, Tensor]) -> Tensor:
    """Return log p(y_i | y_−i) of the conjugate regression: the evidence with row i over that without it."""
    def evidence(x: dict[str, Tensor]) -> Tensor:
        return zoo.build("linear_regression", x).log_evidence(x)[0]

    rows = torch.arange(len(x["y"]))
    return torch.stack([evidence(x) - evidence({name: value[rows != i] for name, value in x.items()}) for i in rows])


def loo(tree: Any, **more: Any) -> Any:
    stats = tree["sample_stats"]
    return azs.loo_approximate_posterior(tree, stats["log_p"], stats["log_q"], pointwise=True, **more)


def check_rows(found: Any, tree: Any, truth: Tensor) -> None:
    """Compare row by row, to 4.5 standard errors of the harmonic mean 1 / E[1 / p(y_i | z)]."""
    likelihood = torch.as_tensor(next(iter(tree["log_likelihood"].data_vars.values())).values[0])
    inverse = (-likelihood).exp()
    error = inverse.std(0) / inverse.mean(0) / len(inverse) ** 0.5
    assert bool(((torch.as_tensor(found.elpd_i.values) - truth).abs() < 4.5 * error + 1e-3).all())


@pytest.mark.parametrize("guide", ["exact", "full_rank"])
def test_linear_regression_leaves_rows_out_as_its_closed_form(guide: str) -> None:
    x = regression()
    fit = experiments.fit(zoo.build("linear_regression", x), guide, x)
    tree = experiments.posterior(fit.model, fit.guide, x, draws=2000, groups=GROUPS)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "rows")
    check_rows(loo(tree), tree, left_out(x))
    if guide == "exact":
        np.testing.assert_allclose(azs.loo(tree, pointwise=True).elpd_i, loo(tree).elpd_i, atol=0.02)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ's, of pandas
def test_a_column_that_matters_is_found() -> None:
    both, one = regression(2, 80), regression(1, 80)
    trees = {}
    for name, x in {"both": both, "one": one}.items():
        fit = experiments.fit(zoo.build("linear_regression", x), "exact", x)
        trees[name] = experiments.posterior(fit.model, fit.guide, x, draws=2000, groups=GROUPS)
    table = azs.compare(trees)
    assert list(table.index) == ["both", "one"]
    difference = left_out(both) - left_out(one)
    assert abs(table.loc["one", "elpd_diff"]) == pytest.approx(float(difference.sum()), abs=0.3)
    assert table.loc["one", "dse"] == pytest.approx(float(difference.std(unbiased=False)) * len(difference) ** 0.5, rel=0.05)
    assert not table["warning"].any()


def chain_of_two(x: Tensor) -> None:
    """u ~ N(0, 4), z_i ~ N(u, 1), x_i ~ N(z_i, 1), so that p(x_i | u) = N(u, 2)."""
    u = pyro.sample("u", dist.Normal(0 * ONE, 2.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(u, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class TestLocalLatents:
    X = 1 + 1.4 * torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.double)

    @pytest.mark.parametrize("guide", ["full_rank", "mean_field"])
    def test_integrated_out_they_leave_rows_out_as_the_closed_form(self, guide: str) -> None:
        fit = experiments.fit(chain_of_two, guide, self.X)
        tree = experiments.posterior(fit.model, fit.guide, self.X, groups=GROUPS, local_draws=64)
        u = torch.as_tensor(tree["posterior"]["u"].values[0])
        error = torch.as_tensor(tree["log_likelihood"]["x"].values[0]) - dist.Normal(u[:, None], 2**0.5).log_prob(self.X)
        deviation = error.std()  # of one integral; their mean is at −deviation² / 2, by Jensen's inequality
        assert float(deviation) < 0.1
        bias = float(error.mean() + 0.5 * deviation**2)
        assert abs(bias) < 4.5 * float(deviation) / error.numel() ** 0.5 + float(deviation) ** 3
        if guide == "full_rank":
            covariance = 4 + 2 * torch.eye(30).double()
            inverse = torch.linalg.inv(covariance)
            variance = 1 / inverse.diagonal()
            truth = dist.Normal(self.X - variance * (inverse @ self.X), variance.sqrt()).log_prob(self.X)
            check_rows(loo(tree), tree, truth)
            assert float(loo(tree).pareto_k.max()) < 0.7

    def test_conditional_likelihoods_are_those_of_the_draws(self) -> None:
        fit = experiments.fit(chain_of_two, "full_rank", self.X)
        tree = experiments.posterior(fit.model, fit.guide, self.X, draws=10, groups=GROUPS)
        z = torch.as_tensor(tree["posterior"]["z"].values[0])
        np.testing.assert_allclose(tree["log_likelihood"]["x"].values[0], dist.Normal(z, 1.0).log_prob(self.X))

    def test_latents_of_several_sites_and_supports(self) -> None:
        """A gamma and a normal of each row; p(x_i | u) by quadrature."""
        def program(x: Tensor) -> None:
            u = pyro.sample("u", dist.Normal(0 * ONE, 1.0))
            with pyro.plate("rows", len(x)):
                scale = pyro.sample("scale", dist.Gamma(3 * ONE, 3.0))
                place = pyro.sample("place", dist.Normal(u, 1.0))
                pyro.sample("x", dist.Normal(place, scale), obs=x)

        x = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.double)
        fit = experiments.fit(program, "full_rank", x)
        tree = experiments.posterior(fit.model, fit.guide, x, draws=100, groups=GROUPS, local_draws=256)
        u = torch.as_tensor(tree["posterior"]["u"].values[0])
        scale = torch.linspace(1e-4, 8, 4001, dtype=torch.double)  # place is integrated in closed form
        density = dist.Normal(u[:, None, None], (1 + scale**2).sqrt()).log_prob(x[:, None])
        truth = (density + dist.Gamma(3 * ONE, 3.0).log_prob(scale)).logsumexp(-1) + (scale[1] - scale[0]).log()
        error = torch.as_tensor(tree["log_likelihood"]["x"].values[0]) - truth
        assert bool((error.mean(0).abs() < 4.5 * error.std(0) / 10 + error.var(0)).all())
        assert float(error.std()) < 0.15

    def test_few_draws_are_told(self) -> None:
        fit = experiments.fit(chain_of_two, "full_rank", self.X)
        with pytest.warns(zoo.ZooWarning, match=r"integrals over the local latents of 30 rows hang on few draws, e\.g\. row 0"):
            experiments.posterior(fit.model, fit.guide, self.X + 40, draws=50, groups=["log_likelihood"], local_draws=32)

    @pytest.mark.parametrize(("name", "data", "draws", "message"), [
        ("linear_regression", "diabetes", 8, "expected rows of linear_regression with latents of their own beside shared ones"),
        ("ppca", "wine", 8, "expected rows of ppca with latents of their own"),
        ("eight_schools", "eight_schools", -1, "expected 1 or more local_draws; got -1")])
    def test_refusals(self, name: str, data: str, draws: int, message: str) -> None:
        x = zoo.dataset(data, "table" if name == "ppca" else None if name == "eight_schools" else "regression").x
        with pytest.raises(zoo.ZooError, match=message):
            experiments.posterior(zoo.build(name, x), "prior", x, draws=5, groups=["log_likelihood"], local_draws=draws)


def test_discrete_latents_of_rows_are_summed_out_of_their_likelihoods() -> None:
    def mixture(x: Tensor) -> None:
        means = pyro.sample("means", dist.Normal(torch.zeros(2).double(), 3.0).to_event(1))
        with pyro.plate("rows", len(x)):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7]).double()))
            pyro.sample("x", dist.Normal(means[kind], 1.0), obs=x)

    x = torch.cat([torch.randn(12) - 4, torch.randn(20) + 4]).double()
    fit = experiments.fit(mixture, "mean_field", x)
    tree = experiments.posterior(fit.model, fit.guide, x, draws=200, groups=GROUPS)
    means = torch.as_tensor(tree["posterior"]["means"].values[0])
    logs = torch.tensor([0.3, 0.7]).double().log() + dist.Normal(means[:, None], 1.0).log_prob(x[:, None])
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values[0], logs.logsumexp(-1))
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "rows")
    assert not loo(tree).warning


@pytest.mark.long
def test_the_examples_of_the_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "comparing_models.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error::zoo.errors.ZooWarning", "-c", "\n".join(blocks)], capture_output=True, text=True,
        timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"negative_binomial\s+0 .*\npoisson\s+1 ", done.stdout)
