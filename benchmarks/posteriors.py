"""Free posteriors of many units, against an Adam for each."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import experiments
import zoo
from benchmarks.digits import LATENT, UNITS, Digits, elbo, trained
from benchmarks.race import timed
from benchmarks.results import Ratio, Result, Row
from benchmarks.sides import torch_posteriors

#: Nats per unit below the best ELBO at which posteriors have got there.
WITHIN = 0.02
#: Units that are timed one by one; what they take is scaled to all.
SUBSET = 12
#: Rates of Adam and draws a step to choose from.
CHOICES = tuple(itertools.product((0.1, 0.03, 0.01), (1, 16, 100)))
STEPS, LONG = 2_000, 5_000
#: Steps at which a run is judged.
STOPS = sorted({min(STEPS, round(20 * 1.1**k)) for k in range(50)})
GOAL = 50.0


@dataclass(frozen=True)
class _Way:
    """One choice's seconds to the target, and whether it got there."""

    choice: tuple[float, int]
    seconds: float
    steps: float
    reached: bool


def free_posteriors(repeats: int = 3) -> Result:
    """Time mean-field posteriors of 300 digits under the decoder of a trained VAE (8 latents, 200 hidden units, float64), to
    within 0.02 nats per unit of the best.

    The zoo's time is that of a whole call of `experiments.fit` on all units. *Adam, one by one* gives each unit an Adam of its
    own in plain torch, as published code does, and ends at the first state within 0.02 nats of that unit's best; it is timed on
    the first 12 units and scaled to 300. *Adam, all at once* shares one Adam among all units and ends where their mean ELBO
    gets there. Both take the best of a grid of rates and draws, start at the prior's mean, and are given up to 2,000 steps.
    Neither could know when to stop; the zoo's own rule does. The best is the higher of the zoo's fit on 1,024 draws and 5,000
    steps of Adam on 100, unit by unit. ELBOs are judged outside the clock, on 2,048 quasi-random
    draws of a unit alone and 256 of all together.
    """
    digits = trained()
    apart = _check(digits)
    ours = [timed(lambda: _zoo(digits)) for _ in range(repeats)]
    seconds = [each for each, _ in ours]
    reached = elbo(digits, *ours[0][1])
    best = torch.maximum(_best(digits), reached)
    short = float((best - reached).mean())
    singles, batched = _one_by_one(digits, best[:SUBSET]), _at_once(digits, best)
    agrees = f"log p(x, z), to {apart:.0e} relative"
    rows = [_row(name, way, seconds, scale, goal, agrees, short) for name, way, scale, goal in (
        ("Adam, one by one", singles, UNITS / SUBSET, GOAL), ("Adam, all at once", batched, 1.0, None))]
    return Result(rows, facts={"best_per_unit": float(best.mean()), "zoo_below": short})


def _row(name: str, way: _Way, ours: Sequence[float], scale: float, goal: float | None, agrees: str, short: float) -> Row:
    theirs = scale * way.seconds
    note = (
        f"rate {way.choice[0]:g}, {way.choice[1]} draws, {way.steps:.0f} steps; "
        f"zoo ends {short:.4f} nats per unit below the best")
    ratio = Ratio.of([theirs] * len(ours), ours) if short <= WITHIN else None
    return Row(
        f"{UNITS} units", name, {"zoo": statistics.median(ours), name: theirs}, ratio, goal, agrees,
        at_least=not way.reached, note=note)


def _zoo(digits: Digits, **options: Any) -> tuple[Tensor, Tensor]:
    done = experiments.fit(digits.model, "mean_field", digits.x, train_model=False, progress=False, **options)
    with torch.no_grad():
        q: Any = done.guide.posterior(digits.x)
        return q.mean.clone(), q.stddev.clone()


def _best(digits: Digits) -> Tensor:
    """Return the best known ELBO of each unit, (units,)."""
    decoder = copy.deepcopy(digits.decoder)
    *_, (_, _, state) = torch_posteriors.trace(decoder, digits.x, LATENT, 0.01, 100, [LONG])
    return torch.maximum(elbo(digits, *_zoo(digits, draws=1024)), elbo(digits, *state))


def _one_by_one(digits: Digits, best: Tensor) -> _Way:
    """Return the best choice for an Adam of each unit's own: total seconds over the subset."""
    def run(choice: tuple[float, int], limit: float) -> _Way:
        total, steps, reached = 0.0, 0, True
        for unit in range(SUBSET):
            way = _reach(digits, digits.x[unit : unit + 1], best[unit : unit + 1], choice)
            total, steps, reached = total + way.seconds, steps + int(way.steps), reached and way.reached
            if total > limit:
                break
        return _Way(choice, total, steps / SUBSET, reached)

    return _choose(run)


def _at_once(digits: Digits, best: Tensor) -> _Way:
    return _choose(lambda choice, limit: _reach(digits, digits.x, best, choice, limit))


def _choose(run: Any) -> _Way:
    """Return the choice that gets there soonest; where none does, the last one, which was given all its steps."""
    found: _Way | None = None
    for choice in CHOICES:
        way = run(choice, found.seconds if found is not None and found.reached else float("inf"))
        if found is None or not found.reached or (way.reached and way.seconds < found.seconds):
            found = way
    assert found is not None, "there are choices"
    return found


def _reach(digits: Digits, x: Tensor, best: Tensor, choice: tuple[float, int], limit: float = float("inf")) -> _Way:
    """Follow one Adam until the mean ELBO of its units is within reach of the mean of their best."""
    decoder = copy.deepcopy(digits.decoder)
    target = float(best.mean()) - WITHIN
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for seconds, step, state in torch_posteriors.trace(decoder, x, LATENT, *choice, STOPS):  # noqa: B007
            reached = float(elbo(digits, *state, x).mean()) >= target
            if reached or seconds > limit:
                break
    return _Way(choice, seconds, step, reached and seconds <= limit)


def _check(digits: Digits) -> float:
    """Return how far the plain log joint is from the zoo's, relative; raise if it is another."""
    with zoo.seeded(0):
        z = torch.randn(4, len(digits.x), LATENT, dtype=digits.x.dtype)
    with torch.no_grad():
        ours = digits.model.log_joint(digits.x, z)
    theirs = torch_posteriors.log_joint(digits.decoder, digits.x, z)
    apart = float(((theirs - ours) / ours).abs().max())
    assert apart < 1e-8, f"expected the same log joint; got values up to {apart:.1g} apart, relative"
    return apart
