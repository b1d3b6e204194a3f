"""Containment: a richer family begins at a fitted normal that it contains, and never ends below it.

``guides.registry`` says which families contain which: mean_field ⊂ low_rank ⊂ full_rank ⊂ flow, and mean_field ⊂ mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.log_evidence.log_weights import log_joint
from experiments.runtime.memory import PILOT, chunks, within, work
from experiments.runtime.seeds import Stream
from guides.amortisation import Free
from guides.families.family import Normal
from guides.guide import BaseGuide, Guide
from guides.registry import FAMILIES
from guides.spec import parse
from zoo.data import Data
from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import evaluating, seeded
from zoo.registry import load

if TYPE_CHECKING:
    from experiments.fits.result import Fit

#: Where a fit begins: at a quick fit of a family that its own contains; at the guide as it is.
CONTAINED, OWN = "contained", "own"
#: Latent dimensions up to which a normal with all its covariances is fitted quickly.
QUICK = 128
#: Draws that two states of a guide are compared on, at most and at least.
MOST, LEAST = 4096, 64
#: A guide whose fit ends this many nats, and standard errors, below where it began has not converged.
NATS, ERRORS = 0.01, 3.0


def free_family(guide: BaseGuide) -> str | None:
    """Return the name of the family of a guide whose units have a φ of their own; ``None`` of any other guide."""
    if not isinstance(guide, Guide) or not isinstance(guide.amortisation, Free):
        return None
    try:
        name = parse(guide.written).family
    except ZooError:  # a guide of someone else's family
        return None
    return name if name in FAMILIES else None


def contained_families(guide: BaseGuide) -> tuple[str, ...]:
    """Return the families that a guide's family contains, the richest first; none where units have no φ of their own."""
    name = free_family(guide)
    return () if name is None else FAMILIES[name].contains


def quick_family(guide: BaseGuide, size: int) -> str | None:
    """Return the contained family to fit first for latents of ``size`` numbers: the richest that is fitted quickly.

    >>> import guides, zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> quick_family(guides.build("flow", zoo.build("eight_schools", x), x), 10)
    'full_rank'
    """
    found = contained_families(guide)
    quick = [name for name in found if load(FAMILIES[name].path).complete and (size <= QUICK or name == found[-1])]
    return quick[0] if quick else None


def sibling(guide: BaseGuide, fitted: Iterable[BaseGuide]) -> BaseGuide | None:
    """Return the richest of the ``fitted`` guides that ``guide`` contains, of the same units; ``None`` where there is none."""
    named = {free_family(other): other for other in sorted(fitted, key=lambda other: other.size)}  # of ranks, the highest
    return next((named[name] for name in contained_families(guide) if name in named), None)


@dataclass
class Floor:
    """The floor under a richer guide's fit: a fitted guide that it contains, where it begins and below which it never ends.

    Attributes:
        text: the contained guide, as text.
        tensors: all tensors that the richer guide's fit moves, φ first.
        state: the values of ``tensors`` at which the richer guide equals the contained guide.
        seed: the seed of the draws on which states are compared.
    """

    model: Model
    guide: Guide
    x: Data
    text: str
    tensors: list[Tensor]
    state: list[Tensor]
    seed: int

    @classmethod
    def under(cls, model: Model, guide: Guide, contained: Guide, x: Data, tensors: list[Tensor], seed: int) -> Floor:
        """Return the floor of ``contained`` under ``guide``, and move ``guide`` to where its fit begins.

        That is near the contained member; at the guide's own place where its ELBO is higher there, or its family spreads.
        """
        assert isinstance(guide.amortisation, Free) and isinstance(contained.family, Normal), "see contained_families"  # noqa: PT018
        own = [tensor.detach().clone() for tensor in tensors]
        with torch.no_grad(), seeded(seed):
            guide.amortisation.put(guide.family.embed(contained.phi(x), contained.family))
        floor = cls(model, guide, x, contained.text, tensors, [tensor.detach().clone() for tensor in tensors], seed)
        floor.put(own)
        if not guide.family.spreads and not floor.below()[0] < 0:
            floor.begin()
        return floor

    def begin(self) -> None:
        """Put the guide near the contained member, where gradients lead on."""
        assert isinstance(self.guide.amortisation, Free), "only φ of the units' own is embedded"
        self.put(self.state)
        with torch.no_grad(), seeded(self.seed):
            self.guide.amortisation.put(self.guide.family.loosen(self.guide.phi(self.x)))

    def put(self, state: list[Tensor]) -> None:
        """Put values into all that the fit moves."""
        for tensor, value in zip(self.tensors, state, strict=True):
            tensor.detach().copy_(value)

    def measure(self) -> Tensor:
        """Return log p(x, z) − log q(z) at draws of the guide as it is, summed over units: the same noise for any state."""
        latents, found = self.model.latents(self.x), []
        each = work(self.x, latents.units, latents.size)
        with seeded(self.seed + Stream.CONTAINMENT), torch.no_grad(), evaluating(self.model, self.guide):
            for count in chunks(within(PILOT, each, LEAST, MOST), each):
                z, log_q = scored(self.guide.posterior(self.x), count)
                found.append((log_joint(self.model, self.x, z) - log_q).double().sum(1))
        return torch.cat(found).nan_to_num(nan=-math.inf, posinf=-math.inf)

    def below(self) -> tuple[float, float]:
        """Return by how many nats the guide as it is lies below the contained one, and the standard error: paired draws."""
        now, reached = [tensor.detach().clone() for tensor in self.tensors], self.measure()
        self.put(self.state)
        difference = self.measure() - reached
        self.put(now)
        return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))

    def keep_better(self, done: Fit) -> Fit:
        """Put the contained member back where a fit has ended below it, and say so; else return ``done`` as it is."""
        lost, error = self.below()
        if not lost > 0:
            return done
        self.put(self.state)
        fell = lost > NATS + ERRORS * error
        said = f"it ended {lost:.3g} nats below the {self.text} that it contains, which is kept"
        return replace(
            done, bound=float(self.measure().mean()), converged=done.converged and not fell,
            stopped="; ".join(filter(None, [done.stopped, said if fell else ""])),
            states=done.states and replace(done.states, best=tuple(self.state), best_step=0))
