"""log p(x) of many units to a given error, against plain importance sampling with the same guide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import experiments
from benchmarks.digits import UNITS, Digits, trained
from benchmarks.results import Ratio, Result, Row
from experiments.log_evidence.importance import importance
from guides.guide import BaseGuide
from zoo.model import Model

GUIDES = ("mean_field", "full_rank")
#: The standard error that each unit should have, in nats, and the share of units that must.
ERROR, SHARE = 0.05, 0.99
#: How many times fewer evaluations it should take.
GOAL = 5.0
#: Draws of a unit at first, at most, and at once.
FIRST, MOST, CHUNK = 64, 2**16, 2**11


@dataclass
class Count:
    """The number of evaluations of a unit's density so far."""

    evaluations: int = 0
    inside: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class Found:
    """Estimates of log p(x) of each unit, (units,), the number of evaluations, and whether the error was reached."""

    units: Tensor
    evaluations: int
    reached: bool
    how: str


def evidence() -> Result:
    """Count the evaluations of a unit's log p(x, z) that it takes to estimate log p(x) of each of 300 digits under a trained
    VAE to a standard error of 0.05 nats, from the same fitted guide.

    *Importance sampling* takes the same number of draws for all units, and doubles this number until 99 of 100 units have a
    standard error below 0.05 nats by the delta method, up to 65,536 draws per unit. The zoo, asked for a `precision`, gives
    each unit as many draws as the unit needs, up to the same limit, and also goes on with the last hundredth of the units.
    """
    digits = trained()
    found = [_case(digits, guide) for guide in GUIDES]
    return Result([row for row, _ in found], facts={guide: fact for guide, (_, fact) in zip(GUIDES, found, strict=True)})


def _case(digits: Digits, text: str) -> tuple[Row, dict[str, Any]]:
    guide = experiments.fit(digits.model, text, digits.x, train_model=False, progress=False).guide
    theirs, ours = _importance(digits, guide), _ours(digits, guide)
    apart = float((theirs.units - ours.units).mean())
    ratio = theirs.evaluations / ours.evaluations
    row = Row(
        f"{UNITS} units, {text}", "importance sampling",
        {"zoo": float(ours.evaluations), "importance sampling": float(theirs.evaluations)},
        Ratio(ratio, ratio, ratio) if ours.reached else None, GOAL, f"mean log p(x) of a unit, to {abs(apart):.2g} nats",
        at_least=not theirs.reached, note=f"zoo: {ours.how}; importance sampling: {theirs.how}", unit="evaluations")
    return row, {"zoo": ours.how, "importance sampling": theirs.how, "apart": apart}


def _ours(digits: Digits, guide: BaseGuide) -> Found:
    """Return the result of the zoo, which gives each unit as many draws as the unit needs."""
    with counted(digits.model) as count:
        found = importance(digits.model, guide, digits.x, ERROR, most=MOST)
    share = float((found.se <= ERROR).double().mean())
    how = f"{int(found.draws.min()):,} to {int(found.draws.max()):,} draws, {100 * share:.1f}% of units within the error"
    return Found(found.value, count.evaluations, share >= SHARE, how)


def _importance(digits: Digits, guide: BaseGuide) -> Found:
    """Return the result of plain importance sampling; each round keeps the draws of the smaller rounds."""
    total = square = torch.full((len(digits.x),), -math.inf, dtype=digits.x.dtype)
    with counted(digits.model) as count:
        taken, draws = 0, FIRST
        while True:
            while taken < draws:
                part = min(CHUNK, draws - taken)
                w = experiments.log_weights(digits.model, guide, digits.x, part, seed=1 + taken).log_weight
                total, square = torch.logaddexp(total, w.logsumexp(0)), torch.logaddexp(square, (2 * w).logsumexp(0))
                taken += part
            error = ((draws * (square - 2 * total).exp() - 1).clamp(min=0) / (draws - 1)).sqrt()
            share = float((error <= ERROR).double().mean())
            if share >= SHARE or 2 * draws > MOST:
                how = f"{draws:,} draws, {100 * share:.1f}% of units within the error"
                return Found(total - math.log(draws), count.evaluations, share >= SHARE, how)
            draws *= 2


@contextmanager
def counted(model: Model) -> Iterator[Count]:
    """Count the evaluations of a model's density: draws × units of each call of ``log_terms`` or ``log_joint``."""
    count = Count()

    def watch(method: Any) -> Any:
        def call(self: Model, x: Any, z: Tensor) -> Any:
            if count.inside:
                return method(self, x, z)  # one calls the other
            count.inside, count.evaluations = True, count.evaluations + z.shape[0] * z.shape[1]
            try:
                return method(self, x, z)
            finally:
                count.inside = False
        return call

    kind = type(model)
    with mock.patch.object(kind, "log_terms", watch(kind.log_terms)), mock.patch.object(
            kind, "log_joint", watch(kind.log_joint)):
        yield count
