"""Whether a fit that is said to have converged is where it should be, and one that is not says what to do."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
from experiments.fits.journal import Journal
from experiments.inference.fixed_draws.elbo import FixedDrawsELBO
from experiments.inference.svi.bound import Bound
from experiments.inference.svi.judge import Judge
from experiments.inference.svi.stopping import TOLERANCE, rises
from experiments.optimisers.lbfgs import ascend
from experiments.optimisers.newton import find_mode

WINE = zoo.dataset("wine", standardise=True).tensor

ONE = torch.ones((), dtype=torch.double)

ROWS = torch.randn(50, dtype=torch.double, generator=torch.Generator().manual_seed(0)) + 5


def normal_mean(x: Tensor) -> None:
    """Conjugate: mu ~ N(0, 1), x_i ~ N(mu, 1)."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def log_evidence(x: Tensor) -> float:
    covariance = torch.eye(len(x), dtype=torch.double) + 1
    return float(dist.MultivariateNormal(torch.zeros(len(x), dtype=torch.double), covariance).log_prob(x))


class Tempered(zoo.Model):
    """:func:`normal_mean`, with a likelihood to a power that others may change."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=1.0):
            mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
        with pyro.plate("rows", len(x)), pyro.poutine.scale(scale=self.beta):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


class Temper(experiments.Callback):
    def __init__(self, at: int, beta: float) -> None:
        self.at, self.beta = at, beta

    def on_step(self, now: Any) -> None:
        if now.step == self.at:
            now.model.beta = self.beta


def test_svi_goes_on_until_it_is_at_the_evidence_of_a_conjugate_model() -> None:
    fit = experiments.fit(normal_mean, "mean_field", ROWS, method="svi")
    assert (fit.converged, fit.stopped) == (True, "")
    assert fit.steps < 5000
    q = fit.guide.posterior(ROWS)
    exact = dist.Normal(ROWS.sum() / 51, torch.tensor(51.0).double().rsqrt())
    gap = torch.distributions.kl_divergence(dist.Normal(q.mean.squeeze(), q.variance.squeeze().sqrt()), exact)
    assert float(gap.detach()) < TOLERANCE


@pytest.mark.parametrize(("rate", "why"), [
    (1e-3, "400 steps; raise --steps"),
    (1e-5, "400 steps at learning rate 1e-05 move no parameter by 0.14; raise --learning-rate, or --steps")])
def test_a_climb_that_is_slow_for_its_small_steps_has_not_converged(rate: float, why: str) -> None:
    fit = experiments.fit(normal_mean, "mean_field", ROWS, method="svi", steps=400, learning_rate=rate)
    assert not fit.converged
    assert fit.stopped == f"not converged: {why}"
    assert fit.elbo is not None
    assert log_evidence(ROWS) - fit.elbo > 100


@pytest.mark.parametrize(("rate", "why"), [
    (1e-300, "a step at learning rate 1e-300 is lost in rounding; raise --learning-rate"),
    (1e-12, "move no parameter by 0.14; raise --learning-rate, or --steps"), (1e-7, "move no parameter by 0.14")])
@pytest.mark.parametrize("how", [{"steps": 300}, {}, {"steps": 300, "validation": 0.2, "patience": 3},
                                 {"validation": 0.2, "patience": 3}], ids=str)
def test_what_could_not_move_has_not_converged(rate: float, why: str, how: dict[str, Any]) -> None:
    """Neither a direction without a length nor a held-out ELBO that stays is a sign of the top, 1,300 nats below it."""
    fit = experiments.fit(zoo.build("ppca", WINE), "mean_field:encoder", WINE, method="svi", learning_rate=rate, **how)
    assert not fit.converged
    assert fit.stopped.startswith("not converged: ")
    assert why in fit.stopped
    assert fit.steps <= 750  # nor would 50,000 come anywhere


def test_a_contained_fit_that_could_not_move_has_not_converged() -> None:
    """It begins 0.06 nats below the best normal, where a straight line ahead shows no rise above the noise."""
    x = zoo.dataset("eight_schools").x
    fit = experiments.fit(zoo.build("eight_schools", x), "full_rank", x, method="svi", steps=400, learning_rate=1e-5)
    assert not fit.converged


def test_steps_that_float32_rounds_away_are_told() -> None:
    def far(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 1e4))
        pyro.sample("x", dist.Normal(mu, 0.1).expand((50,)).to_event(1), obs=x)

    model = zoo.as_model(far)
    x = ROWS.float() + 3000
    guide = experiments.fit(model, "mean_field", x).guide
    with torch.no_grad():
        guide.amortisation.phi["loc"] += 1
    fit = experiments.fit(model, guide, x, method="svi", steps=2000, learning_rate=1e-4)
    assert not fit.converged
    assert fit.stopped == "not converged: a step at learning rate 0.0001 is lost in rounding; raise --learning-rate"


def test_small_steps_near_the_top_do_not_pass_for_the_top() -> None:
    """A rise per step far below the noise of the steps: 0.5 nats are missing, and 400 steps at 1e-6 make none of them."""
    model = zoo.as_model(normal_mean)
    guide = experiments.fit(model, "mean_field", ROWS).guide
    with torch.no_grad():
        guide.amortisation.phi["loc"] += 51**-0.5
    fit = experiments.fit(model, guide, ROWS, method="svi", steps=400, learning_rate=1e-6)
    assert not fit.converged


def test_enough_steps_converge_and_the_table_says_what_to_do_about_too_few() -> None:
    assert experiments.fit(normal_mean, "mean_field", ROWS, method="svi", steps=1500).converged
    table = experiments.compare(normal_mean, ROWS, ["mean_field"], method="svi", steps=50)
    assert "'mean_field': not converged: 50 steps; raise --steps" in str(table)


def test_em_and_fixed_draws_say_what_to_do_too() -> None:
    x = zoo.dataset("faithful").x
    em = experiments.fit(zoo.build("gmm", x), "exact", x, steps=2)
    assert (em.converged, em.stopped) == (False, "not converged: 2 steps; raise --steps")
    schools = zoo.dataset("eight_schools").x
    fixed = experiments.fit(zoo.build("eight_schools", schools), "full_rank", schools, steps=2)
    assert (fixed.converged, fixed.stopped) == (False, "not converged: 2 steps; raise --steps")


@pytest.mark.long
def test_svi_comes_to_the_closed_form_of_ppca() -> None:
    """θ by stochastic gradients, against its maximum-likelihood solution."""
    x = zoo.dataset("iris").x
    best = experiments.fit(zoo.build("ppca", x, latent=2), "exact", x)
    assert best.elbo is not None
    fit = experiments.fit(zoo.build("ppca", x, latent=2), "exact", x, method="svi")
    assert fit.converged
    evidence = float(fit.model.log_evidence(x).sum().detach())
    assert best.elbo - evidence < TOLERANCE * len(x)


@pytest.mark.long
def test_an_encoder_gains_little_by_ten_times_the_steps() -> None:
    """On rows that neither fit has seen: those of a fit's own may be learnt by heart for ever."""
    digits = zoo.dataset("digits", "images", binarise="threshold").x
    x, fresh = digits[:600], digits[600:1000]
    model = zoo.build("vae", x, latent=4, hidden=(64,))
    experiments.fit(model, "mean_field:encoder", x, steps=1500)
    for text in ("mean_field:encoder", "full_rank:encoder"):
        fit = experiments.fit(model, text, x, train_model=False)
        assert (fit.converged, fit.stopped) == (True, "")
        longer = experiments.fit(model, text, x, train_model=False, steps=10 * fit.steps, seed=1)
        one, two = (experiments.log_weights(model, f.guide, fresh, 2000, 1).elbo() for f in (fit, longer))
        gains = two.units - one.units
        assert float(gains.mean()) < 2 * TOLERANCE + 3 * float(gains.std()) / len(gains) ** 0.5


