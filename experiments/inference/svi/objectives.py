"""Objectives and gradient estimators: one family of bounds on log p(x), and three ways to its gradient."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from experiments.inference.engine import frozen
from experiments.runtime.processes import ALONE, Processes
from guides.guide import BaseGuide
from zoo.data import Data, reference, take
from zoo.distributions.enumerated import Enumerated, expect
from zoo.distributions.scored import scored
from zoo.errors import ZooError, chosen, nearest
from zoo.model import Model
from zoo.program.run import generators, replaying


@dataclass(frozen=True)
class Objective:
    """Rényi's bound of order α on K draws: log((1/K) Σ_k w_k^(1−α)) / (1−α), in nats.

    α = 1 is the ELBO (the limit: the mean log weight), and α = 0 is the importance-weighted bound IWAE-K. For 0 ≤ α ≤ 1 the
    expectation of the bound lies between these two, and below log p(x).

    Source: Li and Turner (2016), Rényi divergence variational inference, https://arxiv.org/abs/1602.02311; Burda, Grosse and
    Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    >>> Objective.parse("renyi(0.5)").alpha
    0.5
    """

    text: str
    alpha: float

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``elbo``, ``iwae`` or ``renyi(alpha)``.

        Raises:
            ZooError: another word, or an order outside [0, 1].
        """
        name, _, rest = text.strip().partition("(")
        if name in OBJECTIVES and not rest:
            return cls(name, OBJECTIVES[name])
        try:
            alpha = float(ast.literal_eval(rest.removesuffix(")").removeprefix("alpha="))) if rest else math.nan
        except (ValueError, SyntaxError, TypeError):
            alpha = math.nan
        if name != "renyi" or not 0 <= alpha <= 1:
            hint = nearest(name, [*OBJECTIVES, "renyi"]) if name != "renyi" else None
            raise ZooError(
                f"expected an objective elbo, iwae or renyi(alpha) with alpha from 0 to 1; got '{text}'"
                f"{hint or '; e.g. renyi(0.5)'}")
        return cls(text.strip(), alpha)

    def label(self, draws: int) -> str:
        """Return what to call the bound's values on so many draws: only the ELBO is called so.

        >>> [Objective.parse(text).label(8) for text in ("elbo", "renyi(1)", "iwae", "renyi(alpha=0.5)")]
        ['ELBO', 'ELBO', 'IWAE-8 bound', 'Rényi(0.5) bound']
        """
        return "ELBO" if self.alpha == 1 else f"IWAE-{draws} bound" if self.alpha == 0 else f"Rényi({self.alpha:g}) bound"

    def bound(self, log_weight: Tensor, log_share: Tensor | None = None) -> Tensor:
        """Return the bound of each unit, (units,), from log weights (draws, units), and log shares that differ."""
        if self.alpha == 1:
            return mean(log_weight, log_share)
        power = 1 - self.alpha
        log_share = log_weight.new_full((), -math.log(len(log_weight))) if log_share is None else log_share
        return (log_share + power * log_weight).logsumexp(0) / power


#: Objectives by name: their orders α. ``renyi(alpha)`` is any other.
OBJECTIVES: Mapping[str, float] = {"elbo": 1.0, "iwae": 0.0}

#: Gradient estimators, and what is known of them.
ESTIMATORS: Mapping[str, str] = {
    "reparameterised": "the gradient of the bound through z(φ, ε) and log q(z; φ)",
    "stl": "sticking the landing: no gradient through φ in log q; for the ELBO unbiased, and without noise where q is exact",
    "dreg": "doubly reparameterised: unbiased for every order, and its signal-to-noise does not fall with K",
}


def check_estimator(estimator: str, objective: Objective) -> None:
    """Raise a :class:`ZooError` unless ``estimator`` is one, and unbiased for the ``objective``."""
    chosen(ESTIMATORS, estimator, "estimator")
    if estimator == "stl" and objective.alpha != 1:
        raise ZooError(
            f"expected estimator stl with objective elbo, for which it is unbiased; got '{objective.text}'; use estimator dreg")


