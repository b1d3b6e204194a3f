"""Families beyond the normal: mixtures, flows, and encoders with corrections."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.log_evidence.log_weights import log_weights
from guides.families.family import Start
from guides.families.flow import CONTEXT, FlowFamily
from guides.families.gaussian import FullRank, TrilNormal
from guides.families.mixture import MixtureFamily, MixtureOfNormals
from guides.guide import Guide
from zoo.distributions.normal_mixture import NormalMixture
from zoo.errors import ZooError
from zoo.models.vae import VAE
from zoo.nn.flows import FLOWS, FlowDistribution

SE = 5


def parts(size: int, components: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (K,), locations and scales (K, d) of components that overlap."""
    with zoo.seeded(seed):
        logits = torch.randn(components, dtype=torch.double)
        loc = 1.2 * torch.randn(components, size, dtype=torch.double)
        return logits, loc, (0.4 * torch.randn(components, size, dtype=torch.double) - 0.3).exp()


# -- mixtures of normals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2])
def test_mixture_density_integrates_to_one(size: int) -> None:
    q = MixtureOfNormals(*parts(size))
    axis = torch.linspace(-12, 12, 401, dtype=torch.double)
    points = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
    cell = float(axis[1] - axis[0]) ** size
    assert float(q.log_prob(points).exp().sum()) * cell == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_mixture_density_is_pytorchs(size: int) -> None:
    logits, loc, scale = parts(size)
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1))
    q = MixtureOfNormals(logits, loc, scale)
    z = 2 * torch.randn(7, 5, size, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(q.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(q.mean, theirs.mean)
    torch.testing.assert_close(q.variance, theirs.variance)


@pytest.mark.parametrize("how", ["sample", "rsample"])
@pytest.mark.parametrize("size", [1, 3])
def test_mixture_draws_have_its_mean_and_variance(how: str, size: int) -> None:
    q = MixtureOfNormals(*parts(size))
    with zoo.seeded(2), torch.no_grad():
        z = getattr(q, how)((40_000,))
    centred = (z - q.mean).square()
    assert bool(((z.mean(0) - q.mean).abs() < SE * z.std(0) / 200).all())
    assert bool(((centred.mean(0) - q.variance).abs() < SE * centred.std(0) / 200).all())


def test_mixture_draws_follow_its_distribution_function() -> None:
    """Each coordinate against its marginal, and the dependence between them against E[cos(a · z)], in closed form."""
    logits, loc, scale = parts(2)
    q, share = MixtureOfNormals(logits, loc, scale), logits.softmax(0)
    with zoo.seeded(3), torch.no_grad():
        z = q.rsample((20_000,))
    for j in range(2):
        def cdf(value: np.ndarray, j: int = j) -> np.ndarray:
            return share.numpy() @ stats.norm(loc[:, j, None].numpy(), scale[:, j, None].numpy()).cdf(value)

        assert stats.kstest(z[:, j].numpy(), cdf).pvalue > 1e-3
    a = torch.tensor([0.8, -1.1], dtype=torch.double)
    truth = (share * (-0.5 * (scale * a).square().sum(1)).exp() * (loc @ a).cos()).sum()
    values = (z @ a).cos()
    assert abs(float(values.mean() - truth)) < SE * float(values.std()) / math.sqrt(len(z))


def test_rsample_draws_what_sample_draws() -> None:
    """The same numbers from the same seed, also in a batch: only their derivatives differ."""
    logits, loc, scale = (p.expand(4, *p.shape) for p in parts(3))
    q = MixtureOfNormals(logits, loc, scale)
    with zoo.seeded(4):
        plain = q.sample((6,))
    with zoo.seeded(4):
        moving = q.rsample((6,))
    assert moving.shape == (6, 4, 3)
    assert torch.equal(plain, moving)


def quadrature(size: int, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """E_q[f] by Gauss-Hermite quadrature on each component, differentiable in the parameters."""
    nodes, weights = (torch.as_tensor(part) for part in np.polynomial.hermite_e.hermegauss(24))
    points = torch.cartesian_prod(*[nodes] * size).reshape(-1, size)
    mass = torch.cartesian_prod(*[weights / weights.sum()] * size).reshape(-1, size).prod(1)
    return (logits.softmax(0) * torch.stack([mass @ smooth(m + s * points) for m, s in zip(loc, scale, strict=True)])).sum()


def smooth(z: Tensor) -> Tensor:
    """A function of z in which the coordinates depend on each other."""
    a = torch.tensor([0.9, -0.7, 0.5], dtype=z.dtype)[: z.shape[-1]]
    return (z @ a).cos() + 0.3 * z.square().sum(-1) + 0.5 * z.prod(-1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_implicit_gradient_is_the_gradient_of_the_expectation(size: int) -> None:
    """Within four standard errors, for the logits, locations and scales, against quadrature."""
    replicas, draws = 400, 100
    truth_of = [p.requires_grad_() for p in parts(size)]
    truth = torch.autograd.grad(quadrature(size, *truth_of), truth_of)
    # Each replica has parameters of its own, so that one backward pass gives independent estimates.
    own = [p.expand(replicas, *p.shape).clone().requires_grad_() for p in parts(size)]
    with zoo.seeded(5):
        z = MixtureOfNormals(*own).rsample((draws,))
    found = torch.autograd.grad(smooth(z).mean(0).sum(), own)
    for name, exact, estimates in zip(("logits", "loc", "scale"), truth, found, strict=True):
        error = estimates.std(0) / math.sqrt(replicas)
        off = (estimates.mean(0) - exact) / error
        assert float(off.abs().max()) < 4, (name, off)
        assert bool((exact.abs() > 4 * error).any()), f"a gradient in {name} of nothing proves nothing"


@pytest.mark.parametrize("draws", [1, 7])
def test_stratified_gradient_is_the_gradient_of_the_expectation(draws: int) -> None:
    """As above; the weights' own derivatives are in the shares. Each unit has the same number of draws of each component."""
    replicas = 4000
    truth_of = [p.requires_grad_() for p in parts(2)]
    truth = torch.autograd.grad(quadrature(2, *truth_of), truth_of)
    own = [p.expand(replicas, *p.shape).clone().requires_grad_() for p in parts(2)]
    with zoo.seeded(5):
        z, log_share = MixtureOfNormals(*own).stratified_rsample(draws)
    components = len(own[0][0])
    assert z.shape[:-1] == log_share.shape == (math.ceil(draws / components) * components, replicas)
    torch.testing.assert_close(log_share.exp().sum(0), torch.ones(replicas).double())
    found = torch.autograd.grad((log_share.exp() * smooth(z)).sum(), own)
    for name, exact, estimates in zip(("logits", "loc", "scale"), truth, found, strict=True):
        off = (estimates.mean(0) - exact) / (estimates.std(0) / math.sqrt(replicas))
        assert float(off.abs().max()) < 4, (name, off)


def test_implicit_gradient_of_the_entropy() -> None:
    """∂H[q] is the path's derivative of −log q(z), its own parameters held: by quadrature on a grid, in one dimension."""
    logits, loc, scale = (p.requires_grad_() for p in parts(1))
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.double)[:, None]
    log_q = MixtureOfNormals(logits, loc, scale).log_prob(grid)
    step = float(grid[1] - grid[0])
    truth = torch.autograd.grad(-(log_q.exp() * log_q).sum() * step, [logits, loc, scale])
    replicas = 400
    own = [p.detach().expand(replicas, *p.shape).clone().requires_grad_() for p in (logits, loc, scale)]
    with zoo.seeded(6):
        z = MixtureOfNormals(*own).rsample((50,))
    held = MixtureOfNormals(*(p.detach() for p in own))
    found = torch.autograd.grad(-held.log_prob(z).mean(0).sum(), own)
    for exact, estimates in zip(truth, found, strict=True):
        error = estimates.std(0) / math.sqrt(replicas)
        assert bool(((estimates.mean(0) - exact).abs() < SE * error).all())


def test_mixture_expands() -> None:
    q = MixtureOfNormals(*parts(3))
    many = q.expand((5, 2))
    assert (many.batch_shape, many.event_shape) == (torch.Size([5, 2]), torch.Size([3]))
    z = many.sample((4,))
    assert z.shape == (4, 5, 2, 3)
    torch.testing.assert_close(many.log_prob(z), q.log_prob(z))
    torch.testing.assert_close(many.variance, q.variance.expand(5, 2, 3))


def test_mixture_of_one_component_in_effect_is_a_normal() -> None:
    """Components laid on one another: ∂z is then 1 in the locations' sum, the noise in the scales' sum, 0 in the logits."""
    loc = torch.full((2, 1), 0.7, dtype=torch.double, requires_grad=True)
    scale = torch.full((2, 1), 1.3, dtype=torch.double, requires_grad=True)
    logits = torch.zeros(2, dtype=torch.double, requires_grad=True)
    with zoo.seeded(0):
        z = MixtureOfNormals(logits, loc, scale).rsample((1,))
    by_logits, by_loc, by_scale = torch.autograd.grad(z.sum(), [logits, loc, scale])
    torch.testing.assert_close(by_logits, torch.zeros_like(by_logits))
    torch.testing.assert_close(by_loc.sum(), torch.ones(()).double())
    torch.testing.assert_close(by_scale.sum(), ((z - 0.7) / 1.3).sum().detach())


def test_mixture_starts_around_the_start() -> None:
    """All units have the same offsets; the components differ; the spread is of the prior's order, not of its tenth."""
    start = Start(torch.arange(12.0).reshape(4, 3).double(), torch.full((4, 3), 0.1).double(), None)
    with zoo.seeded(0):
        phi = MixtureFamily(200).initial(start)
    offset = phi["loc"] - start.loc[:, None]
    torch.testing.assert_close(offset, offset[:1].expand(4, -1, -1))
    assert float(offset.std()) == pytest.approx(0.5, rel=0.1)
    torch.testing.assert_close(phi["log_scale"].exp(), start.scale[:, None].expand(4, 200, 3))
    q = MixtureFamily().distribution(MixtureFamily().initial(start))
    assert (q.batch_shape, q.event_shape) == (torch.Size([4]), torch.Size([3]))


# -- flows -----------------------------------------------------------------------------------------------------------------


def identity(family: FlowFamily) -> None:
    """Zero the last layer of every network of the flow: each map is then the identity."""
    with torch.no_grad():
        for network in (m for m in family.network.modules() if isinstance(m, nn.Sequential)):
            for p in network[-1].parameters():
                p.zero_()


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("units", [1, 6])
def test_flow_family_of_identities_is_full_rank(kind: str, units: int) -> None:
    with zoo.seeded(0):
        start = Start(torch.randn(units, 3).double(), torch.rand(units, 3).double() + 0.1, None)
        family = FlowFamily(kind)
        phi = family.initial(start)
        phi["tril"] = phi["tril"] + 0.3 * torch.randn_like(phi["tril"])
        normal = FullRank().distribution(phi)
        z = normal.sample(torch.Size([9]))
    plain = normal.log_prob(z)
    with torch.no_grad():
        near = family.distribution(phi).log_prob(z)
        identity(family)
        torch.testing.assert_close(family.distribution(phi).log_prob(z), plain, rtol=1e-12, atol=1e-12)
    assert 1e-6 < float((near - plain).abs().max()) < 1, "it starts near the identity, not at it"


def test_flow_of_one_unit_has_no_context() -> None:
    x = zoo.dataset("eight_schools").x
    one = guides.build("flow", zoo.build("eight_schools", x), x)
    assert isinstance(one, Guide)
    assert one.phi(x)["context"].shape == (1, 0)
    rows = zoo.dataset("wine", standardise=True).x[:20]
    many = guides.build("flow", zoo.build("ppca", rows), rows)
    assert isinstance(many, Guide)
    assert many.phi(rows)["context"].shape == (20, CONTEXT)
    for guide, data in ((one, x), (many, rows)):
        z = guide.posterior(data).rsample(torch.Size([3]))
        assert z.shape == (3, *guide.posterior(data).batch_shape, guide.model.latents(data).size)
        assert bool(guide.posterior(data).log_prob(z).isfinite().all())


def test_units_choose_among_the_flows_maps_by_their_context() -> None:
    """Two units of one place and scale but other contexts have other densities; of one context, the same."""
    with zoo.seeded(0):
        family = FlowFamily()
        phi = family.initial(Start(torch.zeros(3, 2).double(), torch.ones(3, 2).double(), None))
        z = torch.randn(50, 1, 2, dtype=torch.double).expand(50, 3, 2)
    context = phi["context"].clone()
    context[1], context[2] = context[0], 3 - context[0]
    with torch.no_grad():
        log_q = family.distribution({**phi, "context": context}).log_prob(z)
    torch.testing.assert_close(log_q[:, 0], log_q[:, 1], rtol=1e-12, atol=1e-12)
    assert float((log_q[:, 0] - log_q[:, 2]).abs().max()) > 1e-4


@pytest.mark.parametrize("text", ["flow", "flow:encoder", "flow('maf')", "flow('spline'):semi"])
@torch.no_grad()
def test_flow_guide_draws_have_its_density(text: str) -> None:
    """E_q[p / q] = 1 for a normal p inside q, and the one pass that draws gives the density of the other."""
    x = zoo.dataset("wine", standardise=True).x[:12]
    guide = guides.build(text, zoo.build("ppca", x), x)
    with zoo.seeded(0):
        for p in guide.parameters():
            p.add_(0.1 * torch.randn_like(p))
        q = guide.posterior(x)
        assert isinstance(q, FlowDistribution)
        z, log_q = q.rsample_and_log_prob((4000,))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-8, atol=1e-8)
    away = z - z.mean(0)
    covariance = torch.einsum("nui,nuj->uij", away, away) / len(z)
    inside = dist.MultivariateNormal(z.mean(0), scale_tril=0.6 * torch.linalg.cholesky(covariance))
    ratio = (inside.log_prob(z) - log_q).exp()
    off = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(z)))
    assert float(off.abs().max()) < SE
    assert float(ratio.std(0).max()) < 3, "the normal must lie inside"


