"""EM where log p(x, z | θ) is quadratic in the row: by the rows' moments, in place of a pass of the program over all rows."""

from __future__ import annotations

import copy
import math
from contextlib import suppress

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.inference.em.expectation import Expectation, Rows, Terms, e_step, m_step
from experiments.runtime.processes import ALONE, Processes
from zoo.data import Data, reference, take
from zoo.distributions.covariances import covariances
from zoo.distributions.enumerated import Enumerated
from zoo.model import Model
from zoo.program.sites.latents import Latents
from zoo.structure.m_step import FromMoments
from zoo.structure.probe import Probe
from zoo.structure.quadratic import ROWS, Frame, power_sums, responsibilities

#: Rows on which polynomials are held against the program, and what they may differ by, relative to 1 + |log p(x, z)|.
CHECKED, TOLERANCE = 64, 1e-9
#: A component with less than this many rows in all has lost them.
EMPTY = 1e-8


class RepresentativeRows(Expectation):
    """EM's steps on a few rows that stand for all, where x and z are jointly normal.

    Every total that EM needs is then the sum of a polynomial of degree two in the row. So a few rows with the data's mean and
    covariance give the same totals as all rows. In the same way, 2 d values of z with q's mean and covariance give the
    expectations under q.

    Args:
        model: the model.
        x: the rows, (rows, D), float64.
        share: the number of rows of the data that each row of ``x`` stands for.
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


class QuadraticStatistics(Expectation):
    """EM's steps by the rows' quadratic statistics at each value of z: one pass of matrix products an iteration.

    An iteration runs the program on all rows instead if the statistics do not give the program's densities (a subclass with
    another density, or a covariance so thin that the expansion cancels), or if a component has lost its rows.
    """

    def __init__(self, model: Model, x: Tensor, frame: Frame, latents: Latents, processes: Processes = ALONE):
        super().__init__(model)
        self.frame, self.latents, self.processes = frame, latents, processes
        self.x = x[processes.share(len(x))]
        self.support = latents.support().to(frame.centre)
        # Where an expansion cancels, it does so most at the rows farthest out: each column's extremes are among those checked.
        self.checked = torch.cat([x[:: max(1, len(x) // CHECKED)][:CHECKED], x[x.argmin(0)], x[x.argmax(0)]]).double()
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
            # A matrix that has no factor, or a program that bears no gradients in x: rows will tell what there is to tell.
            with torch.no_grad(), suppress(RuntimeError):
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
            assert isinstance(self.model, FromMoments), "as _by_moments found"
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
            return QuadraticStatistics(_double(model), x, frame, latents, processes)
        rows = frame.rows()
        if len(rows) < len(x):
            return RepresentativeRows(_double(model), rows, len(x) / len(rows))
    if processes.count == 1:
        return Rows(model, x, latents, latents.units)
    index = torch.arange(latents.units, device=reference(x).device)[processes.share(latents.units)]
    return Rows(model, take(x, index, latents.units), latents, len(index), processes)


def _by_moments(model: Model) -> bool:
    """Return whether the model's M-step is known from moments: that of a subclass which has another one may not be."""
    classes = type(model).__mro__
    if not isinstance(model, FromMoments):
        return False
    steps = [next(i for i, c in enumerate(classes) if name in vars(c)) for name in ("maximise_moments", "maximise")]
    return steps[0] <= steps[1]


def _double(model: Model) -> Model:
    """Return ``model`` if its parameters are float64, else a copy whose are."""
    if all(p.dtype == torch.float64 for p in model.parameters()):
        return model
    return copy.deepcopy(model).double()


def _spread(q: Distribution) -> Tensor:
    """Return 2 d values (2 d, units, d) whose mean and covariance are q's own, exactly: its mean ± √d each column of L."""
    factor = getattr(q, "scale_tril", None)
    factor = torch.linalg.cholesky(covariances(q)) if factor is None else factor
    moved = math.sqrt(q.event_shape[0]) * factor.movedim(-1, 0)
    spread: Tensor = torch.cat([q.mean + moved, q.mean - moved]).detach()
    return spread
