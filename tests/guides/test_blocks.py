"""Guides of two blocks: shared latents, and each row's own."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from guides.blocks import BlockGuide
from guides.registry import AMORTISATIONS, FAMILIES
from tests.programs import MeanFieldOptimum, hierarchical_normal, log_evidence, simulated
from zoo.structure.blockwise import Blockwise

CONTINUOUS = [name for name, entry in FAMILIES.items() if entry.latents == "continuous"]


def two_latents(x: Tensor) -> None:
    """Two shared latents, and two of each row."""
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 2.0))
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(loc, scale).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0] + 0.5 * z[..., 1] ** 2, 1.0), obs=x)


X = simulated(6, 3)


@pytest.mark.parametrize("reads", ["", "(shared=True)"])
@pytest.mark.parametrize("amortisation", AMORTISATIONS)
@pytest.mark.parametrize("local", CONTINUOUS)
@pytest.mark.parametrize(
    "shared", [name if name == "full_rank" else pytest.param(name, marks=pytest.mark.long) for name in CONTINUOUS])
def test_every_pair_is_built_and_is_one_density(shared: str, local: str, amortisation: str, reads: str) -> None:
    model = zoo.as_model(two_latents)
    guide = guides.build(f"{shared}+{local}:{amortisation}{reads}", model, X)
    with zoo.seeded(0):
        for parameter in guide.parameters():  # slopes begin at zero, where nothing would depend on u
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        q = guide.posterior(X)
        z, log_q = q.rsample_and_log_prob((4,))
    assert z.shape == (4, 1, 14)
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-8, atol=1e-6)
    assert torch.autograd.grad(log_q.sum(), [p for p in guide.parameters() if p.numel()], allow_unused=True)
    u, own = q.blocks.split(z)
    moved = q.local_log_prob(u + 1.0, own)
    assert torch.allclose(moved, q.local_log_prob(u, own)) == (not reads)


@pytest.mark.parametrize("text", [
    "full_rank+mean_field", "mean_field+full_rank:free(shared=True)", "low_rank(1)+mixture(2):encoder(shared=True)",
    "full_rank+mean_field:semi(shared=True)", "mean_field+flow"])
def test_stock_pyro_agrees(text: str) -> None:
    model = zoo.as_model(two_latents)
    guide = guides.build(text, model, X)
    ours = experiments.log_weights(model, guide, X, 4096).elbo()
    with zoo.seeded(1), pyro.get_param_store().scope(), torch.no_grad():
        loss = pyro.infer.Trace_ELBO()
        losses = -torch.tensor([loss.loss(model, guide, X) for _ in range(60)], dtype=torch.float64)
    error = math.hypot(float(losses.std()) / math.sqrt(len(losses)), ours.se)
    assert abs(float(losses.mean()) - ours.value) < 5 * error


def test_a_fit_comes_to_the_optimum_of_mean_field() -> None:
    x = simulated(60, 0)
    found = experiments.fit(hierarchical_normal, "mean_field+mean_field", x, progress=False)
    assert found.converged and found.method == "fixed_draws"  # noqa: PT018
    optimum = MeanFieldOptimum(x)
    elbo = experiments.log_weights(found.model, found.guide, x).elbo()
    assert abs(elbo.value - optimum.elbo) < 4 * elbo.se + 0.01
    q = found.guide.posterior(x)
    assert isinstance(q, Blockwise)
    assert abs(float(q.shared.mean.detach()) - float(optimum.loc)) < 0.02


def test_a_local_normal_that_is_moved_by_the_shared_latents_is_the_posterior() -> None:
    x = simulated(60, 0)
    found = experiments.fit(hierarchical_normal, "mean_field+mean_field:free(shared=True)", x, progress=False)
    weights = experiments.log_weights(found.model, found.guide, x).log_weight
    torch.testing.assert_close(weights, torch.full_like(weights, log_evidence(x)), rtol=0, atol=1e-2)


@pytest.mark.long
@pytest.mark.parametrize("text", ["mean_field+mean_field:encoder(shared=True)", "mean_field+mean_field:semi(shared=True)"])
def test_an_encoder_that_reads_the_shared_latents_comes_near_the_posterior(text: str) -> None:
    x = simulated(60, 0)
    found = experiments.fit(hierarchical_normal, text, x, progress=False)
    elbo = experiments.log_weights(found.model, found.guide, x).elbo()
    assert log_evidence(x) - elbo.value < 0.1 < MeanFieldOptimum(x).shared + MeanFieldOptimum(x).local


def test_a_guide_serves_some_rows() -> None:
    model = zoo.as_model(two_latents)
    for text in ("mean_field+mean_field", "mean_field+mean_field:encoder(shared=True)"):
        guide = guides.build(text, model, X)
        model.latents(X)
        whole, index = guide.posterior(X), torch.tensor([4, 1])
        part = X[index]
        model.runner.adopt(part, 2)
        some = guide.posterior(part, index)
        u, own = whole.blocks.split(whole.sample((3,)))
        torch.testing.assert_close(some.local_log_prob(u, own[:, index]), whole.local_log_prob(u, own)[:, index])


@pytest.mark.parametrize(("text", "match"), [
    ("full_rank+mean_field+flow", "expected two blocks, shared\\+local"),
    ("full_rank:encoder+mean_field", "expected no amortisation of shared latents"),
    ("full_rank+exact", "expected a family of continuous latents in each block"),
    ("categorical+mean_field", "expected a family of continuous latents in each block"),
    ("full_rank+mean_feild", "unknown guide 'mean_feild'; did you mean 'mean_field'"),
    ("full_rank+mean_field:encoder(shared=2)", "expected shared=True or shared=False"),
    ("full_rank+mean_field:encoder(depth=2)", "expected arguments that"),
    ("full_rank(3)+mean_field", "expected arguments that"),
    ("mean_field:free(shared=True)", "expected shared=True in a guide of two blocks, such as full_rank\\+mean_field"),
])
def test_what_is_written_wrong_is_said(text: str, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        guides.build(text, zoo.as_model(two_latents), X)


@pytest.mark.parametrize(("name", "match"), [
    ("ppca", "needs continuous latents that all rows share, and others of each row; ppca has latents of each row alone"),
    ("logistic_regression", "logistic_regression has latents that all rows share alone"),
    ("gmm", "gmm has discrete latents")])
def test_models_without_both_blocks_refuse(name: str, match: str) -> None:
    entry = zoo.MODELS[name]
    x = zoo.dataset(entry.data, entry.takes, standardise=entry.standardise).x
    with pytest.raises(zoo.ZooError, match=match):
        guides.build("full_rank+mean_field", zoo.build(name, x), x)


def test_other_shared_latents_are_refused() -> None:
    x = zoo.dataset("eight_schools").x
    guide = guides.build("full_rank+mean_field", zoo.build("eight_schools", x), x)
    assert isinstance(guide, BlockGuide)
    more = {name: torch.cat([value, value]) for name, value in x.items()}
    with pytest.raises(zoo.ZooError, match="expected the 8 units that this free guide has parameters for; got 16"):
        guide.posterior(more)


def test_a_guide_is_the_same_however_it_is_written() -> None:
    assert guides.parse("full_rank+mean_field").same(guides.parse("full_rank + mean_field:free"))
    assert not guides.parse("full_rank+mean_field").same(guides.parse("low_rank+mean_field"))
    assert not guides.parse("full_rank+mean_field").same(guides.parse("mean_field"))
