"""Deterministic variational inference: the noise is held fixed, and the ELBO becomes an ordinary function of φ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from experiments.callbacks import Watch
from experiments.each import ascend_each
from experiments.engine import Outcome, check_start, trainable
from experiments.journal import State
from experiments.objectives import enumerated_terms
from experiments.optimise import Ascent, Tape, ascend
from experiments.weights import work
from guides.amortisation import Free
from guides.family import NormalBase, Phi
from guides.guide import BaseGuide, Guide
from zoo.data import Data, take
from zoo.enumerated import Enumerated
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model

#: Numbers that draws evaluated at once may touch; and the rounds of so many draws that one unit's evaluation may take.
MAX_WORK, ROUNDS = 2**26, 16
#: When an ascent has settled: nats per unit that so many iterations must raise the ELBO by. Rough while draws may still be
#: doubled; then fine, for one unit and for many, whose hardest one holds up all the others.
ROUGH, FINE = (1e-3, 5), ((1e-6, 20), (1e-7, 10))
#: A climb has also settled where it rises by less than this share of what held draws flatter it by: of one unit, and of many.
SETTLED = (0.02, 1e-3)
#: Fresh draws that judge what few held ones flatter by, at least.
FRESH = 128
#: Numbers that are worked on at once: more units go in parts. Beyond, memory is asked of the system and given back at every
#: operation; measured, 300 posteriors of a decoder network took 2.5 to 3 times as long in one piece.
PART = 2**19


def normal_noise(draws: int, size: int, seed: int, like: Tensor) -> Tensor:
    """Return quasi-random standard normals (draws, 1, size): scrambled Sobol, antithetic, with identity second moment.

    With mean zero and identity covariance on the sample, the mean of any quadratic is exact: where the posterior is
    normal, fixed draws find the family's true optimum.

    Source: Owen (1998), Scrambling Sobol' and Niederreiter–Xing points, https://doi.org/10.1006/jcom.1998.0487;
    Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic objective,
    https://arxiv.org/abs/2304.05527

    Raises:
        ZooError: fewer draws than twice the dimensions, so that the second moment can't be the identity.

    >>> noise = normal_noise(64, 3, 0, torch.zeros((), dtype=torch.double))[:, 0]
    >>> torch.allclose(noise.T @ noise / 64, torch.eye(3, dtype=torch.double))
    True
    """
    if draws < 2 * size:
        raise ZooError(
            f"expected at least {2 * size} fixed draws, twice the noise's {size} dimensions; got {draws}; raise them")
    sobol = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed)
    uniform = sobol.draw(draws // 2, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    half = torch.special.ndtri(uniform)
    noise = torch.cat([half, -half])
    factor = torch.linalg.cholesky(noise.T @ noise / len(noise) + 1e-12 * torch.eye(size, dtype=torch.float64))
    noise = torch.linalg.solve_triangular(factor, noise.T, upper=False).T
    result: Tensor = noise[:, None].to(like)
    return result


def fixed_draws(
    model: Model, guide: BaseGuide, x: Data, *, train_model: bool, steps: int, draws: int | None, seed: int,
    watch: Watch, tolerance: float = 0.01,
) -> Outcome:
    """Maximise the ELBO on held noise by L-BFGS; double the draws, warm, until fresh noise agrees.

    An objective on few draws flatters φ, which learns the draws. To first order it stands as far above the best ELBO as φ's own
    ELBO lies below it, so φ falls short by half of what it loses on fresh noise: draws are doubled until that is under
    ``tolerance`` nats per unit. Discrete guides are summed exactly: no doubling.

    Raises:
        ZooError: the guide's family has no standard-normal base, fewer draws than twice the dimensions, or an ELBO that
            is not finite at the start.
    """
    if not isinstance(guide, Guide):
        raise ZooError(f"expected a guide with parameters for method fixed_draws; got '{guide.text}'; use method em")
    parameters = trainable(model, guide, train_model)
    count = _Count(watch, sum(p.numel() for p in parameters))
    # What was evaluated before it was cut off is on the tape: the fit repeats its steps from there, without evaluating.
    watch.resume(count.load, drawing=False)
    if isinstance(guide.family, NormalBase):
        check_start(model, guide, x)
        held = _Held(model, guide, guide.family, x, parameters, seed, count)
        return _doubling(held, steps, draws, tolerance)
    if not isinstance(guide.posterior(x), Enumerated):
        raise ZooError(f"expected a family with a normal base for method fixed_draws; got '{guide.text}'; use method svi")
    return _discrete(model, guide, x, parameters, steps, count)


@dataclass
class _Count:
    """Counts the iterations of all ascents of a fit, tells the watch of each, and keeps the tape of their evaluations."""

    watch: Watch
    size: int
    taken: int = 0
    reconstruction: float | None = None
    kl: float | None = None
    tape: Tape | None = None

    def __post_init__(self) -> None:
        self.tape = Tape() if self.watch.saved else None

    def __call__(self, value: float, gradient_norm: float | None = None) -> None:
        self.taken += 1
        self.watch.step(
            self.taken, value, self.snapshot, gradient_norm=gradient_norm, reconstruction=self.reconstruction, kl=self.kl)

    def terms(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        """Return the ELBO, and remember what it is made of."""
        self.reconstruction, self.kl = torch.stack([reconstruction.detach(), kl.detach()]).tolist()
        return reconstruction - kl

    def snapshot(self) -> State:
        assert self.tape is not None, "only a watch that keeps checkpoints asks"
        answers = self.tape.answers
        return State({
            "answers": torch.from_numpy(np.concatenate([np.empty(0), *answers])),
            "lengths": torch.tensor([len(answer) for answer in answers], dtype=torch.long)}, {})

    def load(self, state: State) -> None:
        lengths = state.tensors["lengths"].tolist()
        answers = [part.numpy() for part in state.tensors["answers"].double().split(lengths)] if lengths else []
        self.tape = Tape(answers, size=sum(answer.nbytes for answer in answers))


def _discrete(
    model: Model, guide: Guide, x: Data, parameters: list[nn.Parameter], steps: int, count: _Count,
) -> Outcome:
    """Maximise the exact sum. A free family that can solve for φ does so first, and again after each ascent.

    For free logits that is a natural-gradient step of length one (Amari 1998,
    https://doi.org/10.1162/089976698300017746). Plain gradients vanish where a softmax saturates: without the step a
    unit that overshoots into a wrong corner stays there.
    """
    own = {id(p) for p in guide.parameters()}
    value, taken, converged = -math.inf, 0, False
    while taken < steps:
        solved = _solve(model, guide, x)
        if solved:
            start = float(_enumerated(model, guide, x, count).detach())
            taken += 1
            count(start)
            if all(id(p) in own for p in parameters) or start - value < 1e-9 * abs(start):
                return Outcome(taken, start, True)
        else:
            check_start(model, guide, x)
        done = ascend(lambda: _enumerated(model, guide, x, count), parameters, steps - taken, count, tape=count.tape)
        value, taken, converged = done.value, taken + done.iterations, done.converged
        if not solved:
            break
    return Outcome(taken, value, converged)


def _enumerated(model: Model, guide: BaseGuide, x: Data, count: _Count) -> Tensor:
    q = guide.posterior(x)
    assert isinstance(q, Enumerated), "only a finite support can be summed"
    return count.terms(*enumerated_terms(model, q, x))


def _solve(model: Model, guide: Guide, x: Data) -> bool:
    """Set a free guide's φ to its family's closed-form maximum; return whether there is one."""
    if not isinstance(guide.amortisation, Free):
        return False
    with torch.no_grad():
        q = guide.posterior(x)
        solution = guide.family.solve(model.log_joint(x, q.enumerate_support()))
        for name, value in (solution or {}).items():
            # Logits of values that are impossible stay finite, so that gradients do.
            guide.amortisation.phi[name].copy_(value.clamp(min=-1e4))
    return solution is not None


@dataclass(frozen=True)
class _Held:
    """The ELBO of a pair as a function of its parameters, on noise that is held."""

    model: Model
    guide: Guide
    family: NormalBase
    x: Data
    parameters: list[nn.Parameter]
    seed: int
    count: _Count

    def noise(self, draws: int, number: int) -> Tensor:
        return normal_noise(draws, self.size, self.seed + number, self.parameters[0])

    @property
    def size(self) -> int:
        return self.family.noise_size(self.guide.phi(self.x))

    def elbo(self, noise: Tensor) -> Iterator[Tensor]:
        """Yield terms that add up to the ELBO, each with a graph of its own."""
        total = noise.new_zeros(2)
        for draws, part, index in self.parts(len(noise)):
            found = held_terms(self.model, self.guide, part, noise[draws], index)
            terms = [term.sum() * (len(noise[draws]) / len(noise)) for term in found]
            total += torch.stack([term.detach() for term in terms])
            yield terms[0] - terms[1]
        self.count.terms(*total)

    def parts(self, draws: int) -> Iterator[tuple[slice, Data, Tensor | None]]:
        """Yield which of the draws, and the data and numbers of which units, are evaluated together."""
        units = self.model.latents(self.x).units
        for first in range(0, draws, self.draws_at_once):
            some = slice(first, min(first + self.draws_at_once, draws))
            most = self._at_once(some.stop - first)
            if not self._divisible or most >= units:
                yield some, self.x, None
                continue
            for index in torch.arange(units, device=self.parameters[0].device).split(most):
                yield some, take(self.x, index, units), index

    @property
    def draws_at_once(self) -> int:
        latents = self.model.latents(self.x)
        return max(64, MAX_WORK // work(self.x, latents.units, latents.size))

    @property
    def _divisible(self) -> bool:
        """Whether some units can be evaluated without the others."""
        latents = self.model.latents(self.x)
        return latents.units > 1 and latents.rows_first and latents.unit is not None

    def _at_once(self, draws: int) -> int:
        latents = self.model.latents(self.x)
        return max(1, PART * latents.units // (draws * work(self.x, latents.units, latents.size)))

    def climb(self, noise: Tensor, other: Tensor, steps: int, stop: tuple[float, int]) -> tuple[Ascent, float]:
        """Maximise the ELBO on ``noise`` until ``stop``, see :data:`ROUGH`; return where it led and the ELBO on ``other``."""
        own = self.guide.amortisation
        if self._divisible and isinstance(own, Free) and {*map(id, self.parameters)} == {*map(id, own.phi.values())}:
            done = self._climb_each(own, noise, steps, stop[0])
        else:
            rise, window = stop
            done = ascend(
                lambda: self.elbo(noise), self.parameters, steps, self.count, rise * self.model.latents(self.x).units,
                window, self.count.tape)
        with torch.no_grad():
            return done, float(sum(self.elbo(other)))

    def _climb_each(self, own: Free, noise: Tensor, steps: int, rise: float) -> Ascent:
        """Climb where nothing but the units' own φ moves: each unit for itself."""
        units = self.model.latents(self.x).units

        def evaluate(point: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = []
            for moved, some in zip(*(whole.split(self._at_once(len(noise))) for whole in (point, index)), strict=True):
                moved = moved.to(noise).requires_grad_()
                terms = phi_terms(self.model, self.family, own.unflat(moved), take(self.x, some, units), noise)
                [gradient] = torch.autograd.grad((terms[0] - terms[1]).sum(), [moved])
                found.append([value.detach().double() for value in (terms[0] - terms[1], terms[0], gradient)])
            value, reconstruction, gradient = (torch.cat(parts) for parts in zip(*found, strict=True))
            return value, reconstruction, gradient

        def report(value: float, norm: float, reconstruction: float, point: Tensor) -> None:
            own.set(point)
            self.count.reconstruction, self.count.kl = reconstruction, reconstruction - value
            self.count(value, norm)

        point, done = ascend_each(evaluate, own.flat(), steps, report, rise, self.count.tape)
        own.set(point)
        return done

    def noise_error(self, noise: Tensor) -> float:
        """Return the standard error, in nats, of the difference between two ELBOs on as many independent draws."""
        with torch.no_grad():
            totals = noise.new_zeros(len(noise))
            for draws, part, index in self.parts(len(noise)):
                phi = self.guide.phi(part, index)
                z = self.family.transform(phi, noise[draws])
                totals[draws] += (self.model.log_joint(part, z) - self.family.distribution(phi).log_prob(z)).sum(1)
        return math.sqrt(2 / len(noise)) * float(totals.std())


def _doubling(held: _Held, steps: int, draws: int | None, tolerance: float) -> Outcome:
    latents, size = held.model.latents(held.x), held.size
    number, most = _draws_at_start(held, draws), held.draws_at_once * (ROUNDS if latents.units == 1 else 1)
    taken, enough = 0, 2 * tolerance * latents.units  # of flattery: twice what φ falls short by
    for attempt in range(12):
        noise, other = held.noise(number, 2 * attempt), held.noise(max(number, FRESH), 2 * attempt + 1)
        done, fresh = held.climb(noise, other, steps - taken, ROUGH)
        taken += done.iterations
        if done.value - fresh <= enough and taken < steps:
            done, fresh = held.climb(noise, other, steps - taken, _fine(latents.units, done.value - fresh))
            taken += done.iterations
        if done.value - fresh <= enough or draws is not None or taken >= steps or 2 * number > max(most, 2 * size):
            break
        # Flattery falls as one over the draws: as many as that asks for, up to eight times.
        wanted = power_of_two(math.ceil(number * min(8.0, max(2.0, (done.value - fresh) / enough))))
        number = min(wanted, max(2 * number, 2 ** int(math.log2(max(most, 2 * size)))))
    flattery = done.value - fresh
    # Noise may hide a small flattery, but not excuse one that can't be told: half a nat per unit is the most.
    agrees = flattery <= max(enough, min(enough + 2 * held.noise_error(other), 0.5 * latents.units))
    if not agrees:
        warnings.warn(ZooWarning(
            f"fixed draws of '{held.guide.text}' flatter it by {flattery / latents.units:.2g} nats per unit at {number} draws; "
            "pass more draws=, or use method svi"), stacklevel=4)
    return Outcome(taken, fresh, done.converged and agrees)


def _fine(units: int, flattery: float) -> tuple[float, int]:
    """Return when the last ascent has settled. Held draws flatter φ by far more than the last digits of a climb."""
    rise, window = FINE[units > 1]
    enough = SETTLED[units > 1] * abs(flattery) / units
    return (enough, ROUGH[1]) if enough > rise else (rise, window)


def _draws_at_start(held: _Held, draws: int | None) -> int:
    """Return how many draws to begin with: as asked, else few, but more where small data affords them."""
    if draws is not None:
        return draws + draws % 2  # antithetic: they come in pairs
    latents = held.model.latents(held.x)
    if latents.units > 1:  # by far the most of the way is made on few
        return power_of_two(max(16, 2 * held.size))
    # One unit's weights may have a long tail, which few draws miss and φ then ignores.
    return power_of_two(max(64, 8 * held.size, min(2048, 2**16 // work(held.x, 1, latents.size))))


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


def power_of_two(number: int) -> int:
    """Return the least power of two that is at least ``number``.

    >>> power_of_two(65)
    128
    """
    return int(2 ** (number - 1).bit_length())
