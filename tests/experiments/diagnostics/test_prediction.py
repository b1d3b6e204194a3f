"""Predictions of new rows and groups against closed forms, and where their latents come from."""

from __future__ import annotations

import copy
from typing import Any

import arviz_stats as azs
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import experiments
import guides
import zoo

ONE = torch.ones((), dtype=torch.double)
DRAWS = 1000
Rows = dict[str, Tensor]


def rows_of(count: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator, dtype=torch.double)
    return {"X": x, "y": x @ torch.tensor([1.0, -1.0]).double() + 0.4 * torch.randn(count, generator=generator).double()}


def check_moments(drawn: Any, mean: Tensor, variance: Tensor) -> None:
    """Compare with means and variances to 4.5 standard errors, those of a normal."""
    drawn = torch.as_tensor(drawn.values[0])
    assert bool(((drawn.mean(0) - mean).abs() < 4.5 * (variance / len(drawn)).sqrt()).all())
    assert bool(((drawn.var(0) - variance).abs() < 4.5 * variance * (2 / len(drawn)) ** 0.5).all())


@pytest.fixture(scope="module")
def line() -> experiments.Fit:
    x = rows_of(40)
    return experiments.fit(zoo.build("linear_regression", x), "exact", x)


class TestRegression:
    """Latents outside of plates: from the guide."""

    def test_new_rows_have_the_closed_form(self, line: experiments.Fit) -> None:
        """y* ~ Student-t of 2a degrees of freedom about x*ᵀm, of squared scale b/a (1 + x*ᵀ Λ⁻¹ x*)."""
        new = rows_of(5, seed=1)["X"]
        tree = experiments.predict(line.model, line.guide, {"X": new}, draws=DRAWS)
        q, phi = line.model.posterior(line.guide.fitted), torch.cat([torch.ones(5, 1).double(), new], 1)  # type: ignore[arg-type]
        a, b = q.concentration[0], q.rate[0]  # type: ignore[attr-defined]
        spread = torch.cholesky_solve(phi.mT, q.precision_factor[0])  # type: ignore[attr-defined]
        scale = (b / a * (1 + (phi.mT * spread).sum(0))).sqrt()
        student = dist.StudentT(2 * a, phi @ q.loc[0], scale)  # type: ignore[attr-defined]
        check_moments(tree["predictions"]["y"], student.mean, student.variance)
        assert tree["predictions"]["y"].dims == ("chain", "draw", "rows")
        assert tree["predictions_constant_data"]["X"].dims == ("rows", "X_dim_0")
        assert tree["predictions"].attrs["from_prior"] == ""
        assert set(tree["predictions"].data_vars) == {"y"}
        assert len(azs.summary(tree, group="predictions", kind="stats", round_to="none")) == 5

    @pytest.mark.parametrize("y", [None, torch.full((5,), torch.nan), torch.arange(5.0)], ids=["None", "NaN", "numbers"])
    def test_observations_of_any_kind_make_no_difference(self, line: experiments.Fit, y: Tensor | None) -> None:
        new = rows_of(5, seed=1)["X"]
        without = experiments.predict(line.model, line.guide, {"X": new}, draws=3)
        tree = experiments.predict(line.model, line.guide, {"X": new.float().double(), "y": y}, draws=3)
        np.testing.assert_allclose(tree["predictions"]["y"], without["predictions"]["y"], rtol=1e-5)
        assert "y" not in tree["predictions_constant_data"]

    def test_stock_predictive_agrees(self) -> None:
        x, new = rows_of(40), rows_of(5, seed=1)
        fit = experiments.fit(zoo.build("linear_regression", x), "full_rank", x)
        with zoo.seeded(1):
            stock = Predictive(poutine.uncondition(fit.model), guide=fit.guide, num_samples=200)(new)["y"]
        drawn = torch.as_tensor(experiments.predict(fit.model, fit.guide, new, draws=200)["predictions"]["y"].values[0])
        error = (drawn.var(0) / 200 + stock.var(0) / 200).sqrt()
        assert bool(((drawn.mean(0) - stock.mean(0)).abs() < 4.5 * error).all())
        assert bool((drawn.var(0).log() - stock.var(0).log()).abs().max() < 4.5 * (4 / 200) ** 0.5)

    def test_other_columns_are_refused(self, line: experiments.Fit) -> None:
        with pytest.raises(zoo.ZooError, match=r"expected latent 'weights' as it was fitted, \(3,\) .*; got \(2,\)"):
            experiments.predict(line.model, line.guide, {"X": rows_of(5)["X"][:, :1]})

    def test_prior_predictions_need_no_fit(self) -> None:
        x = rows_of(3)
        tree = experiments.predict(zoo.build("linear_regression", x), "prior", {**x, "X": 0 * x["X"]}, draws=20)
        assert tree["predictions"]["weights"].shape == (1, 20, 3)
        assert tree["predictions"].attrs["from_prior"] == "variance; weights"


