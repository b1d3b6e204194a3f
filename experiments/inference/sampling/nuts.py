"""The no-U-turn sampler as a method: Markov chains until they agree."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from experiments.fits.callbacks import Watch
from experiments.fits.result import LOG_JOINT, Outcome
from experiments.inference.method import Problem
from experiments.inference.options import NUTSOptions
from experiments.inference.sampling.agreement import Agreement
from experiments.inference.sampling.method import SamplingMethod
from experiments.samplers.annealing import LONG, Endpoints
from experiments.samplers.hmc import Kernel, State, run
from experiments.samplers.nuts import transition, warm_up
from experiments.samplers.posterior import FROM_PRIOR, arrived
from guides.drawn import Drawn
from zoo.errors import ZooError
from zoo.program.run import seeded

#: Transitions between two looks at whether the chains agree.
BLOCK = 50
#: Draws that are kept at most, evenly thinned.
KEPT = 4096


class NUTS(SamplingMethod[NUTSOptions]):
    """Draws of the posterior by the no-U-turn sampler, with chains until R-hat is below 1.01 in every coordinate.

    All chains move in lockstep. Three quarters start at draws of the source guide, and on them step sizes and metric adapt;
    the others start at draws of the prior. One of these counts where it has come as high as the chains of the guide: it may
    then stand in a mode that the guide misses, and R-hat says so. Where it has not, another chain's state takes its place.

    A step is a transition of all chains. Draws have no density, so that there is no ELBO.

    Source: Hoffman and Gelman (2014), The No-U-Turn Sampler, https://jmlr.org/papers/v15/hoffman14a.html

    >>> import experiments, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> done = experiments.fit(zoo.build("eight_schools", x), "draws(mean_field)", x, method="nuts", steps=100)
    >>> done.guide.values.shape[1:], done.objective
    (torch.Size([1, 10]), 'log p(x, z)')
    """

    name = "nuts"

    def suits(self, guide: object, latents: object) -> bool:
        return isinstance(guide, Drawn)

    def bound(self, problem: Problem, options: NUTSOptions) -> str:
        return LOG_JOINT

    def run(self, problem: Problem, options: NUTSOptions, watch: Watch) -> Outcome:
        guide = self.drawn(problem)
        ends = Endpoints.of(problem.model, guide.source, problem.x)
        state, kernel = _settled(problem, ends, options)
        states: list[Tensor] = []
        diverged, rounds, agreement = 0, 0, Agreement.unknown(state.z)
        for number in range(1, options.limit + 1):
            done = transition(ends.joint, state, kernel)
            state, diverged, rounds = done.state, diverged + int(done.diverged.sum()), rounds + done.leapfrogs
            spent = number == options.limit or rounds >= options.leapfrogs
            states.append(state.z)
            watch.step(number, float(ends.joint.log_density(state).mean(0).sum()))
            if number % BLOCK == 0 or spent:
                agreement = Agreement.of(torch.stack(states))
                if agreement.enough or spent:
                    break
        found = torch.stack(states)
        guide.put(_thinned(found.flatten(0, 1)), ess=agreement.ess, rhat=agreement.rhat)
        stopped = "" if agreement.enough else f"not converged: {agreement.told}; raise --steps and --leapfrogs"
        height = float(ends.joint.log_density(state).mean(0).sum())
        return Outcome(len(states), height, agreement.enough, stopped, remarks=_told(diverged, found, agreement))


def _settled(problem: Problem, ends: Endpoints, options: NUTSOptions) -> tuple[State, Kernel]:
    """Return chains after the warm-up, and the kernel that adapted there."""
    far = _from_prior(problem, int(FROM_PRIOR * options.chains))
    near = options.chains - (0 if far is None else len(far))
    state, kernel = warm_up(ends.joint, ends.joint.at(ends.sample(near)), Kernel.first(ends.scale(), LONG), options.warmup)
    if far is None:
        return state, kernel
    at, _, states = run(ends.joint, ends.joint.at(far), Kernel(kernel.step, kernel.scale, LONG), options.warmup)
    others, _ = state.beside(state).split(len(far))
    return state.beside(at.where(arrived(ends.joint, at, states, state, moving=False), others)), kernel


def _from_prior(problem: Problem, chains: int) -> Tensor | None:
    """Return draws of the prior, (chains, units, d); ``None`` where it is improper, or its program fails."""
    if not chains or problem.latents.improper:
        return None
    with suppress(ZooError), torch.no_grad(), seeded(problem.seed):
        return problem.model.sample_prior(problem.x, chains)
    return None


def _thinned(draws: Tensor) -> Tensor:
    """Return up to :data:`KEPT` of the draws (draws, units, d), evenly spaced."""
    return draws[torch.linspace(0, len(draws) - 1, min(KEPT, len(draws)), device=draws.device).round().long()]


def _told(diverged: int, states: Tensor, agreement: Agreement) -> tuple[str, ...]:
    """Say what a reader of the draws should know."""
    count = f"{states.shape[1]} chains of {len(states)} draws: {agreement.told}"
    if not diverged:
        return (count,)
    what = f"{diverged} transition{'s' if diverged > 1 else ''} diverged"
    return count, f"{what}: the posterior has a neck that the chains may miss; reparametrise the model"
