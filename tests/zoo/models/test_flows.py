"""Normalising flows: maps that invert, densities that integrate to one, and a model whose latents are functions of x."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import experiments
import guides
import zoo
from zoo.errors import ZooError
from zoo.models.flow import Flow
from zoo.models.vae import VAE
from zoo.nn.flows import FLOWS, Composition, FlowDistribution, build_flow, compose, standardise

SE = 5
TRAIN = 1500
LAYERS = 3
KINDS = pytest.mark.parametrize("kind", FLOWS)


def moons() -> Tensor:
    x = zoo.dataset("two_moons").x
    assert isinstance(x, Tensor)
    return x


@cache
def trained(kind: str) -> tuple[Flow, float, experiments.Fit]:
    """A flow after a short training on two moons, log p(x) before it, and the fit. Shared: do not move θ."""
    x = moons()[:TRAIN]
    model = zoo.build("flow", x, kind=kind, layers=LAYERS, hidden=(32, 32))
    assert isinstance(model, Flow)
    before = float(model.log_evidence(x).sum().detach())
    return model, before, experiments.fit(model, "exact", x, steps=250, learning_rate=0.005)


@cache
def wide(kind: str) -> tuple[Flow, Tensor]:
    """Thirteen columns, an odd number, after a few steps."""
    x = zoo.dataset("wine").x
    model = zoo.build("flow", x, kind=kind, layers=2, hidden=(16,))
    experiments.fit(model, "exact", x, steps=40, learning_rate=0.02)
    assert isinstance(model, Flow)
    return model, x


@cache
def grid(half: float = 8.0, nodes: int = 200) -> tuple[Tensor, float]:
    """Return the points of a square grid (nodes², 2), and the area of one cell."""
    axis = torch.linspace(-half, half, nodes, dtype=torch.double)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


# -- the map -------------------------------------------------------------------------------------------------------------


@KINDS
@torch.no_grad()
def test_generate_inverts_normalise_after_training(kind: str) -> None:
    model, _, _ = trained(kind)
    with zoo.seeded(0):
        base = torch.randn(2000, 2, dtype=torch.double)
    for x in (moons(), 3 * base):  # the data, and points far from them
        torch.testing.assert_close(model.generate(model.normalise(x)), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.normalise(model.generate(base)), base, rtol=0, atol=1e-9)


@KINDS
@torch.no_grad()
def test_generate_inverts_normalise_in_single_precision(kind: str) -> None:
    source, _, _ = trained(kind)
    x = moons().float()
    model = zoo.build("flow", x, kind=kind, layers=LAYERS, hidden=(32, 32))
    model.load_state_dict(source.state_dict())
    assert isinstance(model, Flow)
    z = model.normalise(x)
    assert z.dtype == torch.float32
    torch.testing.assert_close(model.generate(z), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(z.double(), source.normalise(moons()), rtol=0, atol=1e-4)


@KINDS
@torch.no_grad()
def test_generate_inverts_normalise_in_many_dimensions(kind: str) -> None:
    model, x = wide(kind)
    spread = x.std(0)
    torch.testing.assert_close(model.generate(model.normalise(x)) / spread, x / spread, rtol=0, atol=1e-9)
    stacked = x[:12].reshape(3, 4, -1)  # any batch shape
    torch.testing.assert_close(model.normalise(stacked), model.normalise(x[:12]).reshape(3, 4, -1))


def log_abs_det(model: Flow, x: Tensor) -> Tensor:
    """log|det ∂z_0/∂x| of each row, from autograd's Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda rows: model.normalise(rows).sum(0), x)
    return torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet


@KINDS
@pytest.mark.parametrize("columns", [2, 13])
def test_log_abs_det_is_that_of_the_jacobian(kind: str, columns: int) -> None:
    model, x = (trained(kind)[0], moons()[:12]) if columns == 2 else (wide(kind)[0], wide(kind)[1][:6])
    truth = log_abs_det(model, x)
    found = Composition.of(model.transform(), x)
    torch.testing.assert_close(torch.stack(found.log_abs_dets).sum(0), truth, rtol=1e-9, atol=1e-9)
    base = -0.5 * (model.normalise(x).square().sum(1) + columns * math.log(2 * math.pi))
    torch.testing.assert_close(model.log_evidence(x), base + truth, rtol=1e-9, atol=1e-9)
    assert float(truth.std()) > 0.01, "a volume that is the same everywhere would be an affine map's"


