"""Adam's state as tensors with names, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experiments.fits.state import alike

#: What Adam keeps of each parameter: two moments, and how many steps it took.
SLOTS = ("exp_avg", "exp_avg_sq", "step")


def moments(optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """Return what ``optimiser`` keeps, as ``<number of the parameter>.<slot>``; a parameter without gradients has nothing."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{slot}": value for i, slots in state.items() for slot, value in slots.items()}


def put_back(
    optimiser: torch.optim.Adam, parameters: Sequence[Tensor], kept: Mapping[str, Tensor], rates: Sequence[float],
) -> None:
    """Put :func:`moments` and the learning rates of its groups back into ``optimiser``.

    Raises:
        KeyError, ValueError: moments of other parameters.
    """
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in kept.items():
        number, _, slot = name.partition(".")
        slots.setdefault(int(number), {})[slot] = value
    for i, found in slots.items():
        alike([found[slot] for slot in SLOTS], [parameters[i], parameters[i], torch.zeros(())])
    groups = optimiser.state_dict()["param_groups"]
    rated = [{**group, "lr": float(rate)} for group, rate in zip(groups, rates, strict=True)]
    optimiser.load_state_dict({"state": slots, "param_groups": rated})
