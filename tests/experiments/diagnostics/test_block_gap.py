"""The gap of a guide of two blocks, by block."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

import experiments
import guides
import zoo
from experiments.comparison.local_split import local_split
from experiments.diagnostics.block_gap import block_gap
from experiments.diagnostics.gap import Gap
from experiments.log_evidence.proposals.conditional import RowDensities, row_proposals
from experiments.log_evidence.proposals.mixture import EqualMixture, Tails
from tests.programs import MeanFieldOptimum, hierarchical_normal, log_evidence, simulated
from zoo.structure.blocks import log_block_terms
from zoo.structure.blockwise import Blockwise

X = simulated(60, 0)


def known_gap(model: zoo.Model, guide: guides.BaseGuide, x: torch.Tensor, seed: int = 0) -> Gap:
    """Return log p(x) − ELBO, of which log p(x) is known."""
    elbo = experiments.log_weights(model, guide, x, 4096, seed).elbo()
    middle = log_evidence(x) - elbo.value
    return Gap(middle, elbo.se, max(0.0, middle - 1.96 * elbo.se), middle + 1.96 * elbo.se)


def test_both_parts_are_those_in_closed_form() -> None:
    fitted = experiments.fit(hierarchical_normal, "mean_field+mean_field", X, progress=False)
    found, optimum = block_gap(fitted.model, fitted.guide, X, known_gap(fitted.model, fitted.guide, X)), MeanFieldOptimum(X)
    assert found is not None
    assert found.plate == "rows"
    assert abs(found.local.value - optimum.local) < 4 * found.local.se
    assert abs(found.shared.value - optimum.shared) < 4 * found.shared.se
    assert found.local.lower < optimum.local < found.local.upper
    assert found.local.se < 0.2 * optimum.local
    # Each row's part is the same here: (u − m)² / 4 on average.
    assert float(((found.units - optimum.local / 60).abs() / found.units_se).max()) < 5
    assert float(found.units.sum()) == pytest.approx(found.local.value, rel=1e-9)
    assert found.worst(1) == [int(found.units.argmax())]


def test_an_exact_guide_has_no_gap_in_either_block() -> None:
    fitted = experiments.fit(hierarchical_normal, "mean_field+mean_field:free(shared=True)", X, progress=False)
    found = block_gap(fitted.model, fitted.guide, X, known_gap(fitted.model, fitted.guide, X))
    assert found is not None
    assert abs(found.shared.value) < 1e-3
    assert abs(found.local.value) < 1e-3


def test_one_row_that_is_served_badly_is_found() -> None:
    fitted = experiments.fit(hierarchical_normal, "mean_field+mean_field", X, progress=False)
    with torch.no_grad():
        fitted.guide.amortisation.local.phi["loc"][7] += 1.0
    found = block_gap(fitted.model, fitted.guide, X, known_gap(fitted.model, fitted.guide, X))
    assert found is not None
    assert found.worst(1) == [7]
    # KL(N(a, 1/2) ‖ N(b, 1/2)) = (a − b)²: one nat more than before.
    assert abs(float(found.units[7]) - 1.0) < 5 * float(found.units_se[7]) + 0.02


def test_an_encoder_splits_its_local_part() -> None:
    fitted = experiments.fit(hierarchical_normal, "mean_field+mean_field:encoder", X, progress=False, steps=100)
    found = block_gap(fitted.model, fitted.guide, X, known_gap(fitted.model, fitted.guide, X))
    assert found is not None
    made = local_split(fitted.model, fitted.guide, X, found)
    assert made is not None
    q = fitted.guide.posterior(X)
    mean, variance = float(q.shared.mean.detach()), float(q.shared.variance.detach())
    # The best member has loc (x + E u) / 2 and variance 1/2, and lacks var(u) / 4 a row; the rest is the network's.
    phi = fitted.guide.amortisation.local(X, 60)
    loc, scale = phi["loc"][:, 0].detach(), phi["log_scale"][:, 0].exp().detach()
    normal = torch.distributions.Normal
    lacks = torch.distributions.kl_divergence(normal(loc, scale), normal((X + mean) / 2, 0.5**0.5)).sum()
    assert abs(made.amortisation.value - float(lacks)) < 4 * made.amortisation.se + 0.01
    assert abs(made.approximation.value - 60 * variance / 4) < 4 * made.approximation.se + 0.01
    assert made.approximation.value + made.amortisation.value == pytest.approx(found.local.value)


def test_an_encoder_that_reads_the_shared_latents_has_members_at_each_draw() -> None:
    text = "mean_field+mean_field:encoder(shared=True)"
    fitted = experiments.fit(hierarchical_normal, text, X, progress=False, steps=100)
    found = block_gap(fitted.model, fitted.guide, X, known_gap(fitted.model, fitted.guide, X))
    assert found is not None
    made = local_split(fitted.model, fitted.guide, X, found)
    assert made is not None
    # A normal at each u is p(z_i | x_i, u) itself: all is the network's.
    assert made.approximation.lower == 0.0
    assert abs(made.amortisation.value - found.local.value) < 5 * made.approximation.se + 0.02


def test_bayesian_ppca_has_its_local_part_and_conditional_evidence_in_closed_form() -> None:
    """Given loadings W, loc and scale σ, factors are normal: covariance (I + WᵀW / σ²)⁻¹, mean that times Wᵀ(x − loc) / σ²."""
    x = zoo.dataset("iris").x[::5]
    model = zoo.build("bayesian_ppca", x, latent=2)
    fitted = experiments.fit(model, "full_rank+mean_field", x, progress=False)
    found = block_gap(model, fitted.guide, x, Gap(1.0, 0.0, 1.0, 1.0))
    assert found is not None
    with zoo.seeded(0), torch.no_grad():
        q = fitted.guide.posterior(x)
        drawn = q.draw(4000)
        values = model.constrain(x, q.blocks.join(drawn.shared, drawn.local))
        local = {name: value.detach() for name, value in fitted.guide.amortisation.local(x, len(x)).items()}
    loadings, scale = values["loadings"], values["scale"][:, None, None]
    precision = torch.eye(2, dtype=x.dtype) + loadings.mT @ loadings / scale**2
    mean = torch.linalg.solve(precision, loadings.mT @ (x - values["loc"][:, None]).mT / scale**2).mT
    own = torch.distributions.MultivariateNormal(local["loc"], scale_tril=torch.diag_embed(local["log_scale"].exp()))
    exact = torch.distributions.MultivariateNormal(mean, precision_matrix=precision[:, None])
    divergence = torch.distributions.kl_divergence(own.expand(mean.shape[:-1]), exact)
    totals = divergence.sum(1)
    error = math.hypot(found.local.se, float(totals.std()) / math.sqrt(len(totals)))
    assert abs(found.local.value - float(totals.mean())) < 4 * error
    rows = row_proposals(RowDensities(model, x, q.blocks), drawn.shared[:8], [q], drawn.local[0])
    assert rows.exact
    with zoo.seeded(0):
        _, weight = rows.log_weights(rows.sample(2))
    covariance = loadings @ loadings.mT + scale**2 * torch.eye(4, dtype=x.dtype)
    marginal = torch.distributions.MultivariateNormal(values["loc"][:8, None], covariance[:8, None]).log_prob(x)
    torch.testing.assert_close(weight, marginal.expand(2, 8, -1), rtol=0, atol=1e-6)


def test_parts_of_bayesian_ppca_add_up_to_its_gap() -> None:
    """log p(x, u) is closed: both KLs and log p(x) follow each by itself. The posterior has two modes, of which q has one."""
    x = zoo.dataset("iris").x[::5]
    model = zoo.build("bayesian_ppca", x, latent=1)
    fitted = experiments.fit(model, "full_rank+mean_field", x, progress=False)
    with zoo.seeded(0), torch.no_grad():
        q = fitted.guide.posterior(x)
        log_evidence, error = long_importance(model, x, q)
        u = q.shared.sample(torch.Size([4000]))
        divergence = q.shared.log_prob(u)[:, 0] - log_joint_of_shared(model, x, q, u[:, 0]) + log_evidence
    shared, se = float(divergence.mean()), math.hypot(float(divergence.std()) / math.sqrt(len(u)), error)
    assert shared > math.log(2)
    found = experiments.evaluate(model, fitted.guide, x)
    assert found.evidence.lower - 3 * error < log_evidence < found.evidence.upper + 3 * error
    assert found.evidence.upper - found.evidence.lower < 0.4
    assert "of 2 found, 'full_rank+mean_field' holds 1" in found.evidence.remark
    blocks = found.blocks
    assert blocks.shared.lower - 2 * se < shared < blocks.shared.upper + 2 * se
    whole = log_evidence - found.elbo.value
    assert abs(shared + blocks.local.value - whole) < 4 * math.hypot(se, blocks.local.se, found.elbo.se)


def log_joint_of_shared(model: zoo.Model, x: torch.Tensor, q: Blockwise, u: torch.Tensor) -> torch.Tensor:
    """Return log p(x, u) of ``bayesian_ppca``, (draws,): x_i ~ N(loc, W Wᵀ + σ² I) given u."""
    z = q.blocks.join(u, u.new_zeros(len(u), *q.blocks.local.shape))
    values = model.constrain(x, z)
    covariance = values["loadings"] @ values["loadings"].mT + values["scale"][:, None, None] ** 2 * torch.eye(x.shape[1]).to(x)
    marginal = torch.distributions.MultivariateNormal(values["loc"][:, None], covariance[:, None])
    return log_block_terms(model, x, z)[0] + marginal.log_prob(x).sum(1)


def long_importance(model: zoo.Model, x: torch.Tensor, q: Blockwise) -> tuple[float, float]:
    """Return log p(x) of ``bayesian_ppca`` with one factor, and its standard error, from 60,000 draws about both signs."""
    loc, size = q.shared.mean[0], q.shared.event_shape[0]
    scale_tril = torch.diag(3 * q.shared.variance[0].sqrt())
    sign = torch.where(torch.arange(size) < x.shape[1], -1.0, 1.0).to(loc)  # loadings come first
    for _ in range(3):
        mirrored = Tails((sign * loc)[None], (sign * sign[:, None] * scale_tril)[None])
        about = EqualMixture([Tails(loc[None], scale_tril[None]), mirrored])
        u = about.sample(torch.Size([60_000]))
        log_weight = log_joint_of_shared(model, x, q, u[:, 0]) - about.log_prob(u)[:, 0]
        folded = torch.where((u[:, 0, :4] @ loc[:4] > 0)[:, None], u[:, 0], sign * u[:, 0])
        share = log_weight.softmax(0)
        loc = share @ folded
        scale_tril = torch.linalg.cholesky((share[:, None] * (folded - loc)).mT @ (folded - loc))
    relative = len(u) * share
    return float(log_weight.logsumexp(0)) - math.log(len(u)), float(relative.std()) / math.sqrt(len(u))


def test_other_guides_have_no_blocks() -> None:
    fitted = experiments.fit(hierarchical_normal, "mean_field", X, progress=False)
    assert block_gap(fitted.model, fitted.guide, X, Gap(1.0, 0.0, 1.0, 1.0)) is None


def test_a_comparison_says_what_gaps_are_made_of() -> None:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    table = experiments.compare(model, x, ["full_rank", "full_rank+mean_field"], progress=False)
    joint, pair = table.rows
    assert list(joint.parts) == ["gap"]
    assert list(pair.parts) == ["shared", "local"]
    assert sum(gap.value for gap in pair.parts.values()) == pytest.approx(pair.evaluation.kl_gap.value)
    row = table.to_dict()["guides"][1]
    assert row["shared_gap"]["value"] == pair.parts["shared"].value
    assert table.to_dict()["guides"][0]["local_gap"] is None
    text = str(table)
    assert "shared" in text.splitlines()[1]
    assert "KL(q‖posterior) = shared (latents of all 8 rows of 'school') + local (each row's own)" in text
    without = replace(pair, evaluation=replace(pair.evaluation, blocks=None))
    told = str(replace(table, rows=(without,)))
    assert "no gap by block of 'full_rank+mean_field': it takes a program that vmap runs" in told


def test_rows_with_too_many_latents_have_no_gap_by_block() -> None:
    def wide(x: torch.Tensor) -> None:
        u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(u, 1.0).expand([len(x), 17]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    model = zoo.as_model(wide)
    assert block_gap(model, guides.build("mean_field+mean_field", model, X[:3]), X[:3], Gap(1.0, 0.0, 1.0, 1.0)) is None


@pytest.mark.long
def test_intervals_of_both_parts_cover() -> None:
    inside = {"shared": 0, "local": 0}
    for seed in range(100):
        x = simulated(30, seed)
        fitted = experiments.fit(hierarchical_normal, "mean_field+mean_field", x, progress=False)
        optimum = MeanFieldOptimum(x)
        found = experiments.evaluate(fitted.model, fitted.guide, x, seed=seed).blocks
        assert found is not None
        inside["shared"] += found.shared.lower <= optimum.shared <= found.shared.upper
        inside["local"] += found.local.lower <= optimum.local <= found.local.upper
    assert min(inside.values()) >= 90, inside