@KINDS
@torch.no_grad()
def test_composition_goes_from_base_noise_to_x(kind: str) -> None:
    model, _, _ = trained(kind)
    x = moons()[:50]
    found = model.composition(x)
    layers = LAYERS + 1  # the standardisation is one
    assert (len(found.states), len(found.log_abs_dets)) == (layers + 1, layers)
    torch.testing.assert_close(found.states[0], model.normalise(x), rtol=0, atol=1e-12)
    assert torch.equal(found.states[-1], x)
    torch.testing.assert_close(found.states[-2], (x - model.centre) / model.spread)
    total = FlowDistribution(model.transform(), x).normalise(x)[1]
    torch.testing.assert_close(torch.stack(found.log_abs_dets).sum(0), total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.log_abs_dets[-1], -model.spread.log().sum().expand(50))


@KINDS
@torch.no_grad()
def test_layer_densities_follow_the_change_of_variables(kind: str) -> None:
    """log p(z_k) = log p(z_{k−1}) + log|det ∂z_{k−1}/∂z_k| at the states of one composition, from the base to p(x)."""
    model, _, _ = trained(kind)
    x = moons()[:50]
    found = model.composition(x)
    for k in range(1, LAYERS + 2):
        expected = model.layer_density(k - 1, found.states[k - 1]) + found.log_abs_dets[k - 1]
        torch.testing.assert_close(model.layer_density(k, found.states[k]), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.layer_density(LAYERS + 1, x), model.log_evidence(x))


@KINDS
@pytest.mark.parametrize("k", range(LAYERS + 2))
@torch.no_grad()
def test_every_layer_density_integrates_to_one(kind: str, k: int) -> None:
    model, _, _ = trained(kind)
    points, area = grid()
    density = model.layer_density(k, points).exp()
    assert float(density.sum()) * area == pytest.approx(1, abs=0.01)


@KINDS
def test_untrained_flow_is_near_the_standardisation(kind: str) -> None:
    """It starts near the identity, so that a start is never wild; and not at it, where no gradient would tell layers apart."""
    x = moons()
    model = zoo.build("flow", x, kind=kind)
    assert isinstance(model, Flow)
    moved = (model.normalise(x) - (x - model.centre) / model.spread).abs().max()
    assert 1e-4 < float(moved.detach()) < 0.5
    gradients = torch.autograd.grad(model.log_evidence(x).sum(), list(model.parameters()))
    assert all(bool(g.abs().sum() > 0) for g in gradients)


@torch.no_grad()
def test_rescaled_data_have_the_same_flow() -> None:
    """The columns are standardised first: log p(a x + b) = log p(x) − D log a, whatever the units."""
    x = moons()[:200]
    one, other = (zoo.build("flow", data, kind="realnvp", seed=3) for data in (x, 1000 * x - 7))
    torch.testing.assert_close(
        other.log_evidence(1000 * x - 7), one.log_evidence(x) - 2 * math.log(1000), rtol=1e-9, atol=1e-9)


# -- the distribution ----------------------------------------------------------------------------------------------------


@KINDS
@torch.no_grad()
def test_draws_come_with_their_density(kind: str) -> None:
    model, _, _ = trained(kind)
    q = FlowDistribution(model.transform(), moons()[0])
    with zoo.seeded(1):
        x, log_prob = q.rsample_and_log_prob((500,))
    with zoo.seeded(1):
        assert torch.equal(q.rsample((500,)), x)
    torch.testing.assert_close(log_prob, q.log_prob(x), rtol=1e-9, atol=1e-9)


@KINDS
@torch.no_grad()
def test_simulated_rows_have_the_moments_of_the_density(kind: str) -> None:
    """First and second moments and a probability, by draws and by integration on the grid."""
    model, _, _ = trained(kind)
    points, area = grid()
    share = model.layer_density(LAYERS + 1, points).exp() * area
    latent, rows = model.simulate(moons(), seed=2)
    assert latent == {}
    assert isinstance(rows, Tensor)
    assert rows.shape == (2000, 2)

    def features(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1], (x[:, 1] > 0.25).double()], 1)

    values = features(rows)
    error = values.std(0) / math.sqrt(len(rows))
    # The grid's own error: half a cell at the edge of the half-plane; elsewhere, far below 1e-3.
    off = (values.mean(0) - share @ features(points)).abs() - 5e-3
    assert bool((off < SE * error).all()), off / error


