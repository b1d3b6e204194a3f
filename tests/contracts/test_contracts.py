"""What must hold for every registered model with every guide. A new registry line is tested with no change here."""

from __future__ import annotations

import io
import math
import warnings
from functools import cache
from typing import Any

import pyro
import pyro.infer
import pytest
import torch

import experiments
import guides
import zoo
from experiments.inference.svi.objectives import Estimation, stochastic_bound
from tests.contracts.cases import EXACT, MOVING, PAIRS, TRAINED, case, each, fitted, points, reduced
from zoo.data import Data, take

SE = 5  # standard errors that a true claim may miss by, with fixed seeds


@pytest.mark.parametrize("name", zoo.MODELS)
def test_registry_tells_the_truth(name: str) -> None:
    model, x = case(name)
    assert model.facts(x) == zoo.MODELS[name].facts(name)
    assert model.label == name


@pytest.mark.parametrize("name", zoo.MODELS)
def test_program_runs_under_vmap_and_agrees_with_a_loop(name: str) -> None:
    model, x = case(name)
    z = model.sample_prior(x, 3)
    batched = model.log_joint(x, z)
    assert model.runner.draws.vectorised, "a registered program must run under vmap"
    single = torch.cat([model.log_joint(x, row[None]) for row in z])
    torch.testing.assert_close(batched, single, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_constrain_inverts_unconstrain(name: str) -> None:
    model, x = case(name)
    z = model.sample_prior(x, 5)
    torch.testing.assert_close(model.unconstrain(x, model.constrain(x, z)), z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_simulated_data_is_like_x_and_has_a_density(name: str) -> None:
    model, x = case(name)
    latent, fresh = model.simulate(x, seed=1)
    assert type(fresh) is type(x) or isinstance(fresh, dict)
    z = model.unconstrain(fresh, {k: v[None] for k, v in latent.items()})
    assert bool(model.log_joint(fresh, z).isfinite().all())


@pytest.mark.parametrize(("name", "text"), each(PAIRS))
def test_shapes(name: str, text: str) -> None:
    model, x = case(name)
    latents, q = model.latents(x), fitted(name, text).posterior(x)
    assert q.batch_shape == (latents.units,)
    assert q.event_shape == (latents.size,)
    z, _ = points(model, fitted(name, text), x)
    assert z.shape[1:] == (latents.units, latents.size)
    assert q.log_prob(z).shape == model.log_joint(x, z).shape == z.shape[:2]


@cache
def upper_reference(name: str) -> tuple[float, float]:
    """Return log p(x | θ) and its standard error: exact, or by importance sampling, and the log of how many equal modes."""
    model, x = case(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Markov chains for .* disagree")  # after a short fit
        found = experiments.evidence(model, x, None if name in EXACT else fitted(name, "full_rank"))
    return found.middle + math.log(getattr(model, "equal_modes", 1)), found.se


#: Of these models the evidence that bounds are held against is not exact, and takes ten seconds at most; of others more.
QUICK = ("eight_schools", "logistic_regression")
BOUNDED = each([pair for pair in PAIRS if pair[0] in (*EXACT, *QUICK)]) + [
    pytest.param(*pair, marks=pytest.mark.long) for pair in PAIRS if pair[0] not in (*EXACT, *QUICK)]


@pytest.mark.parametrize(("name", "text"), BOUNDED)
def test_elbo_is_at_most_the_evidence(name: str, text: str) -> None:
    elbo = reduced(name, text).elbo
    value, se = upper_reference(name)
    assert elbo.value <= value + SE * math.hypot(se, elbo.se) + 1e-9 * abs(value)


@pytest.mark.parametrize(("name", "text"), each([pair for pair in PAIRS if pair[0] in EXACT]))
def test_evidence_identity_holds_at_every_point(name: str, text: str) -> None:
    """log p(x) = log w(z) + log q(z) − log p(z | x), whatever z and whoever drew it."""
    with torch.no_grad():
        _check_identity(name, text)


def _check_identity(name: str, text: str) -> None:
    model, x = case(name)
    z, q = points(model, fitted(name, text), x)
    log_q = q.log_prob(z)
    log_weight = model.log_joint(x, z) - log_q
    evidence = model.log_evidence(x).expand_as(log_q)
    again = log_weight + log_q - model.posterior(x).log_prob(z)
    # 1e-9; and where draws of the prior have log-densities of millions of nats, the 16 digits that float64 keeps of them.
    rounding = 32 * torch.finfo(torch.double).eps * (log_weight.abs() + log_q.abs())
    assert bool(((again - evidence).abs() < 1e-9 + torch.where(rounding > 1e-9, rounding, 0.0)).all())


@pytest.mark.parametrize("name", EXACT)
def test_exact_guide_has_no_gap(name: str) -> None:
    model, x = case(name)
    result = experiments.evaluate(model, fitted(name, "exact"), x)
    assert abs(result.kl_gap.value) < 1e-8 * result.units
    assert result.evidence.kind == "exact"


@pytest.mark.parametrize(("name", "text"), each(PAIRS))
def test_elbo_is_reconstruction_minus_kl(name: str, text: str) -> None:
    found = reduced(name, text)
    assert found.reconstruction.value - found.kl_prior.value == pytest.approx(found.elbo.value, rel=1e-9)


def stock_elbo(model: zoo.Model, x: Data) -> Any:
    """Return Pyro's own ELBO: of discrete latents, which are enumerated, or are summed out beside continuous ones, theirs."""
    found = model.latents(x)
    enumerated = found.discrete or found.summed
    return pyro.infer.TraceEnum_ELBO(max_plate_nesting=found.depth) if enumerated else pyro.infer.Trace_ELBO()


@pytest.mark.parametrize(("name", "text"), each(PAIRS))
def test_stock_pyro_agrees(name: str, text: str) -> None:
    """Stock Trace_ELBO (TraceEnum_ELBO for discrete latents, summed out or not) on the same pair gives our ELBO."""
    model, x = case(name)
    guide = fitted(name, text)
    ours = reduced(name, text).elbo
    with zoo.seeded(1), pyro.get_param_store().scope(), torch.no_grad():
        if model.latents(x).discrete:
            stock = -stock_elbo(model, x).loss(model, guide, x)
            assert stock == pytest.approx(ours.value, rel=1e-9)
            return
        loss = stock_elbo(model, x)
        losses = -torch.tensor([loss.loss(model, guide, x) for _ in range(40)], dtype=torch.double)
    error = math.hypot(float(losses.std()) / math.sqrt(len(losses)), ours.se)
    assert abs(float(losses.mean()) - ours.value) < SE * error + 1e-9 * abs(ours.value)


@pytest.mark.parametrize(("name", "text"), each(TRAINED))
def test_stock_svi_trains_the_pair(name: str, text: str) -> None:
    model, x = case(name)
    guide = guides.build(text, model, x)
    before = [p.detach().clone() for p in guide.parameters()]
    loss = stock_elbo(model, x)
    with zoo.seeded(0), pyro.get_param_store().scope():
        theta = {k: v.clone() for k, v in model.state_dict().items()}
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss).step(x)
        model.load_state_dict(theta)
    assert any(not torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


@pytest.mark.parametrize(("name", "text"), each(PAIRS))
def test_stock_predictive_runs_on_the_pair(name: str, text: str) -> None:
    model, x = case(name)
    guide = fitted(name, text)
    with zoo.seeded(0), pyro.get_param_store().scope(), torch.no_grad():
        sites = model.latents(x).sites
        drawn = pyro.infer.Predictive(model, guide=guide, num_samples=3, return_sites=[s.name for s in sites])(x)
    for site in sites:
        assert drawn[site.name].numel() == 3 * site.shape.numel()  # Predictive puts dimensions for plates in between
        assert bool(drawn[site.name].isfinite().all())


@pytest.mark.parametrize(("name", "text"), each(TRAINED))
def test_gradient_reaches_every_parameter(name: str, text: str) -> None:
    model, x = case(name)
    guide = guides.build(text, model, x)
    with zoo.seeded(0):
        # Off the start, where an encoder's symmetry or uniform logits could hide a dead parameter behind a zero.
        with torch.no_grad():
            for p in guide.parameters():
                p.add_(0.05 * torch.randn_like(p))
        value = stochastic_bound(model, guide, x, None, model.latents(x).units, Estimation(8)).value
    value.backward()
    for name_, p in guide.named_parameters():
        assert p.numel() == 0 or (p.grad is not None and bool(p.grad.abs().sum() > 0)), name_


@pytest.mark.parametrize(("name", "text"), each([pair for pair in PAIRS if pair[1] != "prior" and pair[0] in MOVING]))
def test_gradient_reaches_theta(name: str, text: str) -> None:
    model, x = case(name)
    with zoo.seeded(0):
        value = stochastic_bound(model, fitted(name, text), x, None, model.latents(x).units, Estimation(8)).value
    gradients = torch.autograd.grad(value, list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)
    # At the maximum of EM they are small, never identically zero in every coordinate.
    assert all(bool(g.abs().sum() > 0) for g in gradients)


@pytest.mark.parametrize(("name", "text"), each([pair for pair in TRAINED if zoo.MODELS[pair[0]].units == "rows"]))
def test_minibatch_elbo_is_unbiased(name: str, text: str) -> None:
    """Over a partition of the units the scaled estimates average to the full ELBO: exactly, with enumerated latents."""
    model, x = case(name)
    guide, units = fitted(name, text), model.latents(x).units
    full = reduced(name, text).elbo
    batches = torch.randperm(units, generator=torch.Generator().manual_seed(0)).reshape(6, -1)
    with zoo.seeded(3), torch.no_grad():
        values = [[
            float(stochastic_bound(model, guide, take(x, index, units), index, units, Estimation(64)).value)
            for index in batches] for _ in range(1 if model.latents(x).discrete else 12)]
    means = torch.tensor(values).mean(1)
    error = 0.0 if len(means) == 1 else float(means.std()) / math.sqrt(len(means))
    assert abs(float(means.mean()) - full.value) < SE * math.hypot(error, full.se) + 1e-5 * abs(full.value)


@pytest.mark.parametrize(("name", "text"), each(TRAINED))
def test_state_dict_round_trips(name: str, text: str) -> None:
    model, x = case(name)
    guide = fitted(name, text)
    file = io.BytesIO()
    torch.save(guide.state_dict(), file)
    file.seek(0)
    other = guides.build(text, model, x, seed=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    z, q = points(model, guide, x)
    assert torch.equal(other.posterior(x).log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("name", MOVING)
def test_model_state_dict_round_trips(name: str) -> None:
    model, x = case(name)
    other = zoo.build(name, x, seed=5)
    other.load_state_dict(model.state_dict())
    latents = model.latents(x)
    z = torch.zeros(1, latents.units, latents.size, dtype=torch.double)
    assert torch.equal(other.log_joint(x, z), model.log_joint(x, z))


@pytest.mark.parametrize(("name", "text"), each(PAIRS))
def test_repr_names_the_pair(name: str, text: str) -> None:
    assert f"{text}, model={name}" in repr(fitted(name, text))


def test_param_store_stays_empty_and_guides_do_not_touch_each_other() -> None:
    model, x = case("eight_schools")
    first = guides.build("mean_field", model, x)
    experiments.fit(model, first, x, steps=5)
    before = {k: v.clone() for k, v in first.state_dict().items()}
    second = guides.build("mean_field", model, x)
    experiments.fit(model, second, x, steps=30)
    assert not pyro.get_param_store().keys()
    assert all(torch.equal(before[k], v) for k, v in first.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in second.state_dict().items())
