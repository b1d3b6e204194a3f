"""The optimisers: same seed same bits, nothing global, clear refusals, and the last finite state kept."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.inference.engine import frozen
from experiments.inference.fixed_draws import elbo
from experiments.log_evidence.log_weights import log_weights
from experiments.optimisers.lbfgs import ascend
from experiments.samplers.quasi_random import normal_noise
from tests.contracts.cases import held_elbo
from zoo.distributions.low_rank_normal import LowRankNormal
from zoo.program.run import seeded
from zoo.structure.quadratic import Moments

X = torch.tensor([2.0, 3.0, 4.0, 7.0], dtype=torch.double)
ZERO = torch.zeros((), dtype=torch.double)

WINE = zoo.dataset("wine", standardise=True).tensor

ONE = torch.ones((), dtype=torch.double)


@pytest.mark.parametrize(("name", "text", "method"), [
    ("eight_schools", "full_rank", "fixed_draws"), ("eight_schools", "low_rank", "svi"), ("gmm", "exact", "em"),
    ("ppca", "mean_field:encoder", "svi")])
def test_same_seed_same_bits_and_torchs_generator_untouched(name: str, text: str, method: str) -> None:
    x = zoo.dataset(zoo.MODELS[name].data, zoo.MODELS[name].takes).x
    states = []
    for _ in range(2):
        torch.manual_seed(11)
        before = torch.get_rng_state()
        model = zoo.build(name, x)
        fit = experiments.fit(model, text, x, method=method, steps=40, seed=5)
        elbo = log_weights(model, fit.guide, x, 64, seed=5).elbo()
        assert torch.equal(torch.get_rng_state(), before)
        states.append(([*model.state_dict().values(), *fit.guide.state_dict().values()], elbo.value, fit.elbo))
    assert all(torch.equal(a, b) for a, b in zip(states[0][0], states[1][0], strict=True))
    assert states[0][1:] == states[1][1:]
    other = experiments.fit(zoo.build(name, x, seed=6), text, x, method=method, steps=40, seed=6)
    assert text == "exact" or other.elbo != states[0][2]


@pytest.mark.long
def test_same_seed_same_bits_of_an_evaluation() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    guide = experiments.fit(model, "full_rank", x, steps=40).guide
    before = torch.get_rng_state()
    first, second = (experiments.evaluate(model, guide, x, seed=5, draws=64) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.elbo.value, first.khat, first.evidence.lower, first.evidence.upper) == (
        second.elbo.value, second.khat, second.evidence.lower, second.evidence.upper)


def test_fits_run_inside_no_grad() -> None:
    x = zoo.dataset("eight_schools").x
    with torch.no_grad():
        assert experiments.fit(zoo.build("eight_schools", x), "mean_field", x, steps=5).steps > 0


def explosive(x: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0 * ONE, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(a, (a.exp() * 1e3).exp()), obs=x)


def test_a_fit_that_turns_non_finite_stops_names_the_site_and_keeps_the_best_state() -> None:
    def runs_away(x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0 * ONE, 1e6))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal((40 * a).exp() - 1, 1.0), obs=x)

    x = torch.full((3,), 1e300, dtype=torch.double)
    model = zoo.as_model(runs_away)
    guide = guides.build("mean_field", model, x)
    with torch.no_grad():
        guide.amortisation.phi["loc"].zero_()
        guide.amortisation.phi["log_scale"].fill_(-4.0)
        x = x * 0 + 1e10
    with pytest.warns(zoo.ZooWarning, match=r"diverged: step \d+ turned non-finite at site 'x'; the (start|best state)"):
        fit = experiments.fit(model, guide, x, method="svi", learning_rate=30.0, steps=200)
    assert "site 'x'" in fit.stopped
    assert fit.steps < 200
    assert not fit.converged
    assert all(bool(p.isfinite().all()) for p in guide.parameters())
    assert bool(experiments.log_weights(model, guide, x).log_weight.isfinite().all()), "the state kept has a finite ELBO"


def test_a_fit_that_starts_non_finite_is_refused_and_names_the_site() -> None:
    x = torch.ones(3, dtype=torch.double)
    for method in ("fixed_draws", "svi"):
        with pytest.raises(zoo.ZooError, match=r"expected a finite ELBO and gradient .* at site 'x' of explosive"):
            experiments.fit(explosive, "mean_field", x, method=method)


def test_em_that_turns_non_finite_keeps_the_last_theta(monkeypatch: pytest.MonkeyPatch) -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    original, calls = type(model).maximise_moments, []

    def spoilt(self: zoo.Model, moments: Moments) -> None:
        original(self, moments)
        calls.append(1)
        if len(calls) == 3:
            with torch.no_grad():
                self.means.fill_(float("nan"))

    monkeypatch.setattr(type(model), "maximise_moments", spoilt)
    with pytest.warns(zoo.ZooWarning, match="iteration 3 turned non-finite at site 'x'"):
        fit = experiments.fit(model, "exact", x)
    assert fit.steps == 2
    assert bool(model.log_evidence(x).isfinite().all())


@pytest.mark.parametrize(("options", "text"), [
    ({"method": "sgd"}, "unknown method 'sgd'"), ({"steps": 0}, "expected steps as a whole number from 1; got 0"),
    ({"steps": -3}, "steps as a whole number from 1; got -3"), ({"draws": -1}, "draws as a whole number from 1"),
    ({"method": "svi", "batch_size": 5000}, "expected a batch_size from 1 to the 178 units; got 5000"),
    ({"method": "svi", "learning_rate": -1.0}, "expected a positive learning rate; got -1.0"),
    ({"method": "em"}, "expected guide 'exact' for method em")])
def test_options_that_cannot_be_are_refused(options: dict[str, object], text: str) -> None:
    x = zoo.dataset("wine", standardise=True).x
    with pytest.raises(zoo.ZooError, match=text):
        experiments.fit(zoo.build("ppca", x), "mean_field", x, **options)


def test_a_batch_of_one_unit_is_refused() -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.raises(zoo.ZooError, match="expected no batch_size for 'mean_field' on eight_schools; got 4: its rows"):
        experiments.fit(zoo.build("eight_schools", x), "mean_field", x, method="svi", batch_size=4)


def test_fixed_draws_refuses_the_exact_guide_and_svi_the_prior() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x)
    with pytest.raises(zoo.ZooError, match="expected a guide with parameters for method fixed_draws"):
        experiments.fit(model, "exact", x, method="fixed_draws")
    with pytest.raises(zoo.ZooError, match="expected a guide with reparameterised draws for method svi"):
        experiments.fit(model, "prior", x, method="svi")


def test_fixed_draws_double_until_fresh_noise_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """31 dimensions, full rank: a few hundred draws flatter φ by over 0.01 nats, so they are doubled."""

    used: list[int] = []
    original = normal_noise

    def counted(draws: int, *rest: object) -> Tensor:
        used.append(draws)
        return original(draws, *rest)

    monkeypatch.setattr(elbo, "normal_noise", counted)
    monkeypatch.setattr(elbo, "linear_predictor", lambda *_: None)  # whose integrals take no draws
    x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    model = zoo.build("logistic_regression", x)
    fit = experiments.fit(model, "full_rank", x, start="own")  # no quick fit, whose draws would count, too
    assert used[:2] == [64, 128], "natural steps go by the fewest"
    assert used[-1] > used[1]
    assert sorted(used) == used
    few = experiments.fit(model, "full_rank", x, draws=128)
    noise = original(16384, 31, 99, x["y"])
    with torch.no_grad():
        gain = held_elbo(model, fit.guide, x, noise) - held_elbo(model, few.guide, x, noise)
    assert float(gain) > 0


def test_fewer_fixed_draws_than_the_noise_has_dimensions_are_refused() -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.raises(zoo.ZooError, match="expected at least 20 fixed draws, twice the noise's 10 dimensions; got 8"):
        experiments.fit(zoo.build("eight_schools", x), "mean_field", x, draws=8)


def test_ascent_survives_trials_that_leave_the_numbers() -> None:
    p = torch.nn.Parameter(torch.tensor([5.0], dtype=torch.double))
    done = ascend(lambda: torch.where(p > 0, p.log() - p**4, torch.nan).sum(), [p], 200)
    assert done.converged
    assert float(p.detach()) == pytest.approx(0.25**0.25, abs=1e-6)


@pytest.mark.long
def test_svi_and_fixed_draws_reach_one_elbo() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    elbos = [experiments.log_weights(model, experiments.fit(model, "mean_field", x, method=m).guide, x, 50_000).elbo()
             for m in ("svi", "fixed_draws")]
    assert abs(elbos[0].value - elbos[1].value) < 0.02 + 5 * elbos[0].se


def test_low_rank_nests_between_mean_field_and_full_rank() -> None:
    x = zoo.dataset("diabetes", "regression", standardise=True).x
    model = zoo.build("linear_regression", x)
    elbo = {text: experiments.fit(model, text, x).elbo for text in ("mean_field", "low_rank", "full_rank")}
    assert elbo["mean_field"] < elbo["low_rank"] < elbo["full_rank"] < float(model.log_evidence(x).sum())


def test_low_rank_normal_is_a_multivariate_normal_even_where_it_is_nearly_singular() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1.0, 1e4):
        loc = torch.randn(3, 6, dtype=torch.double, generator=generator)
        loadings = size * torch.randn(3, 6, 2, dtype=torch.double, generator=generator)
        q = LowRankNormal(loc, loadings, torch.full((3, 6), 0.3, dtype=torch.double))
        dense = torch.distributions.MultivariateNormal(loc, q.covariance_matrix)
        torch.testing.assert_close(q.entropy(), dense.entropy(), rtol=1e-6, atol=1e-6)
        with zoo.seeded(1):
            z = q.rsample((4000,))
        assert abs(float((-q.log_prob(z)).mean() - q.entropy().mean())) < 5 * 3**0.5 / 4000**0.5
        torch.testing.assert_close(q.log_prob(z[:5]), dense.log_prob(z[:5]), rtol=1e-5, atol=1e-5)


def test_a_guide_whose_density_is_spoilt_is_refused_not_reported() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    guide = guides.build("low_rank", model, x)
    with torch.no_grad():
        guide.amortisation.phi["log_scale"].fill_(-60.0)
    with pytest.raises(zoo.ZooError, match="to average to its entropy"):
        experiments.evaluate(model, guide, x)


def test_frozen_puts_the_flags_back() -> None:
    model = zoo.build("gmm", zoo.dataset("faithful").x)
    model.means.requires_grad_(False)
    with frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1


def test_compare_holds_theta_fixed_and_checks_all_guides_first() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    table = experiments.compare(model, x, ["exact", "categorical", "prior"], seed=3)
    assert table.theta.method == "em"
    assert [row.evaluation.evidence.value for row in table.rows] == [table.evidence.value] * 3
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(zoo.ZooError, match=r"guide 'mean_field' does not fit model 'gmm': it needs continuous latents .*"
                                           r"gmm has discrete latents; choose from exact, prior, categorical"):
        experiments.compare(model, x, ["exact", "mean_field"])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(zoo.ZooError, match="expected each guide once; got 'exact' twice"):
        experiments.compare(model, x, ["exact", "exact"])
    with pytest.raises(zoo.ZooError, match="expected at least one guide"):
        experiments.compare(model, x, [])
    with pytest.raises(zoo.ZooError, match="expected a guide of this comparison; got 'full_rank'; it has exact"):
        table.guide("full_rank")


@pytest.mark.parametrize(("text", "message"), [
    ("full_rnak", "unknown guide 'full_rnak'; did you mean 'full_rank'?"), ("mean_field:encodr", "did you mean 'encoder'?"),
    ("exact:free", "expected 'exact' alone"), ("low_rank(0)", "expected the rank of low_rank to be a whole number above 0"),
    ("low_rank(", "expected a guide as family"), ("mean_field(3)", "expected arguments that 'mean_field\\(3\\)' takes"),
    ("mean_field:encoder", "it needs continuous latents and rows that own their latents; eight_schools has latents that all"),
    ("exact", "it needs a model that knows p")])
def test_guides_that_cannot_be_are_refused(text: str, message: str) -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.raises(zoo.ZooError, match=message):
        guides.build(text, zoo.build("eight_schools", x), x)


def test_a_free_guide_serves_only_its_own_units() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x)
    guide = guides.build("mean_field", model, x)
    with pytest.raises(zoo.ZooError, match="expected the 178 units that this free guide has parameters for; got 10"):
        guide.posterior(x[:10])
    assert guides.build("mean_field:encoder", model, x).posterior(x[:10]).batch_shape == (10,)


def test_encoders_take_networks_and_refuse_wrong_shapes() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x)
    guide = guides.build("mean_field:encoder", model, x, network=torch.nn.Linear(13, 4))
    assert guide.posterior(x).event_shape == (2,)
    with pytest.raises(zoo.ZooError, match=r"expected an encoder network from \(units, 13\) to \(units, 4\)"):
        guides.build("mean_field:encoder", model, x, network=torch.nn.Linear(13, 5))


def test_traces_are_per_unit_of_the_fit_they_belong_to() -> None:
    """θ is fitted on more units than the guides are compared on: their lines must still meet log p(x) per unit."""
    from experiments.reporting import figures

    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x)
    table = experiments.compare(model, x, ["mean_field:encoder", "full_rank"], holdout=0.5, steps=200)
    figure = figures.elbo_trace(table)
    level = table.evidence.value / table.units
    lines = [line.get_ydata()[-1] for line in figure.axes[0].lines if len(line.get_ydata()) > 2]
    assert lines
    assert all(abs(float(end) - level) < 2.5 for end in lines)
    assert {row.fit.units for row in table.rows} == {89}


def test_the_elbo_figure_goes_no_deeper_than_its_lines() -> None:
    """A fit that starts at the mode has no way to show below its first step."""
    from experiments.reporting import figures

    x = zoo.dataset("diabetes", "regression", standardise=True).x
    table = experiments.compare(zoo.build("linear_regression", x), x, ["mean_field"])
    [axes] = figures.elbo_trace(table).axes
    lowest = min(float(min(line.get_ydata())) for line in axes.lines)
    (bottom, top), level = axes.get_ylim(), table.evidence.value
    assert lowest - 0.1 * (level - lowest) - 2e-3 <= bottom < level < top


def test_gaps_far_apart_have_ticks_that_can_be_read() -> None:
    from experiments.reporting import figures

    x = zoo.dataset("faithful").x
    table = experiments.compare(zoo.build("ppca", x, latent=1), x, ["exact", "mean_field:encoder", "prior"], steps=100)
    figure = figures.gap_bars(table)
    figure.canvas.draw()
    [axes] = figure.axes
    assert axes.get_xscale() == "symlog"
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_with_a_validation_share_the_elbo_is_still_that_of_all_units() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("ppca", x)
    guide = guides.build("full_rank:encoder", model, x)
    fit = experiments.fit(model, guide, x, train_model=False, steps=400, validation=0.25)
    whole = experiments.evaluate(model, guide, x).elbo.value
    assert fit.elbo == pytest.approx(whole, rel=0.06)
    assert fit.history[-1][1] == pytest.approx(whole, rel=0.06)


def test_held_draws_double_beyond_what_is_evaluated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.inference.fixed_draws import doubling, parts

    x, seen = zoo.dataset("eight_schools").x, []
    normal, log_terms = normal_noise, zoo.Model.log_terms

    def fit() -> experiments.Fit:
        model = zoo.build("eight_schools", x)
        return experiments.fit(model, "full_rank", x, method="fixed_draws", progress=False, start="own")

    def watched(model: zoo.Model, x: Any, z: Tensor) -> Any:
        seen.append(len(z))
        return log_terms(model, x, z)

    monkeypatch.setattr(doubling, "draws_at_start", lambda *_: 64)
    at_once = fit()
    monkeypatch.setattr(parts, "CACHED", 1)
    monkeypatch.setattr(zoo.Model, "log_terms", watched)
    drawn = []
    monkeypatch.setattr(elbo, "normal_noise", lambda draws, *rest: drawn.append(draws) or normal(draws, *rest))
    in_rounds = fit()
    assert max(seen) == parts.FEWEST
    assert max(drawn) > 64
    assert in_rounds.converged
    assert in_rounds.elbo == pytest.approx(at_once.elbo, abs=1e-6)


def test_train_model_false_holds_theta_under_every_method() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    with pytest.raises(zoo.ZooError, match="expected train_model for method em"):
        experiments.fit(model, "exact", x, method="em", train_model=False)
    assert experiments.fit(model, "exact", x, train_model=False).method == "none"


def test_steps_are_the_most_there_are() -> None:
    x = zoo.dataset("eight_schools").x
    assert experiments.fit(zoo.build("eight_schools", x), "mean_field", x, steps=1).steps == 1


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


def test_validation_counts_units_whatever_entry_comes_first() -> None:
    def program(x: dict[str, Tensor]) -> None:
        with pyro.plate("rows", len(x["y"])):
            z = pyro.sample("z", dist.Normal(x["y"].new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z, x["sigma"]), obs=x["y"])

    y, sigma = rows(60, 1)[:, 0], torch.tensor(0.5, dtype=torch.double)
    elbos = [
        experiments.fit(program, "mean_field:encoder", x, steps=40, validation=0.2, seed=0).elbo
        for x in ({"sigma": sigma, "y": y}, {"y": y, "sigma": sigma})]
    assert elbos[0] == elbos[1]


def test_states_hold_running_statistics() -> None:
    network = nn.Sequential(nn.Linear(13, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
    model = zoo.build("linear_vae", WINE)
    guide = guides.build("mean_field:encoder", model, WINE, network=network)
    with pytest.warns(zoo.ZooWarning, match="the start is kept"):
        done = experiments.fit(model, guide, WINE, steps=5, learning_rate=1e300)
    assert done.states is not None
    assert torch.equal(network[1].running_mean, torch.zeros(8, dtype=torch.double))
    done.states.use("last")
    assert not torch.equal(network[1].running_mean, torch.zeros(8, dtype=torch.double))


@pytest.mark.parametrize(("options", "text"), [
    ({"learning_rate": "0.1"}, "expected learning_rate as a number; got '0.1'"),
    ({"batch_size": 2.5}, "expected batch_size as a whole number from 1; got 2.5"),
    ({"clip": "a"}, "expected clip as a number"),
    ({"warm_up": float("nan")}, "expected warm_up as a whole number"), ({"patience": None}, "expected patience as a whole"),
    ({"validation": "a tenth"}, "expected validation as a number"), ({"objective": None}, "expected objective as text"),
    ({"view": 3}, "expected view as a function"), ({"steps": True}, "expected steps as a whole number")])
def test_options_of_the_wrong_type_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        experiments.fit(zoo.build("linear_vae", WINE), "mean_field:encoder", WINE, **options)


@pytest.mark.parametrize(("options", "text"), [
    ({"draws": 0}, "draws as a whole number from 1; got 0"), ({"draws": 1.5}, "draws as a whole number from 1; got 1.5"),
    ({"seed": 2**64}, "seed as a whole number from 0 to"), ({"seed": -1}, "seed as a whole number from 0 to"),
    ({"batch_size": 2}, "expected method svi with batch_size; got fixed_draws")])
def test_options_of_fit(options: dict[str, object], text: str) -> None:
    def shared(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    with pytest.raises(zoo.ZooError, match=text):
        experiments.fit(shared, "mean_field", X, **options)
