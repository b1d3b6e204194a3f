"""Expectation–maximisation, as coordinate ascent on the ELBO."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from experiments.acceleration import Anderson
from experiments.callbacks import Watch
from experiments.engine import Outcome, non_finite_site
from experiments.expectation import Expectation
from experiments.journal import State, check_finite
from experiments.moments import expectation
from experiments.optimise import assign, flat
from experiments.processes import ALONE, Processes
from guides.guide import BaseGuide
from guides.whole import Exact
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model


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


def em(
    model: Model, guide: BaseGuide, x: Data, *, steps: int, watch: Watch, iterations: list[Iteration] | None = None,
    tolerance: float = 1e-9, accelerate: bool = False, processes: Processes = ALONE,
) -> Outcome:
    """Alternate :func:`e_step` and :func:`m_step` until log p(x | θ) rises by under ``tolerance`` nats per unit.

    Each iteration is appended to ``iterations``. θ that turns non-finite stops the fit at the last finite θ. With
    ``accelerate``, each E-step is taken where :class:`Anderson` extrapolates to, if log p(x | θ) there is at least the ELBO
    that the M-step reached, and else where the M-step led to: it stays monotone. Of several ``processes`` each takes the
    E-step on its share of the units.

    Raises:
        ZooError: the guide is not exact, the model has no θ, or log p(x | θ) is not finite at the start.

    Source: Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; Neal and Hinton (1998),
    A view of the EM algorithm that justifies incremental, sparse, and other variants,
    https://doi.org/10.1007/978-94-011-5014-9_12
    """
    if not isinstance(guide, Exact):
        raise ZooError(f"expected guide 'exact' for method em, whose E-step is the exact posterior; got '{guide.text}'; use it")
    latents = model.latents(x)
    if not latents.size:
        raise ZooError(
            f"expected latents to fill in for method em; got {model.label}, whose latents are functions of x; use method svi")
    if not any(p.requires_grad for p in model.parameters()):
        raise ZooError(f"expected a model with parameters for method em; got {model.label}, which has none; nothing to fit")
    work = expectation(model, x, processes)
    run = _Run(work, [] if iterations is None else iterations, Anderson() if accelerate else None)
    first = watch.resume(run.load) + 1
    run.start()
    _copy(work.model, model)
    for step in range(first, steps + 1):
        before, evidence = _state(work.model), run.evidence
        done, numbers = run.step(step)
        if not math.isfinite(done.elbo_after) or not math.isfinite(done.log_evidence):
            site = non_finite_site(work.model, *work.points())
            work.model.load_state_dict(before)
            _copy(work.model, model)
            reason = f"iteration {step} turned non-finite at site '{site}'; the parameters before it are kept"
            warnings.warn(ZooWarning(f"EM on {model.label} stopped: {reason}"), stacklevel=3)
            return Outcome(step - 1, evidence, False, reason)
        run.record.append(done)
        _copy(work.model, model)
        watch.step(step, done.log_evidence, run.snapshot, **numbers)
        if abs(done.log_evidence - evidence) < tolerance * latents.units:
            return Outcome(step, done.log_evidence, True)
    return Outcome(steps, run.evidence, False)


class _Run:
    """One run of EM: θ and q in ``work``, and what it remembers."""

    def __init__(self, work: Expectation, record: list[Iteration], anderson: Anderson | None):
        self.work, self.record, self.anderson = work, record, anderson
        self.parameters = [p for p in work.model.parameters() if p.requires_grad]
        self.evidence = -math.inf

    def start(self) -> None:
        """Take the first E-step.

        Raises:
            ZooError: log p(x | θ) is not finite there.
        """
        self.evidence = self.work.expect()
        if not math.isfinite(self.evidence):
            site = non_finite_site(self.work.model, *self.work.points())
            raise ZooError(
                f"expected a finite log p(x) where EM starts; got {self.evidence} at site '{site}' of "
                f"{self.work.model.label}; check the data")

    def step(self, step: int) -> tuple[Iteration, dict[str, float]]:
        """Take an M-step and an E-step; return what they did, and the terms of the ELBO between them."""
        before, start = sum(self.work.terms()), flat(self.parameters)
        self.work.maximise()
        prior, likelihood, entropy = self.work.terms()
        after = prior + likelihood + entropy
        self.evidence = self._expect(start, after)
        return Iteration(step, before, after, self.evidence), {"reconstruction": likelihood, "kl": -prior - entropy}

    def _expect(self, start: Tensor, after: float) -> float:
        """Take the E-step where the M-step led to, or farther on, if log p(x) is sure to be no lower there."""
        if self.anderson is None:
            return self.work.expect()
        image = flat(self.parameters)
        proposed = self.anderson.propose(start, image)
        if proposed is not None:
            self._move(proposed)
            evidence = self.work.expect()
            if evidence >= after:
                return evidence
            self.anderson.restart()
            self._move(image)
        return self.work.expect()

    def _move(self, point: Tensor) -> None:
        assign(self.parameters, point)
        self.work.model.confine()
        self.work.moved()

    def snapshot(self) -> State:
        state = State(State.prefixed("model", self.work.model.state_dict()), {
            "evidence": self.evidence, "iterations": [astuple(done) for done in self.record]})
        return state if self.anderson is None else State(
            {**state.tensors, **State.prefixed("anderson", self.anderson.state())}, state.values)

    def load(self, state: State) -> None:
        """Go on from a :meth:`snapshot`."""
        self.work.model.load_state_dict(state.part("model"))
        self.work.moved()
        check_finite(self.work.model.parameters())
        self.record[:] = [iteration(row) for row in state.values["iterations"]]
        if self.anderson is not None:
            self.anderson.load(state.part("anderson"), self.parameters)


def _state(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _copy(moved: Model, model: Model) -> None:
    """Put θ of the copy that was moved, if it is one, into the model."""
    if moved is not model:
        model.load_state_dict(moved.state_dict())
