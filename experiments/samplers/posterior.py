"""Draws of the posterior: the model's own, or the ends of Markov chains."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.runtime.budget import Budget, Unaffordable
from experiments.runtime.memory import affordable
from experiments.runtime.seeds import Stream
from experiments.samplers.annealing import ADAPT, LONG, MANY, Endpoints
from experiments.samplers.hmc import Kernel, State, Target, rhat, run
from guides.guide import BaseGuide, paired
from guides.model_based import Prior
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import Program, seeded

#: Posterior draws of few units, and the share of chains that start at the prior; chains that are run at least, and how long.
STATES, FROM_PRIOR, FEWEST, SHORTEST = 64, 0.25, 16, 40
#: The share of its transitions that a chain from the prior must move in to count.
MOVING = 0.4


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of p(z | x, θ): the last states ``z`` (chains, units, d) of Markov chains, and their split ``rhat`` (units,)."""

    z: Tensor
    rhat: Tensor


def posterior_draws(
    model: Model | Program, guide: BaseGuide, x: Data, *, chains: int | None = None, iterations: int | None = None,
    seed: int = 0,
) -> PosteriorDraws:
    """Draw from the posterior by Hamiltonian Monte Carlo, with chains that start at draws of the guide and of the prior.

    Three quarters start at the guide, and on them the kernel is adapted. Those from the prior count where they have come as
    high as one of the others: they may then stand in a mode that the guide misses, and R-hat says so. Where they have not, on
    their way or for good, a chain of the guide's takes their place: what they tell is where they began.

    Args:
        model: a model or a bare Pyro program, of continuous latents.
        guide: where most chains start.
        x: the data.
        chains: ``None``: 4 for many units, 64 for few, or 8 where the program is run draw by draw.
        iterations: with step sizes and metric adapting, and then as many more, for R-hat; ``None``: 50 for many units, 100
            for few.
        seed: of all that is drawn.

    Raises:
        ZooError: discrete latents.

    >>> import zoo, guides
    >>> model = zoo.build("ppca", x := zoo.dataset("iris").x[:20], latent=2)
    >>> posterior_draws(model, guides.build("prior", model, x), x, chains=4, iterations=20).z.shape
    torch.Size([4, 20, 2])
    """
    with seeded(seed + Stream.CHAINS):
        ends = Endpoints.of(model := paired(model, guide), guide, x)
        chains = chains or (affordable(model, STATES, 8) if ends.few else 4)
        iterations = iterations or (affordable(model, 100, 40) if ends.few else affordable(model, 50, 40))
        far = 0 if isinstance(guide, Prior) else int(FROM_PRIOR * chains)
        state, kernel = ends.adapted(chains - far, iterations)
        if far:  # all chains in one run: a program's steps in Python cost as much for one as for many
            state = state.beside(ends.joint.at(model.sample_prior(x, far).to(state.z)))
        state, _, states = run(ends.joint, state, kernel, iterations)
        if far:
            last, settled = state.split(chains - far)
            states = states[:, :chains - far]
            states = torch.cat([states, _from_prior(ends.joint, kernel, settled, last, states)], 1)
    return PosteriorDraws(states[-1], rhat(states))


def _from_prior(joint: Target, kernel: Kernel, settled: State, last: State, states: Tensor) -> Tensor:
    """Return the states (iterations, chains, units, d) of chains that came from the prior and have ``settled``.

    Units of a chain that end below all of the others' ``last`` state are replaced by the others' ``states``, and so are those
    that hardly move, as in the neck of a funnel, where the density is high: they are where they began, and tell of no mass.
    """
    end, _, found = run(joint, settled, kernel, len(states))
    others = states[:, torch.arange(found.shape[1]) % states.shape[1]]
    return torch.where(arrived(joint, end, found, last)[None, ..., None], found, others)


def arrived(joint: Target, end: State, states: Tensor, others: State, moving: bool = True) -> Tensor:
    """Return which chains from the prior stand where mass is, (chains, units): they move, as high as one of the others.

    Without ``moving`` those count that stand as high and hardly move, too: in a narrow mode, or in the neck of a funnel.

    Args:
        joint: the density.
        end: their last state, and ``states`` (iterations, chains, units, d) all that they met.
        others: chains that are there already.
    """
    high = joint.log_density(end) >= joint.log_density(others).amin(0)
    return high & ((states[1:] != states[:-1]).any(-1).to(end.z).mean(0) > MOVING) if moving else high


def more_draws(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor, *, chains: int = STATES, iterations: int = 20,
    seed: int = 0,
) -> Tensor:
    """Return exact posterior draws (chains, units, d), run from the first of ``exact`` (draws, units, d).

    The kernel leaves the posterior invariant, and is adapted on chains of the guide that are thrown away, so that each state
    is again an exact draw. They depend on each other, the less the more ``iterations``.
    """
    with seeded(seed + Stream.MORE_DRAWS):
        ends = Endpoints.of(paired(model, guide), guide, x)
        kernel = ends.adapted(chains, ADAPT)[1]
        return run(ends.joint, ends.joint.at(exact[:1].repeat(chains, 1, 1)), kernel, iterations)[0].z


def take_draws(
    model: Model, guide: BaseGuide, x: Data, exact: Tensor | None, seed: int, budget: Budget,
) -> tuple[Tensor, Tensor | None]:
    """Return posterior draws, several for few units, and R-hat where they come from Markov chains.

    They are ``exact``, or the model's own, or else of :func:`posterior_draws`, which take up to half of what is left of the
    ``budget``.

    Raises:
        Unaffordable: that is too little.
    """
    few = model.latents(x).units < MANY
    if exact is not None:
        more = len(checked_draws(model, x, exact)) == 1 and few and not model.latents(x).discrete
        return (more_draws(model, guide, x, exact, seed=seed) if more else exact), None
    with suppress(NotImplementedError), seeded(seed + Stream.POSTERIOR), torch.no_grad():
        return model.posterior(x).sample(torch.Size([STATES if few else 1])), None
    chains, iterations = affordable(model, STATES, 8) if few else 4, affordable(model, 100 if few else 50, 40)
    each = 2 * 3 * LONG  # leapfrog steps with their gradients, of chains that adapt and of those that follow
    chains = max(min(FEWEST, chains), budget.affords(chains, each * iterations, 0.5))
    iterations = budget.affords(iterations, each * chains, 0.5)
    if iterations < SHORTEST:
        raise Unaffordable("Markov chains would take more evaluations than the effort allows")
    found = posterior_draws(model, guide, x, chains=chains, iterations=iterations, seed=seed)
    return found.z, found.rhat


def checked_draws(model: Model, x: Data, exact: Tensor) -> Tensor:
    """Return ``exact``, or raise a :class:`ZooError` unless it is (draws, units, d)."""
    latents = model.latents(x)
    if exact.ndim == 3 and exact.shape[1:] == (latents.units, latents.size) and len(exact):
        return exact
    shape = f"(draws, {latents.units}, {latents.size})"
    raise ZooError(f"expected posterior draws of shape {shape}; got {tuple(exact.shape)}; use model.unconstrain")
