"""Posteriors of single units by Adam, in plain torch, as papers' code does it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def trace(
    decoder: nn.Module, x: Tensor, latent: int, rate: float, draws: int, horizon: int, stops: Sequence[int],
) -> Iterator[tuple[float, int, tuple[Tensor, Tensor]]]:
    """Fit q(z_i) = N(loc_i, diag(scale_i²)) to each row by one Adam; yield seconds, step and (loc, scale) at each of ``stops``.

    Small steps run on one thread: their operations are several times slower when they are shared out.

    log p(x, z) = log N(z; 0, I) + Σ_j log Bernoulli(x_j; decoder(z)_j). All rows share the optimiser: pass one row for an Adam
    of its own. Copying is not counted.

    Args:
        decoder: from (…, latent) to the logits (…, columns).
        x: (units, columns), 0 and 1.
        latent: d.
        rate: of Adam.
        draws: of z per unit and step.
        horizon: steps over which the rate falls to a hundredth, in a line; 0: it is constant.
        stops: steps in rising order.

    Source: after Cremer, Li and Duvenaud (2018), https://arxiv.org/abs/1801.03558, who optimise the parameters of each unit.
    """
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    loc = x.new_zeros(len(x), latent).requires_grad_()
    log_scale = x.new_zeros(len(x), latent).requires_grad_()
    optimiser = torch.optim.Adam([loc, log_scale], lr=rate)
    taken, seconds, threads = 0, 0.0, torch.get_num_threads()
    for stop in stops:
        torch.set_num_threads(1 if draws * x.numel() < 2**16 else threads)
        begun = time.perf_counter()
        for step in range(taken, stop):
            if horizon:
                optimiser.param_groups[0]["lr"] = rate * max(0.01, 1 - 0.99 * step / horizon)
            optimiser.zero_grad()
            _loss(decoder, x, loc, log_scale, draws).backward()
            optimiser.step()
        seconds += time.perf_counter() - begun
        taken = stop
        torch.set_num_threads(threads)
        yield seconds, taken, (loc.detach().clone(), log_scale.detach().exp())


def _loss(decoder: Any, x: Tensor, loc: Tensor, log_scale: Tensor, draws: int) -> Tensor:
    """Return −ELBO, summed over units, its entropy in closed form but for a constant."""
    z = loc + log_scale.exp() * torch.randn(draws, *loc.shape, dtype=x.dtype)
    prior = -0.5 * z.square().sum(-1)
    return -((_log_likelihood(decoder, x, z) + prior).mean(0) + log_scale.sum(-1)).sum()


def _log_likelihood(decoder: Any, x: Tensor, z: Tensor) -> Tensor:
    logits = decoder(z)
    return -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def log_joint(decoder: Any, x: Tensor, z: Tensor) -> Tensor:
    """Return log p(x, z) at z (draws, units, d), (draws, units)."""
    with torch.no_grad():
        prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        return _log_likelihood(decoder, x, z) + prior
