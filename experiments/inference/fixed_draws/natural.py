"""Natural-gradient ascent of units' own normals, and the coordinates in which the rest of the way is short."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from experiments.optimisers.anderson import Anderson
from experiments.optimisers.each import Objective, Report, State, of, recorded
from experiments.optimisers.lbfgs import Tape
from guides.amortisation import Free
from guides.families.family import Family, Normal, Phi
from guides.families.natural import Curvature

#: A step shorter than this is none: the unit is left to an ascent that searches along its gradient.
SHORTEST = 2.0**-6
#: The share of a rise that is still one where log p curves upwards.
SADDLE = 0.01
#: By what a step grows that the last one allows.
LONGER = 1.5
#: Steps that an extrapolation looks back on: of these few, the curvature has not changed much.
MEMORY = 5
#: Steps in a row that gain next to nothing where an extrapolated climb ends.
CALM = 2

#: (φ as rows (k, size), units (k,)) → the state of these units.
Evaluate: TypeAlias = Callable[[Tensor, Tensor], State]


@dataclass(frozen=True)
class UnitNormals:
    """The units' own normals, and the objective that natural steps climb on them.

    Attributes:
        objective: (φ as rows (k, size), units (k,)) → the units' ELBOs (k,), a number to report (k,), and one row per unit of
            the mean of ∇ log p and the mean of its products with the noise, (k, d + d²).
        family: the family of the guide.
        own: the units' φ, which the natural steps move.
        tape: see :func:`experiments.optimisers.each.ascend_each`.
        check: called if the ELBO of a unit is not finite at the start; ``check`` may raise.
    """

    objective: Objective
    family: Normal
    own: Free
    tape: Tape | None = None
    check: Callable[[], None] | None = None

    def evaluator(self) -> Evaluate:
        """Return what gives the state of units (k,) at their φ, as of :func:`experiments.optimisers.each.recorded`."""
        return recorded(self.objective, self.tape)

    def curvature(self, state: State) -> Curvature:
        """Return the curvature of log p that each unit of ``state`` sees."""
        return _curvature(self.family, self.own, state)

    def step(self, state: State, curvature: Curvature, length: Tensor) -> Tensor:
        """Return φ, as rows, a natural step of ``length`` (k,) on from ``state``."""
        slope = -state.gradient[:, : _size(state)]
        return self.own.rows(self.family.natural_step(self.own.unflat(state.point), slope, curvature, length))

    def check_start(self, finite: bool) -> None:
        """Call ``check`` unless all units are ``finite`` at the start."""
        if self.check is not None and not finite:
            self.check()


def climb_naturally(normals: UnitNormals, iterations: int, report: Report | None = None, rise: float = 1.0) -> int:
    """Move the units' φ by natural-gradient steps; return how many iterations were taken.

    A whole step is Newton's, see :mod:`guides.families.natural`, and taken first. A unit that does not rise stays, and tries
    half the step next; one that rises by less than ``rise`` nats is near enough. Not so on a saddle, off which steps of the
    mean grow: there an ascent by gradients would rather widen q, to where it lies across two modes.

    Args:
        normals: whose φ are moved.
        iterations: at most.
        report: told of each.
        rise: nats.
    """
    evaluate, point = normals.evaluator(), normals.own.flat()
    active = torch.arange(len(point), device=point.device)
    state, length, taken = evaluate(point, active), point.new_ones(len(point)), 0
    active = active[state.loss.isfinite()]
    normals.check_start(len(active) == len(point))
    while len(active) and taken < iterations:
        active = _each_stepped(normals, evaluate, state, active, length, rise)
        taken += 1
        if report is not None:
            report(-float(state.loss.sum()), _slope_norm(state), float(state.reconstruction.sum()), state.point)
    normals.own.set(state.point)
    return taken


def _each_stepped(
    normals: UnitNormals, evaluate: Evaluate, state: State, active: Tensor, length: Tensor, rise: float,
) -> Tensor:
    """Let the ``active`` units try a step each, which changes ``state`` and ``length`` in place; return those that go on."""
    before = state.at(active)
    curvature = normals.curvature(before)
    after = evaluate(normals.step(before, curvature, of(length, active)), active)
    gain = before.loss - after.loss
    risen = gain > 0
    if bool(risen.all()):
        state.put(active, after)
    else:
        state.put(active[risen], after.at(risen.nonzero()[:, 0]))
    length[active] = (of(length, active) * torch.where(risen, LONGER, 0.5)).clamp(max=1.0)
    enough = torch.where(curvature.upwards.any(1), SADDLE * rise, rise)
    return active[torch.where(risen, gain >= enough, of(length, active) >= SHORTEST)]


def climb_accelerated(normals: UnitNormals, iterations: int, report: Report, rise: float) -> tuple[int, float | None]:
    """Move the one unit's φ by natural-gradient steps, extrapolated, to where they lead.

    Newton's steps go a fixed way at a time where log p falls off like an exponential, as of classes that a column nearly
    separates, and the mean and the scales of q, which each take theirs alone, wait for each other. Anderson's extrapolation
    makes about half as many of them. A point that is no higher is left for the step itself, then for shorter ones.

    Args:
        normals: of one unit. The means should be exact, or nearly so: noise in them would be extrapolated, too.
        iterations: at most.
        report: told of each.
        rise: nats; the steps have come to their end when so little is gained twice in a row.

    Returns:
        iterations taken; and the objective if the steps came to their end.
    """
    own, evaluate = normals.own, normals.evaluator()
    one = torch.zeros(1, dtype=torch.long, device=own.flat().device)
    state, anderson, taken, calm = evaluate(own.flat(), one), Anderson(MEMORY), 0, 0
    normals.check_start(bool(state.loss.isfinite()))
    while taken < iterations and calm < CALM:
        after = _extrapolated(normals, evaluate, state, anderson)
        if after is None:
            break
        calm = calm + 1 if float(state.loss - after.loss) < rise else 0
        state, taken = after, taken + 1
        report(-float(state.loss), _slope_norm(state), float(state.reconstruction), state.point)
    own.set(state.point)
    return taken, -float(state.loss) if calm == CALM else None


def _extrapolated(
    normals: UnitNormals, evaluate: Evaluate, state: State, anderson: Anderson,
) -> State | None:
    """Return the state where the next extrapolated step leads; ``None`` where none of any length leads upwards."""
    one = torch.zeros(1, dtype=torch.long, device=state.point.device)
    curvature, length = normals.curvature(state), torch.ones_like(state.loss)
    whole = normals.step(state, curvature, length)
    proposed = anderson.propose(state.point[0], whole[0])
    if proposed is not None:
        after = evaluate(proposed[None], one)
        if bool(after.loss < state.loss):
            return after
        anderson.restart()
    after = evaluate(whole, one)
    while not bool(after.loss < state.loss):
        length = 0.5 * length
        if float(length) < SHORTEST:
            return None
        after = evaluate(normals.step(state, curvature, length), one)
    return after


@dataclass(frozen=True)
class Chart:
    """Preconditioned coordinates y (units, size) of units' φ, in which the ELBOs curve alike in all directions.

    Attributes:
        start: φ at y = 0, as rows, (units, size).
        roots: the square root of the inverse curvature, (units, d, d); empty if the family knows no curvature, and y is then
            φ less ``start``.
    """

    family: Family
    own: Free
    start: Tensor
    roots: tuple[Tensor, ...]

    @classmethod
    def of(cls, objective: Objective, family: Family, own: Free, tape: Tape | None) -> Chart:
        """Draw the chart about the φ of ``own``; ``objective`` as of :class:`UnitNormals`."""
        start = own.flat()
        if not isinstance(family, Normal):
            return cls(family, own, start, ())
        state = recorded(objective, tape)(start, torch.arange(len(start), device=start.device))
        return cls(family, own, start, (_curvature(family, own, state).root(),))

    def rows(self, y: Tensor) -> Tensor:
        """Return φ of all units at their coordinates, as rows (units, size)."""
        return self.own.rows(from_preconditioned(self.family, self.own, self.start, y, *self.roots))


def from_preconditioned(family: Family, own: Free, start: Tensor, y: Tensor, *roots: Tensor) -> Phi:
    """Return φ of units at their coordinates ``y`` (k, size) about ``start``, as of :class:`Chart`."""
    if roots and isinstance(family, Normal):
        return family.from_preconditioned(own.unflat(start), roots[0], y)
    return own.unflat(start + y)


def _curvature(family: Normal, own: Free, state: State) -> Curvature:
    size = _size(state)
    return family.curvature(own.unflat(state.point), -state.gradient[:, size:].unflatten(1, (size, size)))


def _slope_norm(state: State) -> float:
    """Return the norm of the mean of ∇ log p(x, z), over all units."""
    return float(state.gradient[:, : _size(state)].norm())


def _size(state: State) -> int:
    """Return d, of which a row of the statistics has d + d² numbers."""
    return math.isqrt(state.gradient.shape[1])
