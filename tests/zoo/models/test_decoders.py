"""Models with a decoder network: densities by hand, networks of all kinds, what goes wrong, and how they are trained."""

from __future__ import annotations

import copy
import math
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.inference.seeds import fit_seeds
from experiments.inference.svi.options import SCHEDULES
from experiments.log_evidence.log_weights import LogWeights, log_weights
from guides.guide import BaseGuide
from zoo.errors import ZooError, ZooWarning
from zoo.models.vae import VAE, LinearVAE
from zoo.nn.likelihoods import LIKELIHOODS
from zoo.nn.networks import conv_decoder, conv_encoder, mlp
from zoo.nn.priors import PRIORS
from zoo.program.run import seeded

SE = 5
LEVELS = 3


def binary(rows: int = 60) -> Tensor:
    return zoo.dataset("digits", "images", binarise="static").x[:rows]  # type: ignore[no-any-return]


def wine(rows: int = 178) -> Tensor:
    return zoo.dataset("wine", standardise=True).x[:rows]  # type: ignore[no-any-return]


def small(x: Tensor, **given: Any) -> VAE:
    model = zoo.build("vae", x, **{"latent": 2, "hidden": (16,), **given})
    assert isinstance(model, VAE)
    return model


def state(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def kept(fit: experiments.Fit, name: str) -> list[Tensor]:
    """The parameters of a state, without the buffers, which come after them."""
    assert fit.states is not None
    return list(getattr(fit.states, name))[: len(state(fit.guide, fit.model))]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- the density, by hand ------------------------------------------------------------------------------------------------


def rows_for(likelihood: str) -> Tensor:
    """Six rows of four columns in the likelihood's support."""
    rng = np.random.default_rng(3)
    if likelihood == "normal":
        return torch.as_tensor(rng.normal(2.0, 3.0, (6, 4)))
    x = torch.as_tensor(rng.integers(0, 2 if likelihood == "bernoulli" else LEVELS + 1, (6, 4))).double()
    x[0, 0] = 1 if likelihood == "bernoulli" else LEVELS
    return x


def decoded(model: VAE, z: np.ndarray) -> np.ndarray:
    """The perceptron's output, layer by layer."""
    first, _, last = model.network  # type: ignore[misc]
    hidden = z @ first.weight.detach().numpy().T + first.bias.detach().numpy()
    hidden = hidden / (1 + np.exp(-hidden))
    return hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()  # type: ignore[no-any-return]


def log_likelihood(model: VAE, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log p(x | z) of each draw and row, by SciPy."""
    output, name = decoded(model, z), type(model.likelihood).__name__
    share = 1 / (1 + np.exp(-output))
    if name == "Bernoulli":
        return stats.bernoulli.logpmf(x, share).sum(-1)
    if name == "Normal":
        return stats.norm.logpdf(x, output, float(model.likelihood.scale.detach())).sum(-1)
    if name == "Binomial":
        return stats.binom.logpmf(x, LEVELS, share).sum(-1)
    logits = output.reshape(*z.shape[:-1], x.shape[1], LEVELS + 1)
    log_share = logits - logsumexp(logits, -1, keepdims=True)
    picked = [log_share[:, i, j, int(x[i, j])] for i in range(len(x)) for j in range(x.shape[1])]
    return np.stack(picked, 1).reshape(len(z), *x.shape).sum(-1)


def log_prior(model: VAE, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log p(z) of each draw and row, by SciPy; a flow's volume by autograd's Jacobian."""
    prior, name = model.prior, type(model.prior).__name__
    if name == "Standard":
        return stats.norm.logpdf(z).sum(-1)
    if name == "FlowOfNormals":
        rows = torch.as_tensor(z).reshape(-1, z.shape[-1])
        transform = prior.network()
        jacobian = torch.autograd.functional.jacobian(lambda value: transform(value).sum(0), rows).movedim(1, 0)
        total = stats.norm.logpdf(transform(rows).detach().numpy()).sum(-1) + torch.linalg.slogdet(jacobian)[1].numpy()
        return total.reshape(z.shape[:-1])
    if name == "Vamp":
        first, _, last = prior.network
        u = (prior.pseudo_inputs.detach().numpy() - x.mean(0)) / x.std(0)
        u = u @ first.weight.detach().numpy().T + first.bias.detach().numpy()
        u = (u / (1 + np.exp(-u))) @ last.weight.detach().numpy().T + last.bias.detach().numpy()
        loc, log_scale = u[:, : z.shape[-1]], u[:, z.shape[-1]:]
    else:
        loc, log_scale = prior.loc.detach().numpy(), prior.log_scale.detach().numpy()
    logits = prior.logits.detach().numpy()
    each = stats.norm.logpdf(z[..., None, :], loc, np.exp(log_scale)).sum(-1)
    return logsumexp(each + logits - logsumexp(logits), -1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_joint_is_the_sum_of_densities_by_hand(likelihood: str, prior: str) -> None:
    x = rows_for(likelihood)
    counts = {"levels": LEVELS} if likelihood in ("binomial", "categorical") else {}
    model = zoo.build("vae", x, latent=2, likelihood=likelihood, prior=prior, hidden=(5,), components=3, **counts)
    assert isinstance(model, VAE)
    with zoo.seeded(0), torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        z = 1.5 * torch.randn(4, 6, 2, dtype=torch.double)
        p_z, p_x = model.log_terms(x, z)
    np.testing.assert_allclose(p_z, log_prior(model, x.numpy(), z.numpy()), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(p_x, log_likelihood(model, x.numpy(), z.numpy()), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.log_joint(x, z), p_z + p_x)
    torch.testing.assert_close(model.decode(z).log_prob(x), p_x)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_likelihoods_sum_to_one(likelihood: str) -> None:
    """Over the support of one column, at several outputs of the network."""
    column = torch.tensor([[0.0], [1.0]]).double() if likelihood == "bernoulli" else torch.tensor([[0.0], [3.0]]).double()
    part = LIKELIHOODS[likelihood](column)
    output = 3 * torch.randn(7, part.outputs, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    if likelihood == "normal":
        support = torch.linspace(-40, 40, 4001, dtype=torch.double)
    else:
        support = torch.arange(2.0 if likelihood == "bernoulli" else LEVELS + 1.0, dtype=torch.double)
    step = float(support[1] - support[0])
    total = part(output).log_prob(support[:, None, None].expand(-1, 7, 1)).exp().sum(0) * step
    torch.testing.assert_close(total, torch.ones(7, dtype=torch.double), rtol=0, atol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_the_network_starts_at_the_columns_means(likelihood: str) -> None:
    """Its bias alone predicts each column's mean: exactly for normals, up to the half count that keeps logits finite else."""
    x = rows_for(likelihood)
    model = zoo.build("vae", x, likelihood=likelihood, latent=2, hidden=(5,))
    assert isinstance(model, VAE)
    p = model.likelihood(model.network[-1].bias).base_dist  # type: ignore[index]
    if likelihood == "categorical":
        share = torch.stack([(x == level).double().mean(0) for level in range(LEVELS + 1)], 1)
        torch.testing.assert_close(p.probs, (6 * share + 1) / (6 + LEVELS + 1))
        return
    top = {"bernoulli": 1, "binomial": LEVELS}.get(likelihood)
    expected = x.mean(0) if top is None else top * (x.sum(0) + 0.5) / (6 * top + 1)
    torch.testing.assert_close(p.mean, expected)


@torch.no_grad()
def test_images_that_are_all_black_somewhere_have_finite_densities() -> None:
    """Also of a row that is white where every row of the data is black."""
    x = binary()
    black = (x == 0).all(0)
    assert bool(black.any())
    model, other = small(x), torch.where(black, 1.0, x)
    for rows in (x, other):
        assert bool(model.log_joint(rows, torch.zeros(1, 60, 2).double()).isfinite().all())


@torch.no_grad()
def test_simulated_rows_lie_in_the_support() -> None:
    for likelihood in ("bernoulli", "binomial", "categorical"):
        x = rows_for(likelihood)
        _, fresh = zoo.build("vae", x, likelihood=likelihood, latent=2, hidden=(5,)).simulate(x, seed=0)
        assert isinstance(fresh, Tensor)
        assert fresh.dtype == x.dtype
        assert set(fresh.flatten().tolist()) <= set(range(2 if likelihood == "bernoulli" else LEVELS + 1))


# -- the linear VAE --------------------------------------------------------------------------------------------------------


def linear() -> tuple[LinearVAE, Tensor]:
    x = wine(40)
    model = zoo.build("linear_vae", x, latent=3)
    assert isinstance(model, LinearVAE)
    with zoo.seeded(1), torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model, x


@torch.no_grad()
def test_linear_vae_is_ppca_with_the_same_parameters() -> None:
    model, x = linear()
    ppca = zoo.build("ppca", x, latent=3)
    weight, bias = model.network[-1].weight, model.network[-1].bias  # type: ignore[index]
    ppca.load_state_dict({**ppca.state_dict(), "loadings": weight, "loc": bias})
    ppca.variance = model.likelihood.scale**2
    z = torch.randn(5, 40, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.log_joint(x, z), ppca.log_joint(x, z))
    torch.testing.assert_close(model.log_evidence(x), ppca.log_evidence(x))
    mine, theirs = model.posterior(x), ppca.posterior(x)
    torch.testing.assert_close(mine.mean, theirs.mean)
    torch.testing.assert_close(mine.covariance_matrix, theirs.covariance_matrix)


@torch.no_grad()
def test_linear_vae_meets_bayes_rule_at_every_z() -> None:
    model, x = linear()
    z = 2 * torch.randn(50, 40, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    evidence = model.log_joint(x, z) - model.posterior(x).log_prob(z)
    torch.testing.assert_close(evidence, model.log_evidence(x).expand(50, 40), rtol=1e-10, atol=1e-9)
    # By SciPy: N(x | μ, W Wᵀ + σ² I).
    weight, bias = (p.detach().numpy() for p in (model.network[-1].weight, model.network[-1].bias))  # type: ignore[index]
    covariance = weight @ weight.T + float(model.likelihood.scale) ** 2 * np.eye(13)
    np.testing.assert_allclose(model.log_evidence(x), stats.multivariate_normal(bias, covariance).logpdf(x), rtol=1e-9)


def test_trained_linear_vae_reaches_the_maximum_of_ppca() -> None:
    """The whole path of a VAE, against the maximum that PPCA knows in closed form."""
    x = wine()
    best = float(zoo.build("ppca", x, latent=2).log_evidence(x).sum().detach())
    model = zoo.build("linear_vae", x, latent=2)
    model.likelihood.scale = torch.ones(()).double()  # the columns': near its end
    fit = experiments.fit(model, "mean_field:encoder", x, steps=400)
    reached = float(model.log_evidence(x).sum().detach())
    assert reached < best + 1e-6
    assert reached > best - 0.05 * len(x)
    assert fit.elbo is not None
    assert fit.elbo < reached


# -- what the parts of an evaluation are ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["mean_field:encoder", "full_rank:encoder", "mixture", "flow:encoder"])
def test_elbo_is_reconstruction_minus_kl(text: str) -> None:
    x = binary()
    model = small(x)
    guide = guides.build(text, model, x)
    weights = log_weights(model, guide, x, 2000)
    assert weights.reconstruction().value - weights.kl_prior().value == pytest.approx(weights.elbo().value, rel=1e-12)
    with torch.no_grad():
        q = guide.posterior(x)
        p = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
        if text in ("mean_field:encoder", "full_rank:encoder"):
            scale_tril = q.scale_tril if text == "full_rank:encoder" else torch.diag_embed(q.stddev)
            normal = torch.distributions.MultivariateNormal(q.mean, scale_tril=scale_tril)
            kl = weights.kl_prior()
            truth = float(torch.distributions.kl_divergence(normal, p.expand((60,))).sum())
            assert abs(kl.value - truth) < SE * kl.se


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_responsibilities_are_bayes_rule(prior: str) -> None:
    x = binary(20)
    model = small(x, prior=prior, components=4)
    with zoo.seeded(0), torch.no_grad():
        for p in model.prior.parameters():
            p.add_(0.5 * torch.randn_like(p))
    guide = guides.build("mean_field:encoder", model, x)
    tree = experiments.posterior(model, guide, x, draws=6, groups=["posterior"])["posterior"]
    found = tree["responsibilities"]
    assert found.dims == ("chain", "draw", "rows", "component")
    assert found.shape == (1, 6, 20, 4)
    np.testing.assert_allclose(found.sum("component"), 1.0, rtol=1e-12)
    z = tree["z"].values[0]
    logits, parts = model.prior.parts()
    loc, scale = (part.detach().numpy() for part in (parts.base_dist.loc, parts.base_dist.scale))
    joint = np.exp(stats.norm.logpdf(z[..., None, :], loc, scale).sum(-1)) * logits.softmax(0).detach().numpy()
    np.testing.assert_allclose(found.values[0], joint / joint.sum(-1, keepdims=True), rtol=1e-9)
    # They average, over draws of the prior, to the weights of the components.
    with torch.no_grad(), zoo.seeded(1):
        share = model.prior.responsibilities(model.prior().sample((20_000,)))
        off = (share.mean(0) - logits.softmax(0)) / (share.std(0) / math.sqrt(len(share)))
    assert float(off.abs().max()) < SE


def test_a_standard_prior_has_no_responsibilities() -> None:
    x = binary(20)
    model = small(x)
    tree = experiments.posterior(model, guides.build("mean_field:encoder", model, x), x, draws=3, groups=["posterior"])
    assert list(tree["posterior"].data_vars) == ["z"]


def test_active_units_are_those_that_the_decoder_reads() -> None:
    """Latents whose column in the decoder is zero keep their prior: the exact posterior tells nothing apart there."""
    x = wine()
    model = zoo.build("linear_vae", x, latent=5)
    experiments.fit(model, "exact", x, steps=20)
    weight = model.network[-1].weight  # type: ignore[index,union-attr]
    with torch.no_grad():
        weight[:, [1, 3]] = 0.0
    result = experiments.evaluate(model, "exact", x, draws=512)
    assert result.active == 3
    loc = model.posterior(x).mean.detach()
    assert float(loc[:, [1, 3]].abs().max()) == 0
    assert experiments.evaluate(model, "prior", x, draws=64).active == 0
    with torch.no_grad():
        weight.zero_()
    assert experiments.evaluate(model, "exact", x, draws=512).active == 0


@pytest.mark.parametrize(("share", "active"), [(0.0, 0), (0.008, 0), (0.013, 1), (0.9, 1)])
def test_active_means_over_a_hundredth_of_the_variance(share: float, active: int) -> None:
    """The share of z's variance that lies between the units' means, in coordinates of any scale."""
    loc = torch.linspace(-1, 1, 50, dtype=torch.double)[:, None]
    loc = 40 * math.sqrt(share) * loc / loc.std()
    variance = torch.full((50, 1), 1600 * (1 - share), dtype=torch.double)
    none = torch.zeros(10_000, 50, dtype=torch.double)
    assert LogWeights(none, none, none, none, False, loc, variance).active() == active


# -- networks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 28])
@torch.no_grad()
def test_convolutions_keep_pixels_in_their_places(side: int) -> None:
    """A pixel's outputs lie side by side, pixels row by row; the encoder reads rows of x as pictures."""
    decoder = conv_decoder(3, (side * side,), 4, (6, 5)).double()
    z = torch.randn(2, 3, dtype=torch.double)
    pictures = decoder[:-1](z)
    assert pictures.shape == (2, 4, side, side)
    by_pixel = decoder(z).unflatten(-1, (side, side, 4))
    torch.testing.assert_close(by_pixel[:, 2, 5], pictures[:, :, 2, 5])
    torch.testing.assert_close(by_pixel, pictures.permute(0, 2, 3, 1))
    encoder = conv_encoder((side * side,), 7, (6, 5)).double()
    x = torch.randn(2, side * side, dtype=torch.double)
    assert encoder(x).shape == (2, 7)
    torch.testing.assert_close(encoder[0](x)[1, 0, 3, 4], x[1, 3 * side + 4])


@pytest.mark.parametrize(("side", "likelihood"), [(8, "bernoulli"), (8, "categorical"), (28, "bernoulli")])
def test_convolutional_models_train(side: int, likelihood: str) -> None:
    x = binary(40) if side == 8 else torch.rand(8, 784, generator=torch.Generator().manual_seed(0)).round().double()
    model = small(x, network="conv", hidden=(4,), likelihood=likelihood)
    guide = guides.build("mean_field:encoder(network='conv', hidden=(4,))", model, x)
    before = log_weights(model, guide, x, 64).elbo().value
    experiments.fit(model, guide, x, steps=30)
    assert log_weights(model, guide, x, 64).elbo().value > before + 2 * len(x)
    for p in (*model.parameters(), *guide.parameters()):
        assert p.grad is not None
        assert bool(p.grad.abs().sum() > 0)


@pytest.mark.parametrize(("columns", "given", "message"), [
    (63, {"network": "conv"}, "square images with a side divisible by 4 for network conv; got 63 columns; use network mlp"),
    (36, {"network": "conv"}, "got 36 columns; use network mlp"),
    (64, {"network": "cnn"}, "one of mlp, conv; got 'cnn'; choose one, or pass a torch module"),
    (64, {"network": "convv"}, "did you mean 'conv'"),
    (64, {"hidden": (0,)}, "hidden widths as whole numbers above 0"),
    (64, {"hidden": (True,)}, "hidden widths"),
    (64, {"hidden": "64"}, "hidden widths"),
    (64, {"latent": 0}, "at least 1 latent dimension for vae; got 0; raise --latent"),
    (64, {"latent": 2.0}, "latent"),
    (64, {"likelihood": "bernouli"}, "did you mean 'bernoulli'"),
    (64, {"prior": "gaussian"}, "one of standard, mixture, vamp, flow; got 'gaussian'; choose one"),
    (64, {"prior": "mixture", "components": 1}, "at least 2 components for a mixture prior; got 1; raise --components"),
    (64, {"layers": 2}, "unknown option 'layers' of vae"),
])
def test_errors_name_the_mend(columns: int, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        zoo.build("vae", binary(10)[:, :columns], **given)
    assert "\n" not in str(caught.value)


class Tanh(nn.Module):
    """A network of a user's own, with a batch of any shape."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 9), nn.Linear(9, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(self.first(rows).tanh())  # type: ignore[no-any-return]


class Fails(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        raise RuntimeError("first line\nsecond line")


def test_a_users_decoder_and_encoder_train() -> None:
    x = binary()
    own, encoder = Tanh(2, 64), Tanh(64, 4)
    model = small(x, network=own)
    assert model.network is own
    assert own.first.weight.dtype == torch.double, "moved to the data's type"
    guide = guides.build("mean_field:encoder", model, x, network=encoder)
    names = [name for name, _ in guide.named_parameters()]
    assert any(name.endswith("first.weight") for name in names)
    before = log_weights(model, guide, x, 64).elbo().value
    start = state(own, encoder)
    experiments.fit(model, guide, x, steps=100)
    assert log_weights(model, guide, x, 64).elbo().value > before + 3 * len(x)
    assert not any(torch.equal(a, b) for a, b in zip(start, state(own, encoder), strict=True))
    # The columns reach the encoder standardised, and its outputs are loc, then log_scale.
    spread = torch.where(x.std(0, unbiased=False) > 0, x.std(0, unbiased=False), torch.ones(64).double())
    with torch.no_grad():
        output = encoder((x - x.mean(0)) / spread)
        q = guide.posterior(x)
    torch.testing.assert_close(q.mean, output[:, :2])
    torch.testing.assert_close(q.stddev, output[:, 2:].exp())


@pytest.mark.parametrize(("network", "message"), [
    (nn.Linear(2, 63), r"a network of vae from \(units, 2\) to \(units, 64\); got an output of shape \(2, 63\) .* last layer"),
    (nn.Linear(3, 64), r"\(units, 2\) to \(units, 64\); got one that fails on 2 units: .*; change its layers"),
    (Fails(), "fails on 2 units: first line; change its layers"),
    (nn.Module(), "fails on 2 units: .*forward"),
    (nn.LSTM(2, 64), "got an output of shape tuple"),
    (nn.Linear, "a name or a torch module; got type"),
    (lambda z: z, "a name or a torch module; got function"),
])
def test_decoders_that_do_not_fit(network: Any, message: str) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        zoo.build("vae", binary(10), latent=2, network=network)
    assert "\n" not in str(caught.value)


def test_a_categorical_decoder_needs_an_output_for_each_level() -> None:
    x = rows_for("categorical")
    with pytest.raises(ZooError, match=r"from \(units, 2\) to \(units, 16\); got an output of shape \(2, 4\)"):
        zoo.build("vae", x, latent=2, likelihood="categorical", network=nn.Linear(2, 4))
    zoo.build("vae", x, latent=2, likelihood="categorical", network=nn.Linear(2, 16))


@pytest.mark.parametrize(("text", "network", "message"), [
    ("mean_field:encoder", nn.Linear(64, 5), r"an encoder network from \(units, 64\) to \(units, 4\); got .*\(2, 5\)"),
    ("mean_field:encoder", nn.Linear(60, 4), r"an encoder network .* fails on 2 units: .*; change its layers"),
    ("full_rank:encoder", nn.Linear(64, 4), r"to \(units, 5\)"),
    ("mixture(3):semi", nn.Linear(64, 4), r"to \(units, 15\)"),
    ("mean_field:encoder", Fails(), "fails on 2 units: first line"),
    ("mean_field:encoder", nn.Linear, "a name or a torch module; got type; pass one"),
    ("mean_field:encoder", "cnv", "did you mean 'conv'"),
    ("mean_field", nn.Linear(64, 4), "expected arguments that 'mean_field' takes"),
    ("mean_field:encoder(hidden=(0,))", "mlp", "hidden widths"),
])
def test_encoders_that_do_not_fit(text: str, network: Any, message: str) -> None:
    x = binary(10)
    with pytest.raises(ZooError, match=message) as caught:
        guides.build(text, small(x), x, network=network)
    assert "\n" not in str(caught.value)


def test_a_lone_width_is_one_layer() -> None:
    x = binary(10)
    assert [p.shape for p in small(x, hidden=7).parameters()] == [p.shape for p in small(x, hidden=(7,)).parameters()]
    assert len(mlp(2, 3, ())) == 1


# -- data ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "change", "given", "message"), [
    ("bernoulli", lambda x: 255 * x, {}, r"images in \[0, 1\] .*; got values from 0 to 255; divide by 255"),
    ("bernoulli", lambda x: x - 1, {}, r"got values from -1 to 0; rescale them"),
    ("bernoulli", lambda x: 300 * x, {}, r"got values from 0 to 300; rescale them, or use likelihood normal"),
    ("bernoulli", lambda x: 0.5 * x, {}, "grey values between them; binarise the images .*--binarise static"),
    ("binomial", lambda x: 0.5 * x, {}, r"whole numbers from 0 up .*; got 0.5; use data of kind counts"),
    ("categorical", lambda x: x - 2, {}, "whole numbers from 0 up .*; got -2"),
    ("binomial", lambda x: 5 * x, {"levels": 4}, "levels to be at least the largest count 5; got 4; raise --levels"),
    ("categorical", lambda x: 5 * x, {"levels": 4}, "levels to be at least the largest count 5; got 4; raise --levels"),
    ("normal", lambda x: x / 0, {}, "expected finite data"),
    ("normal", lambda x: x.long(), {}, "expected a floating tensor"),
    ("normal", lambda x: x[:, 0], {}, "flatten images to rows"),
    ("normal", lambda x: x[:1], {}, "2 rows or more"),
    ("normal", lambda x: {"x": x}, {}, "got a mapping of x; pass the tensor"),
])
def test_data_outside_the_support(likelihood: str, change: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        zoo.build("vae", change(binary(10)), likelihood=likelihood, **given)
    assert "\n" not in str(caught.value)


def test_new_rows_outside_the_support_are_refused() -> None:
    x = rows_for("binomial")
    model = zoo.build("vae", x, likelihood="binomial", latent=2, hidden=(5,))
    with pytest.raises(ZooError, match="expected observations at site 'x' in the support"):
        model.latents(x + 10)
    assert zoo.build("vae", x, likelihood="binomial", latent=2, levels=20).likelihood.levels == 20


def test_guides_that_do_not_fit() -> None:
    x = binary(20)
    with pytest.raises(ZooError, match="expected a batch_size from 1 to the 20 units; got 21; lower it"):
        experiments.fit(small(x), "mean_field:encoder", x, batch_size=21)
    with pytest.raises(ZooError, match="knows no exact posterior"):
        experiments.fit(small(x), "exact", x)
    schools = zoo.dataset("eight_schools").x
    with pytest.raises(ZooError, match="latents that all rows share: one unit, nothing to amortise over"):
        experiments.fit(zoo.build("eight_schools", schools), "mean_field:encoder", schools)


# -- training --------------------------------------------------------------------------------------------------------------


@cache
def started(seed: int = 0) -> tuple[VAE, BaseGuide, Tensor]:
    """A model and an encoder at their start. Copy them: do not move them."""
    x = binary()
    model = small(x)
    return model, guides.build("mean_field:encoder", model, x, seed=seed), x


def fresh() -> tuple[VAE, BaseGuide, Tensor]:
    x = started()[2]
    model = copy.deepcopy(started()[0])
    return model, guides.build("mean_field:encoder", model, x), x


@pytest.mark.parametrize("rate", [1.0, 50.0, 1e6])
def test_a_learning_rate_that_explodes_is_rolled_back(rate: float) -> None:
    model, guide, x = fresh()
    start, before = log_weights(model, guide, x, 64).elbo(), state(guide, model)
    with pytest.warns(ZooWarning, match=r"fit of 'mean_field:encoder' diverged: .* is kept; lower the learning rate"):
        fit = experiments.fit(model, guide, x, steps=60, learning_rate=rate)
    assert fit.states is not None
    assert "is kept" in fit.stopped
    assert not fit.converged
    assert all(bool(p.isfinite().all()) for p in state(guide, model))
    assert same(state(guide, model), kept(fit, "best"))
    assert not same(state(guide, model), kept(fit, "last"))
    if not fit.states.best_step:
        assert same(state(guide, model), before)
    after = log_weights(model, guide, x, 64).elbo()
    assert after.value > start.value - 5 * math.hypot(start.se, after.se) - 0.5 * len(x)


def test_a_run_that_breaks_late_goes_back_to_its_best_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the break it is the run of a constant rate: its best state is, bit for bit, where that run ends."""
    monkeypatch.setitem(SCHEDULES, "cliff", lambda share: 1.0 if share < 0.5 else 1e5)  # type: ignore[arg-type]
    model, guide, x = fresh()
    with pytest.warns(ZooWarning, match="the best state, after step 50, is kept"):
        fit = experiments.fit(model, guide, x, steps=100, schedule="cliff")
    assert fit.states is not None
    assert fit.states.best_step == 50
    other, twin, _ = fresh()
    experiments.fit(other, twin, x, steps=50, schedule="constant")
    assert same(state(guide, model), state(twin, other))
    value = log_weights(model, guide, x, 400).elbo()
    fit.states.use("last")
    assert not same(state(guide, model), state(twin, other))
    fit.states.use("best")
    assert same(state(guide, model), state(twin, other))
    assert log_weights(model, guide, x, 400).elbo().value == value.value
    # The ELBO that is reported is the best block's mean: the climb within ten steps, and noise.
    assert fit.elbo is not None
    assert abs(fit.elbo - value.value) < 3 * len(x)
    with pytest.raises(ZooError, match="expected state best or last; got 'first'"):
        fit.states.use("first")


def test_validation_stops_early_at_the_best_state() -> None:
    """Thirty rows and a decoder of many weights overfit: the held-out ELBO turns, and the state at the turn is kept."""
    x = binary(40)
    model = small(x, latent=6, hidden=(64,))
    guide = guides.build("mean_field:encoder", model, x)
    fit = experiments.fit(model, guide, x, steps=600, validation=0.25, patience=4, learning_rate=0.02)
    assert fit.states is not None
    assert fit.stopped == f"early: the held-out ELBO has not risen since step {fit.states.best_step}"
    assert fit.steps == fit.states.best_step < 600 - 4 * 12
    assert fit.converged
    assert same(state(guide, model), kept(fit, "best"))
    fit.states.use("last")
    assert same(state(guide, model), kept(fit, "last"))
    assert not same(kept(fit, "best"), kept(fit, "last"))


@pytest.mark.long
def test_validation_keeps_the_state_that_serves_held_out_rows_best() -> None:
    """On rows that neither state has seen, the best state beats the last one."""
    x = binary(500)
    seen, unseen = x[:60], x[60:]
    model = small(seen, latent=6, hidden=(64,))
    guide = guides.build("mean_field:encoder", model, seen)
    fit = experiments.fit(
        model, guide, seen, steps=500, validation=0.3, patience=10_000, learning_rate=0.02, schedule="constant")
    assert fit.states is not None
    assert fit.steps == 500
    best = log_weights(model, guide, unseen, 64, seed=1).log_weight.mean(0)
    fit.states.use("last")
    difference = best - log_weights(model, guide, unseen, 64, seed=1).log_weight.mean(0)
    assert float(difference.mean()) > SE * float(difference.std()) / math.sqrt(len(difference))


@pytest.fixture
def seen_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Record, at each step of Adam, its learning rate and the norm of the gradient that it meets."""
    seen: list[tuple[float, float]] = []
    plain = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        group = self.param_groups[0]
        gradients = [p.grad.flatten() for p in group["params"] if p.grad is not None]
        seen.append((group["lr"], float(torch.cat(gradients).norm())))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return seen


def test_clip_bounds_the_gradient_per_unit(seen_steps: list[tuple[float, float]]) -> None:
    model, guide, x = fresh()
    experiments.fit(model, guide, x, steps=20)
    free = [norm for _, norm in seen_steps]
    bound = 0.5 * min(free) / len(x)
    seen_steps.clear()
    model, guide, x = fresh()
    experiments.fit(model, guide, x, steps=20, clip=bound)
    assert [norm for _, norm in seen_steps] == pytest.approx([bound * len(x)] * 20, rel=1e-4)


@pytest.mark.parametrize(("name", "middle", "end"), [("cosine", 0.505, 0.01), ("linear", 0.505, 0.01), ("constant", 1.0, 1.0)])
def test_schedules(name: str, middle: float, end: float, seen_steps: list[tuple[float, float]]) -> None:
    model, guide, x = fresh()
    experiments.fit(model, guide, x, steps=40, schedule=name, learning_rate=0.004)
    rates = [rate / 0.004 for rate, _ in seen_steps]
    assert rates[0] == pytest.approx(1)
    assert rates[20] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(end, abs=0.03)
    assert all(a >= b for a, b in pairwise(rates))
    assert set(SCHEDULES) == {"cosine", "linear", "constant"}


def test_warm_up_runs_and_ends_on_the_elbo() -> None:
    model, guide, x = fresh()
    fit = experiments.fit(model, guide, x, steps=150, warm_up=60)
    assert fit.converged or fit.stopped.startswith("not converged")
    found = log_weights(model, guide, x, 256).elbo()
    assert fit.elbo is not None
    assert fit.elbo == pytest.approx(found.value, abs=len(x))  # within a nat per unit: the last steps still climb
    plain, other, _ = fresh()
    experiments.fit(plain, other, x, steps=150)
    assert not same(state(guide, model), state(other, plain))
    with pytest.raises(ZooError, match="expected objective elbo with warm_up; got 'iwae'; leave one of them out"):
        experiments.fit(model, guide, x, steps=5, warm_up=2, objective="iwae")


def test_warm_up_leaves_the_kl_out_at_first() -> None:
    """Step s of the warm-up weighs the KL by s / (W + 1): the first value of W = 1 has half of it."""
    model, guide, x = fresh()
    weights = log_weights(model, guide, x, 2000)
    reconstruction, kl = weights.reconstruction(), weights.kl_prior()
    first = experiments.fit(model, guide, x, steps=2, warm_up=1, draws=400).history[0][1]
    error = math.hypot(reconstruction.se, kl.se) * math.sqrt(1 + 2000 / 400)
    assert abs(first - (reconstruction.value - 0.5 * kl.value)) < SE * error
    assert kl.value > 5 * SE * error, "with all or none of the KL in it, it would be off"


def test_seeds_are_sorted_and_leave_the_model_alone() -> None:
    model, _, x = fresh()
    before = state(model)
    fits = fit_seeds(model, "mean_field:encoder", x, seeds=range(3), steps=40)
    values = [fit.elbo for fit in fits]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert len(set(values)) == 3
    assert same(state(model), before)
    assert len({id(fit.model) for fit in fits}) == 3
    assert all(fit.guide.model is fit.model for fit in fits)
    alone = copy.deepcopy(model)
    again = experiments.fit(alone, "mean_field:encoder", x, seed=1, steps=40)
    assert again.elbo in values, "each is the fit of its own seed"
    with pytest.raises(ZooError, match="expected one seed or more; got none"):
        fit_seeds(model, "mean_field:encoder", x, seeds=[])
    with pytest.raises(ZooError, match="which is built; pass its text"):
        fit_seeds(model, again.guide, x, seeds=range(2))





def test_a_vamp_priors_network_can_be_the_encoders() -> None:
    x = binary()
    model = small(x, prior="vamp")
    guide = guides.build("mean_field:encoder", model, x, network=model.prior.network)
    before = log_weights(model, guide, x, 64).elbo().value
    experiments.fit(model, guide, x, steps=100)
    assert log_weights(model, guide, x, 64).elbo().value > before + 3 * len(x)
    assert guide.amortisation.network is model.prior.network


@torch.no_grad()
def test_components_of_a_tied_vamp_prior_are_the_encoders_answers() -> None:
    """p(z) = Σ_k π_k q(z | u_k): where a pseudo-input is a row of x, its component is that row's posterior."""
    x = wine(30)
    model = zoo.build("vae", x + 5, likelihood="normal", prior="vamp", latent=2, components=4)
    guide = guides.build("mean_field:encoder", model, x + 5, network=model.prior.network)
    own = guide.posterior(x + 5).mean
    for component in model.prior.parts()[1].base_dist.loc:
        assert float((own - component).abs().sum(1).min()) < 1e-9


@torch.no_grad()
def test_a_vamp_prior_does_not_depend_on_the_columns_units() -> None:
    x = zoo.dataset("wine").x  # proline is near 1,000
    model = zoo.build("vae", x, likelihood="normal", prior="vamp", latent=2)
    assert float(model.sample_prior(x, 20).abs().max()) < 20


def test_a_vamp_prior_has_as_many_components_as_asked_for() -> None:
    try:
        model = small(binary(3), prior="vamp", components=10)
    except ZooError as error:
        assert "components" in str(error)  # noqa: PT017
    else:
        assert len(model.prior.logits) == len(model.prior.parts()[1].base_dist.loc)


def test_a_decoder_with_dropout_has_one_density_once_fitted() -> None:
    x = binary(20)
    model = small(x, network=nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Dropout(0.5), nn.Linear(16, 64)))
    guide = experiments.fit(model, "mean_field:encoder", x, steps=10).guide
    z = torch.zeros(2, 20, 2, dtype=torch.double)
    assert torch.equal(model.log_joint(x, z)[0], model.log_joint(x, z)[1])
    weights = [log_weights(model, guide, x, 16).log_likelihood for _ in range(2)]
    assert torch.equal(*weights)


class Raises(nn.Module):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def forward(self, rows: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [IndexError("no row"), AttributeError("no width"), KeyError("a"), AssertionError("3 inputs")])
def test_networks_that_fail_in_other_ways(error: Exception) -> None:
    x = binary(10)
    with pytest.raises(ZooError, match=r"fails on 2 units: .*; change its layers"):
        small(x, network=Raises(error))
    with pytest.raises(ZooError, match=r"fails on 2 units: .*; change its layers"):
        guides.build("mean_field:encoder", small(x), x, network=Raises(error))


def test_what_is_no_network_is_told_what_one_is() -> None:
    with pytest.raises(ZooError, match=r"got function; .*pass"):
        small(binary(10), network=lambda z: z)


def test_convolutions_need_channels() -> None:
    with pytest.raises(ZooError, match=r"expected .*channels"):
        zoo.build("vae", binary(10), network="conv", hidden=())


def test_convolutions_take_any_batch() -> None:
    model = small(binary(10), network="conv", hidden=(4,))
    z = torch.zeros(3, 10, 2, dtype=torch.double)
    assert model.decode(z).batch_shape == (3, 10)


def test_a_normal_likelihood_needs_spread() -> None:
    with pytest.raises(ZooError, match="expected columns that vary"):
        zoo.build("vae", torch.full((20, 3), 2.0).double(), likelihood="normal")


def test_counts_that_are_all_zero() -> None:
    with pytest.raises(ZooError, match=r"expected .*counts? above 0"):
        zoo.build("vae", torch.zeros(20, 3).double(), likelihood="binomial")


def test_a_warm_up_that_fills_the_run_is_no_divergence() -> None:
    """From a good start, the weight of the KL rises and the objective falls: nothing has gone wrong."""
    model, guide, x = fresh()
    experiments.fit(model, guide, x, steps=300)
    try:
        fit = experiments.fit(model, guide, x, steps=40, warm_up=40, learning_rate=1e-4)
    except ZooError as error:
        assert "warm_up" in str(error)  # noqa: PT017
    else:
        assert "kept" not in fit.stopped


def test_one_seed_leaves_the_model_alone_too() -> None:
    model, _, x = fresh()
    before = state(model)
    fit_seeds(model, "mean_field:encoder", x, seeds=[4], steps=10)
    assert same(state(model), before)


@pytest.mark.parametrize("draws", [6, 16, 24])
def test_a_few_draws_are_enough_to_evaluate(draws: int) -> None:
    model, guide, x = fresh()
    khat = log_weights(model, guide, x, draws).khat()
    assert khat is not None
    assert khat.shape == (60,)


def test_linear_vae_trains_from_its_own_start() -> None:
    x = wine()
    best = float(zoo.build("ppca", x, latent=2).log_evidence(x).sum().detach())
    model = zoo.build("linear_vae", x, latent=2)
    experiments.fit(model, "mean_field:encoder", x, steps=600)
    assert float(model.log_evidence(x).sum().detach()) > best - 0.5 * len(x)


def rows(count: int = 40, columns: int = 3) -> Tensor:
    with seeded(0):
        return torch.randn(count, columns, dtype=torch.double)


class Centred(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        y = torch.cat([z, z], 1)
        return y - y.mean(0)


class Noisy(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, z], 1) + torch.randn(len(z), 4).to(z)


class Integers(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, z], 1).long()


def test_a_convolutional_decoder_starts_at_the_level_of_the_images() -> None:
    x = zoo.dataset("digits", "images", binarise="threshold").tensor
    model = zoo.build("vae", x, network="conv", hidden=(8, 4), seed=0)
    start = model.decode(torch.zeros(1, 8, dtype=torch.double)).mean.detach()
    assert float((start.mean() - x.mean()).abs()) < 0.1


@pytest.mark.parametrize(("network", "text"), [
    (Centred(), "expected a network of vae that answers each unit by itself"),
    (Noisy(), "expected a network of vae that gives the same answer twice in evaluation mode"),
    (Integers(), "of torch.int64 for 2 units; change its last layer")])
def test_networks_that_are_no_function_of_the_unit_are_refused(network: nn.Module, text: str) -> None:
    x = (rows(20, 4) > 0).double()
    with pytest.raises(zoo.ZooError, match=text):
        zoo.build("vae", x, latent=2, network=network)


def test_sizes_that_no_machine_holds_are_refused() -> None:
    x = torch.tensor([[0.0, 1e9], [3.0, 2.0]], dtype=torch.double)
    with pytest.raises(zoo.ZooError, match="expected counts up to 1023 for likelihood categorical"):
        zoo.build("vae", x, likelihood="categorical")
    with pytest.raises(zoo.ZooError, match="rescale them"):
        zoo.build("linear_vae", 1e200 * rows())


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(zoo.ZooError, match="expected a tensor of shape"):
        zoo.build("vae", None)
