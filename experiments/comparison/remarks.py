"""The lines below the table of a comparison: what is to be known of its numbers, and how they are to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.comparison.table import Comparison, Cost
    from experiments.fits.result import Fit


def warnings(table: Comparison) -> list[str]:
    """Return what is to be known of the evidence, each once, and of each guide's draws."""
    known = _evidence_remarks(table)
    drawn = [f"'{row.evaluation.guide}': {row.evaluation.remark}" for row in table.rows if row.evaluation.remark]
    drawn += table.quantities.told() if table.quantities is not None else []
    drawn += [f"'{row.evaluation.guide}': {remark}" for row in table.rows for remark in row.fit.remarks]
    return [line for line in [*known, *drawn] if line]


def _evidence_remarks(table: Comparison) -> list[str]:
    if not table.own_theta:
        return [table.evidence.remark]
    each = {row.evaluation.guide: row.evaluation.evidence.remark for row in table.rows}
    return [f"'{guide}': {remark}" for guide, remark in each.items() if remark]


def explanations(table: Comparison) -> list[str]:
    """Return how the numbers are to be read, how θ was fitted, and which guides are not to be trusted or have not converged."""
    lines = ["nats, totals over units, ± Monte-Carlo standard error; k̂ and ESS are the worst unit's"]
    whole = [site.name for site in table.model.latents(table.x).observed if site.whole]
    if whole:
        lines.append(f"whole numbers are taken as real observations of {', '.join(whole)}")
    if table.improper:
        lines.append(
            f"log normaliser = log ∫ p(x, z) dz, which is no marginal likelihood: improper prior of {', '.join(table.improper)}"
            "; gaps are not affected")
    if any(row.split is not None and row.evaluation.blocks is None for row in table.rows):
        lines.append(
            "an encoder's KL(q‖posterior) = approximation (what the best free member of its family still lacks) "
            "+ amortisation (what the encoder lacks of that member)")
    lines += _blocks(table)
    if table.theta is not None:
        lines.append(_theta(table.theta))
    lines.append(_cost(table.cost))
    poor = [f"'{row.evaluation.guide}'" for row in table.rows if row.evaluation.misses_mass]
    if poor:
        lines.append(f"k̂ > 0.7: {', '.join(poor)} misses posterior mass that matters; read its intervals with care")
    return [*lines, *_stopped(table)]


def _blocks(table: Comparison) -> list[str]:
    """Say what the gap by block is, and which guides of two blocks have none."""
    from experiments.log_evidence.proposals.conditional import FEW
    from guides.blocks import BlockGuide

    known = [row for row in table.rows if row.evaluation.blocks is not None]
    lines = []
    for found in [row.evaluation.blocks for row in known][:1]:
        assert found is not None, "only those that are known"
        split = "; a network's local part = approximation + amortisation" if any(row.split is not None for row in known) else ""
        lines.append(
            f"a guide's KL(q‖posterior) by block = shared (latents that all {len(found.units)} rows of '{found.plate}' share) "
            f"+ local (each row's own, summed){split}")
    missing = [
        f"'{row.fit.guide.text}'" for row in table.rows
        if isinstance(row.fit.guide, BlockGuide) and row.evaluation.blocks is None]
    if missing:
        lines.append(
            f"no gap by block of {', '.join(missing)}: it takes a program that vmap runs, and up to {FEW} latents of each row")
    return lines


def _cost(cost: Cost) -> str:
    """Say what the comparison took, and what of it the evaluation."""
    fits, evaluation = cost.fit_seconds, cost.evaluation_seconds
    counted = f"{cost.evaluation_evaluations:,.0f} density evaluations, the fits {cost.fit_evaluations:,.0f}"
    return f"{fits + evaluation:.1f} s: fits {fits:.1f}, evaluation {evaluation:.1f}; effort {cost.effort}: {counted}"


def _theta(fit: Fit) -> str:
    """Say how θ was fitted."""
    steps = f"{fit.steps} step{'s' if fit.steps != 1 else ''}"
    return f"θ by {fit.method} with '{fit.guide.text}': {steps}, {fit.seconds:.2f} s{_ended(fit)}"


def _stopped(table: Comparison) -> list[str]:
    """Say why guides' fits stopped early, or have not converged."""
    stopped = [row.fit for row in table.rows if row.fit.stopped or not row.fit.converged]
    return [f"'{fit.guide.text}': {_ended(fit).removeprefix('; ')}" for fit in stopped]


def _ended(fit: Fit) -> str:
    if fit.stopped.startswith("not converged"):
        return f"; {fit.stopped}"
    return f"; stopped: {fit.stopped}" if fit.stopped else ""
