"""Guides by their written form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, WHOLE
from guides.spec import GuideSpec, parse
from zoo.errors import ZooError
from zoo.registry import load

if TYPE_CHECKING:
    from torch import Tensor

    from guides.families.family import Start
    from guides.guide import BaseGuide
    from zoo.data import Data
    from zoo.model import Model


def build(text: str, model: Model, x: Data, seed: int | None = 0, **amortisation: Any) -> BaseGuide:
    """Build the guide written ``text`` for ``model`` on ``x``, with all its parameters at their start.

    Args:
        text: ``family[:amortisation]``, e.g. ``mean_field`` or ``low_rank(4):encoder``.
        model: the model.
        x: the data: a ``free`` guide has parameters for each of its units.
        seed: of what the start draws at random; ``None`` uses torch's generator as it is.
        amortisation: more arguments for the amortisation, e.g. ``network=`` for an encoder.

    Raises:
        ZooError: unknown family or amortisation, wrong arguments, or a guide that does not fit the model.

    >>> import zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> build("low_rank(3)", zoo.build("eight_schools", x), x).size
    50
    """
    from guides.families.family import Start

    return _built(text, model, x, seed, Start.of, amortisation)


def sketch(text: str, model: Model, x: Data) -> BaseGuide:
    """Return the guide written ``text`` with standard normals where :func:`build` asks the prior: quick, and no place to begin.

    It tells what the guide is, so what can fit it.

    Raises:
        ZooError: as of :func:`build`.

    >>> import zoo
    >>> x = zoo.dataset("eight_schools").x
    >>> sketch("low_rank(3)", zoo.build("eight_schools", x), x).size
    50
    """
    from guides.families.family import Start

    return _built(text, model, x, 0, Start.standard, {})


def _built(
    text: str, model: Model, x: Data, seed: int | None, start: Callable[[Model, Data], Start],
    amortisation: Mapping[str, Any],
) -> BaseGuide:
    from zoo.program.calls import as_data

    x = as_data(x)
    spec = parse(text)
    spec.check(model.facts(x))
    if spec.family in WHOLE:
        whole: BaseGuide = load(WHOLE[spec.family].path)(model, text)
        whole.fit_to(x)
        return whole
    if spec.source is not None:
        source = _built(spec.source.text, model, x, seed, start, amortisation)
        drawn: BaseGuide = load(DRAWN[spec.family].path)(model, source, model.latents(x), spec.text)
        drawn.fit_to(x)
        return drawn
    make = _build_joint if spec.shared is None else _build_blocks
    guide = make(spec, model, x, seed, start, amortisation)
    guide.fit_to(x)
    return guide


def _build_joint(
    spec: GuideSpec, model: Model, x: Data, seed: int | None, start: Callable[[Model, Data], Start],
    amortisation: Mapping[str, Any],
) -> BaseGuide:
    """Build a guide that is one joint distribution over each unit's latents."""
    from guides.amortisation import Free
    from guides.guide import Guide
    from zoo.data import FEW, subsample_rows
    from zoo.program.run import seeded

    facts = model.facts(x)
    if AMORTISATIONS[spec.amortisation].units == ("rows",) and not model.latents(x).rows_first:
        raise ZooError(
            f"expected the units of {facts.name} along the first dimension of its observations for '{spec.text}'; got them "
            "along another; transpose x and the program's plates")
    positional, named = spec.amortisation_arguments
    make_family, make_part = load(FAMILIES[spec.family].path), load(AMORTISATIONS[spec.amortisation].path)
    if spec.amortisation_arguments[1].get("shared") is not None:
        raise ZooError(
            f"expected shared=True in a guide of two blocks, such as full_rank+{spec.text}; got '{spec.text}'; leave it out")
    _check_arguments(spec, make_family, make_part, amortisation)
    # A guide that serves units it has not seen is as well started on some of very many, and all of them alike.
    shared = make_part.new_units and facts.units == "rows"
    seen, few = (subsample_rows(x), subsample_rows(x, FEW, beyond=FEW)) if shared else (x, x)
    units = model.latents(seen).units
    if few is not seen:
        model.runner.adopt(few, len(few))
    with seeded(seed):
        family = make_family(*spec.family_arguments[0], **spec.family_arguments[1])
        initial = family.initial(start(model, few))
        if few is not seen:
            initial = _mean_for_each(initial, units)
        if make_part is Free:
            amortisation = {**amortisation, "constants": family.constants(initial)}
        part = make_part(initial, seen, *positional, **named, **amortisation)
    return Guide(model, family, part, spec.text).eval()


