"""Bounds on log p(x) from both sides, and the Markov chains under them."""

from __future__ import annotations

import math
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

import experiments
import guides
import zoo
from experiments.log_evidence.brackets.annealed import annealed_bracket, expected_width
from experiments.log_evidence.brackets.bracket import bracket
from experiments.log_evidence.brackets.sandwich import Bracket, sandwich
from experiments.log_evidence.brackets.weighted import importance_bracket
from experiments.runtime.budget import Budget
from experiments.samplers.annealing import Annealing, Endpoints, pilot, schedule
from experiments.samplers.posterior import more_draws, posterior_draws
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.model import Model
from zoo.program.run import seeded

SE = 5
DOUBLE = torch.double


class Diagonal(BaseGuide):
    """Where mean_field ends on a normal posterior (its mean, and 1 / √ of its precision's diagonal), moved and scaled."""

    def __init__(self, model: Model, shift: float = 0.0, factor: float = 1.0):
        super().__init__(model, "diagonal")
        self.shift, self.factor = shift, factor

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        p = self.model.posterior(x)
        scale = torch.linalg.inv(p.covariance_matrix).diagonal(dim1=1, dim2=2).rsqrt()
        return Independent(Normal(p.mean + self.shift * scale, self.factor * scale), 1)


class Fixed(BaseGuide):
    """The same q whatever x."""

    def __init__(self, model: Model, q: Distribution):
        super().__init__(model, "fixed")
        self.q = q

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        return self.q


@cache
def linear(name: str = "ppca", latent: int = 2) -> tuple[Model, Tensor]:
    """Return a linear-Gaussian model whose posteriors are correlated, and the rows it was sized by."""
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build(name, x, latent=latent, **({} if name == "linear_vae" else {"start": "random"}))
    experiments.fit(model, "exact", x, steps=5)
    model.requires_grad_(False)
    return model, x


def simulated(model: Model, x: Data, seed: int) -> tuple[Data, Tensor]:
    """Return data like ``x`` and the exact posterior draw they came from, (1, units, d)."""
    latent, fresh = model.simulate(x, seed)
    return fresh, model.unconstrain(fresh, {k: v[None] for k, v in latent.items()})


def surrounds(found: Bracket, truth: float) -> bool:
    """Whether the truth is inside the bounds, give or take five standard errors: a 95% interval may well fail once."""
    return found.lower_total - SE * found.lower_se <= truth <= found.upper_total + SE * found.upper_se


# -- annealing ----------------------------------------------------------------------------------------------------------


@cache
def annealed() -> tuple[Annealing, Tensor, Tensor, Tensor]:
    """Return a short path from a bad guide over 2,000 simulated units, its weights both ways, and the truth (units,)."""
    model, x = linear()
    fresh, exact = simulated(model, x[torch.arange(2000) % len(x)], seed=11)
    with zoo.seeded(12):
        path = pilot(Endpoints.of(model, Diagonal(model, 0.5, 0.7), fresh))[0].refined(32)
        forward, reverse = path.forward(16), path.reverse(exact)
    return path, forward, reverse, model.log_evidence(fresh)


def test_annealed_weights_are_unbiased_both_ways() -> None:
    """E[w] = p(x) forward, E[1 / w] = 1 / p(x) in reverse."""
    _, forward, reverse, truth = annealed()
    for ratio in ((forward - truth).exp().mean(0), (truth - reverse).exp().mean(0)):
        assert abs(float(ratio.mean()) - 1) < SE * float(ratio.std()) / math.sqrt(len(ratio))


def test_forward_is_below_the_truth_and_reverse_above() -> None:
    _, forward, reverse, truth = annealed()
    found = sandwich(forward[:2], reverse)
    below, above = found.lower - truth, found.upper - truth
    plain = -(-reverse).logsumexp(0) - truth
    for error, sign in ((below, -1), (above, 1), (plain, 1)):
        noise = float(error.std()) / math.sqrt(len(error))
        assert sign * float(error.mean()) > 2 * noise, "so many units show which side the bound is on"
    assert float((sandwich(forward, reverse).upper - truth).mean()) < float(plain.mean()) / 4


