"""Figures of models with a decoder network or a flow: what they draw, how they rebuild, and where a guide's gap comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.comparison.table import Comparison
from experiments.reporting.figures import COLOURS, panels_of
from experiments.runtime.seeds import Stream
from guides.guide import BaseGuide
from zoo.data import as_rows
from zoo.errors import ZooError
from zoo.model import Model
from zoo.models.flow import Flow
from zoo.models.vae import VAE
from zoo.nn.flows import Composition, compose, layer_log_density
from zoo.nn.networks import Picture
from zoo.nn.priors import FlowOfNormals
from zoo.program.run import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: The parts of a gap: their colours, and what figures call them.
PARTS = {
    "gap": ("0.65", "not split"), "shared": (COLOURS[2], "shared latents"), "local": (COLOURS[1], "local latents"),
    "approximation": (COLOURS[0], "approximation: not in the family"),
    "amortisation": (COLOURS[4], "amortisation: not learned by the encoder")}


def split_bars(table: Comparison) -> Figure:
    """KL(q ‖ posterior) per unit by guide, by what it is made of: an encoder's approximation and amortisation, blocks' shares.

    Raises:
        ZooError: if no guide's gap splits.
    """
    rows = table.rows[::-1]
    if all(len(row.parts) == 1 for row in rows):
        raise ZooError("expected an encoder, or a guide of two blocks, in the comparison for the split figure; got none")
    figure, axes = panels_of(6.4, 1.6 + 0.42 * len(rows))
    units, named = table.units, {}
    for i, row in enumerate(rows):
        left = 0.0
        for name, gap in row.parts.items():
            width = max(0.0, gap.middle) / units
            colour, label = PARTS[name]
            named[label] = axes.barh(i, width, left=left, color=colour, height=0.6)
            left += width
        axes.text(left, i, f" {left:.3g}", va="center", ha="left", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.evaluation.guide for row in rows])
    shown = {label: named[label] for _, label in PARTS.values() if label in named}
    below = -0.55 / (0.6 + 0.42 * len(rows))  # under the label of the axis, however high the bars
    axes.legend(shown.values(), shown.keys(), frameon=False, loc="upper left", bbox_to_anchor=(0.0, below), fontsize=9)
    axes.margins(x=0.15)
    bound = ", lower bound" if table.evidence.upper is None else ""
    axes.set_xlabel(f"KL(q ‖ posterior), nats{' per unit' if units > 1 else ''}{bound}")
    axes.set_title(f"{table.model.label} on {table.data}", loc="left")
    return figure


def reconstructions(table: Comparison, guide: BaseGuide, shape: Sequence[int], count: int = 12) -> Figure:
    """The first ``count`` images, and below each E[x | z] at the guide's posterior mean.

    Raises:
        ZooError: no images, or a model without a decoder.
    """
    model, shape = _decoder(table.model), _image(shape)
    x = as_rows(table.x)
    z = _means(guide, table.x, table.seed)[:count]
    return _grid(
        [[*x[:count]], [*_expected(model, z)]], shape, f"{model.label}: images, and rebuilt from '{guide.text}'",
        rows=("image", "rebuilt"))


def worst_units(table: Comparison, guide: str, shape: Sequence[int], count: int = 12) -> Figure:
    """The ``count`` images that a guide serves worst, rebuilt below, with their gaps in nats.

    Raises:
        ZooError: no images, or a model without a decoder.
    """
    model, shape = _decoder(table.model), _image(shape)
    row = next(row for row in table.rows if row.evaluation.guide == guide)
    index = row.evaluation.worst(count)
    gaps = (row.evaluation.evidence.units - row.evaluation.elbo.units)[index]
    real = not table.simulated and len(table.partition.index) == table.units
    numbers = table.partition.index.cpu()[index] if real else torch.tensor(index)
    z = _means(row.fit.guide, table.x, table.seed)[index]
    heads = [f"{'row' if real else 'drawn'} {int(i)}\n{float(gap):.2f} nats" for i, gap in zip(numbers, gaps, strict=True)]
    return _grid(
        [[*as_rows(table.x)[index]], [*_expected(model, z)]], shape, f"units that '{guide}' serves worst, and their gaps",
        rows=("image", "rebuilt"), heads=heads)


def prior_samples(model: Model, shape: Sequence[int], seed: int = 0, side: int = 8) -> Figure:
    """E[x | z] at draws z of the prior.

    Raises:
        ZooError: no images, or a model without a decoder.
    """
    decoder, shape = _decoder(model), _image(shape)
    with seeded(seed), torch.no_grad():
        z = decoder.prior().sample((side * side,))
    images = _expected(decoder, z)
    return _grid([[*images[i * side:(i + 1) * side]] for i in range(side)], shape, f"{model.label}: drawn from the prior")


def traversal(table: Comparison, guide: BaseGuide, shape: Sequence[int], most: int = 8, steps: int = 11) -> Figure:
    """E[x | z] along the latents that tell units apart most, a row each, from −2.5 to 2.5 standard deviations of all units.

    Raises:
        ZooError: no images, or a model without a decoder.
    """
    decoder, shape = _decoder(table.model), _image(shape)
    means = _means(guide, table.x, table.seed)
    centre, spread = means.mean(0), means.std(0)
    rows, names = [], []
    for j in spread.argsort(descending=True)[:most].tolist():
        z = centre.expand(steps, -1).clone()
        z[:, j] += spread[j] * torch.linspace(-2.5, 2.5, steps).to(z)
        rows.append([*_expected(decoder, z)])
        names.append(f"z[{j}]")
    return _grid(rows, shape, f"{table.model.label}: along its latents, ±2.5 standard deviations", rows=names)


def latent_map(table: Comparison, guide: BaseGuide, labels: Tensor | None = None) -> Figure:
    """Posterior means of the units in two latent dimensions, coloured by class where there are ``labels``.

    Raises:
        ZooError: other than two latent dimensions.
    """
    if table.model.latents(table.x).size != 2 or table.units < 2:
        raise ZooError("expected two latent dimensions of many units for a latent map; got others")
    means = _means(guide, table.x, table.seed).cpu().numpy()
    figure, axes = panels_of(5.4, 4.8)
    classes: Any = None if labels is None or table.simulated else labels[table.partition.index.cpu()].numpy()
    if classes is None or len(classes) != len(means):
        axes.plot(*means.T, ".", color=COLOURS[0], markersize=4, alpha=0.7)
    else:
        for i, value in enumerate(np.unique(classes)):
            axes.plot(*means[classes == value].T, ".", color=f"C{i}", markersize=4, alpha=0.8, label=str(value))
        axes.legend(frameon=False, fontsize=8, markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel("z[0]")
    axes.set_ylabel("z[1]")
    axes.set_title(f"{table.model.label}: posterior means of the units, '{guide.text}'", loc="left")
    return figure


def samples(table: Comparison) -> Figure:
    """Rows of the data beside as many drawn from the model, for two columns.

    Raises:
        ZooError: other than two columns of many units.
    """
    x = table.x
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != 2 or table.units < 2:
        raise ZooError("expected a table of two columns for a figure of samples; got other data")
    drawn = as_rows(table.model.simulate(x, seed=table.seed + Stream.SIMULATION)[1])
    figure, panels = panels_of(7.2, 3.8, 2)
    titles = ("data", f"drawn from {table.model.label}")
    for axes, rows, title, colour in zip(panels, (x, drawn), titles, COLOURS, strict=False):
        axes.plot(*rows.detach().cpu().numpy().T, ".", color=colour, markersize=3, alpha=0.7)
        axes.set_title(title, loc="left")
    low, high = torch.minimum(x.min(0).values, drawn.min(0).values), torch.maximum(x.max(0).values, drawn.max(0).values)
    pad = 0.05 * (high - low)
    alike = float(pad.max()) < 3 * float(pad.min())  # columns in one unit keep their shape; others would make a sliver
    for axes in panels:
        axes.set_aspect("equal" if alike else "auto")
        axes.set_xlim(float(low[0] - pad[0]), float(high[0] + pad[0]))
        axes.set_ylim(float(low[1] - pad[1]), float(high[1] + pad[1]))
    return figure


def flow_layers(table: Comparison, guide: BaseGuide, points: int = 160) -> Figure:
    """The density of a two-dimensional flow at every layer, z_0 (standard normal) … z_K, with the units on it.

    Of ``flow`` the states of the rows; of a flow prior those of the units' posterior means.

    Raises:
        ZooError: a model without a flow, or one of other than two dimensions.
    """
    transform, last = _flow(table, guide)
    if last.shape[1] != 2:
        raise ZooError(f"expected a flow of two dimensions to draw its layers; got {last.shape[1]}")
    with torch.no_grad():
        states = Composition.of(transform, last).states
        columns = 3 if len(states) in (5, 6) else min(4, len(states))
        figure, panels = panels_of(2.9 * columns, 3.0 * -(-len(states) // columns), columns, -(-len(states) // columns))
        for k, (axes, state) in enumerate(zip(np.ravel(panels), states, strict=False)):
            _density_panel(axes, transform, k, state, points)
            last_name = f"z_{k}: posterior means" if isinstance(table.model, VAE) else f"z_{k}: rows"
            name = "z_0: standard normal" if k == 0 else last_name if k == len(states) - 1 else f"z_{k}"
            axes.set_title(name, loc="left", fontsize=10)
        for axes in np.ravel(panels)[len(states):]:
            axes.set_visible(False)
    return figure


def _flow(table: Comparison, guide: BaseGuide) -> tuple[Any, Tensor]:
    """Return the flow of a model or of its prior, and the last states z_K to follow through it."""
    model = table.model
    if isinstance(model, Flow):
        return model.transform(), as_rows(table.x)
    if isinstance(model, VAE) and isinstance(model.prior, FlowOfNormals):
        return compose(model.prior.network()), _means(guide, table.x, table.seed)
    raise ZooError(f"expected a model with a flow; got {model.label}")


def _density_panel(axes: Any, transform: Any, k: int, state: Tensor, points: int) -> None:
    """Draw the density of z_k, and the units' z_k on it."""
    low, high = state.min(0).values, state.max(0).values
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    axis = [torch.linspace(float(a), float(b), points) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axis).to(state)
    surface = layer_log_density(transform, k, grid).exp().reshape(points, points).T.cpu().numpy()
    axes.contourf(axis[0].numpy(), axis[1].numpy(), surface, levels=12, cmap="Blues")
    shown = state[:: max(1, len(state) // 400)].cpu().numpy()
    axes.plot(*shown.T, ".", color=COLOURS[1], markersize=1.6, alpha=0.6)


def _means(guide: BaseGuide, x: Any, seed: int, draws: int = 64) -> Tensor:
    """Return each unit's posterior mean under the guide, (units, d), from draws."""
    with seeded(seed), torch.no_grad():
        return guide.posterior(x).sample(torch.Size([draws])).mean(0)


def _expected(model: VAE, z: Tensor) -> Tensor:
    """Return E[x | z], a row of x each; of levels, the expected level."""
    with torch.no_grad():
        p = model.decode(z)
        probs = getattr(getattr(p, "base_dist", p), "probs", None)
        if probs is not None and probs.ndim == z.ndim + len(model.likelihood.event):  # categorical: (n, *event, levels)
            levels: Tensor = (probs * torch.arange(probs.shape[-1]).to(probs)).sum(-1)
            return levels
        mean: Tensor = p.mean
        return mean


def _decoder(model: Model) -> VAE:
    if not isinstance(model, VAE):
        raise ZooError(f"expected a model with a decoder network for this figure; got {model.label}")
    return model


def _image(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) < 2:
        raise ZooError("expected images for this figure; got rows without a shape")
    Picture.of(shape)  # raises
    return tuple(shape)


def _shown(image: Tensor, shape: Sequence[int], top: float) -> np.ndarray:
    """Return an image as matplotlib draws it: (h, w) of one channel, or (h, w, channels) of numbers from 0 to 1."""
    like = Picture.of(shape)
    pixels = image.detach().cpu().reshape(*shape) if like.last else image.detach().cpu().reshape(*shape).movedim(0, -1)
    if like.channels == 1:
        return pixels.reshape(like.height, like.width).numpy()
    return (pixels / max(top, 1.0)).clamp(0, 1).numpy()


def _grid(
    images: list[list[Tensor]], shape: Sequence[int], title: str, rows: Sequence[str] = (), heads: Sequence[str] = (),
) -> Figure:
    """Draw rows of images, with names beside the rows and heads above the columns."""
    import matplotlib.pyplot as plt

    high, wide = len(images), max(map(len, images))
    top = max(float(image.max()) for row in images for image in row)
    figure, panels = plt.subplots(
        high, wide, figsize=(0.75 * wide + 0.6, 0.8 * high + 0.5 + 0.3 * bool(heads)), squeeze=False, layout="constrained")
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            axes = panels[i][j]
            axes.imshow(_shown(image, shape, top), cmap="gray_r", vmin=0, vmax=top)
            if heads and i == 0:
                axes.set_title(heads[j], fontsize=7)
        if rows:
            panels[i][0].set_ylabel(rows[i], fontsize=9, rotation=0, ha="right", va="center")
    for axes in np.ravel(panels):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure

