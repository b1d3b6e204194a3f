"""Stochastic variational inference: Adam on minibatch estimates of the ELBO."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from experiments.engine import Outcome, check_start, non_finite_site, trainable
from experiments.weights import draw
from guides.guide import BaseGuide
from zoo.data import Data, reference, take
from zoo.enumerated import Enumerated, expect
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model


def svi(
    model: Model, guide: BaseGuide, x: Data, *, train_model: bool, steps: int, draws: int | None,
    report: Callable[[int, float], None], batch_size: int | None = None, learning_rate: float = 0.02,
) -> Outcome:
    """Maximise the ELBO by Adam with a cosine schedule; uses torch's generator.

    A minibatch holds whole units, and its ELBO is scaled by units / batch_size here, never by the program's plates, so
    that it is unbiased for the full ELBO whatever the program does with scales.

    Args:
        train_model: move θ as well as φ.
        steps: of Adam.
        draws: of z per unit and step; ``None``: 16 for one unit, 4 for many. Discrete guides are summed exactly.
        batch_size: units a step; ``None``: all, up to 256.
        learning_rate: at the first step; it falls to a hundredth by the last.

    A step that turns non-finite stops the fit: the last finite parameters are kept and a warning names the site.

    Raises:
        ZooError: a batch larger than the data, a batch of a one-unit model, a guide without reparameterised draws, a
            learning rate that is not positive, or an ELBO that is not finite at the start.

    Source: Kucukelbir et al. (2017), Automatic differentiation variational inference, https://arxiv.org/abs/1603.00788;
    Kingma and Ba (2015), Adam, https://arxiv.org/abs/1412.6980
    """
    units = model.latents(x).units
    size = _batch_size(model, units, batch_size)
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ZooError(f"expected a positive learning rate; got {learning_rate}; the default is 0.02")
    count = draws or (16 if units == 1 else 4)
    parameters = trainable(model, guide, train_model)
    check_start(model, guide, x)
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps), eta_min=learning_rate / 100)
    order = torch.empty(0, dtype=torch.long)
    guide.train()
    values: list[float] = []
    kept = [p.detach().clone() for p in parameters]
    for step in range(1, steps + 1):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(units)])
        index, order = (order[:size].to(reference(x).device), order[size:]) if size < units else (None, order)
        batch = x if index is None else take(x, index, units)
        if step == 1 and index is not None:
            _check_batch(model, batch, size)
        value, z = minibatch_elbo(model, guide, batch, index, units, count)
        optimiser.zero_grad()
        (-value).backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not bool(value.isfinite()) or not all(bool(g.isfinite().all()) for g in gradients):
            torch._foreach_copy_([p.detach() for p in parameters], kept)
            reason = _stopped(model, guide, batch, z.detach(), step)
            return Outcome(max(0, step - 2), _settled(values, units)[0], False, reason)
        torch._foreach_copy_(kept, [p.detach() for p in parameters])
        optimiser.step()
        schedule.step()
        values.append(float(value.detach()))
        report(step, values[-1])
    return Outcome(steps, *_settled(values, units))


def _stopped(model: Model, guide: BaseGuide, batch: Data, z: Tensor, step: int) -> str:
    """Say, and warn, at which site a step turned non-finite, and what is kept."""
    site = non_finite_site(model, batch, z)
    last = max(0, step - 2)
    reason = f"step {step} turned non-finite at site '{site}'; the last finite parameters, after step {last}, are kept"
    warnings.warn(ZooWarning(f"fit of '{guide.text}' stopped: {reason}; lower the learning rate"), stacklevel=4)
    return reason


def _settled(values: list[float], units: int) -> tuple[float, bool]:
    """Return the mean of the last tenth of the steps' ELBOs, and whether the second half of the run raised it no more.

    No more than noise (three standard errors) or 0.02 nats per unit: a rate that falls towards zero stops any climb at the
    end, so the last steps alone would always look settled.
    """
    count = len(values) // 10
    if count < 2:
        return values[-1] if values else -math.inf, False
    middle, last = torch.tensor(values).double()[5 * count : 6 * count], torch.tensor(values[-count:]).double()
    error = math.sqrt(float(last.var() + middle.var()) / count)
    return float(last.mean()), float(last.mean() - middle.mean()) <= max(3 * error, 0.02 * units)


def minibatch_elbo(
    model: Model, guide: BaseGuide, batch: Data, index: Tensor | None, units: int, draws: int,
) -> tuple[Tensor, Tensor]:
    """Return an unbiased estimate of the ELBO's total over ``units`` from a minibatch of them, and the draws.

    Args:
        batch: the minibatch: rows ``index`` of the data; ``index`` is ``None`` where it is all of it.
        units: how many units there are in all.
        draws: of z per unit, reparameterised; a finite support is summed exactly.
    """
    q = guide.posterior(batch, index)
    if not isinstance(q, Enumerated) and not q.has_rsample:
        raise ZooError(f"expected a guide with reparameterised draws for method svi; got '{guide.text}'; use another guide")
    z, log_measure = draw(q, draws)
    log_q = log_measure if isinstance(q, Enumerated) else q.log_prob(z)
    log_weight = model.log_joint(batch, z) - log_q
    total = expect(log_measure.exp(), log_weight).sum()
    return total * (units / log_weight.shape[1]), z


def _check_batch(model: Model, batch: Data, size: int) -> None:
    """Raise unless a program on ``size`` rows of x has ``size`` units: the units must be x's first dimension."""
    try:
        found = model.latents(batch).units
    except (ValueError, RuntimeError) as error:
        found, reason = None, str(error).splitlines()[0]
    if found != size:
        got = reason if found is None else f"{found} units"
        raise ZooError(
            f"expected {size} rows of x to make {size} units of {model.label}; got {got}; put the units along the first "
            "dimension of x, with a plate of len(x), or leave batch_size out")


def _batch_size(model: Model, units: int, asked: int | None) -> int:
    if asked is None:
        return min(units, 256)
    if units == 1:
        raise ZooError(
            f"expected no batch_size for {model.label}, whose latents all rows share (one unit); got {asked}; leave it out")
    if not 1 <= asked <= units:
        raise ZooError(f"expected a batch_size from 1 to the {units} units; got {asked}; lower it")
    return asked
