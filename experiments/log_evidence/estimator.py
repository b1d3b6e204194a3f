"""The protocol of an estimator of log p(x | θ): what is asked, what it can't answer, and its answer."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from experiments.log_evidence.result import Evidence
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model


@dataclass(frozen=True)
class Question:
    """What log p(x | θ) is asked of, and with what.

    Attributes:
        model: with its θ, in evaluation mode.
        x: the data.
        guides: whose draws may be taken, the best first; there may be none.
        draws: of importance weights, per unit; ``None``: each estimator's own number.
        seed: of all that is drawn.
        exact: draws of the exact posterior (draws, units, d), where they are known.
        precision: nats that each unit's standard error may have; ``None``: none is asked for.
    """

    model: Model
    x: Data
    guides: Sequence[BaseGuide] = ()
    draws: int | None = None
    seed: int = 0
    exact: Tensor | None = None
    precision: float | None = None


class Unsettled(ZooError):
    """An estimator came to no number that can be trusted."""


class Unknown(ZooError):
    """A model does not know of itself what an estimator takes."""


class Estimator(abc.ABC):
    """One way to log p(x | θ). Its entry in :mod:`experiments.log_evidence.registry` says what it is worth."""

    @abc.abstractmethod
    def misfit(self, question: Question) -> str:
        """Return why the estimator can't answer ``question``, as a whole error line; empty where it can."""

    @abc.abstractmethod
    def run(self, question: Question) -> Evidence:
        """Answer.

        Raises:
            Unknown: the model does not know what it takes. The next estimator is then asked.
            Unsettled: no number that can be trusted came out. The next one is then asked, too, and a warning says why.
            ZooError: the question itself is wrong.
        """


def no_guide(question: Question) -> str:
    """Return that an estimator lacks a guide to draw from; empty where there is one."""
    if question.guides:
        return ""
    return (
        f"expected a guide to bound the evidence of {question.model.label}, which knows none exactly; got none; pass guide=")