@torch.no_grad()
def test_simulated_rows_are_standard_normal_once_normalised() -> None:
    model, _, _ = trained("spline")
    _, rows = model.simulate(moons(), seed=3)
    assert isinstance(rows, Tensor)
    for column in model.normalise(rows).T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(model.normalise(rows + 0.1)[:, 1].numpy(), "norm").pvalue < 1e-6, "rows a little off would fail"


@torch.no_grad()
def test_expand() -> None:
    transform, like = trained("spline")[0].transform(), moons()[0]
    q = FlowDistribution(transform, like)
    assert (q.batch_shape, q.event_shape) == (torch.Size(), torch.Size([2]))
    many = q.expand((3, 4))
    assert isinstance(many, FlowDistribution)
    assert (many.batch_shape, many.event_shape) == (torch.Size([3, 4]), torch.Size([2]))
    with zoo.seeded(0):
        x = many.sample((5,))
    assert x.shape == (5, 3, 4, 2)
    assert len(x.reshape(-1, 2).unique(dim=0)) == 60, "every element has its own draw"
    torch.testing.assert_close(many.log_prob(x), q.log_prob(x))
    assert many.expand((3, 4)).batch_shape == (3, 4)
    assert many.to_event(2).event_shape == (3, 4, 2)
    assert many.to_event(2).log_prob(x).shape == (5,)


@torch.no_grad()
def test_expand_keeps_the_maps_of_its_batch() -> None:
    """With a context, each element of the batch has a map of its own."""
    with zoo.seeded(0):
        network = build_flow("realnvp", 2, context=3).double()
        context, x = torch.randn(4, 3, dtype=torch.double), torch.randn(6, 4, 2, dtype=torch.double)
    for p in network.parameters():
        p.mul_(2)
    q = FlowDistribution(network(context), x[0])
    own = torch.stack([FlowDistribution(network(c), x[0, 0]).log_prob(x[:, i]) for i, c in enumerate(context)], 1)
    torch.testing.assert_close(q.log_prob(x), own)
    torch.testing.assert_close(q.expand((6, 4)).log_prob(x), own)
    assert float((q.log_prob(x[:, :1].expand(6, 4, 2)).std(1)).min()) > 1e-3, "the maps differ"


def test_pyro_samples_a_flow() -> None:
    """As a site with validation on, in a plate, with draws that carry gradients."""
    q = FlowDistribution(build_flow("spline", 2).double()(), torch.zeros(2, dtype=torch.double))

    def program() -> Tensor:
        with pyro.plate("rows", 7):
            x: Tensor = pyro.sample("x", q)
        return x

    with pyro.validation_enabled(True):
        trace = pyro.poutine.trace(program).get_trace()
        trace.compute_log_prob()
    site = trace.nodes["x"]
    assert site["value"].shape == (7, 2)
    assert site["log_prob"].shape == (7,)
    assert site["value"].requires_grad


def test_standardise_and_compose() -> None:
    loc, scale = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 4.0]).double()
    x = torch.tensor([[2.0, 2.0], [1.0, -2.0]]).double()
    once = standardise(loc, scale)
    torch.testing.assert_close(once(x), torch.tensor([[2.0, 1.0], [0.0, 0.0]]).double())
    twice = compose(once, compose(once, once))
    torch.testing.assert_close(twice(x), once(once(once(x))))
    found = Composition.of(twice, x)
    assert len(found.states) == 4
    torch.testing.assert_close(sum(found.log_abs_dets), -3 * scale.log().sum().expand(2))


# -- the model -----------------------------------------------------------------------------------------------------------


@KINDS
def test_fit_is_by_svi_and_raises_log_p(kind: str) -> None:
    model, before, fit = trained(kind)
    assert (fit.method, fit.steps) == ("svi", 250)
    assert fit.converged or fit.stopped.startswith("not converged")
    assert not experiments.evidence(model, moons()).source
    after = model.log_evidence(moons()[:TRAIN]).detach()
    assert float(after.sum()) > before + 0.3 * TRAIN
    # What the optimiser saw is log p(x) itself, on 25 minibatches of 256.
    error = TRAIN * float(after.std()) / math.sqrt(256 * 25)
    assert fit.elbo == pytest.approx(float(after.sum()), abs=SE * error)