@pytest.mark.parametrize("kind", FLOWS)
@torch.no_grad()
def test_draws_of_a_flow_guide_take_one_pass(kind: str) -> None:
    """Each layer's network is asked once, whatever the dimension: fits draw, and score only what they drew."""
    with zoo.seeded(0):
        family = FlowFamily(kind, layers=3)
        phi = family.initial(Start(torch.zeros(4, 5).double(), torch.ones(4, 5).double(), None))
    asked: list[nn.Module] = []
    for network in (m for m in family.network.modules() if isinstance(m, nn.Sequential)):
        network.register_forward_hook(lambda module, *_: asked.append(module))
    family.distribution(phi).rsample_and_log_prob((2,))
    assert len(asked) == len(set(asked)) == 3


@pytest.mark.parametrize(("text", "message"), [
    ("flow('nsf')", "one of spline, realnvp, maf; got 'nsf'"), ("flow(layers=0)", "layers above 0 for a flow guide"),
    ("flow(width=3)", "expected arguments that"), ("mixture(1)", r"components of mixture to be from 2 to 1,000; got 1; write"),
    ("mixture(2.0)", "from 2 to"), ("mixture(True)", "from 2 to"), ("mixture(k=2)", "expected arguments that"),
    ("mixtures", "unknown guide 'mixtures'; did you mean 'mixture'"), ("flow:encode", "did you mean 'encoder'")])