@pytest.mark.long
def test_annealing_from_the_prior_gets_there_where_importance_does_not() -> None:
    model, x = linear("ppca", 8)
    fresh, exact = simulated(model, x[:40], seed=13)
    truth, guide = float(model.log_evidence(fresh).sum()), guides.build("prior", model, x)
    plain = importance_bracket(model, guide, fresh, exact, draws=256)
    assert plain.upper_total - plain.lower_total > 0.5 * 40
    short, long = (annealed_bracket(model, guide, fresh, exact, temperatures=count) for count in (16, 96))
    assert all(surrounds(found, truth) for found in (plain, short, long))
    assert plain.width > 2 * short.width > 3 * long.width
    assert long.upper_total - long.lower_total < 0.05 * 40
    assert long.lower_total == pytest.approx(truth, abs=SE * long.lower_se)


def test_kernels_are_those_of_the_pilot() -> None:
    path = annealed()[0]
    before = path.steps.clone()
    assert path.steps.shape == (31, 2000)
    with zoo.seeded(14):
        first = path.forward(2)
    with zoo.seeded(14):
        second = path.forward(2)
    assert torch.equal(path.steps, before)
    assert torch.equal(first, second)


def test_a_refined_path_keeps_the_step_sizes_and_interpolates_between() -> None:
    path = annealed()[0]
    torch.testing.assert_close(path.refined(32).steps, path.steps)
    finer = path.refined(64).steps
    torch.testing.assert_close(finer[1::2], path.steps)
    low, high = torch.minimum(path.steps[:-1], path.steps[1:]), torch.maximum(path.steps[:-1], path.steps[1:])
    assert bool(((finer[2:-1:2] >= low * (1 - 1e-9)) & (finer[2:-1:2] <= high * (1 + 1e-9))).all())


def test_one_temperature_is_importance_sampling() -> None:
    model, x = linear()
    guide, ends = Diagonal(model, 0.2), None
    fresh, exact = simulated(model, x[:20], seed=15)
    with zoo.seeded(16):
        ends = Endpoints.of(model, guide, fresh)
        path = pilot(ends)[0].refined(1)
        plain = model.log_joint(fresh, exact) - guide.posterior(fresh).log_prob(exact)
        torch.testing.assert_close(path.reverse(exact), plain)
    with pytest.raises(zoo.ZooError, match="expected 1 or more temperatures; got 0"):
        schedule(0)


def test_the_expected_width_is_the_width() -> None:
    """To a factor of one and a half, from eight pilot chains on a path eight times as short."""
    model, x = linear()
    fresh, exact = simulated(model, x, seed=17)
    with zoo.seeded(18):
        path, forward = pilot(Endpoints.of(model, Diagonal(model, 1.0, 0.5), fresh), temperatures=8)
        expected = expected_width(forward, path.reverse(exact), 8.0, 16)
        path = path.refined(64)
        found = sandwich(path.forward(16), path.reverse(exact))
    assert found.width / 1.5 < expected < found.width * 1.5


