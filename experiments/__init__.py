"""Fit, evaluate and compare guides; the posterior as an ArviZ tree. Names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.registry import lazy

if TYPE_CHECKING:
    from experiments.bracket import Bracket, bracket
    from experiments.comparison import compare
    from experiments.evaluation import Evaluation, Gap, evaluate
    from experiments.fitting import METHODS, Fit, fit, fit_seeds
    from experiments.marginal import Evidence, evidence
    from experiments.splitting import Split
    from experiments.table import Comparison, Row
    from experiments.training import Training
    from experiments.tree import posterior
    from experiments.weights import Estimate, LogWeights, log_weights

_LAZY = {
    "METHODS": "experiments.fitting:METHODS",
    "Bracket": "experiments.bracket:Bracket",
    "Comparison": "experiments.table:Comparison",
    "Estimate": "experiments.weights:Estimate",
    "Evaluation": "experiments.evaluation:Evaluation",
    "Evidence": "experiments.marginal:Evidence",
    "Fit": "experiments.fitting:Fit",
    "Gap": "experiments.evaluation:Gap",
    "LogWeights": "experiments.weights:LogWeights",
    "Row": "experiments.table:Row",
    "Split": "experiments.splitting:Split",
    "Training": "experiments.training:Training",
    "bracket": "experiments.bracket:bracket",
    "compare": "experiments.comparison:compare",
    "evaluate": "experiments.evaluation:evaluate",
    "evidence": "experiments.marginal:evidence",
    "fit": "experiments.fitting:fit",
    "fit_seeds": "experiments.fitting:fit_seeds",
    "log_weights": "experiments.weights:log_weights",
    "posterior": "experiments.tree:posterior",
}

__all__ = [
    "METHODS", "Bracket", "Comparison", "Estimate", "Evaluation", "Evidence", "Fit", "Gap", "LogWeights", "Row",
    "Split", "Training", "bracket", "compare", "evaluate", "evidence", "fit", "fit_seeds", "log_weights", "posterior",
]


__getattr__ = lazy(__name__, _LAZY)
