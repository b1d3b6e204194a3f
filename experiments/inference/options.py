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
        default: the default value of the option.
        help: the description that the command line shows.
        whole: whether the option is a whole number.
        least: the smallest value that is allowed; ``None``: the option is not a number, or is checked elsewhere.
        hidden: whether the command line and specs lack the option, because its value can't be written as text.
        key: the name of the option on the command line and in specs, if it differs from the name of the field.
    """
    return dataclasses.field(
        default=default, compare=not hidden,
        metadata={"help": help, "whole": whole, "least": least, "hidden": hidden, "key": key})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every method has.

    Attributes:
        steps: the largest number of iterations or gradient steps; ``None``: the default of the method.

    Raises:
        ZooError: a value that is not a number, or a number out of its range.
    """

    #: Steps of a run at most where ``steps`` is left out.
    most: ClassVar[int] = 1000

    steps: int | None = option(None, "Largest number of steps of the fit.", whole=True, least=1)

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
        accelerate: extrapolate the EM steps, see :class:`experiments.optimisers.anderson.Anderson`. Where EM converges slowly,
            the accelerated fit takes far fewer steps, and log p(x | θ) still never falls. If log p(x | θ) has several maxima,
            the accelerated fit may end at another maximum than plain EM.
    """

    accelerate: bool = option(False, "Extrapolate the EM steps (Anderson acceleration).")


@dataclass(frozen=True, kw_only=True)
class PathfinderOptions(Options):
    """The options of ``pathfinder``, whose steps are evaluations of the gradient, of all paths together.

    Attributes:
        paths: the number of paths.
        elbo_draws: the number of draws of z from which the ELBO of each candidate on a path is estimated.
    """

    paths: int = option(8, "Number of L-BFGS paths.", whole=True, least=1)
    elbo_draws: int = option(16, "Number of draws of z for the ELBO of each normal on a path.", whole=True, least=2)


@dataclass(frozen=True, kw_only=True)
class NUTSOptions(Options):
    """The options of ``nuts``, whose steps are transitions of all chains, those of the warm-up left out.

    Attributes:
        chains: the number of chains.
        warmup: transitions in which step sizes and metric adapt; their states are no draws.
        leapfrogs: rounds of leapfrog steps, of all chains together, after which no transition is begun.
    """

    most: ClassVar[int] = 1000

    chains: int = option(16, "Number of Markov chains.", whole=True, least=2)
    leapfrogs: int = option(40_000, "Rounds of leapfrog steps of all Markov chains, at most.", whole=True, least=1)
    warmup: int = option(200, "Transitions of Markov chains that adapt, and are no draws.", whole=True, least=20)


@dataclass(frozen=True, kw_only=True)
class PSISOptions(Options):
    """The options of ``psis``.

    Attributes:
        proposals: the number of draws of the source guide for each unit, that importance weights correct.
    """

    most: ClassVar[int] = 1

    proposals: int = option(8192, "Number of draws of the source guide that are corrected.", whole=True, least=100)


@dataclass(frozen=True, kw_only=True)
class AISOptions(Options):
    """The options of ``ais``, whose steps are doublings of the number of temperatures.

    Attributes:
        annealed: the number of annealed paths, each of which ends in a draw.
    """

    most: ClassVar[int] = 5

    annealed: int = option(512, "Number of annealed paths, each of which ends in a draw.", whole=True, least=16)


@dataclass(frozen=True, kw_only=True)
class FixedDrawsOptions(Options):
    """The options of ``fixed_draws``.

    Attributes:
        draws: the number of draws of z per unit, fixed for the whole fit; ``None``: the fit starts with few draws and doubles
            the number until fresh draws agree.
    """

    draws: int | None = option(
        None, "Number of draws of z per unit: the same draws for the whole fit in fixed_draws, new draws in each step in svi.",
        whole=True, least=1, key="train_draws")
