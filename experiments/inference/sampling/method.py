"""What methods that sample have in common: they fit guides that are known by draws, whose source is fitted before."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from experiments.inference.method import Method, Problem
from experiments.inference.options import Options
from guides.drawn import Drawn

OptionsT = TypeVar("OptionsT", bound=Options)


class SamplingMethod(Method[OptionsT]):
    """A method that leaves draws in a :class:`guides.Drawn` guide, and moves neither φ nor θ."""

    climbs: ClassVar[bool] = False
    fits_density: ClassVar[bool] = False
    fits_draws: ClassVar[bool] = True

    def misfit(self, problem: Problem) -> str:
        return ""  # what a model can't do shows at its first draw

    @staticmethod
    def drawn(problem: Problem) -> Drawn:
        """Return the guide of a problem, which has no density."""
        assert isinstance(problem.guide, Drawn), "the registry lets no others through"
        return problem.guide
