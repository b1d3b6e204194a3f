"""Data drawn from a model, with the latents that they were drawn with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from zoo.data import Data
from zoo.datasets.kinds import Dataset

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.program.run import Program


def sample(model: Model | Program, x: Data, seed: int | None = 0) -> Dataset:
    """Draw data from p(x, z | θ), shaped and with covariates like ``x``.

    The pair is a draw of the joint density, so ``latents`` are one *exact* draw of the posterior given the drawn data, with
    which log p(x | θ) can be bounded from above.

    Args:
        model: a model, at the θ that it has; or a bare Pyro program.
        x: the data whose shapes and covariates are kept.
        seed: of the draws; ``None`` uses torch's generator as it is.

    Returns:
        a data set whose ``latents`` are (1, units, d), unconstrained; ``None`` of a model that has no latents.

    >>> import zoo
    >>> x = zoo.dataset("wine", standardise=True).x
    >>> drawn = sample(zoo.build("ppca", x, latent=2), x)
    >>> drawn.name, drawn.x.shape, drawn.latents.shape
    ('sample:ppca', torch.Size([178, 13]), torch.Size([1, 178, 2]))
    """
    from zoo.bare import as_model

    model = as_model(model)
    latent, fresh = model.simulate(x, seed)
    with torch.no_grad():
        z = model.unconstrain(fresh, {name: value[None] for name, value in latent.items()}) if latent else None
    return Dataset(f"sample:{model.label}", fresh, remarks=("drawn from the model",), latents=z)


def sample_registered(name: str, base: Dataset, seed: int) -> Dataset:
    """Draw data from the registered model ``name``, built on ``base`` with its own options."""
    from zoo.construct import build
    from zoo.program.run import seeded

    with seeded(seed):
        x = base.x if base.view is None or not isinstance(base.x, torch.Tensor) else base.view(base.x)
    drawn = sample(build(name, x, seed=seed), x, seed)
    remarks = (f"drawn from {name} as it starts on {base.name}, seed {seed}", *(f"{base.name}: {r}" for r in base.remarks))
    return replace(base, name=drawn.name, x=drawn.x, latents=drawn.latents, remarks=remarks, labels=None, view=None)
