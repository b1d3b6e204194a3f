"""Registered models by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, nearest
from zoo.registry import MODELS, load, lookup

if TYPE_CHECKING:
    from zoo.data import Data
    from zoo.model import Model


def options(name: str) -> dict[str, inspect.Parameter]:
    """Return the options of the registered model ``name``: its constructor's arguments after ``x``."""
    parameters = inspect.signature(load(lookup(MODELS, name, "model").path).__init__).parameters
    return {key: value for key, value in parameters.items() if key not in ("self", "x")}


#: What an option annotated so may be, and how an error calls it.
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"), "float": ((int, float), "a number"), "str": ((str,), "a word"),
    "bool": ((bool,), "true or false")}


def _check_type(option: inspect.Parameter, value: Any, name: str) -> None:
    annotation = getattr(option.annotation, "__name__", str(option.annotation))
    if annotation not in TYPES:
        return
    kinds, words = TYPES[annotation]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ZooError(
            f"expected option '{option.name}' of {name} to be {words}; got {value!r}; the default is {option.default}")


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Raise a :class:`ZooError` for the first of ``given`` that the model ``name`` does not have, or of the wrong type."""
    known = options(name) if given else {}  # of none, the model's class need not be imported
    for key, value in given.items():
        if key not in known:
            hint = nearest(key, known) or f"; it has {', '.join(known) or 'none'}"
            raise ZooError(f"unknown option '{key}' of {name}{hint}")
        _check_type(known[key], value, name)


def build(name: str, x: Data, seed: int | None = 0, **given: Any) -> Model:
    """Build the registered model ``name``, sized by and started from ``x``.

    Args:
        name: a key of :data:`zoo.MODELS`.
        x: the data.
        seed: of what the start draws at random; ``None`` uses torch's generator as it is.
        given: the model's own options.

    Raises:
        ZooError: unknown model or option, or data the model can't use.

    >>> import zoo
    >>> zoo.build("gmm", zoo.dataset("faithful").x, components=2)
    GMM(components=2, covariance=full, columns=2)
    """
    from zoo.program.run import seeded

    check_options(name, given)
    with seeded(seed):
        model: Model = load(MODELS[name].path)(x, **given)
    return model
