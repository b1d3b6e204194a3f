"""A bracket from the importance weights of a guide's draws, and of draws of the exact posterior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.log_evidence.brackets.sandwich import Bracket, sandwich
from experiments.log_evidence.log_weights import log_joint, log_weights
from experiments.runtime.budget import Budget
from experiments.runtime.memory import CACHED, PILOT, affordable, chunks, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.posterior import checked_draws
from guides.guide import BaseGuide, paired
from guides.model_based import Prior
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.model import Model
from zoo.program.run import Program, seeded


def importance_bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor, *, draws: int | None = None, seed: int = 0,
    budget: Budget | None = None,
) -> Bracket:
    """Bound log p(x | θ) by the importance weights of the guide's draws and of ``exact``: see :func:`sandwich`.

    Discrete latents are drawn, not enumerated: nine tenths from the guide and one from the prior. For arguments and errors see
    :func:`experiments.bracket`.

    >>> import zoo, guides
    >>> model = zoo.build("gmm", x := zoo.dataset("faithful").x)
    >>> exact = model.posterior(x).sample((1,))
    >>> found = importance_bracket(model, guides.build("prior", model, x), x, exact)
    >>> found.upper_total - found.lower_total < 0.01 * len(x)
    True
    """
    model = paired(model, guide)
    forward = _weights(model, guide, x, draws, seed + Stream.IMPORTANCE, budget or Budget())
    with torch.no_grad():
        q = _proposal(model, guide, x)
        reverse = torch.cat([log_joint(model, x, z) - q.log_prob(z) for z in checked_draws(model, x, exact).split(1)])
    return sandwich(forward, reverse)


def _weights(model: Model, guide: BaseGuide, x: Data, draws: int | None, seed: int, budget: Budget) -> Tensor:
    """Return log weights of ``draws`` draws of the guide, (draws, units)."""
    latents = model.latents(x)
    each = work(x, latents.units, latents.size)
    if draws is None:
        most = 2**10 if isinstance(guide, Prior) and not latents.discrete else 2**15  # its program is run draw by draw
        draws = affordable(model, max(2**8, min(most, within(CACHED, latents.units), within(PILOT, each))), 2**8)
        draws = max(2**6, budget.affords(draws, 1, 0.5))
    if not latents.discrete:
        return log_weights(model, guide, x, draws, seed).log_weight
    parts = []
    with seeded(seed), torch.no_grad():
        q = _proposal(model, guide, x)
        for count in chunks(draws, each * len(latents.support())):
            z = q.sample(torch.Size([count]))
            parts.append(log_joint(model, x, z) - q.log_prob(z))
    return torch.cat(parts)


def _proposal(model: Model, guide: BaseGuide, x: Data) -> Distribution:
    """Return q(z | x), of discrete latents mixed with a tenth of the prior, so that no value is out of reach.

    Source: Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions,
    https://doi.org/10.1080/00401706.1995.10484303
    """
    q = guide.posterior(x)
    if not isinstance(q, Enumerated):
        return q
    prior: Any = Prior(model, "prior").posterior(x)
    return Enumerated(torch.logaddexp(math.log(0.9) + q.logits, math.log(0.1) + prior.logits), q.values, validate_args=False)
