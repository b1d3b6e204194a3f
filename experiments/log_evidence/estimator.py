"""The protocol of an estimator of log p(x | θ): the question, why an estimator can't answer it, and the answer."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from experiments.log_evidence.result import Evidence
from experiments.runtime.budget import Budget
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model


@dataclass(frozen=True)
class Question:
    """The question that an estimator answers: model, data, guides, draws and seed.

    Attributes:
        model: the model with its θ, in evaluation mode; estimators call ``log_joint``, ``log_terms`` and ``sample_prior``.
        x: the data.
        guides: the guides whose draws may be used, the best first; may be empty.
        draws: the number of importance draws per unit; ``None``: each estimator's own number.
        seed: the seed of all random draws.
        exact: draws of the exact posterior (draws, units, d), if known.
        precision: the largest standard error of each unit's log p(x), in nats; ``None``: no limit. An estimator that misses the
            precision warns.
        budget: what may be spent.
    """

    model: Model
    x: Data
    guides: Sequence[BaseGuide] = ()
    draws: int | None = None
    seed: int = 0
    exact: Tensor | None = None
    precision: float | None = None
    budget: Budget = field(default_factory=Budget)


class Unsettled(ZooError):
    """An estimator came to no number that can be trusted."""


class Unknown(ZooError):
    """The model lacks the closed form that an estimator needs."""


class Estimator(abc.ABC):
    """One way to compute, estimate or bound log p(x | θ); :mod:`experiments.log_evidence.registry` says how reliable it is.

    Estimators are asked in the registry's order until one answers. If no estimator answers, the user sees the misfit of the
    last one.
    """

    @abc.abstractmethod
    def misfit(self, question: Question) -> str:
        """Return why the estimator can't answer ``question``, as a whole error line; empty where it can."""

    @abc.abstractmethod
    def run(self, question: Question) -> Evidence:
        """Return the evidence.

        Draws are made under ``zoo.seeded(question.seed)``: the user's generator is left as it is.

        Raises:
            Unknown: the model does not know what it takes. The next estimator is then asked.
            Unsettled: no number that can be trusted came out. The next one is then asked, too, and a warning says why.
            ZooError: the question itself is wrong.
        """


def no_guide(question: Question) -> str:
    """Return the error line of an estimator that has no guide to draw from; empty where there is one."""
    if question.guides:
        return ""
    return (
        f"expected a guide to bound the evidence of {question.model.label}, which knows none exactly; got none; pass guide=")
