"""How a guide is written, and what fits what.

A guide is written ``family[:amortisation]``, ``free`` where unsaid; either part may take arguments in parentheses:
``exact``, ``mean_field``, ``low_rank(4)``, ``full_rank:encoder(hidden=(32, 32))``. A guide of a model in which rows share
latents and have their own is written ``family+family[:amortisation]``, shared latents first: ``full_rank+mean_field:encoder``,
see :mod:`guides.blocks`. Draws are written with the guide that they begin from, ``draws(full_rank)``, see :mod:`guides.drawn`.
Any of these may name the method that is to fit it: ``full_rank@laplace``, ``draws(full_rank)@psis``.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, UNSAID, WHOLE
from zoo.errors import ZooError
from zoo.registry import Facts, lookup

_OWNERS: Mapping[str, str] = {"rows": "latents of each row", "dataset": "latents that all rows share"}

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: Characters of a guide as written, at most: what is nested deeper than these allow is nobody's guide, and no parser's.
LONGEST = 1000


@dataclass(frozen=True)
class GuideSpec:
    """A guide as written. ``amortisation`` is empty for a whole guide.

    ``shared``: the family of shared latents, as written; the rest is then of the rows' own. ``None`` of one joint distribution.
    ``source``: the guide that draws begin from; ``None`` of a guide with a density. ``method``: what is to fit it, as written.
    """

    text: str
    family: str
    amortisation: str
    family_arguments: Arguments = field(default=((), {}), hash=False)
    amortisation_arguments: Arguments = field(default=((), {}), hash=False)
    shared: GuideSpec | None = None
    source: GuideSpec | None = None
    method: str = ""

    def same(self, other: GuideSpec) -> bool:
        """Whether ``other`` is the same guide, however written."""
        return self._unnamed() == other._unnamed()

    def _unnamed(self) -> GuideSpec:
        shared, source = (part and part._unnamed() for part in (self.shared, self.source))
        return replace(self, text="", shared=shared, source=source)

    @property
    def free_text(self) -> str:
        """The free guide of the same family, as written."""
        return self.text.partition(":")[0]

    @property
    def own_units(self) -> bool:
        """Whether the guide has parameters for each unit, and so serves only those it was fitted on."""
        if self.shared is not None or self.source is not None:
            return True
        return bool(self.amortisation) and AMORTISATIONS[self.amortisation].own

    @property
    def amortised(self) -> bool:
        """Whether a network reads x, which may lose something against each unit's best."""
        return self.shared is None and bool(self.amortisation) and AMORTISATIONS[self.amortisation].network

    @property
    def free(self) -> bool:
        """Whether each unit has its own parameters and no network reads x."""
        return self.own_units and not self.amortised and self.source is None

    @property
    def quick(self) -> bool:
        """Whether the guide is fitted in seconds, or needs no fit."""
        return not self.amortisation or (FAMILIES[self.family].quick and self.shared is None)

    def same_family(self, other: GuideSpec) -> bool:
        """Whether ``other`` has the same family, whatever its amortisation."""
        alike = self.family == other.family and self.family_arguments == other.family_arguments
        if self.shared is None or other.shared is None:
            return alike and self.shared is other.shared
        return alike and self.shared.same(other.shared)

    @property
    def needs(self) -> str:
        """Say in words what latents and units the guide is for."""
        if self.source is not None:
            return f"continuous latents, and a model for '{self.source.text}': {self.source.needs}"
        if not self.amortisation:
            return "a model that knows p(z | x)" if WHOLE[self.family].exact else "any model"
        if self.shared is not None:
            return "continuous latents that all rows share, and others of each row"
        units = AMORTISATIONS[self.amortisation].units
        of = "rows that own their latents" if units == ("rows",) else "any units"
        return f"{FAMILIES[self.family].latents} latents and {of}"

    def misfit(self, facts: Facts) -> str | None:
        """Return why the guide can't serve a model with these ``facts``, or ``None`` where it can."""
        if self.source is not None:
            return f"has {facts.latents} latents" if facts.latents == "discrete" else self.source.misfit(facts)
        if not self.amortisation:
            return "knows no exact posterior" if WHOLE[self.family].exact and not facts.exact else None
        if facts.latents == "none":
            return "has no latents to infer: they are functions of x, or discrete and summed out"
        if FAMILIES[self.family].latents != facts.latents:
            return f"has {facts.latents} latents"
        if self.shared is not None:
            return None if facts.local else f"has {_OWNERS[facts.units]} alone"
        if facts.units not in AMORTISATIONS[self.amortisation].units:
            return "has latents that all rows share: one unit, nothing to amortise over"
        return None

    def check(self, facts: Facts) -> None:
        """Raise a :class:`ZooError` that names both sides unless the guide fits a model with these ``facts``."""
        reason = self.misfit(facts)
        if reason is not None:
            raise ZooError(
                f"guide '{self.text}' does not fit model '{facts.name}': it needs {self.needs}; {facts.name} {reason}; "
                f"choose from {', '.join([*fitting_guides(facts), *([BLOCKS] if facts.local else [])])}")


def all_guides() -> list[str]:
    """Return every guide in the registry, ``free`` unsaid.

    >>> all_guides()[:4]
    ['exact', 'prior', 'mean_field', 'mean_field:encoder']
    """
    pairs = [f if a == UNSAID else f"{f}:{a}" for f in FAMILIES for a in AMORTISATIONS]
    return [*WHOLE, *pairs]