def test_a_first_held_out_bound_of_minus_infinity_does_not_stay_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is above −∞ by a number of standard errors."""
    judges: list[tuple[Judge, int]] = []
    plain, judge = Bound.held_out, Judge.judge

    def judged(self: Judge, step: int, values: list[float]) -> None:
        judges.append((self, step))
        judge(self, step, values)

    def held_out(bound: Bound) -> Tensor:
        now, step = judges[-1]
        at_first = step <= now.block or now.best_step == now.block
        return torch.full_like(plain(bound), -math.inf) if at_first else plain(bound)

    monkeypatch.setattr(Judge, "judge", judged)
    monkeypatch.setattr(Bound, "held_out", held_out)
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("linear_vae", x, latent=2)
    fit = experiments.fit(model, "mean_field:encoder", x, steps=200, validation=0.2)
    assert fit.states is not None
    assert fit.states.best_step > 10


@pytest.mark.long
def test_linear_vae_comes_to_the_closed_form_of_ppca() -> None:
    x = zoo.dataset("wine", standardise=True).x
    best = float(zoo.build("ppca", x, latent=2).log_evidence(x).sum().detach())
    model = zoo.build("linear_vae", x, latent=2)
    fit = experiments.fit(model, "mean_field:encoder", x)
    assert fit.converged
    assert best - float(model.log_evidence(x).sum().detach()) < TOLERANCE * len(x)


@pytest.mark.long
def test_svi_comes_to_what_fixed_draws_find_for_eight_schools() -> None:
    x = zoo.dataset("eight_schools").x
    best = experiments.fit(zoo.build("eight_schools", x), "full_rank", x)
    fit = experiments.fit(zoo.build("eight_schools", x), "full_rank", x, method="svi")
    assert best.converged
    assert fit.converged
    one, two = (experiments.log_weights(f.model, f.guide, x, 50_000, 1).elbo() for f in (best, fit))
    assert one.value - two.value < 0.05 + 3 * math.hypot(one.se, two.se)


@pytest.mark.parametrize(("before", "after"), [pytest.param(0.01, 1.0, marks=pytest.mark.long), (1.0, 3.0)])
def test_an_objective_that_a_callback_changes_is_not_a_fall(before: float, after: float) -> None:
    """The ELBO falls by a hundred nats and more at once, since it is another one."""
    model = Tempered(before)
    fit = experiments.fit(model, "mean_field", ROWS, method="svi", steps=1200, callbacks=[Temper(300, after)])
    assert (fit.converged, fit.stopped) == (True, "")
    q, precision = fit.guide.posterior(ROWS), 1 + 50 * after
    assert abs(float(q.mean.detach()) - float(ROWS.sum()) * after / precision) < 0.2 * precision**-0.5
    assert abs(float(q.variance.detach()) * precision - 1) < 0.2


def test_a_fall_is_still_a_fall() -> None:
    with pytest.warns(zoo.ZooWarning, match="diverged"):
        fit = experiments.fit(
            normal_mean, "mean_field", ROWS, method="svi", steps=300, learning_rate=300.0, schedule="constant")
    assert not fit.converged
    assert "is kept" in fit.stopped


@pytest.mark.parametrize(("before", "now", "up"), [(0.0, 0.001, 2.5), (0.0, 3.0, 8.99)])
def test_a_straight_climb_is_followed_to_what_lies_ahead_or_behind(before: float, now: float, up: float) -> None:
    """−(p − 3)² from 0.0 to 0.001: the best of the points that are looked at is 2.5 to 9 nats up; at the top, nothing is."""
    def bound(state: Any) -> Tensor:
        return -(state[0] - 3).square() + torch.zeros(4, dtype=torch.double)

    here, there = ([torch.tensor(p, dtype=torch.double)] for p in (before, now))
    assert rises(bound, here, there, up)
    assert not rises(bound, here, there, 9.01)


def test_a_tensor_that_creeps_is_followed_past_the_jitter_of_others() -> None:
    """−q² − (p − 3)²: q jitters about its optimum by as much as p creeps on, and a straight line through both leads down."""
    def bound(state: Any) -> Tensor:
        return -100 * state[1].square() - (state[0] - 3).square() + torch.zeros(4, dtype=torch.double)

    before, now = ([torch.tensor(p, dtype=torch.double) for p in pair] for pair in ((0.0, -0.01), (0.01, 0.0)))
    assert rises(bound, before, now, 2.5)
    assert not rises(lambda state: bound(state[0]), [torch.stack(before)], [torch.stack(now)], 2.5)


def test_nothing_rises_from_the_top() -> None:
    def bound(state: Any) -> Tensor:
        return -(state[0] - 3).square() + torch.zeros(4, dtype=torch.double)

    beside, top = ([torch.tensor(p, dtype=torch.double)] for p in (3.001, 3.0))
    assert not rises(bound, beside, top, 1e-5)


COVARIATE = torch.randn(100, generator=torch.Generator().manual_seed(1)) * 15 + 100
SCORE = 26 + 0.6 * COVARIATE + 18 * torch.randn(100, generator=torch.Generator().manual_seed(2))
YEAR = torch.linspace(1950, 2010, 61)
WARMTH = 10 + 0.02 * (YEAR - 1950) + 0.3 * torch.randn(61, generator=torch.Generator().manual_seed(3))


def regression_evidence(x: Tensor, y: Tensor, prior: Any) -> float:
    """log p(y) of y ~ N(b₀ + b₁ x, s²), b ~ N(0, 1000²): closed form given s, and a sum over log s."""
    x, y = x.double(), y.double()
    design = torch.stack([torch.ones_like(x), x], 1)
    grid = torch.linspace(-6, 8, 4001, dtype=torch.double) + y.std().log() - 1
    found = []
    for log_s in grid:
        precision = design.T @ design * (-2 * log_s).exp() + 1e-6 * torch.eye(2, dtype=torch.double)
        root = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve((design.T @ y * (-2 * log_s).exp())[:, None], root)[:, 0]
        squares = y @ y * (-2 * log_s).exp() - mean @ precision @ mean
        normal = -0.5 * squares - len(y) * (0.5 * math.log(2 * math.pi) + log_s) - root.diagonal().log().sum()
        found.append(normal - 2 * math.log(1000) + prior.log_prob(log_s.exp()) + log_s)
    return float(torch.stack(found).logsumexp(0) + (grid[1] - grid[0]).log())


@pytest.mark.parametrize("prior", [dist.HalfNormal(100.0), dist.HalfCauchy(2.5)])
@pytest.mark.parametrize(("x", "y"), [(COVARIATE, SCORE), (YEAR, WARMTH)])
def test_raw_scales_are_fitted(x: Tensor, y: Tensor, prior: Any) -> None:
    """In float32, from priors N(0, 1000²): the family's own gap is 0.01 to 0.03."""
    def regression(y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 1000.0).expand([2]).to_event(1))
        s = pyro.sample("s", prior)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(b[0] + b[1] * x, s), obs=y)

    fit = experiments.fit(regression, "full_rank", y)
    assert fit.elbo is not None
    assert fit.converged
    assert -0.01 < regression_evidence(x, y, prior) - fit.elbo < 0.05


