"""What to do about a problem that a comparison reports: the guide to use, and the remedy for each known remark."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from guides.registry import FAMILIES
from guides.spec import parse
from zoo.errors import ZooError

if TYPE_CHECKING:
    from experiments.comparison.table import Comparison, Row

#: Latents of a unit above which a covariance of all of them is not the next thing to try.
MANY = 300


class Importance(IntEnum):
    """How much hangs on a remark, the most first."""

    WRONG = 0  # numbers that are wrong, or that nothing vouches for
    CHANGE = 1  # what a reader should do otherwise
    NOTE = 2  # what there is to know


@dataclass(frozen=True)
class Remark:
    """A line below the table: how much hangs on it, and its text, which says what to do if it reports a problem."""

    importance: Importance
    text: str


@dataclass(frozen=True)
class Remedy:
    """What to do about remarks that begin alike.

    Attributes:
        begins: a regular expression for their beginning.
        importance: theirs.
        advice: what to do; empty where they say so themselves.
        at_most: what to do where ``advice`` is to raise the effort, and the effort is the highest; empty: the same.
    """

    begins: str
    importance: Importance
    advice: str = ""
    at_most: str = ""

    def remark(self, text: str, effort: str) -> Remark:
        """Return the remark with what to do about it."""
        advice = self.at_most if self.at_most and effort == "thorough" else self.advice
        return Remark(self.importance, f"{text}; {advice}" if advice else text)


#: Of the remarks on log p(x | θ), in :mod:`experiments.log_evidence` and :mod:`experiments.comparison.agreement`.
EVIDENCE = (
    Remedy("naive Monte Carlo, by draws of the prior", Importance.WRONG, "read gaps as lower bounds, or add the guide prior"),
    Remedy("the (?:ELBO|importance-weighted bound) of '", Importance.WRONG, "use --effort thorough", "try another --seed"),
    Remedy("float32 changes log p", Importance.WRONG),
    Remedy("a share .* of the posterior mass lies where", Importance.WRONG,
           "pass the data in float64, or draw the logarithm or logit of that site"),
    Remedy("modes that some guides miss, or tails", Importance.WRONG,
           "add mixture or flow, or use the guide of the highest ELBO"),
    Remedy("modes that some guides miss", Importance.WRONG,
           "gaps count them; if they are relabellings, order what is interchangeable in the program"),
    Remedy(r"\d+ of \d+ modes were met by one", Importance.WRONG,
           "read gaps as lower bounds, or order what is interchangeable in the program"),
    Remedy("Markov chains stand in different modes", Importance.WRONG,
           "read gaps as lower bounds, or bracket those of data like these by --simulate"),
    Remedy("no upper end: ", Importance.WRONG, "use --effort thorough", "compare fewer rows"),
)
#: Of the ends of fits, in :mod:`experiments.inference`.
ENDS = (
    Remedy("not converged", Importance.WRONG),
    Remedy("early: the held-out ELBO", Importance.CHANGE, "raise --patience to go on"),
    Remedy("it ended .* nats below the", Importance.WRONG, "raise --steps, or try another --seed"),
    Remedy("iteration .* turned non-finite", Importance.WRONG, "standardise the data, by --standardise"),
    Remedy(".*; the (?:best state, after step .*, is|start is) kept", Importance.WRONG, "lower --learning-rate, or set --clip"),
)
#: Of what else fits remark, in :mod:`experiments.inference`.
FITS = (
    Remedy(".* went back to step", Importance.CHANGE, "leave pure=True out"),
    Remedy(r"\d+ transitions? diverged", Importance.WRONG),
    Remedy(r"\d+ chains of", Importance.NOTE),
    Remedy("pure=True would save", Importance.NOTE),
    Remedy("(?:the )?normals? of", Importance.NOTE),
)


def remedied(text: str, among: tuple[Remedy, ...], unknown: Importance, effort: str = "") -> Remark:
    """Return a remark with the remedy that is known of it; of importance ``unknown`` where none is."""
    found = next((one for one in among if re.match(one.begins, text)), Remedy("", unknown))
    return found.remark(text, effort)


def separate(text: str) -> list[str]:
    """Take apart remarks on the evidence that stand in one line.

    >>> separate("modes that some guides miss: of 2 found, 'a' holds 1; no upper end: Markov chains would take more")
    ["modes that some guides miss: of 2 found, 'a' holds 1", 'no upper end: Markov chains would take more']
    """
    beginnings = "|".join(one.begins for one in EVIDENCE)
    return [part for part in re.split(f"; (?={beginnings})", text) if part] if text else []


def closer(row: Row, table: Comparison) -> str:
    """Say what takes a guide closer to the posterior.

    That is more training where most of the gap is an encoder's amortisation; else the guide of the highest ELBO in the table,
    if its fit has converged; for that guide itself, the next richer family that is not in the table.
    """
    if not row.fit.guide.density:
        source = parse(row.fit.guide.written).source
        return f"use draws({'full_rank' if source is None else source.text})@ais, or begin from a richer guide"
    parts = row.parts
    if max(parts, key=lambda name: parts[name].middle) == "amortisation":
        return "raise --steps" + (", or use :semi in place of :encoder" if ":encoder" in row.fit.guide.written else "")
    best = closest([each for each in table.rows if each is row or each.fit.converged])
    if best is not row and not table.own_theta:
        return f"use '{best.fit.guide.text}'"
    return _richer(row, table) or "add a flow of more layers, as flow(layers=6)"


def closest(rows: Sequence[Row]) -> Row:
    """Return the row of the highest ELBO; draws, which have none, come after all guides with a density."""
    def height(row: Row) -> tuple[bool, float]:
        elbo = row.evaluation.elbo.value
        return row.fit.guide.density, -math.inf if math.isnan(elbo) else elbo

    return max(rows, key=height)


def _richer(row: Row, table: Comparison) -> str:
    """Return which guide of a richer family to add; empty where there is none that the table lacks."""
    from guides.blocks import BlockGuide

    guide, blocks = row.fit.guide, row.evaluation.blocks
    latents = table.model.latents(table.x)
    if latents.discrete:
        return "add categorical"
    size, shared = latents.size, False
    if isinstance(guide, BlockGuide):
        of = guide.blocks(table.x)
        shared = blocks is not None and blocks.shared.middle > blocks.local.middle
        size = len(of.shared) if shared else of.local.shape[1]
    text, asked = guide.written, {each.fit.guide.written for each in table.rows}
    while text := _next(text, shared, size):
        if text not in asked:
            return f"add {text}"
    return ""


def _next(text: str, shared: bool, size: int) -> str:
    """Return the guide whose family, of shared latents or of the others, is the next richer one; empty where none is.

    >>> _next("mean_field:encoder", False, 8), _next("full_rank+mean_field", False, 1), _next("flow", False, 8)
    ('full_rank:encoder', 'full_rank+flow', '')
    """
    try:
        spec = parse(text)
    except ZooError:  # a Pyro guide
        return "full_rank"
    if not spec.amortisation:
        return "full_rank"
    _, colon, amortisation = text.partition(":")
    first = "" if spec.shared is None else spec.shared.text
    if spec.shared is not None and shared:
        name = _richer_family(spec.shared.family, size)
        return name and name + text.removeprefix(first)
    name = _richer_family(spec.family, size)
    return name and "+".join(filter(None, [first, name])) + colon + amortisation


def _richer_family(family: str, size: int) -> str:
    """Return the next richer family of ``size`` latents; empty where none is known.

    One that is fitted quickly comes first: with all covariances, or for many latents with some. A single latent has none.
    """
    found = {name: entry for name, entry in FAMILIES.items() if family in entry.contains}
    quick = [name for name in found if found[name].quick]
    if quick and size > 1:
        return max(quick, key=lambda name: len(found[name].contains) * (1 if size <= MANY else -1))
    slow = [name for name in found if name not in quick]
    return max(slow, key=lambda name: len(found[name].contains), default="")
