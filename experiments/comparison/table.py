"""The table of a comparison: one row a guide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.comparison.gap_split import Split
from experiments.comparison.parameters import Parameters, parameters
from experiments.comparison.terminal.layout import flat
from experiments.comparison.terminal.theta import plain
from experiments.diagnostics.evaluation import Evaluation
from experiments.diagnostics.gap import Gap
from experiments.fits.result import Fit
from experiments.log_evidence.log_weights import Estimate
from experiments.log_evidence.result import Evidence
from experiments.runtime.holdout import Partition
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.registry import load

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One guide's row: its fit, its evaluation, and the split of its gap if it is an encoder.

    ``split`` is of the whole gap, or of the local one where the guide has two blocks.
    """

    fit: Fit
    evaluation: Evaluation
    split: Split | None = None

    @property
    def parts(self) -> dict[str, Gap]:
        """What the gap is made of, by name: its parts add up to it."""
        blocks = self.evaluation.blocks
        parts = {} if blocks is None else {"shared": blocks.shared}
        if self.split is not None:
            return {**parts, "approximation": self.split.approximation, "amortisation": self.split.amortisation}
        return {"gap": self.evaluation.kl_gap} if blocks is None else {**parts, "local": blocks.local}

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain numbers: totals over units, in nats and seconds."""
        e = self.evaluation
        return {
            "guide": e.guide, "density": self.fit.guide.density, "elbo": _estimate(e.elbo), "kl_gap": _gap(e.kl_gap),
            "shared_gap": None if e.blocks is None else _gap(e.blocks.shared),
            "local_gap": None if e.blocks is None else _gap(e.blocks.local),
            "approximation_gap": None if self.split is None else _gap(self.split.approximation),
            "amortisation_gap": None if self.split is None else _gap(self.split.amortisation),
            "reconstruction": _estimate(e.reconstruction), "kl_prior": _estimate(e.kl_prior), "active": e.active,
            "khat": e.khat, "ess": e.ess, "draws": e.draws, "parameters": self.fit.guide.size,
            "log_evidence": _evidence(e.evidence), "method": self.fit.method, "steps": self.fit.steps,
            "evaluations": round(self.fit.evaluations),
            "seconds": round(self.fit.seconds, 3), "converged": self.fit.converged, "stopped": self.fit.stopped,
            "remark": e.remark}


@dataclass(frozen=True)
class Cost:
    """The cost of a comparison: seconds of wall time, and evaluations of log p(x, z), of all rows at one draw.

    Attributes:
        effort: of the evaluation.
        fit_seconds, evaluation_seconds: of all fits, and of all that followed.
        fit_evaluations, evaluation_evaluations: likewise; one with its gradient counts three. Those of the ELBOs are left out.
    """

    effort: str = "default"
    fit_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    fit_evaluations: float = 0.0
    evaluation_evaluations: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluations as plain numbers: seconds differ from run to run, and records of two runs should not."""
        return {
            "effort": self.effort, "fit_evaluations": round(self.fit_evaluations),
            "evaluation_evaluations": round(self.evaluation_evaluations)}


