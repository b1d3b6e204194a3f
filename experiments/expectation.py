"""What an iteration of EM needs of the data: an E-step, the terms of the ELBO, an M-step. Three ways to them, one answer."""

from __future__ import annotations

import abc
import copy
import math
from contextlib import suppress
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.noise import normal_noise, power_of_two
from experiments.optimise import ascend
from experiments.processes import ALONE, Processes
from zoo.data import Data, reference, take
from zoo.enumerated import Enumerated, expect
from zoo.latents import Latents
from zoo.model import Model
from zoo.models.linear_gaussian import covariances
from zoo.quadratic import ROWS, Frame, Probe, power_sums, responsibilities
from zoo.vectorise import LinAlgError

#: E_q[log p(z | θ)], E_q[log p(x | z, θ)] and the entropy of q, in nats, summed over units: the ELBO's three terms.
Terms: TypeAlias = tuple[float, float, float]

#: Rows on which polynomials are held against the program, and what they may differ by, relative to 1 + |log p(x, z)|.
CHECKED, TOLERANCE = 64, 1e-9
#: A component with less than this many rows in all has lost them.
EMPTY = 1e-8


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
    """The data as EM meets them: q is remembered from the last :meth:`expect`, θ is that of ``model`` now.

    ``model`` is the one that EM moves: of float32 data a float64 copy, where moments are computed in float64.
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
        """Say that θ was moved by somebody else."""

    @abc.abstractmethod
    def points(self) -> tuple[Data, Tensor]:
        """Return rows, and values of z (draws, units, d) for them at which a density that is not finite shows."""


class Rows(Expectation):
    """By the program, on all rows, whatever the model.

    Args:
        model: the model.
        x: the rows, or this process's share of them.
        latents: of the model, on any rows of that kind.
        units: how many there are in ``x``.
        processes: that have the others.
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


class Stand(Expectation):
    """By a few rows that stand for all, where x and z are jointly normal.

    Every total that EM asks for is then a polynomial of degree two in the row: rows with the data's mean and covariance have
    the same, as 2 d values of z with q's mean and covariance have its expectations.

    Args:
        model: the model.
        x: the rows, (rows, D), float64.
        share: how many rows of the data each of them stands for.
    """

    def __init__(self, model: Model, x: Tensor, share: float):
        super().__init__(model)
        self.x, self.share = x, share
        self.q: Distribution

    def expect(self) -> float:
        with torch.no_grad():
            self.q = e_step(self.model, self.x)
            return self.share * float(self.model.log_evidence(self.x).sum())

    def terms(self) -> Terms:
        with torch.no_grad():
            z = _spread(self.q)
            prior, likelihood = self.model.log_terms(self.x, z)
            each = self.share / len(z)
            return each * float(prior.sum()), each * float(likelihood.sum()), self.share * float(self.q.entropy().sum())

    def maximise(self) -> None:
        m_step(self.model, self.x, self.q)

    def moved(self) -> None:
        pass

    def points(self) -> tuple[Data, Tensor]:
        return self.x, _spread(self.q)