def decay(size: float, noise: float, wide: bool = True) -> tuple[Any, Tensor]:
    """Return a program of an exponential decay of ``size`` onto ``size``, which has no linear predictor, and float32 data."""
    time = torch.linspace(0, 5, 200, dtype=torch.double)
    level = size * (-0.5 * time).exp() + size
    data = torch.stack([time, level + noise * torch.randn(200, generator=torch.Generator().manual_seed(0)).double()], 1).float()

    def program(x: Tensor) -> None:
        one = torch.ones((), dtype=x.dtype)
        high = pyro.sample("high", dist.Normal(size * one, 3.0))
        low = pyro.sample("low", dist.Normal(size * one, 3.0))
        rate = pyro.sample("rate", dist.LogNormal(0 * one, 1.0))
        with pyro.plate("rows", len(x)):
            times = x[:, 0] if wide else torch.mv(x[:, :1], torch.ones(1, dtype=torch.float32))  # float32 alone
            pyro.sample("y", dist.Normal(high * torch.exp(-rate * times) + low, noise * one), obs=x[:, 1])

    return program, data


def true_elbo(fit: experiments.Fit, x: Tensor) -> Any:
    """The ELBO of a fit's guide in float64, on draws of its own."""
    pair = copy.deepcopy((fit.model, fit.guide))
    with zoo.seeded(7), torch.no_grad():
        return experiments.log_evidence.log_weights.log_weights(pair[0].double(), pair[1].double(), x.double(), 4096).elbo()


