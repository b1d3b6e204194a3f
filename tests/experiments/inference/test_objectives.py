"""Objectives and gradient estimators, against the exact gradient of a linear VAE."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.inference.fit import fit
from experiments.inference.svi.objectives import ESTIMATORS, Estimation, Objective, Step, drawn_with_score, stochastic_bound
from guides.amortisation import Free
from guides.families.gaussian import FullRank
from guides.guide import Guide
from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.models.vae import LinearVAE
from zoo.program.run import seeded

WINE = zoo.dataset("wine", standardise=True).tensor

SE = 4
UNITS = 12


def pair(spread: float = 0.2, wider: float = 0.0) -> tuple[LinearVAE, Tensor, Guide]:
    """A linear VAE, data, and a full-rank guide whose φ is the exact posterior's but for ``spread``, in its scales.

    Its scales are exp(``wider``) times the posterior's. Near the posterior, that is: a guide ten times too narrow has path
    gradients ten times as noisy as the plain ones.
    """
    with zoo.seeded(0), torch.no_grad():
        x = torch.randn(UNITS, 5, dtype=torch.double)
        model = LinearVAE(x, latent=2)
        p = model.posterior(x)
        rows, columns = torch.tril_indices(2, 2)
        tril = p.scale_tril[:, rows, columns]
        tril[:, rows == columns] = tril[:, rows == columns].log() + wider
        phi = {"loc": p.mean + spread * p.stddev * torch.randn_like(p.mean),
               "tril": tril + spread * torch.where(rows == columns, 1.0, p.stddev.mean()) * torch.randn_like(tril)}
    return model, x, Guide(model, FullRank(), Free(phi, x), "full_rank")


def exact_elbo(model: LinearVAE, x: Tensor, guide: Guide) -> Tensor:
    """log p(x) − KL(q ‖ p(z | x)), both normal, in closed form."""
    q, p = guide.posterior(x), model.posterior(x)
    return (model.log_evidence(x) - torch.distributions.kl_divergence(q, p)).sum()


def flat(gradients: tuple[Tensor | None, ...], parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([
        (torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, parameters, strict=True)])


def gradients(
    model: LinearVAE, x: Tensor, guide: Guide, parameters: list[nn.Parameter], draws: int, repeats: int, **how: object,
) -> Tensor:
    """Estimates of the gradient of the bound, (repeats, parameters)."""
    found = []
    with zoo.seeded(1):
        for _ in range(repeats):
            step = stochastic_bound(model, guide, x, None, UNITS, Estimation(draws, **how))  # type: ignore[arg-type]
            found.append(flat(torch.autograd.grad(-step.loss, parameters, allow_unused=True), parameters))
    return torch.stack(found)


def scores(estimates: Tensor, truth: Tensor) -> Tensor:
    """How many standard errors each coordinate's mean is off."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    return ((estimates.mean(0) - truth).abs() / (error + 1e-9 * (1 + truth.abs())))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_elbo_gradient_is_unbiased(estimator: str) -> None:
    model, x, guide = pair()
    parameters = [*guide.parameters(), *model.parameters()]
    truth = flat(torch.autograd.grad(exact_elbo(model, x, guide), parameters, allow_unused=True), parameters)
    found = gradients(model, x, guide, parameters, 8, 400, estimator=estimator)
    off = scores(found, truth)
    assert float(off.max()) < SE + 1, "the most of over 60 coordinates"
    assert float(off.square().mean()) < 2
    assert float(truth.abs().max()) > 1, "a gradient of nothing proves nothing"


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior() -> None:
    model, x, guide = pair(spread=0.0)
    parameters = list(guide.parameters())
    stl = gradients(model, x, guide, parameters, 1, 20, estimator="stl")
    plain = gradients(model, x, guide, parameters, 1, 20)
    assert float(stl.abs().max()) < 1e-10
    assert float(plain.std(0).max()) > 0.1


def test_dreg_of_iwae_has_no_variance_at_the_exact_posterior() -> None:
    model, x, guide = pair(spread=0.0)
    found = gradients(model, x, guide, list(guide.parameters()), 4, 10, objective=Objective("iwae", 0.0), estimator="dreg")
    assert float(found.abs().max()) < 1e-10


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_dreg_and_the_plain_gradient_agree_in_the_mean(alpha: float) -> None:
    """For φ and θ alike, at every order."""
    model, x, guide = pair()
    parameters = [*guide.parameters(), *model.parameters()]
    objective = Objective(f"renyi({alpha})", alpha)
    plain = gradients(model, x, guide, parameters, 5, 600, objective=objective)
    dreg = gradients(model, x, guide, parameters, 5, 600, objective=objective, estimator="dreg")
    error = (plain.var(0) / len(plain) + dreg.var(0) / len(dreg)).sqrt()
    off = (plain.mean(0) - dreg.mean(0)).abs() / (error + 1e-9)
    assert float(off.max()) < SE + 1
    assert float(off.square().mean()) < 2
    size = sum(p.numel() for p in guide.parameters())
    assert float(dreg[:, :size].var(0).sum()) < 0.5 * float(plain[:, :size].var(0).sum()), "its variance in φ is smaller"


