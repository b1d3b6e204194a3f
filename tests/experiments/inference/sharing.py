"""What each process does in the tests of fits that several share.

``python -m tests.experiments.inference.sharing CASE INTO`` runs under torchrun.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as group
from safetensors.torch import save_file
from torch import Tensor

import experiments
import zoo


def rows() -> Tensor:
    x = zoo.dataset("wine", standardise=True).x
    assert isinstance(x, Tensor)
    return x


def bare(x: Tensor) -> None:
    import pyro
    import pyro.distributions as dist

    means = pyro.param("means", torch.tensor([-1.0, 1.0]).double())
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6]).double()))
        pyro.sample("x", dist.Normal(means[z], 1.0), obs=x[:, 0])


def pictures() -> Tensor:
    x = zoo.dataset("digits", "images", binarise="static").x
    assert isinstance(x, Tensor)
    return x[:300]


def _fit(name: str, guide: str, x: Tensor, options: Mapping[str, Any], shard: bool, **how: Any) -> experiments.Fit:
    return experiments.fit(zoo.build(name, x, **options), guide, x, shard=shard, progress=False, **how)


#: Fits by name, each shared or not.
CASES: Mapping[str, Callable[[bool], experiments.Fit]] = {
    "gmm": lambda shard: _fit("gmm", "exact", rows(), {"components": 3}, shard, steps=12),
    "accelerated": lambda shard: _fit("gmm", "exact", rows(), {"components": 3}, shard, steps=12, accelerate=True),
    "factor_analysis": lambda shard: _fit("factor_analysis", "exact", rows(), {"start": "random"}, shard, steps=40),
    "bare": lambda shard: experiments.fit(bare, "exact", rows(), shard=shard, steps=5, progress=False),
    "vae": lambda shard: _fit(
        "vae", "mean_field:encoder", pictures(), {"latent": 3, "hidden": (20,)}, shard, steps=30, batch_size=50),
    "flow": lambda shard: _fit(
        "vae", "flow:encoder", pictures(), {"latent": 2, "hidden": (20,)}, shard, steps=10, batch_size=49, draws=2),
    "dreg": lambda shard: _fit(
        "vae", "full_rank:encoder", pictures(), {"latent": 2, "hidden": (20,)}, shard, steps=10, batch_size=50, draws=4,
        objective="iwae", estimator="dreg"),
    "categorical": lambda shard: _fit("gmm", "categorical:encoder", rows(), {"components": 3}, shard, steps=20, batch_size=31),
}


def told(done: experiments.Fit) -> dict[str, Tensor]:
    """Return the parameters and the history of a fit."""
    found = {f"model.{name}": value for name, value in done.model.state_dict().items()}
    found |= {f"guide.{name}": value for name, value in done.guide.state_dict().items()}
    return {**found, "history": torch.tensor([value for _, value, _ in done.history]).double()}


def main(into: str) -> None:
    """Do all cases, and write what each came to, by process."""
    group.init_process_group("gloo")
    for name, case in CASES.items():
        save_file({k: v.contiguous() for k, v in told(case(True)).items()},
                  Path(into) / f"{name}-{os.environ['RANK']}.safetensors")
    group.barrier()
    group.destroy_process_group()
    sys.stdout.flush()
    # Gloo's threads may still let go of tensors while the interpreter is torn down, and then abort the process, about once in
    # forty times on a busy machine: https://github.com/pytorch/pytorch/pull/179291. All that is tested has been written by now.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
