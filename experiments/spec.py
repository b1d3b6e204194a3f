"""What a command was asked to do, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guides.registry import default_guides, parse
from zoo.errors import ZooError, nearest
from zoo.registry import MODELS, lookup

#: What ``--name`` is to a command and ``name`` to a file: put before the key that an error is about.
FLAG = "--"


class Spec(BaseModel):
    """What a run does: a model on data with guides. Wrong values raise a one-line :class:`ZooError` through :func:`checked`.

    Attributes:
        command: ``compare``: fit θ once and each guide to it; ``fit``: fit θ and one guide together.
        options: the model's own.
        seeds: of ``fit``: from how many seeds, of which the best is kept.

    The others are what the options of ``zoo compare`` and ``zoo fit`` of the same names are. :meth:`of` makes one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Literal["compare", "fit"] = "compare"
    model: str
    data: str
    guides: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    method: Literal["em", "fixed_draws", "svi"] | None = None
    steps: int | None = Field(None, ge=1)
    draws: int | None = Field(None, ge=2)
    train_draws: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    train_with: str | None = None
    train_model: bool = False
    simulate: bool = False
    holdout: float | None = Field(None, ge=0, lt=1)
    objective: str = "elbo"
    estimator: str = "reparameterised"
    schedule: str = "cosine"
    clip: float | None = Field(None, gt=0)
    warm_up: int = Field(0, ge=0)
    validation: float | None = Field(None, ge=0, lt=1)
    patience: int = Field(10, ge=1)
    accelerate: bool = False
    compile: bool = False
    seeds: int = Field(1, ge=1)
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

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
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


def checked(where: str = FLAG, **given: Any) -> Spec:
    """Build a :class:`Spec`, or say in one line what is wrong with the first wrong value; ``where`` goes before its name.

    >>> checked(model="gmm", data="faithful", steps=-3)
    Traceback (most recent call last):
    ...
    zoo.errors.ZooError: --steps: input should be greater than or equal to 1; got -3
    """
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
            hint = nearest(key, Spec.model_fields) or f"; choose from {', '.join(Spec.model_fields)}"
            raise ZooError(f"{name}: unknown key{hint}") from None
        text = first["msg"][0].lower() + first["msg"][1:]
        given_value = "" if first["type"] == "missing" else f"; got {_short(first['input'])}"
        raise ZooError(f"{name}: {text}{given_value}") from None


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
    with _keyed(where, "model"):
        entry = lookup(MODELS, given["model"], "model")
    options = given.get("options") or {}
    named: Mapping[str, Any] = options if isinstance(options, Mapping) else {}
    if given.get("standardise") is None:
        given["standardise"] = entry.standardises(dict(named))
    kind = entry.kind(dict(named))
    if given.get("binarise") is None and kind == "images":
        given["binarise"] = "static"
    if not given.get("guides"):
        guides = tuple(default_guides(entry.facts(given["model"])))
        given["guides"] = guides[:1] if given.get("command") == "fit" else guides
    if given.get("data") is None:
        given["data"] = entry.data
    spec = checked(where, **given)
    with _keyed(where, "guides"):
        for guide in spec.guides:
            parse(guide).check(entry.facts(spec.model))
    with _keyed(where, "train_with"):
        if spec.train_with is not None:
            parse(spec.train_with).check(entry.facts(spec.model))
    from zoo.construct import check_options

    with _keyed(where, "options"):
        check_options(spec.model, spec.options)
    if entry.units == "dataset" and spec.holdout:
        raise ZooError(f"expected no --holdout for {spec.model}, whose latents all rows share: one unit; leave it out")
    return spec


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


#: Fields of a :class:`Spec` that are options of one method.
TRAINING = (
    "batch_size", "learning_rate", "objective", "estimator", "schedule", "clip", "warm_up", "validation", "patience",
    "accelerate", "compile")


def training(spec: Spec) -> dict[str, Any]:
    """Return the options of ``svi`` and ``em`` that were given, those at their defaults left out.

    >>> training(checked(model="vae", data="digits", clip=1.0))
    {'clip': 1.0}
    """
    return {name: getattr(spec, name) for name in TRAINING if getattr(spec, name) != Spec.model_fields[name].default}


def read_options(words: list[str]) -> dict[str, Any]:
    """Read a model's own options, ``--components 4 --centred``, as a command line has them.

    Raises:
        ZooError: a word that belongs to no option.

    >>> read_options(["--components", "4", "--covariance=tied", "--centred"])
    {'components': 4, 'covariance': 'tied', 'centred': True}
    """
    options: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ZooError(f"expected an option; got '{word}'; write a model's options as --name value")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        options[name.replace("-", "_")] = _literal(value)
    return options


def _literal(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "," in text:  # 400,200: widths of hidden layers
        parts = tuple(_literal(part) for part in text.strip("()").split(",") if part)
        return parts if all(isinstance(part, int) for part in parts) else text
    return {"true": True, "false": False}.get(text.lower(), text)
