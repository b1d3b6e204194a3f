"""The estimators of log p(x | θ), in order of trust: a new one is a line here, and a class in a file of its own.

The name of an estimator is the ``kind`` of the evidence that it gives. This module alone has the words that the terminal,
records, reports and verdicts use for a kind. The registry is plain data, so listing it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zoo.registry import load

if TYPE_CHECKING:
    from experiments.log_evidence.estimator import Estimator

Level = Literal["good", "caution", "bad"]


@dataclass(frozen=True)
class EstimatorEntry:
    """One registered estimator.

    Attributes:
        path: ``module:class``.
        words: how tables say that a number of this kind is known; ``source`` and ``method`` are filled in.
        level: how reliable a number of this kind is, as a verdict of the report.
        verdict: the sentence of the verdict, which begins with "log p(x | θ) is".
        drawn: whether both ends of the interval come from draws, so that evidence with a wide interval has no ``value``.
        bounded: whether the interval has an upper end.
    """

    path: str
    words: str
    level: Level
    verdict: str
    drawn: bool = False
    bounded: bool = True

    def build(self) -> Estimator:
        """Return the estimator."""
        found: Estimator = load(self.path)()
        return found


#: The first that can answer is asked.
ESTIMATORS: Mapping[str, EstimatorEntry] = {
    "exact": EstimatorEntry(
        "experiments.log_evidence.exact:Exact", "exact", "good", "log p(x | θ) is exact: a closed form or an enumeration"),
    "quadrature": EstimatorEntry(
        "experiments.log_evidence.quadrature:Quadrature", "by quadrature", "good",
        "log p(x | θ) is by quadrature, its error within the interval"),
    "bracketed": EstimatorEntry(
        "experiments.log_evidence.brackets.bracketed:Bracketed",
        "bracketed by {method} weights from '{source}' and from exact posterior draws, 95%", "good",
        "log p(x | θ) is bracketed: an interval that holds on both sides", drawn=True),
    "estimated": EstimatorEntry(
        "experiments.log_evidence.brackets.bracketed:Estimated",
        "estimated: bracketed by {method} weights from '{source}' and from Markov chains, 95%", "caution",
        "log p(x | θ) is estimated: its upper end comes from Markov chains, which may miss modes", drawn=True),
    "lower_bound": EstimatorEntry(
        "experiments.log_evidence.lower_bound:LowerBound",
        "an importance-weighted lower bound from '{source}', so gaps are lower bounds too", "caution",
        "log p(x | θ) is only bounded from below, so the gaps are lower bounds too", bounded=False),
}