def test_units_that_need_it_are_annealed_longer() -> None:
    """A tenth of the units, where the guide is off, take the temperatures; the bounds hold in expectation on either side."""
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x, latent=2)
    off = experiments.fit(model, "mean_field", x, train_model=False).guide
    with zoo.seeded(21), torch.no_grad():
        phi = dict(off.named_parameters())
        phi["amortisation.phi.loc"][:18] += 3 * torch.randn(18, 2)
        truth = float(model.log_evidence(x).sum())
    found, spent = [], []
    for seed in range(12):
        budget = Budget(target=8.0)
        with budget.counting():
            found.append(bracket(model, off, x, method="annealed", seed=seed, budget=budget))
        spent.append(budget.spent)
    alike = Budget()
    with alike.counting():
        same = bracket(model, off, x, method="annealed", temperatures=max(b.temperatures for b in found), budget=alike)
    assert max(spent) < alike.spent / 2
    assert sum(b.width for b in found) / 12 < 2 * max(8.0, same.width)
    lower, upper = (torch.tensor([getattr(b, side) - truth for b in found]) for side in ("lower_total", "upper_total"))
    assert float(lower.mean()) < SE * float(lower.std()) / 12**0.5
    assert float(upper.mean()) > -SE * float(upper.std()) / 12**0.5
    assert sum(b.lower_limit <= truth <= b.upper_limit for b in found) >= 9  # of 12 intervals of 95%: all but one in 10,000


# -- coverage -----------------------------------------------------------------------------------------------------------

SETS = 100
#: Interval covers in at least this many of ``SETS`` data sets: a 95% interval does so with probability 99%.
COVERED = 90


def test_annealed_intervals_cover_the_truth() -> None:
    """20 units a data set, of which the 2,000 are a hundred."""
    _, forward, reverse, truth = annealed()
    found = [sandwich(f, r) for f, r in zip(forward.split(20, 1), reverse.split(20, 1), strict=True)]
    truths = truth.reshape(SETS, 20).sum(1).tolist()
    assert sum(b.lower_limit <= t <= b.upper_limit for b, t in zip(found, truths, strict=True)) >= COVERED
    assert sum(b.upper_total - b.lower_total for b in found) / SETS < 0.05 * 20


def covered(model: Model, guide: BaseGuide, x: Data, draws: int, units: int) -> int:
    """Return in how many simulated data sets the importance bracket covers the truth; on average it must be narrow."""
    hits, apart = 0, 0.0
    for seed in range(SETS):
        fresh, exact = simulated(model, x, seed)
        with torch.no_grad():
            truth = float(model.log_evidence(fresh).sum())
        found = bracket(model, guide, fresh, exact, method="importance", draws=draws, seed=seed)
        assert found.kind == "bracketed"
        apart += found.upper_total - found.lower_total
        hits += found.lower_limit <= truth <= found.upper_limit
    assert apart / SETS <= 0.05 * units
    return hits


@pytest.mark.parametrize("name", ["ppca", "factor_analysis", "linear_vae"])
def test_importance_intervals_of_linear_gaussian_models_cover_the_truth(name: str) -> None:
    model, x = linear(name)
    assert covered(model, Diagonal(model, 0.2, 1.4), x[:60], 128, 60) >= COVERED


def test_importance_intervals_of_a_mixture_cover_the_truth() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x, components=4)
    model.requires_grad_(False)
    assert covered(model, guides.build("prior", model, x), x[:60], 256, 60) >= COVERED


def test_importance_intervals_cover_under_a_fitted_encoder() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x, components=3)
    guide = experiments.fit(model, "categorical:encoder", x, train_model=False, steps=200).guide
    model.requires_grad_(False)
    assert covered(model, guide, x[:60], 128, 60) >= COVERED


# -- one unit, real data, and what else there is ------------------------------------------------------------------------


