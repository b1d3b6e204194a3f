"""Fits from several seeds."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from experiments.fits.result import Fit
from experiments.inference.fit import fit
from guides.guide import AnyGuide, BaseGuide
from zoo.bare import as_model
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import Program


def fit_seeds(
    model: Model | Program, guide: AnyGuide, x: Data, *, seeds: Sequence[int] = range(5), **options: Any,
) -> list[Fit]:
    """Fit from several seeds, each on a copy of the model; return the fits, the highest bound first.

    ``model`` itself is left as it is, but with a built guide, which one seed fits in place: ``fits[0].model`` and
    ``fits[0].guide`` are the best pair. A model's own start is that of
    ``model``; what a seed changes is the guide's start, the draws and the minibatches.

    Args:
        model, guide, x: as of :func:`fit`; the guide as written, or a Pyro guide's class.
        seeds: one fit each.
        options: of :func:`fit`.

    Raises:
        ZooError: no seeds, a guide that is already built with several seeds, or any error of :func:`fit`.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> [round(done.elbo, 1) for done in fit_seeds(zoo.build("gmm", x), "exact", x, seeds=range(2))]
    [-1130.3, -1130.3]
    """
    if not len(seeds):
        raise ZooError("expected one seed or more; got none; e.g. seeds=range(5)")
    if isinstance(guide, nn.Module) and len(seeds) == 1:
        return [fit(model, guide, x, seed=seeds[0], name=f"seed {seeds[0]}", **options)]
    if isinstance(guide, nn.Module):
        text = guide.text if isinstance(guide, BaseGuide) else type(guide).__name__
        raise ZooError(
            f"expected a guide that each seed can start anew; got '{text}', which is built; pass its text, class or function")
    known = as_model(model)
    fits = [fit(copy.deepcopy(known), guide, x, seed=seed, name=f"seed {seed}", **options) for seed in seeds]
    return sorted(fits, key=lambda done: -math.inf if done.bound is None else done.bound, reverse=True)
