"""Modes of one unit's posterior, looked for from draws of the prior and of the guides, and how much mass each holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.log_evidence.log_weights import log_joint
from experiments.log_evidence.proposals.ascents import ITERATIONS, Ascents, spread
from experiments.log_evidence.proposals.conditional import nests
from experiments.log_evidence.proposals.marginal import MARGINAL, MarginalAscents
from experiments.runtime.budget import Budget
from experiments.runtime.memory import CLIMBS, affordable, within, work
from experiments.runtime.precision import in_float64
from zoo.data import Data, reference
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.failures.tolerance import FAILURES, refuse
from zoo.program.run import seeded

#: Restarts from the prior: first, and at most, where modes still turn up that were met once.
FIRST, MOST = 32, 256
#: Evaluations that a climb takes, about; where rows' latents are integrated out, each is of so many; and the share of a budget.
CLIMB, SHARED, SHARE = 150, 3, 0.25
#: Draws of each guide that are followed, too, and from which a first bound on log p(x) is taken.
GUIDE_DRAWS, LEVEL_DRAWS = 8, 256
#: Latents beyond which no curvature is taken.
MOST_LATENTS = 100
#: Of one latent: points of a scan, how far it goes (inverse hyperbolic sine of prior scales), and maxima that climbs start at.
NODES, ASINH, MAXIMA = 2001, 12.0, 8
#: A mode of less than this share of the mass is let be.
NEGLIGIBLE = 1e-4
#: A mode of at least this share of the largest one's mass counts, where it is asked whether more are to be expected.
COUNTS = 0.01
#: A guide holds a mode if its density there is at least this share of the posterior's.
HELD = 0.01


@dataclass(frozen=True)
class Restarts:
    """The modes that a search has found, and the mass of each.

    Attributes:
        ascents: what has climbed, in d coordinates.
        loc: the modes, (modes, d), highest mass first.
        scale_tril: Cholesky factors of the inverse curvatures at the modes, (modes, d, d).
        height: log p(x, z) at the modes, (modes,), in nats.
        met: how many restarts from the prior ended at each mode, (modes,).
        held: whether each guide holds each mode, (modes, guides): climbs from some of the guide's draws ended at the mode, or
            the guide's density there is high.
        starts: the number of restarts from the prior.
    """

    ascents: Ascents
    loc: Tensor
    scale_tril: Tensor
    height: Tensor
    met: Tensor
    held: Tensor
    starts: int

    @property
    def log_mass(self) -> Tensor:
        """log ∫ of the normal that touches p(x, z) at each mode, (modes,): Laplace's approximation."""
        return _log_mass(self.height, self.scale_tril)

    @property
    def share(self) -> Tensor:
        """Each mode's share of the mass of those found, (modes,)."""
        return self.log_mass.softmax(0)

    @property
    def once(self) -> int:
        """How many modes that count were met by one restart alone."""
        return _once(self.log_mass, self.met)

    @property
    def more(self) -> bool:
        """Whether modes are to be expected that no restart has met.

        The share of the restarts that fall into unmet basins is about that of modes met once among all restarts.

        Source: Good (1953), The population frequencies of species and the estimation of population parameters,
        https://doi.org/10.1093/biomet/40.3-4.237
        """
        return self.once >= 2 and self.once > 0.02 * float(self.met.sum())

    @property
    def missed(self) -> Tensor:
        """Which modes no guide holds, (modes,)."""
        return ~self.held.any(1)

    def components(self) -> list[Distribution]:
        """Return distributions over the latents at all modes, of batch shape (1,), if some are missed; otherwise none."""
        if not bool(self.missed.any()):
            return []
        weights = (0.5 * self.log_mass).softmax(0)  # half way to equal ones: masses are rough
        return self.ascents.mixture(weights, self.loc, self.scale_tril)


