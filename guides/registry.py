"""The registries of guides: families, amortisations, and guides that have neither.

Python, the command line and files read the same literal dicts; :mod:`guides.spec` reads how a guide is written. A new family is
one file and one line in ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.registry import Registry


@dataclass(frozen=True)
class FamilyEntry:
    """A family of distributions over a unit's latent vector, and the kind of latents it is for.

    ``quick``: ``fixed_draws`` fits it, in seconds, so that it is compared where nobody names guides. ``contains``: the families
    of normals that it contains, the richest first; it has :meth:`Family.embed` for each.
    """

    path: str
    summary: str
    latents: str
    quick: bool = True
    contains: tuple[str, ...] = ()


@dataclass(frozen=True)
class AmortisationEntry:
    """A map from x to a family's parameters.

    Attributes:
        path: ``module:class``.
        summary: in a line.
        units: whose latents it can serve, as of :class:`zoo.registry.Facts`.
        own: whether it has parameters for each unit, and so serves only those it was fitted on.
        network: whether it has a network that reads x.
    """

    path: str
    summary: str
    units: tuple[str, ...]
    own: bool = False
    network: bool = False


@dataclass(frozen=True)
class WholeEntry:
    """A guide that has neither family nor amortisation: it asks the model. ``exact``: only one that knows p(z | x)."""

    path: str
    summary: str
    exact: bool


@dataclass(frozen=True)
class DrawnEntry:
    """A guide that is known by draws alone. ``source``: the guide that they begin from where none is written."""

    path: str
    summary: str
    source: str


FAMILIES: Registry[FamilyEntry] = Registry("guides", {
    "mean_field": FamilyEntry("guides.families.gaussian:MeanField", "independent normals", "continuous"),
    "full_rank": FamilyEntry(
        "guides.families.gaussian:FullRank", "multivariate normal", "continuous", contains=("low_rank", "mean_field")),
    "low_rank": FamilyEntry(
        "guides.families.gaussian:LowRank", "multivariate normal, diagonal plus rank r", "continuous",
        contains=("mean_field",)),
    "flow": FamilyEntry(
        "guides.families.flow:FlowFamily", "normalising flow, with networks shared by the units", "continuous", False,
        contains=("full_rank", "low_rank", "mean_field")),
    "mixture": FamilyEntry(
        "guides.families.mixture:MixtureFamily", "mixture of diagonal normals", "continuous", False, contains=("mean_field",)),
    "categorical": FamilyEntry(
        "guides.families.categorical:CategoricalFamily", "any distribution on a finite support", "discrete"),
})

AMORTISATIONS: Mapping[str, AmortisationEntry] = {
    "free": AmortisationEntry("guides.amortisation:Free", "its own parameters for every unit", ("rows", "dataset"), own=True),
    "encoder": AmortisationEntry("guides.amortisation:Encoder", "a network from x to the parameters", ("rows",), network=True),
    "semi": AmortisationEntry(
        "guides.amortisation:Semi", "an encoder plus each unit's own correction", ("rows",), own=True, network=True),
}

#: The amortisation of a family that is written alone.
UNSAID = "free"

WHOLE: Mapping[str, WholeEntry] = {
    "exact": WholeEntry("guides.model_based:Exact", "the exact posterior p(z | x)", True),
    "prior": WholeEntry("guides.model_based:Prior", "the prior p(z): naive Monte Carlo", False),
}

#: Guides that are known by draws, of a method that samples: written with the guide that the method begins from, in parentheses.
DRAWN: Mapping[str, DrawnEntry] = {
    "draws": DrawnEntry("guides.drawn:Drawn", "draws, of Markov chains, or corrected from those of a guide", "full_rank"),
}
