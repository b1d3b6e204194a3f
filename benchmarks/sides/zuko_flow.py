"""A plain zuko training loop, as its documentation writes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


def train(network: nn.Module, x: Tensor, steps: int, batch: int, rate: float, schedule: Callable[[float], float]) -> None:
    """Maximise the likelihood of rows under a flow by Adam, in place, with argument validation off, as zuko sets it.

    On one thread: operations this short are several times slower when they are shared out.

    Args:
        network: the flow's transform.
        x: (rows, D), standardised.
        steps: of Adam; each pass over the rows in an order of its own.
        batch: rows a step.
        rate: of Adam at the first step.
        schedule: its factor at a share of the run.
    """
    before, threads = Distribution._validate_args, torch.get_num_threads()
    torch.set_num_threads(1)
    Distribution.set_default_validate_args(False)
    try:
        flow = wrap(network, x)
        optimiser = torch.optim.Adam(network.parameters(), lr=rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule(step / steps))
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < batch:
                order = torch.cat([order, torch.randperm(len(x))])
            index, order = order[:batch], order[batch:]
            loss = -flow().log_prob(x[index]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            scheduler.step()
    finally:
        torch.set_num_threads(threads)
        Distribution.set_default_validate_args(before)


def wrap(network: nn.Module, x: Tensor) -> Any:
    """Return a zuko flow of ``network`` over a standard normal in the dtype of ``x`` (rows, D).

    Zuko is imported only here, when the zoo has loaded it to build the network: by itself it switches argument validation off
    for the whole process, and the zoo would be timed without.
    """
    import zuko

    zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    return zuko.flows.Flow(network, zuko.flows.UnconditionalDistribution(zuko.distributions.DiagNormal, zero, one, buffer=True))


def log_likelihood(network: nn.Module, x: Tensor, spread: Tensor) -> float:
    """Return Σ log p of the rows of which ``x`` are the standardised ones, ``spread`` (D,) being their deviations."""
    with torch.no_grad():
        return float(wrap(network, x)().log_prob(x).sum() - len(x) * spread.log().sum())