def levels(x: Any) -> None:
    """Homes in counties: a level of each county, in a plate of its own."""
    mu = pyro.sample("mu", dist.Normal(0 * ONE, 3.0))
    with pyro.plate("counties", int(x["county"].max()) + 1):
        level = pyro.sample("level", dist.Normal(mu, 2.0))
    with pyro.plate("homes", len(x["county"])):
        mean = pyro.deterministic("mean", level[x["county"]])
        pyro.sample("y", dist.Normal(mean, 0.5), obs=x.get("y"))


def normal_posterior(county: Tensor, y: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of (mu, levels) given the homes."""
    prior = torch.full((groups + 1, groups + 1), 9.0).double() + torch.diag(torch.tensor([0.0] + [4.0] * groups)).double()
    seen = prior[1 + county][:, 1 + county] + 0.25 * torch.eye(len(y)).double()
    gain = prior[:, 1 + county] @ torch.linalg.inv(seen)
    return gain @ y, prior - gain @ prior[1 + county]


FRAME = pd.DataFrame({"county": ["b", "d", "b", "c"], "y": [1.0, 5.0, 1.5, -2.0]})


@pytest.fixture(scope="module")
def homes() -> experiments.Fit:
    return experiments.fit(levels, "full_rank", FRAME)


class TestGroups:
    """Latents in plates beside the rows': of the guide as far as the groups were fitted."""

    def test_words_find_their_groups_and_new_ones_have_levels_of_the_prior(self, homes: experiments.Fit) -> None:
        new = pd.DataFrame({"county": ["d", "a", "b"]})
        tree = experiments.predict(homes.model, homes.guide, new, draws=DRAWS)
        county, y = torch.tensor([0, 2, 0, 1]), torch.tensor(FRAME["y"].to_numpy())
        mean, covariance = normal_posterior(county, y, 3)
        expected = torch.stack([mean[3], mean[0], mean[1]])
        variance = torch.stack([covariance[3, 3], covariance[0, 0] + 4.0, covariance[1, 1]])
        check_moments(tree["predictions"]["mean"], expected, variance)
        check_moments(tree["predictions"]["y"], expected, variance + 0.25)
        assert tree["predictions"].attrs["from_prior"] == "level (1 of 4 along counties)"
        assert tree["predictions"]["level"].coords["counties"].values.tolist() == ["b", "c", "d", "a"]
        assert tree["predictions"]["y"].dims == ("chain", "draw", "homes")

    def test_codes_find_their_groups_by_place(self, homes: experiments.Fit) -> None:
        """A fitted group and one beyond the last, from data that are no frame; fewer groups than there were draw none."""
        tree = experiments.predict(homes.model, homes.guide, {"county": torch.tensor([2, 3])}, draws=5)
        assert tree["predictions"].attrs["from_prior"] == "level (1 of 4 along counties)"
        one = experiments.predict(homes.model, homes.guide, {"county": torch.tensor([0])}, draws=5)
        assert one["predictions"].attrs["from_prior"] == ""
        with zoo.seeded(0):
            z = homes.guide.posterior(homes.guide.fitted).sample((5,))  # type: ignore[arg-type]
        level = homes.model.constrain(homes.guide.fitted, z)["level"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(one["predictions"]["mean"].values[0, :, 0], level[:, 0])
        np.testing.assert_array_equal(tree["predictions"]["mean"].values[0, :, 0], level[:, 2])

    def test_a_plate_of_fixed_size_has_no_new_groups(self) -> None:
        def fixed(x: Any) -> None:
            with pyro.plate("counties", 3):
                level = pyro.sample("level", dist.Normal(0 * ONE, 2.0))
            with pyro.plate("homes", len(x["county"])):
                pyro.sample("y", dist.Normal(level[x["county"]], 0.5), obs=x.get("y"))

        fit = experiments.fit(fixed, "mean_field", FRAME)
        with pytest.raises(zoo.ZooError, match=r"expected data that the program of fixed runs on; .*index 3 is out of bounds"):
            experiments.predict(fit.model, fit.guide, pd.DataFrame({"county": ["a"]}))


def chain_of_two(x: Tensor) -> None:
    """u ~ N(0, 4), z_i ~ N(u, 1), x_i ~ N(z_i, 1)."""
    u = pyro.sample("u", dist.Normal(0 * ONE, 2.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(u, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


X = torch.tensor([1.0, 3.0, 2.5, -0.5], dtype=torch.double)


@pytest.fixture(scope="module")
def two() -> experiments.Fit:
    return experiments.fit(chain_of_two, "full_rank", X)


class TestRows:
    """Latents in the observations' plate: of the prior, since the rows are new."""

    def test_new_rows_have_latents_of_the_prior_given_the_shared_ones(self, two: experiments.Fit) -> None:
        tree = experiments.predict(two.model, two.guide, torch.full((3,), torch.nan).double(), draws=DRAWS)
        precision = 1 / 4 + len(X) / 2
        mean, variance = X.sum() / 2 / precision, torch.tensor(1 / precision).double()
        check_moments(tree["predictions"]["z"], mean.expand(3), (variance + 1).expand(3))
        check_moments(tree["predictions"]["x"], mean.expand(3), (variance + 2).expand(3))
        together = np.corrcoef(tree["predictions"]["z"].values[0].T)  # the rows share u
        assert together[0, 1] == pytest.approx(float(variance / (variance + 1)), abs=4.5 / DRAWS**0.5)
        assert tree["predictions"].attrs["from_prior"] == "z (3 of 3 along rows)"

    def test_the_same_rows_have_theirs_of_the_guide(self, two: experiments.Fit) -> None:
        tree = experiments.predict(two.model, two.guide, torch.zeros(5).double(), draws=DRAWS, same=["rows"])
        precision = 1 / 4 + len(X) / 2
        level, variance = X.sum() / 2 / precision, 1 / precision
        check_moments(tree["predictions"]["x"][..., :4], 0.5 * (level + X), torch.full((4,), 1.5 + variance / 4).double())
        check_moments(tree["predictions"]["x"][..., 4:], level[None], torch.full((1,), 2 + variance).double())
        assert tree["predictions"].attrs["from_prior"] == "z (1 of 5 along rows)"

    def test_rows_that_have_words_are_found_by_them(self) -> None:
        def schools(x: Any) -> None:
            mu = pyro.sample("mu", dist.Normal(0 * ONE, 5.0))
            with pyro.plate("school", len(x["sigma"])):
                theta = pyro.sample("theta", dist.Normal(mu, 20.0))
                pyro.sample("y", dist.Normal(theta, x["sigma"]), obs=x.get("y"))

        seen = pd.DataFrame({"school": ["b", "c", "a"], "sigma": [0.1, 0.1, 0.1], "y": [20.0, -20.0, 0.0]})
        fit = experiments.fit(schools, "mean_field", seen)
        new = pd.DataFrame({"school": ["c", "d", "b"], "sigma": [0.1, 0.1, 0.1]})
        tree = experiments.predict(fit.model, fit.guide, new, draws=400)
        assert float(tree["predictions"]["y"].sel(school="c").mean()) == pytest.approx(-20, abs=0.1)
        assert float(tree["predictions"]["y"].sel(school="b").mean()) == pytest.approx(20, abs=0.1)
        assert 15 < float(tree["predictions"]["y"].sel(school="d").std()) < 25
        assert tree["predictions"].attrs["from_prior"] == "theta (1 of 3 along school)"

    @pytest.mark.parametrize("guide", ["mean_field", "mean_field:encoder", "exact"])
    def test_rows_that_own_their_latents(self, guide: str) -> None:
        """Complete rows are reconstructed by an amortised guide; any other draws latents from the prior."""
        x = zoo.dataset("wine", standardise=True).x
        assert isinstance(x, Tensor)
        model = zoo.build("ppca", x)
        experiments.fit(model, "exact", x)
        fit = experiments.fit(model, guide, x, train_model=False, **({"steps": 50} if "encoder" in guide else {}))
        complete = experiments.predict(model, fit.guide, x[:3], draws=DRAWS)
        left_out = experiments.predict(model, fit.guide, torch.full_like(x[:3], torch.nan), draws=DRAWS)
        loadings, noise = model.theta()["loadings"], model.theta()["variance"]
        marginal = loadings.square().sum(1) + noise
        check_moments(left_out["predictions"]["x"][..., 0, :], model.theta()["loc"], marginal)
        assert left_out["predictions"].attrs["from_prior"].startswith("z")
        if guide == "mean_field":
            assert complete["predictions"].attrs["from_prior"].startswith("z")
            return
        assert complete["predictions"].attrs["from_prior"] == ""
        with zoo.seeded(1):
            z = fit.guide.posterior(x[:3]).sample((DRAWS,))
        expected = model.constrain(x[:3], z)["z"]
        check_moments(complete["predictions"]["x"][..., 1, :], (model.theta()["loc"] + expected @ loadings.mT).mean(0)[1],
                      (expected @ loadings.mT).var(0)[1] + noise)


def mixture(x: Tensor) -> None:
    """Two known kinds of rows, of an unknown share, and an unknown place of the second kind."""
    share = pyro.sample("share", dist.Beta(2 * ONE, 2 * ONE))
    place = pyro.sample("place", dist.Normal(5 * ONE, 1.0))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Bernoulli(share))
        pyro.sample("x", dist.Normal(kind * place, 0.5), obs=x)


def walk_of_kinds(x: Tensor) -> None:
    """A hidden Markov model, whose observations after the last one are to be forecast."""
    level = pyro.sample("level", dist.Normal(3 * ONE, 0.5))
    stay, state = torch.tensor([[0.95, 0.05], [0.05, 0.95]]).double(), torch.tensor(0)
    for t in pyro.markov(range(len(x))):
        state = pyro.sample(f"state_{t}", dist.Categorical(stay[state]), infer={"enumerate": "parallel"})
        pyro.sample(f"x_{t}", dist.Normal(state * level, 0.3), obs=x[t])


class TestDiscrete:
    """Discrete latents that are summed out: drawn anew for new rows, from their posterior for fitted ones."""

    def test_new_rows_are_of_kinds_by_their_share(self) -> None:
        x = torch.tensor([0.1, -0.3, 5.2, 4.9, 5.1, 0.2, 5.3, 4.8], dtype=torch.double)
        fit = experiments.fit(mixture, "full_rank", x)
        tree = experiments.predict(fit.model, fit.guide, torch.full((2,), torch.nan), draws=400)
        with zoo.seeded(0):
            share = fit.model.constrain(x, fit.guide.posterior(x).sample((400,)))["share"].mean()
        kinds = tree["predictions"]["kind"].values
        assert kinds.mean() == pytest.approx(float(share), abs=4.5 * (0.25 / 800) ** 0.5)
        assert tree["predictions"]["x"].values[kinds == 1].mean() == pytest.approx(5, abs=0.3)
        again = experiments.predict(fit.model, fit.guide, x, draws=20, same=["rows"])
        assert again["predictions"].attrs["from_prior"] == ""
        assert bool((again["predictions"]["x"].values[..., [0, 1, 5]] < 2.5).all())

    def test_a_chain_goes_on_from_its_last_state(self) -> None:
        x = torch.tensor([0.1, -0.1, 0.2, 3.1, 2.9, 3.0], dtype=torch.double)
        fit = experiments.fit(walk_of_kinds, "mean_field", x)
        later = torch.cat([x, torch.full((2,), torch.nan).double()])
        tree = experiments.predict(fit.model, fit.guide, later, draws=400)["predictions"]
        assert {"state_6", "state_7", "x_0", "x_7"} <= set(tree.data_vars)
        assert tree.attrs["from_prior"] == "state_6; state_7"
        assert float(tree["state_6"].mean()) == pytest.approx(0.95, abs=4.5 * (0.95 * 0.05 / 400) ** 0.5)
        stayed = 0.95**2 + 0.05**2
        assert float(tree["state_7"].mean()) == pytest.approx(stayed, abs=4.5 * (stayed * (1 - stayed) / 400) ** 0.5)


def rates(x: Any, y: Any = None, width: float = 1.0) -> None:
    """Counts; several arguments, one of them a setting."""
    rate = pyro.sample("rate", dist.LogNormal(0 * ONE, width))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson(rate * x), obs=y)


class TestData:
    def test_arguments_and_settings_are_those_of_the_fit(self) -> None:
        x, y = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 3.0, 7.0]).double()
        fit = experiments.fit(rates, "mean_field", {"x": x, "y": y, "width": 0.01})
        tree = experiments.predict(fit.model, fit.guide, np.array([100.0], dtype=np.float32), draws=200)
        assert tree["predictions"]["y"].dims == ("chain", "draw", "rows")
        assert tree["predictions_constant_data"]["x"].values.tolist() == [100.0]
        prior = experiments.predict(fit.model, "prior", x, draws=200, fitted=(x, y, 0.01))
        assert float(prior["predictions"]["rate"].std()) < 0.02

    def test_counts_are_left_out_too(self) -> None:
        def counted(x: Any) -> None:
            rate = pyro.sample("rate", dist.LogNormal(0 * ONE, 1.0))
            with pyro.plate("rows", x["y"].shape[0]):
                pyro.deterministic("error", x["y"] - rate * x["x"])
                pyro.sample("y", dist.Poisson(rate * x["x"]), obs=x["y"])

        x = {"x": torch.tensor([1.0, 2.0]).double(), "y": torch.tensor([3, 3])}
        fit = experiments.fit(counted, "mean_field", x)
        tree = experiments.predict(fit.model, fit.guide, {"x": torch.ones(5)}, draws=50)
        assert set(tree["predictions"].data_vars) == {"y"}  # what hangs on the counts that are missing is unknown
        assert tree["predictions"]["y"].shape == (1, 50, 5)

    def test_a_program_that_reads_its_observations_elsewhere_needs_them(self) -> None:
        def lagged(x: Any) -> None:
            slope = pyro.sample("slope", dist.Normal(0 * ONE, 1.0))
            with pyro.plate("rows", len(x["y"]) - 1):
                pyro.sample("y", dist.Normal(slope * x["y"][:-1], 1.0), obs=x["y"][1:])

        x = {"y": torch.tensor([1.0, 0.5, 0.3, 0.1]).double()}
        fit = experiments.fit(lagged, "mean_field", x)
        with pytest.raises(zoo.ZooError, match="expected 'y' in x, which lagged reads for more than its observations"):
            experiments.predict(fit.model, fit.guide, {"y": torch.full((3,), torch.nan)})
        assert experiments.predict(fit.model, fit.guide, x, draws=5)["predictions"]["y"].shape == (1, 5, 3)

    def test_pyros_own_guides_and_loaded_runs_remember_their_data(self, tmp_path: Any) -> None:
        x = {"x": torch.tensor([1.0, 2.0]).double(), "y": torch.tensor([3.0, 3.0]).double()}
        fit = experiments.fit(rates, AutoMultivariateNormal, x, steps=20)
        assert experiments.predict(fit.model, fit.guide, torch.ones(4), draws=5)["predictions"]["y"].shape == (1, 5, 4)
        spec = experiments.Spec.of(command="fit", model="linear_regression", data="diabetes", guides=("exact",))
        experiments.run(spec, tmp_path / "run", experiments.RunOptions(report=False))
        run = experiments.load(tmp_path / "run")
        new = {"X": run.x["X"][:3]}  # type: ignore[index]
        assert experiments.predict(run.model, run.guide, new, draws=5)["predictions"]["y"].shape == (1, 5, 3)

    def test_copies_of_a_guide_share_what_it_remembers(self) -> None:
        x = torch.tensor([1.0, 2.0]).double()
        guide = guides.build("mean_field", zoo.as_model(chain_of_two), x)
        assert copy.deepcopy(guide).fitted is guide.fitted is x


def trend(x: Any) -> None:
    """Latents of a walk, which no new row has of its own."""
    scale = pyro.sample("scale", dist.LogNormal(0 * ONE, 1.0))
    with pyro.plate("times", len(x)):
        steps = pyro.sample("steps", dist.Normal(0 * ONE, 1.0))
        pyro.sample("x", dist.Normal(scale * steps.cumsum(0), 1.0), obs=x)


def flat(x: Any) -> None:
    with pyro.plate("groups", int(x["group"].max()) + 1):
        level = pyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("rows", len(x["y"])):
        pyro.sample("y", dist.Normal(level[x["group"]], 1.0), obs=x["y"])


class TestRefusals:
    def test_rows_that_hang_on_other_rows_latents(self) -> None:
        fit = experiments.fit(trend, "mean_field", X, steps=5)
        with pytest.raises(zoo.ZooError, match=r"expected rows of plate 'times' that depend on their own .* or name the plate"):
            experiments.predict(fit.model, fit.guide, X)
        assert experiments.predict(fit.model, fit.guide, X, draws=5, same=["times"])["predictions"]["x"].shape == (1, 5, 4)

    def test_elements_of_fitted_rows_that_are_in_no_plate(self) -> None:
        def heights(d: Any) -> None:
            each = pyro.sample("each", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            with pyro.plate("rows", len(d["x"])):
                pyro.sample("y", dist.Normal(each * d["x"], 1.0), obs=d.get("y"))

        x = {"x": torch.ones(3).double(), "y": torch.tensor([0.0, 1.0, 2.0]).double()}
        fit = experiments.fit(heights, "mean_field", x)
        assert experiments.predict(fit.model, fit.guide, {"x": x["x"]}, draws=5)["predictions"]["y"].shape == (1, 5, 3)
        with pytest.warns(zoo.ZooWarning, match="latent 'each' has 3 elements, as many as there are rows, and is in no plate"):
            experiments.predict(fit.model, fit.guide, {"x": 2 * x["x"]}, draws=5)

    def test_observations_that_depend_on_each_other(self) -> None:
        """Of a Gaussian process whose function is integrated out, fitted observations tell of new ones."""
        def process(d: Any) -> None:
            scale = pyro.sample("scale", dist.LogNormal(0 * ONE, 1.0))
            kernel = scale * (-0.5 * (d["x"][:, None] - d["x"]).square()).exp() + 0.1 * torch.eye(len(d["x"])).double()
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(d["x"])).double(), kernel), obs=d.get("y"))

        fit = experiments.fit(process, "mean_field", {"x": X, "y": X}, steps=5)
        with pytest.warns(zoo.ZooWarning, match=r"the observations at site 'y' are one event \(MultivariateNormal\)"):
            experiments.predict(fit.model, fit.guide, {"x": X[:2]}, draws=5)

    def test_a_count_that_is_missing_is_no_huge_one(self) -> None:
        """Samplers of counts take NaN trials for 2⁶³ of them: it never stands in for what is missing."""
        def hits(x: Tensor) -> None:
            share = pyro.sample("share", dist.Beta(ONE, ONE))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Binomial(int(x.max()), share), obs=x)

        counts, missing = torch.tensor([3.0, 5.0]).double(), torch.full((1,), torch.nan)
        with pytest.raises(zoo.ZooError, match=r"expected observations in 'x', or fitted=, data that have some; got NaN"):
            experiments.predict(hits, "prior", missing)
        with pytest.raises(zoo.ZooError, match="expected 'x' in x, which hits reads for more than its observations; got none"):
            experiments.predict(hits, "prior", missing, fitted=counts)

    def test_new_groups_of_an_improper_prior(self) -> None:
        x = {"group": torch.tensor([0, 1, 1]), "y": torch.tensor([0.0, 1.0, 2.0]).double()}
        fit = experiments.fit(flat, "mean_field", x)
        assert experiments.predict(fit.model, fit.guide, {"group": torch.tensor([1])}, draws=5)["predictions"]["y"].size == 5
        with pytest.raises(zoo.ZooError, match="expected priors to draw new rows' latents from; got 'level'"):
            experiments.predict(fit.model, fit.guide, {"group": torch.tensor([2])})

    @pytest.mark.parametrize(("x", "more", "message"), [
        (X, {"draws": 0}, "expected 1 or more draws; got 0"),
        (X, {"same": ["schools"]}, "expected plates of chain_of_two in same; got 'schools'; choose from rows"),
        ({"x": X}, {}, "expected a tensor, as the guide was fitted to; got a mapping of x; pass the tensor")])
    def test_requests(self, two: experiments.Fit, x: Any, more: Any, message: str) -> None:
        with pytest.raises(zoo.ZooError, match=message) as caught:
            experiments.predict(two.model, two.guide, x, **more)
        assert "\n" not in str(caught.value)

    def test_guides_that_remember_nothing(self) -> None:
        with pytest.raises(zoo.ZooError, match=r"expected a guide that was fitted here, such as fit\.guide; got another"):
            experiments.predict(chain_of_two, AutoMultivariateNormal, X)
        with pytest.raises(zoo.ZooError, match="expected the data that 'exact' was fitted to; got none; pass fitted="):
            experiments.predict(zoo.build("linear_regression", rows_of(9)), "exact", rows_of(9))

    def test_covariates_that_are_missing(self, line: experiments.Fit) -> None:
        new = rows_of(3)
        with pytest.raises(zoo.ZooError, match="expected 'X' in x, which linear_regression reads for more"):
            experiments.predict(line.model, line.guide, {"X": torch.full((3, 2), torch.nan)})
        with pytest.raises(zoo.ZooError, match="expected to know how many rows entry 'X' has; got none for it in x"):
            experiments.predict(line.model, line.guide, {"other": new["X"][0, 0]})
        new["X"][1, 0] = torch.nan
        with pytest.raises(zoo.ZooError, match="expected predictions that are numbers; got NaN at site 'y', first at row 1"):
            experiments.predict(line.model, line.guide, new, draws=5)


