"""The batches of stochastic training: units held out, units a step, and draws of each unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiments.runtime.holdout import partition
from guides.guide import BaseGuide
from zoo.data import MANY, Data, reference
from zoo.distributions.enumerated import Enumerated
from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import evaluating, seeded

#: Layers that average over the units of a batch while they train.
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
#: Units a step where nobody says.
BATCH = 256


def default_draws(guide: BaseGuide, units: int, size: int, alpha: float) -> int:
    """Return 16 draws for one unit and 4 for many; 1 for an encoder on batches of 100 or more, which average over units.

    Of objectives other than the ELBO (``alpha`` ≠ 1) at least 8: of one draw, all of them are the ELBO.

    Source: Kingma and Welling (2014), §2.3, https://arxiv.org/abs/1312.6114
    """
    draws = 16 if units == 1 else 1 if guide.new_units and size >= 100 else 4
    return draws if alpha == 1 else max(8, draws)


def hold_out(model: Model, guide: BaseGuide, x: Data, share: float) -> tuple[Data, Data | None, int]:
    """Split a ``share`` of the units off for validation: return the others, these, and how many these are."""
    if not share:
        return x, None, 0
    units = len(reference(x)) if isinstance(x, Tensor) else model.latents(x).units
    if not guide.new_units:
        raise ZooError(
            f"expected a guide that can serve new units with validation; got '{guide.text}'; use an encoder, or leave it out")
    parts = partition(x, units, share, None, "validation", least=1, ordered=False)
    return parts.train, parts.held, len(parts.index)


def random_units(units: int, size: int) -> Tensor:
    """Return the numbers of ``size`` of ``units`` units, (size,), at random; of over :data:`MANY` units, one may come twice.

    A permutation of a million units takes longer than the estimate that some of them are for.

    >>> random_units(5, 5).sort().values
    tensor([0, 1, 2, 3, 4])
    """
    return torch.randint(units, (size,)) if units > MANY else torch.randperm(units)[:size]


def check_batch(model: Model, batch: Data, size: int) -> None:
    """Raise unless a program on ``size`` rows of x has ``size`` units: the units must be x's first dimension."""
    try:
        found = model.latents(batch).units
    except ZooError as error:
        found, reason = None, str(error)
    if found != size:
        got = reason if found is None else f"{found} units"
        raise ZooError(
            f"expected {size} rows of x to make {size} units of {model.label}; got {got}; put the units along the first "
            "dimension of x, with a plate of len(x), or leave batch_size out")


def check_normalisation(model: Model, guide: BaseGuide, batch: Data, index: Tensor | None, train_model: bool) -> None:
    """Raise where a batch normalisation would be trained on one value a channel, as of a ``batch`` of one unit.

    The networks are run in evaluation mode: their running statistics stay as they are.
    """
    layers = _normalisations({"guide": guide, model.label: model} if train_model else {"guide": guide})
    found = _met_alone(model, guide, batch, index, layers) if layers else []
    if found:
        owner, name = layers[found[0]]
        raise ZooError(
            f"expected 2 units or more a step for the {type(found[0]).__name__} '{name}' of {owner}, which averages over them; "
            "got 1; raise batch_size, or use LayerNorm")


def _normalisations(owners: Mapping[str, nn.Module]) -> dict[nn.Module, tuple[str, str]]:
    """Return the batch normalisations of some modules, each with its owner's name and its own."""
    return {
        part: (owner, name) for owner, module in owners.items() for name, part in module.named_modules()
        if isinstance(part, NORMALISATIONS)}


def _met_alone(
    model: Model, guide: BaseGuide, batch: Data, index: Tensor | None, layers: Iterable[nn.Module],
) -> list[nn.Module]:
    """Run guide and model on a batch, one draw of each unit; return the ``layers`` that met one value a channel, in order."""
    found: list[nn.Module] = []

    def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].ndim > 1 and inputs[0].numel() == inputs[0].shape[1]:
            found.append(layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with evaluating(model, guide), seeded(0), torch.no_grad():
            q = guide.posterior(batch, index)
            model.log_joint(batch, q.enumerate_support() if isinstance(q, Enumerated) else scored(q, 1)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def batch_size(model: Model, guide: BaseGuide, units: int, asked: int | None, most: int = BATCH) -> int:
    """Return how many units, or rows of one, a step takes: as ``asked``, or all up to ``most``.

    Raises:
        ZooError: a batch of a one-unit model, or one larger than the data.
    """
    if asked is None:
        return min(units, most) if guide.minibatches else units
    if units == 1:
        raise ZooError(
            f"expected no batch_size for {model.label}, whose latents all rows share (one unit); got {asked}; leave it out")
    if not 1 <= asked <= units:
        raise ZooError(f"expected a batch_size from 1 to the {units} units; got {asked}; lower it")
    return asked
