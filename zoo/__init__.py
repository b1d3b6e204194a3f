"""Latent-variable models p(x, z | θ) as Pyro programs, and data for them.

- ``build`` makes a registered model, ``as_model`` wraps a program of one's own; both are a ``Model``. ``MODELS`` lists those
  that are registered. ``arguments`` makes data of what a program of several arguments is called with.
- ``describe`` says what a program is, as a ``Description``: sites, plates, units, and a drawing of the graphical model.
- ``dataset`` loads a ``Dataset``: ``DATASETS`` lists them.
- ``Latents`` says how z is laid out, ``Enumerated`` is a posterior over a finite support.
- ``linear_predictor`` finds the number through which each observation hangs on the latents, where there is one.
- ``seeded`` draws by a seed and puts torch's generator back, ``mapped`` keeps data on disk.
- ``ZooError`` and ``ZooWarning`` are one line each: what was expected, what came, what to do.

Names load when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import ZooError, ZooWarning
from zoo.registry import DATASETS, MODELS, lazy

if TYPE_CHECKING:
    from zoo.bare import as_model, describe
    from zoo.construct import build
    from zoo.datasets import Dataset, dataset
    from zoo.datasets.spool import mapped
    from zoo.distributions.enumerated import Enumerated
    from zoo.model import Model
    from zoo.program.calls import arguments
    from zoo.program.run import seeded
    from zoo.program.sites.latents import Latents
    from zoo.structure.description import Description
    from zoo.structure.linear_predictor import linear_predictor

_LAZY = {
    "Dataset": "zoo.datasets:Dataset",
    "Description": "zoo.structure.description:Description",
    "Enumerated": "zoo.distributions.enumerated:Enumerated",
    "Latents": "zoo.program.sites.latents:Latents",
    "Model": "zoo.model:Model",
    "arguments": "zoo.program.calls:arguments",
    "as_model": "zoo.bare:as_model",
    "build": "zoo.construct:build",
    "dataset": "zoo.datasets:dataset",
    "describe": "zoo.bare:describe",
    "linear_predictor": "zoo.structure.linear_predictor:linear_predictor",
    "mapped": "zoo.datasets.spool:mapped",
    "seeded": "zoo.program.run:seeded",
}

__all__ = [
    "DATASETS", "MODELS", "Dataset", "Description", "Enumerated", "Latents", "Model", "ZooError", "ZooWarning", "arguments",
    "as_model", "build", "dataset", "describe", "linear_predictor", "mapped", "seeded",
]


__getattr__ = lazy(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