def test_iwae_gradient_is_that_of_the_bound() -> None:
    """The mean estimate is the derivative of the bound itself, by central differences on common noise."""
    model, x, guide = pair()
    p = next(iter(guide.parameters()))
    objective = Objective("iwae", 0.0)
    found = gradients(model, x, guide, [p], 5, 300, objective=objective)[:, 0]

    def bound(shift: float) -> Tensor:
        with torch.no_grad(), zoo.seeded(1):
            p.view(-1)[0] += shift
            values = [stochastic_bound(model, guide, x, None, UNITS, Estimation(5, objective)).value for _ in range(300)]
            p.view(-1)[0] -= shift
        return torch.stack(values)

    difference = (bound(1e-4) - bound(-1e-4)) / 2e-4
    torch.testing.assert_close(difference, found, rtol=1e-5, atol=1e-5)


def snr(found: Tensor) -> float:
    """Signal to noise of the φ-gradient: the norm of its mean over its root mean squared deviation."""
    return float(found.mean(0).norm() / found.var(0).sum().sqrt())


@pytest.mark.long
def test_signal_to_noise_of_dreg_does_not_fall_with_k_and_the_plain_one_does() -> None:
    """Rainforth et al. (2018), https://arxiv.org/abs/1802.04537: plain IWAE loses a factor √K; DReG gains one.

    Where the weights have a variance, that is: the guide is wider than the posterior.
    """
    model, x, guide = pair(0.1, wider=0.3)
    parameters, objective = list(guide.parameters()), Objective("iwae", 0.0)
    ratio = {}
    for estimator in ("reparameterised", "dreg"):
        few, many = (
            snr(gradients(model, x, guide, parameters, k, 600, objective=objective, estimator=estimator)) for k in (2, 64))
        ratio[estimator] = many / few
    assert ratio["dreg"] > 2
    assert ratio["reparameterised"] < 0.6


def test_bounds_are_ordered() -> None:
    """ELBO ≤ Rényi ≤ IWAE ≤ log p(x), and IWAE rises with K."""
    model, x, guide = pair()
    with zoo.seeded(0), torch.no_grad():
        weights = experiments.log_weights(model, guide, x, 4096).log_weight
        truth = float(model.log_evidence(x).sum())

        def mean(text: str, k: int) -> tuple[float, float]:
            objective = Objective.parse(text)
            values = torch.stack([objective.bound(part).sum() for part in weights.split(k)])
            return float(values.mean()), float(values.std()) / math.sqrt(len(values))

        elbo, renyi, iwae = mean("elbo", 16), mean("renyi(0.5)", 16), mean("iwae", 16)
        more = mean("iwae", 128)
    assert elbo[0] < renyi[0] < iwae[0] < more[0] + 3 * more[1]
    assert more[0] < truth + 4 * more[1]
    assert truth - more[0] < 0.3 * (truth - elbo[0])


@pytest.mark.parametrize("how", [
    {"objective": "iwae", "draws": 8}, {"objective": "iwae", "estimator": "dreg", "draws": 8},
    pytest.param({"objective": "renyi(0.5)", "draws": 8}, marks=pytest.mark.long), {"estimator": "stl"},
    pytest.param({"schedule": "linear", "clip": 5.0}, marks=pytest.mark.long)])
def test_every_objective_and_estimator_fits(how: dict[str, object]) -> None:
    model, x, guide = pair(spread=0.5)
    objective, truth = Objective.parse(str(how.get("objective", "elbo"))), float(model.log_evidence(x).sum().detach())

    def below() -> float:
        """How far the bound on 8 draws lies below log p(x)."""
        weights = experiments.log_weights(model, guide, x, 4096).log_weight
        return truth - float(torch.stack([objective.bound(part).sum() for part in weights.split(8)]).mean())

    before = below()
    fit(model, guide, x, method="svi", train_model=False, steps=500, **how)  # type: ignore[arg-type]
    assert -0.05 < below() < 0.2 * before