def test_errors_name_the_mend(text: str, message: str) -> None:
    x = zoo.dataset("wine", standardise=True).x[:20]
    with pytest.raises(ZooError, match=message) as caught:
        guides.build(text, zoo.build("ppca", x), x)
    assert "\n" not in str(caught.value)


def test_a_flow_of_one_latent_dimension_follows_a_skewed_posterior() -> None:
    def rate(x: torch.Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(torch.tensor(0.7).double(), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Poisson(scale), obs=x)

    x = torch.tensor([0.0]).double()
    table = experiments.compare(rate, x, ["mean_field", "flow"], steps=1500)
    truth = 0.7 * math.log(1 / 2)  # Γ(0.7) / Γ(0.7) · (1 / 2)^0.7
    normal, flow = (row.evaluation.elbo.value for row in table.rows)
    assert truth - normal > 0.05
    assert truth - flow < 0.2 * (truth - normal)
    for text in ("flow:encoder", "flow:semi"):
        wine = zoo.dataset("wine", standardise=True).x
        assert guides.build(text, zoo.build("ppca", wine, latent=1), wine).posterior(wine).event_shape == (1,)


def test_full_rank_is_torchs_normal() -> None:
    with zoo.seeded(0):
        loc, draws = torch.randn(4, 3, dtype=torch.double), torch.randn(4, 3, 3, dtype=torch.double)
    factor = draws.tril() + 2 * torch.eye(3, dtype=torch.double)
    own, theirs = TrilNormal(loc, factor), dist.MultivariateNormal(loc, scale_tril=factor)
    value = loc + 1
    for q, p in ((own, theirs), (own.expand([2, 4]), theirs.expand([2, 4]))):
        assert isinstance(q, TrilNormal)
        assert (q.batch_shape, q.event_shape) == (p.batch_shape, p.event_shape)
        assert torch.equal(q.log_prob(value), p.log_prob(value))
        for name in ("mean", "variance", "covariance_matrix", "precision_matrix", "scale_tril"):
            assert torch.equal(getattr(q, name), getattr(p, name)), name
        assert torch.equal(q.entropy(), p.entropy())
        with zoo.seeded(1):
            z = q.rsample((5,))
        with zoo.seeded(1):
            assert torch.equal(z, p.rsample((5,)))
    assert float(torch.distributions.kl_divergence(own, theirs).abs().max()) < 1e-12


# -- encoders with corrections ---------------------------------------------------------------------------------------------

FAMILY = pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank", "flow", "mixture"])


@cache
def digits() -> tuple[VAE, Tensor]:
    """A small decoder on 60 binary digits, θ fitted. Shared: do not move θ."""
    x = zoo.dataset("digits", "images", binarise="static").x[:60]
    model = zoo.build("vae", x, latent=2, hidden=(16,))
    experiments.fit(model, "mean_field:encoder", x, steps=300)
    assert isinstance(model, VAE)
    return model, x


@FAMILY
@torch.no_grad()
def test_semi_starts_as_its_encoder(family: str) -> None:
    model, x = digits()
    semi, encoder = (guides.build(f"{family}:{part}", model, x, seed=3) for part in ("semi", "encoder"))
    with zoo.seeded(0):
        z = torch.randn(5, 60, 2, dtype=torch.double)
    assert torch.equal(semi.posterior(x).log_prob(z), encoder.posterior(x).log_prob(z))
    assert not semi.new_units
    index = torch.tensor([7, 3])
    some = semi.posterior(x[index], index).log_prob(z[:, index])
    torch.testing.assert_close(some, semi.posterior(x).log_prob(z)[:, index], rtol=1e-10, atol=1e-10)
    with pytest.raises(ZooError, match=r"expected the 60 units that this free guide has parameters for; got 5"):
        semi.posterior(x[:5])


@torch.no_grad()
def test_semi_adds_each_units_own_correction() -> None:
    model, x = digits()
    guide = guides.build("mean_field:semi", model, x)
    before = guide.posterior(x).mean
    guide.amortisation.correction.phi["loc"][4] += 2.0
    index = torch.tensor([4, 5])
    moved = guide.posterior(x).mean - before
    assert float(moved[4].min()) == pytest.approx(2)
    assert float(moved.abs().sum()) == pytest.approx(4)
    torch.testing.assert_close(guide.posterior(x[index], index).mean, guide.posterior(x).mean[index])


@pytest.mark.long
def test_semi_is_at_least_as_good_as_its_encoder_after_a_fit() -> None:
    """On the same noise, so that the difference has a small error; with an encoder too narrow to serve the units well."""
    model, x = digits()
    found = {}
    for text in ("mean_field:encoder(hidden=(2,))", "mean_field:semi(hidden=(2,))", "mean_field"):
        method = "svi" if ":" in text else None
        found[text] = experiments.fit(model, text, x, train_model=False, steps=400 if method else None, method=method).guide
    encoder, semi, free = (log_weights(model, guide, x, 400, seed=8).log_weight.sum(1) for guide in found.values())
    for better, worse in ((semi, encoder), (free, semi)):
        difference = better - worse
        assert float(difference.mean()) > -SE * float(difference.std()) / math.sqrt(len(difference))
    assert float((semi - encoder).mean()) > 0.5 * float((free - encoder).mean()) > 5


# -- posteriors that a normal can't match ----------------------------------------------------------------------------------


def two(x: Tensor) -> None:
    """z ~ N(0, 1), x ~ N(z², 0.3²): one unit, modes near ±√x."""
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
    pyro.sample("x", dist.Normal(z**2, 0.3), obs=x)


@pytest.mark.long
def test_mixture_covers_both_modes() -> None:
    """One normal sits on one mode, and its gap is about log 2; a mixture has hardly any. log p(x) by SciPy's quad."""
    x = torch.tensor(1.5, dtype=torch.double)
    half, _ = quad(lambda z: stats.norm.pdf(z) * stats.norm.pdf(1.5, z * z, 0.3), 0, 6, points=[1.2], epsabs=1e-13)
    truth = math.log(2 * half)
    model = zoo.as_model(two)
    assert experiments.evidence(model, x).value == pytest.approx(truth, abs=1e-5)  # 1.0 and 0.3 are the program's float32
    gap = {}
    for text in ("mean_field", "mixture(2)"):
        # The gradient of a mixture's weights is noisy where its modes lie far apart: the best of five short fits.
        options = {"seeds": range(5), "steps": 600} if text == "mixture(2)" else {"seeds": [0]}
        fits = [(log_weights(model, done.guide, x, 20_000).elbo(), done.guide)
                for done in experiments.fit_seeds(model, text, x, **options)]
        elbo, guide = max(fits, key=lambda pair: pair[0].value)
        gap[text] = truth - elbo.value
        assert gap[text] > -SE * elbo.se
    assert gap["mean_field"] == pytest.approx(math.log(2), abs=0.05)
    assert gap["mixture(2)"] < 0.1 * gap["mean_field"]
    with torch.no_grad(), zoo.seeded(0):
        z = guide.posterior(x).sample((4000,))
    assert abs(float((z > 0).double().mean()) - 0.5) < 0.1


def banana(x: Tensor) -> None:
    """a ~ N(0, 1), b ~ N(a², 0.4²), x ~ N(b, 1): a curved posterior of a and b."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
    b = pyro.sample("b", dist.Normal(a**2, 0.4))
    pyro.sample("x", dist.Normal(b, 1.0), obs=x)


@pytest.mark.long
def test_flow_bends_where_full_rank_cannot() -> None:
    """log p(x) by SciPy's quad over a, with b integrated out by hand: x | a ~ N(a², 0.4² + 1)."""
    x = torch.tensor(0.0, dtype=torch.double)
    integral, _ = quad(lambda a: stats.norm.pdf(a) * stats.norm.pdf(a * a, 0, math.sqrt(1.16)), -8, 8, epsabs=1e-13)
    model = zoo.as_model(banana)
    normal = experiments.fit(model, "full_rank", x).guide
    flow = experiments.fit(model, "flow", x, steps=400).guide
    of_normal, of_flow = (log_weights(model, guide, x, 20_000).elbo() for guide in (normal, flow))
    gap, least = math.log(integral) - of_normal.value, math.log(integral) - of_flow.value
    assert least > -SE * of_flow.se
    assert gap - least > 10 * math.hypot(of_normal.se, of_flow.se)
    assert least < 0.5 * gap





def test_variance_of_a_mixture_far_from_zero() -> None:
    loc = torch.tensor([[999.0], [1001.0]])
    variance = MixtureOfNormals(torch.zeros(2), loc, torch.full((2, 1), 0.1)).variance
    assert float(variance) == pytest.approx(1.01, rel=1e-4)
    far = MixtureOfNormals(torch.zeros(2).double(), loc.double() * 1e6, torch.full((2, 1), 0.1).double())
    assert float(MixtureOfNormals(far.log_weights, far.loc[:1].expand(2, 1), far.scale).variance) == pytest.approx(0.01)


@pytest.mark.parametrize("text", [
    "flow(layers=2.5)", "flow(layers='many')", "flow(3)", "flow(kind=['maf'])", "flow(hidden=None)"])
def test_arguments_of_a_flow_of_other_types(text: str) -> None:
    model, x = digits()
    with pytest.raises(ZooError, match="expected "):
        guides.build(text, model, x)


# -- the mixture that rows share -----------------------------------------------------------------------------------------


def shared_mixture(size: int) -> tuple[NormalMixture, torch.distributions.MixtureSameFamily]:
    """Return a mixture of three normals, and torch's of the same density; their parameters bear gradients."""
    with zoo.seeded(3):
        weights = torch.rand(3, dtype=torch.double)
        loc, factor = torch.randn(3, size, dtype=torch.double), torch.randn(3, size, size, dtype=torch.double)
    weights = weights / weights.sum()
    factor = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())
    given = [part.requires_grad_() for part in (weights, loc, factor)]
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(given[0]), torch.distributions.MultivariateNormal(given[1], scale_tril=given[2]))
    return NormalMixture(*given), theirs


