"""What a command was asked to do, checked before anything runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from guides.registry import parse
from zoo.errors import ZooError
from zoo.registry import MODELS, lookup


class Spec(BaseModel):
    """A model on data with guides. Wrong values raise a one-line :class:`ZooError` through :func:`checked`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    validation: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(10, ge=1)
    seeds: int = Field(1, ge=1)
    binarise: Literal["static", "dynamic", "threshold"] | None = None
    target: str | None = None
    standardise: bool = False
    drop_constant: bool = False

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


def checked(**given: Any) -> Spec:
    """Build a :class:`Spec`, or say in one line what is wrong with the first wrong value.

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
        if isinstance(cause, ZooError):
            raise cause from None
        where = "--" + ".".join(map(str, first["loc"])).replace("_", "-")
        text = first["msg"][0].lower() + first["msg"][1:]
        raise ZooError(f"{where}: {text}; got {first['input']!r}") from None


#: Fields of a :class:`Spec` that are options of ``svi``.
TRAINING = ("batch_size", "learning_rate", "objective", "estimator", "schedule", "clip", "warm_up", "validation", "patience")


def training(spec: Spec) -> dict[str, Any]:
    """Return the options of ``svi`` that were given, those at their defaults left out.

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