def _build_blocks(
    spec: GuideSpec, model: Model, x: Data, seed: int | None, start: Callable[[Model, Data], Start],
    amortisation: Mapping[str, Any],
) -> BaseGuide:
    """Build a guide of two blocks: a family of the shared latents, and one with an amortisation of each row's."""
    from guides.amortisation import Free
    from guides.blocks import BlockAmortisation, BlockGuide
    from guides.families.blocks import block_family
    from zoo.program.run import seeded
    from zoo.structure.blocks import blocks

    found, shared = blocks(model, x), spec.shared
    assert found is not None and shared is not None, "a model with local latents has blocks"  # noqa: PT018
    latents, named = model.latents(x), dict(spec.amortisation_arguments[1])
    if AMORTISATIONS[spec.amortisation].network and any(site.plates[:1] != (found.plate,) for site in latents.observed):
        raise ZooError(
            f"expected the rows of plate '{found.plate}' along the first dimension of the observations of {model.label} for "
            f"'{spec.text}'; got them along another; transpose x and the program's plates")
    reads = named.pop("shared", False)
    if not isinstance(reads, bool):
        raise ZooError(f"expected shared=True or shared=False in '{spec.text}'; got {reads!r}; mend it")
    make_shared, make_family = load(FAMILIES[shared.family].path), load(FAMILIES[spec.family].path)
    make_part = load(AMORTISATIONS[spec.amortisation].path)
    _check_arguments(spec, make_family, make_part, amortisation)
    _check_arguments(shared, make_shared, Free, {})
    with seeded(seed):
        one, other = (
            make(*each.family_arguments[0], **each.family_arguments[1])
            for make, each in ((make_shared, shared), (make_family, spec)))
        family = block_family(found, one, other)
        of_shared, of_local = family.parts(start(model, x))
        first, initial = one.initial(of_shared), other.initial(of_local)
        if make_part is Free:
            amortisation = {**amortisation, "constants": other.constants(initial)}
        part = make_part(
            initial, x, *spec.amortisation_arguments[0], **named, **amortisation, shared=len(found.shared) if reads else 0)
        own = Free(first, x, one.constants(first))
    # A start's scale is a tenth of the prior's.
    phi = BlockAmortisation(own, part, of_shared.loc[0], 10 * of_shared.scale[0])
    return BlockGuide(model, family, phi, spec.text).eval()


def _check_arguments(
    spec: GuideSpec, make_family: Callable[..., Any], make_part: Callable[..., Any], more: Mapping[str, Any],
) -> None:
    """Raise unless a family and an amortisation take the arguments that are written in ``spec``, and the latter ``more``."""
    positional, named = spec.amortisation_arguments
    try:
        inspect.signature(make_family).bind(*spec.family_arguments[0], **spec.family_arguments[1])
        inspect.signature(make_part).bind(None, None, *positional, **named, **more)
    except TypeError as error:
        raise ZooError(
            f"expected arguments that '{spec.text}' takes; got others: {error}; 'zoo list' shows guides") from error


def _mean_for_each(phi: Mapping[str, Tensor], units: int) -> dict[str, Tensor]:
    """Return the mean of some units' φ as the φ of each of ``units`` units."""
    return {name: value.mean(0, keepdim=True).expand(units, *value.shape[1:]) for name, value in phi.items()}
