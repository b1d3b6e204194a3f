"""The ladder of guides: rungs from the cheapest to the dearest, and which of them a model has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from guides.spec import parse
from zoo.data import Data
from zoo.model import Model
from zoo.registry import Facts

#: Latents of one unit up to which a normal with all covariances is fitted, and above which one of low rank is.
FULL = 200
#: What stands for the guide of the highest ELBO so far, in a rung's text.
BEST = "BEST"
#: What importance weights add, where a guide that is better than those before has come.
CORRECTED = "importance weights for the best guide's draws"
#: What annealing adds there.
ANNEALED = "annealing from the best guide to the posterior"


@dataclass(frozen=True)
class Terrain:
    """What a ladder stands on: the facts of a model on its data.

    Attributes:
        facts: of the model.
        size: latents of a unit.
        units: how many units there are.
        amortised: whether guides are to be networks of x.
    """

    facts: Facts
    size: int
    units: int
    amortised: bool

    @classmethod
    def of(cls, model: Model, x: Data, amortised: bool | None = None) -> Terrain:
        """Look at a model and its data; where nobody says, networks serve models that have one themselves."""
        latents, facts = model.latents(x), model.facts(x)
        network = bool(model.holdout) and facts.units == "rows" and facts.latents == "continuous"
        return cls(facts, latents.size, latents.units, network if amortised is None else amortised)


@dataclass(frozen=True)
class Rung:
    """A guide that a ladder tries, with the method that fits it where it is not the guide's own.

    Attributes:
        text: how the guide is written; ``BEST`` stands for the guide of the highest ELBO so far.
        adds: what it has that the rungs below lack, in words.
        least, most: the latents of a unit that it is for.
        alone: whether it is for one unit only.
        local: whether it is for models in which rows share latents and own others, only.
        amortised: whether it is a network of x, or follows one.
        exact: whether it is for models that know their posterior.
        limits: options of its fit, where nobody sets them: what a rung can gain is not worth more than a minute or so.
    """

    text: str
    adds: str
    least: int = 1
    most: float = math.inf
    alone: bool = False
    local: bool = False
    amortised: bool = False
    exact: bool = False
    limits: Mapping[str, int] = field(default_factory=dict, hash=False)

    def suits(self, ground: Terrain) -> bool:
        """Return whether a ladder on this ground has the rung."""
        if ground.facts.exact or self.exact:
            return ground.facts.exact and self.exact
        return (
            self.amortised == ground.amortised and self.least <= ground.size <= self.most
            and (ground.units == 1 or not self.alone) and (ground.facts.local or not self.local)
            and parse(self.written("mean_field")).misfit(ground.facts) is None)

    def written(self, best: str) -> str:
        """Return the guide as it is written where ``best`` is the best so far."""
        return self.text.replace(BEST, best)


#: From the cheapest to the dearest. Draws come before what is fitted by svi: correcting those of a fitted guide takes seconds.
LADDER: tuple[Rung, ...] = (
    Rung("exact", "the exact posterior", exact=True, least=0),
    Rung("full_rank@laplace", "a normal at the mode", most=FULL),
    Rung("full_rank@pathfinder", "a normal where the mass is, on the way to the mode", most=FULL, alone=True),
    Rung("draws(full_rank)@pathfinder", "importance weights for normals of several paths", most=FULL, alone=True),
    Rung("mean_field", "the best independent normals"),
    Rung("full_rank", "all correlations", least=2, most=FULL),
    Rung("low_rank(8)", "correlations of rank 8", least=FULL + 1),
    Rung(f"draws({BEST})@psis", CORRECTED),
    Rung("full_rank+mean_field:free(shared=True)", "rows that follow what they share", local=True, limits={"steps": 2000}),
    Rung(f"draws({BEST})@psis", CORRECTED, local=True),
    Rung(f"draws({BEST})@ais", ANNEALED, limits={"steps": 3}),
    Rung("mixture(4)", "several modes", most=FULL, alone=True, limits={"steps": 2000}),
    Rung(f"draws({BEST})@psis", CORRECTED, most=FULL, alone=True),
    Rung("flow", "any shape that a flow has", most=FULL, alone=True, least=2, limits={"steps": 2000}),
    Rung(f"draws({BEST})@psis", CORRECTED, most=FULL, alone=True),
    Rung(f"draws({BEST})@ais", ANNEALED, most=FULL, alone=True, limits={"steps": 3}),
    Rung(f"draws({BEST})@nuts", "Markov chains", limits={"steps": 500, "leapfrogs": 20_000}),
    Rung("mean_field:encoder", "a network, of independent normals", amortised=True),
    Rung("full_rank:encoder", "a network, of normals with all correlations", amortised=True, least=2, most=64),
    Rung("mean_field:encoder(hidden=(512, 512))", "a wider network", amortised=True),
    Rung("full_rank:encoder(hidden=(512, 512))", "a wider network", amortised=True, least=2, most=64),
    Rung("mean_field:semi", "each unit's own correction of a network", amortised=True),
    Rung("full_rank:semi", "each unit's own correction of a network", amortised=True, least=2, most=64),
    Rung(f"draws({BEST})@psis", CORRECTED, amortised=True),
)


def rungs(ground: Terrain) -> Iterator[Rung]:
    """Give the rungs that a ladder on this ground has, the cheapest first.

    >>> [rung.text for rung in rungs(Terrain(Facts("continuous", "dataset", False), 10, 1, False))][:4]
    ['full_rank@laplace', 'full_rank@pathfinder', 'draws(full_rank)@pathfinder', 'mean_field']
    """
    return (rung for rung in LADDER if rung.suits(ground))
