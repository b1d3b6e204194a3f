"""Deterministic ascents that share no parameters: an L-BFGS for each of many units, all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from experiments.optimisers.lbfgs import Ascent, Tape
from zoo.errors import ZooError
from zoo.program.vectorise import LinAlgError

#: Steps that a unit's curvature is read from, fewer where that would take more numbers than this.
MEMORY, MOST = 10, 2**26
#: No coordinate moves farther than this in a step: φ are means, logarithms of scales, and their like.
REACH = 2.0
#: Armijo's share of the rise that the slope promises, and steps of a search for it.
ENOUGH, TRIALS = 1e-4, 15
#: Iterations in a row in which a settled unit rises no more than asked.
CALM = 2
#: Nats that a slope may promise where floating point shows no rise along it: more of them, and a climb has not converged.
PROMISED = 0.01

#: (parameters (k, size), units (k,)) → objective (k,), a number to report (k,), gradient (k, size), all float64. In
#: place of the gradient, whatever else (k, …) an ascent goes by.
Objective: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
#: What is told after each iteration: the objective, the norm of its gradient and the number to report, over all units; and
#: the parameters (units, size).
Report: TypeAlias = Callable[[float, float, float, Tensor], None]


@dataclass
class State:
    """The state of each unit: parameters (units, size), −objective and number to report (units,), −gradient (units, size)."""

    point: Tensor
    loss: Tensor
    reconstruction: Tensor
    gradient: Tensor

    def at(self, units: Tensor) -> State:
        """Return the state of some units, in their order."""
        return State(of(self.point, units), of(self.loss, units), of(self.reconstruction, units), of(self.gradient, units))

    def copy(self) -> State:
        return State(self.point.clone(), self.loss.clone(), self.reconstruction.clone(), self.gradient.clone())

    def put(self, units: Tensor, new: State) -> None:
        """Set the state of some units; that of all is ``new``'s own."""
        if len(units) == len(self.point):
            self.point, self.loss, self.reconstruction, self.gradient = new.point, new.loss, new.reconstruction, new.gradient
            return
        self.point[units], self.loss[units], self.reconstruction[units] = new.point, new.loss, new.reconstruction
        self.gradient[units] = new.gradient


def of(values: Tensor, units: Tensor) -> Tensor:
    """Return the values of some units, of which each is named once and in order.

    All of them are not picked out: of one unit, that takes as long as the arithmetic.
    """
    return values if len(units) == len(values) else values[units]


def recorded(objective: Objective, tape: Tape | None) -> Callable[[Tensor, Tensor], State]:
    """Return the function that gives the :class:`State` of units (k,) at their parameters (k, size).

    The loss is ∞ where a number is not finite, and of all units where linear algebra fails: a step to there is shortened. With
    a ``tape``, evaluations are recorded there, and those that are on it already are not made.

    Raises:
        ZooError: linear algebra fails where the ascent starts.
    """
    width = 0

    def evaluate(at: Tensor, units: Tensor) -> State:
        def ask() -> np.ndarray:
            nonlocal width
            try:
                value, reconstruction, gradient = objective(at, units)
            except LinAlgError as error:
                if not width:
                    raise ZooError(
                        f"expected linear algebra to work out where the fit starts; got {str(error).splitlines()[0]}; "
                        "add to the covariance's diagonal, or use float64 data") from error
                return np.full(len(at) * width, np.nan)
            width = 2 + gradient.shape[1]
            return torch.cat([torch.stack([value, reconstruction], 1), gradient], 1).cpu().numpy().ravel()

        # In NumPy: of few units, what is worked out here takes as long as it takes to call.
        found = (ask() if tape is None else tape.answer(ask)).reshape(len(at), -1)
        loss = np.where(np.isfinite(found).all(1), -found[:, 0], np.inf)
        return State(at, *(torch.from_numpy(part).to(at) for part in (loss, found[:, 1].copy(), -found[:, 2:])))

    return evaluate


