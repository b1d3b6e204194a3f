"""The order in which guides are fitted, θ's first, and where each begins."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.comparison.request import spec_of
from experiments.fits.result import Fit
from experiments.inference.containment import CONTAINED, OWN, contained_families
from guides.drawn import Drawn
from guides.guide import AnyGuide, BaseGuide, Guide
from guides.spec import GuideSpec
from zoo.data import Data
from zoo.model import Model


def turn(guide: BaseGuide) -> tuple[bool, bool, int]:
    """Return when a guide is fitted: encoders first, draws last, and others after what their families contain."""
    return not guide.new_units, not guide.density, len(contained_families(guide))


def source_of(guide: BaseGuide, fitted: Sequence[BaseGuide]) -> BaseGuide | None:
    """Return the fitted guide that draws begin from, if there is one of this writing; ``None`` of a guide with a density."""
    if not isinstance(guide, Drawn):
        return None
    return next((other for other in fitted if other.written == guide.source.written), None)


def once(fits: Sequence[Fit], order: Sequence[int]) -> list[int]:
    """Return the ``order`` of fits with each guide once: several draws may begin from one."""
    found: dict[str, int] = {}
    for i in order:
        found.setdefault(fits[i].guide.text, i)
    return list(found.values())


def same_family(spec: GuideSpec, others: Sequence[BaseGuide], free: bool) -> int | None:
    """Return which of ``others`` has the same family: the ``free`` one, or the one that is a network alone."""
    for i, other in enumerate(map(spec_of, others)):
        if other is not None and other.same_family(spec) and (other.free if free else other.amortised and not other.own_units):
            return i
    return None


def start_of(asked: AnyGuide) -> BaseGuide | str:
    """Return where a guide's fit begins: one that is named may be moved to a contained one."""
    return CONTAINED if isinstance(asked, str) else OWN


def trainer_of(model: Model, x: Data, asked: Sequence[AnyGuide]) -> AnyGuide:
    """Return the guide to fit θ with where none was named."""
    if model.facts(x).exact:
        return "exact"
    specs = [spec_of(guide) for guide in asked]
    amortised = [spec.text for spec in specs if spec is not None and spec.amortised]
    first = asked[0]
    return (amortised or [model.train_with])[0] or (first.written if isinstance(first, Guide) else first)