@KINDS
@torch.no_grad()
def test_trained_flow_beats_a_normal_on_held_out_rows(kind: str) -> None:
    x = moons()
    normal = torch.distributions.MultivariateNormal(x[:TRAIN].mean(0), torch.cov(x[:TRAIN].T))
    better = trained(kind)[0].log_evidence(x[TRAIN:]) - normal.log_prob(x[TRAIN:])
    error = float(better.std()) / math.sqrt(len(better))
    assert float(better.mean()) > 10 * error
    assert float(better.mean()) > 0.4


@KINDS
def test_exact_guide_has_no_gap(kind: str) -> None:
    model, _, _ = trained(kind)
    x = moons()[TRAIN:]
    result = experiments.evaluate(model, "exact", x, draws=3)
    total = float(model.log_evidence(x).detach().sum())
    assert result.evidence.kind == "exact"
    assert (result.units, result.active) == (500, None)
    assert result.evidence.value == pytest.approx(total, rel=1e-12)
    assert result.elbo.value == pytest.approx(total, rel=1e-12)
    assert result.elbo.se < 1e-12 * abs(total)
    assert abs(result.kl_gap.value) < 1e-12 * abs(total)
    assert result.kl_prior.value == 0
    assert result.khat is None


def test_a_flow_has_nothing_to_infer() -> None:
    model, _, _ = trained("spline")
    x = moons()
    latents = model.latents(x)
    assert (latents.size, latents.units, latents.sites) == (0, 2000, ())
    assert model.facts(x).latents == "none"
    assert guides.fitting_guides(model.facts(x)) == ["exact", "prior"]
    with pytest.raises(ZooError, match=r"has no latents to infer: .*; choose from exact, prior"):
        experiments.fit(model, "mean_field:encoder", x)
    done = experiments.fit(model, "exact", x, train_model=False)
    assert (done.method, done.steps, done.converged) == ("none", 0, True)


def test_posterior_tree_holds_the_base_noise() -> None:
    model, _, _ = trained("realnvp")
    x = moons()[:40]
    tree = experiments.posterior(model, "exact", x, draws=3)
    values = torch.as_tensor(tree["posterior"]["z"].values)
    assert values.shape == (1, 3, 40, 2)
    torch.testing.assert_close(values, model.normalise(x).detach().expand(1, 3, 40, 2), rtol=1e-9, atol=1e-9)
    log_p = torch.as_tensor(tree["sample_stats"]["log_p"].values)
    torch.testing.assert_close(log_p, model.log_evidence(x).detach().expand(1, 3, 40), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.as_tensor(tree["log_likelihood"]["x"].values), log_p)
    fresh = tree["posterior_predictive"]["x"].values
    assert fresh.shape == (1, 3, 40, 2)
    assert len(set(fresh.reshape(-1).tolist())) == 240, "each row of each draw is its own"


# -- flow priors ---------------------------------------------------------------------------------------------------------


def bent(x: Tensor) -> VAE:
    """A model whose flow prior is no longer near the identity."""
    model = zoo.build("flow_prior", x)
    with torch.no_grad(), zoo.seeded(0):
        for p in model.prior.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert isinstance(model, VAE)
    return model


@torch.no_grad()
def test_sample_prior_of_a_flow_prior() -> None:
    """Draws of p(z) are standard normal once normalised, and log p(z) is the flow's."""
    x = moons()[:30]
    model = bent(x)
    with zoo.seeded(0):
        z = model.sample_prior(x, 40)
    assert z.shape == (40, 30, 2)
    base, volume = model.prior().transform.call_and_ladj(z)
    for column in base.reshape(-1, 2).T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(z[..., 0].flatten().numpy(), "norm").pvalue < 1e-6, "the flow must not be the identity"
    normal = torch.distributions.Normal(torch.zeros(2, dtype=torch.double), 1.0).log_prob(base).sum(-1)
    torch.testing.assert_close(model.log_terms(x, z)[0], normal + volume, rtol=1e-9, atol=1e-9)
    weights = experiments.log_weights(model, guides.build("prior", model, x), x, 16)
    assert weights.kl_prior().value == pytest.approx(0, abs=1e-9)


