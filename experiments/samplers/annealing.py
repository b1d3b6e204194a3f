"""Annealed importance sampling between a guide and the joint, in both directions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.runtime.memory import work
from experiments.samplers.hmc import Kernel, State, Target, adapt, between, learnt_scale, run, transition
from guides.guide import BaseGuide
from zoo.data import Data, take
from zoo.errors import ZooError
from zoo.model import Model

#: Draws of the guide from which the metric is taken.
SCALE_DRAWS = 64
#: Below so many units, chains are many and the metric is a full covariance of up to ``DENSE`` coordinates.
MANY, DENSE = 16, 100
#: Leapfrog steps per transition. At one cost, short transitions at many temperatures beat long ones at few.
SHORT, LONG = 2, 3
#: Transitions in which the pilot finds its first step size, and in which kernels adapt to the joint.
SETTLE, ADAPT = 8, 60


#: Evaluations of a chain's step from one temperature to the next.
STEP = 3 * SHORT


def pilot_cost(units: int) -> int:
    """Return about how many evaluations the pilot chains of so many units take."""
    return _pilot_chains(units) * (32 * STEP + (3 * LONG * ADAPT if units < MANY else 0))


def _pilot_chains(units: int) -> int:
    return min(64, max(8, 512 // units))


@dataclass(frozen=True)
class Endpoints:
    """The two ends of the path: the guide q(z | x) and the joint p(x, z | θ).

    Attributes:
        q: the guide's distribution, batch (units,), event (d,).
        target: the terms log q(z) and log p(x, z).
    """

    q: Distribution
    target: Target

    @classmethod
    def of(cls, model: Model, guide: BaseGuide, x: Data, index: Tensor | None = None) -> Endpoints:
        """Take the guide's distribution on ``x`` as it is now, of all units or of those at ``index``.

        Raises:
            ZooError: discrete latents, which have no gradient.
        """
        latents = model.latents(x)
        if latents.discrete:
            raise ZooError(f"expected continuous latents to anneal; got discrete ones of {model.label}; use importance weights")
        units = latents.units if index is None else len(index)
        rows = x if index is None else take(x, index, latents.units)
        with torch.no_grad():
            q = guide.posterior(rows, index)
        each = work(rows, units, latents.size)
        return cls(q, Target((q.log_prob, lambda z: model.log_joint(rows, z)), (1.0, 0.0), each))

    def at_temperature(self, beta: float) -> Target:
        """Return q^(1 − β) p^β."""
        return replace(self.target, mix=(1 - beta, beta))

    def sample(self, chains: int) -> Tensor:
        """Return draws of the guide, (chains, units, d). Uses torch's generator."""
        return self.q.sample((chains,)).detach()

    @property
    def joint(self) -> Target:
        """The joint alone."""
        return Target(self.target.terms[1:], each=self.target.each)

    @property
    def few(self) -> bool:
        """Whether there are few units, which can afford many chains and full covariances."""
        return self.q.batch_shape[0] < MANY

    def scale(self) -> Tensor:
        """Return the scale of the guide's draws: Cholesky factors (units, d, d) for few units, else (units, d).

        Uses torch's generator.
        """
        size = self.q.event_shape[0]
        draws = self.sample(SCALE_DRAWS + 10 * size * self.few)
        scale = draws.std(0)
        scale = scale.clamp(min=1e-6 * float(scale.max().clamp(min=1e-6)))
        return learnt_scale(draws[None], torch.diag_embed(scale)) if self.few and size <= DENSE else scale

    def adapted(self, chains: int, iterations: int) -> tuple[State, Kernel]:
        """Return chains at the joint that started at the guide, and a kernel adapted on them. Uses torch's generator."""
        return adapt(self.joint, self.joint.at(self.sample(chains)), Kernel.first(self.scale(), LONG), iterations)


def schedule(temperatures: int) -> Tensor:
    """Return β_0 = 0 < … < β_T = 1, (temperatures + 1,): a sigmoid, finer at both ends.

    One temperature is plain importance sampling.

    >>> schedule(4)
    tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)

    Source: Wu et al. (2017), On the quantitative analysis of decoder-based generative models,
    https://arxiv.org/abs/1611.04273

    Raises:
        ZooError: fewer than 1.
    """
    if temperatures < 1:
        raise ZooError(f"expected 1 or more temperatures; got {temperatures}; raise temperatures")
    sigmoid = torch.linspace(-4.0, 4.0, temperatures + 1, dtype=torch.double).sigmoid()
    return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


