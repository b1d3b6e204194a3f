"""EM on Gaussian mixtures, against scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import experiments
import zoo
from benchmarks.race import Contender, race
from zoo.models.gmm import GMM

#: (rows, columns, components), iterations and repeats of each case.
CASES = {
    "n=2e3 d=2 K=3": ((2_000, 2, 3), 5, 9), "n=5e4 d=2 K=8": ((50_000, 2, 8), 8, 5),
    "n=1e5 d=16 K=16": ((100_000, 16, 16), 3, 3), "n=1e5 d=32 K=8": ((100_000, 32, 8), 3, 3),
    "n=1e6 d=8 K=10": ((1_000_000, 8, 10), 2, 3),
}


def same_iterations() -> dict[str, Any]:
    """Time as many iterations of EM from the same start, and check the mean log p(x) before the last M-step to 1e-8."""
    return {name: _case(*sizes, iterations, repeats) for name, (sizes, iterations, repeats) in CASES.items()}


def _case(rows: int, columns: int, components: int, iterations: int, repeats: int) -> dict[str, Any]:
    x = _mixture(rows, columns, components)
    start = zoo.build("gmm", x, components=components)
    assert isinstance(start, GMM), "the registry's own"
    contenders: dict[str, Contender] = {
        "zoo": lambda: _zoo(start, x, iterations), "scikit-learn": lambda: _scikit_learn(start, x.numpy(), iterations)}
    return {"iterations": iterations, **race(contenders, repeats).to_dict()}


def _zoo(start: GMM, x: Tensor, iterations: int) -> float:
    model = zoo.build("gmm", x[: 50 * start.components], components=start.components)
    model.load_state_dict(start.state_dict())
    done = experiments.fit(model, "exact", x, method="em", steps=iterations, progress=False)
    assert done.steps == iterations, "it converged before its iterations were over"
    return done.iterations[-1].elbo_before / len(x)


def _scikit_learn(start: GMM, x: np.ndarray, iterations: int) -> float:
    with torch.no_grad():
        factors = start.covariance.expand(start.scale, *start.means.shape)
        precisions = torch.cholesky_inverse(factors).numpy()
        given = {"weights_init": start.weights.numpy(), "means_init": start.means.numpy(), "precisions_init": precisions}
    model = GaussianMixture(len(given["weights_init"]), max_iter=iterations, tol=0.0, reg_covar=0.0, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is what was asked
        model.fit(x)
    return float(model.lower_bound_)


def _mixture(rows: int, columns: int, components: int) -> Tensor:
    """Return rows of a mixture whose components overlap, (rows, columns), float64."""
    with zoo.seeded(0):
        size = columns**-0.5  # components as far apart, and covariances as well conditioned, in any dimension
        means = 3 * size * torch.randn(components, columns, dtype=torch.double)
        bent = torch.randn(components, columns, columns, dtype=torch.double)
        factors = torch.eye(columns, dtype=torch.double) + 0.4 * size * bent
        z = torch.randint(components, (rows,))
        noise = torch.randn(rows, columns, dtype=torch.double)
        x: Tensor = means[z] + torch.einsum("nij,nj->ni", factors[z], noise)
        return x
