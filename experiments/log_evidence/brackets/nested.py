"""A bracket by nested importance weights, where rows share latents and own others.

log p(x) = log E_r(u)[p(u) / r(u) Π_i p(x_i | u)], and each p(x_i | u) is the mean of the weights of K draws of z_i, or of the
places of a lattice that lies at random. These means are unbiased and independent over rows, so their product is unbiased, too:
the weights of u are importance weights of an extended space, in which log p(x) has the same bounds as in any other. A draw
(u, z) of the posterior is one of this space with z_i the first of K draws, or a place of the lattice, and K − 1 fresh ones
beside it.

Source: Tran, Scharth, Pitt and Kohn (2013), Importance sampling squared, https://arxiv.org/abs/1309.3339; Andrieu, Doucet and
Holenstein (2010), Particle Markov chain Monte Carlo methods, https://doi.org/10.1111/j.1467-9868.2009.00736.x
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.log_evidence.brackets.sandwich import Bracket, sandwich
from experiments.log_evidence.proposals.adaptive import Pilots
from experiments.log_evidence.proposals.conditional import FEW, SHARED, RowDensities, nests, row_proposals
from experiments.log_evidence.proposals.lattice import ALONG
from experiments.log_evidence.proposals.mixture import EqualMixture, MixtureGuide, Tails
from experiments.runtime.budget import Budget
from experiments.runtime.memory import CACHED, PILOT, within, work
from experiments.runtime.seeds import Stream
from experiments.samplers.hmc import rhat
from guides.guide import BaseGuide, paired
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import Program, seeded
from zoo.structure.blocks import blocks
from zoo.structure.blockwise import Blockwise

#: Draws of the shared latents, at least and at most, and the standard error of log p(x), in nats, that more are for.
DRAWS, ENOUGH, ERROR = 512, 2048, 0.01
#: Draws by which their proposal is adapted, at least; rounds of them, at least and at most; the variance of weights over their
#: squared mean at which the proposal is let be; and how many effective draws all rounds must have together.
PILOTS, ROUNDS, SETTLED, EFFECTIVE = 256, (4, 8), 1.0, 16.0
#: Draws of each row's latents at each of the shared ones: at first and at least, and at most.
LOCAL, MOST = 16, 256
#: The variance of log p̂(x | u) that is let be.
VARIANCE = 0.1
#: Draws of the shared latents at least, the share of what is left of a budget that each part takes, and steps to a row's mode.
FEWEST, SHARE, CLIMB = 64, 0.5, 4
#: Shared latents up to which weights that are hopeless at first may be adapted to good ones.
ADAPTED = 12
#: The share of the prior in the proposal of the shared latents.
FROM_PRIOR = 0.1
#: Chains, the share of proposals that they must accept, and the R-hat that they may have.
CHAINS, ACCEPTED, AGREED = 8, 0.15, 1.5


def nested_bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor | None = None, *, draws: int | None = None, seed: int = 0,
    budget: Budget | None = None,
) -> Bracket | None:
    """Bound log p(x | θ) by nested importance weights of the guide's shared latents and of ``exact``: see :func:`sandwich`.

    Each row's latents are drawn about their mode given the shared ones, see
    :mod:`experiments.log_evidence.proposals.conditional`; where they are normal given these, this is exact. The shared latents
    are drawn from the guide, heavier tails, the prior, and a Student's t that is adapted to their posterior, or one for each
    mode where restarts have found some that the guides miss.

    Args:
        model, guide, x, seed: as of :func:`experiments.bracket`.
        exact: draws of the exact posterior, (draws, 1, d); ``None``: from independent Metropolis–Hastings chains over the
            nested draws, which leave the posterior invariant; the bracket is then ``estimated``.
        draws: of the shared latents; ``None``: from 512 to 2,048, as log p(x) needs for 0.01 nats, and four times as many where
            the limits are farther apart than the budget's target.
        budget: what may be spent; ``None``: all that it takes.

    Returns:
        the bracket; ``None`` where there is no ``exact`` and the weights are too unequal for chains that move and agree, or
        where the budget is too small.

    Raises:
        ZooError: a model whose rows do not share latents and own others as well.

    >>> import zoo, guides
    >>> model = zoo.build("eight_schools", x := zoo.dataset("eight_schools").x)
    >>> found = nested_bracket(model, guides.build("full_rank+mean_field", model, x), x)
    >>> found.lower_limit < -31.3113 < found.upper_limit
    True
    """
    model, budget = paired(model, guide), budget or Budget()
    if not nests(model, x):
        raise ZooError(
            f"expected rows that share up to {SHARED} latents and own up to {FEW} each for nested weights; got others in "
            f"{model.label}; leave the method out")
    with seeded(seed + Stream.IMPORTANCE), torch.no_grad():
        begun = _begun(model, guide, x)
        if budget.affords(PILOTS, ROUNDS[0] * begun.evaluations, SHARE) < PILOTS // 2:
            return None
        weights, variance, effective = _adapted(begun, budget)
        if exact is None and effective < EFFECTIVE:
            return None
        wanted = min(ENOUGH, max(DRAWS, math.ceil(min(variance, 1.0) / ERROR**2)))
        count = draws or budget.affords(within(16 * PILOT, weights.each, 64, wanted), weights.evaluations, SHARE)
        if count < FEWEST:
            return None
        forward = weights.draw(count).log_weight
        ends = independent_chains(weights, count) if exact is None else (exact, None)
        if ends is None:
            return None
        z, agreement = ends
        reverse = weights.extended(z)
        found = sandwich(forward[:, None], reverse[:, None], "nested")
        more = 0 if draws else budget.affords(3 * count, weights.evaluations, SHARE)
        if more >= count and budget.target is not None and found.width > budget.target:
            forward = torch.cat([forward, weights.draw(more).log_weight])
            found = sandwich(forward[:, None], reverse[:, None], "nested")
    return found if agreement is None else replace(found, kind="estimated", rhat=agreement)


@dataclass(frozen=True)
class NestedDraws:
    """Draws of the extended space.

    Attributes:
        shared: u, (draws, d_shared).
        local: one z_i a row, drawn by its weight from the row's K, (draws, rows, d_local).
        log_weight: log p(u) − log r(u) + Σ_i log p̂(x_i | u), (draws,), in nats.
        noise: the variance of log p̂(x_i | u), summed over rows, (draws,).
        prior: log p(u), (draws,).
    """

    shared: Tensor
    local: Tensor
    log_weight: Tensor
    noise: Tensor
    prior: Tensor


@dataclass(frozen=True)
class NestedWeights:
    """Nested importance weights of the shared latents.

    Attributes:
        density: the rows' densities.
        proposal: of u, of batch shape (1,); the prior is mixed with it, where it can be drawn from.
        guides: posteriors of two blocks, if there are any.
        modes: distributions of u about its modes, of batch shape (1,), where the guides miss some.
        start: where the climbs to the rows' modes begin without these, (rows, d_local).
        count: K, draws of each row's latents.
    """

    density: RowDensities
    proposal: EqualMixture
    guides: Sequence[Blockwise]
    modes: Sequence[Distribution]
    start: Tensor
    count: int = LOCAL

    @property
    def each(self) -> int:
        """How many numbers the densities of one draw of u touch."""
        model, x = self.density.model, self.density.x
        return work(x, 1, model.latents(x).size) * self.count

    @property
    def evaluations(self) -> int:
        """About how many evaluations of all rows a draw of u takes: places or draws of z, and steps to the rows' modes."""
        size = self.density.blocks.local.shape[1]
        places: int = ALONG[size] ** size if size in ALONG else self.count
        return places + 3 * CLIMB * (1 + size)

    @property
    def prior(self) -> float:
        """The share of the prior in the proposal."""
        model, x = self.density.model, self.density.x
        return 0.0 if model.latents(x).improper else FROM_PRIOR

    def draw(self, draws: int) -> NestedDraws:
        """Draw from the extended space. Uses torch's generator."""
        u = self.proposal.sample(torch.Size([draws]))[:, 0]
        from_prior = torch.rand(draws, device=u.device) < self.prior
        if int(from_prior.sum()):
            z = self.density.model.sample_prior(self.density.x, int(from_prior.sum()))
            u[from_prior] = z[:, 0, self.density.blocks.shared].to(u)
        parts = [self._weighted(part) for part in u.split(within(CACHED, self.each, 16))]
        return NestedDraws(*(torch.cat([getattr(part, name) for part in parts]) for name in NestedDraws.__annotations__))

    def extended(self, z: Tensor) -> Tensor:
        """Return the log weights of posterior draws z (draws, 1, d), each row's the first of its K: (draws,)."""
        u, own = self.density.blocks.split(z)
        sizes = within(CACHED, self.each, 16)
        parts = [self._weighted(a, b) for a, b in zip(u.split(sizes), own.split(sizes), strict=True)]
        return torch.cat([part.log_weight for part in parts])

    def _weighted(self, u: Tensor, own: Tensor | None = None) -> NestedDraws:
        rows = row_proposals(self.density, u, self.guides, self.start).evidence(self.count, own)
        total = (rows.prior - self.log_proposal(u, rows.prior) + rows.value.sum(1)).nan_to_num(nan=-math.inf).double()
        return NestedDraws(u, rows.local, total, rows.variance.sum(1), rows.prior)

    def log_proposal(self, u: Tensor, prior: Tensor) -> Tensor:
        """Return log r(u) at u (draws, d_shared), where the prior's log density is ``prior``: (draws,)."""
        log_r: Tensor = self.proposal.log_prob(u[:, None])[:, 0]
        if not self.prior:
            return log_r
        return torch.logaddexp(math.log(1 - self.prior) + log_r, math.log(self.prior) + prior)


