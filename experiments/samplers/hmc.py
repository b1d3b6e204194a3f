"""Hamiltonian Monte Carlo for a batch of independent chains: every unit of every chain is accepted on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.runtime.memory import chunks
from zoo.errors import ZooError
from zoo.program.failures.tolerance import tolerant

#: Share of proposals accepted that adaptation steers to.
ACCEPTANCE = 0.8
#: The step size of a transition is drawn within this share of the kernel's, so that no trajectory closes on itself.
JITTER = 0.5

#: z (chains, units, d) → log density (chains, units), in nats. Chains and units must not depend on each other.
LogDensity = Callable[[Tensor], Tensor]


class State(NamedTuple):
    """The positions of the chains, and the log densities and gradients there.

    Attributes:
        z: (chains, units, d).
        terms: the target's terms, (m, chains, units), in nats.
        gradients: of the terms by z, (m, chains, units, d).
    """

    z: Tensor
    terms: Tensor
    gradients: Tensor

    def beside(self, other: State) -> State:
        """Return the chains of both."""
        return State(*(torch.cat(parts, axis) for axis, parts in zip((0, 1, 1), zip(self, other, strict=True), strict=True)))

    def where(self, mask: Tensor, other: State) -> State:
        """Return this state where ``mask`` (chains, units) holds, else the ``other``."""
        z, gradients = (torch.where(mask[..., None], *pair) for pair in ((self.z, other.z), (self.gradients, other.gradients)))
        return State(z, torch.where(mask, self.terms, other.terms), gradients)

    def split(self, count: int) -> tuple[State, State]:
        """Return the first ``count`` chains, and the others."""
        first = State(self.z[:count], self.terms[:, :count], self.gradients[:, :count])
        return first, State(self.z[count:], self.terms[:, count:], self.gradients[:, count:])


@dataclass(frozen=True)
class Target:
    """A log density Σ_m mix_m · terms_m(z), not normalised.

    A :class:`State` keeps the terms apart, so that a new temperature on a path between two densities costs no evaluation.

    Attributes:
        terms: the log densities that are mixed.
        mix: the coefficients of the terms.
        each: about how many numbers one chain's density touches; chains that do not fit into memory together go in chunks.

    >>> target = Target((lambda z: -0.5 * z.square().sum(-1),))
    >>> state = target.at(torch.ones(2, 3, 1))
    >>> target.log_density(state).shape, target.gradient(state).flatten()
    (torch.Size([2, 3]), tensor([-1., -1., -1., -1., -1., -1.]))
    """

    terms: tuple[LogDensity, ...]
    mix: tuple[float, ...] = (1.0,)
    each: int = 0

    def at(self, z: Tensor) -> State:
        """Evaluate all terms, also those whose coefficient is zero, and their gradients.

        A term that can't be evaluated at a chain's state, or is NaN, is −∞ there, and its gradient nothing, as wherever a
        density is zero: momentum carries a chain across, and none is accepted there.
        """
        terms, (_, units, size) = len(self.terms), z.shape
        parts = [
            tolerant(self._evaluate, part, [terms, units], [terms, units, size])[0]
            for part in z.split(chunks(len(z), self.each))]
        values, gradients = (torch.cat(part).movedim(0, 1) for part in zip(*parts, strict=True))
        values = values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        return State(z.detach(), values, torch.where(values[..., None] > -math.inf, gradients, 0.0))

    def log_density(self, state: State) -> Tensor:
        return self._mixed(state.terms)

    def gradient(self, state: State) -> Tensor:
        return self._mixed(state.gradients)

    def _mixed(self, parts: Tensor) -> Tensor:
        # A term of coefficient zero counts nothing, be it infinite.
        return sum((c * part for c, part in zip(self.mix, parts, strict=True) if c), torch.zeros_like(parts[0]))

    def _evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the terms (chains, m, units) and their gradients (chains, m, units, d)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = [term(z) for term in self.terms]
            gradients = [torch.autograd.grad(value.sum(), z, retain_graph=value is not values[-1])[0] for value in values]
        return torch.stack(values, 1).detach().to(z.dtype), torch.stack(gradients, 1)


@dataclass(frozen=True)
class Kernel:
    """One HMC transition with fixed parameters: it leaves its target invariant, and is reversible.

    Attributes:
        step: step size of each unit, (units,), in units of ``scale``.
        scale: the metric: standard deviations (units, d), or Cholesky factors (units, d, d) of covariances.
        leapfrogs: leapfrog steps per transition.

    Raises:
        ZooError: no leapfrog step.

    Source: Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901
    """

    step: Tensor
    scale: Tensor
    leapfrogs: int

    def __post_init__(self) -> None:
        if self.leapfrogs < 1:
            raise ZooError(f"expected 1 or more leapfrog steps; got {self.leapfrogs}; raise leapfrogs")

    @classmethod
    def first(cls, scale: Tensor, leapfrogs: int) -> Kernel:
        """Return a kernel for targets about as wide as ``scale``, to adapt from.

        The step that keeps the acceptance of a normal target falls with d^(1/4): Neal (2011), §5.4.4.

        >>> Kernel.first(torch.ones(3, 16), leapfrogs=2).step
        tensor([0.5000, 0.5000, 0.5000])
        """
        return cls(scale.new_full(scale.shape[:1], scale.shape[1] ** -0.25), scale, leapfrogs)

    def adapted(self, acceptance: Tensor, gain: float) -> Kernel:
        """Return the kernel with each unit's step size moved to where ``ACCEPTANCE`` of its proposals are accepted.

        log step += gain · (mean over chains of ``acceptance`` (chains, units) − 0.8), after Robbins and Monro. For pilot
        chains that are thrown away: a kernel that learns from the chain it moves leaves nothing invariant.
        """
        return replace(self, step=self.step * (gain * (acceptance.mean(0) - ACCEPTANCE)).exp())

    def outward(self, momentum: Tensor) -> Tensor:
        """Return L · momentum, L Lᵀ the metric: standard normal coordinates to those of z. (chains, units, d)."""
        return self.scale * momentum if self.scale.ndim == 2 else torch.einsum("uij,cuj->cui", self.scale, momentum)

    def inward(self, gradient: Tensor) -> Tensor:
        """Return Lᵀ · gradient, (chains, units, d)."""
        return self.scale * gradient if self.scale.ndim == 2 else torch.einsum("uji,cuj->cui", self.scale, gradient)


def transition(target: Target, state: State, kernel: Kernel) -> tuple[State, Tensor]:
    """Move every unit of every chain once; return the new state and the acceptance probabilities (chains, units).

    A trajectory that meets a gradient that is not finite where the density is, or ends at a density that is not, is rejected:
    no NaN comes out. Uses torch's generator.

    >>> target = Target((lambda z: -0.5 * z.square().sum(-1),))
    >>> kernel = Kernel.first(torch.ones(3, 1), leapfrogs=2)
    >>> with torch.random.fork_rng():
    ...     state, acceptance = transition(target, target.at(torch.zeros(2, 3, 1)), kernel)
    >>> state.z.shape, acceptance.shape
    (torch.Size([2, 3, 1]), torch.Size([2, 3]))
    """
    momentum = torch.randn_like(state.z)
    # One factor a trajectory, drawn without a look at the state: a mixture of reversible kernels is reversible.
    step = kernel.step * (1 + JITTER * (2 * torch.rand_like(state.terms[0]) - 1))
    proposal, turned, alive = leapfrog(target, state, momentum, kernel, step)
    gain = target.log_density(proposal) - target.log_density(state) - kinetic(turned) + kinetic(momentum)
    alive = alive & target.log_density(proposal).isfinite() & ~gain.isnan()
    acceptance = torch.where(alive, gain, -math.inf).clamp(max=0.0).exp()
    accepted = torch.rand_like(acceptance) < acceptance
    return proposal.where(accepted, state), acceptance


def leapfrog(
    target: Target, state: State, momentum: Tensor, kernel: Kernel, step: Tensor,
) -> tuple[State, Tensor, Tensor]:
    """Follow Hamilton's equations; return the end, its momentum, and which trajectories got there, (chains, units).

    Momenta (chains, units, d) are standard normal in the metric's coordinates; ``step`` is (chains, units). A trajectory is
    over where a gradient was no finite number: no program is run at NaN. Its reversal meets the same point, so that refusing
    both keeps the kernel reversible.
    """
    alive = torch.ones_like(state.terms[0], dtype=torch.bool)
    step = step[..., None]
    for _ in range(kernel.leapfrogs):
        momentum = momentum + 0.5 * step * kernel.inward(target.gradient(state))
        z = state.z + step * kernel.outward(momentum)
        alive = alive & z.isfinite().all(-1)
        state = target.at(torch.where(alive[..., None], z, state.z))
        momentum = momentum + 0.5 * step * kernel.inward(target.gradient(state))
    return state, momentum, alive


def kinetic(momentum: Tensor) -> Tensor:
    """Return the kinetic energy of momenta (chains, units, d), which are standard normal in the metric's coordinates."""
    return 0.5 * momentum.square().sum(-1)


