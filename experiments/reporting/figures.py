"""Figures of a comparison and of a posterior. Each returns a Matplotlib figure; :func:`save` writes PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.comparison.table import Comparison
from experiments.fits.result import Fit
from experiments.log_evidence.log_weights import Z95
from experiments.reporting.smoothing import Curve, smoothed
from experiments.runtime.files import replacing
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

#: Okabe and Ito's colours, told apart by all kinds of sight. https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
LINES = ("-", "--", "-.", ":")
#: Dots per inch of what is saved as PNG.
DPI = 160


def elbo_trace(table: Comparison) -> Figure:
    """The bound that was maximised per unit against seconds, a line a fit, with log p(x | θ) and its interval as the level.

    A noisy curve is drawn as its moving mean in a 95% band, see :func:`experiments.reporting.smoothing.smoothed`.

    Raises:
        ZooError: if no fit took more than one step.
    """
    own = table.theta is not None and all(row.fit is not table.theta for row in table.rows)
    named = [("θ, " + table.theta.guide.text, table.theta)] if table.theta is not None and own else []
    named += [(row.fit.guide.text, row.fit) for row in table.rows]
    named = [(name, fit) for name, fit in named if len(fit.history) > 1]
    if not named:
        raise ZooError("expected a fit of more than one step for the ELBO figure; got none")
    fits = [fit for _, fit in named]
    figure, axes = panels_of(6.4, 4.0)
    axes.ticklabel_format(useOffset=False)
    level = table.evidence.middle / table.units
    curves = [_trace(fit, level) for fit in fits]
    labels = {fit.objective for fit in fits}
    for i, ((name, fit), curve) in enumerate(zip(named, curves, strict=True)):
        style = {"color": COLOURS[i % 8], "label": name if len(labels) == 1 else f"{name}: {fit.objective}"}
        axes.plot(curve.at, curve.values, linestyle=LINES[i % 4], linewidth=1.6, **style)
    evidence = table.evidence
    axes.axhline(level, color="0.35", linewidth=1, label=f"log p(x | θ), {evidence.kind.replace('_', ' ')}")
    if evidence.upper is not None:
        axes.axhspan(evidence.lower / table.units, evidence.upper / table.units, color="0.35", alpha=0.2, linewidth=0)
    # The first steps may be thousands of nats below: show the part where the fits' ends can be told apart.
    traces = [curve.values for curve in curves]
    depth = max(6 * max(level - float(trace[-1]), 0) for trace in traces)
    depth = max(depth, *(level - float(np.quantile(trace, 0.3)) for trace in traces))
    deepest = max(0.0, *(level - float(trace.min()) for trace in traces))
    depth = min(depth, 1.05 * deepest)
    axes.set_ylim(level - depth - 1e-3, level + 0.08 * depth + 1e-3)
    for i, curve in enumerate(curves):
        margin = Z95 * curve.errors  # none of a curve that is drawn as it is; of first steps wider than what is seen of them
        axes.fill_between(
            curve.at, curve.values - margin, curve.values + margin, margin < depth, color=COLOURS[i % 8],
            alpha=0.25, linewidth=0)
    if max(fit.seconds for fit in fits) > 20 * min(fit.seconds for fit in fits):
        axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"{labels.pop() if len(labels) == 1 else 'bound'} (nats per unit)")
    axes.set_title(f"{table.model.label} on {table.data}", loc="left")
    axes.legend(frameon=False, loc="best")
    return figure


def gap_bars(table: Comparison) -> Figure:
    """KL(q ‖ posterior) per unit by guide, with its 95% interval; an arrow where it is only a lower bound."""
    rows = [row.evaluation for row in table.rows][::-1]
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
        gap, upper = row.kl_gap, row.kl_gap.upper
        low, high = gap.lower / units, (gap.middle + Z95 * gap.se if upper is None else upper) / units
        axes.plot([low, max(low, high)], [i, i], color="black", linewidth=1.4)
        mark, shown = " ≥ " if upper is None else " ", values[i] if values[i] > 1e-9 else 0
        told = f" {low:.3g} … {high:.3g}" if gap.value is None and upper is not None else f"{mark}{shown:.3g}"
        axes.text(max(high, values[i]), i, told, va="center", ha="left", fontsize=9)
    axes.set_yticks(at, [row.guide for row in rows])
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    if wide:  # ticks of the linear part would lie on that of 0
        axes.set_xticks([tick for tick in axes.get_xticks() if tick == 0 or positive.min() <= tick <= axes.get_xlim()[1]])
    bound = ", lower bound" if table.evidence.upper is None else ""
    axes.set_xlabel(f"KL(q ‖ posterior), nats per unit{bound}" + (" (logarithmic above the first tick)" if wide else ""))
    axes.set_title(f"{table.model.label} on {table.data}", loc="left")
    return figure


def forest(tree: DataTree, most: int = 24) -> Figure:
    """Medians with 50% and 94% intervals of the posterior's first ``most`` scalars of like scale, by ArviZ."""
    import arviz_plots as azp

    scalars, left_out = _of_one_scale(_scalars(tree, most))
    plot = azp.plot_forest(
        scalars, combined=True, ci_kind="eti", ci_probs=(0.5, 0.94), point_estimate="median",
        backend="matplotlib")
    more = f"; of another scale, not shown: {', '.join(left_out)}" if left_out else ""
    return _titled(_of(plot), f"posterior: median, 50% and 94% intervals{more}")