def _begun(model: Model, guide: BaseGuide, x: Data) -> NestedWeights:
    """Return nested weights that propose shared latents from the guide's own, and heavier tails."""
    found = blocks(model, x)
    assert found is not None, "it nests"
    q = guide.posterior(x)
    whole = q.components if isinstance(guide, MixtureGuide) and isinstance(q, EqualMixture) else (q,)
    named = guide.others if isinstance(guide, MixtureGuide) else ()
    parts = [part for part in whole if isinstance(part, Blockwise) and part not in named]
    modes = [part.shared for part in named if isinstance(part, Blockwise)]
    shared, local = found.split(q.sample(torch.Size([DRAWS])))
    proposal = EqualMixture([*(part.shared for part in parts), *modes, Tails.of(shared[:, None])])
    return NestedWeights(RowDensities(model, x, found), proposal, parts, modes, local.mean(0))


def _adapted(weights: NestedWeights, budget: Budget) -> tuple[NestedWeights, float, float]:
    """Return nested weights whose proposal has components fitted to the posterior of u, with as many local draws as needed.

    Beside them the variance of the last round's weights over their squared mean, and the effective pilots of all rounds.

    Source: Cornuet et al. (2012), Adaptive multiple importance sampling, https://arxiv.org/abs/0907.1254
    """
    first, pilots, variance = weights.proposal.components, None, math.inf
    for done in range(1, ROUNDS[1] + 1):
        number = _pilots(weights)  # as many in each round, unless the budget ends
        if pilots is not None and budget.affords(number, weights.evaluations, SHARE) < number:
            break
        drawn, proposal = weights.draw(number), weights.log_proposal
        target = drawn.log_weight + proposal(drawn.shared, drawn.prior)
        found = (drawn.shared, target, drawn.prior, proposal)
        pilots = Pilots.first(*found) if pilots is None else pilots.beside(*found)
        noise = drawn.noise[drawn.log_weight > -math.inf]
        middle = float(noise.median()) if len(noise) else math.inf
        count = math.ceil(weights.count * min(middle / VARIANCE, MOST))
        count = min(MOST, max(LOCAL, count))
        fitted = pilots.fitted(weights.modes, 5 * len(first))  # five sixths of the draws
        weights = replace(weights, proposal=EqualMixture([*first, *fitted]), count=count)
        relative = (drawn.log_weight - drawn.log_weight.logsumexp(0) + math.log(len(drawn.log_weight))).exp()
        variance = float(relative.var().nan_to_num(nan=math.inf))
        given_up = len(weights.density.blocks.shared) > ADAPTED and pilots.effective < EFFECTIVE
        if given_up or (done >= ROUNDS[0] and variance <= SETTLED):
            break
    assert pilots is not None, "there is a round at least"
    return weights, variance, pilots.effective


