"""The E-step, the M-step and the terms of the ELBO in EM, by the program on all rows.

:mod:`experiments.inference.em.moments` computes the same in two faster ways, for quadratic models.
"""

from __future__ import annotations

import abc
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.optimisers.lbfgs import ascend
from experiments.runtime.processes import ALONE, Processes
from experiments.samplers.quasi_random import normal_noise, power_of_two
from zoo.data import Data, reference
from zoo.distributions.covariances import covariances
from zoo.distributions.enumerated import Enumerated, expect
from zoo.model import Model
from zoo.program.sites.latents import Latents

#: E_q[log p(z | θ)], E_q[log p(x | z, θ)] and the entropy of q, in nats, summed over units: the ELBO's three terms.
Terms: TypeAlias = tuple[float, float, float]


def e_step(model: Model, x: Data) -> Distribution:
    """Return q(z) = p(z | x, θ): the maximiser of the ELBO over all q, at which the gap is zero."""
    with torch.no_grad():
        return model.posterior(x)


def m_step(model: Model, x: Data, q: Distribution, iterations: int = 20, processes: Processes = ALONE) -> None:
    """Move θ to raise E_q[log p(x, z | θ)]: to its maximiser where the model knows it, else by L-BFGS steps.

    Where several ``processes`` have a share of the rows each, by L-BFGS: a closed form asks for all rows at once.
    """
    try:
        if processes.count > 1:
            raise NotImplementedError
        model.maximise(x, q)
    except NotImplementedError:
        parameters = [p for p in model.parameters() if p.requires_grad]
        ascend(lambda: expected_log_joint(model, x, q), parameters, iterations, processes=processes)


def expected_log_joint(model: Model, x: Data, q: Distribution) -> Tensor:
    """Return Q(θ) = E_q[log p(x, z | θ)], summed over units.

    An exact sum where q enumerates; else the mean over held quasi-random draws with q's own mean and covariance, which
    is exact where log p(x, z) is quadratic in z, as in every linear-Gaussian model.
    """
    prior, likelihood = _expected_terms(model, x, q)
    return prior + likelihood


def elbo(model: Model, x: Data, q: Distribution) -> Tensor:
    """Return Q(θ) + H(q), summed over units."""
    return expected_log_joint(model, x, q) + q.entropy().sum()


class Expectation(abc.ABC):
    """The E-step, the M-step and the terms of the ELBO of one EM fit to its data.

    q is the posterior of the last :meth:`expect`, and θ is the present θ of ``model``. ``model`` is the model that EM moves: if
    moments are computed in float64 and the parameters are float32, ``model`` is a float64 copy of the model that is fitted.
    """

    def __init__(self, model: Model):
        self.model = model

    @abc.abstractmethod
    def expect(self) -> float:
        """E-step: set q to the posterior at θ; return log p(x | θ)."""

    @abc.abstractmethod
    def terms(self) -> Terms:
        """Return the terms of the ELBO of q at θ."""

    @abc.abstractmethod
    def maximise(self) -> None:
        """M-step: move θ to raise the ELBO of q."""

    @abc.abstractmethod
    def moved(self) -> None:
        """Note that θ was moved from outside."""

    @abc.abstractmethod
    def points(self) -> tuple[Data, Tensor]:
        """Return rows, and values of z (draws, units, d) for them at which a density that is not finite shows."""


class Rows(Expectation):
    """EM's steps by the program on all rows, for any model.

    Args:
        model: the model.
        x: the rows, or this process's share of them.
        latents: the layout of the model's latents on such rows.
        units: the number of units in ``x``.
        processes: the processes that share the rows.
    """

    def __init__(self, model: Model, x: Data, latents: Latents, units: int, processes: Processes = ALONE):
        super().__init__(model)
        self.x, self.processes = x, processes
        self.q: Distribution
        known = type(model).posterior is not Model.posterior or not latents.discrete
        #: All values of z, (K, units, d), where the E-step is by enumeration: then one of them serves all that is asked.
        self.support = None if known else latents.support().to(reference(x))[:, None].expand(-1, units, -1)
        self.found: tuple[Tensor, Tensor] | None = None

    def expect(self) -> float:
        with torch.no_grad():
            if self.support is None:
                self.q = e_step(self.model, self.x)
                return self._total(self.model.log_evidence(self.x).sum())[0]
            log_joint = torch.add(*self._enumerated(self.support))
            self.q = Enumerated(log_joint.T, self.support[:, 0], validate_args=False)
            return self._total(log_joint.logsumexp(0).sum())[0]

    def _total(self, *values: Tensor) -> list[float]:
        """Return sums over this process's rows as sums over all that there are."""
        found: list[float] = self.processes.total(torch.stack(values)).tolist()
        return found

    def _enumerated(self, support: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(x | z), (K, units), at θ: evaluated once for each."""
        self.found = self.found or self.model.log_terms(self.x, support)
        return self.found

    def terms(self) -> Terms:
        with torch.no_grad():
            if self.support is None or not isinstance(self.q, Enumerated):
                parts = _expected_terms(self.model, self.x, self.q)
            else:
                parts = _shared(self.q, *self._enumerated(self.support))
            prior, likelihood, entropy = self._total(*parts, self.q.entropy().sum())
            return prior, likelihood, entropy

    def maximise(self) -> None:
        m_step(self.model, self.x, self.q, processes=self.processes)
        self.moved()

    def moved(self) -> None:
        self.found = None

    def points(self) -> tuple[Data, Tensor]:
        return self.x, self.q.enumerate_support() if isinstance(self.q, Enumerated) else _held(self.q)


def _expected_terms(model: Model, x: Data, q: Distribution) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(z | θ)] and E_q[log p(x | z, θ)], summed over units, as of :func:`expected_log_joint`."""
    if isinstance(q, Enumerated):
        return _shared(q, *model.log_terms(x, q.enumerate_support()))
    prior, likelihood = model.log_terms(x, _held(q))
    return prior.mean(0).sum(), likelihood.mean(0).sum()


def _shared(q: Enumerated, prior: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """Return expectations of (K, units) tensors under q, summed over units."""
    share = q.probs.movedim(-1, 0)
    return expect(share, prior).sum(), expect(share, likelihood).sum()


def _held(q: Distribution) -> Tensor:
    """Return draws (draws, units, d) whose mean and covariance are q's own, exactly."""
    size = q.event_shape[0]
    draws = power_of_two(max(16, 4 * size))
    factor = torch.linalg.cholesky(covariances(q))
    noise = normal_noise(draws, size, 0, q.mean)
    held: Tensor = (q.mean + (factor @ noise[..., None])[..., 0]).detach()
    return held
