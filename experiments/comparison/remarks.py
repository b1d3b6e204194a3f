"""The lines below the table of a comparison: how its numbers are read, and remarks, those on which most hangs first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from experiments.comparison.advice import ENDS, EVIDENCE, FITS, Importance, Remark, closer, closest, remedied, separate

if TYPE_CHECKING:
    from experiments.comparison.table import Comparison
    from experiments.fits.result import Fit

__all__ = ["Importance", "Remark", "legend", "remarks"]


def legend(units: int, everything: bool = False) -> str:
    """Say in one line how the numbers are read.

    >>> print(legend(1))
    nats ± standard error, 95% intervals; k̂ > 0.7 warns where ESS is low; more: --columns all
    """
    from experiments.log_evidence.pareto import KHAT  # which loads torch: lists of what there is need none

    more = "" if everything else "; more: --columns all"
    if units > 1:
        return f"nats, totals over units ± standard error, 95% intervals; k̂, ESS: worst unit{more}"
    return f"nats ± standard error, 95% intervals; k̂ > {KHAT} warns where ESS is low{more}"


def remarks(table: Comparison) -> list[Remark]:
    """Return all remarks, each once: wrong numbers first, then what to do otherwise, then what there is to know."""
    found = dict.fromkeys(remark for source in SOURCES for remark in source(table))
    return sorted(found, key=lambda remark: remark.importance)


def _evidence(table: Comparison) -> Iterator[Remark]:
    """Say what is to be known of log p(x | θ)."""
    rows = {row.evaluation.guide: row.evaluation.evidence.remark for row in table.rows}
    known = {f"'{guide}': ": text for guide, text in rows.items()} if table.own_theta else {"": table.evidence.remark}
    for whose, text in known.items():
        for part in separate(text):
            remark = remedied(part, EVIDENCE, Importance.WRONG, table.cost.effort)
            yield Remark(remark.importance, whose + remark.text)


def _missed(table: Comparison) -> Iterator[Remark]:
    """Say which guides miss posterior mass."""
    from experiments.log_evidence.pareto import KHAT

    poor = [row for row in table.rows if row.evaluation.misses_mass]
    if poor:
        best = closest(poor)
        names = ", ".join(f"'{row.evaluation.guide}'" for row in poor)
        misses = "misses" if len(poor) == 1 else "miss"
        read = f"{misses} posterior mass that matters, so read the intervals with care"
        yield Remark(Importance.WRONG, f"k̂ > {KHAT}: {names} {read}; {closer(best, table)}")


def _draws(table: Comparison) -> Iterator[Remark]:
    """Say at how many draws the program could not be evaluated."""
    for row in table.rows:
        if row.evaluation.remark:
            yield Remark(Importance.WRONG, (
                f"'{row.evaluation.guide}': {row.evaluation.remark}, and count as zero; make the program run there, as in "
                "float64, or with a jitter on a covariance"))


def _ends(table: Comparison) -> Iterator[Remark]:
    """Say which fits have not converged, or stopped early."""
    fits = [(f"'{row.fit.guide.text}'", row.fit) for row in table.rows]
    for whose, fit in [*([] if table.theta is None else [("θ", table.theta)]), *fits]:
        if fit.stopped or not fit.converged:
            known = remedied(fit.stopped or "not converged; raise --steps", ENDS, _end(fit))
            verb = "" if fit.stopped.startswith("not converged") or not fit.stopped else "stopped: "
            yield Remark(known.importance, f"{whose}: {verb}{known.text}")


def _end(fit: Fit) -> Importance:
    return Importance.CHANGE if fit.converged else Importance.WRONG


def _quantities(table: Comparison) -> Iterator[Remark]:
    """Say which quantities are most wrong by which guide."""
    if table.quantities is None:
        return
    rows = {row.fit.guide.text: row for row in table.rows}
    if table.quantities.rough:
        best = closest(table.rows)
        yield Remark(Importance.WRONG, (
            f"the quantities' reference is rough: its {table.quantities.rough}; {closer(best, table)}"))
    guides = dict.fromkeys(each.guide for each in table.quantities.worst())
    for guide, line in zip(guides, table.quantities.told(), strict=True):
        if guide in rows:
            yield Remark(Importance.CHANGE, f"{line}; {closer(rows[guide], table)}")


def _fits(table: Comparison) -> Iterator[Remark]:
    """Pass on what the guides' fits remark."""
    for row in table.rows:
        for text in row.fit.remarks:
            remark = remedied(text, FITS, Importance.NOTE)
            yield Remark(remark.importance, f"'{row.evaluation.guide}': {remark.text}")


def _parts(table: Comparison) -> Iterator[Remark]:
    """Say what the parts of KL(q‖posterior) are."""
    blocks = next((row.evaluation.blocks for row in table.rows if row.evaluation.blocks is not None), None)
    if blocks is not None:
        shared = f"latents of all {len(blocks.units):,} rows of '{blocks.plate}'"
        yield _note(f"KL(q‖posterior) = shared ({shared}) + local (each row's own)")
    if any(row.split is not None for row in table.rows):
        whole = "KL(q‖posterior)" if blocks is None else "local"
        yield _note(f"an encoder's {whole} = approximation (of the best free guide of its family) + amortisation")


def _unsplit(table: Comparison) -> Iterator[Remark]:
    """Say which guides of two blocks have no gap by block."""
    from experiments.log_evidence.proposals.conditional import FEW
    from guides.blocks import BlockGuide

    missing = [
        f"'{row.fit.guide.text}'" for row in table.rows
        if isinstance(row.fit.guide, BlockGuide) and row.evaluation.blocks is None]
    if missing and table.cost.effort != "none":
        yield _note(
            f"no gap by block of {', '.join(missing)}: it takes a program that vmap runs, and up to {FEW} latents of each row")


def _model(table: Comparison) -> Iterator[Remark]:
    """Say how the model's observations and priors were taken."""
    whole = [site.name for site in table.model.latents(table.x).observed if site.whole]
    if whole:
        yield _note(f"whole numbers are taken as real observations of {', '.join(whole)}")
    if table.improper:
        yield _note(
            f"the log normaliser is no marginal likelihood: improper prior of {', '.join(table.improper)}; gaps hold as ever")


def _theta(table: Comparison) -> Iterator[Remark]:
    """Say how θ was fitted."""
    fit = table.theta
    if fit is not None:
        steps = f"{fit.steps} step{'s' if fit.steps != 1 else ''}"
        yield _note(f"θ by {fit.method} with '{fit.guide.text}': {steps}, {fit.seconds:.2f} s")


def _cost(table: Comparison) -> Iterator[Remark]:
    """Say what the comparison took, and what of it the evaluation."""
    cost = table.cost
    fits, evaluation = cost.fit_seconds, cost.evaluation_seconds
    counted = f"{cost.evaluation_evaluations:,.0f} density evaluations, the fits {cost.fit_evaluations:,.0f}"
    yield _note(f"{fits + evaluation:.1f} s: fits {fits:.1f}, evaluation {evaluation:.1f}; effort {cost.effort}: {counted}")


def _note(text: str) -> Remark:
    return Remark(Importance.NOTE, text)


#: What remarks there are; those of one importance stand in this order.
SOURCES: tuple[Callable[[Comparison], Iterator[Remark]], ...] = (
    _evidence, _missed, _draws, _ends, _quantities, _fits, _parts, _unsplit, _model, _theta, _cost)