class _Curvature:
    """The last steps of each unit, and how its gradient changed over them: L-BFGS's inverse Hessian."""

    def __init__(self, gradient: Tensor):
        units, size = gradient.shape
        memory = max(3, min(MEMORY, MOST // (2 * units * size)))
        self.steps, self.changes = gradient.new_zeros(2, memory, units, size)
        #: 1 / (stepᵀ change); 0: a pair that says nothing, as at the start, or where the objective is not concave.
        self.weight = gradient.new_zeros(memory, units)
        self.scale = 1 / gradient.norm(dim=1).clamp(min=1.0)
        self.taken = 0

    def direction(self, gradient: Tensor, units: Tensor) -> Tensor:
        """Return the quasi-Newton directions of ``units`` for their gradients (k, size), by the two-loop recursion."""
        memory = len(self.weight)
        newest_first = [(self.taken - 1 - i) % memory for i in range(min(self.taken, memory))]
        q, shares = gradient.clone(), []
        for i in newest_first:
            share = of(self.weight[i], units) * (of(self.steps[i], units) * q).sum(1)
            q -= share[:, None] * of(self.changes[i], units)
            shares.append(share)
        q *= of(self.scale, units)[:, None]
        for i, share in zip(reversed(newest_first), reversed(shares), strict=True):
            other = of(self.weight[i], units) * (of(self.changes[i], units) * q).sum(1)
            q += (share - other)[:, None] * of(self.steps[i], units)
        return -q

    def learn(self, units: Tensor, step: Tensor, change: Tensor) -> None:
        """Remember the steps (k, size) of ``units`` and the changes of their gradients; drop the oldest."""
        i = self.taken % len(self.weight)
        product, squared = (step * change).sum(1), change.square().sum(1)
        curved = product > 1e-10 * (step.square().sum(1) * squared).sqrt()
        self.steps[i, units], self.changes[i, units], self.weight[i] = step, change, 0.0
        self.weight[i, units] = torch.where(curved, 1 / product, torch.zeros_like(product))
        self.scale[units] = torch.where(curved, product / squared, of(self.scale, units))
        self.taken += 1


def ascend_each(
    objective: Objective, point: Tensor, iterations: int, report: Report | None = None, tolerance: float = 1e-6,
    tape: Tape | None = None, check: Callable[[], None] | None = None,
) -> tuple[Tensor, Ascent]:
    """Maximise each unit's own objective from ``point`` (units, size), float64; return where that led, and their sum there.

    Each unit has its own curvature and step length, which a joint ascent must find for all of them at once, and leaves the
    others when it has settled: when its rise, and a tenth of what its slope promises, stay below ``tolerance`` nats. A trial
    step that leaves the finite numbers is shortened. A unit whose search finds no rise is left, too: floating point can't show
    one. The ascent has not converged if the slope of such a unit promises more than :data:`PROMISED`, or if the start of a unit
    is not finite; there ``check`` is called, which may refuse to go on. With a ``tape``, evaluations are recorded there, and
    those that are on it already are not made.

    Source: Nocedal and Wright (2006), Numerical optimization, algorithms 3.1, 7.4 and 7.5,
    https://doi.org/10.1007/978-0-387-40065-5
    """
    evaluate = recorded(objective, tape)
    active = torch.arange(len(point), device=point.device)
    state = evaluate(point.clone(), active)
    curvature, calm, taken = _Curvature(state.gradient), torch.zeros_like(active), 0
    finite = state.loss.isfinite()
    missing, active = torch.where(finite, 0.0, torch.inf).to(state.loss), active[finite]
    if check is not None and not bool(finite.all()):
        check()
    while len(active) and taken < iterations:
        before = state.at(active)
        after, promised = _step(evaluate, curvature, before, active)
        curvature.learn(active, after.point - before.point, after.gradient - before.gradient)
        state.put(active, after)
        taken += 1
        still = (before.loss - after.loss < tolerance) & (promised < 10 * tolerance)
        calm[active] = torch.where(still, calm[active] + 1, 0)
        stuck = (after.point == before.point).all(1)
        calm[active[stuck]] = CALM
        missing[active] = torch.where(stuck, promised, 0.0)
        active = active[calm[active] < CALM]
        if report is not None:
            report(-float(state.loss.sum()), float(state.gradient.norm()), float(state.reconstruction.sum()), state.point)
    most = float(missing.max())
    return state.point, Ascent(-float(state.loss.sum()), taken, not len(active) and most <= PROMISED, most)


def _step(
    evaluate: Callable[[Tensor, Tensor], State], curvature: _Curvature, before: State, units: Tensor,
) -> tuple[State, Tensor]:
    """Return the states of ``units`` after a step each, and half the slope along it, the rise that a quadratic promises."""
    direction = curvature.direction(before.gradient, units)
    direction *= (REACH / direction.abs().amax(1).clamp(min=REACH))[:, None]
    slope = (before.gradient * direction).sum(1)
    after, length = before.copy(), torch.ones_like(slope)
    searching = (slope < 0).nonzero()[:, 0]
    for _ in range(TRIALS):
        if not len(searching):
            break
        t, down = of(length, searching), of(slope, searching)
        trial = evaluate(of(before.point, searching) + t[:, None] * of(direction, searching), of(units, searching))
        rise = of(before.loss, searching) - trial.loss
        found = rise >= -ENOUGH * t * down
        if bool(found.all()):
            after.put(searching, trial)
            break
        after.put(searching[found], trial.at(found.nonzero()[:, 0]))
        # The minimum of the parabola through what is known, within reason; a tenth where that is not finite.
        best = down * t.square() / (2 * (rise + down * t))
        shorter = torch.where(best.isfinite(), best, 0.0).clamp(0.1 * t, 0.5 * t)
        length[searching] = shorter
        searching = searching[~found]
    return after, -slope / 2