def run(target: Target, state: State, kernel: Kernel, iterations: int, gain: float = 0.0) -> tuple[State, Kernel, Tensor]:
    """Move the chains; return their end, the kernel, and all states met (iterations, chains, units, d).

    ``gain`` > 0 adapts the step sizes as it goes: for pilot chains.
    """
    states = []
    for _ in range(iterations):
        state, acceptance = transition(target, state, kernel)
        kernel = kernel.adapted(acceptance, gain) if gain else kernel
        states.append(state.z)
    return state, kernel, torch.stack(states)


def adapt(target: Target, state: State, kernel: Kernel, iterations: int) -> tuple[State, Kernel]:
    """Move pilot chains while step sizes adapt, and twice the metric; return their end and the kernel.

    After each of the first two thirds the metric becomes the (co)variance of the states met in its second half, shrunk to
    the one before as by d more states.
    """
    third = max(4, iterations // 3)
    for gain in (1.0, 0.5):
        state, kernel, states = run(target, state, kernel, third, gain)
        kernel = Kernel.first(learnt_scale(states[third // 2 :], kernel.scale), kernel.leapfrogs)
    state, kernel, _ = run(target, state, kernel, third - third // 2, 1.0)
    state, kernel, _ = run(target, state, kernel, third // 2, 0.3)
    return state, kernel


def learnt_scale(states: Tensor, before: Tensor) -> Tensor:
    """Return the scale of ``states`` (iterations, chains, units, d), of the shape of ``before`` and shrunk to it.

    >>> learnt_scale(torch.tensor([-2.0, 2.0]).reshape(2, 1, 1, 1).repeat(50, 1, 1, 1), torch.ones(1, 1))
    tensor([[1.9926]])
    """
    states = states.flatten(0, 1)
    count, size = len(states), states.shape[-1]
    centred = states - states.mean(0)
    if before.ndim == 2:
        return ((centred.square().sum(0) + size * before.square()) / (count + size)).sqrt()
    centred, prior = centred.double(), before.double()
    squares = torch.einsum("cui,cuj->uij", centred, centred) + size * prior @ prior.mT
    scale: Tensor = torch.linalg.cholesky(squares / (count + size)).to(before)
    return scale


def between(guide: Tensor, joint: Tensor, beta: float) -> Tensor:
    """Return the scale of q^(1 − β) p^β for normal q and p of these scales, (units, d) or (units, d, d): precisions mix.

    >>> between(torch.tensor([[1.0]]), torch.tensor([[0.1]]), 0.5)
    tensor([[0.1407]])
    """
    if guide.ndim == 2:
        return ((1 - beta) / guide.square() + beta / joint.square()).rsqrt()
    precision = (1 - beta) * torch.cholesky_inverse(guide.double()) + beta * torch.cholesky_inverse(joint.double())
    scale: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(precision))).to(guide)
    return scale


def rhat(states: Tensor) -> Tensor:
    """Return each unit's split R-hat, (units,): the largest over its coordinates; near 1 where chains agree.

    Args:
        states: (iterations, chains, units, d).

    Source: Gelman et al. (2013), Bayesian Data Analysis, §11.4; http://www.stat.columbia.edu/~gelman/book/

    >>> apart = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1) + torch.tensor([-1.0, 1.0]).repeat(50).reshape(-1, 1, 1, 1)
    >>> rhat(apart)                               # the chains' means are as far apart as their states
    tensor([1.5122])
    """
    count = len(states) // 2
    halves = torch.cat([states[:count], states[-count:]], 1)
    return ((count - 1) / count + halves.mean(0).var(0) / halves.var(0).mean(0)).sqrt().amax(-1)
