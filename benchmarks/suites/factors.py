"""Factor analysis and probabilistic PCA, against scikit-learn."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch import Tensor

import experiments
import zoo
from benchmarks.race import Contender, race
from benchmarks.results import Result, Row

#: Iterations given at most, how close to the best log-likelihood, relative, and the ratio to come to.
MOST, WITHIN, GOAL = 2000, 1e-6, 2.0


def factors(repeats: int = 5) -> Result:
    """Time factor analysis to within 1e-6, relative, of the best log p(x) that either contender reaches, and probabilistic PCA,
    from building the model to the fitted model, float64.

    scikit-learn's `FactorAnalysis` takes a singular value decomposition of the data in each iteration, by LAPACK. The zoo's
    accelerated EM works on the data's covariance. Each contender starts at its own start and runs as many iterations as it
    needs, which are counted beforehand. The maximum of PPCA is known in closed form: the zoo takes one iteration of EM from
    this maximum, and scikit-learn's `PCA` computes the same log p(x) from its singular values.
    """
    cases = {"2,000 × 20, 4 factors": (_drawn(2_000, 20, 4), 4), "20,000 × 50, 8 factors": (_drawn(), 8)}
    rows = [row for name, (x, latent) in cases.items() for row in (*_analysis(name, x, latent, repeats),
                                                                   *_principal(name, x, latent, repeats))]
    return Result(rows)


def _analysis(name: str, x: Tensor, latent: int, repeats: int) -> list[Row]:
    with torch.no_grad():
        trace = [step.log_evidence for step in _zoo("factor_analysis", x, latent, MOST).iterations]
    theirs = _scikit_learn(x.numpy(), latent, MOST)
    # Of its log-likelihoods all but the last lack a constant: what the last one is by its own score.
    shift = float(theirs.score(x.numpy())) * len(x) - theirs.loglike_[-1]
    best = max(max(trace), theirs.loglike_[-1] + shift)
    enough = best - WITHIN * abs(best)
    ours = 1 + next(i for i, value in enumerate(trace) if value >= enough)
    own = 1 + next(i for i, value in enumerate(theirs.loglike_) if value + shift >= enough)
    contenders: dict[str, Contender] = {
        "zoo": lambda: _zoo("factor_analysis", x, latent, ours).elbo,
        "scikit-learn": lambda: _scikit_learn(x.numpy(), latent, own)}
    found = race(contenders, repeats, 3 * WITHIN, lambda done: _log_likelihood(done, x))
    agrees = f"log p(x), within {WITHIN:g}: {ours} iterations of the zoo, {own} of scikit-learn"
    return _warm(found.rows(f"factor analysis, {name}", agrees, {"scikit-learn": (GOAL, None)}))


def _principal(name: str, x: Tensor, latent: int, repeats: int) -> list[Row]:
    contenders: dict[str, Contender] = {
        "zoo": lambda: _zoo("ppca", x, latent, 1).elbo, "scikit-learn": lambda: PCA(latent).fit(x.numpy())}
    # Its noise variance is that of the covariance over n − 1: the same likelihood to 1 / n.
    found = race(contenders, repeats, 2 / len(x), lambda done: _log_likelihood(done, x))
    return _warm(found.rows(f"PPCA, {name}", "log p(x), to 2 / n: covariances over n and n − 1", {}))


def _log_likelihood(done: Any, x: Tensor) -> float:
    return done if isinstance(done, float) else float(done.score(x.numpy())) * len(x)


def _warm(rows: list[Row]) -> list[Row]:
    return [replace(row, cold=None, spent_cold={}) for row in rows]


def _zoo(model: str, x: Tensor, latent: int, steps: int) -> experiments.Fit:
    built = zoo.build(model, x, latent=latent)
    return experiments.fit(built, "exact", x, method="em", steps=steps, accelerate=True, progress=False)


def _scikit_learn(x: np.ndarray, latent: int, steps: int) -> FactorAnalysis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is what was asked
        return FactorAnalysis(latent, max_iter=steps, tol=0.0, svd_method="lapack").fit(x)


def _drawn(rows: int = 20_000, columns: int = 50, latent: int = 8) -> Tensor:
    """Return rows of a factor analysis whose columns differ in their noise, (rows, columns)."""
    with zoo.seeded(0):
        loadings = torch.randn(columns, latent, dtype=torch.double)
        noise = torch.rand(columns, dtype=torch.double) * 2 + 0.5
        return torch.randn(rows, latent, dtype=torch.double) @ loadings.T + noise.sqrt() * torch.randn(
            rows, columns, dtype=torch.double)
