"""Figures of a comparison and of a row's density. Each returns a Matplotlib figure; :func:`save` writes PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.comparison.table import Comparison
from experiments.diagnostics.gap import Gap
from experiments.fits.result import LOG_JOINT, Fit
from experiments.log_evidence.log_weights import Z95
from experiments.reporting.smoothing import Curve, smoothed
from experiments.runtime.files import replacing
from experiments.runtime.inert import inert_lines
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart by all kinds of sight. https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
LINES = ("-", "--", "-.", ":")
#: Dots per inch of what is saved as PNG.
DPI = 160


def elbo_trace(table: Comparison) -> Figure:
    """The bound that was maximised per unit against seconds, a line a fit, with log p(x | θ) and its interval as the level.

    A noisy curve is drawn as its moving mean in a 95% band, see :func:`experiments.reporting.smoothing.smoothed`. With a
    hold-out, log p(x | θ) is that of the held-out units: the curves of θ and of encoders are of other units, and labelled so.

    Raises:
        ZooError: if no fit took more than one step.
    """
    named = _traced_fits(table)
    if not named:
        raise ZooError("expected a fit of more than one step for the ELBO figure; got none")
    figure, axes = panels_of(6.4, 4.0)
    axes.ticklabel_format(useOffset=False)
    level = table.evidence.middle / table.units
    curves = [_trace(fit, None if _trained_elsewhere(table, fit) else level) for _, fit in named]
    labels, bound = _line_labels(table, named)
    for i, (label, curve) in enumerate(zip(labels, curves, strict=True)):
        axes.plot(curve.at, curve.values, linestyle=LINES[i % 4], linewidth=1.6, color=COLOURS[i % 8], label=label)
    _draw_level(axes, table, level)
    top = max(level, *(float(curve.values[-1]) for curve in curves))
    depth = _depth_shown([curve.values for curve in curves], top)
    axes.set_ylim(top - depth - 1e-3, top + 0.08 * depth + 1e-3)
    _draw_bands(axes, curves, depth)
    seconds = [fit.seconds for _, fit in named]
    if max(seconds) > 20 * min(seconds):
        axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"{bound} (nats per unit)")
    axes.set_title(f"{table.model.label} on {table.data}", loc="left")
    axes.legend(frameon=False, loc="best")
    return figure


def _traced_fits(table: Comparison) -> list[tuple[str, Fit]]:
    """Return the fits of more than one step by name: that of θ first where it is no guide's own, then the guides'."""
    named = [(row.fit.guide.text, row.fit) for row in table.rows]
    if table.theta is not None and all(row.fit is not table.theta for row in table.rows):
        named = [("θ, " + table.theta.guide.text, table.theta), *named]
    return [(name, fit) for name, fit in named if len(fit.history) > 1 and fit.objective != LOG_JOINT]


def _trained_elsewhere(table: Comparison, fit: Fit) -> bool:
    """Return whether a fit's units are not those that the guides are compared on, so that log p(x | θ) is no limit to it."""
    return bool(table.partition.share) and (fit is table.theta or fit.guide.new_units)


def _trace(fit: Fit, level: float | None) -> Curve:
    """Return a fit's bound per unit against seconds."""
    _, bound, seconds = zip(*fit.history, strict=True)
    return smoothed(seconds, [value / fit.units for value in bound], level)


def _line_labels(table: Comparison, named: Sequence[tuple[str, Fit]]) -> tuple[list[str], str]:
    """Return the lines' labels and what the bounds are called: the labels name them where fits maximised different ones."""
    objectives = {fit.objective for _, fit in named}
    labels = [f"{name}, units trained on" if _trained_elsewhere(table, fit) else name for name, fit in named]
    if len(objectives) == 1:
        return labels, objectives.pop()
    return [f"{label}: {fit.objective}" for label, (_, fit) in zip(labels, named, strict=True)], "bound"