@torch.no_grad()
def test_flow_prior_integrates_to_one() -> None:
    points, area = grid()
    assert float(bent(moons()[:30]).prior().log_prob(points).exp().sum()) * area == pytest.approx(1, abs=0.01)


# -- programs whose latents are functions of x ---------------------------------------------------------------------------


def shifted(x: Tensor) -> None:
    """z = x − shift, and nothing else: its maximum is at the columns' means."""
    shift = pyro.param("shift", torch.zeros(2, dtype=torch.double))
    with pyro.plate("rows", len(x)):
        pyro.deterministic("z", x - shift, event_dim=1)
        pyro.sample("x", dist.Normal(shift, 1.0).to_event(1), obs=x)


def test_a_bare_program_of_deterministic_latents() -> None:
    x = moons()[:100]
    model = zoo.as_model(shifted)
    assert (model.latents(x).size, model.latents(x).units) == (0, 100)
    assert model.facts(x).exact
    fit = experiments.fit(shifted, "exact", x, steps=400)
    assert fit.method == "svi"
    torch.testing.assert_close(fit.model.theta()["shift"], x.mean(0), rtol=0, atol=1e-3)
    expected = dist.Normal(fit.model.theta()["shift"], 1.0).log_prob(x).sum(1).detach()
    torch.testing.assert_close(fit.model.log_evidence(x).detach(), expected)
    torch.testing.assert_close(fit.model.log_joint(x, torch.zeros(4, 100, 0, dtype=torch.double)), expected.expand(4, 100))
    result = experiments.evaluate(fit.model, fit.guide, x, draws=2)
    assert result.elbo.value == pytest.approx(float(expected.sum()), rel=1e-12)
    assert result.kl_gap.value == pytest.approx(0, abs=1e-9)
    tree = experiments.posterior(fit.model, fit.guide, x, draws=2, groups=["posterior"])
    z = torch.as_tensor(tree["posterior"]["z"].values)[0, 1]
    torch.testing.assert_close(z, x - fit.model.theta()["shift"].detach())


def test_a_program_without_any_latent_is_still_refused() -> None:
    def observed(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0 * x[0, 0], 1.0).expand([2]).to_event(1), obs=x)

    def unobserved(x: Tensor) -> None:
        pyro.deterministic("z", 2 * x)

    with pytest.raises(ZooError, match="expected a program with latent sites; got none"):
        experiments.fit(observed, "exact", moons()[:10])
    with pytest.raises(ZooError, match="expected a program with observed sites; got none"):
        experiments.fit(unobserved, "exact", moons()[:10])


# -- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "given", "message"), [
    (1, {}, "expected at least 2 columns for flow, .*; got 1; use gmm for one column"),
    (2, {"kind": "realnvpp"}, "one of spline, realnvp, maf; got 'realnvpp'; did you mean 'realnvp'"),
    (2, {"layers": 0}, "expected a whole number of layers above 0 for flow; got 0"),
    (2, {"hidden": (8, 0)}, r"expected .*hidden widths.* above 0; got .*\(8, 0\)"),
    (2, {"hidden": (8.0,)}, "expected .*hidden widths"),
    (2, {"layer": 3}, "unknown option 'layer' of flow; did you mean 'layers'"),
])
def test_errors_name_the_mend(columns: int, given: dict[str, object], message: str) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        zoo.build("flow", moons()[:20, :columns], **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("x", "message"), [
    (torch.ones(20, 2).double(), "expected columns that vary for flow"),
    (torch.tensor([[0.0, 1.0], [math.nan, 2.0]]), "expected finite data"),
    (torch.zeros(20, 2, dtype=torch.long), "expected a floating tensor"),
])
def test_data_that_a_flow_cannot_use(x: Tensor, message: str) -> None:
    with pytest.raises(ZooError, match=message):
        zoo.build("flow", x)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("context", [0, 3])
