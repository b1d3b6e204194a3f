"""Pyro's own guides, and hand-written ones, where a guide of ours is asked for."""

from __future__ import annotations

import io
import math
import random
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import iterated, planar
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import experiments
import guides
import zoo
from experiments.log_evidence.log_weights import log_weights
from guides.pyro_guide.guide import ProgramGuide, as_guide
from tests.contracts.cases import case
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model

WINE = zoo.dataset("wine", standardise=True).tensor

SE = 5  # standard errors that a true claim may miss by, with fixed seeds

AUTO = [
    autoguide.AutoNormal, autoguide.AutoDiagonalNormal, autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal, autoguide.AutoIAFNormal, autoguide.AutoStructured]


def coin(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(x.new_tensor(2.0), 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def coin_guide(x: Tensor) -> None:
    heads = pyro.param("heads", x.new_tensor(3.0), constraint=constraints.positive)
    pyro.sample("p", dist.Beta(heads, pyro.param("tails", x.new_tensor(2.0), constraint=constraints.positive)))


def flips() -> Tensor:
    return torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.double)


@cache
def one_unit(name: str) -> tuple[Model, Data]:
    """Return a model and its data; of the logistic regression 60 rows and 5 columns."""
    model, x = case(name)
    if name != "logistic_regression":
        return model, x
    assert not isinstance(x, Tensor)
    x = {"X": x["X"][:60, :5], "y": x["y"][:60]}
    return zoo.build(name, x), x


def wrap(model: Model, program: Any, x: Data) -> ProgramGuide:
    guide = as_guide(model, program, x)
    assert isinstance(guide, ProgramGuide)
    return guide


def moved(guide: ProgramGuide, seed: int = 3) -> ProgramGuide:
    """Move φ off its start, where scales are equal and covariances zero."""
    with zoo.seeded(seed), torch.no_grad():
        for p in guide.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return guide


def drawn(guide: Any, x: Data, draws: int = 16, seed: int = 0) -> tuple[Any, Tensor, Tensor]:
    with zoo.seeded(seed):
        q = guide.posterior(x)
        return (q, *q.rsample_and_log_prob((draws,)))


def loc_scale(guide: ProgramGuide, model: Model, x: Data) -> tuple[Tensor, Tensor]:
    """Return loc and scale of AutoNormal or AutoDiagonalNormal in the units' coordinates, (units, d) each."""
    auto, units, sites = guide.program, model.latents(x).units, model.latents(x).sites
    if isinstance(auto, autoguide.AutoNormal):
        pairs = [auto._get_loc_and_scale(site.name) for site in sites]
    else:
        base = auto.get_posterior(x).base_dist
        sizes = [site.size * units for site in sites]
        pairs = list(zip(base.loc.split(sizes), base.scale.split(sizes), strict=True))
    loc, scale = (torch.cat([part.detach().reshape(units, -1) for part in parts], 1) for parts in zip(*pairs, strict=True))
    return loc, scale


def ours(text: str, model: Model, x: Data, **phi: Tensor) -> Any:
    guide: Any = guides.build(text, model, x)
    with torch.no_grad():
        for name, value in phi.items():
            guide.amortisation.phi[name].copy_(value.reshape(guide.amortisation.phi[name].shape))
    return guide


class ExactPPCA(PyroModule):
    """An encoder for PPCA that has learnt the exact posterior: loc = A (x − μ), scale_tril = L."""

    def __init__(self, model: Any, x: Tensor):
        super().__init__()
        q = model.posterior(x)
        weights = torch.linalg.lstsq(x - model.loc, q.mean).solution.detach()
        self.encoder = nn.Linear(x.shape[1], 2).double()
        with torch.no_grad():
            self.encoder.weight.copy_(weights.T)
            self.encoder.bias.copy_(-model.loc @ weights)
        self.scale_tril = nn.Parameter(q.scale_tril[0].detach().clone())

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.encoder(x), scale_tril=self.scale_tril))


