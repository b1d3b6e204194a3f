"""An epoch of a flow's training, against a plain zuko loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import experiments
import zoo
from benchmarks.race import Race, in_turn, slope
from benchmarks.results import Result, Row
from benchmarks.sides import zuko_flow
from experiments.inference.svi.options import SCHEDULES

KINDS = ("spline", "maf")
#: Steps of a run, and of the shorter run that is taken off it; rows a step; rate of Adam. Both runs are longer than the 250
#: steps that svi takes by Python before it tries whether recording gains.
STEPS, SHORT, BATCH, RATE = 800, 400, 256, 0.003
#: The zoo may take three hundredths longer.
GOAL = 0.97


def flow_epoch(repeats: int = 7) -> Result:
    """Time one epoch (2,000 rows) in the training of a flow of four layers (`spline`: coupling with rational-quadratic
    splines; `maf`: autoregressive, affine), in batches of 256, float64.

    The time of an epoch is the difference between a run of 800 steps and a run of 400 steps, scaled to an epoch, so that costs
    which arise once per run cancel. For the zoo, a run is a call of `experiments.fit`. For zuko, a run is a plain loop of
    `loss.backward()` and `optimiser.step()` over the same network, with the same Adam, cosine schedule and batches; the rows
    are standardised beforehand, and validation is off. Both contenders run on one thread, which is faster for both; the zoo
    chooses one thread by itself. The goal allows the zoo to take three hundredths more time than the plain loop.
    """
    data = {"two_moons, 2 columns": zoo.dataset("two_moons").tensor, "four pairs of moons, 8 columns": eight()}
    return Result([row for name, x in data.items() for kind in KINDS for row in _case(f"{kind}, {name}", kind, x, repeats)])


def eight() -> Tensor:
    """Return four pairs of moons side by side, each with its rows permuted, rotated in 8 dimensions: (2000, 8)."""
    moons = zoo.dataset("two_moons").tensor
    with zoo.seeded(0):
        columns = torch.cat([moons[torch.randperm(len(moons))] for _ in range(4)], 1)
        turn = torch.linalg.qr(torch.randn(8, 8, dtype=moons.dtype))[0]
    turned: Tensor = columns @ turn
    return turned


def _case(name: str, kind: str, x: Tensor, repeats: int) -> list[Row]:
    model: Any = zoo.build("flow", x, kind=kind)
    rows = (x - model.centre) / model.spread
    apart = max(_apart(model, x, rows), _apart(_zoo(model, x, SHORT), x, rows))

    def plain(steps: int) -> None:
        zuko_flow.train(copy.deepcopy(model.network), rows, steps, BATCH, RATE, SCHEDULES["cosine"])

    sides: dict[str, Callable[[int], Any]] = {"zoo": partial(_zoo, model, x), "zuko": plain}
    for run in sides.values():
        run(10)
    seconds = in_turn({(side, steps): partial(run, steps) for side, run in sides.items() for steps in (STEPS, SHORT)}, repeats)
    each = {side: slope(seconds[side, STEPS], seconds[side, SHORT], STEPS - SHORT) for side in sides}
    agrees = f"log-likelihood at the same weights, before and after training, to {apart:.0e} relative"
    return Race({}, each, {}).rows(name, agrees, {"zuko": (GOAL, None)}, 1e3 * len(x) / BATCH, "ms an epoch")


def _zoo(model: Any, x: Tensor, steps: int) -> Any:
    mine = copy.deepcopy(model)
    experiments.fit(mine, "exact", x, method="svi", steps=steps, batch_size=BATCH, learning_rate=RATE, progress=False)
    return mine


def _apart(model: Any, x: Tensor, rows: Tensor) -> float:
    """Return the relative difference of zuko's and the zoo's log-likelihood at the same weights; raise if they differ."""
    with torch.no_grad():
        ours = float(model.log_evidence(x).sum())
    theirs = zuko_flow.log_likelihood(model.network, rows, model.spread)
    apart = abs(theirs / ours - 1)
    assert apart < 1e-10, f"expected the same log-likelihood at the same weights; got {ours} and {theirs}"
    return apart