def test_a_fit_that_float32_stops_short_goes_on_in_float64() -> None:
    """Values of 300,000 with noise of one: float32 rounds log p, and no step is seen to rise that the slope promises."""
    program, x = decay(3e5, 1.0)
    fit = experiments.fit(program, "full_rank", x)
    exact = experiments.fit(program, "full_rank", x.double())
    found = true_elbo(fit, x)
    assert fit.converged
    assert exact.converged
    assert fit.bound == pytest.approx(exact.bound, abs=0.05)
    assert abs(found.value - fit.bound) < 0.05 + 5 * found.se
    assert next(fit.guide.parameters()).dtype == torch.float32


def test_a_program_that_runs_in_float32_alone_is_said_to_limit_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FixedDrawsELBO, "doubled", lambda self: None)
    program, x = decay(3e5, 1.0)
    fit = experiments.fit(program, "full_rank", x)
    assert not fit.converged
    assert "in float32, and the program does not run in float64; use method svi" in fit.stopped


def test_a_guide_that_float32_can_not_hold_has_not_converged() -> None:
    """Values of 100,000 with noise of 0.1: the posterior's means need more digits than float32 has."""
    program, x = decay(1e5, 0.1)
    fit = experiments.fit(program, "full_rank", x)
    found = true_elbo(fit, x)
    assert not fit.converged
    assert "parameters in float32 can't hold the best" in fit.stopped
    assert abs(found.value - fit.bound) < 5 * found.se + 0.01