# --- densities against closed forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("auto", [autoguide.AutoNormal, autoguide.AutoDiagonalNormal])
@pytest.mark.parametrize("name", ["eight_schools", "logistic_regression", "bayesian_gmm", "ppca", "factor_analysis"])
def test_diagonal_guides_equal_mean_field(name: str, auto: Any) -> None:
    model, x = one_unit(name)
    guide = moved(wrap(model, auto, x))
    loc, scale = loc_scale(guide, model, x)
    q, z, log_q = drawn(guide, x)
    same = ours("mean_field", model, x, loc=loc, log_scale=scale.log()).posterior(x).log_prob(z)
    assert log_q.shape == (16, model.latents(x).units)
    torch.testing.assert_close(log_q, same, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(q.log_prob(z.clone()), same, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", ["eight_schools", "logistic_regression", "bayesian_gmm"])
def test_multivariate_normal_equals_full_rank(name: str) -> None:
    model, x = one_unit(name)
    guide = moved(wrap(model, autoguide.AutoMultivariateNormal, x))
    normal = guide.program.get_posterior(x)
    factor = normal.scale_tril.detach()
    rows, columns = torch.tril_indices(len(factor), len(factor))
    tril = torch.where(rows == columns, factor[rows, columns].abs().log(), factor[rows, columns])
    q, z, log_q = drawn(guide, x)
    same = ours("full_rank", model, x, loc=normal.loc, tril=tril).posterior(x).log_prob(z)
    torch.testing.assert_close(log_q, same, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(q.log_prob(z.clone()), same, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("name", ["eight_schools", "logistic_regression"])
def test_stock_elbo_agrees(name: str, auto: Any) -> None:
    model, x = one_unit(name)
    guide = moved(wrap(model, auto, x))
    elbo = log_weights(model, guide, x, 4096).elbo()
    with zoo.seeded(1), pyro.get_param_store().scope(), torch.no_grad():
        loss = pyro.infer.Trace_ELBO()
        losses = -torch.tensor([loss.loss(model, guide, x) for _ in range(200)], dtype=torch.double)
    error = math.hypot(float(losses.std()) / math.sqrt(len(losses)), elbo.se)
    assert abs(float(losses.mean()) - elbo.value) < SE * error


@pytest.mark.parametrize("auto", [a for a in AUTO if a is not autoguide.AutoStructured])
def test_density_at_a_point_is_the_draw_s_own(auto: Any) -> None:
    model, x = one_unit("eight_schools")
    q, z, log_q = drawn(moved(wrap(model, auto, x)), x)
    torch.testing.assert_close(q.log_prob(z.clone()), log_q, rtol=1e-10, atol=1e-10)
    assert q.log_prob(z) is log_q


def test_values_change_to_the_model_s_coordinates() -> None:
    """q(p) = Beta(3, 2) in p; in z = logit p its density is Beta(p | 3, 2) p (1 − p)."""
    x = flips()
    model = zoo.as_model(coin)
    with pytest.warns(ZooWarning, match="'coin_guide' can't run under vmap and will be run draw by draw"):
        guide = wrap(model, coin_guide, x)
    q, z, log_q = drawn(guide, x)
    p = z.sigmoid()
    expected = (dist.Beta(q.guide.params["heads"].exp(), 2.0).log_prob(p) + p.log() + (-p).log1p()).sum(-1)
    torch.testing.assert_close(log_q, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.log_prob(z.clone()), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        guide.params["heads"].fill_(math.log(5.0))
        guide.params["tails"].fill_(math.log(3.0))
    log_weight = log_weights(model, guide, x, 32).log_weight  # q is now the posterior, Beta(2 + 3, 2 + 1)
    evidence = math.lgamma(4) - 2 * math.lgamma(2) + math.lgamma(5) + math.lgamma(3) - math.lgamma(8)
    torch.testing.assert_close(log_weight, torch.full_like(log_weight, evidence), rtol=1e-10, atol=1e-10)


def test_coordinates_that_saturate_keep_their_digits() -> None:
    """At z = 34 the value 1 − 2e-15 holds hardly a digit of z."""
    x, model = flips(), zoo.as_model(coin)
    guide = wrap(model, autoguide.AutoNormal, x)
    with torch.no_grad():
        guide.program.locs.p_unconstrained.fill_(34.0)
    _, z, log_q = drawn(guide, x)
    expected = dist.Normal(*loc_scale(guide, model, x)).log_prob(z).sum(-1)
    torch.testing.assert_close(log_q, expected, rtol=1e-12, atol=1e-10)


def test_exact_encoder_has_no_gap() -> None:
    model, x = case("ppca")
    assert isinstance(x, Tensor)
    guide = wrap(model, ExactPPCA(model, x), x)
    q, z, log_q = drawn(guide, x)
    evidence = model.log_evidence(x).detach()
    torch.testing.assert_close((model.log_joint(x, z) - log_q).detach(), evidence.expand(16, -1), rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(q.log_prob(z.clone()), model.posterior(x).log_prob(z), rtol=1e-9, atol=1e-9)
    part = guide.posterior(x[5:12], torch.arange(5, 12))
    assert guide.minibatches
    assert guide.new_units
    torch.testing.assert_close(part.log_prob(z[:, 5:12]), log_q[:, 5:12])


def test_plates_are_matched_by_place_where_names_differ() -> None:
    model, x = case("ppca")

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", x[:, :2] / 10)
        with pyro.plate("others", len(x)):
            pyro.sample("z", dist.Normal(loc, 2.0).to_event(1))

    _, z, log_q = drawn(wrap(model, guide, x), x)
    assert isinstance(x, Tensor)
    torch.testing.assert_close(log_q, dist.Normal(x[:, :2] / 10, 2.0).to_event(1).log_prob(z))


def test_outer_unit_plates_and_several_sites() -> None:
    """Units in a plate at −2, with latents of their own and latents in an inner plate."""
    x = torch.randn(7, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))

    def program(x: Tensor) -> None:
        with pyro.plate("rows", 7, dim=-2):
            scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(7, 1), 1.0))
            with pyro.plate("times", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x: Tensor, name: str = "rows") -> None:
        with pyro.plate(name, 7, dim=-2):
            pyro.sample("scale", dist.LogNormal(x.mean(1, keepdim=True), 0.5))
            with pyro.plate("times", 3, dim=-1):
                pyro.sample("z", dist.Normal(x, 0.3))

    model = zoo.as_model(program)
    _, z, log_q = drawn(wrap(model, guide, x), x)
    torch.testing.assert_close(drawn(wrap(model, partial(guide, name="others"), x), x)[2], log_q)
    values = model.constrain(x, z)
    assert log_q.shape == (16, 7)
    expected = (
        dist.LogNormal(x.mean(1, keepdim=True), 0.5).log_prob(values["scale"])[..., 0] + z[..., 0]
        + dist.Normal(x, 0.3).log_prob(values["z"]).sum(-1))
    torch.testing.assert_close(log_q, expected)
    same, w, log_w = drawn(moved(wrap(model, autoguide.AutoNormal, x)), x)
    loc, scale = loc_scale(same.guide, model, x)
    torch.testing.assert_close(log_w, dist.Normal(loc, scale).to_event(1).log_prob(w), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("name", "logits"), [("Categorical", True), ("AutoDiscreteParallel", False)])
def test_discrete_sites_are_enumerated(name: str, logits: bool) -> None:
    model, x = case("gmm")

    def by_hand(x: Tensor) -> None:
        scores = pyro.param("scores", torch.stack([x[:, 0], x.new_zeros(len(x))], 1))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Categorical(logits=scores))

    guide = wrap(model, by_hand if logits else autoguide.AutoDiscreteParallel, x)
    with torch.no_grad():
        if logits:
            guide.params["scores"].copy_(model.posterior(x).logits)
        else:
            guide.program.z_probs = pyro.nn.PyroParam(model.posterior(x).probs, constraints.simplex)
    weights = log_weights(model, guide, x)
    assert weights.enumerated
    assert weights.elbo().value == pytest.approx(float(model.log_evidence(x).sum().detach()), rel=1e-9)


def test_masked_observations_match_ours() -> None:
    """With obs_mask Pyro adds a latent x_unobserved; AutoNormal's density of it is mean_field's."""
    x = {"x": torch.randn(6, dtype=torch.double), "known": torch.tensor([True, False] * 3)}

    def program(x: dict[str, Tensor]) -> None:
        loc = pyro.sample("loc", dist.Normal(x["x"].new_zeros(()), 1.0))
        with pyro.plate("rows", 6):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x["x"], obs_mask=x["known"])

    model = zoo.as_model(program)
    guide = moved(wrap(model, autoguide.AutoNormal, x))
    _, z, log_q = drawn(guide, x)
    loc, scale = loc_scale(guide, model, x)
    torch.testing.assert_close(log_q, dist.Normal(loc, scale).to_event(1).log_prob(z), rtol=1e-12, atol=1e-10)


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fn", "vectorised"), [
    (lambda: dist.Normal(0.3, 2.0), True), (lambda: dist.Laplace(0.3, 2.0), True), (lambda: dist.StudentT(5.0, 0.3), True),
    (lambda: dist.Cauchy(0.3, 2.0), True), (lambda: dist.Gumbel(0.3, 2.0), True),
    (lambda: dist.TransformedDistribution(dist.Gamma(3.0, 1.0), [dist.transforms.ExpTransform().inv]), True),
    (lambda: dist.TransformedDistribution(dist.Beta(2.0, 3.0), [dist.transforms.SigmoidTransform().inv]), False),
    pytest.param(lambda: dist.Stable(torch.tensor(1.7), torch.tensor(0.0)), False, marks=pytest.mark.long)])
