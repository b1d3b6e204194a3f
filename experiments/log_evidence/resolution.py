"""Limits of floating point: latents rounded to an end of their support, and a rounded log p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.log_evidence.log_weights import log_joint
from experiments.log_evidence.proposals.mixture import EqualMixture, Tails, densities_known
from experiments.runtime.memory import GLANCE, affordable, within, work
from experiments.runtime.precision import in_float64
from experiments.runtime.seeds import Stream
from guides.guide import BaseGuide
from zoo.data import Data, reference
from zoo.distributions.enumerated import Enumerated
from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.failures.tolerance import FAILURES, refuse
from zoo.program.run import seeded

#: Draws that are looked at, at most and at least.
DRAWS, FEWEST = 4096, 32
#: Unconstrained coordinates that a value does not give back to within this much were rounded away.
BACK = 0.5
#: Share of the mass that may lie there (a hundred times as much may lie beyond), and nats that rounding may change.
LOST, ROUNDED = 1e-4, 0.05


@dataclass(frozen=True)
class Resolution:
    """The mass that rounding loses, estimated from a guide's draws and their importance weights.

    Attributes:
        lost: the share of a unit's posterior mass at draws in which some latent is rounded to an end of its support; the
            largest share of all units. The density is cut off beyond these draws, so log p(x) comes out too low by about as
            much, and no draw shows this.
        site: the latent site with the most mass at rounded draws.
        rounding: nats by which float32 changes log p(x), all units together; 0 in float64, and if the change is not known.
    """

    lost: float = 0.0
    site: str = ""
    rounding: float = 0.0

    @classmethod
    def of(cls, model: Model, guide: BaseGuide, x: Data, seed: int) -> Resolution:
        """Draw from ``guide``; nothing is told of discrete latents, nor of programs that can't be run back and forth."""
        latents = model.latents(x)
        if latents.discrete or not latents.size:
            return cls()
        number = affordable(model, within(GLANCE, work(x, latents.units, latents.size), FEWEST, DRAWS), FEWEST)
        with seeded(seed + Stream.RESOLUTION), torch.no_grad():
            q = guide.posterior(x)
            if isinstance(q, Enumerated):
                return cls()
            if densities_known([guide], x):  # a guide's own tails may not reach where the posterior's do
                q = EqualMixture([q, Tails.of(q.sample(torch.Size([number])))])
            z, log_q = scored(q, number)
            joint = log_joint(model, x, z).double()
            share = (joint - log_q.double()).nan_to_num(nan=-math.inf).softmax(0).nan_to_num()
            return cls(*_lost(model, x, z, share), _rounding(model, x, z, joint, share))


def _lost(model: Model, x: Data, z: Tensor, share: Tensor) -> tuple[float, str]:
    """Return the share of mass at draws z (draws, units, d) that their values do not give back, and the site they lack most."""
    sites = model.latents(x).sites
    try:
        values = model.constrain(x, z)
        back = model.unconstrain(x, {site.name: values[site.name] for site in sites})
    except FAILURES as error:
        if not isinstance(error, ZooError):
            refuse(error)
        return 0.0, ""
    known = torch.cat([torch.full((site.size,), not site.loose, device=z.device) for site in sites])
    off = known & ~((back - z).abs() < BACK)
    mass = float((share * off.any(-1)).sum(0).max())
    each = [float((share[..., None] * part).sum()) for part in off.split([site.size for site in sites], -1)]
    return mass, sites[each.index(max(each))].name


def _rounding(model: Model, x: Data, z: Tensor, joint: Tensor, share: Tensor) -> float:
    """Return log p(x) in float64 less that in float32, by the weights of draws z (draws, units, d)."""
    if reference(x).dtype != torch.float32:
        return 0.0
    some = share.sum(1).argsort(descending=True)[:max(FEWEST, len(z) // 16)]  # those that count
    try:
        fine, wide = in_float64(model, x)
        exact = fine.log_joint(wide, z[some].double())
    except FAILURES as error:
        if not isinstance(error, ZooError):
            refuse(error)
        return 0.0
    if exact.dtype != torch.float64:
        return 0.0
    shift = (exact - joint[some]).nan_to_num(posinf=0.0, neginf=0.0)
    weights = share[some] / share[some].sum(0).clamp(min=torch.finfo(share.dtype).tiny)
    return float((weights.log() + shift).logsumexp(0).sum())