def test_a_flow_of_one_dimension_is_a_density(kind: str, context: int) -> None:
    """Its layers are monotone maps: the density integrates to one, and draws have it."""
    with zoo.seeded(0):
        network = build_flow(kind, 1, context).double()
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        q = FlowDistribution(network(torch.ones(context, dtype=torch.double) if context else None), torch.zeros(1).double())
        grid = torch.linspace(-60, 60, 120_001, dtype=torch.double)[:, None]
        with torch.no_grad():
            density, drawn = q.log_prob(grid).exp(), q.rsample((4000,))
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1.0, abs=1e-4)
    mean = float(torch.trapezoid(density * grid[:, 0], grid[:, 0]))
    assert abs(float(drawn.mean()) - mean) < 5 * float(drawn.std()) / math.sqrt(len(drawn))


IMPORT = """
import pyro, torch
from torch.distributions import Distribution
import sys
seen = lambda: (Distribution._validate_args, pyro.distributions.Normal._validate_args, pyro.settings.get(),
                torch.get_default_dtype(), torch.initial_seed())
before = seen()
assert Distribution._validate_args
import zoo
model = zoo.build("flow", torch.randn(20, 2))
model.generate(model.normalise(torch.zeros(1, 2)))
assert "zuko" in sys.modules
assert seen() == before, (before, seen())
print("same")
"""


def test_importing_zuko_leaves_validation_as_it_was() -> None:
    """In a process of its own: zuko switches argument validation off for all of torch as it loads."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "same", done.stderr





def plain(kind: str = "realnvp") -> FlowDistribution:
    with zoo.seeded(0):
        return FlowDistribution(build_flow(kind, 2).double()(), torch.zeros(2, dtype=torch.double))


@torch.no_grad()
def test_a_tensor_changed_in_place_is_another_value() -> None:
    q, x = plain(), torch.zeros(3, 2, dtype=torch.double)
    before = q.log_prob(x)
    x += 1
    assert not torch.equal(q.log_prob(x), before)


def test_log_prob_has_gradients_after_it_had_none() -> None:
    q, x = plain(), torch.ones(3, 2, dtype=torch.double)
    with torch.no_grad():
        q.log_prob(x)
    assert q.log_prob(x).requires_grad


def test_log_prob_can_be_differentiated_twice_in_a_row() -> None:
    q, x = plain(), torch.ones(3, 2, dtype=torch.double, requires_grad=True)
    first, second = (torch.autograd.grad(q.log_prob(x).sum(), x)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_posterior_tree_names_the_rows_of_z() -> None:
    tree = experiments.posterior(trained("realnvp")[0], "exact", moons()[:9], draws=2, groups=["posterior", "log_likelihood"])
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "rows")
    assert tree["posterior"]["z"].dims == ("chain", "draw", "rows", "latent")


@pytest.mark.parametrize("k", [-1, LAYERS + 2, 99])
def test_layers_that_there_are_not(k: int) -> None:
    with pytest.raises(ZooError, match=f"layer.* from 0 to {LAYERS + 1}; got {k}"):
        trained("realnvp")[0].layer_density(k, moons()[:5])


def test_a_lone_width_is_one_layer() -> None:
    one, other = (zoo.build("flow", moons()[:20], hidden=hidden) for hidden in (7, (7,)))
    assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


def test_em_has_no_step_to_take() -> None:
    try:
        experiments.fit(zoo.build("flow", moons()[:50], hidden=(8,)), "exact", moons()[:50], method="em")
    except ZooError as error:
        assert "svi" in str(error)  # noqa: PT017


@pytest.mark.parametrize(("kind", "rate"), [("realnvp", 0.3), ("realnvp", 50.0), ("maf", 50.0), ("spline", 50.0)])
def test_a_learning_rate_that_explodes_leaves_it_no_worse_than_it_was(kind: str, rate: float) -> None:
    x = moons()[:200]
    model = zoo.build("flow", x, kind=kind, hidden=(16,), layers=3)
    before = model.log_evidence(x).detach()
    with pytest.warns(zoo.ZooWarning, match="fit of 'exact' diverged"):
        fit = experiments.fit(model, "exact", x, steps=60, learning_rate=rate)
    assert not fit.converged
    assert float((model.log_evidence(x).detach() - before).mean()) > -1


def test_a_run_that_fell_has_not_converged_with_validation() -> None:
    x = moons()[:200]
    with pytest.warns(zoo.ZooWarning, match="fit of 'exact' diverged"):
        fit = experiments.fit(
            zoo.build("flow", x, kind="realnvp", hidden=(16,)), "exact", x, steps=60, learning_rate=0.3, validation=0.2)
    assert not fit.converged
