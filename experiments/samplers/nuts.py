"""The no-U-turn sampler for a batch of independent chains in lockstep: all leapfrog steps of a round are one evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.samplers.hmc import ACCEPTANCE, Kernel, State, Target, kinetic, leapfrog, learnt_scale

#: Doublings of a trajectory at most: 1,023 leapfrog steps.
DOUBLINGS = 10
#: Doublings while a kernel adapts: before step and metric fit, long trajectories are dear and teach little.
WARMING = 7
#: A trajectory that loses so many nats of energy has diverged.
DIVERGENT = 1000.0
#: Constants of dual averaging, as of Hoffman and Gelman (2014), §3.2.
SHRINKAGE, EARLY, DECAY = 0.05, 10.0, 0.75
#: The shares of a warm-up after which the metric is learnt anew, from the second half of the states since.
METRICS = (0.15, 0.35, 0.65)


class Point(NamedTuple):
    """The state of chains and their momenta (chains, units, d)."""

    state: State
    momentum: Tensor

    def where(self, mask: Tensor, other: Point) -> Point:
        """Return this point where ``mask`` (chains, units) holds, else the ``other``."""
        return Point(self.state.where(mask, other.state), torch.where(mask[..., None], self.momentum, other.momentum))


@dataclass
class Transition:
    """One transition of all chains.

    Attributes:
        state: where the chains are after it.
        acceptance: the mean over the trajectory of min(1, exp(energy lost)), (chains, units).
        diverged: whether a step lost over 1,000 nats, or met a gradient that was no number, (chains, units).
        leapfrogs: rounds of leapfrog steps, of all chains together.
    """

    state: State
    acceptance: Tensor
    diverged: Tensor
    leapfrogs: int


def transition(target: Target, state: State, kernel: Kernel, doublings: int = DOUBLINGS) -> Transition:
    """Move every unit of every chain once: a trajectory is doubled, forwards or backwards, until it turns.

    States of a trajectory are drawn in proportion to their density, the later half of it preferred (multinomial sampling with
    biased progression). Chains and units turn at different times; those that have stand still meanwhile. ``leapfrogs`` of the
    kernel are not used. Uses torch's generator.

    Source: Hoffman and Gelman (2014), The No-U-Turn Sampler, https://jmlr.org/papers/v15/hoffman14a.html; Betancourt (2017), A
    conceptual introduction to Hamiltonian Monte Carlo, https://arxiv.org/abs/1701.02434; Phan, Pradhan and Jankowiak (2019),
    https://arxiv.org/abs/1912.11554, who build trees without recursion

    >>> target = Target((lambda z: -0.5 * z.square().sum(-1),))
    >>> with torch.random.fork_rng():
    ...     done = transition(target, target.at(torch.zeros(2, 3, 1)), Kernel.first(torch.ones(3, 1), leapfrogs=1))
    >>> done.state.z.shape, done.acceptance.shape
    (torch.Size([2, 3, 1]), torch.Size([2, 3]))
    """
    trees = _Trees(target, replace(kernel, leapfrogs=1), Point(state, torch.randn_like(state.z)))
    for depth in range(doublings):
        if not bool(trees.going.any()):
            break
        trees.double(depth)
    return Transition(trees.chosen, trees.acceptance / trees.steps.clamp(min=1), trees.diverged, trees.leapfrogs)


class _Trees:
    """The trajectories of all chains: their ends, a state drawn from each, and which go on growing."""

    def __init__(self, target: Target, kernel: Kernel, start: Point):
        self.target, self.kernel = target, kernel
        self.left = self.right = start
        self.chosen = start.state
        self.energy = kinetic(start.momentum) - target.log_density(start.state)
        self.log_weight, self.total = torch.zeros_like(self.energy), start.momentum
        self.going = torch.ones_like(self.energy, dtype=torch.bool)
        self.diverged = ~self.going
        self.acceptance, self.steps, self.leapfrogs = torch.zeros_like(self.energy), torch.zeros_like(self.energy), 0

    def double(self, depth: int) -> None:
        """Grow the trajectories that go on by as many steps as they have, at an end drawn at random."""
        forwards = torch.rand_like(self.energy) < 0.5
        half = _Half(self, self.right.where(forwards, self.left), forwards, depth)
        grown = half.alive
        take = grown & (torch.rand_like(self.energy).log() < half.log_weight - self.log_weight)
        self.chosen = half.chosen.where(take, self.chosen)
        self.total = torch.where(grown[..., None], self.total + half.total, self.total)
        self.log_weight = torch.where(grown, torch.logaddexp(self.log_weight, half.log_weight), self.log_weight)
        self.right = half.point.where(grown & forwards, self.right)
        self.left = half.point.where(grown & ~forwards, self.left)
        self.going = grown & ~turning(self.left.momentum, self.right.momentum, self.total)

    def step(self, point: Point, signed: Tensor, alive: Tensor) -> tuple[Point, Tensor, Tensor]:
        """Take a leapfrog step of those ``alive``; return the points, their log weights, and which are alive still."""
        state, momentum, reached = leapfrog(self.target, point.state, point.momentum, self.kernel, signed)
        gain = (self.energy - kinetic(momentum) + self.target.log_density(state)).nan_to_num(nan=-math.inf)
        fine = reached & (gain > -DIVERGENT)
        self.leapfrogs += 1
        self.steps = self.steps + alive
        self.acceptance = self.acceptance + torch.where(alive & reached, gain.clamp(max=0.0).exp(), 0.0)
        self.diverged = self.diverged | (alive & ~fine)
        return Point(state, momentum).where(alive & fine, point), gain, alive & fine


class _Half:
    """The steps by which trajectories are doubled: 2^depth of them, fewer of those that turn or diverge on the way.

    A turn is looked for in every subtree. A subtree is complete at its last, odd step; the momenta of first steps that are
    still needed then are at most ``depth``.

    Attributes:
        point: where they end.
        chosen: a state drawn from these steps, in proportion to the density.
        log_weight: the log of the sum of their weights, relative to where the trajectory began.
        total: the sum of their momenta.
        alive: which have taken all the steps.
    """

    def __init__(self, trees: _Trees, edge: Point, forwards: Tensor, depth: int):
        self.point, self.chosen, self.alive = edge, edge.state, trees.going
        self.log_weight, self.total = torch.full_like(trees.energy, -math.inf), torch.zeros_like(edge.momentum)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        signed = trees.kernel.step * (2.0 * forwards.to(edge.momentum) - 1.0)
        for number in range(2**depth):
            self._grow(*trees.step(self.point, signed, self.alive))
            self._look(number)
            if not bool(self.alive.any()):
                return

    def _grow(self, point: Point, gain: Tensor, alive: Tensor) -> None:
        self.point, self.alive = point, alive
        weight = torch.logaddexp(self.log_weight, gain)
        self.chosen = point.state.where(alive & (torch.rand_like(gain).log() < gain - weight), self.chosen)
        self.log_weight = torch.where(alive, weight, self.log_weight)
        self.total = torch.where(alive[..., None], self.total + point.momentum, self.total)

    def _look(self, number: int) -> None:
        """Look for a turn in all subtrees that step ``number`` completes."""
        slot = (number >> 1).bit_count()
        if number % 2 == 0:
            self._kept[slot] = (self.point.momentum, self.total)
            return
        complete = (number ^ (number + 1)).bit_count() - 1  # as many as it has ones at its end
        for at in range(slot, slot - complete, -1):
            first, before = self._kept[at]
            self.alive = self.alive & ~turning(first, self.point.momentum, self.total - before + first)


def turning(first: Tensor, last: Tensor, total: Tensor) -> Tensor:
    """Return whether going on at either end would bring the ends nearer, (chains, units).

    Args:
        first, last: momenta of the two ends, (chains, units, d), standard normal in the metric's coordinates.
        total: the sum of all momenta between, the ends included.

    >>> ahead, back = torch.ones(1, 1, 1), -torch.ones(1, 1, 1)
    >>> turning(ahead, ahead, 2 * ahead).item(), turning(ahead, back, 0.5 * ahead).item()
    (False, True)
    """
    between = total - 0.5 * (first + last)
    return ((first * between).sum(-1) <= 0) | ((last * between).sum(-1) <= 0)


class StepSize:
    """Dual averaging of log step sizes: the acceptance of each unit is led to 0.8 on average.

    Source: Hoffman and Gelman (2014), §3.2; Nesterov (2009), https://doi.org/10.1007/s10107-007-0149-x
    """

    def __init__(self, kernel: Kernel):
        self.centre = (10.0 * kernel.step).log()
        self.error, self.mean, self.count = torch.zeros_like(kernel.step), kernel.step.log(), 0

    def next(self, acceptance: Tensor) -> Tensor:
        """Return the steps (units,) to try next, after ``acceptance`` (chains, units)."""
        self.count += 1
        share = 1 / (self.count + EARLY)
        self.error = (1 - share) * self.error + share * (ACCEPTANCE - acceptance.mean(0))
        tried: Tensor = self.centre - self.count**0.5 / SHRINKAGE * self.error
        weight = self.count**-DECAY
        self.mean = weight * tried + (1 - weight) * self.mean
        return tried.exp()

    @property
    def settled(self) -> Tensor:
        """The averaged steps, (units,)."""
        return self.mean.exp()


def warm_up(target: Target, state: State, kernel: Kernel, iterations: int) -> tuple[State, Kernel]:
    """Move chains while step sizes adapt, and three times the metric; return their end and the kernel. Uses torch's generator.

    States met here are no draws: the kernel learns from them.
    """
    marks = {max(1, round(share * iterations)) for share in METRICS}
    size, states = StepSize(kernel), []
    for number in range(1, iterations + 1):
        done = transition(target, state, kernel, WARMING)
        state, kernel = done.state, replace(kernel, step=size.next(done.acceptance))
        states.append(state.z)
        if number in marks:
            kernel = Kernel.first(learnt_scale(torch.stack(states[len(states) // 2 :]), kernel.scale), 1)
            size, states = StepSize(kernel), []
    return state, replace(kernel, step=size.settled)