class Polynomials(Expectation):
    """By the polynomials that a quadratic model's density is of at each value of z: one pass of matrix products an iteration.

    Where they turn out not to be what the program says (a subclass with another density, a covariance so thin that the
    expansion cancels), or a component has lost its rows, an iteration goes by the program.
    """

    def __init__(self, model: Model, x: Tensor, frame: Frame, latents: Latents, processes: Processes = ALONE):
        super().__init__(model)
        self.frame, self.latents, self.processes = frame, latents, processes
        self.x = x[processes.share(len(x))]
        self.support = latents.support().to(frame.centre)
        self.checked = x[:: max(1, len(x) // CHECKED)][:CHECKED].double()
        self.probe = Probe(frame, self.support, self.checked)
        #: Coefficients of log p(z) and log p(x | z) at θ, and of their sum where q is from.
        self.prior, self.likelihood, self.posterior, self.sums = (torch.empty(0) for _ in range(4))
        self.entropy = 0.0
        self.known = False
        self.rows: Rows | None = None

    def expect(self) -> float:
        self.rows = None
        if not self._probed():
            return self._all_rows().expect()
        self.posterior = self.prior + self.likelihood
        self.sums, total = responsibilities(self.frame, self.x, self.posterior)
        self.processes.add_up([self.sums, total])
        self.entropy = float(total - (self.posterior * self.sums).sum())
        return float(total)

    def _probed(self) -> bool:
        """Read the polynomials at θ off the program, once for each θ; return whether they are what it says."""
        if not self.known:
            with torch.no_grad(), suppress(LinAlgError):
                self.prior, self.likelihood, off = self.probe(self.model)
                self.known = off < TOLERANCE
        return self.known

    def _by_rows(self) -> Rows:
        """Return the way by the program, with the q that the polynomials gave."""
        log_joint = torch.cat([self.posterior @ self.frame.features(part) for part in self.x.split(ROWS)], 1)
        rows = self._all_rows()
        rows.q = Enumerated(log_joint.T, self.support, validate_args=False)
        return rows

    def _all_rows(self) -> Rows:
        self.rows = Rows(self.model, self.x.double(), self.latents, len(self.x), self.processes)
        return self.rows

    def terms(self) -> Terms:
        if self.rows is None and self._probed():
            return float((self.prior * self.sums).sum()), float((self.likelihood * self.sums).sum()), self.entropy
        return (self.rows or self._by_rows()).terms()

    def maximise(self) -> None:
        if self.rows is None and float(self.sums[:, 0].min()) > EMPTY:
            self.model.maximise_moments(self.frame.moments(self.sums))
        else:
            (self.rows or self._by_rows()).maximise()
        self.moved()

    def moved(self) -> None:
        self.known = False
        if self.rows is not None:
            self.rows.moved()

    def points(self) -> tuple[Data, Tensor]:
        return self.checked, self.support[:, None].expand(-1, len(self.checked), -1)


def expectation(model: Model, x: Data, processes: Processes = ALONE) -> Expectation:
    """Return the quickest way to EM's steps that ``model`` allows on ``x``, each of ``processes`` taking a share of it."""
    latents = model.latents(x)
    if isinstance(x, Tensor) and model.quadratic and (not latents.discrete or _by_moments(model)):
        origin = x[0].double()
        frame = Frame.of(processes.total(power_sums(x[processes.share(len(x))], origin)), origin)
        if latents.discrete:
            return Polynomials(_double(model), x, frame, latents, processes)
        rows = frame.rows()
        if len(rows) < len(x):
            return Stand(_double(model), rows, len(x) / len(rows))
    if processes.count == 1:
        return Rows(model, x, latents, latents.units)
    index = torch.arange(latents.units, device=reference(x).device)[processes.share(latents.units)]
    return Rows(model, take(x, index, latents.units), latents, len(index), processes)


def _by_moments(model: Model) -> bool:
    """Return whether the model's M-step is known from moments: that of a subclass which has another one may not be."""
    classes = type(model).__mro__
    steps = [next(i for i, c in enumerate(classes) if name in vars(c)) for name in ("maximise_moments", "maximise")]
    return steps[0] <= steps[1] and classes[steps[0]] is not Model


def _double(model: Model) -> Model:
    """Return ``model`` if its parameters are float64, else a copy whose are."""
    if all(p.dtype == torch.float64 for p in model.parameters()):
        return model
    return copy.deepcopy(model).double()


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


def _spread(q: Distribution) -> Tensor:
    """Return 2 d values (2 d, units, d) whose mean and covariance are q's own, exactly: its mean ± √d each column of L."""
    factor = getattr(q, "scale_tril", None)
    factor = torch.linalg.cholesky(covariances(q)) if factor is None else factor
    moved = math.sqrt(q.event_shape[0]) * factor.movedim(-1, 0)
    spread: Tensor = torch.cat([q.mean + moved, q.mean - moved]).detach()
    return spread


def _held(q: Distribution) -> Tensor:
    """Return draws (draws, units, d) whose mean and covariance are q's own, exactly."""
    size = q.event_shape[0]
    draws = power_of_two(max(16, 4 * size))
    factor = torch.linalg.cholesky(covariances(q))
    noise = normal_noise(draws, size, 0, q.mean)
    held: Tensor = (q.mean + (factor @ noise[..., None])[..., 0]).detach()
    return held
