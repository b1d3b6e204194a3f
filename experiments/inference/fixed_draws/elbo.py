"""The ELBO of a pair on noise that is held, and the climbs on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn

from experiments.inference.engine import check_start
from experiments.inference.fixed_draws.means import Means, MonteCarlo
from experiments.inference.fixed_draws.natural import Chart, climb_accelerated, climb_naturally, from_preconditioned
from experiments.inference.fixed_draws.parts import Parts, slices
from experiments.inference.fixed_draws.projected import GaussHermite
from experiments.optimisers.each import PROMISED, Objective, ascend_each, recorded
from experiments.optimisers.lbfgs import Ascent, Tape, ascend
from experiments.optimisers.newton import Mode, find_mode
from experiments.runtime.memory import work
from experiments.samplers.quasi_random import normal_noise
from guides.amortisation import Free
from guides.families.family import Normal, NormalBase, Phi, Start
from guides.guide import Guide
from zoo.data import Data, in_double, take
from zoo.model import Model
from zoo.program.latents import Latents
from zoo.program.vectorise import FORBIDDEN, LinAlgError
from zoo.structure.linear_predictor import linear_predictor

#: Numbers that a draw's density touches for it to be worth while to look for a linear predictor.
WORTH = 2**10
#: The rise of a unit, in nats, at which an ascent takes over from natural steps.
NEAR = 1.0
#: Natural steps after which it is asked whether they lead anywhere, and nats that a unit's slope promises where they do not.
PATIENCE, LOST = 25, 10.0
#: Dimensions of which a Hessian is worth while, to find the mode that a lost fit may start from.
FEW_DIMENSIONS = 100


class Count(Protocol):
    """What is told of each iteration: the ELBO, the norm of its gradient, and the terms that the ELBO is made of."""

    reconstruction: float | None
    kl: float | None
    tape: Tape | None

    def __call__(self, value: float, gradient_norm: float | None = None) -> None: ...

    def terms(self, reconstruction: Tensor, kl: Tensor) -> Tensor: ...


@dataclass
class FixedDrawsELBO:
    """The ELBO of a pair as a function of its parameters, on noise that is held."""

    model: Model
    guide: Guide
    family: NormalBase
    x: Data
    parameters: list[nn.Parameter]
    seed: int
    count: Count
    #: The last two noises that were asked for, by their draws and number.
    made: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def noise(self, draws: int, number: int) -> Tensor:
        if (draws, number) not in self.made:
            found = normal_noise(draws, self.size, self.seed + number, self.parameters[0])
            self.made = {**dict([*self.made.items()][-1:]), (draws, number): found}
        return self.made[draws, number]

    @property
    def size(self) -> int:
        return self.family.noise_size(self.guide.phi(self.x))

    @cached_property
    def latents(self) -> Latents:
        return self.parts.latents

    @cached_property
    def own(self) -> Free | None:
        """The units' own φ, where nothing else moves and units can be climbed each for itself."""
        own = self.guide.amortisation
        alone = isinstance(own, Free) and {*map(id, self.parameters)} == {*map(id, own.phi.values())}
        return own if alone and (self.parts.divisible or self.latents.units == 1) else None  # type: ignore[return-value]

    @cached_property
    def parts(self) -> Parts:
        return Parts(self.model, self.x)

    @cached_property
    def means(self) -> Means:
        """How the means under the units' own φ are found: of a linear predictor by one integral an observation."""
        if isinstance(self.family, Normal) and self.latents.units == 1 and work(self.x, 1, self.size) >= WORTH:
            predictor = linear_predictor(self.model, self.x)
            if predictor is not None:
                return GaussHermite(self.model, self.family, self.x, predictor)
        return MonteCarlo(self.model, self.family, self.x, self.parts)

    def elbo(self, noise: Tensor) -> Iterator[Tensor]:
        """Yield terms that add up to the ELBO, each with a graph of its own."""
        total = noise.new_zeros(2)
        for draws, part, index in self._pieces(len(noise)):
            found = held_terms(self.model, self.guide, part, noise[draws], index)
            terms = [term.sum() * (len(noise[draws]) / len(noise)) for term in found]
            total += torch.stack([term.detach() for term in terms])
            yield terms[0] - terms[1]
        self.count.terms(*total)

    def _pieces(self, draws: int) -> Iterator[tuple[slice, Data, Tensor | None]]:
        """Yield which of the draws, and the data and numbers of which units, are evaluated together."""
        units = self.latents.units
        for some in slices(draws, self.parts.draws_at_once):
            most = self.parts.units_at_once(some.stop - some.start)
            if most >= units:
                yield some, self.x, None
                continue
            for index in torch.arange(units, device=self.parameters[0].device).split(most):
                yield some, take(self.x, index, units), index

    def climb_naturally(self, noise: Tensor, steps: int) -> int:
        """Climb by natural-gradient steps until they lead on by little; return how many were taken.

        Raises:
            ZooError: the ELBO is not finite at the start.
        """
        check = partial(check_start, self.model, self.guide, self.x)
        if self.own is None or not isinstance(self.family, Normal):
            check()
            return 0
        climb = partial(climb_naturally, self._natural(noise), self.family, self.own)
        return self._patiently(lambda most: (climb(most, self._report, NEAR, self.count.tape, check), None), noise, steps)[0]

    @property
    def exact(self) -> bool:
        """Whether the one unit's own normal can be found by natural steps alone, on a likelihood that no draws make noisy."""
        return self.own is not None and isinstance(self.means, GaussHermite) and self.means.family.complete

    def climb_accelerated(self, noise: Tensor, steps: int, rise: float) -> tuple[int, float | None]:
        """Climb by extrapolated natural steps to their end, which gain ``rise`` nats no more; only where means are ``exact``.

        Returns how many were taken, and the ELBO on ``noise`` if they came to their end.

        Raises:
            ZooError: the ELBO is not finite at the start.
        """
        own, family = self.own, self.family
        assert own is not None and isinstance(family, Normal), "only the units' own normals climb naturally"  # noqa: PT018
        check = partial(check_start, self.model, self.guide, self.x)
        climb = partial(climb_accelerated, self._natural(noise), family, own)
        return self._patiently(lambda most: climb(most, self._report, rise, self.count.tape, check), noise, steps)

    def _patiently(
        self, climb: Callable[[int], tuple[int, float | None]], noise: Tensor, steps: int,
    ) -> tuple[int, float | None]:
        """Take natural steps; where the first of them lead nowhere, start anew at a mode, if there is one."""
        taken, value = climb(min(steps, PATIENCE))
        if value is None and steps > taken and (self.start_at_mode(noise) or taken == PATIENCE):
            more, value = climb(steps - taken)
            taken += more
        return taken, value

    def climb(
        self, noise: Tensor, other: Callable[[], Tensor], steps: int, stop: tuple[float, int],
    ) -> tuple[Ascent, float]:
        """Maximise the ELBO on ``noise`` until it rises no more; return where it led and the ELBO on ``other`` noise.

        ``stop``: the nats that count as a rise, per unit, and the iterations in which a joint ascent must make them.
        """
        rise, window = stop
        if self.own is None or not (self.parts.divisible or isinstance(self.family, Normal)):
            done = ascend(
                lambda: self.elbo(noise), self.parameters, steps, self.count, rise * self.latents.units, window,
                self.count.tape)
        else:
            done = self._climb_each(self.own, noise, steps, rise)
        return done, self.value(other())

    def value(self, noise: Tensor) -> float:
        """Return the ELBO on ``noise``."""
        with torch.no_grad():
            if self.own is None or self.latents.units > 1:
                return float(sum(self.elbo(noise)))
            phi = self.guide.phi(self.x)
            entropy = self.family.distribution(phi).entropy().sum()
            return self.means.value(phi, noise) + float(entropy)

    def _climb_each(self, own: Free, noise: Tensor, steps: int, rise: float) -> Ascent:
        """Climb where nothing but the units' own φ moves: each unit for itself, in coordinates that suit its curvature.

        Coordinates that suit the start may not suit the end. So they are drawn anew there, and the climb goes on, until the
        slope in fresh ones promises next to nothing: only then has it converged.
        """
        done = self._climb_once(own, noise, steps, rise)
        taken, gained = done.iterations, math.inf
        while isinstance(self.family, Normal):
            lacking = self._promised(own, noise)
            # Coordinates of φ that know no curvature may creep: there a climb that gains nothing tells, not the slope.
            known = lacking <= PROMISED and (self.family.complete or gained <= PROMISED * self.latents.units)
            if known or taken >= steps or gained <= 0.1 * PROMISED:
                return Ascent(done.value, taken, done.converged and known, lacking)
            before = done.value
            done = self._climb_once(own, noise, steps - taken, rise)
            taken, gained = taken + done.iterations, done.value - before
        return done

    def _climb_once(self, own: Free, noise: Tensor, steps: int, rise: float) -> Ascent:
        """Climb in the coordinates that suit the curvature where φ is."""
        chart = Chart.of(self._natural(noise), self.family, own, self.count.tape)

        def report(value: float, norm: float, reconstruction: float, point: Tensor) -> None:
            self._report(value, norm, reconstruction, chart.rows(point))

        check = partial(check_start, self.model, self.guide, self.x)
        objective = partial(self._in_chart, chart, noise)
        point, done = ascend_each(objective, torch.zeros_like(own.flat()), steps, report, rise, self.count.tape, check)
        own.set(chart.rows(point))
        return done

    def _in_chart(self, chart: Chart, noise: Tensor, point: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ELBOs of units ``index`` (k,) on ``noise``, reconstructions, and the slopes in a chart's coordinates."""
        y = point.detach().requires_grad_()
        roots = (root[index] for root in chart.roots)
        phi = _like(from_preconditioned(self.family, chart.own, chart.start[index], y, *roots), noise)
        entropy = self.family.distribution(phi).entropy()
        prior, likelihood, surrogate = self.means.surrogate(phi, noise, index)
        [slope] = torch.autograd.grad(entropy.sum() + surrogate, [y])
        return (likelihood + prior + entropy.detach()).double(), likelihood.double(), slope

    def _promised(self, own: Free, noise: Tensor) -> float:
        """Return the nats that the slope of the unit farthest from its best φ promises, were its ELBO quadratic there."""
        chart = Chart.of(self._natural(noise), self.family, own, self.count.tape)
        evaluate, units = recorded(partial(self._in_chart, chart, noise), self.count.tape), torch.arange(len(chart.start))
        promised = 0.5 * evaluate(torch.zeros_like(chart.start), units.to(chart.start.device)).gradient.square().sum(1)
        return float(promised.nan_to_num(nan=math.inf).max())

    def start_at_mode(self, noise: Tensor) -> bool:
        """Put the one unit's own normal at a mode of log p, if its natural steps on ``noise`` have led nowhere; return whether.

        From far off, where coordinates of unlike units pull each other astray, few draws tell of no step that rises. The mode
        is looked for in float64, from the start's median, and q stands there only if its ELBO is higher than where it is.
        """
        own = self.own
        if own is None or self.latents.units > 1 or not isinstance(self.family, Normal) or self.size > FEW_DIMENSIONS:
            return False
        if self._promised(own, noise) < LOST:
            return False
        mode = _mode(self.model, self.x)
        if mode is None:
            return False
        before, value = own.flat(), self.value(noise)
        start = self.family.initial(Start(mode.loc[None], mode.scale[None], None))
        own.set(own.rows(start))
        if self.value(noise) > value:
            return True
        own.set(before)
        return False

    def _natural(self, noise: Tensor) -> Objective:
        """Return what gives units' ELBOs, reconstructions, and the means of ∇ log p(x, z) and its products with the noise."""
        own = self.own
        assert own is not None, "only the units' own φ climb naturally"

        def evaluate(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            phi = _like(own.unflat(rows), noise)
            prior, likelihood, slope, cross = self.means.natural(phi, noise, index)
            entropy = self.family.distribution(phi).entropy()
            numbers = torch.cat([slope, cross.flatten(1)], 1)
            return (likelihood + prior + entropy).double(), likelihood.double(), numbers.double()

        return evaluate

    def _report(self, value: float, norm: float, reconstruction: float, rows: Tensor) -> None:
        assert self.own is not None, "only the units' own φ are climbed each for itself"
        self.own.set(rows)
        self.count.reconstruction, self.count.kl = reconstruction, reconstruction - value
        self.count(value, norm)

    def doubled(self) -> FixedDrawsELBO | None:
        """Return a copy of the pair in float64; ``None`` where the program does not run in it."""
        model, guide = copy.deepcopy((self.model, self.guide))
        model, guide, x = model.double(), guide.double(), in_double(self.x)
        places = {id(p): i for i, p in enumerate([*self.guide.parameters(), *self.model.parameters()])}
        copies = [*guide.parameters(), *model.parameters()]
        own = [copies[places[id(p)]] for p in self.parameters]
        held = FixedDrawsELBO(model, guide, self.family, x, own, self.seed, self.count)
        with torch.no_grad(), suppress(*FORBIDDEN, LinAlgError):
            z = self.family.transform(guide.phi(x), held.noise(2 * held.size, 0)[:2])
            if model.log_joint(x, z).dtype == torch.float64:
                return held
        return None

    def noise_error(self, noise: Tensor) -> float:
        """Return the standard error, in nats, of the difference between two ELBOs on as many independent draws."""
        with torch.no_grad():
            totals = noise.new_zeros(len(noise))
            for draws, part, index in self._pieces(len(noise)):
                phi = self.guide.phi(part, index)
                z = self.family.transform(phi, noise[draws])
                totals[draws] += (self.model.log_joint(part, z) - self.family.distribution(phi).log_prob(z)).sum(1)
        return math.sqrt(2 / len(noise)) * float(totals.std())


def held_terms(
    model: Model, guide: Guide, x: Data, noise: Tensor, index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(x | z)] and KL(q ‖ prior), whose difference is the ELBO, of each unit of ``x``, (units,).

    ``index`` says which of the fitted units these are, where they are not all.
    """
    assert isinstance(guide.family, NormalBase), "only a normal base has held noise"
    return phi_terms(model, guide.family, guide.phi(x, index), x, noise)


def phi_terms(model: Model, family: NormalBase, phi: Phi, x: Data, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`held_terms` does, at φ: z = transform(φ, noise), and q's entropy is in closed form."""
    z = family.transform(phi, noise)
    entropy: Tensor = family.distribution(phi).entropy()
    prior, likelihood = model.log_terms(x, z)
    return likelihood.mean(0), -(prior.mean(0) + entropy)


def _like(phi: Phi, noise: Tensor) -> Phi:
    return {name: value.to(noise) for name, value in phi.items()}



def _mode(model: Model, x: Data) -> Mode | None:
    """Return a mode of the one unit's log p(x, z), if one is found."""
    start = Start.of(model, x).loc[0]
    for known, data, z in ((copy.deepcopy(model).double(), in_double(x), start.double()), (model, x, start)):
        with suppress(*FORBIDDEN, LinAlgError):
            return find_mode(lambda points, of=known, at=data: of.log_joint(at, points[:, None])[:, 0], z)  # type: ignore[misc]
    return None