def _draw_level(axes: Any, table: Comparison, level: float) -> None:
    """Draw log p(x | θ) per unit as a line, and its interval as a band where both ends are known."""
    evidence = table.evidence
    axes.axhline(level, color="0.35", linewidth=1, label=f"{table.quantity}, {evidence.kind.replace('_', ' ')}")
    if evidence.upper is not None:
        axes.axhspan(evidence.lower / table.units, evidence.upper / table.units, color="0.35", alpha=0.2, linewidth=0)


def _depth_shown(traces: Sequence[np.ndarray], level: float) -> float:
    """Return how far below ``level`` the axis goes, in nats per unit.

    The first steps may be thousands of nats below: the part is shown where the fits' ends can be told apart.
    """
    depth = max(6 * max(level - float(trace[-1]), 0) for trace in traces)
    depth = max(depth, *(level - float(np.quantile(trace, 0.3)) for trace in traces))
    deepest = max(0.0, *(level - float(trace.min()) for trace in traces))
    return min(depth, 1.05 * deepest)


def _draw_bands(axes: Any, curves: Sequence[Curve], depth: float) -> None:
    """Draw the 95% bands of moving means."""
    for i, curve in enumerate(curves):
        margin = Z95 * curve.errors  # none of a curve that is drawn as it is; of first steps wider than what is seen of them
        axes.fill_between(
            curve.at, curve.values - margin, curve.values + margin, margin < depth, color=COLOURS[i % 8],
            alpha=0.25, linewidth=0)


def gap_bars(table: Comparison) -> Figure:
    """KL(q ‖ posterior) per unit by guide, with its 95% interval; an arrow where it is only a lower bound.

    Markov chains, which have none, are left out.

    Raises:
        ZooError: no guide has a gap.
    """
    rows = [row.evaluation for row in table.rows if not math.isnan(row.evaluation.kl_gap.middle)][::-1]
    if not rows:
        raise ZooError("expected a guide with a gap for its figure; got Markov chains alone; compare others beside them")
    figure, axes = panels_of(6.4, 1.3 + 0.42 * len(rows))
    units = table.units
    values = np.array([max(0.0, row.kl_gap.middle) / units for row in rows])
    at = np.arange(len(rows))
    axes.barh(at, values, color=COLOURS[0], height=0.6)
    positive = values[values > 1e-6]
    wide = len(positive) > 1 and positive.max() > 50 * positive.min()
    if wide:
        axes.set_xscale("symlog", linthresh=float(positive.min()))
    for i, row in enumerate(rows):
        _draw_gap_interval(axes, i, row.kl_gap, values[i], units)
    axes.set_yticks(at, [row.guide for row in rows])
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    if wide:
        _keep_logarithmic_ticks(axes, positive.min())
    bound = ", lower bound" if table.evidence.upper is None else ""
    axes.set_xlabel(f"KL(q ‖ posterior), nats per unit{bound}" + (" (logarithmic above the first tick)" if wide else ""))
    axes.set_title(f"{table.model.label} on {table.data}", loc="left")
    return figure


def _draw_gap_interval(axes: Any, at: int, gap: Gap, value: float, units: int) -> None:
    """Draw the 95% interval of a gap over its bar, which ends at ``value``, and write the gap beside it."""
    low, high = gap.lower / units, (gap.middle + Z95 * gap.se if gap.upper is None else gap.upper) / units
    axes.plot([low, max(low, high)], [at, at], color="black", linewidth=1.4)
    mark, shown = " ≥ " if gap.upper is None else " ", value if value > 1e-9 else 0
    told = f" {low:.3g} … {high:.3g}" if gap.value is None and gap.upper is not None else f"{mark}{shown:.3g}"
    axes.text(max(high, value), at, told, va="center", ha="left", fontsize=9)


def _keep_logarithmic_ticks(axes: Any, start: float) -> None:
    """Keep the ticks at 0 and from ``start`` on: those of the linear part between would lie on that of 0."""
    axes.set_xticks([tick for tick in axes.get_xticks() if tick == 0 or start <= tick <= axes.get_xlim()[1]])


