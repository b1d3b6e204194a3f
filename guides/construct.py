"""Guides by their written form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from guides.registry import AMORTISATIONS, FAMILIES, WHOLE, GuideSpec, parse
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
    from guides.amortisation import Free
    from guides.guide import Guide
    from zoo.data import FEW, subsample_rows
    from zoo.program.calls import as_data
    from zoo.program.run import seeded

    x = as_data(x)
    spec = parse(text)
    facts = model.facts(x)
    spec.check(facts)
    if spec.family in WHOLE:
        whole: BaseGuide = load(WHOLE[spec.family].path)(model, text)
        return whole
    if AMORTISATIONS[spec.amortisation].units == ("rows",) and not model.latents(x).rows_first:
        raise ZooError(
            f"expected the units of {facts.name} along the first dimension of its observations for '{text}'; got them along "
            "another; transpose x and the program's plates")
    positional, named = spec.amortisation_arguments
    make_family, make_part = load(FAMILIES[spec.family].path), load(AMORTISATIONS[spec.amortisation].path)
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
    return Guide(model, family, part, text).eval()


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
