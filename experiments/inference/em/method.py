"""Expectation–maximisation, as coordinate ascent on the ELBO."""

from __future__ import annotations

import math
import warnings
from dataclasses import astuple

from torch import Tensor

from experiments.fits.callbacks import Watch
from experiments.fits.result import Iteration, Outcome
from experiments.fits.state import State, check_finite
from experiments.inference.em.expectation import Expectation
from experiments.inference.em.moments import expectation
from experiments.inference.engine import non_finite_site
from experiments.inference.method import Method, Problem
from experiments.inference.options import EMOptions
from experiments.optimisers.anderson import Anderson
from experiments.optimisers.lbfgs import assign, flat
from guides.guide import BaseGuide
from guides.model_based import Exact
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.sites.latents import Latents
from zoo.structure.m_step import Bounded

#: EM has converged where an iteration raises log p(x | θ) by less, in nats per unit.
TOLERANCE = 1e-9


class EM(Method[EMOptions]):
    """Expectation–maximisation: :func:`e_step` and :func:`m_step` in turn.

    The fit ends when an iteration raises log p(x | θ) by less than :data:`TOLERANCE` nats per unit. If θ turns non-finite, the
    fit stops at the last finite θ. With ``accelerate``, :class:`Anderson` extrapolates θ from the last iterations. The next
    E-step is taken at the extrapolated θ if log p(x | θ) there is at least the ELBO after the M-step, and at the M-step's θ
    otherwise, so log p(x | θ) never falls. If several processes share the units, each process takes the E-step on its share.

    Source: Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; Neal and Hinton (1998),
    A view of the EM algorithm that justifies incremental, sparse, and other variants,
    https://doi.org/10.1007/978-94-011-5014-9_12
    """

    name = "em"
    shares_units = True

    def suits(self, guide: BaseGuide, latents: Latents | None) -> bool:
        """Where no latent is free there is nothing for the E-step to fill in: ``svi`` takes log p(x) itself."""
        return isinstance(guide, Exact) and (latents is None or latents.size > 0)

    def misfit(self, problem: Problem) -> str:
        model, guide = problem.model, problem.guide
        if not isinstance(guide, Exact):
            return f"expected guide 'exact' for method em, whose E-step is the exact posterior; got '{guide.text}'; use it"
        if not problem.latents.size:
            return (
                f"expected latents to fill in for method em; got {model.label}, whose latents are functions of x; "
                "use method svi")
        if not any(p.requires_grad for p in model.parameters()):
            return f"expected a model with parameters for method em; got {model.label}, which has none; nothing to fit"
        if not problem.train_model:
            return "expected train_model for method em, which moves θ alone; got train_model=False; leave method out"
        return ""

    def run(self, problem: Problem, options: EMOptions, watch: Watch) -> Outcome:
        model = problem.model
        work = expectation(model, problem.x, problem.processes)
        run = _Run(work, [], Anderson() if options.accelerate else None)
        first = watch.resume(run.load) + 1
        run.start()
        _copy(work.model, model)
        for step in range(first, options.limit + 1):
            before, evidence = _state(work.model), run.evidence
            done, numbers = run.step(step)
            if not math.isfinite(done.elbo_after) or not math.isfinite(done.log_evidence):
                site = non_finite_site(work.model, *work.points())
                work.model.load_state_dict(before)
                _copy(work.model, model)
                reason = f"iteration {step} turned non-finite at site '{site}'; the parameters before it are kept"
                warnings.warn(ZooWarning(f"EM on {model.label} stopped: {reason}"), stacklevel=3)
                return run.outcome(step - 1, evidence, False, reason)
            run.record.append(done)
            _copy(work.model, model)
            watch.step(step, done.log_evidence, run.snapshot, **numbers)
            if abs(done.log_evidence - evidence) < TOLERANCE * problem.latents.units:
                return run.outcome(step, done.log_evidence, True)
        return run.outcome(options.limit, run.evidence, False)


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
        if isinstance(self.work.model, Bounded):
            self.work.model.confine()
        self.work.moved()

    def outcome(self, steps: int, evidence: float, converged: bool, stopped: str = "") -> Outcome:
        """Return how the run ended."""
        return Outcome(steps, evidence, converged, stopped, iterations=tuple(self.record))

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
        self.record[:] = [Iteration.of(row) for row in state.values["iterations"]]
        if self.anderson is not None:
            self.anderson.load(state.part("anderson"), self.parameters)


def _state(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _copy(moved: Model, model: Model) -> None:
    """Put θ of the copy that was moved, if it is one, into the model."""
    if moved is not model:
        model.load_state_dict(moved.state_dict())
