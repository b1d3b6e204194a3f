"""What registries hold: entries of models and data sets, those of other packages among them, and how they are looked up."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from zoo.errors import ZooError, ZooWarning, nearest

E = TypeVar("E")


class Registry(Mapping[str, E]):
    """A registry: the library's own entries by name, and those of other packages that are installed.

    Another package offers an entry by an entry point of the group ``latent_zoo.KIND``: its name is the entry's, its object an
    entry of the registry's kind, in a module that imports nothing heavy. It is loaded where the registry is listed, or where a
    name is not the library's own. An entry point that fails, or whose name is taken, is left out with a warning.

    Args:
        kind: ``models``, ``datasets``, ``guides`` or ``methods``.
        own: the library's entries.
    """

    def __init__(self, kind: str, own: Mapping[str, E]):
        self.kind, self._own = kind, dict(own)
        self._sources: dict[str, str] = {}

    @cached_property
    def _others(self) -> dict[str, E]:
        from importlib.metadata import entry_points

        expected: type = type(next(iter(self._own.values())))
        found: dict[str, E] = {}
        for point in sorted(entry_points(group=f"latent_zoo.{self.kind}"), key=lambda point: point.name):
            package = point.dist.name if point.dist is not None else point.value.partition(":")[0]
            try:
                entry = point.load()
                reason = "" if isinstance(entry, expected) else f"a {type(entry).__name__}"
                reason = f"a name that {self._sources.get(point.name, 'the library')} has" if point.name in {
                    **self._own, **found} else reason
            except Exception as error:  # whatever another package's import raises
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            if reason:
                warnings.warn(ZooWarning(
                    f"expected {self.kind} '{point.name}' of package {package} as a {expected.__name__}; got {reason}; it is "
                    "left out"), stacklevel=3)
                continue
            found[point.name] = entry
            self._sources[point.name] = package
        return found

    def source(self, name: str) -> str:
        """Return the package that an entry is of; empty for the library's own."""
        return "" if name in self._own else self._sources.get(name, "")

    def __getitem__(self, name: str) -> E:
        return self._own[name] if name in self._own else self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **self._others})

    def __len__(self) -> int:
        return len(self._own) + len(self._others)


@dataclass(frozen=True)
class Facts:
    """The facts of a model that decide which guides fit it.

    Attributes:
        latents: ``"continuous"``, ``"discrete"`` (finite support, enumerated) or ``"none"`` (functions of x).
        units: ``"rows"`` where each row of x owns its latents, ``"dataset"`` where all rows share them.
        exact: whether p(z | x, θ) is known in closed form or by enumeration.
        name: how errors call the model.
        local: whether rows that share latents also have latents of their own: see :mod:`zoo.program.sites.blocks`.
    """

    latents: str
    units: str
    exact: bool
    name: str = "this model"
    local: bool = False

    @property
    def owners(self) -> str:
        """Whose the latents are, in words."""
        return "per row" if self.units == "rows" else "shared, and per row" if self.local else "shared"


@dataclass(frozen=True)
class ModelEntry:
    """One registered model.

    ``path`` is ``module:class``; ``takes`` the kind of data its program reads; ``data`` the data set it is shown on where
    none is named; ``standardise`` whether its priors expect standardised columns; ``by_option`` the kinds of data that values
    of its options ask for instead: {option: {value: kind}}; ``local`` whether rows that share latents also have their own.
    """

    path: str
    summary: str
    takes: str
    data: str
    latents: str
    units: str
    exact: bool
    standardise: bool = False
    by_option: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    local: bool = False

    def kind(self, options: Mapping[str, Any]) -> str:
        """Return the kind of data that the model takes with these ``options``."""
        named = (kinds[str(options[name])] for name, kinds in self.by_option.items() if str(options.get(name)) in kinds)
        return next(named, self.takes)

    def standardises(self, options: Mapping[str, Any]) -> bool:
        """Whether the columns are standardised where nobody says; images and counts never are."""
        return self.standardise and self.kind(options) not in ("counts", "responses", *GREY_KINDS)

    def facts(self, name: str) -> Facts:
        return Facts(self.latents, self.units, self.exact, name, self.local)


@dataclass(frozen=True)
class DataEntry:
    """One registered data set.

    Attributes:
        path: ``module:function``; the function takes nothing and returns a new :class:`zoo.datasets.frame.Frame` at each call.
            A file ``zoo/datasets/csv/NAME.csv`` needs none: its path is ``zoo.datasets.tables:NAME``.
        summary: in a line.
        gives: the kinds of data that it can serve as, the usual one first. One that gives a kind with a target sets the
            frame's ``target`` and ``target_name``, one that gives a kind with groups ``group`` and ``groups``, one that gives
            ``effects`` has columns y and sigma.
        needs: the optional package that holds it.
    """

    path: str
    summary: str
    gives: tuple[str, ...]
    needs: str = ""


#: The kinds of data a model may take, and what a file must hold to be one.
KINDS: Mapping[str, str] = {
    "table": "numeric columns",
    "regression": "numeric columns and a numeric target",
    "binary": "numeric columns and a target of two classes",
    "count_regression": "numeric columns and a target of whole numbers from 0 up",
    "grouped_regression": "numeric columns, a numeric target, and the rows' groups: a column named group, or one of words",
    "grouped_counts": "the same with a target of whole numbers from 0 up",
    "effects": "columns y and sigma: estimates with standard errors",
    "images": "numbers in [0, 1], a row an image",
    "counts": "whole numbers from 0 up",
    "responses": "0 and 1, a row a person, a column an item",
    "labelled": "numeric columns, and a target of classes that may be empty in some rows",
    "labelled_images": "numbers in [0, 1], a row an image, and a target of classes that may be empty in some rows",
    "sequences": "a column 'sequence' that names each row's sequence, and numeric columns; rows in order",
    "series": "a numeric column, a row a time, and at most one other column, of evenly spaced times or of words",
    "ratings": "columns user, item and rating: a row a pair that was seen",
    "symbols": "a column 'sequence', and one of words or numbers; rows in order",
}

#: The kinds whose values are grey in [0, 1]: a command binarises them where nobody says how.
GREY_KINDS = ("images", "labelled_images")


def lookup(registry: Mapping[str, E], name: str, kind: str, shown: str = "zoo list") -> E:
    """Return the entry ``name``, or raise a :class:`ZooError` that offers the nearest name and the command that lists all.

    >>> from zoo.registry import MODELS
    >>> lookup(MODELS, "gmn", "model")
    Traceback (most recent call last):
    ...
    zoo.errors.ZooError: unknown model 'gmn'; did you mean 'gmm'? 'zoo list' shows all
    """
    if name in registry:
        return registry[name]
    hint = nearest(name, registry)
    raise ZooError(f"unknown {kind} '{name}'{hint or ';'} '{shown}' shows all")


def lazy(package: str, paths: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that loads the names of ``paths`` when they are first used."""

    def get(name: str) -> Any:
        if name not in paths:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return load(paths[name])

    return get


def load(path: str) -> Any:
    """Import ``module:attribute``."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
