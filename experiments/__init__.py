"""Fit, evaluate and compare guides; the posterior as an ArviZ tree; runs that survive.

- ``fit`` and ``fit_seeds`` return a ``Fit``: ``METHODS`` lists how, a ``Method`` solves a ``Problem`` by its ``Options``, which
  are ``EMOptions``, ``FixedDrawsOptions`` and ``SVIOptions``. EM step by step: ``e_step``, ``m_step``, ``expected_log_joint``,
  ``elbo``, and each ``Iteration``.
- ``evaluate`` returns an ``Evaluation``: the ELBO as an ``Estimate``, the ``Gap``, and of a guide of two blocks the
  ``BlockGap``. ``log_weights`` returns ``LogWeights``.
- ``evidence`` returns ``Evidence``, ``bracket`` a ``Bracket`` of log p(x | θ).
- ``compare`` returns a ``Comparison`` with a ``Row`` a guide. ``split`` splits an encoder's gap into a ``Split``, by its
  ``free_member``. ``posterior`` is the ArviZ tree, ``predict`` one of predictions at new rows.
- ``recommend`` climbs a ladder of guides and returns a ``Recommendation``: the cheapest that is near enough.
- ``run``, ``resume`` and ``load`` do, go on with and read a run: a ``Spec``, ``RunOptions``, what is ``Loaded``, its
  ``Record``. ``sweep`` does a ``Grid`` that ``read_grid`` read, by ``SweepOptions``.
- ``Fit.export`` writes a guide to a file, and ``load_guide`` gives it back without the data that it was fitted to.
- A ``Callback`` hears of each ``Moment`` of a fit: ``Metrics`` and ``TensorBoard`` are two. A ``Journal`` keeps checkpoints.

Names load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.registry import lazy

if TYPE_CHECKING:
    from experiments.comparison.compare import compare
    from experiments.comparison.gap_split import Split, free_member, split
    from experiments.comparison.ladder.recommend import recommend
    from experiments.comparison.ladder.recommendation import Recommendation
    from experiments.comparison.table import Comparison, Row
    from experiments.diagnostics.block_gap import BlockGap
    from experiments.diagnostics.evaluation import Evaluation, evaluate
    from experiments.diagnostics.gap import Gap
    from experiments.diagnostics.posterior import posterior
    from experiments.diagnostics.prediction import predict
    from experiments.fits.callbacks import Callback, Moment
    from experiments.fits.export import load_guide
    from experiments.fits.journal import Journal
    from experiments.fits.result import Fit, Iteration
    from experiments.fits.trackers import Metrics, TensorBoard
    from experiments.inference.em.expectation import e_step, elbo, expected_log_joint, m_step
    from experiments.inference.fit import fit
    from experiments.inference.method import Method, Problem
    from experiments.inference.options import EMOptions, FixedDrawsOptions, Options
    from experiments.inference.registry import METHODS
    from experiments.inference.svi.options import SVIOptions
    from experiments.log_evidence.brackets.bracket import bracket
    from experiments.log_evidence.brackets.sandwich import Bracket
    from experiments.log_evidence.evidence import evidence
    from experiments.log_evidence.log_weights import Estimate, LogWeights, log_weights
    from experiments.log_evidence.result import Evidence
    from experiments.reporting.record import Record
    from experiments.runs.grid import Grid, read_grid
    from experiments.runs.load import Loaded, load
    from experiments.runs.run import RunOptions, resume, run
    from experiments.runs.spec import Spec
    from experiments.runs.sweep import SweepOptions, sweep

_LAZY = {
    "METHODS": "experiments.inference.registry:METHODS",
    "load_guide": "experiments.fits.export:load_guide",
    "Bracket": "experiments.log_evidence.brackets.sandwich:Bracket",
    "Callback": "experiments.fits.callbacks:Callback",
    "Comparison": "experiments.comparison.table:Comparison",
    "EMOptions": "experiments.inference.options:EMOptions",
    "Estimate": "experiments.log_evidence.log_weights:Estimate",
    "BlockGap": "experiments.diagnostics.block_gap:BlockGap",
    "Evaluation": "experiments.diagnostics.evaluation:Evaluation",
    "Evidence": "experiments.log_evidence.result:Evidence",
    "Fit": "experiments.fits.result:Fit",
    "FixedDrawsOptions": "experiments.inference.options:FixedDrawsOptions",
    "Gap": "experiments.diagnostics.gap:Gap",
    "Grid": "experiments.runs.grid:Grid",
    "Iteration": "experiments.fits.result:Iteration",
    "Journal": "experiments.fits.journal:Journal",
    "Loaded": "experiments.runs.load:Loaded",
    "LogWeights": "experiments.log_evidence.log_weights:LogWeights",
    "Method": "experiments.inference.method:Method",
    "Metrics": "experiments.fits.trackers:Metrics",
    "Moment": "experiments.fits.callbacks:Moment",
    "Options": "experiments.inference.options:Options",
    "Problem": "experiments.inference.method:Problem",
    "Record": "experiments.reporting.record:Record",
    "Recommendation": "experiments.comparison.ladder.recommendation:Recommendation",
    "Row": "experiments.comparison.table:Row",
    "RunOptions": "experiments.runs.run:RunOptions",
    "SVIOptions": "experiments.inference.svi.options:SVIOptions",
    "Spec": "experiments.runs.spec:Spec",
    "Split": "experiments.comparison.gap_split:Split",
    "SweepOptions": "experiments.runs.sweep:SweepOptions",
    "TensorBoard": "experiments.fits.trackers:TensorBoard",
    "bracket": "experiments.log_evidence.brackets.bracket:bracket",
    "compare": "experiments.comparison.compare:compare",
    "e_step": "experiments.inference.em.expectation:e_step",
    "elbo": "experiments.inference.em.expectation:elbo",
    "evaluate": "experiments.diagnostics.evaluation:evaluate",
    "evidence": "experiments.log_evidence.evidence:evidence",
    "expected_log_joint": "experiments.inference.em.expectation:expected_log_joint",
    "fit": "experiments.inference.fit:fit",
    "fit_seeds": "experiments.inference.seeds:fit_seeds",
    "free_member": "experiments.comparison.gap_split:free_member",
    "load": "experiments.runs.load:load",
    "log_weights": "experiments.log_evidence.log_weights:log_weights",
    "m_step": "experiments.inference.em.expectation:m_step",
    "posterior": "experiments.diagnostics.posterior:posterior",
    "predict": "experiments.diagnostics.prediction:predict",
    "read_grid": "experiments.runs.grid:read_grid",
    "recommend": "experiments.comparison.ladder.recommend:recommend",
    "resume": "experiments.runs.run:resume",
    "run": "experiments.runs.run:run",
    "split": "experiments.comparison.gap_split:split",
    "sweep": "experiments.runs.sweep:sweep",
}

__all__ = [
    "METHODS", "BlockGap", "Bracket", "Callback", "Comparison", "EMOptions", "Estimate", "Evaluation", "Evidence", "Fit",
    "FixedDrawsOptions", "Gap", "Grid", "Iteration", "Journal", "Loaded", "LogWeights", "Method", "Metrics", "Moment",
    "Options", "Problem", "Recommendation", "Record", "Row", "RunOptions", "SVIOptions", "Spec", "Split", "SweepOptions",
    "TensorBoard", "bracket", "compare", "e_step", "elbo", "evaluate", "evidence", "expected_log_joint", "fit", "fit_seeds",
    "free_member", "load", "load_guide", "log_weights", "m_step", "posterior", "predict", "read_grid", "recommend", "resume",
    "run", "split", "sweep",
]


__getattr__ = lazy(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