@dataclass(frozen=True)
class Annealing:
    """A path π_t ∝ q^(1 − β_t) p(x, z)^β_t from the guide to the joint, with a fixed kernel at each temperature between.

    The log weight of a path is Σ_t (β_t − β_{t−1}) (log p(x, z_{t−1}) − log q(z_{t−1})).

    - :meth:`forward` starts at z_0 ~ q. The mean weight is an unbiased estimate of p(x), and the log of the mean weight is a
      lower bound on log p(x) in expectation.
    - :meth:`reverse` starts at a draw of the exact posterior and goes back by the same kernels. The mean of 1 / weight is an
      unbiased estimate of 1 / p(x), and minus the log of this mean is an upper bound in expectation.

    Attributes:
        ends: the guide and the joint.
        betas: β_0 … β_T, (T + 1,).
        steps: the kernels' step sizes at β_1 … β_{T−1}, (T − 1, units), adapted on other chains than the kernels move.
        scales: the kernels' metric at β = 0 and at β = 1; see :func:`between`.

    Source: Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008; Grosse, Ghahramani and
    Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo, https://arxiv.org/abs/1511.02543
    """

    ends: Endpoints
    betas: Tensor
    steps: Tensor
    scales: tuple[Tensor, Tensor]

    def forward(self, chains: int) -> Tensor:
        """Return the log weights of ``chains`` paths from the guide, (chains, units). Uses torch's generator."""
        return self.weighted(chains)[1]

    def weighted(self, chains: int) -> tuple[Tensor, Tensor]:
        """Return the ends of ``chains`` paths from the guide, (chains, units, d), and their log weights, (chains, units).

        Weighted so, the ends are draws of the posterior. Uses torch's generator.
        """
        return self._path(self.ends.sample(chains), range(len(self.betas) - 1))

    def reverse(self, exact: Tensor) -> Tensor:
        """Return the log weights of the paths back from ``exact`` (draws, units, d): (draws, units). Uses torch's generator.

        They have forward's sign: each is about log p(x).
        """
        return self._path(exact, range(len(self.betas) - 2, -1, -1))[1]

    def _path(self, z: Tensor, intervals: range) -> tuple[Tensor, Tensor]:
        """Add up the log weight over the ``intervals``, moving at each temperature that joins two; return the end, and it."""
        state, total = self.ends.target.at(z), torch.zeros_like(z[..., 0])
        for t in intervals:
            total = total + float(self.betas[t + 1] - self.betas[t]) * (state.terms[1] - state.terms[0])
            if t != intervals[-1]:
                at = max(t, t + intervals.step)
                beta = float(self.betas[at])
                kernel = Kernel(self.steps[at - 1], between(*self.scales, beta), SHORT)
                state, _ = transition(self.ends.at_temperature(beta), state, kernel)
        return state.z, total

    def of_units(self, index: Tensor, ends: Endpoints) -> Annealing:
        """Return the path of the units at ``index``, whose ends are given."""
        return replace(self, ends=ends, steps=self.steps[:, index], scales=(self.scales[0][index], self.scales[1][index]))

    def refined(self, temperatures: int) -> Annealing:
        """Return the path with another number of temperatures; log step sizes are interpolated linearly in β."""
        betas = schedule(temperatures)
        right = torch.searchsorted(self.betas[1:-1], betas[1:-1]).clamp(1, len(self.steps) - 1)
        low, high = self.betas[right], self.betas[right + 1]
        share = ((betas[1:-1] - low) / (high - low)).clamp(0, 1)[:, None].to(self.steps)
        steps = torch.lerp(self.steps[right - 1].log(), self.steps[right].log(), share).exp()
        return replace(self, betas=betas, steps=steps)


def pilot(ends: Endpoints, temperatures: int = 32, chains: int | None = None) -> tuple[Annealing, Tensor]:
    """Anneal pilot chains while adapting the step size of each temperature and unit; the chains are thrown away.

    Few units also get a full covariance for a metric, from the guide's draws and from chains at the joint. Uses torch's
    generator.

    Args:
        ends: the guide and the joint.
        temperatures: at least 2.
        chains: ``None``: 8 for many units, up to 64 for few.

    Returns:
        the path with the kernels so found, and the pilot's log weights (chains, units): what to expect, no bound.
    """
    betas = schedule(temperatures)
    chains = _pilot_chains(ends.q.batch_shape[0]) if chains is None else chains
    start = ends.scale()
    scales = (start, ends.adapted(chains, ADAPT)[1].scale if ends.few else start)
    state, kernel, steps = ends.target.at(ends.sample(chains)), Kernel.first(start, SHORT), []
    total = torch.zeros_like(state.terms[0])
    for t, beta in enumerate(betas[:-1].tolist()):
        kernel = replace(kernel, scale=between(*scales, beta))
        state, kernel, _ = run(ends.at_temperature(beta), state, kernel, 1 if t else SETTLE, 0.5)
        steps += [kernel.step] if t else []
        total = total + float(betas[t + 1] - beta) * (state.terms[1] - state.terms[0])
    return Annealing(ends, betas, torch.stack(steps), scales), total