@dataclass(frozen=True)
class Comparison:
    """The table of :func:`compare`. Printing it shows the table; ``to_dict`` is what ``--json`` prints.

    Attributes:
        model: with the θ on which all guides were compared.
        x: the data that the guides were compared on: the held-out units, where there are any.
        data: what the data is called.
        units: how many units that are.
        seed: of all that was drawn.
        evidence: log p(x | θ), of the best kind there is; where each guide trained a θ of its own, the first one's.
        rows: one a guide, in the order asked.
        theta: the fit of θ; ``None`` where the model has none, or each guide trained its own.
        partition: which units were held out.
        own_theta: whether each guide trained a θ of its own, ``rows[i].fit.model``.
        simulated: whether ``x`` was drawn from the model at its θ.
        cost: what it took.
        quantities: those of :meth:`parameters` that the remarks are from, without linear response.
        labels: of dimensions of θ, by name: ``{"column": ("eruptions", "waiting")}``.
    """

    model: Model
    x: Data
    data: str
    units: int
    seed: int
    evidence: Evidence
    rows: tuple[Row, ...]
    theta: Fit | None
    partition: Partition = field(repr=False)
    own_theta: bool = False
    simulated: bool = False
    cost: Cost = Cost()
    quantities: Parameters | None = field(default=None, repr=False)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    def parameters(self) -> Parameters | None:
        """Return the posterior of each quantity by each guide beside the best reference at hand; ``None`` where none is real.

        Factorised guides come a second time, with linear-response covariances.

        Raises:
            ZooError: each guide trained a θ of its own, so that their posteriors are of different models.
        """
        if self.own_theta:
            raise ZooError("expected one θ for a comparison of parameters; got one for each guide; leave train_model out")
        made = [row.evaluation for row in self.rows]
        return parameters(self.model, self.x, [row.fit.guide for row in self.rows], made, self.seed, responses=True)

    @property
    def improper(self) -> tuple[str, ...]:
        """The latents whose priors are improper: then ``evidence`` is the log normaliser log ∫ p(x, z) dz."""
        return self.model.latents(self.x).improper

    @property
    def quantity(self) -> str:
        """What ``evidence`` is called: no marginal likelihood where a prior is improper."""
        return "log normaliser" if self.improper else "log p(x | θ)"

    def guide(self, text: str) -> BaseGuide:
        """Return the fitted guide written ``text``.

        Raises:
            ZooError: if it was not compared.
        """
        for row in self.rows:
            if row.fit.guide.text == text:
                return row.fit.guide
        known = ", ".join(row.fit.guide.text for row in self.rows)
        raise ZooError(f"expected a guide of this comparison; got '{text}'; it has {known}")

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, ready for JSON: numbers that are infinite or undefined are ``None``."""
        whole: dict[str, Any] = finite({
            "model": self.model.label, "data": self.data, "units": self.units, "units_in_all": self.partition.total,
            "holdout": round(self.partition.share, 6), "seed": self.seed,
            "log_evidence": None if self.own_theta else _evidence(self.evidence), "own_theta": self.own_theta,
            "simulated": self.simulated, "improper": list(self.improper),
            "cost": self.cost.to_dict(), **self.thetas(),
            "quantities": None if self.quantities is None else self.quantities.noted(),
            "guides": [row.to_dict() for row in self.rows]})
        return whole

    def thetas(self) -> dict[str, Any]:
        """Return what was learned of the model as plain data: ``theta``, its fit and its numbers, where all guides share one;
        ``theta_by_guide``, its numbers alone, where each has its own. See :meth:`zoo.Model.learned`."""
        theta = None if self.theta is None else {
            "method": self.theta.method, "guide": self.theta.guide.text, "steps": self.theta.steps,
            "seconds": round(self.theta.seconds, 3), "converged": self.theta.converged, "stopped": self.theta.stopped,
            **plain(self.model.learned(), self.labels)}
        own = {row.evaluation.guide: plain(row.fit.model.learned(), self.labels) for row in self.rows if self.own_theta}
        return {"theta": theta, "theta_by_guide": own or None}

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a data frame, a row a guide; nats, totals and (``…_per_unit``) per unit."""
        import pandas as pd

        return pd.DataFrame([flat(row.to_dict(), self.units) for row in self.rows]).set_index("guide")

    def text(self, columns: str = "default") -> str:
        """Return the table as it is printed: in lines of up to 100 characters, or with ``columns="all"`` with every column.

        Raises:
            ZooError: another word for ``columns``.
        """
        from experiments.comparison.terminal.text import plain as written

        return written(self, columns)

    def __str__(self) -> str:
        return self.text()

    @property
    def plot(self) -> Any:
        """The figures as methods, ``table.plot.gap()``; each returns Matplotlib's axes. See :class:`Plots`."""
        return load("experiments.reporting.gallery:Plots")(self)

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the page that a run has to a file, and return its path."""
        written: Path = load("experiments.runs.saving:report")(self, path)
        return written

    def save(self, path: str | Path, figures: bool = True) -> Path:
        """Save the comparison as a run's directory, for ``zoo report`` and ``experiments.load(path, model=…)``.

        Raises:
            ZooError: a directory that holds something, or can't be written to.
        """
        saved: Path = load("experiments.runs.saving:save")(self, path, figures)
        return saved

    __repr__ = __str__

    def _repr_html_(self) -> str:
        html: str = self.to_frame().to_html()
        return html


def finite(value: Any) -> Any:
    """Return plain data with ``None`` for each number that JSON lacks: those that are infinite or undefined."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "se": estimate.se}


def _gap(gap: Gap) -> dict[str, float | None]:
    return {"value": gap.value, "se": gap.se, "lower": gap.lower, "upper": gap.upper}


def _evidence(e: Evidence) -> dict[str, Any]:
    return {"kind": e.kind, "value": e.value, "se": e.se, "lower": e.lower, "upper": e.upper, "guide": e.source or None,
            "method": e.method or None, "remark": e.remark}
