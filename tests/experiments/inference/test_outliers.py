"""One wild value among many: neither the start of a fit, nor its bounds, nor its numbers may hang on it."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import experiments
import zoo
from zoo.models.gmm import FLOOR, robust_variance

WILD = 99_999.0


def clusters() -> Tensor:
    torch.manual_seed(0)
    two = [torch.randn(100, 2, dtype=torch.double) + shift for shift in (-3, 3)]
    return torch.cat([*two, torch.full((1, 2), WILD).double()])


def reference(x: Tensor, components: int, covariance: str) -> float:
    """scikit-learn's log-likelihood, the best of three starts, of covariances to which FLOOR is added."""
    fits = [GaussianMixture(components, covariance_type=covariance, reg_covar=FLOOR, max_iter=500, random_state=seed).fit(x)
            for seed in range(3)]
    return max(float(fit.score(x)) for fit in fits) * len(x)


@pytest.mark.filterwarnings("ignore:mixture component:zoo.ZooWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_a_mixture_with_one_wild_row(covariance: str, dtype: torch.dtype) -> None:
    x = clusters()
    model = zoo.build("gmm", x.to(dtype), components=3, covariance=covariance)
    done = experiments.fit(model, "exact", x.to(dtype))
    # The wild row's own component stands at the floor: of scikit-learn 1e-6, here 1e-6 of the columns' variances.
    floors = 0.0 if covariance == "tied" else 0.5 * float((model.floor / FLOOR).log().sum())
    if covariance != "diag":  # whose variances scikit-learn takes as differences of squares, which cancel here
        assert done.elbo == pytest.approx(reference(x, 3, covariance) - floors, abs=0.3)
    # What EM reports by moments is what the program says at the same θ.
    evidence = float(model.double().log_evidence(x).sum().detach())
    assert done.elbo == pytest.approx(evidence, abs=1e-3 if dtype == torch.float64 else 0.05)


def test_scale_without_the_wild_and_with_it() -> None:
    x = clusters()[:-1]
    assert torch.equal(robust_variance(x), x.var(0, unbiased=False))  # nothing is far: the variance itself
    for wild in (1e3, WILD, 1e9):
        ratio = robust_variance(torch.cat([x, torch.full((1, 2), wild).double()])) / x.var(0, unbiased=False)
        assert bool(((ratio > 0.9) & (ratio < 3)).all())


def test_columns_of_mostly_one_value_keep_a_scale() -> None:
    x = torch.zeros(100, 1)
    x[:5, 0] = torch.arange(1.0, 6.0)
    assert 0 < float(robust_variance(x)) < math.inf
    assert float(robust_variance(x[:6])) > 0
