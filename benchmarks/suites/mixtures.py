"""EM on Gaussian mixtures, against scikit-learn."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import experiments
import zoo
from benchmarks.race import Contender, race
from benchmarks.results import Result, Row
from zoo.models.gmm import GMM

#: (rows, columns, components), iterations, and the ratio to come to.
CASES = (
    ((2_000, 2, 3), 10, 1.0), ((50_000, 2, 8), 8, 3.0), ((100_000, 16, 16), 3, 3.0), ((100_000, 32, 8), 3, 3.0),
    ((1_000_000, 8, 10), 2, 3.0))
#: Of EM to convergence; how close to the best log-likelihood, relative; and iterations given at most.
CREEPING, WITHIN, MOST, GOAL = ((50_000, 4, 6), (100_000, 8, 10)), 1e-6, 400, 6.0


def same_iterations(repeats: int = 5) -> Result:
    """Time the same number of EM iterations on a Gaussian mixture with full covariances in the zoo and in scikit-learn's
    `GaussianMixture`, from the same start (k-means, before the clock starts), float64. The zoo's time is that of
    `experiments.fit`: E-steps, M-steps, and the ELBO before and after each M-step, which scikit-learn does not report.
    """
    return Result([row for sizes, iterations, goal in CASES for row in _same(sizes, iterations, goal, repeats)])


def _same(sizes: tuple[int, int, int], iterations: int, goal: float, repeats: int) -> list[Row]:
    x = mixture(*sizes)
    start = _start(x, sizes[2])
    contenders: dict[str, Contender] = {
        "zoo": lambda: _zoo(start, x, iterations), "scikit-learn": lambda: _scikit_learn(start, x.numpy(), iterations)[-1]}
    found = race(contenders, repeats)
    case = f"n = {sizes[0]:,}, d = {sizes[1]}, K = {sizes[2]}, {iterations} iterations"
    agrees = "mean log p(x) before the last M-step, to 1e-8"
    return [replace(row, cold=None, spent_cold={}) for row in found.rows(case, agrees, {"scikit-learn": (goal, None)})]


def convergence(repeats: int = 5) -> Result:
    """Time EM on overlapping Gaussian mixtures, from the same start, until log p(x) is within 1e-6, relative, of the best value
    that any contender reaches. Each contender runs as many iterations as it needs for that, and these are counted beforehand.
    The zoo's EM is accelerated; the zoo's plain EM is a peer.
    """
    return Result([row for sizes in CREEPING for row in _converge(sizes, repeats)])


def _converge(sizes: tuple[int, int, int], repeats: int) -> list[Row]:
    x = mixture(*sizes)
    start = _start(x, sizes[2])
    traces = {
        "zoo": _trace(start, x, True), "zoo, plain EM": _trace(start, x, False),
        "scikit-learn": [value * len(x) for value in _scikit_learn(start, x.numpy(), MOST)]}
    best = max(max(trace) for trace in traces.values())
    enough = best - WITHIN * abs(best)
    needed = {name: 1 + next(i for i, value in enumerate(trace) if value >= enough) for name, trace in traces.items()}
    contenders: dict[str, Contender] = {
        "zoo": lambda: _zoo(start, x, needed["zoo"], True), "zoo, plain EM": lambda: _zoo(start, x, needed["zoo, plain EM"]),
        "scikit-learn": lambda: _scikit_learn(start, x.numpy(), needed["scikit-learn"])[-1]}
    found = race(contenders, repeats, 2 * WITHIN)
    case = f"n = {sizes[0]:,}, d = {sizes[1]}, K = {sizes[2]}"
    agrees = f"log p(x) within {WITHIN:g}; " + ", ".join(f"{name} {count} iterations" for name, count in needed.items())
    return [replace(row, cold=None, spent_cold={}) for row in found.rows(case, agrees, {"scikit-learn": (GOAL, None)})]


def _start(x: Tensor, components: int) -> GMM:
    start = zoo.build("gmm", x, components=components)
    assert isinstance(start, GMM), "the registry's own"
    return start


def _trace(start: GMM, x: Tensor, accelerate: bool) -> list[float]:
    """Return log p(x) before each M-step, in nats."""
    done = experiments.fit(
        copy.deepcopy(start), "exact", x, method="em", steps=MOST, accelerate=accelerate, progress=False)
    return [step.elbo_before for step in done.iterations]


def _zoo(start: GMM, x: Tensor, iterations: int, accelerate: bool = False) -> float:
    done = experiments.fit(
        copy.deepcopy(start), "exact", x, method="em", steps=iterations, accelerate=accelerate, progress=False)
    assert done.steps == iterations, "it converged before its iterations were over"
    return done.iterations[-1].elbo_before / len(x)


def _scikit_learn(start: GMM, x: np.ndarray, iterations: int) -> list[float]:
    """Return the mean log p(x) before each M-step."""
    with torch.no_grad():
        factors = start.covariance.expand(start.scale, *start.means.shape)
        precisions = torch.cholesky_inverse(factors).numpy()
        given = {"weights_init": start.weights.numpy(), "means_init": start.means.numpy(), "precisions_init": precisions}
    model = GaussianMixture(len(given["weights_init"]), max_iter=iterations, tol=0.0, reg_covar=0.0, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is what was asked
        model.fit(x)
    return [float(value) for value in model.lower_bounds_]


def mixture(rows: int, columns: int, components: int) -> Tensor:
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
