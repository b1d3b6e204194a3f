"""Stock Pyro's side of fitting normal guides: the same programs, its own autoguides, and ``SVI.step``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_value
from pyro.optim import Adam, ClippedAdam  # type: ignore[attr-defined]
from torch import Tensor

from benchmarks.contenders import Arrays

Normal = tuple[np.ndarray, np.ndarray]


def eight_schools(data: Mapping[str, Tensor]) -> None:
    """Rubin's eight schools, not centred."""
    zero = data["y"].new_zeros(())
    mu = pyro.sample("mu", dist.Normal(zero, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
    with pyro.plate("school", len(data["y"])):
        eta = pyro.sample("eta", dist.Normal(zero, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, data["sigma"]), obs=data["y"])


def logistic_regression(data: Mapping[str, Tensor]) -> None:
    """Weights N(0, 1), the intercept first."""
    zero = data["X"].new_zeros(())
    weights = pyro.sample("weights", dist.Normal(zero, 1.0).expand([data["X"].shape[1] + 1]).to_event(1))
    with pyro.plate("rows", len(data["y"])):
        pyro.sample("y", dist.Bernoulli(logits=weights[0] + data["X"] @ weights[1:]), obs=data["y"])


def bayesian_gmm(data: Mapping[str, Tensor], components: int = 2) -> None:
    """A mixture of two normals of full covariance, with priors."""
    x = data["x"]
    centre, spread = x.mean(0), x.std(0)
    weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(components)))
    with pyro.plate("component", components):
        means = pyro.sample("means", dist.Normal(centre, spread).to_event(1))
        scales = pyro.sample("scales", dist.LogNormal((spread / components**0.5).log(), x.new_tensor(0.5)).to_event(1))
        factors = scales[..., None] * pyro.sample("corr_cholesky", dist.LKJCholesky(x.shape[1], x.new_ones(())))
    with pyro.plate("rows", len(x)):
        normals = dist.MultivariateNormal(means, scale_tril=factors)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), normals), obs=x)


PROGRAMS: Mapping[str, Callable[..., None]] = {
    "eight_schools": eight_schools, "logistic_regression": logistic_regression, "bayesian_gmm": bayesian_gmm}
GUIDES: Mapping[str, Any] = {"mean_field": AutoNormal, "full_rank": AutoMultivariateNormal}


def run(arrays: Arrays, model: str, family: str, choice: tuple[float, int, int], steps: int, threads: int) -> Normal:
    """Take ``steps`` steps; return the guide."""
    return next(trace(arrays, model, family, choice, [steps], threads))[2]


def trace(
    arrays: Arrays, model: str, family: str, choice: tuple[float, int, int], stops: Sequence[int], threads: int,
) -> Iterator[tuple[float, int, Normal]]:
    """Yield seconds, step and guide at each of ``stops``, steps in rising order; reading is not counted.

    ``choice`` is the rate, its horizon and the draws of a step: the rate falls to a hundredth over the horizon; 0: constant.
    """
    rate, horizon, particles = choice
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # operations this short are several times slower when they are shared out
    pyro.clear_param_store()
    torch.manual_seed(0)
    given = _named(arrays, "start.")
    try:
        with pyro.validation_enabled(False):
            guide = GUIDES[family](PROGRAMS[model], init_loc_fn=init_to_value(values=given))
            lr = {"lr": rate}
            optimiser = ClippedAdam({**lr, "lrd": 0.01 ** (1 / horizon), "clip_norm": 1e9}) if horizon else Adam(lr)
            svi = SVI(PROGRAMS[model], guide, optimiser, Trace_ELBO(num_particles=particles))
            data, taken, seconds = _named(arrays, "data."), 0, 0.0
            for stop in stops:
                begun = time.perf_counter()
                for _ in range(stop - taken):
                    svi.step(data)
                seconds += time.perf_counter() - begun
                taken = stop
                yield seconds, taken, _read(guide, list(given))
    finally:
        torch.set_num_threads(before)


def _read(guide: Any, sites: Sequence[str]) -> Normal:
    """Return mean and factor of an autoguide, the sites in the program's order."""
    with torch.no_grad():
        if isinstance(guide, AutoNormal):
            loc, scale = (torch.cat([getattr(part, site).flatten() for site in sites]) for part in (guide.locs, guide.scales))
            return loc.numpy().copy(), torch.diag(scale).numpy()
        return guide.loc.numpy().copy(), (guide.scale[:, None] * guide.scale_tril).numpy()


def _named(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): torch.tensor(value) for name, value in arrays.items() if name.startswith(prefix)}
