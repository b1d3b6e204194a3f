"""The ELBO of a model and its guide on fixed noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from experiments.inference.engine import check_start
from experiments.inference.fixed_draws.count import Count
from experiments.inference.fixed_draws.means import Means, MonteCarlo
from experiments.inference.fixed_draws.parts import Parts, slices
from experiments.inference.fixed_draws.projected import GaussHermite
from experiments.runtime.memory import work
from experiments.samplers.quasi_random import normal_noise
from guides.amortisation import Free
from guides.families.family import Normal, NormalBase, Phi
from guides.guide import Guide
from zoo.data import Data, in_double, take
from zoo.model import Model
from zoo.program.sites.latents import Latents
from zoo.program.vectorise import FORBIDDEN, LinAlgError
from zoo.structure.linear_predictor import linear_predictor

#: Numbers that a draw's density touches for it to be worth while to look for a linear predictor.
WORTH = 2**10


@dataclass
class FixedDrawsELBO:
    """The ELBO of a model and its guide on fixed noise, a deterministic function of their parameters."""

    model: Model
    guide: Guide
    family: NormalBase
    x: Data
    parameters: list[nn.Parameter]
    seed: int
    count: Count
    #: The last two noises that were asked for, by their draws and number.
    made: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def check_start(self) -> None:
        """Refuse, by a :class:`ZooError`, to start where the ELBO or its gradient is not finite."""
        check_start(self.model, self.guide, self.x)

    def noise(self, draws: int, number: int) -> Tensor:
        if (draws, number) not in self.made:
            found = normal_noise(draws, self.size, self.seed + number, self.parameters[0])
            self.made = {**dict([*self.made.items()][-1:]), (draws, number): found}
        return self.made[draws, number]

    @property
    def size(self) -> int:
        return self.family.noise_size(self.guide.phi(self.x))

    @cached_property
    def latents(self) -> Latents:
        return self.parts.latents

    @cached_property
    def own(self) -> Free | None:
        """The units' own φ, where nothing else moves and units can be climbed each for itself."""
        own = self.guide.amortisation
        alone = isinstance(own, Free) and {*map(id, self.parameters)} == {*map(id, own.phi.values())}
        return own if alone and (self.parts.divisible or self.latents.units == 1) else None  # type: ignore[return-value]

    @cached_property
    def parts(self) -> Parts:
        return Parts(self.model, self.x)

    @cached_property
    def means(self) -> Means:
        """How the means under the units' own φ are found: of a linear predictor by one integral an observation."""
        if isinstance(self.family, Normal) and self.latents.units == 1 and work(self.x, 1, self.size) >= WORTH:
            predictor = linear_predictor(self.model, self.x)
            if predictor is not None:
                return GaussHermite(self.model, self.family, self.x, predictor)
        return MonteCarlo(self.model, self.family, self.x, self.parts)

    def elbo(self, noise: Tensor) -> Iterator[Tensor]:
        """Yield terms that add up to the ELBO, each with a graph of its own."""
        total = noise.new_zeros(2)
        for draws, part, index in self._pieces(len(noise)):
            found = held_terms(self.model, self.guide, part, noise[draws], index)
            terms = [term.sum() * (len(noise[draws]) / len(noise)) for term in found]
            total += torch.stack([term.detach() for term in terms])
            yield terms[0] - terms[1]
        self.count.terms(*total)

    def _pieces(self, draws: int) -> Iterator[tuple[slice, Data, Tensor | None]]:
        """Yield which of the draws, and the data and numbers of which units, are evaluated together."""
        units = self.latents.units
        for some in slices(draws, self.parts.draws_at_once):
            most = self.parts.units_at_once(some.stop - some.start)
            if most >= units:
                yield some, self.x, None
                continue
            for index in torch.arange(units, device=self.parameters[0].device).split(most):
                yield some, take(self.x, index, units), index

    @property
    def exact(self) -> bool:
        """Whether the one unit's own normal can be found by natural steps alone, on a likelihood that no draws make noisy."""
        return self.own is not None and isinstance(self.means, GaussHermite) and self.means.family.complete

    def value(self, noise: Tensor) -> float:
        """Return the ELBO on ``noise``."""
        with torch.no_grad():
            if self.own is None or self.latents.units > 1:
                return float(sum(self.elbo(noise)))
            phi = self.guide.phi(self.x)
            entropy = self.family.distribution(phi).entropy().sum()
            return self.means.value(phi, noise) + float(entropy)

    def doubled(self) -> FixedDrawsELBO | None:
        """Return a copy of the pair in float64; ``None`` where the program does not run in it."""
        model, guide = copy.deepcopy((self.model, self.guide))
        model, guide, x = model.double(), guide.double(), in_double(self.x)
        places = {id(p): i for i, p in enumerate([*self.guide.parameters(), *self.model.parameters()])}
        copies = [*guide.parameters(), *model.parameters()]
        own = [copies[places[id(p)]] for p in self.parameters]
        held = FixedDrawsELBO(model, guide, self.family, x, own, self.seed, self.count)
        with torch.no_grad(), suppress(*FORBIDDEN, LinAlgError):
            z = self.family.transform(guide.phi(x), held.noise(2 * held.size, 0)[:2])
            if model.log_joint(x, z).dtype == torch.float64:
                return held
        return None

    def noise_error(self, noise: Tensor) -> float:
        """Return the standard error, in nats, of the difference between two ELBOs on as many independent draws."""
        with torch.no_grad():
            totals = noise.new_zeros(len(noise))
            for draws, part, index in self._pieces(len(noise)):
                phi = self.guide.phi(part, index)
                z = self.family.transform(phi, noise[draws])
                totals[draws] += (self.model.log_joint(part, z) - self.family.distribution(phi).log_prob(z)).sum(1)
        return math.sqrt(2 / len(noise)) * float(totals.std())


def held_terms(
    model: Model, guide: Guide, x: Data, noise: Tensor, index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(x | z)] and KL(q ‖ prior), whose difference is the ELBO, of each unit of ``x``, (units,).

    ``index`` says which of the fitted units these are, where they are not all.
    """
    assert isinstance(guide.family, NormalBase), "only a normal base has held noise"
    return phi_terms(model, guide.family, guide.phi(x, index), x, noise)


def phi_terms(model: Model, family: NormalBase, phi: Phi, x: Data, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`held_terms` does, at φ: z = transform(φ, noise), and q's entropy is in closed form."""
    z = family.transform(phi, noise)
    entropy: Tensor = family.distribution(phi).entropy()
    prior, likelihood = model.log_terms(x, z)
    return likelihood.mean(0), -(prior.mean(0) + entropy)