def fitting_guides(facts: Facts) -> list[str]:
    """Return the registered guides that fit a model with these ``facts``.

    >>> fitting_guides(Facts("discrete", "rows", True))
    ['exact', 'prior', 'categorical', 'categorical:encoder', 'categorical:semi']
    """
    return [guide for guide in all_guides() if parse(guide).misfit(facts) is None]


#: How a guide of two blocks is written, for lists.
BLOCKS = "FAMILY+FAMILY[:AMORTISATION]"


def default_guides(facts: Facts) -> list[str]:
    """Return the guides worth comparing where none is named: exact, each quick free family, and one encoder.

    >>> default_guides(Facts("continuous", "dataset", False))
    ['mean_field', 'full_rank', 'low_rank']
    """
    quick = [spec for spec in map(parse, fitting_guides(facts)) if spec.text != "prior" and spec.quick]
    first = next((spec.text for spec in quick if spec.amortised and not spec.own_units), None)
    return [spec.text for spec in quick if not spec.amortised or spec.text == first]


def parse(text: str) -> GuideSpec:
    """Read ``family[:amortisation]``, ``family+family[:amortisation]`` of shared and local latents, or ``draws(guide)``.

    Each may end in ``@method``, which :func:`experiments.fit` looks up.

    Raises:
        ZooError: unknown family or amortisation (with the nearest name), arguments that are no Python literals, or a text
            longer than :data:`LONGEST`.

    >>> parse("low_rank(4):encoder").family_arguments
    ((4,), {})
    >>> parse("full_rank+mean_field:encoder").shared.family
    'full_rank'
    >>> parse("draws(mean_field)@psis").source.text, parse("draws(mean_field)@psis").method
    ('mean_field', 'psis')
    """
    if len(text) > LONGEST:
        raise ZooError(
            f"expected a guide of at most {LONGEST:,} characters; got {len(text):,}, which begin '{text[:40]}'; 'zoo list' "
            "shows all")
    named = re.fullmatch(r"(.*)@\s*(\w+)\s*", text, re.DOTALL)
    if named is not None:
        inner = parse(named[1])
        if inner.method:
            raise ZooError(f"expected one method behind a guide; got {inner.method} and {named[2]} in '{text}'; drop one")
        return replace(inner, text=text, method=named[2])
    drawn = re.fullmatch(rf"\s*({'|'.join(DRAWN)})\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    return _parse_density(text) if drawn is None else _parse_drawn(text, drawn[1], drawn[2])


def _parse_drawn(text: str, name: str, inner: str | None) -> GuideSpec:
    """Read ``draws(guide)``; without a guide, that of the registry."""
    source = parse(DRAWN[name].source if inner is None else inner)
    if source.source is not None or source.family in WHOLE:
        raise ZooError(f"expected a guide with parameters in '{text}', to begin from; got '{source.text}'; name a family")
    return GuideSpec(text, name, "", source=source)


def _parse_density(text: str) -> GuideSpec:
    """Read a guide with a density: ``family[:amortisation]``, or ``family+family[:amortisation]``."""
    parts = _split(text, "+")
    if len(parts) == 1:
        return _parse_joint(text)
    if len(parts) > 2:
        raise ZooError(f"expected two blocks, shared+local, as in full_rank+mean_field:encoder; got '{text}'; drop the others")
    shared, local = map(_parse_joint, parts)
    for part in (shared, local):
        if part.family in WHOLE or FAMILIES[part.family].latents != "continuous":
            raise ZooError(f"expected a family of continuous latents in each block; got '{part.text}' in '{text}'; name one")
    if shared.amortisation != UNSAID or shared.amortisation_arguments != ((), {}):
        raise ZooError(
            f"expected no amortisation of shared latents, which are one vector; got '{shared.text}' in '{text}'; leave it out")
    return replace(local, text=text, shared=shared)


def split_commas(text: str) -> list[str]:
    """Split several guides, as written, at the commas between them.

    >>> split_commas("mean_field,full_rank:encoder(hidden=(32, 32))")
    ['mean_field', 'full_rank:encoder(hidden=(32, 32))']
    """
    return [part.strip() for part in _split(text, ",")]


def _split(text: str, mark: str) -> list[str]:
    """Split a text at each ``mark`` that stands in no parentheses.

    >>> _split("full_rank+flow(hidden=(8, +8))", "+")
    ['full_rank', 'flow(hidden=(8, +8))']
    """
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _parse_joint(text: str) -> GuideSpec:
    """Read ``family[:amortisation]``."""
    family_text, colon, amortisation_text = text.partition(":")
    family, family_arguments = _call(family_text, text)
    if family in WHOLE:
        if colon or family_arguments != ((), {}):
            raise ZooError(f"expected '{family}' alone; got '{text}'; it takes no amortisation and no arguments")
        return GuideSpec(text, family, "")
    lookup({**WHOLE, **FAMILIES, **DRAWN}, family, "guide")
    amortisation, amortisation_arguments = _call(amortisation_text if colon else UNSAID, text)
    lookup(AMORTISATIONS, amortisation, "amortisation")
    return GuideSpec(text, family, amortisation, family_arguments, amortisation_arguments)


def _call(text: str, whole: str) -> tuple[str, Arguments]:
    """Split ``name(1, a=2)`` into the name and its arguments."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about its own grammar
            node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, ((), {})
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            arguments = tuple(ast.literal_eval(a) for a in node.args)
            return node.func.id, (arguments, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords})
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # the latter of what is nested too deep
        pass
    raise ZooError(f"expected a guide as family[:amortisation], e.g. low_rank(4):encoder; got '{whole}'; 'zoo list' shows all")