def search(model: Model, x: Data, guides: Sequence[Distribution], budget: Budget | None = None) -> Restarts | None:
    """Climb log p(x, z) from draws of the prior and of ``guides``, and tell apart where the climbs end.

    Where rows share latents u and own others, it is log p(x, u) that is climbed, see :class:`MarginalAscents`: the tops of
    log p(x, z) are then far from where the mass is.

    32 restarts from the prior, up to 256 while a mode that counts was met by one of them alone; 8 draws of each guide. Ends
    are one mode where they are within a standard deviation of each other, by the curvature at the higher one. Uses torch's
    generator.

    Args:
        model: the model, of one unit.
        x: the data.
        guides: distributions of batch shape (1,) and event shape (d,) whose log_prob is known at any z.
        budget: what may be spent, of which this takes up to a quarter.

    Returns:
        ``None`` where it is not tried, for several units, discrete latents, over 100 to climb in, or densities that touch too
        many numbers; or where no climb came to a top that holds mass.
    """
    latents = model.latents(x)
    if latents.units > 1 or latents.discrete or not latents.size:
        return None
    model, x = _finely(model, x)
    shares = nests(model, x)
    each = work(x, 1, latents.size) * (MARGINAL if shares else 1)
    starts = affordable(model, within(CLIMBS, ITERATIONS * each, 0, MOST), 8)
    if budget is not None:
        starts = budget.affords(starts, CLIMB * (SHARED if shares else 1), SHARE)
    if starts < 8 or (latents.size > MOST_LATENTS and not shares):
        return None
    with torch.no_grad():
        drawn = model.sample_prior(x, starts)[:, 0]
        drawn = drawn[drawn.isfinite().all(1)]
        own = [q.sample(torch.Size([GUIDE_DRAWS]))[:, 0].to(drawn) for q in guides]
    if len(drawn) < 8:
        return None
    if latents.size == 1:
        drawn = torch.cat([_scan(model, x, drawn), drawn])
    ascents = MarginalAscents.of(model, x, drawn, each) if shares else Ascents(model, x, spread(drawn), each)
    found = _restarted(ascents, [ascents.coordinates(z) for z in own], ascents.coordinates(drawn))
    return None if found is None else _judged(found, guides, _level(model, x, guides))


def _finely(model: Model, x: Data) -> tuple[Model, Data]:
    """Return model and data in float64, where that works: in float32 climbs can't tell the last rises from rounding."""
    if reference(x).dtype == torch.float64:
        return model, x
    fine, wide = in_float64(model, x)
    try:
        with torch.no_grad(), seeded(0):
            return (fine, wide) if fine.log_joint(wide, fine.sample_prior(wide, 1)).dtype == torch.float64 else (model, x)
    except FAILURES as error:
        if not isinstance(error, ZooError):
            refuse(error)
        return model, x


def _restarted(ascents: Ascents, own: Sequence[Tensor], drawn: Tensor) -> Restarts | None:
    """Climb from ``own`` draws of the guides and from more and more of those ``drawn`` from the prior, while that may pay."""
    ends, count = ascents.ends(torch.cat([*own, drawn[:FIRST]])), min(FIRST, len(drawn))
    while (found := _modes(ascents, *ends, len(own), count)) is not None:
        if count == len(drawn) or not found.once:
            break
        more = ascents.ends(drawn[count:2 * count])
        ends = torch.cat([ends[0], more[0]]), torch.cat([ends[1], more[1]])
        count = min(2 * count, len(drawn))
    return None if found is None or float(found.met.sum()) < ascents.least * count else found


def _log_mass(height: Tensor, scale_tril: Tensor) -> Tensor:
    size = scale_tril.shape[-1]
    return height + 0.5 * size * math.log(2 * math.pi) + scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _once(log_mass: Tensor, met: Tensor) -> int:
    return int(((met == 1) & (log_mass > log_mass.max() + math.log(COUNTS))).sum())


def _level(model: Model, x: Data, guides: Sequence[Distribution]) -> float:
    """Return the highest importance-weighted bound on log p(x) of the guides, from a few draws; −∞ without any."""
    bounds = [-math.inf]
    with torch.no_grad():
        for q in guides:
            z = q.sample(torch.Size([LEVEL_DRAWS]))
            weights = (log_joint(model, x, z) - q.log_prob(z)).double().nan_to_num(nan=-math.inf, posinf=-math.inf)
            bounds.append(float(weights.logsumexp(0)) - math.log(LEVEL_DRAWS))
    return max(bounds)