def test_a_fit_that_float32_limits_to_its_last_step_does_not_ask_for_more() -> None:
    program, x = decay(1e5, 0.1, wide=False)
    fit = experiments.fit(program, "full_rank", x, steps=40)
    assert not fit.converged
    assert "40 steps in float32, which rounds an ELBO of" in fit.stopped
    assert fit.stopped.endswith("raise --steps, or pass the data in float64")


def test_an_ascent_that_floating_point_stops_short_has_not_converged() -> None:
    """A slope of one with values rounded to thousands: L-BFGS finds no rise, and must not call that a top."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.double))

    def rounded() -> Tensor:
        value = -(p - 10).square().sum()
        return value + (1e3 * (value / 1e3).round() - value).detach()

    assert not ascend(rounded, [p], 100).converged
    assert ascend(lambda: -(p - 10).square().sum(), [p], 100).converged


@pytest.mark.parametrize("log_joint", [
    lambda z: z[:, 0], lambda z: 0 * z[:, 0], lambda z: z[:, 0].square(),
    lambda z: torch.where(z[:, 0] < 1, z[:, 0], torch.nan)])
def test_no_mode_is_made_up(log_joint: Any) -> None:
    assert find_mode(log_joint, torch.zeros(2, dtype=torch.double)) is None


class Stopped(BaseException):
    """What no callback's handler holds up."""


class StopAt(experiments.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, now: Any) -> None:
        if now.step == self.step:
            raise Stopped


@pytest.mark.long
@pytest.mark.parametrize("step", [900, 1800])
def test_a_run_without_a_given_end_goes_on_to_the_same_bits(step: int, tmp_path: Path) -> None:
    """Stopped while it climbs, and while the rate falls."""
    whole = experiments.fit(normal_mean, "mean_field", ROWS, method="svi")
    with pytest.raises(Stopped):
        experiments.fit(
            normal_mean, "mean_field", ROWS, method="svi", journal=Journal(tmp_path, interval=0.02), callbacks=[StopAt(step)])
    again = experiments.fit(normal_mean, "mean_field", ROWS, method="svi", journal=tmp_path)
    assert [row[:2] for row in again.history] == [row[:2] for row in whole.history]
    assert all(torch.equal(*pair) for pair in zip(whole.guide.parameters(), again.guide.parameters(), strict=True))
    assert again.converged