def test_draws_are_independent_and_of_their_distribution(fn: Callable[[], Any], vectorised: bool) -> None:
    """Quartiles of 4,000 draws, and no correlation between neighbours, whether vmap drew them or a loop."""

    def program(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 5.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", fn())

    x, model = torch.tensor(0.5, dtype=torch.double), zoo.as_model(program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not vectorised else "error")
        wrapped = wrap(model, guide, x)
        with zoo.seeded(2):
            z, _ = wrapped.draw(x, 1, 4000)
    assert wrapped._draws.vectorised is vectorised
    with zoo.seeded(3):
        reference = fn().sample((100_000,)).double()
    quartiles = torch.quantile(reference, torch.tensor([0.25, 0.5, 0.75]).double())
    below = (z.flatten()[:, None] < quartiles).double().mean(0)
    error = torch.tensor([0.25, 0.5, 0.75]).double().mul(torch.tensor([0.75, 0.5, 0.25])).div(4000).sqrt()
    assert bool(((below - torch.tensor([0.25, 0.5, 0.75])).abs() < SE * error).all())
    ranks = z.flatten().argsort().argsort().double()
    assert abs(float(torch.corrcoef(torch.stack([ranks[1:], ranks[:-1]]))[0, 1])) < SE / math.sqrt(4000)


def test_samplers_of_another_generator_are_looped() -> None:
    """Under vmap this one would give every draw the same value."""

    class Foreign(dist.Normal):
        def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return self.loc + self.scale * random.gauss(0.0, 1.0)

    def guide(x: Tensor) -> None:
        pyro.sample("p", dist.TransformedDistribution(Foreign(x.new_zeros(()), 1.0), [dist.transforms.SigmoidTransform()]))

    with pytest.warns(ZooWarning, match="it would draw the same value in every draw"):
        wrapped = wrap(zoo.as_model(coin), guide, flips())
    z, _ = wrapped.draw(flips(), 1, 8)
    assert len(z.unique()) == 8


def test_draws_leave_torch_s_generator_to_its_seed() -> None:
    model, x = one_unit("eight_schools")
    before = torch.get_rng_state()
    guide = wrap(model, autoguide.AutoIAFNormal, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn(guide, x)[1], drawn(guide, x)[1])
    assert not torch.equal(drawn(guide, x)[1], drawn(guide, x, seed=1)[1])


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("name", ["eight_schools", "logistic_regression"])
def test_gradient_reaches_every_parameter_and_training_raises_the_elbo(name: str, auto: Any) -> None:
    model, x = one_unit(name)
    guide = wrap(model, auto, x)
    before = log_weights(model, guide, x, 1024).elbo()
    optimiser = torch.optim.Adam(guide.parameters(), lr=0.02)
    with zoo.seeded(0):
        for _ in range(60):
            optimiser.zero_grad()
            z, log_q = guide.posterior(x).rsample_and_log_prob((8,))
            (log_q - model.log_joint(x, z)).mean().backward()
            assert all(bool(p.grad is not None and p.grad.isfinite().all()) for p in guide.parameters())
            optimiser.step()
    dead = [k for k, p in guide.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not dead
    after = log_weights(model, guide, x, 1024).elbo()
    assert after.value > before.value + SE * math.hypot(before.se, after.se)


def test_gradient_flows_through_log_prob_at_a_point() -> None:
    """Sticking the landing: with φ held fixed in log q, the gradient goes through z alone."""
    model, x = one_unit("eight_schools")
    guide = moved(wrap(model, autoguide.AutoNormal, x))
    _, z, _ = drawn(guide, x)
    loc, scale = loc_scale(guide, model, x)
    point = z.detach().requires_grad_()
    gradient, = torch.autograd.grad(guide.posterior(x).log_prob(point).sum(), point)
    torch.testing.assert_close(gradient, -(point.detach() - loc) / scale.square(), rtol=1e-9, atol=1e-9)


def test_a_sample_without_gradient_is_scored_anew_where_a_gradient_is_asked() -> None:
    model, x = one_unit("eight_schools")
    q = wrap(model, autoguide.AutoNormal, x).posterior(x)
    z = q.sample((4,))
    assert not z.requires_grad
    assert q.log_prob(z).requires_grad
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad


def test_sites_without_reparameterisation_are_told() -> None:
    def guide(x: Tensor) -> None:
        weights = pyro.param("weights", x.new_zeros(2))
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=weights), dist.Normal(x.new_zeros(2), 1.0)))

    def program(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)), 1.0), obs=x)

    x = torch.tensor(0.5, dtype=torch.double)
    q: Any = wrap(zoo.as_model(program), guide, x).posterior(x)
    assert not q.has_rsample
    assert q.log_prob(q.sample((3,))).shape == (3, 1)
    with pytest.raises(NotImplementedError, match="'guide' has a site that is not reparameterised"):
        q.rsample((3,))


