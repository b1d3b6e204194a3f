"""The nodes of a drawn graphical model: sites and parameters, those that repeat folded into one."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: What a site may be, with its mark in a terminal and in words.
KINDS: Mapping[str, tuple[str, str]] = {
    "latent": ("○", "latent"), "enumerated": ("◌", "enumerated"), "summed out": ("◌", "summed out"),
    "computed": ("□", "computed"), "factor": ("■", "factor"), "observed": ("●", "observed"),
    "predicted": ("◎", "without observations"), "parameter": ("•", "parameter"),
}
#: Statements that repeat, as in a loop over time, are folded from so many sites on.
REPEATED = 3
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class DescribedSite:
    """One site of a program, or one of its parameters.

    Attributes:
        name: the name.
        kind: ``latent``; ``enumerated`` where all latents are discrete and the posterior is a table of their values; ``summed
            out`` where the density is summed over its values; ``observed``; ``predicted`` where the data lack observations that
            other data had; ``computed``; ``factor``; ``parameter``.
        distribution: the name of its distribution; empty for a computed site, a factor and a parameter.
        support: the values that it may have, in words.
        shape: of its value.
        plates: that it is in, outermost first.
        block: ``shared`` or ``local`` for a latent, see :mod:`zoo.program.sites.blocks`; otherwise empty.
        parents: names of the sites and parameters that it depends on directly.
        line: file and line of its statement.
    """

    name: str
    kind: str
    distribution: str = ""
    support: str = ""
    shape: tuple[int, ...] = ()
    plates: tuple[str, ...] = ()
    block: str = ""
    parents: tuple[str, ...] = ()
    line: tuple[str, int] = field(default=("", 0), repr=False, compare=False)


@dataclass(frozen=True)
class Node:
    """A node of the drawing: a site, several that repeat, or the parameters of a network.

    Attributes:
        label: its name; ``x_0 … x_49`` for several.
        sites: what it stands for.
        parents: labels of the nodes that it depends on.
        loop: which of its own sites each of them depends on, in words; empty for none.
    """

    label: str
    sites: tuple[DescribedSite, ...]
    parents: tuple[str, ...] = ()
    loop: str = ""

    @property
    def first(self) -> DescribedSite:
        """The site that shows what all of them are."""
        return self.sites[0]

    @property
    def kind(self) -> str:
        """What its sites are."""
        return self.first.kind

    @property
    def support(self) -> str:
        """The support that its sites share; empty where they do not."""
        return self.first.support if len({site.support for site in self.sites}) == 1 else ""

    @property
    def shape(self) -> str:
        """The shape of each of its sites in words; of a network's parameters, how many numbers they have."""
        if self.kind == "parameter" and len(self.sites) > 1:
            return f"{sum(math.prod(site.shape) for site in self.sites):,} numbers"
        return str(self.first.shape)


def network(parameter: str) -> str:
    """Return the name of the network that a parameter is of, or of one of none its own.

    >>> network("decoder.0.weight"), network("decoder$$$0.weight"), network("scale")
    ('decoder', 'decoder', 'scale')
    """
    return re.split(r"\.|\$\$\$", parameter)[0]


def shortened(text: str, length: int) -> str:
    """Return a text, or, of a longer one, its beginning and its end.

    >>> shortened("coefficients_of_the_slope", 12)
    'coeffici…ope'
    """
    end = (length - 1) // 3
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def fold(sites: Sequence[DescribedSite]) -> tuple[Node, ...]:
    """Return the nodes of ``sites``, in their order: statements that repeat and the parameters of a network become one.

    >>> steps = [DescribedSite(f"x_{t}", "latent", parents=(f"x_{t - 1}",) if t else ()) for t in range(4)]
    >>> fold(steps)[0].label, fold(steps)[0].loop
    ('x_0 … x_3', 'the one before')
    """
    groups = _groups(sites)
    owner = {site.name: label for label, members in groups.items() for site in members}
    return tuple(
        Node(label, tuple(members), _parents(label, members, owner), _loop(members)) for label, members in groups.items())


def _groups(sites: Sequence[DescribedSite]) -> dict[str, list[DescribedSite]]:
    """Return the sites of each node by its label."""
    alike: dict[tuple[object, ...], list[DescribedSite]] = defaultdict(list)
    for site in sites:
        alike[_signature(site)].append(site)
    found: dict[str, list[DescribedSite]] = {}
    for site in sites:
        members = alike[_signature(site)]
        for label, part in [(_label(members), members)] if _is_folded(members) else [(site.name, [site])]:
            found.setdefault(label, part)
    return found


def _signature(site: DescribedSite) -> tuple[object, ...]:
    """Return what sites of one node have in common."""
    if site.kind == "parameter":
        return (site.kind, network(site.name))
    return (
        NUMBER.sub("#", site.name), site.kind, site.distribution, site.support, site.shape, site.plates, site.block, site.line)


def _is_folded(members: Sequence[DescribedSite]) -> bool:
    return len(members) >= (2 if members[0].kind == "parameter" else REPEATED)


def _label(members: Sequence[DescribedSite]) -> str:
    if members[0].kind == "parameter":
        return network(members[0].name)
    return f"{members[0].name} … {members[-1].name}"


def _parents(label: str, members: Iterable[DescribedSite], owner: Mapping[str, str]) -> tuple[str, ...]:
    found = {owner[name] for site in members for name in site.parents if name in owner}
    return tuple(name for name in dict.fromkeys(owner.values()) if name in found and name != label)


def _loop(members: Sequence[DescribedSite]) -> str:
    """Say which sites of a node others of it depend on."""
    place = {site.name: i for i, site in enumerate(members)}
    lags = {place[site.name] - place[name] for site in members for name in site.parents if name in place}
    return "" if not lags else "the one before" if lags == {1} else "earlier ones"