def test_a_search_that_gives_up_has_not_converged() -> None:
    def cliff(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
        pyro.sample("x", dist.Uniform(0 * ONE, z.exp()), obs=x)

    with pytest.raises(zoo.ZooError, match="expected a finite ELBO and gradient where the fit starts"):
        experiments.fit(cliff, "mean_field", 1.5 * ONE)


def test_every_free_fit_of_the_cases_converges() -> None:
    x = zoo.dataset("eight_schools").x
    for text in ("mean_field", "full_rank"):
        assert experiments.fit(zoo.build("eight_schools", x), text, x).converged


def test_svi_that_still_climbs_has_not_converged() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x, start="random")
    assert not experiments.fit(model, "mean_field:encoder", x, steps=100, learning_rate=2e-3).converged


def test_warm_up_ends_before_the_run_and_counts_for_nothing() -> None:
    model = zoo.build("linear_vae", WINE)
    with pytest.raises(zoo.ZooError, match="expected warm_up to end before the run's 50 steps; got 50; lower it"):
        experiments.fit(model, "mean_field:encoder", WINE, steps=50, warm_up=50)
    done = experiments.fit(model, "mean_field:encoder", WINE, steps=60, warm_up=55)
    assert not done.converged  # five values of the bound itself show no settling


class Failing(zoo.Model):
    """:func:`normal_mean`, whose density is no number for some calls."""

    left = 0

    def forward(self, x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
        if self.left:
            self.left -= 1
            pyro.factor("broken", torch.tensor(math.nan, dtype=torch.double))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


class Fails(experiments.Callback):
    """After step 737 the model fails for some calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def on_step(self, now: Any) -> None:
        if now.step == 737:
            now.model.left = self.calls


def failed(calls: int = 10**9, steps: int = 50_000, **how: Any) -> experiments.Fit:
    """A run whose blocks have a thousand steps, and which fails within the first."""
    with pytest.warns(zoo.ZooWarning, match="step 738 turned non-finite at site .*; the best state, after step 730, is kept"):
        return experiments.fit(
            Failing(), "mean_field", ROWS, method="svi", steps=steps, learning_rate=0.01, start="own",
            callbacks=[Fails(calls)], **how)


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 10**9])
def test_a_run_that_fails_within_a_block_goes_back_to_the_best_state_seen(calls: int) -> None:
    """It lost all 737 steps: no state but the start was known, and losses stay non-finite while states are compared."""
    fit = failed(calls)
    assert not fit.converged
    assert fit.elbo is not None
    assert log_evidence(ROWS) - fit.elbo < 10  # of the 620 nats at the start
    assert fit.states is not None
    before = float(fit.guide.amortisation.phi["loc"].detach())
    assert abs(before - float(ROWS.sum()) / 51) < 0.6
    fit.states.use("best")
    assert float(fit.guide.amortisation.phi["loc"].detach()) == before


def test_a_warm_up_that_fails_keeps_what_is_higher_than_the_start() -> None:
    """Values of a warm-up are of other objectives: its states are compared under the bound itself."""
    fit = failed(1, steps=1000, warm_up=800)
    assert float(fit.guide.amortisation.phi["loc"].detach()) > 3  # it began at 0
    assert fit.bound is not None
    assert math.isfinite(fit.bound)


def test_a_resumed_run_that_fails_goes_back_to_the_same_bits(tmp_path: Path) -> None:
    whole = failed()
    with pytest.raises(Stopped):
        experiments.fit(
            Failing(), "mean_field", ROWS, method="svi", steps=50_000, learning_rate=0.01, start="own",
            journal=Journal(tmp_path, interval=0.0), callbacks=[StopAt(736)])
    again = failed(journal=tmp_path)
    assert again.bound == whole.bound
    assert all(torch.equal(*pair) for pair in zip(whole.guide.parameters(), again.guide.parameters(), strict=True))