@pytest.mark.parametrize("make", [
    lambda: autoguide.AutoNormal, lambda: autoguide.AutoIAFNormal, lambda: autoguide.AutoLowRankMultivariateNormal])
def test_state_dict_round_trips(make: Callable[[], Any]) -> None:
    model, x = one_unit("eight_schools")
    guide = moved(wrap(model, make(), x))
    file = io.BytesIO()
    torch.save(guide.state_dict(), file)
    file.seek(0)
    other = wrap(model, make(), x)
    other.load_state_dict(torch.load(file, weights_only=True))
    _, z, log_q = drawn(guide, x)
    torch.testing.assert_close(other.posterior(x).log_prob(z), log_q, rtol=1e-12, atol=1e-10)


def test_wrappings_of_one_function_have_their_own_parameters_and_the_store_stays_empty() -> None:
    model, x = case("ppca")

    def guide(x: Tensor) -> None:
        loc = pyro.param("q.loc", x.new_zeros(2))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc, pyro.param("scale", x.new_ones(2), constraint=constraints.positive)).to_event(1))

    first, second = wrap(model, guide, x), wrap(model, guide, x)
    assert sorted(first.state_dict()) == ["params.q/loc", "params.scale"]
    moved(first)
    drawn(first, x)
    assert not torch.equal(first.params["q/loc"], second.params["q/loc"])
    assert not pyro.get_param_store().keys()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    _, z, log_q = drawn(first, x)
    torch.testing.assert_close(second.posterior(x).log_prob(z), log_q)


