"""State-space models against the Kalman filter and the dense normal, and their data."""

from __future__ import annotations

import math
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import halfnorm, multivariate_normal, norm
from torch import Tensor

import experiments
import zoo

Y = np.array([1.2, 0.7, 2.9, 2.2, 3.1, 1.8, 2.4, 4.4, 3.9])
MEAN, SPREAD = Y.mean(), Y.std(ddof=1)
#: Noise, level and slope: standard deviations at which the series is looked at.
SCALES = {"noise_scale": 0.8, "level_scale": 0.3, "slope_scale": 0.15}


def kalman(y: np.ndarray, trend: bool, noise: float, level: float, slope: float) -> float:
    """Return log p(y | scales) by the Kalman filter: predict the state, score the observation, update."""
    move = np.array([[1.0, 1.0], [0.0, 1.0]])
    spread = y.std(ddof=1)
    mean, covariance = np.array([y.mean(), 0.0]), np.diag([spread**2, (spread / 10) ** 2 * trend])
    total = 0.0
    for t, value in enumerate(y):
        if t:
            mean, covariance = move @ mean, move @ covariance @ move.T + np.diag([level**2, slope**2 * trend])
        variance, error = covariance[0, 0] + noise**2, value - mean[0]
        total -= 0.5 * (math.log(2 * math.pi * variance) + error**2 / variance)
        gain = covariance[:, 0] / variance
        mean, covariance = mean + gain * error, covariance - np.outer(gain, covariance[0])
    return total


def dense(y: np.ndarray, trend: bool, noise: float, level: float, slope: float) -> float:
    """Return log p(y | scales) as that of one normal, whose covariance is that of sums of steps."""
    times = np.arange(len(y))
    least = np.minimum(times[:, None], times)
    spread = y.std(ddof=1)
    covariance = spread**2 + level**2 * least + noise**2 * np.eye(len(y))
    if trend:
        # The slope before time j is its first value plus the bends before that; the level is the sum of the slopes.
        sums = np.array([[max(t - 1 - k, 0) for k in range(len(y) - 1)] for t in times])
        covariance = covariance + (spread / 10) ** 2 * np.outer(times, times) + slope**2 * sums @ sums.T
    return float(multivariate_normal(np.full(len(y), y.mean()), covariance).logpdf(y))


@pytest.mark.parametrize("trend", [False, True])
def test_the_path_integrates_to_the_kalman_filter(trend: bool) -> None:
    """The density is quadratic in the path, so its integral over the path is its value at the top and its curvature there."""
    x = {"y": torch.as_tensor(Y)}
    model = zoo.build("state_space", x, trend=trend)
    names = [site.name for site in model.latents(x).sites]
    like = {name: value[0] for name, value in model.constrain(x, model.sample_prior(x, 1)).items()}
    values = {name: torch.full_like(like[name], SCALES.get(name, 0.0)) for name in names}
    z = model.unconstrain(x, {name: value[None] for name, value in values.items()})[0, 0]
    of_path = torch.cat([torch.full((site.size,), site.name not in SCALES) for site in model.latents(x).sites])

    def log_joint(path: Tensor) -> Tensor:
        full = z.index_put((of_path.nonzero().flatten(),), path)[None, None]
        sites = model.log_probs(x, full)
        return sum((value.sum() for name, value in sites.items() if name not in SCALES), torch.zeros(()))

    start = z[of_path]
    slope = torch.func.grad(log_joint)(start)
    curvature = torch.autograd.functional.hessian(log_joint, start)
    top = start - torch.linalg.solve(curvature, slope)
    integral = log_joint(top) + 0.5 * len(top) * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(-curvature).logabsdet
    expected = kalman(Y, trend, **{name.removesuffix("_scale"): value for name, value in SCALES.items()})
    assert expected == pytest.approx(dense(Y, trend, *SCALES.values()), abs=1e-10)
    assert float(integral) == pytest.approx(expected, abs=1e-8)