def _judged(found: Restarts, guides: Sequence[Distribution], level: float) -> Restarts | None:
    """Return the modes that hold mass, beside all modes and the ``level`` of the guides, in nats; ``None`` if none does.

    A peak may be high and hold nothing, as the neck of a funnel. A guide whose density at a mode is near the posterior's holds
    it, too.
    """
    total = max(float(found.log_mass.logsumexp(0)), level)
    kept = found.log_mass > total + math.log(NEGLIGIBLE)
    if not bool(kept.any()):
        return None
    dense = torch.zeros_like(found.held)
    with torch.no_grad():
        for g, q in enumerate(guides):
            log_q = found.ascents.log_prob(q, found.loc)
            if log_q is not None:
                dense[:, g] = log_q.double() > found.height - total + math.log(HELD)
    held = found.held | dense
    return Restarts(
        found.ascents, found.loc[kept], found.scale_tril[kept], found.height[kept], found.met[kept], held[kept], found.starts)


def _scan(model: Model, x: Data, draws: Tensor) -> Tensor:
    """Return the highest maxima (n, 1) of log p(x, z) on a line through draws (n, 1) of the prior, far into its tails."""
    nodes = torch.linspace(-ASINH, ASINH, affordable(model, NODES, 65), dtype=torch.float64).sinh()
    points = (draws.double().median(0).values + spread(draws) * nodes[:, None]).to(draws)
    with torch.no_grad():
        height = log_joint(model, x, points[:, None])[:, 0]
    top = (height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:])
    best = (1 + top.nonzero()[:, 0])[height[1:-1][top].argsort(descending=True)]
    return points[best[:MAXIMA]]


def _modes(ascents: Ascents, points: Tensor, height: Tensor, guides: int, starts: int) -> Restarts | None:
    """Tell apart where ``ascents`` ended, those of ``guides`` first; ``None`` where none came to a top."""
    cluster, first = _together(points, height)
    tops = ascents.tops(points[first])
    keep = [k for k, scale_tril in enumerate(tops) if scale_tril is not None]
    if not keep:
        return None
    loc, scale_tril = points[first][keep], torch.stack([tops[k] for k in keep])  # type: ignore[misc]
    into = _merged(loc, scale_tril, height[first][keep])
    number = torch.full((len(first),), -1, dtype=torch.long)
    number[keep] = into
    kept = into.unique()
    at = number[cluster]  # the mode that each climb came to, −1: none
    by_guide = at[:guides * GUIDE_DRAWS].reshape(guides, GUIDE_DRAWS)
    held = torch.stack([(by_guide == k).any(1) for k in kept])
    met = torch.stack([(at[guides * GUIDE_DRAWS:] == k).sum() for k in kept])
    order = _log_mass(height[first][keep][kept], scale_tril[kept]).argsort(descending=True)
    kept, scale = kept[order], ascents.scale
    return Restarts(
        ascents, loc[kept] * scale, scale[:, None] * scale_tril[kept], height[first][keep][kept], met[order], held[order],
        starts)


def _together(points: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Put ends (n, d) that all but coincide together; return the cluster of each (n,), and the highest of each, −1 and none
    of those without a finite height."""
    cluster = torch.full((len(points),), -1, dtype=torch.long)
    first: list[int] = []
    for i in height.argsort(descending=True).tolist():
        if not math.isfinite(float(height[i])):
            break
        seen = torch.tensor(first, dtype=torch.long)
        near = ((points[seen] - points[i]).abs().amax(1) < 0.02) & ((height[seen] - height[i]).abs() < 0.05)
        match = near.nonzero()
        cluster[i] = int(match[0]) if len(match) else len(first)
        first += [] if len(match) else [i]
    return cluster, torch.tensor(first, dtype=torch.long)


def _merged(loc: Tensor, scale_tril: Tensor, height: Tensor) -> Tensor:
    """Return for each top (n,) which one it is the same as: the highest within a standard deviation, maybe itself."""
    into = torch.arange(len(loc))
    order = height.argsort(descending=True).tolist()
    for rank, i in enumerate(order):
        for j in order[:rank]:
            if int(into[j]) == j:
                white = torch.linalg.solve_triangular(scale_tril[j], (loc[i] - loc[j])[:, None], upper=False)
                if float(white.square().sum()) < 1:
                    into[i] = j
                    break
    return into
