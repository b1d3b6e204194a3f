"""Fit, evaluate and compare guides; the posterior as an ArviZ tree. Names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.registry import lazy

if TYPE_CHECKING:
    from experiments.bracketing import Bracket, bracket
    from experiments.callbacks import Callback, Moment
    from experiments.comparison import compare
    from experiments.em import Iteration, e_step, elbo, expected_log_joint, m_step
    from experiments.evaluation import Evaluation, Gap, evaluate
    from experiments.fitting import METHODS, Fit, fit, fit_seeds
    from experiments.marginal import Evidence, evidence
    from experiments.splitting import Split, free_member, split
    from experiments.table import Comparison, Row
    from experiments.training import Training
    from experiments.tree import posterior
    from experiments.weights import Estimate, LogWeights, log_weights

_LAZY = {
    "METHODS": "experiments.fitting:METHODS",
    "Bracket": "experiments.bracketing:Bracket",
    "Callback": "experiments.callbacks:Callback",
    "Comparison": "experiments.table:Comparison",
    "Estimate": "experiments.weights:Estimate",
    "Evaluation": "experiments.evaluation:Evaluation",
    "Evidence": "experiments.marginal:Evidence",
    "Fit": "experiments.fitting:Fit",
    "Gap": "experiments.evaluation:Gap",
    "Iteration": "experiments.em:Iteration",
    "LogWeights": "experiments.weights:LogWeights",
    "Moment": "experiments.callbacks:Moment",
    "Row": "experiments.table:Row",
    "Split": "experiments.splitting:Split",
    "Training": "experiments.training:Training",
    "bracket": "experiments.bracketing:bracket",
    "compare": "experiments.comparison:compare",
    "e_step": "experiments.em:e_step",
    "elbo": "experiments.em:elbo",
    "evaluate": "experiments.evaluation:evaluate",
    "evidence": "experiments.marginal:evidence",
    "expected_log_joint": "experiments.em:expected_log_joint",
    "fit": "experiments.fitting:fit",
    "fit_seeds": "experiments.fitting:fit_seeds",
    "free_member": "experiments.splitting:free_member",
    "log_weights": "experiments.weights:log_weights",
    "m_step": "experiments.em:m_step",
    "posterior": "experiments.tree:posterior",
    "split": "experiments.splitting:split",
}

__all__ = [
    "METHODS", "Bracket", "Callback", "Comparison", "Estimate", "Evaluation", "Evidence", "Fit", "Gap",
    "Iteration", "LogWeights", "Moment", "Row", "Split", "Training", "bracket", "compare", "e_step", "elbo",
    "evaluate", "evidence", "expected_log_joint", "fit", "fit_seeds", "free_member", "log_weights", "m_step",
    "posterior", "split",
]


__getattr__ = lazy(__name__, _LAZY)