def test_log_q_of_a_draw_and_its_gradient_come_from_the_noise() -> None:
    loc, log_scale = torch.randn(7, 3, dtype=torch.double), 3 * torch.randn(7, 3, dtype=torch.double)
    found = []
    for draw in (scored, drawn_with_score):
        phi = [loc.clone().requires_grad_(), log_scale.clone().requires_grad_()]
        q = torch.distributions.Independent(torch.distributions.Normal(phi[0], phi[1].exp()), 1)
        with zoo.seeded(0):
            z, log_q = draw(q, 5)
        # What the normal's own log-density takes apart, noise never put together: no gradient goes by way of the mean.
        way = torch.autograd.grad(log_q.sum(), phi, allow_unused=True, retain_graph=True)
        assert (way[0] is None) == (draw is drawn_with_score)
        found.append([z, log_q, *torch.autograd.grad((z.sin().sum(-1) - log_q).logsumexp(0).sum(), phi)])
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.long
def test_stl_ends_nearer_to_the_posterior_than_the_plain_gradient() -> None:
    """At the optimum its noise vanishes, so a constant rate still converges."""
    gaps = {}
    for estimator in ("reparameterised", "stl"):
        model, x, guide = pair(spread=0.5)
        fit(model, guide, x, method="svi", train_model=False, steps=800, draws=2, schedule="constant", learning_rate=0.02,
            estimator=estimator)
        with torch.no_grad():
            gaps[estimator] = float(model.log_evidence(x).sum() - exact_elbo(model, x, guide))
    assert gaps["stl"] < 0.05 * gaps["reparameterised"]


@pytest.mark.parametrize(("how", "message"), [
    ({"objective": "elbow"}, "elbo, iwae or renyi"), ({"objective": "renyi(2)"}, "alpha from 0 to 1"),
    ({"objective": "renyi"}, "renyi"), ({"estimator": "score"}, "reparameterised, stl, dreg"),
    ({"objective": "iwae", "estimator": "stl"}, "use estimator dreg"), ({"objective": "iwae", "warm_up": 5}, "warm_up"),
    ({"schedule": "cosin"}, "did you mean 'cosine'"), ({"clip": -1.0}, "clip above 0"), ({"validation": 1.5}, "share"),
    ({"learning_rate": 0.0}, "positive learning rate"), ({"patience": 0}, "patience"), ({"lr": 0.1}, "unknown option 'lr'"),
    ({"validation": 0.2}, "can serve new units")])
def test_errors_name_the_mend(how: dict[str, object], message: str) -> None:
    model, x, guide = pair()
    with pytest.raises(ZooError, match=message) as caught:
        fit(model, guide, x, method="svi", steps=5, **how)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_discrete_latents_take_the_elbo_alone() -> None:
    x = zoo.dataset("faithful").x
    with pytest.raises(ZooError, match="expected objective elbo for discrete latents"):
        fit(zoo.build("gmm", x), "categorical:encoder", x, objective="iwae", steps=2)


def test_warm_up_changes_the_objective_only_while_it_lasts() -> None:
    model, x, guide = pair()
    with torch.no_grad():
        reconstruction, full, part = (float(_step(model, x, guide, beta).value) for beta in (0.0, 1.0, 0.25))
    assert part == pytest.approx(0.75 * reconstruction + 0.25 * full)
    done = fit(model, guide, x, method="svi", steps=60, warm_up=30)
    assert done.states is not None
    assert done.states.best_step > 30


def _step(model: LinearVAE, x: Tensor, guide: Guide, beta: float) -> Step:
    with zoo.seeded(0):
        return stochastic_bound(model, guide, x, None, UNITS, Estimation(64), kl_weight=beta)


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_estimators_score_the_very_guide_that_was_drawn_from(estimator: str) -> None:
    """With dropout the guide is another one at each call: its log q must be that of the masks that z came from."""
    model = zoo.build("linear_vae", WINE)
    with seeded(0):
        network = nn.Sequential(nn.Linear(13, 32), nn.Dropout(0.5), nn.Linear(32, 4)).double()
    guide = guides.build("mean_field:encoder", model, WINE, network=network)
    guide.train()
    values = []
    for name in ("reparameterised", estimator):
        with seeded(1):
            bound = stochastic_bound(model, guide, WINE, None, 178, Estimation(4, Objective("elbo", 1.0), name))
            values.append(float(bound.value.detach()))
    # One takes log q from the noise, the other at z: the same but for rounding, where other masks are nats apart.
    assert values[0] == pytest.approx(values[1], rel=1e-13)


def test_iwae_takes_several_draws() -> None:
    done = {}
    for objective in ("elbo", "iwae"):
        model = zoo.build("linear_vae", WINE, seed=0)
        done[objective] = experiments.fit(model, "mean_field:encoder", WINE, steps=5, objective=objective)
    assert done["iwae"].history[0][1] > done["elbo"].history[0][1]
    with pytest.raises(zoo.ZooError, match="expected 2 or more draws with objective iwae, which is the ELBO at one; got 1"):
        experiments.fit(zoo.build("linear_vae", WINE), "mean_field:encoder", WINE, objective="iwae", draws=1)
