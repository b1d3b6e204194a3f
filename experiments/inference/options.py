"""Options of inference methods: dataclasses from which their checks, the command line and specs are made.

Nothing heavy is imported here, so that the command line can list them at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.errors import check_number


def option(
    default: Any, help: str, *, whole: bool = False, least: float | None = None, hidden: bool = False, key: str = "",
) -> Any:
    """Return the field of an options dataclass that holds one option.

    Args:
        default: its value where nobody says.
        help: what the option is, as the command line shows it.
        whole: whether the option is a whole number.
        least: the smallest number that it may be; ``None``: it is no number, or checked elsewhere.
        hidden: whether the command line and specs leave it out, since it can't be written.
        key: what the command line and specs call it, if not by its name.
    """
    return dataclasses.field(
        default=default, compare=not hidden,
        metadata={"help": help, "whole": whole, "least": least, "hidden": hidden, "key": key})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every method has.

    Attributes:
        steps: iterations or gradient steps, at most; ``None``: as many as the method takes where nobody says.

    Raises:
        ZooError: a number that is none, or out of its range.
    """

    #: Steps of a run at most where ``steps`` is left out.
    most: ClassVar[int] = 1000

    steps: int | None = option(None, "Most steps of a fit.", whole=True, least=1)

    def __post_init__(self) -> None:
        for known in dataclasses.fields(self):
            value, least = getattr(self, known.name), known.metadata["least"]
            if least is not None and (value is not None or known.default is not None):
                mend = "mend it" if known.default is not None else "leave it out for the default"
                check_number(known.name, value, whole=known.metadata["whole"], least=least, mend=mend)

    @property
    def limit(self) -> int:
        """Steps that a run takes at most."""
        return self.most if self.steps is None else self.steps

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Any:
        """Return options from those of ``given`` that the method has."""
        return cls(**{name: value for name, value in given.items() if name in names(cls)})


def names(options: type[Options]) -> list[str]:
    """Return the names of the options of a method.

    >>> names(Options)
    ['steps']
    """
    return [known.name for known in dataclasses.fields(options)]


@dataclass(frozen=True, kw_only=True)
class EMOptions(Options):
    """The options of ``em``.

    Attributes:
        accelerate: extrapolate the steps, see :class:`experiments.optimisers.anderson.Anderson`: far fewer where EM creeps, and
            as monotone. The maximum that it comes to may be another one of several.
    """

    accelerate: bool = option(False, "Extrapolate the steps.")


@dataclass(frozen=True, kw_only=True)
class FixedDrawsOptions(Options):
    """The options of ``fixed_draws``.

    Attributes:
        draws: of z per unit, at the start and the end; ``None``: as few as do, doubled until fresh draws agree.
    """

    draws: int | None = option(None, "Draws of z per unit of a fit; of svi, per step.", whole=True, least=1, key="train_draws")