@dataclass(frozen=True)
class Step:
    """One stochastic estimate of a bound: its ``value``, summed over all units; the ``loss``, whose gradient is minus an
    estimate of the bound's gradient; the draws ``z`` (draws, units, d); and the ``reconstruction`` E_q[log p(x | z)] of all
    units."""

    value: Tensor
    loss: Tensor
    z: Tensor
    reconstruction: Tensor


@dataclass(frozen=True)
class Estimation:
    """The options by which a bound is estimated.

    Attributes:
        draws: K, the number of draws of z per unit; for a mixture, rounded up to the same number from each component.
        objective: the bound.
        estimator: the gradient estimator, a key of :data:`ESTIMATORS`.
        processes: the processes that share the minibatch. Each process draws z for all units, so that the draws are those of a
            single process, and then evaluates its own share of the units. The processes' steps add up to a single process's.
    """

    draws: int
    objective: Objective = Objective("elbo", 1.0)
    estimator: str = "reparameterised"
    processes: Processes = ALONE


def stochastic_bound(
    model: Model, guide: BaseGuide, batch: Data, index: Tensor | None, units: int, how: Estimation, kl_weight: float = 1.0,
) -> Step:
    """Return an unbiased estimate of a bound's total over ``units`` from a minibatch of them.

    Args:
        model: the model.
        guide: the guide; a finite support is summed exactly.
        batch: the minibatch: rows ``index`` of the data; ``index`` is ``None`` where it is all of it.
        index: which of the fitted units these are.
        units: how many units there are in all.
        how: the bound and its estimator.
        kl_weight: β on log p(z) − log q(z), for KL warm-up.

    Raises:
        ZooError: a guide without reparameterised draws, or an objective other than the ELBO where nothing is drawn.

    Source: Roeder, Wu and Duvenaud (2017), Sticking the landing, https://arxiv.org/abs/1703.09194; Tucker, Lawson, Gu and
    Maddison (2019), Doubly reparameterized gradient estimators, https://arxiv.org/abs/1810.04152
    """
    before = generators()
    q = guide.posterior(batch, index)
    count = q.batch_shape[0]
    own, scale = how.processes.share(count), units / count
    mine = batch
    if how.processes.count > 1:
        mine = take(batch, torch.arange(count, device=reference(batch).device)[own], count)
    if isinstance(q, Enumerated):
        return _enumerated(model, q, mine, own, scale, how, kl_weight)
    if not q.has_rsample:
        raise ZooError(f"expected a guide with reparameterised draws for method svi; got '{guide.text}'; use another guide")
    drawn, log_q, log_share = _drawn(q, how.draws, how.estimator)
    if how.estimator != "reparameterised":
        with replaying(before), frozen(guide):  # an encoder that drops units out must drop the same ones
            log_q = guide.posterior(batch, index).log_prob(drawn)
    z, log_q = _part(drawn, own), _part(log_q, own)
    log_share = None if log_share is None else _part(log_share, own)
    with how.processes.apart():
        prior, likelihood = model.log_terms(mine, z)
    log_weight = likelihood + prior - log_q if kl_weight == 1 else likelihood + kl_weight * (prior - log_q)
    value = how.objective.bound(log_weight, log_share).sum() * scale
    reconstruction = mean(likelihood, log_share).detach().sum() * scale
    if how.estimator == "reparameterised" or log_share is not None:
        return Step(value, -value, drawn, reconstruction)
    loss = -_doubly_reparameterised(log_weight, drawn, own, how.objective.alpha).sum() * scale
    return Step(value, loss, drawn, reconstruction)


def _part(values: Tensor, own: slice) -> Tensor:
    """Return values (draws, units, …) of the units ``own``; as they are where these are all."""
    return values if own == slice(0, values.shape[1]) else values[:, own]


