"""Deterministic ascent by L-BFGS, shared by fixed-draw optimisation and gradient M-steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import scipy.linalg
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from experiments.runtime.processes import ALONE, Processes
from zoo.program.vectorise import LinAlgError

#: Iterations over which the rise is measured.
WINDOW = 20

#: Nats that the slope may promise where no step along it is seen to rise.
LEVEL = 1e-3

#: Bytes of gradients that a tape may hold.
TAPE = 2**28

#: What is maximised: one number, or several that add up, each with a graph of its own that is freed before the next is made.
Objective: TypeAlias = Callable[[], Tensor | Iterable[Tensor]]
#: What is told after each iteration: the objective and the norm of its gradient.
Report: TypeAlias = Callable[[float, float], None]


@dataclass(frozen=True)
class Ascent:
    """The end of an ascent: the objective there, the iterations taken, and whether it converged.

    ``missing``: the nats that the slope still promises where no step along it was seen to rise.
    """

    value: float
    iterations: int
    converged: bool
    missing: float = 0.0


@dataclass
class Tape:
    """The values and gradients that ascents were given, in order, so that they can be repeated without evaluating anything.

    L-BFGS is deterministic: given the same answers it comes to the same state, bit for bit, however it keeps that state.
    What lies beyond :data:`TAPE` bytes is not kept, and evaluated again.
    """

    answers: list[np.ndarray] = field(default_factory=list)
    at: int = 0
    size: int = 0

    def answer(self, ask: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the next answer on the tape, a vector; beyond its end, ``ask`` and record."""
        self.at += 1
        if self.at <= len(self.answers):
            return self.answers[self.at - 1]
        found = ask()
        if self.at == len(self.answers) + 1 and self.size + found.nbytes <= TAPE:
            self.answers.append(found)
            self.size += found.nbytes
        return found


@dataclass(frozen=True)
class Convergence:
    """When an ascent has converged: where ``window`` iterations raise the objective by under ``tolerance`` nats."""

    tolerance: float = 1e-6
    window: int = WINDOW


class _Evaluations:
    """The evaluations of an objective that L-BFGS asks for: they put each point into the parameters, and keep the best one."""

    def __init__(
        self, objective: Objective, parameters: Sequence[nn.Parameter], tape: Tape | None, processes: Processes,
    ):
        self.objective, self.parameters, self.tape, self.processes = objective, parameters, tape, processes
        self.best, self.best_point = -np.inf, flat(parameters).cpu().numpy()
        #: That of the last finite gradient.
        self.norm = np.nan

    def loss(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return −objective and its gradient at ``point``; a very high value where they leave the finite numbers."""
        assign(self.parameters, torch.from_numpy(point))
        answer = self._ask() if self.tape is None else self.tape.answer(self._ask)
        gradient, value = answer[:-1], float(answer[-1])
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            return -self.best + 1e3 * (1 + abs(self.best)), np.zeros_like(point)
        self.norm = float(scipy.linalg.norm(gradient, check_finite=False))  # numpy's squares may overflow
        if value > self.best:
            self.best, self.best_point = value, point.copy()
        return -value, -gradient

    def _ask(self) -> np.ndarray:
        return np.append(*_gradient_and_value(self.objective, self.parameters, self.processes))


def ascend(
    objective: Objective, parameters: Sequence[nn.Parameter], iterations: int, report: Report | None = None,
    convergence: Convergence = Convergence(), tape: Tape | None = None, processes: Processes = ALONE,
) -> Ascent:
    """Maximise a deterministic ``objective`` over ``parameters``, in place, by SciPy's L-BFGS-B in float64.

    A trial step that leaves the finite numbers is treated as a very low value, so the line search shortens it: the
    parameters end at the best finite point. ``convergence`` says when it has converged. With a ``tape``, evaluations are
    recorded there, and those that are on it already are not made. Of several ``processes`` each has a part of the objective,
    and all take the same steps.

    Source: Zhu, Byrd, Lu and Nocedal (1997), Algorithm 778: L-BFGS-B, https://doi.org/10.1145/279232.279236
    """
    evaluations = _Evaluations(objective, parameters, tape, processes)
    tolerance, window = convergence.tolerance, convergence.window
    seen: list[float] = []
    settled = False

    def watch(intermediate_result: OptimizeResult) -> None:
        nonlocal settled
        seen.append(-float(intermediate_result.fun))
        if report is not None:
            report(seen[-1], evaluations.norm)
        if len(seen) > window and seen[-1] - seen[-1 - window] < tolerance:
            settled = True
            raise StopIteration

    start = evaluations.best_point.copy()
    result = minimize(evaluations.loss, start, jac=True, method="L-BFGS-B", callback=watch, options=_limits(iterations))
    assign(parameters, torch.from_numpy(evaluations.best_point))
    best, missing = evaluations.best, 0.0 if settled else _promised(result)
    return Ascent(best, int(result.nit), bool(np.isfinite(best)) and (settled or missing <= max(tolerance, LEVEL)), missing)


def _limits(iterations: int) -> dict[str, float]:
    """Return SciPy's options for so many iterations at most; its own tolerances are next to nothing."""
    return {
        "maxiter": iterations, "maxfun": 4 * iterations + 20, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 100, "maxls": 40}


def _promised(result: OptimizeResult) -> float:
    """Return the nats that the slope promises where L-BFGS ended by itself; ∞ where it met its limit.

    It ends where no gradient is left, but also where floating point shows no rise, or its line search finds none: that is the
    top only if the slope promises next to nothing.
    """
    if result.status not in (0, 2):
        return math.inf
    slope = np.asarray(result.jac)
    promised = 0.5 * float(slope @ result.hess_inv.dot(slope))
    return promised if np.isfinite(promised) else math.inf


def _gradient_and_value(
    objective: Objective, parameters: Sequence[nn.Parameter], processes: Processes,
) -> tuple[np.ndarray, float]:
    """Return the objective's gradient, and the objective.

    NaN where a covariance is no longer positive definite in floating point.
    """
    total, gradient = 0.0, np.zeros(sum(p.numel() for p in parameters))
    try:
        parts = objective()
        for part in [parts] if isinstance(parts, Tensor) else parts:
            found = torch.autograd.grad(part, list(parameters), allow_unused=True)
            gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            gradient += torch.cat([g.double().flatten() for g in gradients]).cpu().numpy()
            total += float(part.detach())
    except LinAlgError:
        total = np.nan
    if processes.count > 1:
        both = processes.total(torch.from_numpy(np.append(gradient, total))).numpy()
        total, gradient = float(both[-1]), both[:-1]
    return gradient, total


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the parameters as one vector, (size,), float64."""
    return torch.cat([p.detach().double().flatten() for p in parameters])


def assign(parameters: Sequence[nn.Parameter], point: Tensor) -> None:
    """Put a vector as of :func:`flat` into the parameters."""
    parts = point.split([p.numel() for p in parameters])
    with torch.no_grad():
        for p, part in zip(parameters, parts, strict=True):
            p.copy_(part.reshape(p.shape))
