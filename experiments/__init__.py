"""Fit, evaluate and compare guides; the posterior as an ArviZ tree; runs that survive.

- ``fit`` and ``fit_seeds`` return a ``Fit``: ``METHODS`` lists how, a ``Method`` solves a ``Problem`` by its ``Options``, which
  are ``EMOptions``, ``FixedDrawsOptions`` and ``SVIOptions``. EM step by step: ``e_step``, ``m_step``, ``expected_log_joint``,
  ``elbo``, and each ``Iteration``.
- ``evaluate`` returns an ``Evaluation``: the ELBO as an ``Estimate``, the ``Gap``. ``log_weights`` returns ``LogWeights``.
- ``evidence`` returns ``Evidence``, ``bracket`` a ``Bracket`` of log p(x | θ).
- ``compare`` returns a ``Comparison`` with a ``Row`` a guide. ``split`` splits an encoder's gap into a ``Split``, by its
  ``free_member``. ``posterior`` is the ArviZ tree.
- ``run``, ``resume`` and ``load`` do, go on with and read a run: a ``Spec``, ``RunOptions``, what is ``Loaded``, its
  ``Record``. ``sweep`` does a ``Grid`` that ``read_grid`` read, by ``SweepOptions``.
- A ``Callback`` hears of each ``Moment`` of a fit: ``Metrics`` and ``TensorBoard`` are two. A ``Journal`` keeps checkpoints.

Names load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.registry import lazy

if TYPE_CHECKING:
    from experiments.bracketing import Bracket, bracket
    from experiments.callbacks import Callback, Moment
    from experiments.comparison import compare
    from experiments.engine import Iteration
    from experiments.evaluation import Evaluation, Gap, evaluate
    from experiments.expectation import e_step, elbo, expected_log_joint, m_step
    from experiments.fitting import Fit, fit, fit_seeds
    from experiments.grid import Grid, read_grid
    from experiments.inference.method import Method, Problem
    from experiments.inference.options import EMOptions, FixedDrawsOptions, Options
    from experiments.inference.registry import METHODS
    from experiments.journal import Journal
    from experiments.loading import Loaded, load
    from experiments.log_evidence.evidence import evidence
    from experiments.log_evidence.result import Evidence
    from experiments.record import Record
    from experiments.runs import RunOptions, resume, run
    from experiments.spec import Spec
    from experiments.splitting import Split, free_member, split
    from experiments.sweeping import SweepOptions, sweep
    from experiments.table import Comparison, Row
    from experiments.trackers import Metrics, TensorBoard
    from experiments.training import SVIOptions
    from experiments.tree import posterior
    from experiments.weights import Estimate, LogWeights, log_weights

_LAZY = {
    "METHODS": "experiments.inference.registry:METHODS",
    "Bracket": "experiments.bracketing:Bracket",
    "Callback": "experiments.callbacks:Callback",
    "Comparison": "experiments.table:Comparison",
    "EMOptions": "experiments.inference.options:EMOptions",
    "Estimate": "experiments.weights:Estimate",
    "Evaluation": "experiments.evaluation:Evaluation",
    "Evidence": "experiments.log_evidence.result:Evidence",
    "Fit": "experiments.fitting:Fit",
    "FixedDrawsOptions": "experiments.inference.options:FixedDrawsOptions",
    "Gap": "experiments.evaluation:Gap",
    "Grid": "experiments.grid:Grid",
    "Iteration": "experiments.engine:Iteration",
    "Journal": "experiments.journal:Journal",
    "Loaded": "experiments.loading:Loaded",
    "LogWeights": "experiments.weights:LogWeights",
    "Method": "experiments.inference.method:Method",
    "Metrics": "experiments.trackers:Metrics",
    "Moment": "experiments.callbacks:Moment",
    "Options": "experiments.inference.options:Options",
    "Problem": "experiments.inference.method:Problem",
    "Record": "experiments.record:Record",
    "Row": "experiments.table:Row",
    "RunOptions": "experiments.runs:RunOptions",
    "SVIOptions": "experiments.training:SVIOptions",
    "Spec": "experiments.spec:Spec",
    "Split": "experiments.splitting:Split",
    "SweepOptions": "experiments.sweeping:SweepOptions",
    "TensorBoard": "experiments.trackers:TensorBoard",
    "bracket": "experiments.bracketing:bracket",
    "compare": "experiments.comparison:compare",
    "e_step": "experiments.expectation:e_step",
    "elbo": "experiments.expectation:elbo",
    "evaluate": "experiments.evaluation:evaluate",
    "evidence": "experiments.log_evidence.evidence:evidence",
    "expected_log_joint": "experiments.expectation:expected_log_joint",
    "fit": "experiments.fitting:fit",
    "fit_seeds": "experiments.fitting:fit_seeds",
    "free_member": "experiments.splitting:free_member",
    "load": "experiments.loading:load",
    "log_weights": "experiments.weights:log_weights",
    "m_step": "experiments.expectation:m_step",
    "posterior": "experiments.tree:posterior",
    "read_grid": "experiments.grid:read_grid",
    "resume": "experiments.runs:resume",
    "run": "experiments.runs:run",
    "split": "experiments.splitting:split",
    "sweep": "experiments.sweeping:sweep",
}

__all__ = [
    "METHODS", "Bracket", "Callback", "Comparison", "EMOptions", "Estimate", "Evaluation", "Evidence", "Fit",
    "FixedDrawsOptions", "Gap", "Grid", "Iteration", "Journal", "Loaded", "LogWeights", "Method", "Metrics", "Moment",
    "Options", "Problem", "Record", "Row", "RunOptions", "SVIOptions", "Spec", "Split", "SweepOptions", "TensorBoard",
    "bracket", "compare", "e_step", "elbo", "evaluate", "evidence", "expected_log_joint", "fit", "fit_seeds",
    "free_member", "load", "log_weights", "m_step", "posterior", "read_grid", "resume", "run", "split", "sweep",
]


__getattr__ = lazy(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