@pytest.mark.parametrize("size", [1, 2, 5])
def test_shared_mixture_has_torchs_density_and_gradients(size: int) -> None:
    ours, theirs = shared_mixture(size)
    x = 2 * torch.randn(7, 4, size, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    parameters = [ours.weights, ours.loc, ours.scale_tril]
    found, right = (torch.autograd.grad(q.log_prob(x).sum(), parameters) for q in (ours, theirs))
    # torch's divides weights by their sum: of the gradients what moves along it is left out.
    torch.testing.assert_close(found[0] - found[0] @ ours.weights, right[0] - right[0] @ ours.weights)
    torch.testing.assert_close(found[1:], tuple(part.tril() if part.ndim == 3 else part for part in right[1:]))
    torch.testing.assert_close(ours.responsibilities(x).sum(-1), torch.ones(7, 4, dtype=torch.double))
    assert ours.expand([4]).log_prob(x).shape == (7, 4)


def test_shared_mixture_draws_have_its_mean_and_covariance() -> None:
    ours, theirs = shared_mixture(2)
    with zoo.seeded(2), torch.no_grad():
        x = ours.expand([20_000]).sample(torch.Size([2])).flatten(0, 1)
    for found, right in ((x, theirs.mean), ((x - theirs.mean).square(), theirs.variance)):
        assert bool(((found.mean(0) - right).abs() < SE * found.std(0) / 200).all())


def test_shared_mixture_bears_a_weight_that_underflows() -> None:
    weights = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    loc = torch.zeros(2, 1, dtype=torch.double, requires_grad=True)
    value = NormalMixture(weights, loc, torch.ones(2, 1, 1, dtype=torch.double)).log_prob(torch.ones(3, 1).double())
    torch.testing.assert_close(value, torch.distributions.Normal(0.0, 1.0).log_prob(torch.ones(3)).double())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value.sum(), [weights, loc]))


def test_shared_mixture_refuses_other_columns() -> None:
    ours, _ = shared_mixture(2)
    with pytest.raises(ValueError, match="expected values of 2 columns; got 1"):
        ours.log_prob(torch.ones(3, 1, dtype=torch.double))
    x = zoo.dataset("faithful").x
    with pytest.raises(zoo.ZooError, match="expected data that the program of bayesian_gmm runs on"):
        experiments.fit(zoo.build("bayesian_gmm", x), "mean_field", x[:, :1], progress=False)
