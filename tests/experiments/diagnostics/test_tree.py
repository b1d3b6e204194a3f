"""The posterior tree: what ArviZ needs of it."""

from __future__ import annotations

import arviz_base as azb
import arviz_stats as azs
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo

X = torch.tensor([2.0, 3.0, 4.0, 7.0], dtype=torch.double)
ZERO = torch.zeros((), dtype=torch.double)

COIN = torch.tensor([1.0, 1.0, 0.0, 1.0])


def coin(x: torch.Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def test_groups_names_and_dimensions() -> None:
    data = zoo.dataset("eight_schools")
    model = zoo.build("eight_schools", data.x)
    guide = experiments.fit(model, "full_rank", data.x).guide
    tree = experiments.posterior(model, guide, data.x, draws=300, coords={"school": data.rows})
    assert set(tree.children) == {
        "posterior", "prior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data", "constant_data"}
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")
    assert tree["posterior"]["theta"].coords["school"].values[0] == "Choate"
    assert bool((tree["posterior"]["tau"] > 0).all())
    assert tree["observed_data"]["y"].dims == tree["constant_data"]["sigma"].dims == ("school",)
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["log_weight"], stats["log_p"] - stats["log_q"])
    values = {k: torch.as_tensor(tree["posterior"][k].values[0]) for k in ("mu", "tau", "eta")}
    np.testing.assert_allclose(stats["log_p"].values[0], model.log_joint(data.x, model.unconstrain(data.x, values))[:, 0])


def test_arviz_takes_the_tree(tmp_path: object) -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    tree = experiments.posterior(model, experiments.fit(model, "full_rank", x).guide, x, draws=2000)
    summary = azs.summary(tree, kind="stats", round_to="none")
    assert summary.loc["mu", "mean"] == pytest.approx(4.4, abs=0.5)
    stats = tree["sample_stats"]
    with np.errstate(all="ignore"), pytest.warns(UserWarning, match="Estimated shape parameter"):
        loo = azs.loo_approximate_posterior(tree, stats["log_p"], stats["log_q"], var_name="y")
    assert float(loo.elpd) == pytest.approx(-30.7, abs=1.0)  # the reference for this model and data by MCMC
    path = f"{tmp_path}/tree.nc"
    tree.to_netcdf(path)
    again = azb.from_netcdf(path) if hasattr(azb, "from_netcdf") else azb.convert_to_datatree(path)
    np.testing.assert_array_equal(again["posterior"]["mu"], tree["posterior"]["mu"])
    again.close()


def test_units_of_rows_have_their_own_weights() -> None:
    data = zoo.dataset("faithful")
    model = zoo.build("gmm", data.x)
    tree = experiments.posterior(model, "exact", data.x, draws=50, coords={"column": data.columns})
    assert tree["sample_stats"]["log_weight"].dims == ("chain", "draw", "rows")
    assert tree["posterior"]["z"].dtype.kind == "i"
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "rows", "column")
    share = float((tree["posterior"]["z"] == 0).mean())
    assert share == pytest.approx(float(model.posterior(data.x).probs[:, 0].mean().detach()), abs=0.02)


def test_marginalised_assignments_are_recovered() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("bayesian_gmm", x)
    guide = experiments.fit(model, "mean_field", x).guide
    tree = experiments.posterior(model, guide, x, draws=100, groups=["posterior"])
    probs = tree["posterior"]["responsibilities"]
    assert probs.dims == ("chain", "draw", "rows", "component")
    np.testing.assert_allclose(probs.sum("component"), 1)
    mixture = zoo.build("gmm", x)
    experiments.fit(mixture, "exact", x)
    hard = mixture.posterior(x).probs.argmax(1).numpy()
    ours = probs.mean(("chain", "draw")).values.argmax(1)
    agree = (hard == ours).mean()
    assert max(agree, 1 - agree) > 0.98


def test_a_bare_program_of_float32_works_throughout() -> None:
    table = experiments.compare(coin, COIN, guides=["mean_field", "full_rank"], seed=0)
    tree = experiments.posterior(table.model, table.guide("full_rank"), COIN)
    assert float(tree["posterior"]["p"].mean()) == pytest.approx(5 / 8, abs=0.03)
    assert bool(tree["posterior_predictive"]["x"].isin([0, 1]).all())
    frame = table.to_frame()
    assert list(frame.index) == ["mean_field", "full_rank"]
    assert {"elbo", "elbo_se", "elbo_per_unit", "kl_gap_lower", "kl_gap_upper", "khat", "ess", "seconds"} <= set(frame.columns)
    assert frame.loc["full_rank", "elbo"] == pytest.approx(table.rows[1].evaluation.elbo.value)
    assert "KL(q‖posterior)" in str(table)


def test_bad_requests_are_refused() -> None:
    guide = guides.build("mean_field", zoo.as_model(coin), COIN)
    with pytest.raises(zoo.ZooError, match="unknown group 'posteriors'"):
        experiments.posterior(guide.model, guide, COIN, groups=["posteriors"])
    with pytest.raises(zoo.ZooError, match="expected 1 or more draws; got 0"):
        experiments.posterior(guide.model, guide, COIN, draws=0)
    with pytest.raises(zoo.ZooError, match="expected 4 labels of dimension 'rows'; got 2"):
        experiments.posterior(guide.model, guide, COIN, draws=5, coords={"rows": ["a", "b"]})


def test_a_program_without_a_plate_has_a_tree() -> None:
    def plain(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    guide = experiments.fit(plain, "mean_field", X).guide
    tree = experiments.posterior(guide.model, guide, X, draws=10)
    assert tree["log_likelihood"]["x"].shape == (1, 10, 4)


def schools_of_a_frame(x: dict[str, Tensor]) -> None:
    mu = pyro.sample("mu", dist.Normal(ZERO, 1.0))
    with pyro.plate("school", len(x["y"])):
        theta = pyro.sample("theta", dist.Normal(mu, 100.0))
        pyro.sample("y", dist.Normal(theta, 0.1), obs=x["y"])


def test_rows_are_labelled_in_their_own_order() -> None:
    frame = pd.DataFrame({"school": ["b", "a", "c"], "y": [10.0, -10.0, 0.0]})
    fit = experiments.fit(schools_of_a_frame, "mean_field", frame)
    tree = experiments.posterior(fit.model, fit.guide, frame, draws=20, groups=["posterior", "observed_data"])
    assert tree["observed_data"]["y"].sel(school="b") == 10
    assert float(tree["posterior"]["theta"].sel(school="a").mean()) == pytest.approx(-10, abs=1)


def test_observations_whose_sites_are_called_otherwise_are_in_the_tree() -> None:
    """A program's arguments need not be called like its sites; what is observed is no constant, and can be checked."""
    def coin(heads: Tensor, trials: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("rows", len(heads)):
            pyro.sample("seen", dist.Binomial(trials, p), obs=heads)

    data = {"heads": torch.tensor([3.0, 7.0, 5.0]), "trials": torch.tensor([10.0, 10.0, 10.0])}
    done = experiments.fit(coin, "mean_field", data)
    tree = experiments.posterior(done.model, done.guide, data, draws=20)
    assert tree["observed_data"]["seen"].values.tolist() == [3.0, 7.0, 5.0]
    assert list(tree["constant_data"].data_vars) == ["trials"]
    assert tree["posterior_predictive"]["seen"].shape == (1, 20, 3)