def density(model: Model, x: Data, guide: BaseGuide, columns: Sequence[str] = (), seed: int = 0) -> Figure:
    """The density of a new row over the data, for one or two columns.

    p(x | θ) where rows own their latents and the model knows it; else the posterior predictive mean of p(x | z) under q.

    Raises:
        ZooError: data of another shape, or a density that can't be had row by row.
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] > 2:
        raise ZooError("expected a table of 1 or 2 columns for a density figure; got other data; choose columns")
    low, high = x.min(0).values, x.max(0).values
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    names = list(columns) or [f"column {i}" for i in range(x.shape[1])]
    axis = [torch.linspace(float(a), float(b), 160 if x.shape[1] == 2 else 600) for a, b in zip(low, high, strict=True)]
    points = torch.cartesian_prod(*axis).reshape(-1, x.shape[1]).to(x)
    value = _row_density(model, x, points, guide, seed).cpu().numpy()
    figure, axes = panels_of(6.0, 4.4)
    if x.shape[1] == 1:
        axes.hist(x[:, 0].cpu().numpy(), bins="auto", density=True, color="0.8", label="data")
        axes.plot(axis[0].numpy(), value, color=COLOURS[0], label="density")
        axes.set_ylabel(f"density (per unit of {names[0]})")
        axes.legend(frameon=False)
    else:
        surface = value.reshape(len(axis[0]), -1).T
        levels = _mass_levels(surface)
        axes.contourf(axis[0].numpy(), axis[1].numpy(), surface, levels=[*levels, surface.max()], cmap="Blues")
        contours = axes.contour(axis[0].numpy(), axis[1].numpy(), surface, levels=levels, colors="0.3", linewidths=0.7)
        axes.clabel(contours, fmt=dict(zip(contours.levels, ("95%", "75%", "50%", "25%"), strict=False)), fontsize=8)
        axes.plot(*x.T.cpu().numpy(), ".", color=COLOURS[1], markersize=3.5, alpha=0.7)
        axes.set_ylabel(names[1])
    axes.set_xlabel(names[0])
    inside = ", with the mass inside each line" if x.shape[1] == 2 else ""
    axes.set_title(f"{model.label}: density of a row{inside}", loc="left")
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` with the endings .png and .svg, each whole or not at all, and close the figure."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    written = [path.with_suffix(ending) for ending in (".png", ".svg")]
    try:
        for label in figure.findobj(Text):
            label.set_text(inert_lines(label.get_text()))  # XML has no control characters
        figure.set_dpi(DPI)
        figure.draw_without_rendering()  # lays the figure out, once for both: it takes longer than drawing
        box = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
        figure.set_layout_engine("none")
        for target in written:
            with replacing(target) as part:
                metadata = {"Date": None} if target.suffix == ".svg" else None
                figure.savefig(part, dpi=DPI, bbox_inches=box, metadata=metadata)
    finally:
        plt.close(figure)
    return written


def _row_density(model: Model, x: Tensor, points: Tensor, guide: BaseGuide, seed: int) -> Tensor:
    latents = model.latents(x)
    with seeded(seed), torch.no_grad():
        if latents.unit:
            return model.log_evidence(points).exp()
        z = guide.posterior(x).sample((200,))
        log_likelihood = model.log_likelihood(points, z)
        (value,) = log_likelihood.values()
        if value.shape != (200, len(points)):
            raise ZooError(f"expected a log-likelihood per row for a density figure; got shape {tuple(value.shape)}")
        return value.exp().mean(0)


def _mass_levels(surface: np.ndarray) -> list[float]:
    """Return the densities whose upper level sets hold 95, 75, 50 and 25% of the mass on the grid, ascending."""
    order = np.sort(surface.ravel())[::-1]
    mass = np.cumsum(order) / order.sum()
    return [float(order[np.searchsorted(mass, share)]) for share in (0.95, 0.75, 0.5, 0.25)]


def panels_of(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its panels (one alone as it is, more as an array), without the lines above and to the right."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(rows, columns, figsize=(width, height), layout="constrained")
    for axes in np.ravel([panels]):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