def _of_one_scale(scalars: Any, factor: float = 20.0) -> tuple[Any, list[str]]:
    """Leave out the variables that would squeeze the rest of a shared axis to points; return the rest and their names."""
    values = {str(name): variable.values for name, variable in scalars["posterior"].dataset.data_vars.items()}
    reach = {name: float(np.abs(value).max()) for name, value in values.items()}
    typical = float(np.median(list(reach.values())))
    left_out = [name for name in values if reach[name] > factor * typical]
    import arviz_base as azb

    return azb.from_dict({"posterior": {k: v for k, v in values.items() if k not in left_out}}), left_out


def pair(tree: DataTree, most: int = 4) -> Figure:
    """The posterior's first ``most`` scalars against each other, by ArviZ."""
    import arviz_plots as azp

    plot = azp.plot_pair(
        _scalars(tree, most), marginal=True, marginal_kind="kde", triangle="lower", backend="matplotlib",
        visuals={"scatter": {"alpha": 0.15}})
    return _of(plot)


def predictive_check(tree: DataTree, most: int = 6) -> Figure:
    """Observations against 50 data sets drawn from the posterior predictive, by ArviZ: a panel a column, ``most`` of them."""
    import arviz_base as azb
    import arviz_plots as azp

    observed = _columns(tree["observed_data"].dataset, 0, most)
    predicted = _columns(tree["posterior_predictive"].dataset, 2, most)
    binary = all(bool(np.isin(value, (0, 1)).all()) for value in observed.values())
    if binary and any(value.ndim > 1 for value in tree["observed_data"].dataset.data_vars.values()):
        raise ZooError("expected one binary outcome a row for a calibration figure; got several; see the reconstructions")
    if binary:
        # Curves of zeros and ones tell nothing: show how often ones come where they are predicted with probability p.
        figure = _of(azp.plot_ppc_pava(tree, data_type="binary", backend="matplotlib"))
        return _titled(figure, "calibration: share of ones against their predicted probability")
    panels = azb.from_dict({"posterior_predictive": predicted, "observed_data": observed})
    plot = azp.plot_ppc_dist(panels, kind="kde", num_samples=50, backend="matplotlib", col_wrap=3)
    return _titled(_of(plot), "observed (black) and 50 posterior predictive data sets (blue)")


def _columns(values: Any, skip: int, most: int) -> dict[str, np.ndarray]:
    """Split a variable of a table's shape into its columns; ``skip`` dimensions come before the rows."""
    found: dict[str, np.ndarray] = {}
    for name, variable in values.data_vars.items():
        if variable.ndim - skip != 2:
            found[str(name)] = variable.values
            continue
        dim = variable.dims[-1]
        labels = variable[dim].values if dim in variable.coords else [f"{name}[{i}]" for i in range(variable.shape[-1])]
        found.update({_plain(str(label)): variable.values[..., i] for i, label in enumerate(labels)})
    return dict(list(found.items())[:most])


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

    written = [path.with_suffix(ending) for ending in (".png", ".svg")]
    try:
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


def _trace(fit: Fit, level: float) -> Curve:
    """Return a fit's bound per unit against seconds."""
    _, bound, seconds = zip(*fit.history, strict=True)
    return smoothed(seconds, [value / fit.units for value in bound], level)


def _plain(name: str) -> str:
    """Return a variable's name without the slash, which trees keep for paths."""
    return name.replace("/", "∕")


def _scalars(tree: DataTree, most: int) -> Any:
    """Return the posterior's first ``most`` scalars as a tree of their own, named like ``theta[Choate]``."""
    import arviz_base as azb

    flat: dict[str, np.ndarray] = {}
    posterior = tree["posterior"].dataset
    for name in sorted(posterior.data_vars, key=lambda n: posterior[n].ndim):
        variable = posterior[name]
        if variable.dtype.kind not in "f" or name == "responsibilities":
            continue
        for index in np.ndindex(*variable.shape[2:]):
            if len(flat) == most:
                break
            labels = [str(variable[d].values[i]) for d, i in zip(variable.dims[2:], index, strict=True) if d in variable.coords]
            values = variable.values[(slice(None), slice(None), *index)]
            if np.ptp(values) > 0:  # a standard deviation may be above 0 by rounding alone
                flat[_plain(f"{name}[{', '.join(labels or map(str, index))}]" if index else str(name))] = values
    if not flat:
        raise ZooError("expected continuous variables in the posterior for this figure; got none")
    return azb.from_dict({"posterior": flat})


def panels_of(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its panels, without the lines above and to the right."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(rows, columns, figsize=(width, height), layout="constrained")
    for axes in np.ravel([panels]):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _titled(figure: Figure, title: str) -> Figure:
    figure.set_layout_engine("constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _of(plot: Any) -> Figure:
    figure: Figure = plot.viz["figure"].item()
    return figure
