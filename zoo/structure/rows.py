"""Minibatches of the rows of a data set that is one unit: whether the program can be run on some of its rows, as a check shows.

Rows of the unit plate are independent given the shared latents, so the log-likelihood of some is that of a run on these alone.
This holds only where the entries of x with as many rows are the rows', and where the program takes the plate's size from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data import Data, reference, take
from zoo.errors import ZooError
from zoo.program.run import evaluating, seeded
from zoo.structure.blocks import blocks, log_block_terms

if TYPE_CHECKING:
    from zoo.model import Model

#: Rows on which a program is tried.
TRIED = 5


def why_not_by_rows(model: Model, x: Data) -> str:
    """Return why some rows of ``x`` can't be evaluated without the others; empty where they can, as a run on some has shown.

    >>> import zoo
    >>> x = zoo.dataset("breast_cancer", "binary", standardise=True).x
    >>> why_not_by_rows(zoo.build("logistic_regression", x), x)
    ''
    """
    latents = model.latents(x)
    if latents.unit is not None:
        return f"rows of {model.label} are units of their own"
    found = None if latents.discrete else blocks(model, x)
    if found is None:
        return f"no plate of {model.label} holds every observed site, or discrete latents tie its rows together"
    if found.rows < 2:
        return f"plate '{found.plate}' of {model.label} has one row"
    count = min(TRIED, found.rows - 1)
    index = torch.linspace(0, found.rows - 1, count, device=reference(x).device).long()
    with seeded(0), torch.no_grad(), evaluating(model):
        z = 0.1 * torch.randn(1, 1, latents.size).to(reference(x))
        u, own = found.split(z)
        prior, rows = log_block_terms(model, x, z)
        part = take(x, index, found.rows)
        model.runner.adopt(part, count)
        try:
            again, some = log_block_terms(model, part, found.of_rows(count).join(u, own[:, index]))
        except (ZooError, RuntimeError, ValueError, IndexError, TypeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return (
                f"the program of {model.label} does not run on {count} of the {found.rows} rows of plate '{found.plate}' "
                f"({first[:120]})")
    return "" if _alike(again, prior) and _alike(some, rows[:, index]) else (
        f"{count} rows of plate '{found.plate}' alone have other log-likelihoods than among all {found.rows} in {model.label}")


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    close = 1e4 * torch.finfo(one.dtype).eps
    return bool(torch.allclose(one, other, rtol=close, atol=close, equal_nan=True))