def _drawn(q: Distribution, draws: int, estimator: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return z, log q(z), and log shares where draws do not count alike: of a mixture, but for dreg."""
    stratified = None if estimator == "dreg" else getattr(q, "stratified_rsample", None)
    if stratified is None:
        return *drawn_with_score(q, draws), None
    z, log_share = stratified(draws)
    return z, q.log_prob(z), log_share


def mean(values: Tensor, log_share: Tensor | None) -> Tensor:
    """Return means (units,) over draws of values (draws, units) that count by their shares, or all alike."""
    return values.mean(0) if log_share is None else (log_share.exp() * values).sum(0)


def drawn_with_score(q: Distribution, draws: int) -> tuple[Tensor, Tensor]:
    """Return z (draws, units, d) and log q(z) (draws, units) for a gradient: those of ``log_weights.scored``.

    Where coordinates are independent normals, log q comes from the noise that a draw is made of: of the derivatives of log q in
    z and in φ most cancel, and are not computed. Log weights that are reported stay with log q at z as it was rounded.
    """
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1):
        return scored(q, draws)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    noise = torch.randn((draws, *loc.shape), dtype=loc.dtype, device=loc.device)
    return loc + scale * noise, -(0.5 * noise.square() + (0.5 * math.log(2 * math.pi) + scale.log())).sum(-1)


def _doubly_reparameterised(log_weight: Tensor, drawn: Tensor, own: slice, alpha: float) -> Tensor:
    """Return a surrogate (units,) whose gradient in θ is Σ_k v_k ∂θ log w_k, v_k ∝ w_k^(1−α), and in φ, through z alone,
    Σ_k (α v_k + (1−α) v_k²) ∂z log w_k ∂φ z_k.

    The score that was dropped, −v_k ∂φ log q(z_k), is in expectation the path gradient of v_k, (1−α)(v_k − v_k²) ∂z log w_k:
    subtracted from v_k it leaves the factor above. α = 0 is DReG for IWAE, α = 1 sticking the landing. The weights are of the
    units ``own`` of those that were ``drawn``; others have no gradient here.
    """
    share = ((1 - alpha) * log_weight).softmax(0).detach()
    if drawn.requires_grad:
        factor = drawn.new_zeros(drawn.shape[:2])
        factor[:, own] = alpha + (1 - alpha) * share
        drawn.register_hook(lambda gradient: gradient * factor[..., None])
    return (share * log_weight).sum(0)


def _enumerated(
    model: Model, q: Enumerated, mine: Data, own: slice, scale: float, how: Estimation, kl_weight: float,
) -> Step:
    """Return the exact bound of q over a finite support, of the units ``own``, whose data are ``mine``."""
    part = Enumerated(q.logits[own], q.values, validate_args=False) if how.processes.count > 1 else q
    if how.objective.alpha != 1:
        raise ZooError(
            f"expected objective elbo for discrete latents, which are summed, not drawn; got '{how.objective.text}'; leave it "
            "out")
    with how.processes.apart():
        reconstruction, kl = enumerated_terms(model, part, mine)
    value = (reconstruction - kl_weight * kl) * scale
    return Step(value, -value, q.enumerate_support(), reconstruction.detach() * scale)


def enumerated_terms(model: Model, q: Enumerated, x: Data) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(x | z)] and KL(q ‖ prior) of q over a finite support: exact sums, summed over units."""
    reconstruction, kl = _terms_by_unit(model, q, x)
    return reconstruction.sum(), kl.sum()


def enumerated_elbos(model: Model, q: Enumerated, x: Data) -> Tensor:
    """Return the ELBO of q over a finite support, of each unit, (units,)."""
    reconstruction, kl = _terms_by_unit(model, q, x)
    return reconstruction - kl


def _terms_by_unit(model: Model, q: Enumerated, x: Data) -> tuple[Tensor, Tensor]:
    log_q = q.logits.movedim(-1, 0)
    prior, likelihood = model.log_terms(x, q.enumerate_support())
    share = log_q.exp()
    return expect(share, likelihood).sum(0), expect(share, log_q - prior).sum(0)
