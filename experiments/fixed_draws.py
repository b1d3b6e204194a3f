"""Deterministic variational inference: the noise is held fixed, and the ELBO becomes an ordinary function of φ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from experiments.engine import Outcome, check_start, trainable
from experiments.optimise import ascend
from experiments.weights import work
from guides.amortisation import Free
from guides.categorical import CategoricalFamily
from guides.family import NormalBase
from guides.guide import BaseGuide, Guide
from zoo.data import Data
from zoo.enumerated import Enumerated
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model

#: Numbers that all draws of one evaluation may touch.
MAX_WORK = 2**26


def normal_noise(draws: int, size: int, seed: int, like: Tensor) -> Tensor:
    """Return quasi-random standard normals (draws, 1, size): scrambled Sobol, antithetic, with identity second moment.

    With mean zero and identity covariance on the sample, the mean of any quadratic is exact: where the posterior is
    normal, fixed draws find the family's true optimum.

    Source: Owen (1998), Scrambling Sobol' and Niederreiter–Xing points, https://doi.org/10.1006/jcom.1998.0487;
    Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic objective,
    https://arxiv.org/abs/2304.05527

    >>> noise = normal_noise(64, 3, 0, torch.zeros((), dtype=torch.double))[:, 0]
    >>> torch.allclose(noise.T @ noise / 64, torch.eye(3, dtype=torch.double))
    True
    """
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
    report: Callable[[int, float], None], tolerance: float = 0.01,
) -> Outcome:
    """Maximise the ELBO on held noise by L-BFGS; double the draws, warm, until fresh noise agrees.

    An objective on few draws flatters φ, which learns the draws. The rise over the ELBO on fresh noise is that flattery:
    draws are doubled until it is under ``tolerance`` nats per unit. Discrete guides are summed exactly: no doubling.

    Raises:
        ZooError: the guide's family has no standard-normal base, fewer draws than twice the dimensions, or an ELBO that
            is not finite at the start.
    """
    if not isinstance(guide, Guide):
        raise ZooError(f"expected a guide with parameters for method fixed_draws; got '{guide.text}'; use method em")
    parameters = trainable(model, guide, train_model)
    check_start(model, guide, x)
    taken = 0

    def count(value: float) -> None:
        nonlocal taken
        taken += 1
        report(taken, value)

    if not isinstance(guide.family, NormalBase):
        if not isinstance(guide.posterior(x), Enumerated):
            raise ZooError(f"expected a family with a normal base for method fixed_draws; got '{guide.text}'; use method svi")
        return _discrete(model, guide, x, parameters, steps, count)
    return _doubling(model, guide, x, parameters, steps, draws, seed, count, tolerance)


def _discrete(
    model: Model, guide: Guide, x: Data, parameters: list[nn.Parameter], steps: int, count: Callable[[float], None],
) -> Outcome:
    """Maximise the exact sum. Free logits first take a natural-gradient step of length one, again after each ascent.

    The ELBO is −KL(q ‖ p(x, ·)) in each unit, so that step lands on its maximum, log p(x, z) (Amari 1998,
    https://doi.org/10.1162/089976698300017746). Plain gradients vanish where a softmax saturates: without the step a
    unit that overshoots into a wrong corner stays there.
    """
    free = isinstance(guide.amortisation, Free) and isinstance(guide.family, CategoricalFamily)
    logits = guide.amortisation.phi["logits"] if isinstance(guide.amortisation, Free) else torch.empty(0)
    own = {id(p) for p in guide.parameters()}
    value, taken, converged = -math.inf, 0, False
    while taken < steps:
        if free:
            with torch.no_grad():
                log_joint = model.log_joint(x, guide.posterior(x).enumerate_support()).movedim(0, -1)
                logits.copy_(log_joint - log_joint.logsumexp(-1, keepdim=True))
                start = float(_exact_elbo(model, guide, x))
            taken += 1
            count(start)
            if all(id(p) in own for p in parameters) or start - value < 1e-9 * abs(start):
                return Outcome(taken, start, True)
        done = ascend(lambda: _exact_elbo(model, guide, x), parameters, steps - taken, count)
        value, taken, converged = done.value, taken + done.iterations, done.converged
        if not free:
            break
    return Outcome(taken, value, converged)


def _doubling(
    model: Model, guide: Guide, x: Data, parameters: list[nn.Parameter], steps: int, draws: int | None, seed: int,
    count: Callable[[float], None], tolerance: float,
) -> Outcome:
    latents, like = model.latents(x), parameters[0]
    assert isinstance(guide.family, NormalBase)
    size = guide.family.noise_size(latents.size)
    if draws is not None and draws < 2 * size:
        raise ZooError(
            f"expected at least {2 * size} fixed draws for '{guide.text}', twice its {size} dimensions; got {draws}; "
            "raise them")
    draws = None if draws is None else draws + draws % 2  # antithetic: they come in pairs
    most = max(64, MAX_WORK // work(x, latents.units, latents.size))
    # One unit's weights may have a long tail, which few draws miss and φ then ignores: small data can afford many.
    cheap = min(2048, 2**16 // work(x, 1, latents.size)) if latents.units == 1 else 0
    held = draws or min(_power_of_two(max(64, 8 * size, cheap)), _power_of_two(most))
    taken = 0
    for attempt in range(12):
        noise = normal_noise(held, size, seed + 2 * attempt, like)
        other = normal_noise(held, size, seed + 2 * attempt + 1, like)
        for stop in (1e-3 * latents.units, 1e-6 * latents.units):  # rough while the draws may still be doubled, then fine
            held_noise = partial(held_elbo, model, guide, x, noise)
            done = ascend(held_noise, parameters, max(1, steps - taken), count, stop)
            taken += done.iterations
            with torch.no_grad():
                fresh = float(held_elbo(model, guide, x, other))
            if agrees := done.value - fresh <= tolerance * latents.units:
                continue
            break
        last = draws is not None or taken >= steps or 2 * held > most
        if agrees or last:
            break
        held *= 2
    flattery, error = done.value - fresh, _noise_error(model, guide, x, other)
    # Noise may hide a small flattery, but not excuse one that can't be told: half a nat per unit is the most.
    if not agrees and flattery > min(tolerance * latents.units + 2 * error, 0.5 * latents.units):
        warnings.warn(ZooWarning(
            f"fixed draws of '{guide.text}' flatter it by {flattery / latents.units:.2g} nats per unit at {held} draws; "
            "pass more draws=, or use method svi"), stacklevel=4)
    else:
        agrees = True
    converged = done.converged and agrees
    return Outcome(taken, fresh, converged)


def held_elbo(model: Model, guide: Guide, x: Data, noise: Tensor) -> Tensor:
    """Return the ELBO, summed over units, with z = transform(φ, noise) and q's entropy in closed form."""
    assert isinstance(guide.family, NormalBase)
    phi = guide.amortisation(x)
    z = guide.family.transform(phi, noise)
    entropy: Tensor = guide.family.distribution(phi).entropy()
    return (model.log_joint(x, z).mean(0) + entropy).sum()


def _noise_error(model: Model, guide: Guide, x: Data, noise: Tensor) -> float:
    """Return the standard error, in nats, of the difference between two ELBOs on as many independent draws."""
    assert isinstance(guide.family, NormalBase)
    with torch.no_grad():
        phi = guide.amortisation(x)
        z = guide.family.transform(phi, noise)
        totals = (model.log_joint(x, z) - guide.family.distribution(phi).log_prob(z)).sum(1)
    return math.sqrt(2 / len(noise)) * float(totals.std())


def _exact_elbo(model: Model, guide: BaseGuide, x: Data) -> Tensor:
    q = guide.posterior(x)
    assert isinstance(q, Enumerated)
    log_q = q.logits.movedim(-1, 0)
    return (log_q.exp() * (model.log_joint(x, q.enumerate_support()) - log_q)).sum()


def _power_of_two(number: int) -> int:
    return int(2 ** (number - 1).bit_length())
