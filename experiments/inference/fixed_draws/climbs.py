"""The climbs of the ELBO on held noise: natural steps most of the way, then L-BFGS for all units together or for each alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from experiments.inference.fixed_draws.elbo import FixedDrawsELBO
from experiments.inference.fixed_draws.natural import (
    Chart,
    UnitNormals,
    climb_accelerated,
    climb_naturally,
    from_preconditioned,
)
from experiments.optimisers.each import PROMISED, ascend_each, recorded
from experiments.optimisers.lbfgs import Ascent, Convergence, ascend
from experiments.optimisers.newton import Mode, find_mode
from experiments.runtime.precision import in_float64
from guides.amortisation import Free
from guides.families.family import Normal, Phi, Start
from zoo.data import Data
from zoo.model import Model
from zoo.program.vectorise import FORBIDDEN, LinAlgError

#: The rise of a unit, in nats, at which an ascent takes over from natural steps.
NEAR = 1.0
#: Natural steps after which it is asked whether they lead anywhere, and nats that a unit's slope promises where they do not.
PATIENCE, LOST = 25, 10.0
#: Dimensions of which a Hessian is worth while, to find the mode that a lost fit may start from.
FEW_DIMENSIONS = 100


def climb(
    held: FixedDrawsELBO, noise: Tensor, other: Callable[[], Tensor], steps: int, convergence: Convergence,
) -> tuple[Ascent, float]:
    """Maximise the ELBO on ``noise`` until it rises no more; return where it led and the ELBO on ``other`` noise.

    The tolerance of ``convergence`` is per unit, and its window that of a joint ascent.
    """
    if held.own is None or not (held.parts.divisible or isinstance(held.family, Normal)):
        whole = Convergence(convergence.tolerance * held.latents.units, convergence.window)
        done = ascend(lambda: held.elbo(noise), held.parameters, steps, held.count, whole, held.count.tape)
    else:
        done = UnitClimbs(held, held.own, noise).climb(steps, convergence.tolerance)
    return done, held.value(other())


def take_natural_steps(held: FixedDrawsELBO, noise: Tensor, steps: int) -> int:
    """Climb by natural-gradient steps until they lead on by little; return how many were taken.

    Raises:
        ZooError: the ELBO is not finite at the start.
    """
    if held.own is None or not isinstance(held.family, Normal):
        held.check_start()
        return 0
    units = UnitClimbs(held, held.own, noise)
    normals = units.normals(held.family)
    return units.patiently(lambda most: (climb_naturally(normals, most, units.report, NEAR), None), steps)[0]


def take_accelerated_steps(held: FixedDrawsELBO, noise: Tensor, steps: int, rise: float) -> tuple[int, float | None]:
    """Climb by extrapolated natural steps to their end, which gain ``rise`` nats no more; only where means are ``exact``.

    Returns how many were taken, and the ELBO on ``noise`` if they came to their end.

    Raises:
        ZooError: the ELBO is not finite at the start.
    """
    own, family = held.own, held.family
    assert own is not None and isinstance(family, Normal), "only the units' own normals climb naturally"  # noqa: PT018
    units = UnitClimbs(held, own, noise)
    normals = units.normals(family)
    return units.patiently(lambda most: climb_accelerated(normals, most, units.report, rise), steps)


@dataclass(frozen=True)
class UnitClimbs:
    """The climbs of the units' own φ, where nothing else moves: each unit for itself.

    Attributes:
        held: the ELBO on fixed draws.
        own: the amortisation that holds the units' φ.
        noise: the fixed noise on which the ELBO is maximised, (draws, 1, size).
    """

    held: FixedDrawsELBO
    own: Free
    noise: Tensor

    def climb(self, steps: int, rise: float) -> Ascent:
        """Climb each unit by L-BFGS, in coordinates that suit its curvature.

        Coordinates that suit the start may not suit the end. So they are drawn anew there, and the climb goes on, until the
        slope in fresh ones promises next to nothing: only then has it converged.
        """
        family = self.held.family
        done = self._climb_once(steps, rise)
        taken, gained = done.iterations, math.inf
        while isinstance(family, Normal):
            lacking = self.promised()
            # Coordinates of φ that know no curvature may creep: there a climb that gains nothing tells, not the slope.
            known = lacking <= PROMISED and (family.complete or gained <= PROMISED * self.held.latents.units)
            if known or taken >= steps or gained <= 0.1 * PROMISED:
                return Ascent(done.value, taken, done.converged and known, lacking)
            before = done.value
            done = self._climb_once(steps - taken, rise)
            taken, gained = taken + done.iterations, done.value - before
        return done

    def _climb_once(self, steps: int, rise: float) -> Ascent:
        """Climb in the coordinates that suit the curvature where φ is."""
        chart = self._chart()

        def report(value: float, norm: float, reconstruction: float, point: Tensor) -> None:
            self.report(value, norm, reconstruction, chart.rows(point))

        start, tape = torch.zeros_like(self.own.flat()), self.held.count.tape
        objective = partial(self._in_chart, chart)
        point, done = ascend_each(objective, start, steps, report, rise, tape, self.held.check_start)
        self.own.set(chart.rows(point))
        return done

    def patiently(self, climb: Callable[[int], tuple[int, float | None]], steps: int) -> tuple[int, float | None]:
        """Take natural steps; where the first of them lead nowhere, start anew at a mode, if there is one."""
        taken, value = climb(min(steps, PATIENCE))
        if value is None and steps > taken and (self.start_at_mode() or taken == PATIENCE):
            more, value = climb(steps - taken)
            taken += more
        return taken, value

    def start_at_mode(self) -> bool:
        """Put the one unit's own normal at a mode of log p, if its natural steps have led nowhere; return whether.

        From far off, where coordinates of unlike units pull each other astray, few draws tell of no step that rises. The mode
        is looked for in float64, from the start's median, and q stands there only if its ELBO is higher than where it is.
        """
        held, own = self.held, self.own
        if held.latents.units > 1 or not isinstance(held.family, Normal) or held.size > FEW_DIMENSIONS:
            return False
        if self.promised() < LOST:
            return False
        mode = _mode(held.model, held.x)
        if mode is None:
            return False
        before, value = own.flat(), held.value(self.noise)
        start = held.family.initial(Start(mode.loc[None], mode.scale[None], None))
        own.set(own.rows(start))
        if held.value(self.noise) > value:
            return True
        own.set(before)
        return False

    def promised(self) -> float:
        """Return the nats that the slope of the unit farthest from its best φ promises, were its ELBO quadratic there."""
        chart = self._chart()
        evaluate, units = recorded(partial(self._in_chart, chart), self.held.count.tape), torch.arange(len(chart.start))
        promised = 0.5 * evaluate(torch.zeros_like(chart.start), units.to(chart.start.device)).gradient.square().sum(1)
        return float(promised.nan_to_num(nan=math.inf).max())

    def normals(self, family: Normal) -> UnitNormals:
        """Return what natural steps climb."""
        return UnitNormals(self._natural, family, self.own, self.held.count.tape, self.held.check_start)

    def report(self, value: float, norm: float, reconstruction: float, rows: Tensor) -> None:
        """Put φ as ``rows`` into the guide, and count an iteration that led there."""
        self.own.set(rows)
        count = self.held.count
        count.reconstruction, count.kl = reconstruction, reconstruction - value
        count(value, norm)

    def _natural(self, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return units' ELBOs, reconstructions, and the means of ∇ log p(x, z) and its products with the noise."""
        phi = _like(self.own.unflat(rows), self.noise)
        prior, likelihood, slope, cross = self.held.means.natural(phi, self.noise, index)
        entropy = self.held.family.distribution(phi).entropy()
        numbers = torch.cat([slope, cross.flatten(1)], 1)
        return (likelihood + prior + entropy).double(), likelihood.double(), numbers.double()

    def _chart(self) -> Chart:
        return Chart.of(self._natural, self.held.family, self.own, self.held.count.tape)

    def _in_chart(self, chart: Chart, point: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ELBOs of units ``index`` (k,), reconstructions, and the slopes in a chart's coordinates."""
        y, family = point.detach().requires_grad_(), self.held.family
        roots = (root[index] for root in chart.roots)
        phi = _like(from_preconditioned(family, chart.own, chart.start[index], y, *roots), self.noise)
        entropy = family.distribution(phi).entropy()
        prior, likelihood, surrogate = self.held.means.surrogate(phi, self.noise, index)
        [slope] = torch.autograd.grad(entropy.sum() + surrogate, [y])
        return (likelihood + prior + entropy.detach()).double(), likelihood.double(), slope


def _like(phi: Phi, noise: Tensor) -> Phi:
    return {name: value.to(noise) for name, value in phi.items()}


def _mode(model: Model, x: Data) -> Mode | None:
    """Return a mode of the one unit's log p(x, z), if one is found."""
    start = Start.of(model, x).loc[0]
    for known, data, z in ((*in_float64(model, x), start.double()), (model, x, start)):
        with suppress(*FORBIDDEN, LinAlgError):
            return find_mode(lambda points, of=known, at=data: of.log_joint(at, points[:, None])[:, 0], z)  # type: ignore[misc]
    return None