def test_rows_run_along_the_plate_that_is_entered_first() -> None:
    """Pupils in schools, a matrix: new schools, or, named so, new pupils of the same schools."""
    def pupils(x: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0 * ONE, 5.0))
        with pyro.plate("school", len(x["sigma"])):
            theta = pyro.sample("theta", dist.Normal(mu, 20.0))
            with pyro.plate("pupil", x["y"].shape[0]):
                pyro.sample("y", dist.Normal(theta, x["sigma"]), obs=x["y"])

    seen = {"sigma": torch.tensor([0.1, 0.1]).double(), "y": torch.tensor([[20.0, -20.0]]).double().repeat(4, 1)}
    fit = experiments.fit(pupils, "mean_field", seen)
    new = {"sigma": seen["sigma"], "y": torch.full((3, 2), torch.nan)}
    fresh = experiments.predict(fit.model, fit.guide, new, draws=200)["predictions"]
    assert fresh.attrs["from_prior"] == "theta (2 of 2 along school)"
    assert fresh["y"].dims == ("chain", "draw", "pupil", "school")
    assert float(fresh["y"].isel(school=0).std()) > 10
    again = experiments.predict(fit.model, fit.guide, new, draws=200, same=["school"])["predictions"]
    np.testing.assert_allclose(again["y"].mean(("chain", "draw", "pupil")), [20, -20], atol=0.1)


def test_guides_of_two_blocks() -> None:
    fit = experiments.fit(chain_of_two, "full_rank+mean_field:encoder", X, steps=20)
    tree = experiments.predict(fit.model, fit.guide, torch.full((2,), torch.nan).double(), draws=400)
    with zoo.seeded(0):
        z = fit.guide.posterior(X).sample(torch.Size([400]))
    u = fit.model.constrain(X, z)["u"]
    error = tree["predictions"]["z"].values[0] - u.numpy()[:, None]  # the prior given the same draws of u
    assert abs(error.mean()) < 4.5 / 800**0.5
    assert error.var() == pytest.approx(1, abs=4.5 * (2 / 800) ** 0.5)
    assert tree["predictions"].attrs["from_prior"] == "z (2 of 2 along rows)"
