"""The spec of a run, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from experiments.inference.registry import check_options, entry, known_options
from experiments.runs.programs import is_own
from experiments.runtime.effort import effort
from guides.spec import default_guides, parse
from zoo.errors import ZooError, nearest
from zoo.registry import GREY_KINDS, MODELS, ModelEntry, lookup

#: What ``--name`` is to a command and ``name`` to a file: put before the key that an error is about.
FLAG = "--"
#: Runs that one grid may have, and fits that one run may: its seeds.
MOST_RUNS = 10_000


class Spec(BaseModel):
    """The spec of a run: a model, data and guides. Wrong values raise a one-line :class:`ZooError` through :func:`checked`.

    Attributes:
        command: ``compare``: fit θ once and each guide to it; ``fit``: fit θ and one guide together.
        options: the options of the model.
        fitting: the options of the method that are not at their defaults, see :mod:`experiments.inference.registry`. A spec
            gives these options beside the other keys, and calls the method's ``draws`` ``train_draws``; so does :meth:`plain`.
        seeds: for ``fit``, the number of seeds to fit from; the best fit is kept.

    The other attributes are the options of ``zoo compare`` and ``zoo fit`` of the same names. :meth:`of` makes a spec.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Literal["compare", "fit"] = "compare"
    model: str
    data: str
    guides: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    method: str | None = None
    draws: int | None = Field(None, ge=2, le=2**31 - 1)
    effort: str = "default"
    parameters: bool = False
    train_with: str | None = None
    train_model: bool = False
    simulate: bool = False
    holdout: float | None = Field(None, ge=0, lt=1)
    fitting: dict[str, Any] = Field(default_factory=dict)
    seeds: int = Field(1, ge=1, le=MOST_RUNS)
    binarise: Literal["static", "dynamic", "threshold"] | None = None
    target: str | None = None
    standardise: bool = False
    drop_constant: bool = False

    @classmethod
    def of(cls, **given: Any) -> Spec:
        """Return a spec, what was not given filled in as the model decides, see :func:`complete`.

        Raises:
            ZooError: the first thing that is wrong.

        >>> Spec.of(model="vae", seed=3).binarise
        'static'
        """
        return complete("", **given)

    def plain(self) -> dict[str, Any]:
        """Return all that is asked for as one table, what is left to the method or the model left out."""
        found = self.model_dump(mode="json")
        fitting = found.pop("fitting")
        return {name: value for name, value in {**found, **fitting}.items() if value is not None}

    @model_validator(mode="before")
    @classmethod
    def _fitting_apart(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        known = known_options()
        apart = given.get("fitting")
        given = {**apart, **given} if isinstance(apart, Mapping) else given
        fitting = _checked_fitting({key: value for key, value in given.items() if key in known})
        return {**{name: value for name, value in given.items() if name not in known}, "fitting": fitting}

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str | None) -> str | None:
        if value is not None:
            entry(value)
        return value

    @field_validator("effort")
    @classmethod
    def _known_effort(cls, value: str) -> str:
        effort(value)
        return value

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if not is_own(value):
            lookup(MODELS, value, "model")
        return value

    @field_validator("guides")
    @classmethod
    def _known_guides(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse(text)
        return value

    @model_validator(mode="after")
    def _one_guide_to_fit(self) -> Spec:
        if self.command == "fit" and len(self.guides) > 1:
            raise ZooError(f"expected one guide; got {', '.join(self.guides)}; 'zoo compare' takes several")
        return self


def _checked_fitting(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of the methods, and return those that are not at their defaults."""
    known = known_options()
    named = {key: value for key, value in given.items() if value is not None}
    check_options({known[key].name: value for key, value in named.items()})
    return {key: value for key, value in named.items() if value != known[key].default}


def checked(where: str = FLAG, **given: Any) -> Spec:
    """Build a :class:`Spec`, or say in one line what is wrong with the first wrong value; ``where`` goes before its name.

    >>> checked(model="gmm", data="faithful", steps=-3)
    Traceback (most recent call last):
    ...
    zoo.errors.ZooError: --steps: expected steps as a whole number from 1; got -3; leave it out for the default
    """
    for key in known_options():
        _check_option(where, key, given.get(key))
    try:
        return Spec(**given)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        key = ".".join(map(str, first["loc"]))
        if isinstance(cause, ZooError):
            raise (ZooError(f"{key}: {cause}") if where != FLAG and key else cause) from None
        name = where + (key.replace("_", "-") if where == FLAG else key)
        if first["type"] == "extra_forbidden":
            hint = nearest(key, keys()) or f"; choose from {', '.join(keys())}"
            raise ZooError(f"{name}: unknown key{hint}") from None
        text = first["msg"][0].lower() + first["msg"][1:]
        given_value = "" if first["type"] == "missing" else f"; got {_short(first['input'])}"
        raise ZooError(f"{name}: {text}{given_value}") from None


def _check_option(where: str, key: str, value: Any) -> None:
    """Check one option of the methods by itself, so that an error can say which key it is of."""
    if value is None:
        return
    try:
        check_options({known_options()[key].name: value})
    except ZooError as error:
        raise ZooError(f"{where}{key.replace('_', '-') if where == FLAG else key}: {error}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def complete(where: str = FLAG, **given: Any) -> Spec:
    """Check what was asked, in the order a person would mend it, and fill in what the model decides.

    That is its data, its guides, whether its columns are standardised, and how images are binarised. Nothing is loaded but the
    model's class.

    Raises:
        ZooError: the first thing that is wrong: an unknown name, an option that the model does not have, a guide that does not
            fit it, a number out of range.

    >>> complete(model="gmm").guides
    ('exact', 'categorical', 'categorical:encoder')
    """
    if not isinstance(given.get("model"), str):
        return checked(where, **given)
    if is_own(given["model"]):
        return checked(where, **_as_it_is(where, given))
    with _keyed(where, "model"):
        known = lookup(MODELS, given["model"], "model")
    spec = checked(where, **{**given, **_decided(known, given)})
    with _keyed(where, "guides"):
        for guide in spec.guides:
            parse(guide).check(known.facts(spec.model))
    with _keyed(where, "train_with"):
        if spec.train_with is not None:
            parse(spec.train_with).check(known.facts(spec.model))
    from zoo.construct import check_options

    with _keyed(where, "options"):
        check_options(spec.model, spec.options)
    if known.units == "dataset" and spec.holdout:
        raise ZooError(f"expected no --holdout for {spec.model}, whose latents all rows share: one unit; leave it out")
    return spec


def _as_it_is(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of a program of the user's own, which reads the data as it is: they, and what fits it, come later.

    Raises:
        ZooError: no data, or what only registered models have.
    """
    unused = [key for key in ("binarise", "target", "standardise", "drop_constant") if given.get(key)]
    unused += [str(name) for name in given.get("options") or {}]
    if unused:
        word = where + (unused[0].replace("_", "-") if where == FLAG else unused[0])
        raise ZooError(f"expected an option for a program that reads the data as it is; got {word}; leave it out")
    if given.get("data") is None:
        raise ZooError("expected a file of data for a program of your own; got none; name one with --data")
    return {key: value for key, value in given.items() if key not in ("standardise", "drop_constant", "options")}


def _decided(known: ModelEntry, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model decides where it was not ``given``: standardisation, binarisation, guides and data."""
    options = given.get("options") or {}
    named: Mapping[str, Any] = options if isinstance(options, Mapping) else {}
    decided: dict[str, Any] = {}
    if given.get("standardise") is None:
        decided["standardise"] = known.standardises(dict(named))
    kind = known.kind(dict(named))
    if given.get("binarise") is None and kind in GREY_KINDS:
        decided["binarise"] = "static"
    if not given.get("guides"):
        guides = tuple(default_guides(known.facts(given["model"])))
        decided["guides"] = guides[:1] if given.get("command") == "fit" else guides
    if given.get("data") is None:
        decided["data"] = known.data
    return decided


@contextmanager
def _keyed(where: str, key: str) -> Iterator[None]:
    """Put the key that an error is about before it, where a file was read; a command's errors name the word itself."""
    try:
        yield
    except ZooError as error:
        raise (error if where == FLAG else ZooError(f"{key}: {error}")) from None


def kind_of(spec: Spec) -> str:
    """Return the kind of data that the model of ``spec`` takes, with its options."""
    return MODELS[spec.model].kind(dict(spec.options))


def keys() -> list[str]:
    """Return the keys that a spec may have.

    >>> "learning_rate" in keys(), "train_draws" in keys()
    (True, True)
    """
    return [*(name for name in Spec.model_fields if name != "fitting"), *known_options()]


def fitting_options(spec: Spec) -> dict[str, Any]:
    """Return the options of the method that were given, those at their defaults left out.

    >>> fitting_options(checked(model="vae", data="digits", clip=1.0, train_draws=2))
    {'clip': 1.0, 'draws': 2}
    """
    return {known_options()[key].name: value for key, value in spec.fitting.items()}
