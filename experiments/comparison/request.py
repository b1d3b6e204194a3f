"""The request for a comparison: which guides, on which units, with which θ; completed and checked before anything is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from experiments.inference.registry import entry
from guides.guide import AnyGuide, BaseGuide, paired
from guides.spec import GuideSpec, default_guides, parse
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import Program
from zoo.registry import Facts

#: Guides to compare: one, several, or by the names of their rows, each alone or with the options of its fit.
Guides: TypeAlias = "AnyGuide | Sequence[AnyGuide] | Mapping[str, AnyGuide | tuple[AnyGuide, Mapping[str, Any]]]"


@dataclass(frozen=True)
class Entry:
    """A guide to compare.

    Attributes:
        guide: the guide.
        name: what its row is called; empty: as the guide is.
        options: of its fit alone, in place of those of all fits.
    """

    guide: AnyGuide
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str | None:
        """The method of its fit; ``None``: as of all fits."""
        return self.options.get("method")

    @property
    def fit_options(self) -> dict[str, Any]:
        """The options of the method."""
        return {name: value for name, value in self.options.items() if name != "method"}

    @classmethod
    def of(cls, name: str, given: Any) -> Entry:
        """Return the entry that a guide, or a pair of a guide and options, stands for under a name.

        Raises:
            ZooError: anything else.
        """
        guide, options = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
        named = isinstance(options, Mapping) and all(isinstance(key, str) for key in options)
        if not _is_guide(guide) or not named:
            raise ZooError(
                f"expected a guide, or a pair of a guide and options of its fit, for row '{name}'; got {given!r}; e.g. "
                "('mean_field:encoder', {'steps': 500})")
        if not name or not isinstance(name, str) or name == THETA:
            raise ZooError(f"expected a name for each guide, other than {THETA}, the fit of the model; got {name!r}; change it")
        return cls(guide, name, options)


#: What the fit of θ is called.
THETA = "theta"


@dataclass(frozen=True)
class Request:
    """What :func:`experiments.compare` is asked for; its arguments of the same names say more."""

    guides: Guides | None = None
    seed: int = 0
    method: str | None = None
    train_with: str | None = None
    train_model: bool = False
    holdout: float | None = None
    view: Callable[[Tensor], Tensor] | None = None
    simulate: bool = False

    @property
    def entries(self) -> list[Entry]:
        """The guides with their names and options, one alone as a list of one."""
        given: Any = self.guides
        if isinstance(given, Mapping):
            return [Entry.of(name, value) for name, value in given.items()]
        return [Entry(given)] if _is_guide(given) else [Entry(guide) for guide in given or ()]

    @property
    def asked(self) -> list[AnyGuide]:
        """The guides alone."""
        return [entry.guide for entry in self.entries]

    @property
    def trainer(self) -> Entry | None:
        """The row that ``train_with`` names, or the guide that it writes; ``None`` where nothing is said."""
        if self.train_with is None:
            return None
        return next((entry for entry in self.entries if entry.name == self.train_with), Entry(self.train_with))

    @property
    def of_given_units(self) -> bool:
        """Whether a guide is built for all of x already, or trains a θ of its own and can't be built anew for fewer units."""
        built = any(isinstance(guide, BaseGuide) and not guide.new_units for guide in self.asked)
        return built or (self.train_model and not all(isinstance(guide, str) for guide in self.asked))

    def model(self, given: Model | Program) -> Model:
        """Return the model that the built guides are of; else ``given`` as a model."""
        return paired(given, next((guide for guide in self.asked if isinstance(guide, BaseGuide)), None))

    def completed(self, model: Model, facts: Facts) -> Request:
        """Return the request with guides and hold-out where none were named.

        Raises:
            ZooError: what can't be compared on a model with these ``facts``.
        """
        done = self if self.guides is not None else replace(self, guides=default_guides(facts))
        done.check(model, facts)
        if done.holdout is None:
            done = replace(done, holdout=0.0 if facts.units == "dataset" or done.of_given_units else model.holdout)
        if done.holdout and done.of_given_units:
            raise ZooError(
                f"expected no holdout for guides that are built for all of x, or train a θ of their own; got {done.holdout}; "
                "pass guides as written, e.g. 'mean_field', or holdout=0")
        return done

    def check(self, model: Model, facts: Facts) -> None:
        """Raise for guides that do not fit or come twice, before anything is fitted."""
        if not self.asked:
            raise ZooError("expected at least one guide to compare; got none; name some, e.g. mean_field")
        for guide in self.asked:
            if isinstance(guide, BaseGuide):
                paired(model, guide)
        for guide in self.asked:
            if not _is_guide(guide):
                raise ZooError(
                    f"expected guides: written, built or Pyro's own; got {guide!r}; options go with a name, guides={{'name': "
                    "(guide, options)}")
        built = [guide for guide in self.asked if isinstance(guide, nn.Module)]
        twice = next((one for i, one in enumerate(built) if any(one is other for other in built[:i])), None)
        if twice is not None:
            what = twice.text if isinstance(twice, BaseGuide) else type(twice).__name__
            raise ZooError(f"expected each built guide once; got '{what}' for several rows, which would share it; copy it")
        known = [spec for spec in map(spec_of, self.asked) if spec is not None]
        if not isinstance(self.guides, Mapping):  # where rows have names, one guide may come with several options
            check_distinct(known)
        for spec in known:
            if spec.method:
                entry(spec.method)
        with_theta = [] if self.trainer is None else filter(None, [spec_of(self.trainer.guide)])
        for spec in [*known, *with_theta]:
            spec.check(facts)
        if self.simulate and self.train_model:
            raise ZooError(
                "expected one θ to simulate from; got train_model, where each guide has its own; leave one of them out")


def split_guides(
    values: tuple[Any, ...], guides: Guides | None,
) -> tuple[tuple[Any, ...], Guides | None]:
    """Split what a comparison is called with into the program's arguments and the guides, which may come last."""
    if guides is None and len(values) > 1 and _are_guides(values[-1]):
        return values[:-1], values[-1]
    return values, guides


def _are_guides(value: Any) -> bool:
    """Return whether a value is a guide, or several: data are tensors, arrays, frames and mappings of them."""
    if isinstance(value, list | tuple):
        return all(map(_are_guides, value))
    if isinstance(value, Mapping):
        return bool(value) and all(_is_guide(part[0] if isinstance(part, tuple) else part) for part in value.values())
    return _is_guide(value)


def _is_guide(value: Any) -> bool:
    return isinstance(value, str) or callable(value)


def check_distinct(specs: Sequence[GuideSpec]) -> None:
    """Raise a :class:`ZooError` for a guide that is asked for twice, however it is written."""
    for i, spec in enumerate(specs):
        if any(spec.same(other) for other in specs[:i]):
            raise ZooError(f"expected each guide once; got '{spec.text}' twice; drop one")


def spec_of(guide: AnyGuide) -> GuideSpec | None:
    """Return how a guide of ours is written; ``None`` for another Pyro guide."""
    if isinstance(guide, str):
        return parse(guide)
    if not isinstance(guide, BaseGuide):
        return None
    try:
        return parse(guide.written)
    except ZooError:
        return None