def collapsed(x: dict[str, Tensor]) -> None:
    """Eight schools with the schools' effects integrated out by hand: two latents are left."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=DOUBLE), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0, dtype=DOUBLE)))
    with pyro.plate("school", 8):
        pyro.sample("y", dist.Normal(mu, (tau**2 + x["sigma"] ** 2).sqrt()), obs=x["y"])


@pytest.mark.long
def test_eight_schools_is_bracketed_from_markov_chains() -> None:
    x = zoo.dataset("eight_schools").x
    truth = experiments.evidence(collapsed, x).value
    model = zoo.build("eight_schools", x)
    found = bracket(model, experiments.fit(model, "mean_field", x).guide, x, method="annealed", temperatures=64)
    assert (found.kind, found.method, found.temperatures) == ("estimated", "annealed", 64)
    assert found.rhat is not None
    assert float(found.rhat.max()) < 1.05
    assert surrounds(found, truth)
    assert found.width < 0.1


@pytest.mark.long
def test_one_simulated_unit_takes_more_exact_draws_from_its_one() -> None:
    x = zoo.dataset("eight_schools").x
    model, widths = zoo.build("eight_schools", x), []
    for seed in range(3, 8):  # how hard it is hangs on what was simulated
        fresh, exact = simulated(model, x, seed=seed)
        truth = experiments.evidence(collapsed, fresh).value
        guide = experiments.fit(model, "full_rank", fresh).guide
        assert more_draws(model, guide, fresh, exact, chains=7).shape == (7, 1, 10)
        found = bracket(model, guide, fresh, exact)
        assert (found.kind, found.rhat) == ("bracketed", None)
        assert surrounds(found, truth)
        widths.append(found.width)
    assert sorted(widths)[2] < 0.5


def test_one_unit_whose_guide_misses_every_correlation() -> None:
    """Importance is off by nats; annealing meets the conjugate evidence."""
    x = {k: v[:60] for k, v in zoo.dataset("diabetes", "regression", standardise=True).x.items()}
    model = zoo.build("linear_regression", x)
    truth = float(model.log_evidence(x))
    with zoo.seeded(21):
        draws = model.posterior(x).sample((4000,))[:, 0]
    scale = torch.linalg.inv(torch.cov(draws.T)).diagonal().rsqrt()
    guide = Fixed(model, Independent(Normal(draws.mean(0)[None], scale[None]), 1))
    plain, found = bracket(model, guide, x, method="importance"), bracket(model, guide, x)
    assert (found.method, found.kind) == ("annealed", "bracketed")
    assert surrounds(found, truth)
    assert plain.width > 3 * found.width
    assert found.width < 0.5


def test_posterior_draws_are_the_posteriors() -> None:
    model, x = linear("factor_analysis", 3)
    found = posterior_draws(model, guides.build("prior", model, x), x, chains=30)
    p = model.posterior(x)
    z = (found.z - p.mean) / p.covariance_matrix.diagonal(dim1=1, dim2=2).sqrt()
    assert float(found.rhat.max()) < 1.1
    assert abs(float(z.mean())) < SE / math.sqrt(z.numel() / 3)
    assert abs(float(z.square().mean()) - 1) < SE * math.sqrt(2 / (z.numel() / 3))
    assert bool((z.mean((0, 1)).abs() < SE / math.sqrt(30 * len(x))).all())


def test_more_draws_are_the_posteriors_too() -> None:
    model, x = linear("factor_analysis", 3)
    fresh, exact = simulated(model, x[:10], seed=25)
    draws = more_draws(model, Diagonal(model), fresh, exact, chains=400)
    p = model.posterior(fresh)
    z = (draws - p.mean) / p.covariance_matrix.diagonal(dim1=1, dim2=2).sqrt()
    assert float(z.mean(0).abs().max()) < SE / math.sqrt(400)
    assert float((z.var(0) - 1).abs().max()) < SE * math.sqrt(2 / 400)


def test_chains_in_two_modes_that_the_guide_holds_have_a_large_rhat_and_a_narrow_bracket() -> None:
    def two(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=DOUBLE), 10.0))
        pyro.sample("x", dist.Normal(m.abs(), 0.1), obs=x)

    x = torch.tensor(10.0, dtype=DOUBLE)
    model = zoo.as_model(two)
    guide = Fixed(model, Independent(Normal(torch.zeros(1, 1, dtype=DOUBLE), 10.0), 1))
    found = bracket(model, guide, x)  # without a warning: the weights are alike in both modes, and no bound rests on the chains
    assert found.width < 0.3
    assert found.rhat is not None
    assert float(found.rhat) > 5
    assert surrounds(found, experiments.evidence(two, x).value)


def test_a_good_guide_needs_no_annealing_and_a_bad_one_gets_it() -> None:
    model, x = linear("ppca", 3)
    fresh, exact = simulated(model, x[:30], seed=5)
    truth = float(model.log_evidence(fresh).sum())
    for guide, method in ((Diagonal(model, 0.1, 1.3), "importance"), (Diagonal(model, 1.0, 0.4), "annealed")):
        found = bracket(model, guide, fresh, exact, draws=2048)
        assert found.method == method
        assert surrounds(found, truth)
        assert (found.upper_total - found.lower_total) / 30 < 0.05
        assert (found.temperatures == 1) == (method == "importance")
    assert bracket(model, Diagonal(model, 0.1, 1.3), fresh, exact, method="annealed", temperatures=16).temperatures == 16


def test_the_exact_guide_leaves_nothing_between() -> None:
    model, x = linear()
    found = bracket(model, guides.build("exact", model, x), x, draws=64)
    truth = model.log_evidence(x)
    torch.testing.assert_close(found.lower, truth)
    torch.testing.assert_close(found.upper, truth)
    assert found.width < 1e-6


def test_discrete_latents_are_drawn() -> None:
    x = zoo.dataset("faithful").x[:50]
    model = zoo.build("gmm", x)
    guide = guides.build("prior", model, x)
    found = bracket(model, guide, x)
    assert (found.method, found.kind) == ("importance", "bracketed")
    assert surrounds(found, float(model.log_evidence(x).detach().sum()))
    assert found.lower_se > 0
    with pytest.raises(zoo.ZooError, match="expected continuous latents to anneal; got discrete ones of gmm"):
        bracket(model, guide, x, method="annealed")


def test_no_margin_exceeds_what_markov_allows() -> None:
    with zoo.seeded(22):
        forward, reverse = 100 * torch.randn(8, 12, dtype=DOUBLE), 100 * torch.randn(2, 12, dtype=DOUBLE)
    found = sandwich(forward, reverse)
    assert found.lower_total - found.lower_limit == pytest.approx(math.log(40))
    assert found.upper_limit - found.upper_total == pytest.approx(math.log(40))
    impossible = sandwich(torch.full((8, 12), -math.inf), reverse)
    assert impossible.lower_limit == -math.inf
    assert math.isfinite(impossible.upper_limit)
    unheard_of = sandwich(forward, torch.full((1, 12), math.inf))
    assert unheard_of.upper_limit == math.inf
    assert math.isfinite(unheard_of.lower_limit)


def test_the_noise_is_that_of_repeated_runs() -> None:
    model, x = linear()
    fresh, exact = simulated(model, x[:60], seed=23)
    guide = Diagonal(model, 0.3, 0.9)
    found = [importance_bracket(model, guide, fresh, exact, draws=256, seed=seed) for seed in range(100)]
    spread = float(torch.tensor([b.lower_total for b in found]).std())
    claimed = sum(b.lower_se for b in found) / len(found)
    assert claimed == pytest.approx(spread, rel=SE / math.sqrt(2 * 99))


def test_same_seed_same_numbers_and_nothing_global() -> None:
    model, x = linear()
    fresh, exact = simulated(model, x[:20], seed=24)
    guide, before = Diagonal(model, 0.5, 0.7), torch.get_rng_state()
    for method in ("importance", "annealed"):
        first, second, other = (
            bracket(model, guide, fresh, exact, method=method, temperatures=16, draws=64, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first.lower, second.lower)
        assert torch.equal(first.upper, second.upper)
        assert not torch.equal(first.lower, other.lower)
    first, second = (posterior_draws(model, guide, fresh, iterations=8) for _ in range(2))
    assert torch.equal(first.z, second.z)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_a_bare_program_and_float32() -> None:
    def scaled(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.linspace(-2, 2, 30)
    guide = Fixed(zoo.as_model(scaled), Independent(Normal(torch.zeros(30, 1), 0.7), 1))
    truth = float(Normal(0.0, math.sqrt(1.25)).log_prob(x).sum())
    for method in ("importance", "annealed"):
        found = bracket(scaled, guide, x, method=method)
        assert surrounds(found, truth)
        assert found.kind == "estimated"


def test_errors_say_what_to_do() -> None:
    model, x = linear()
    guide = Diagonal(model)
    exact = model.posterior(x).sample((1,))
    with pytest.raises(zoo.ZooError, match="expected method to be one of nested, importance, annealed; got 'ais'"):
        bracket(model, guide, x, method="ais")
    for call in (bracket, importance_bracket, annealed_bracket):
        with pytest.raises(zoo.ZooError, match=r"expected posterior draws of shape \(draws, 178, 2\); got \(178, 2\)"):
            call(model, guide, x, exact[0])
    with pytest.raises(zoo.ZooError, match="expected at least 2 draws"):
        importance_bracket(model, guide, x, exact, draws=1)
    with pytest.raises(zoo.ZooError, match="expected at least 2 draws or chains; got 1"):
        annealed_bracket(model, guide, x, exact, temperatures=2, chains=1)
    with pytest.raises(zoo.ZooError, match="expected finite log weights; got 2 NaN or"):
        sandwich(torch.tensor([[0.0, math.nan], [math.inf, 0.0]]), torch.zeros(1, 2))
    with pytest.raises(zoo.ZooError, match="expected a guide of this model"):
        bracket(linear("factor_analysis", 3)[0], guide, x)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::zoo.ZooWarning")
def test_a_program_that_is_run_draw_by_draw_takes_fewer_draws_and_its_interval_holds() -> None:
    """A look at a number keeps vmap out: 32,768 draws and 64 chains would take minutes where these take seconds."""
    def level(x: Tensor) -> None:
        at = pyro.sample("at", dist.Normal(torch.zeros(3, dtype=torch.double), 1.0).to_event(1))
        scale = 1.0 if at[0].item() < 1e9 else 2.0
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(at.sum(), scale), obs=x)

    x = torch.tensor([1.0, 2.0, 2.5, 0.3], dtype=torch.double)
    model = zoo.as_model(level)
    guide = experiments.fit(model, "full_rank", x).guide
    found = bracket(model, guide, x)
    assert not model.runner.draws.vectorised
    assert (found.kind, found.draws) == ("estimated", 1024)
    truth = dist.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double() + 3).log_prob(x)
    assert surrounds(found, float(truth))


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


def test_exact_draws_of_another_shape_are_an_error_and_no_remark() -> None:
    x = (rows(20, 4) > 0).double()
    model = zoo.build("vae", x, latent=3, hidden=(4,))
    with pytest.raises(zoo.ZooError, match="expected posterior draws of shape"):
        experiments.evidence(model, x, guides.build("prior", model, x), exact=torch.zeros(3, 1, 4))


def test_a_guide_that_takes_all_units_or_none_is_annealed_alike() -> None:
    """An AutoGuide has parameters for all of its units: a bracket whose units are of unequal difficulty stands all the same."""
    def program(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.3), obs=x)

    x = torch.cat([torch.zeros(30, dtype=DOUBLE), torch.full((10,), 6.0, dtype=DOUBLE)])
    done = experiments.fit(program, pyro.infer.autoguide.AutoNormal, x, steps=300)
    exact = done.guide.posterior(x).sample((1,))
    found = bracket(done.model, done.guide, x, exact, method="annealed", budget=Budget(target=4.0))
    assert found.lower.shape == (40,)
    assert found.lower_total <= float(dist.Normal(torch.zeros((), dtype=DOUBLE), 2.09**0.5).log_prob(x).sum()) + 1