def local_level(y: np.ndarray, noise: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return log p(y | scales) at many scales by the Kalman filter of one number."""
    mean, variance, total = y.mean(), np.full(noise.shape, y.var(ddof=1)), np.zeros(noise.shape)
    for t, value in enumerate(y):
        variance = variance + level**2 * (t > 0)
        total += norm.logpdf(value, mean, np.sqrt(variance + noise**2))
        gain = variance / (variance + noise**2)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    return total


@cache
def by_grid() -> float:
    """Return log p(y) of Kilpisjärvi: a sum over the two scales, with the path integrated by the Kalman filter."""
    y = zoo.dataset("kilpisjarvi").x["y"].numpy()
    spread, width = y.std(ddof=1), 0.01
    grid = (np.arange(400) + 0.5) * width
    noise, level = np.meshgrid(grid * spread, grid * spread)
    prior = halfnorm.logpdf(noise, scale=spread) + halfnorm.logpdf(level, scale=spread)
    return float(logsumexp(local_level(y, noise, level) + prior) + 2 * math.log(width * spread))


def test_elbo_and_importance_bound_lie_below_the_evidence_and_near_it() -> None:
    assert local_level(Y, np.array(0.8), np.array(0.3)) == pytest.approx(kalman(Y, False, 0.8, 0.3, 0.0), abs=1e-10)
    x = zoo.dataset("kilpisjarvi").x
    model = zoo.build("state_space", x)
    done = experiments.fit(model, "full_rank", x, progress=False)
    assert done.converged
    assert by_grid() - 1.0 < done.elbo < by_grid() + 0.05
    bound = experiments.evidence(model, x, done.guide, precision=0.1)
    assert done.elbo + 0.2 < bound.middle < by_grid() + 5 * bound.se


@pytest.mark.long
def test_the_bracket_holds_the_evidence() -> None:
    x = zoo.dataset("kilpisjarvi").x
    model = zoo.build("state_space", x)
    done = experiments.fit(model, "full_rank", x, progress=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Markov chains for state_space disagree")
        found = experiments.evidence(model, x, done.guide)
    assert found.lower < by_grid() < found.upper


# -- data ----------------------------------------------------------------------------------------------------------------


def test_kilpisjarvi_is_62_summers() -> None:
    data = zoo.dataset("kilpisjarvi")
    assert (data.columns, data.rows[0], data.rows[-1]) == (("temperature",), "1952", "2013")
    assert float(data.x["y"].mean()) == pytest.approx(9.3129, abs=1e-4)  # the centre that posteriordb gives its prior
    table = zoo.dataset("kilpisjarvi", "regression").x
    assert torch.equal(table["y"], data.x["y"])
    assert table["X"].shape == (62, 1)


@pytest.mark.parametrize("text", ["v\n1\n4\n9\n", "year,v\n2001,1\n2002,4\n2003,9\n", "day,v\nMon,1\nTue,4\nWed,9\n"])
def test_files_of_series(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    data = zoo.dataset(str(tmp_path / "f.csv"), "series")
    assert (data.x["y"].tolist(), data.columns) == ([1, 4, 9], ("v",))
    assert torch.equal(zoo.dataset(str(tmp_path / "f.csv"), "series", target="v").x["y"], data.x["y"])


@pytest.mark.parametrize(("text", "expected"), [
    ("year,v\n2001,1\n2003,4\n2004,9\n2005,9\n", "spaced times that go up in column 'year' of f.csv; got 2001 and then 2003"),
    ("year,v\n2003,1\n2002,4\n2001,9\n", "evenly spaced times that go up .* got 2003 and then 2002 in row 1"),
    ("a,b,v\n1,1,1\n2,2,4\n", "expected at most one column, of times, beside the series 'v' in f.csv; got a, b; drop"),
    ("v\n1\nx\n", "expected numbers in column 'v' of f.csv; got 'x' in row 1"),
])
def test_bad_files_of_series(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.dataset(str(tmp_path / "f.csv"), "series")


@pytest.mark.parametrize(("y", "expected"), [
    (torch.zeros(3, 1), r"expected y of shape \(times,\) for state_space; got \(3, 1\)"),
    (torch.tensor([1.0, 2.0]), "expected at least 3 times for state_space; got 2"),
    (torch.ones(4), "expected a series that varies for state_space; got 1 throughout"),
])
def test_bad_series(y: Tensor, expected: str) -> None:
    with pytest.raises(zoo.ZooError, match=expected):
        zoo.build("state_space", {"y": y})
