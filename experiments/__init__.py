"""Fit, evaluate and compare guides; the posterior as an ArviZ tree. Names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.registry import lazy

if TYPE_CHECKING:
    from experiments.comparison import compare
    from experiments.evaluation import Evaluation, Gap, evaluate
    from experiments.fitting import METHODS, Fit, fit
    from experiments.marginal import Evidence, evidence
    from experiments.table import Comparison, Row
    from experiments.tree import posterior
    from experiments.weights import Estimate, LogWeights, log_weights

_LAZY = {
    "METHODS": "experiments.fitting:METHODS",
    "Comparison": "experiments.table:Comparison",
    "Estimate": "experiments.weights:Estimate",
    "Evaluation": "experiments.evaluation:Evaluation",
    "Evidence": "experiments.marginal:Evidence",
    "Fit": "experiments.fitting:Fit",
    "Gap": "experiments.evaluation:Gap",
    "LogWeights": "experiments.weights:LogWeights",
    "Row": "experiments.table:Row",
    "compare": "experiments.comparison:compare",
    "evaluate": "experiments.evaluation:evaluate",
    "evidence": "experiments.marginal:evidence",
    "fit": "experiments.fitting:fit",
    "log_weights": "experiments.weights:log_weights",
    "posterior": "experiments.tree:posterior",
}

__all__ = [
    "METHODS", "Comparison", "Estimate", "Evaluation", "Evidence", "Fit", "Gap", "LogWeights", "Row", "compare",
    "evaluate", "evidence", "fit", "log_weights", "posterior",
]


__getattr__ = lazy(__name__, _LAZY)