@pytest.mark.parametrize("auto", [autoguide.AutoNormal, autoguide.AutoStructured])
def test_theta_of_a_bare_model_does_not_become_phi(auto: Any) -> None:
    def program(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(pyro.param("theta", x.new_zeros(())), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = flips()
    model = zoo.as_model(program)
    model.latents(x)
    guide = wrap(model, auto(program), x)
    assert {"module.locs.z_unconstrained", "module.scales.z_unconstrained"} <= dict(guide.named_parameters()).keys()
    assert all(name.startswith("module.") for name, _ in guide.named_parameters())
    assert [name for name, _ in model.named_parameters()] == ["params.theta"]


def stock_svi(model: Model, auto: Any, x: Data, steps: int) -> Any:
    """Train an AutoGuide by Pyro's own SVI; return it, ready for more steps."""
    svi = pyro.infer.SVI(model, auto, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
    for _ in range(steps):
        svi.step(x)
    return svi


def test_a_guide_that_has_run_elsewhere_keeps_its_names_and_values() -> None:
    """Trained by stock SVI first, wrapped, and used by stock Pyro again: it is the user's object."""
    model, x = one_unit("eight_schools")
    auto = autoguide.AutoNormal(model)
    with pyro.get_param_store().scope(), zoo.seeded(0):
        svi = stock_svi(model, auto, x, 5)
        loc = auto.locs.mu.detach().clone()
        guide = wrap(model, auto, x)
        assert torch.equal(auto.locs.mu.detach(), loc)
        assert set(pyro.get_param_store().keys()) == {f"AutoNormal.{kind}.{site}" for kind in ("locs", "scales")
                                                      for site in ("mu", "tau", "eta")}
        svi.step(x)
        assert not torch.equal(loc_scale(guide, model, x)[0][0, 0], loc)


@pytest.mark.parametrize("program", ["AutoNormal", "function", "module"])
def test_stock_svi_trains_the_wrapper(program: str) -> None:
    model, x = case("ppca")
    assert isinstance(x, Tensor)

    def function(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", x.new_zeros(2)), 1.0).to_event(1))

    chosen = {"AutoNormal": autoguide.AutoNormal, "function": function, "module": ExactPPCA(model, x)}[program]
    guide = wrap(model, chosen, x)
    before = [p.detach().clone() for p in guide.parameters()]
    with zoo.seeded(0), pyro.get_param_store().scope():
        theta = {k: v.clone() for k, v in model.state_dict().items()}
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO()).step(x)
        model.load_state_dict(theta)
    assert all(not torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def test_the_tutorial_s_method_guide_with_pyro_module() -> None:
    """A bound method that registers its encoder by pyro.module: the network's parameters are φ."""

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(13, 2).double()

        def guide(self, x: Tensor) -> None:
            pyro.module("encoder", self.encoder)
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    model, x = case("ppca")
    vae = VAE()
    guide = wrap(model, vae.guide, x)
    assert {id(p) for p in guide.parameters()} == {id(p) for p in vae.parameters()}
    assert guide.minibatches
    _, z, log_q = drawn(guide, x)
    (log_q - model.log_joint(x, z)).mean().backward()
    assert bool(vae.encoder.weight.grad.abs().sum() > 0)  # type: ignore[union-attr]
    for p in model.parameters():
        p.grad = None


def test_guides_composed_of_parts() -> None:
    model, x = one_unit("eight_schools")
    auto = autoguide.AutoGuideList(model)
    auto.append(autoguide.AutoMultivariateNormal(poutine.block(model, expose=["mu", "tau"])))
    auto.append(autoguide.AutoNormal(poutine.block(model, expose=["eta"])))
    q, z, log_q = drawn(moved(wrap(model, auto, x)), x)
    first = auto[0].get_posterior(x)
    second = dist.Normal(*auto[1]._get_loc_and_scale("eta")).to_event(1)
    torch.testing.assert_close(log_q[:, 0], first.log_prob(z[:, 0, :2]) + second.log_prob(z[:, 0, 2:]))
    torch.testing.assert_close(q.log_prob(z.clone()), log_q)


def test_flows_by_hand() -> None:
    model, x = one_unit("eight_schools")
    auto = autoguide.AutoNormalizingFlow(model, partial(iterated, 2, planar))
    guide = wrap(model, auto, x)
    _, z, log_q = drawn(guide, x)
    assert z.dtype == torch.double
    assert bool((model.log_joint(x, z) - log_q).isfinite().all())
    with pytest.raises(ZooError, match="got 'AutoNormalizingFlow', which can't be inverted"):
        guide.posterior(x).log_prob(z.clone())


def test_laplace_approximation_is_a_guide() -> None:
    model, x = one_unit("logistic_regression")
    auto = autoguide.AutoLaplaceApproximation(model)
    with pyro.get_param_store().scope(), zoo.seeded(0):
        stock_svi(model, auto, x, 300)
        normal = auto.laplace_approximation(x)
    guide = wrap(model, normal, x)
    elbo = log_weights(model, guide, x, 2048).elbo()
    assert guide.size == 0
    assert elbo.value == pytest.approx(log_weights(model, guides.build("prior", model, x), x, 512).elbo().value, rel=10)
    assert elbo.se < 0.2


# --- what is refused --------------------------------------------------------------------------------------------------


def ppca_guide(**options: Any) -> Callable[[Tensor], None]:
    """Return a guide of PPCA with one thing wrong."""

    def guide(x: Tensor) -> None:
        normal = dist.Normal(x.new_zeros(len(x), 2), 1.0)
        if options.get("outside"):
            pyro.sample("z", normal.to_event(2))
            return
        if options.get("shared"):
            pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0), infer={"is_auxiliary": options["shared"] == "auxiliary"})
        plate = pyro.plate("rows", len(x), subsample_size=options.get("subsample"))
        with plate, poutine.scale(scale=options.get("scale", 1.0)), poutine.mask(mask=options.get("mask", True)):
            if options.get("narrow"):
                pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            elif options.get("point"):
                pyro.sample("z", dist.Delta(pyro.param("point", x.new_zeros(len(x), 2)), event_dim=1))
            elif options.get("name"):
                pyro.sample(options["name"], normal.to_event(1))
            else:
                pyro.sample("z", normal.to_event(1), obs=x[:, :2] if options.get("observed") else None)

    return guide


@pytest.mark.parametrize(("options", "message"), [
    ({"outside": True}, "expected every site of 'guide' in plate 'rows', whose rows own their latents; got 'z' outside; use "
                        "full_rank, which does this unit by unit, or AutoNormal"),
    ({"shared": True}, "expected the guide 'guide' to sample z; got u, z; name its sites after"),
    ({"shared": "auxiliary"}, "expected 'guide' to draw its latents alone; got 1 auxiliary number"),
    ({"scale": 0.5}, "expected a density at every site of 'guide'; got 'z' scaled, masked or subsampled"),
    ({"mask": torch.arange(60) < 30}, "expected a density at every site of 'guide'; got 'z' scaled, masked or subsampled"),
    ({"narrow": True}, "expected site 'z' of 'guide' in the model's shape (60, 2); got (60, 1); match its plates"),
    ({"point": True}, "expected a guide with a density; got 'guide', a point estimate (Delta) at site 'z'; use another"),
    ({"name": "y"}, "expected the guide 'guide' to sample z; got y; name its sites after"),
    ({"observed": True}, "expected the guide 'guide' to sample z; got z, observed")])
def test_refused_programs(options: dict[str, Any], message: str) -> None:
    model, x = case("ppca")
    with pytest.raises(ZooError) as error:
        as_guide(model, ppca_guide(**options), x)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("auto", "message"), [
    (autoguide.AutoMultivariateNormal, "got '_AutoMultivariateNormal_latent' outside; use full_rank, which does"),
    (autoguide.AutoIAFNormal, "got '_AutoIAFNormal_latent' outside"),
    (autoguide.AutoDelta, "expected a guide with a density; got 'AutoDelta', a point estimate (Delta) at site 'z'"),
    (autoguide.AutoLaplaceApproximation, "expected a guide with a density; got 'AutoLaplaceApproximation', a point estimate"),
    (autoguide.AutoNormalizingFlow, "expected AutoNormalizingFlow to take the model alone"),
    (PyroSample, "expected a guide: its name, or a Pyro program of x; got the class PyroSample"),
    (3, "expected a guide: its name, or a Pyro program of x; got int"),
    (lambda x, y: None, "expected a guide program of the arguments of ppca; got <lambda>(x, y)")])
def test_refused_kinds(auto: Any, message: str) -> None:
    model, x = case("ppca")
    with pytest.raises(ZooError) as error:
        as_guide(model, auto, x)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_refused_guides_of_another_model() -> None:
    model, x = case("ppca")
    for other in (zoo.build("ppca", x), coin):
        with pytest.raises(ZooError, match="expected AutoNormal of this ppca; got one built for another model"):
            as_guide(model, autoguide.AutoNormal(other), x)


def test_refused_theta_among_phi() -> None:
    class Holds(PyroModule):
        def __init__(self, model: Model):
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    _, x = case("ppca")
    model = zoo.build("ppca", x)
    with pytest.raises(ZooError, match="expected 'Holds' to have parameters of its own; got 'loc' of ppca among them"):
        as_guide(model, Holds(model), x)


def test_refused_minibatches_and_other_units() -> None:
    model, x = case("ppca")
    guide = wrap(model, autoguide.AutoNormal, x)
    assert not guide.minibatches
    assert not guide.new_units
    for args in ((x[:7], torch.arange(7)), (x[:7],)):
        with pytest.raises(ZooError, match="expected the 60 units that 'AutoNormal' has parameters for; got 7"):
            guide.posterior(*args)


def test_refused_supports_that_move() -> None:
    def program(x: Tensor) -> None:
        top = pyro.sample("top", dist.LogNormal(x.new_zeros(()), 1.0))
        u = pyro.sample("u", dist.Uniform(0.0, top))
        pyro.sample("x", dist.Normal(u, 1.0), obs=x)

    x, model = torch.tensor(0.5, dtype=torch.double), zoo.as_model(program)
    with pytest.raises(ZooError, match="expected latents of fixed support for 'AutoNormal'; got 'u', whose support changes"):
        as_guide(model, autoguide.AutoNormal, x)

    def guide(x: Tensor) -> None:
        top = pyro.sample("top", dist.LogNormal(x.new_zeros(()), 0.5))
        pyro.sample("u", dist.Uniform(0.0, top))

    q, z, log_q = drawn(wrap(model, guide, x), x)
    share = z[..., 1].sigmoid()
    expected = dist.Normal(0.0, 0.5).log_prob(z[..., 0]) + share.log() + (-share).log1p()
    torch.testing.assert_close(log_q, expected)
    torch.testing.assert_close(q.log_prob(z.clone()), expected)


def test_refused_density_where_a_point_does_not_tell_the_auxiliary_values() -> None:
    model, x = one_unit("eight_schools")
    q, z, _ = drawn(wrap(model, autoguide.AutoStructured, x), x)
    with pytest.raises(ZooError, match="expected a guide whose log-density is known at any z; got 'AutoStructured', whose"):
        q.log_prob(z.clone())


def test_ours_pass_through() -> None:
    model, x = case("ppca")
    own = guides.build("mean_field", model, x)
    assert as_guide(model, own, x) is own
    assert as_guide(model, "full_rank", x) == "full_rank"
    assert "AutoNormal, model=ppca" in repr(wrap(model, autoguide.AutoNormal, x))


def test_a_discrete_guide_for_a_continuous_latent_is_refused() -> None:
    model = zoo.build("linear_vae", WINE)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5).to(x)).to_event(1))

    with pytest.raises(zoo.ZooError, match="expected a density at site 'z' of 'guide', whose latent is continuous; got a"):
        experiments.evaluate(model, guide, WINE)


def test_a_module_serves_one_seed() -> None:
    class Own(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(2, dtype=torch.double))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))

    model = zoo.build("linear_vae", WINE)
    with pytest.raises(zoo.ZooError, match="expected a guide that each seed can start anew; got 'Own', which is built"):
        experiments.fit_seeds(model, Own(), WINE, seeds=range(2), steps=2)
    assert len(experiments.fit_seeds(model, Own(), WINE, seeds=[1], steps=2, method="svi")) == 1


def test_a_model_that_is_held_fixed_stays_so() -> None:
    model = zoo.build("ppca", WINE)
    for p in model.parameters():
        p.requires_grad_(False)
    wrap(model, autoguide.AutoNormal, WINE)
    assert not any(p.requires_grad for p in model.parameters())