def _pilots(weights: NestedWeights) -> int:
    """Return how many draws adapt the proposal: each mode has a component of its own."""
    return max(PILOTS, 8 * len(weights.density.blocks.shared)) * max(1, len(weights.modes))


def independent_chains(weights: NestedWeights, draws: int) -> tuple[Tensor, Tensor] | None:
    """Draw from the posterior by Metropolis–Hastings chains whose proposals are draws of the extended space.

    A proposal is accepted with the ratio of its weight to the present one's: the chain leaves the posterior of the extended
    space invariant, whatever the noise of the weights.

    Returns:
        the chains' ends z (chains, 1, d), and R-hat (1,) of their last three quarters in u; ``None`` where they hardly move.

    Source: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods, section 4.2,
    https://doi.org/10.1111/j.1467-9868.2009.00736.x
    """
    proposed = weights.draw(max(draws, 128 * CHAINS))
    steps = len(proposed.log_weight) // CHAINS
    log_weight = proposed.log_weight[: steps * CHAINS].view(steps, CHAINS)
    at, accepted, path = torch.zeros(CHAINS, dtype=torch.long), 0.0, []
    lanes = torch.arange(CHAINS)
    for step in range(steps):
        gain = log_weight[step] - log_weight[at, lanes]
        moves = torch.rand(CHAINS).to(gain).log() < gain.nan_to_num(nan=0.0)
        at = torch.where(moves, step, at)
        accepted += float(moves.double().mean()) / steps
        path.append(at * CHAINS + lanes)
    states = proposed.shared[torch.stack(path[steps // 4:])][:, :, None]
    agreement = rhat(states)
    if accepted < ACCEPTED or not bool((agreement <= AGREED).all()):
        return None
    ends = path[-1]
    return weights.density.blocks.join(proposed.shared[ends], proposed.local[ends]), agreement
