"""The recommendation: which guide is near enough to the posterior, what the others came to, and what the next would gain."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.comparison.table import Comparison, Row
from experiments.comparison.terminal.layout import WIDTH, fold, wrapped
from experiments.comparison.terminal.text import grid, interval
from experiments.diagnostics.gap import Gap
from experiments.fits.result import Fit
from guides.guide import BaseGuide

if TYPE_CHECKING:
    from rich.console import Console

#: How the evidence remarks on modes that guides miss.
MODES = "modes that some guides miss:"
#: Characters above which a guide's name is folded.
NAMES = 33


@dataclass(frozen=True)
class Step:
    """A rung that was tried.

    Attributes:
        rung: as the ladder writes it, and ``adds``: what it has that those below lack.
        row: its fit, and its evaluation beside what is known of log p(x | θ) in the end.
        seconds: of wall time from the start of the climb until it was judged.
    """

    rung: str
    adds: str
    row: Row
    seconds: float

    @property
    def gap(self) -> Gap:
        """KL(q ‖ posterior), in nats, summed over units."""
        return self.row.evaluation.kl_gap

    @property
    def text(self) -> str:
        """The guide, as it is written."""
        return self.row.evaluation.guide


@dataclass(frozen=True, repr=False)
class Recommendation:
    """What :func:`experiments.recommend` found. Printing it shows the path and the verdict.

    Attributes:
        table: all rungs that were tried, as a comparison.
        steps: the path, from the cheapest rung.
        chosen: which of the steps is near enough; ``None`` where none is.
        threshold: nats, over all units, that its gap may have.
        quantities: what had to be right, in place of the gap, if anything was named.
        next: the guide of the rung after the chosen one, as it is written; empty where there is none.
        refused: rungs that do not fit the model, each with the reason.
    """

    table: Comparison
    steps: tuple[Step, ...]
    chosen: int | None
    threshold: float
    quantities: tuple[str, ...]
    next: str
    refused: tuple[str, ...]

    @property
    def step(self) -> Step:
        """The step to use: the chosen one, or where none is near enough the one of the smallest gap."""
        if self.chosen is not None:
            return self.steps[self.chosen]
        def order(step: Step) -> tuple[bool, float]:
            fit, middle = step.row.fit, step.gap.middle
            return not (fit.guide.density or fit.converged), math.inf if math.isnan(middle) else middle

        return min(self.steps, key=order)

    @property
    def fit(self) -> Fit:
        """The fit to use."""
        return self.step.row.fit

    @property
    def guide(self) -> BaseGuide:
        """The guide to use."""
        return self.fit.guide

    def note(self, index: int) -> str:
        """Return what is to be said of a step in two words: that it is near enough, or that its draws have not converged."""
        if index == self.chosen:
            return "near enough"
        fit = self.steps[index].row.fit
        return "" if fit.guide.density or fit.converged else "not converged"

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        if self.chosen is None:
            return self._none()
        name, gap = self.step.text, self.step.gap
        if name == "exact":
            return "exact is the posterior; stop here"
        if math.isnan(gap.middle):
            return f"{name}: chains agree ({self._agreement()}), and no guide below is near enough; use these draws"
        if self.quantities:
            told = f"{', '.join(self.quantities)} by {name} {'is' if len(self.quantities) == 1 else 'are'} within 0.1 sd"
            return f"{told}; stop here"
        if gap.upper is None:  # no upper end is never near enough
            return f"{name} is {self._nats(gap)} from the posterior"
        more = f"; {self.next} would gain at most {gap.upper / self._units:.2g}" if self.next else ""
        return f"{name} is {self._nats(gap)} from the posterior{more}; stop here"

    def _none(self) -> str:
        step = self.step
        where = f"{step.text} comes nearest, {self._nats(step.gap)} from the posterior"
        chains = "" if any(one.text.endswith("@nuts") for one in self.steps) else ", or use draws(full_rank)@nuts"
        wanted = f"to have {', '.join(self.quantities)} right" if self.quantities else (
            f"to be within {self.threshold / self._units:.3g} nats{self._each}")
        return f"no rung is known {wanted}: {where}; raise effort or tolerance, or reparametrise the model{chains}"

    def _agreement(self) -> str:
        return next(iter(self.fit.remarks), "R-hat below 1.01")

    @property
    def _units(self) -> int:
        return self.table.units

    @property
    def _each(self) -> str:
        return " a unit" if self._units > 1 else ""

    def _nats(self, gap: Gap) -> str:
        told = {"value": gap.value, "se": gap.se, "lower": gap.lower, "upper": gap.upper}
        each = {key: None if value is None else value / self._units for key, value in told.items()}
        return f"{interval(each)} nats{self._each}"

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as plain data, ready for JSON."""
        return {
            "verdict": self.sentence, "chosen": None if self.chosen is None else self.step.text,
            "threshold": self.threshold, "quantities": list(self.quantities),
            "path": [{"rung": step.rung, "guide": step.text, "adds": step.adds, "seconds": round(step.seconds, 3)}
                     for step in self.steps],
            "refused": list(self.refused), "comparison": self.table.to_dict()}

    def __str__(self) -> str:
        from experiments.comparison.terminal.console import plain_console

        out = io.StringIO()
        show(self, plain_console(out, width=100))
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())

    __repr__ = __str__


def show(found: Recommendation, out: Console) -> None:
    """Print the path and the verdict, in lines of up to 100 characters."""
    from rich.text import Text

    width = min(out.width, WIDTH)
    units = found.table.units
    shown = grid(f"{found.table.model.label}: {units} unit{'s' if units > 1 else ''}, seed {found.table.seed}", out)
    for head, side in (("guide", "left"), ("KL(q‖posterior), 95%", "right"), ("k̂", "right"), ("densities", "right"),
                       ("sec.", "right"), ("", "left")):
        shown.add_column(head, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for i, step in enumerate(found.steps):
        row = step.row.to_dict()
        gap = {key: None if value is None else value / units for key, value in row["kl_gap"].items()}
        khat, densities = "—" if row["khat"] is None else f"{row['khat']:.2f}", f"{step.row.fit.evaluations / units:,.0f}"
        mark = f"← {note}" if (note := found.note(i)) else ""
        shown.add_row(Text(fold(step.text, NAMES)), interval(gap), khat, densities, f"{step.seconds:.1f}", mark)
    out.print(shown)
    out.print(wrapped(found.sentence, width), markup=False)
    remark = found.table.evidence.remark
    if remark and (found.chosen is None or MODES in remark):  # of tails that rungs below the chosen lack nothing is to be said
        out.print(wrapped(remark, width), markup=False)
    for line in found.refused:
        out.print(wrapped(f"left out: {line}", width), style="dim", markup=False)
    each = "nats a unit" if units > 1 else "nats"
    legend = f"{each}; densities: evaluations by a fit, a gradient counts 3; sec.: since the start"
    out.print(wrapped(legend, width), style="dim", markup=False)

