"""Expectation–maximisation, as coordinate ascent on the ELBO."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.callbacks import Watch
from experiments.engine import Outcome, non_finite_site
from experiments.fixed_draws import normal_noise, power_of_two
from experiments.journal import State, check_finite
from experiments.optimise import ascend
from guides.guide import BaseGuide
from guides.whole import Exact
from zoo.data import Data
from zoo.enumerated import Enumerated, expect
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.models.linear_gaussian import covariances


@dataclass(frozen=True)
class Iteration:
    """One iteration of EM, all in nats, summed over units.

    ``elbo_before`` ≤ ``elbo_after`` ≤ ``log_evidence``: the E-step makes ``elbo_before`` equal to log p(x | θ_old), the
    M-step raises it, and the new log p(x | θ) lies above by ``gap`` = KL(q_old ‖ new posterior).
    """

    step: int
    elbo_before: float
    elbo_after: float
    log_evidence: float

    @property
    def gap(self) -> float:
        return self.log_evidence - self.elbo_after


def iteration(row: Sequence[float]) -> Iteration:
    """Return the iteration that was written down as ``row``."""
    step, *nats = row
    return Iteration(int(step), *map(float, nats))


def e_step(model: Model, x: Data) -> Distribution:
    """Return q(z) = p(z | x, θ): the maximiser of the ELBO over all q, at which the gap is zero."""
    with torch.no_grad():
        return model.posterior(x)


def m_step(model: Model, x: Data, q: Distribution, iterations: int = 20) -> None:
    """Move θ to raise E_q[log p(x, z | θ)]: to its maximiser where the model knows it, else by L-BFGS steps."""
    try:
        model.maximise(x, q)
    except NotImplementedError:
        parameters = [p for p in model.parameters() if p.requires_grad]
        ascend(lambda: expected_log_joint(model, x, q), parameters, iterations)


def expected_log_joint(model: Model, x: Data, q: Distribution) -> Tensor:
    """Return Q(θ) = E_q[log p(x, z | θ)], summed over units.

    An exact sum where q enumerates; else the mean over held quasi-random draws with q's own mean and covariance, which
    is exact where log p(x, z) is quadratic in z, as in every linear-Gaussian model.
    """
    prior, likelihood = _expected_terms(model, x, q)
    return prior + likelihood


def _expected_terms(model: Model, x: Data, q: Distribution) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(z | θ)] and E_q[log p(x | z, θ)], summed over units, as of :func:`expected_log_joint`."""
    if isinstance(q, Enumerated):
        prior, likelihood = model.log_terms(x, q.enumerate_support())
        share = q.probs.movedim(-1, 0)
        return expect(share, prior).sum(), expect(share, likelihood).sum()
    prior, likelihood = model.log_terms(x, _held(q))
    return prior.mean(0).sum(), likelihood.mean(0).sum()


def elbo(model: Model, x: Data, q: Distribution) -> Tensor:
    """Return Q(θ) + H(q), summed over units."""
    return expected_log_joint(model, x, q) + q.entropy().sum()


def em(
    model: Model, guide: BaseGuide, x: Data, *, steps: int, watch: Watch, iterations: list[Iteration] | None = None,
    tolerance: float = 1e-9,
) -> Outcome:
    """Alternate :func:`e_step` and :func:`m_step` until log p(x | θ) rises by under ``tolerance`` nats per unit.

    Each iteration is appended to ``iterations``. θ that turns non-finite stops the fit at the last finite θ.

    Raises:
        ZooError: the guide is not exact, the model has no θ, or log p(x | θ) is not finite at the start.

    Source: Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; Neal and Hinton (1998),
    A view of the EM algorithm that justifies incremental, sparse, and other variants,
    https://doi.org/10.1007/978-94-011-5014-9_12
    """
    if not isinstance(guide, Exact):
        raise ZooError(f"expected guide 'exact' for method em, whose E-step is the exact posterior; got '{guide.text}'; use it")
    if not model.latents(x).size:
        raise ZooError(
            f"expected latents to fill in for method em; got {model.label}, whose latents are functions of x; use method svi")
    if not any(p.requires_grad for p in model.parameters()):
        raise ZooError(f"expected a model with parameters for method em; got {model.label}, which has none; nothing to fit")
    evidence = _log_evidence(model, x)
    if not torch.isfinite(torch.tensor(evidence)):
        site = non_finite_site(model, x, _points(e_step(model, x)))
        raise ZooError(
            f"expected a finite log p(x) where EM starts; got {evidence} at site '{site}' of {model.label}; check the data")
    record = [] if iterations is None else iterations
    units = model.latents(x).units

    def snapshot() -> State:
        return State(State.prefixed("model", model.state_dict()), {
            "evidence": evidence, "iterations": [astuple(done) for done in record]})

    def load(state: State) -> None:
        nonlocal evidence
        model.load_state_dict(state.part("model"))
        check_finite(model.parameters())
        evidence = float(state.values["evidence"])
        record[:] = [iteration(row) for row in state.values["iterations"]]

    for step in range(watch.resume(load) + 1, steps + 1):
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        q = e_step(model, x)
        before = float(elbo(model, x, q).detach())
        m_step(model, x, q)
        prior, likelihood, entropy = (float(v.detach()) for v in (*_expected_terms(model, x, q), q.entropy().sum()))
        after, new = prior + likelihood + entropy, _log_evidence(model, x)
        if not torch.isfinite(torch.tensor([after, new])).all():
            site = non_finite_site(model, x, _points(q))
            model.load_state_dict(kept)
            reason = f"iteration {step} turned non-finite at site '{site}'; the parameters before it are kept"
            warnings.warn(ZooWarning(f"EM on {model.label} stopped: {reason}"), stacklevel=3)
            return Outcome(step - 1, evidence, False, reason)
        record.append(Iteration(step, before, after, new))
        rise, evidence = new - evidence, new
        watch.step(step, new, snapshot, reconstruction=likelihood, kl=-prior - entropy)
        if abs(rise) < tolerance * units:
            return Outcome(step, new, True)
    return Outcome(steps, evidence, False)


def _log_evidence(model: Model, x: Data) -> float:
    with torch.no_grad():
        return float(model.log_evidence(x).sum())


def _points(q: Distribution) -> Tensor:
    return q.enumerate_support() if isinstance(q, Enumerated) else _held(q)


def _held(q: Distribution) -> Tensor:
    """Return draws (draws, units, d) whose mean and covariance are q's own, exactly."""
    size = q.event_shape[0]
    draws = power_of_two(max(16, 4 * size))
    factor = torch.linalg.cholesky(covariances(q))
    noise = normal_noise(draws, size, 0, q.mean)
    held: Tensor = (q.mean + (factor @ noise[..., None])[..., 0]).detach()
    return held
